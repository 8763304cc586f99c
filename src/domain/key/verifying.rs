//! A public key prepared for the decision path.

use std::{fmt, sync::OnceLock};

use aws_lc_rs::signature::ParsedPublicKey;

use super::{Fingerprint, KeyError, PublicKey, ed25519, encoding::Numbers, pss};
use crate::domain::algorithm::{Algorithm, KeyFamily};

/// A public key that verifies signatures.
pub struct VerifyingKey {
    family: KeyFamily,
    fingerprint: Fingerprint,
    signature_length: u16,
    /// The first eight bytes of an RSA modulus; see [`VerifyingKey::fits`].
    modulus_head: u64,
    /// The only algorithm that the key may be used with, if its owner says so.
    only: Option<Algorithm>,
    prepared: Prepared,
}

/// A key prepared for the cryptographic library. `None` if the library refuses it: then it verifies
/// nothing.
enum Prepared {
    Ed25519(ed25519::Key),
    /// Families with one algorithm: parsed in advance.
    Once(Option<Box<ParsedPublicKey>>),
    /// Families with several algorithms: parsed for each at the first signature that names it,
    /// since most keys are used with one of them.
    ByAlgorithm {
        spki: Box<[u8]>,
        /// Each slot is at its [`Algorithm::rank`].
        slots: Box<[OnceLock<Option<Box<ParsedPublicKey>>>]>,
    },
}

impl Prepared {
    fn new(key: &PublicKey) -> Self {
        if let Some(point) = key.ed25519() {
            return Self::Ed25519(ed25519::Key::new(point));
        }
        match key.family().algorithms() {
            [only] => Self::Once(parse(*only, key.spki())),
            several => Self::ByAlgorithm {
                spki: key.spki().into(),
                slots: several.iter().map(|_| OnceLock::new()).collect(),
            },
        }
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let parsed = match self {
            Self::Ed25519(key) => return key.verify(message, signature),
            Self::Once(parsed) => parsed,
            Self::ByAlgorithm { spki, slots } => match slots.get(algorithm.rank()) {
                Some(slot) => slot.get_or_init(|| parse(algorithm, spki)),
                None => return false,
            },
        };
        parsed.as_ref().is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }
}

fn parse(algorithm: Algorithm, spki: &[u8]) -> Option<Box<ParsedPublicKey>> {
    ParsedPublicKey::new(algorithm.verification(), spki).ok().map(Box::new)
}

impl VerifyingKey {
    /// Prepares `key` for verification.
    pub fn new(key: &PublicKey) -> Self {
        let family = key.family();
        let signature_length = match family {
            KeyFamily::Rsa => key.bits().div_ceil(8),
            KeyFamily::Ed25519 | KeyFamily::P256 => 64,
            KeyFamily::P384 => 96,
        };
        Self {
            family,
            fingerprint: key.fingerprint(),
            signature_length: u16::try_from(signature_length).unwrap_or(u16::MAX),
            modulus_head: key.modulus().map_or(u64::MAX, head),
            only: None,
            prepared: Prepared::new(key),
        }
    }

    /// The same key, limited to `algorithm`, as a JWK's `alg` requires (RFC 7517 section 4.4).
    #[must_use]
    pub fn only_for(self, algorithm: Algorithm) -> Self {
        Self { only: Some(algorithm), ..self }
    }

    /// A decoy RSA key: verifying with it takes as long as with a real key of the same length and
    /// never succeeds. `modulus` is random; it is made odd and as large as its length allows, so
    /// that no signature is larger.
    pub fn rsa_decoy(modulus: &[u8]) -> Result<Self, KeyError> {
        let mut modulus = modulus.to_vec();
        modulus.iter_mut().take(8).for_each(|byte| *byte = 0xff);
        if let Some(last) = modulus.last_mut() {
            *last |= 1;
        }
        PublicKey::from_rsa_numbers(&modulus, &[1, 0, 1]).map(|key| Self::new(&key))
    }

    /// Whether verifying `signature` with this key would take the full computation: the algorithm
    /// is the key's, the length is right, and for RSA the signature is not a number so large that
    /// it is rejected immediately. A signature that fits no key is verified against a decoy
    /// instead, so that it costs the same.
    pub fn fits(&self, algorithm: Algorithm, signature: &[u8]) -> bool {
        self.allows(algorithm)
            && signature.len() == usize::from(self.signature_length)
            && (self.family != KeyFamily::Rsa || head(signature) <= self.modulus_head)
    }

    /// Whether `signature` is a valid signature of this key over `message`. `false` too if the
    /// algorithm does not fit the key.
    ///
    /// Ed25519 signatures are checked as in RFC 8032 section 5.1.7, with the cofactorless equation
    /// and with `s` in range, whichever implementation is used.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.allows(algorithm) && self.prepared.verify(algorithm, message, signature)
    }

    /// The length of the salt of an RSASSA-PSS signature of this key over `message`, in bytes;
    /// `None` if it is not such a signature, or if its salt has the length that `algorithm`
    /// requires.
    pub(in crate::domain) fn pss_salt(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Option<usize> {
        let Prepared::ByAlgorithm { spki, .. } = &self.prepared else { return None };
        if !self.fits(algorithm, signature) || self.verify(algorithm, message, signature) {
            return None;
        }
        match Numbers::from_spki(spki).ok()? {
            Numbers::Rsa { modulus, exponent } => {
                pss::salt_length(&modulus, &exponent, algorithm, message, signature)
            }
            Numbers::Ed25519(_) | Numbers::Ec { .. } => None,
        }
    }

    /// The key decides, never the token.
    fn allows(&self, algorithm: Algorithm) -> bool {
        algorithm.family() == self.family && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether this is the same key as `other`, and may be used with every algorithm that `other`
    /// may.
    pub fn covers(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && (self.only.is_none() || self.only == other.only)
    }

    /// The key's id.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The kind of the key.
    pub const fn family(&self) -> KeyFamily {
        self.family
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({} {})", self.family, self.fingerprint)
    }
}

/// The first eight bytes as a number, for a rough comparison of numbers of equal length.
fn head(big_endian: &[u8]) -> u64 {
    big_endian.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
