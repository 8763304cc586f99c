//! Decoy keys, for tokens that no real key fits. Nobody has their private keys.
//!
//! Verifying with a decoy takes as long as verifying with a real key, so the response time does not
//! reveal whether the user exists, is enabled, or has such a key.

use std::sync::OnceLock;

use crate::domain::{
    algorithm::KeyFamily,
    key::{KeyError, PrivateKey, RSA_BITS_MAX, RSA_BITS_MIN, VerifyingKey},
    time::UnixMillis,
    token::UntrustedToken,
};

const RSA_BYTES_MIN: usize = RSA_BITS_MIN / 8;
const RSA_BYTES_MAX: usize = RSA_BITS_MAX / 8;

/// One decoy of each kind, and for RSA one of each length.
pub(super) struct Decoys {
    ed25519: VerifyingKey,
    p256: VerifyingKey,
    p384: VerifyingKey,
    /// Index 0 is for signatures of [`RSA_BYTES_MIN`] bytes, the next for one byte more. Made when
    /// first needed, except for the usual lengths.
    rsa: Box<[OnceLock<Option<VerifyingKey>>]>,
}

impl Decoys {
    pub(super) fn generate() -> Result<Self, KeyError> {
        let one = |family| {
            PrivateKey::generate(family, RSA_BITS_MIN)
                .map(|key| VerifyingKey::new(key.public_key()))
        };
        let decoys = Self {
            ed25519: one(KeyFamily::Ed25519)?,
            p256: one(KeyFamily::P256)?,
            p384: one(KeyFamily::P384)?,
            rsa: (RSA_BYTES_MIN..=RSA_BYTES_MAX).map(|_| OnceLock::new()).collect(),
        };
        for bits in [2048, 3072, 4096, 8192] {
            decoys.rsa(bits / 8);
        }
        Ok(decoys)
    }

    /// Spends as much time on `token` as verifying it with a real key would.
    pub(super) fn spend(&self, token: &UntrustedToken<'_>, now: UnixMillis) {
        let decoy = match token.algorithm().family() {
            KeyFamily::Rsa => self.rsa(token.signature_length()),
            KeyFamily::Ed25519 => Some(&self.ed25519),
            KeyFamily::P256 => Some(&self.p256),
            KeyFamily::P384 => Some(&self.p384),
        };
        if let Some(decoy) = decoy {
            // Nobody has the private key, so this is never `Some`; even if it were, it is ignored.
            std::hint::black_box(token.verify(decoy, now));
        }
    }

    /// No real key makes signatures of a length outside the bounds, so there all users alike cost
    /// nothing.
    fn rsa(&self, signature_length: usize) -> Option<&VerifyingKey> {
        let slot = self.rsa.get(signature_length.checked_sub(RSA_BYTES_MIN)?)?;
        slot.get_or_init(|| {
            let mut modulus = vec![0; signature_length];
            aws_lc_rs::rand::fill(&mut modulus).ok()?;
            VerifyingKey::rsa_decoy(&modulus).ok()
        })
        .as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::algorithm::Algorithm;

    #[test]
    fn there_is_a_decoy_for_every_length_a_real_key_can_have() {
        let decoys = Decoys::generate().unwrap();
        for length in [RSA_BYTES_MIN, 257, 384, 512, 1000, RSA_BYTES_MAX] {
            let decoy = decoys.rsa(length).unwrap_or_else(|| panic!("no decoy for {length} bytes"));
            assert!(
                decoy.fits(Algorithm::Rs256, &vec![0xff; length]),
                "any signature of {length} bytes costs the computation"
            );
        }
        assert!(decoys.rsa(RSA_BYTES_MIN - 1).is_none() && decoys.rsa(RSA_BYTES_MAX + 1).is_none());
    }
}
