//! API keys and refresh tokens: random texts that are shown only once and stored only as a hash.
//!
//! A text has a prefix for its kind, 256 random bits as 43 digits of base 62, and a checksum of 6
//! more digits. Anyone who finds one in a log or a repository can see what it is without asking
//! this service.

use std::fmt;

use aws_lc_rs::{digest, hmac};
use num_bigint::BigUint;
use secrecy::{ExposeSecret, SecretString};

/// Number of random bytes in a text.
const BYTES: usize = 32;
/// Number of base 62 digits for the random bytes.
const DIGITS: usize = 43;
/// Number of base 62 digits for the checksum, a CRC-32 of everything before it.
const CHECK_DIGITS: usize = 6;

/// Number of hexadecimal digits of a hash.
const HASH_DIGITS: usize = 128;

/// The kind of a secret text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpaqueKind {
    /// An API key: exchanged for access tokens.
    ApiKey,
    /// A refresh token: exchanged for the next access token.
    RefreshToken,
}

impl OpaqueKind {
    /// The prefix of texts of this kind.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "csk_",
            Self::RefreshToken => "csr_",
        }
    }
}

/// The system has no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoRandomness;

/// A secret text issued by this service. `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct OpaqueToken(SecretString);

impl OpaqueToken {
    /// Generates a new text.
    pub fn generate(kind: OpaqueKind) -> Result<Self, NoRandomness> {
        let mut bytes = [0; BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self::encode(kind, &bytes))
    }

    /// The refresh token that follows `previous`. It can only be computed from both the previous
    /// token and `seed`. So two clients that send the same token at the same time get the same
    /// successor, although only its hash is stored.
    pub fn successor(previous: &str, seed: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, previous.as_bytes());
        let tag = hmac::sign(&key, seed);
        Self::encode(OpaqueKind::RefreshToken, tag.as_ref())
    }

    fn encode(kind: OpaqueKind, bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(kind.prefix().len() + DIGITS + CHECK_DIGITS);
        text.push_str(kind.prefix());
        push_base62(&mut text, &BigUint::from_bytes_be(bytes), DIGITS);
        let checksum = crc32fast::hash(text.as_bytes());
        push_base62(&mut text, &BigUint::from(checksum), CHECK_DIGITS);
        Self(text.into())
    }

    /// The secret text, to be sent to its owner.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The hash that is stored.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.expose())
    }
}

/// Whether `text` has the format and checksum of this kind. It may still never have been issued.
pub fn is_well_formed(kind: OpaqueKind, text: &str) -> bool {
    let Some((body, check)) =
        text.len().checked_sub(CHECK_DIGITS).and_then(|at| text.split_at_checked(at))
    else {
        return false;
    };
    let Some(digits) = body.strip_prefix(kind.prefix()) else { return false };
    let mut expected = String::with_capacity(CHECK_DIGITS);
    push_base62(&mut expected, &BigUint::from(crc32fast::hash(body.as_bytes())), CHECK_DIGITS);
    digits.len() == DIGITS
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && check == expected
}

/// SHA-512 of a secret text: 128 lowercase hexadecimal digits, as jwthenticator stores keys. A
/// secret of 256 random bits needs no salt and no slow hash.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SecretHash(Box<str>);

impl SecretHash {
    /// The hash of `text`.
    pub fn of(text: &str) -> Self {
        let digest = digest::digest(&digest::SHA512, text.as_bytes());
        Self(hex(digest.as_ref()).into())
    }

    /// Parses a stored hash; `None` unless it is 128 lowercase hexadecimal digits.
    pub fn written(digits: &str) -> Option<Self> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (digits.len() == HASH_DIGITS && digits.bytes().all(is_digit)).then(|| Self(digits.into()))
    }

    /// The hash in hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// `bytes` in lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

fn push_base62(text: &mut String, number: &BigUint, width: usize) {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digits = number.to_radix_be(62);
    text.extend(std::iter::repeat_n('0', width.saturating_sub(digits.len())));
    text.extend(digits.iter().map(|digit| char::from(ALPHABET[usize::from(*digit)])));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_has_the_same_form(bytes: [u8; BYTES], at in 0_usize..53) {
            for kind in [OpaqueKind::ApiKey, OpaqueKind::RefreshToken] {
                let token = OpaqueToken::encode(kind, &bytes);
                let text = token.expose();
                prop_assert_eq!(text.len(), 4 + DIGITS + CHECK_DIGITS);
                prop_assert!(is_well_formed(kind, text));
                let mut typo = text.to_owned().into_bytes();
                typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
                prop_assert!(!is_well_formed(kind, std::str::from_utf8(&typo).unwrap()));
            }
        }

        #[test]
        fn anything_else_is_not_well_formed(text in ".{0,60}") {
            prop_assert!(!is_well_formed(OpaqueKind::ApiKey, &text));
        }
    }

    #[test]
    fn the_largest_number_fits() {
        let token = OpaqueToken::encode(OpaqueKind::ApiKey, &[0xff; BYTES]);
        assert_eq!(token.expose().len(), 4 + DIGITS + CHECK_DIGITS);
    }

    #[test]
    fn a_successor_follows_from_both_its_parts() {
        let first = OpaqueToken::generate(OpaqueKind::RefreshToken).unwrap();
        let successor =
            |seed: &[u8]| OpaqueToken::successor(first.expose(), seed).expose().to_owned();
        assert_eq!(successor(b"seed"), successor(b"seed"));
        assert_ne!(successor(b"seed"), successor(b"need"));
        assert_ne!(successor(b"seed"), OpaqueToken::successor("another", b"seed").expose());
        assert!(is_well_formed(OpaqueKind::RefreshToken, &successor(b"seed")));
    }

    #[test]
    fn hashes_are_sha512_in_hex() {
        let expected = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert_eq!(SecretHash::of("abc").as_str(), expected);
        assert_eq!(SecretHash::written(expected), Some(SecretHash::of("abc")));
        for other in [&expected[1..], &expected.to_uppercase(), &expected.replace('d', "g")] {
            assert_eq!(SecretHash::written(other), None);
        }
        assert!(
            !format!("{:?}", OpaqueToken::generate(OpaqueKind::ApiKey).unwrap()).contains("csk_")
        );
    }
}
