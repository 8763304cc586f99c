//! Names of keys in Redis.
//!
//! Nonces are divided into partitions. Each partition is one hash tag and so, in a cluster, one
//! slot. The epoch of a partition is in the same slot, so that a claim can read it in its own round
//! trip.

use std::fmt::Write as _;

use crate::domain::principal::PrincipalId;

/// Number of partitions in a cluster: enough to spread evenly over many masters. Without a cluster
/// there is one.
pub(super) const CLUSTER_PARTITIONS: usize = 64;
/// Longest nonce, in bytes, that is put into the key unchanged. Longer ones, and those with bytes
/// other than visible ASCII, are hashed.
const PLAIN_NONCE_BYTES_MAX: usize = 64;

/// The key of a nonce, and its partition.
pub(super) struct NonceKey {
    pub(super) partition: usize,
    pub(super) text: String,
}

impl NonceKey {
    /// `countersign:{PARTITION}:nonce:PRINCIPAL:`, followed by `n` and the nonce, or by `h` and its
    /// SHA-256 in hexadecimal.
    pub(super) fn new(principal: PrincipalId, nonce: &str, partitions: usize) -> Self {
        let partition = partition(principal, nonce, partitions);
        let mut text = String::with_capacity(56 + PLAIN_NONCE_BYTES_MAX);
        // Writing to a String does not fail.
        let _ = write!(text, "countersign:{{{partition}}}:nonce:{principal}:");
        if nonce.len() <= PLAIN_NONCE_BYTES_MAX && nonce.bytes().all(|byte| byte.is_ascii_graphic())
        {
            text.push('n');
            text.push_str(nonce);
        } else {
            text.push('h');
            for byte in
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, nonce.as_bytes()).as_ref()
            {
                let _ = write!(text, "{byte:02x}");
            }
        }
        Self { partition, text }
    }
}

/// The partition of a nonce; the same on every replica.
fn partition(principal: PrincipalId, nonce: &str, partitions: usize) -> usize {
    if partitions <= 1 {
        return 0;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&principal.0.to_be_bytes());
    hasher.update(nonce.as_bytes());
    usize::try_from(hasher.finalize()).map_or(0, |hash| hash % partitions)
}

/// The key of the epoch of a partition.
pub(super) fn epoch(partition: usize) -> String {
    format!("countersign:{{{partition}}}:epoch")
}

/// The key of a trial claim.
pub(super) fn trial(partition: usize) -> String {
    format!("countersign:{{{partition}}}:trial:{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use redis::cluster_routing::Slot;

    use super::*;

    fn key_of(nonce: &str) -> String {
        NonceKey::new(PrincipalId(7), nonce, 1).text
    }

    #[test]
    fn keys_are_short_printable_and_different() {
        assert_eq!(key_of("abc"), "countersign:{0}:nonce:7:nabc");
        let hashed = key_of("a b");
        let prefix = "countersign:{0}:nonce:7:";
        assert!(hashed.starts_with(&format!("{prefix}h")) && hashed.len() == prefix.len() + 1 + 64);
        let imitation = hashed.trim_start_matches(prefix);
        assert_ne!(key_of(imitation), hashed, "a nonce that looks like a hashed one");
        assert_eq!(key_of(&"x".repeat(8000)).len(), hashed.len());
    }

    /// Only the first pair of braces is a hash tag, so a client cannot choose the slot.
    #[test]
    fn a_nonce_lies_in_the_slot_of_its_epoch_whatever_its_name() {
        let mut slots = BTreeSet::new();
        for nonce in ["abc", "{other}", "}{", "a b", "ü", ""] {
            let key = NonceKey::new(PrincipalId(7), nonce, CLUSTER_PARTITIONS);
            assert_eq!(Slot::for_key(&key.text), Slot::for_key(epoch(key.partition)), "{nonce}");
            assert_eq!(Slot::for_key(&key.text), Slot::for_key(trial(key.partition)), "{nonce}");
        }
        for partition in 0..CLUSTER_PARTITIONS {
            slots.insert(format!("{:?}", Slot::for_key(epoch(partition))));
        }
        assert_eq!(slots.len(), CLUSTER_PARTITIONS, "each has a slot of its own");
    }

    #[test]
    fn nonces_spread_over_all_partitions() {
        let partitions: BTreeSet<usize> = (0..2000)
            .map(|n| {
                NonceKey::new(PrincipalId(7), &format!("nonce-{n}"), CLUSTER_PARTITIONS).partition
            })
            .collect();
        assert_eq!(partitions.len(), CLUSTER_PARTITIONS);
    }
}
