//! Ed25519 (RFC 8032), verified by the implementation that is faster on this processor.
//!
//! Both must decide alike, or replicas on different machines would disagree. Both use the
//! cofactorless equation, require `s` to be in range, compare the encoding of `R` byte by byte, and
//! accept a key only in its canonical encoding (section 5.1.3). Keys of small order are accepted,
//! as they always were.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

use aws_lc_rs::signature::ParsedPublicKey;

use crate::domain::algorithm::Algorithm;

/// An Ed25519 key for the chosen implementation. A key that cannot be decoded verifies nothing.
pub(super) enum Key {
    AwsLc(Option<Box<ParsedPublicKey>>),
    #[cfg(target_arch = "x86_64")]
    Dalek {
        encoded: [u8; 32],
        /// Decoded when first used: decoding takes microseconds, and many registered keys are never
        /// used.
        decoded: OnceLock<Option<Box<ed25519_dalek::VerifyingKey>>>,
    },
}

impl Key {
    pub(super) fn new(encoded: &[u8; 32]) -> Self {
        Self::with(Implementation::of_this_processor(), encoded)
    }

    fn with(implementation: Implementation, encoded: &[u8; 32]) -> Self {
        match implementation {
            Implementation::AwsLc => Self::AwsLc(
                ParsedPublicKey::new(Algorithm::EdDsa.verification(), encoded).ok().map(Box::new),
            ),
            #[cfg(target_arch = "x86_64")]
            Implementation::Dalek => Self::Dalek { encoded: *encoded, decoded: OnceLock::new() },
        }
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::AwsLc(parsed) => {
                parsed.as_ref().is_some_and(|key| key.verify_sig(message, signature).is_ok())
            }
            #[cfg(target_arch = "x86_64")]
            Self::Dalek { encoded, decoded } => {
                use ed25519_dalek::{Signature, Verifier};

                let Ok(signature) = Signature::from_slice(signature) else { return false };
                decoded
                    .get_or_init(|| decode(encoded))
                    .as_ref()
                    .is_some_and(|key| key.verify(message, &signature).is_ok())
            }
        }
    }
}

/// The point of a key in its canonical encoding. The library also accepts a `y` that is not
/// reduced, and a sign if `x` is 0.
#[cfg(target_arch = "x86_64")]
fn decode(encoded: &[u8; 32]) -> Option<Box<ed25519_dalek::VerifyingKey>> {
    use ed25519_dalek::VerifyingKey;

    let key = VerifyingKey::from_bytes(encoded).ok()?;
    let canonical = VerifyingKey::from(key.to_edwards());
    (canonical.as_bytes() == encoded).then(|| Box::new(key))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Implementation {
    AwsLc,
    /// ed25519-dalek, only in builds for x86-64.
    #[cfg(target_arch = "x86_64")]
    Dalek,
}

impl Implementation {
    /// With the AVX-512 IFMA multiplications, curve25519-dalek needs two thirds of the time of
    /// aws-lc; with AVX2 or less it needs more.
    #[cfg(target_arch = "x86_64")]
    fn of_this_processor() -> Self {
        let is_faster = HAS_AVX512_CODE
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vl");
        if is_faster { Self::Dalek } else { Self::AwsLc }
    }

    #[cfg(not(target_arch = "x86_64"))]
    const fn of_this_processor() -> Self {
        Self::AwsLc
    }
}

/// Whether curve25519-dalek was compiled with its AVX-512 code. `.cargo/config.toml` sets this, for
/// its build script and for us.
#[cfg(target_arch = "x86_64")]
const HAS_AVX512_CODE: bool = match option_env!("CARGO_CFG_CURVE25519_DALEK_BACKEND") {
    Some(code) => matches!(code.as_bytes(), b"avx512"),
    None => false,
};

#[cfg(test)]
mod tests;
