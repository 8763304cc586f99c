//! Keys: public and private, in every format that we read and write.
//!
//! [`PublicKey`] is what a key *is* (its canonical DER, its fingerprint); [`VerifyingKey`] is the
//! same key prepared to verify many signatures; [`PrivateKey`] signs, and exists on the client's
//! side only.

mod ed25519;
mod encoding;
mod encrypted;
mod openssh;
mod private;
mod pss;
mod public;
mod roca;
mod verifying;

use std::{error::Error, fmt, str::FromStr};

pub use private::PrivateKey;
pub use public::{Jwk, ParsedPublic, PublicKey};
#[cfg(test)]
pub(crate) use roca::tests::broken_modulus;
pub use verifying::VerifyingKey;

use super::algorithm::KeyFamily;

/// Minimum size of an RSA modulus, in bits.
pub const RSA_BITS_MIN: usize = 2048;
/// Maximum size of an RSA modulus, in bits.
pub const RSA_BITS_MAX: usize = 8192;

/// SHA-256 of a public key's `SubjectPublicKeyInfo` as PEM text (64-column lines, final newline).
/// It is the key's `kid`, identical to what `asymmetric_jwt_auth` computes. Written as 64 lowercase
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of_pem(spki_pem: &str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki_pem.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: expected 64 lowercase hexadecimal digits")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| NotAFingerprint)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex_digit(digit: u8) -> Result<u8, NotAFingerprint> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotAFingerprint),
    }
}

/// Why a key is not accepted. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A private key was given instead of a public one. It is not stored, and should be considered
    /// leaked.
    #[error(
        "this is a private key; only its public half belongs here (make it with `openssl pkey -in FILE -pubout`, or `ssh-keygen -y -f FILE` for an OpenSSH key)"
    )]
    PrivateKeyGiven,
    /// A public key was given instead of a private one.
    #[error("this is a public key; signing needs the private key")]
    PublicKeyGiven,
    /// The format is unknown.
    #[error("not a key in a known format; accepted are {accepted}")]
    UnknownFormat {
        /// The formats that are accepted here.
        accepted: &'static str,
    },
    /// There are several keys, and none is the obvious one.
    #[error("it holds {count} keys; give each in a file of its own")]
    SeveralKeys {
        /// The number of keys.
        count: usize,
    },
    /// The certificate chain does not start with the certificate of the intended key.
    #[error(
        "the first of its {count} certificates is an authority's ({subject}); put the certificate whose key is meant first, or alone"
    )]
    AuthorityFirst {
        /// The number of certificates.
        count: usize,
        /// The subject of the first certificate.
        subject: String,
    },
    /// The line of an `authorized_keys` file has options, which would be lost.
    #[error(
        "there are options before the key ({options}), which would not be heeded; give the line from {kind:?} on"
    )]
    OptionsBeforeKey {
        /// The options.
        options: String,
        /// The kind of the key, the first word after the options.
        kind: String,
    },
    /// The format or encryption is that of another tool and not supported.
    #[error("{found} is not read here; convert it with `{command}`")]
    Convert {
        /// The format or encryption.
        found: String,
        /// A command that converts it to a supported format.
        command: &'static str,
    },
    /// The format is known, but its content is invalid.
    #[error("malformed {format}")]
    Malformed {
        /// The format.
        format: &'static str,
        /// The parser's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// No accepted algorithm uses keys of this kind.
    #[error(
        "unsupported kind of key ({found}); accepted are RSA (2048 to 8192 bit), Ed25519, EC P-256 and EC P-384"
    )]
    UnsupportedKind {
        /// The kind, as the format names it.
        found: String,
    },
    /// The RSA key has fewer than 2048 bits.
    #[error(
        "RSA key of {bits} bit refused: it can be broken; make a new one of at least {RSA_BITS_MIN} bit (`countersign key generate --type rsa`)"
    )]
    RsaTooSmall {
        /// Size of the modulus, in bits.
        bits: usize,
    },
    /// The RSA key has more than 8192 bits.
    #[error(
        "RSA key of {bits} bit refused: each verification would be too slow; use at most {RSA_BITS_MAX} bit"
    )]
    RsaTooLarge {
        /// Size of the modulus, in bits.
        bits: usize,
    },
    /// The RSA key comes from a generator whose keys can be factored.
    #[error(
        "RSA key of a broken generator refused (ROCA, CVE-2017-15361): its private key can be computed from it; make a new one elsewhere"
    )]
    RsaOfBrokenGenerator,
    /// The JWK's `use` or `key_ops` (RFC 7517 sections 4.2 and 4.3) does not allow verifying
    /// signatures.
    #[error(
        "the JWK is not for verifying signatures: its {member:?} is {value}; expected {expected}, or no such member"
    )]
    NotForSignatures {
        /// The name of that member.
        member: &'static str,
        /// Its value.
        value: String,
        /// The expected value.
        expected: &'static str,
    },
    /// The JWK's `alg` (RFC 7517 section 4.4) is not an accepted algorithm for its kind of key.
    #[error(
        "the JWK is for the algorithm {name:?} alone, which is not used with {family} keys here; expected {expected}, or no \"alg\""
    )]
    AlgorithmOfJwk {
        /// The value of `alg`.
        name: String,
        /// The kind of the key.
        family: KeyFamily,
        /// The algorithms of that kind.
        expected: String,
    },
    /// The private key is encrypted, and no passphrase was given.
    #[error("the private key is encrypted; give its passphrase (`--passphrase-env VAR`)")]
    PassphraseMissing,
    /// The passphrase does not decrypt the key.
    #[error("the passphrase does not open the private key")]
    WrongPassphrase,
    /// Decrypting the key would take more work than is accepted.
    #[error(
        "opening the private key would take too much work ({found}, accepted are at most {accepted}); encrypt it again with less (`openssl pkcs8 -topk8`, `ssh-keygen -p -a 64 -f FILE`)"
    )]
    TooCostly {
        /// The work that the key requires.
        found: String,
        /// The maximum that is accepted.
        accepted: String,
    },
    /// The PEM is encrypted in OpenSSL's legacy format from before PKCS#8, which derives its key
    /// with a single round of MD5.
    #[error(
        "the private key is encrypted in the legacy PEM way; convert it with `openssl pkcs8 -topk8 -in FILE -out NEW`"
    )]
    LegacyEncryption,
    /// The numbers are not a valid key.
    #[error("the {family} key is not valid: {reason}")]
    Invalid {
        /// The kind of the key.
        family: KeyFamily,
        /// The cryptographic library's error.
        reason: String,
    },
    /// The system failed to generate a key.
    #[error("the {family} key could not be generated: {reason}")]
    NotGenerated {
        /// The kind of the key.
        family: KeyFamily,
        /// The underlying error.
        reason: String,
    },
}

impl KeyError {
    fn malformed(format: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Malformed { format, source: source.into() }
    }
}

#[cfg(test)]
mod tests;
