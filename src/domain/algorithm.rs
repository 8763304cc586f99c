//! Signature algorithms of JWS (RFC 7518, RFC 8037) and the kinds of keys for them.

use std::{fmt, str::FromStr};

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, EdDSAParameters, RsaParameters, RsaSignatureEncoding,
    VerificationAlgorithm,
};

/// A JWS `alg` that a token may name. `none` and the HMAC family have no variant, so they cannot be
/// accepted by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-512; `asymmetric_jwt_auth` clients sign with it.
    Rs512,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-512; the salt is as long as the digest.
    Ps512,
    /// RSASSA-PSS with SHA-384; the salt is as long as the digest.
    Ps384,
    /// RSASSA-PSS with SHA-256; the salt is as long as the digest.
    Ps256,
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA on P-256 with SHA-256; the signature is `r || s`.
    Es256,
    /// ECDSA on P-384 with SHA-384; the signature is `r || s`.
    Es384,
}

impl Algorithm {
    /// All algorithms, in the order in which [`KeyFamily::algorithms`] prefers them.
    pub const ALL: [Self; 9] = [
        Self::Rs512,
        Self::Rs384,
        Self::Rs256,
        Self::Ps512,
        Self::Ps384,
        Self::Ps256,
        Self::EdDsa,
        Self::Es256,
        Self::Es384,
    ];

    /// All accepted values of `alg`: the names of [`Algorithm::ALL`], and the second name of
    /// Ed25519. RFC 9864 renames no other algorithm for JOSE: `ES256` and `ES384` are already fully
    /// specified, and its `ESP256` is for COSE.
    pub const NAMES: [&str; 10] = {
        let [a, b, c, d, e, f, g, h, i] = Self::ALL;
        [
            a.name(),
            b.name(),
            c.name(),
            d.name(),
            e.name(),
            f.name(),
            g.name(),
            Ed25519Name::Ed25519.name(),
            h.name(),
            i.name(),
        ]
    };

    /// The JOSE name, as in a token's `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs512 => "RS512",
            Self::Rs384 => "RS384",
            Self::Rs256 => "RS256",
            Self::Ps512 => "PS512",
            Self::Ps384 => "PS384",
            Self::Ps256 => "PS256",
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }

    /// The only kind of key that may verify this algorithm.
    pub const fn family(self) -> KeyFamily {
        match self {
            Self::Rs512 | Self::Rs384 | Self::Rs256 | Self::Ps512 | Self::Ps384 | Self::Ps256 => {
                KeyFamily::Rsa
            }
            Self::EdDsa => KeyFamily::Ed25519,
            Self::Es256 => KeyFamily::P256,
            Self::Es384 => KeyFamily::P384,
        }
    }

    /// The index of this algorithm among those of its family.
    pub(crate) const fn rank(self) -> usize {
        match self {
            Self::Rs512 | Self::EdDsa | Self::Es256 | Self::Es384 => 0,
            Self::Rs384 => 1,
            Self::Rs256 => 2,
            Self::Ps512 => 3,
            Self::Ps384 => 4,
            Self::Ps256 => 5,
        }
    }

    pub(crate) fn verification(self) -> &'static dyn VerificationAlgorithm {
        const RS512: &RsaParameters = &signature::RSA_PKCS1_2048_8192_SHA512;
        const RS384: &RsaParameters = &signature::RSA_PKCS1_2048_8192_SHA384;
        const RS256: &RsaParameters = &signature::RSA_PKCS1_2048_8192_SHA256;
        const PS512: &RsaParameters = &signature::RSA_PSS_2048_8192_SHA512;
        const PS384: &RsaParameters = &signature::RSA_PSS_2048_8192_SHA384;
        const PS256: &RsaParameters = &signature::RSA_PSS_2048_8192_SHA256;
        const EDDSA: &EdDSAParameters = &signature::ED25519;
        const ES256: &EcdsaVerificationAlgorithm = &signature::ECDSA_P256_SHA256_FIXED;
        const ES384: &EcdsaVerificationAlgorithm = &signature::ECDSA_P384_SHA384_FIXED;
        match self {
            Self::Rs512 => RS512,
            Self::Rs384 => RS384,
            Self::Rs256 => RS256,
            Self::Ps512 => PS512,
            Self::Ps384 => PS384,
            Self::Ps256 => PS256,
            Self::EdDsa => EDDSA,
            Self::Es256 => ES256,
            Self::Es384 => ES384,
        }
    }

    /// How an RSA key signs with this algorithm; `None` for other algorithms, which need no choice.
    pub(crate) fn rsa_encoding(self) -> Option<&'static RsaSignatureEncoding> {
        match self {
            Self::Rs512 => Some(&signature::RSA_PKCS1_SHA512),
            Self::Rs384 => Some(&signature::RSA_PKCS1_SHA384),
            Self::Rs256 => Some(&signature::RSA_PKCS1_SHA256),
            Self::Ps512 => Some(&signature::RSA_PSS_SHA512),
            Self::Ps384 => Some(&signature::RSA_PSS_SHA384),
            Self::Ps256 => Some(&signature::RSA_PSS_SHA256),
            Self::EdDsa | Self::Es256 | Self::Es384 => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of [`Algorithm::ALL`]. Names are compared exactly, as RFC 7515 requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unsupported signature algorithm; accepted are RS512, RS384, RS256, PS512, PS384, PS256, EdDSA (also called Ed25519), ES256 and ES384"
)]
pub struct UnsupportedAlgorithm;

impl FromStr for Algorithm {
    type Err = UnsupportedAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        found
            .or((name == Ed25519Name::Ed25519.name()).then_some(Self::EdDsa))
            .ok_or(UnsupportedAlgorithm)
    }
}

/// The name for Ed25519 in what this service signs. Both names are accepted in what it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ed25519Name {
    /// `EdDSA` (RFC 8037), supported by every library.
    #[default]
    EdDsa,
    /// `Ed25519` (RFC 9864), required by some newer libraries.
    Ed25519,
}

impl Ed25519Name {
    /// The value of `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => Algorithm::EdDsa.name(),
            Self::Ed25519 => "Ed25519",
        }
    }

    /// The value of `alg` for `algorithm`, with this choice for Ed25519.
    pub const fn of(self, algorithm: Algorithm) -> &'static str {
        match algorithm {
            Algorithm::EdDsa => self.name(),
            other => other.name(),
        }
    }
}

impl FromStr for Ed25519Name {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = [Self::EdDsa, Self::Ed25519].into_iter().find(|known| known.name() == name);
        found.ok_or("not a name of that algorithm; expected EdDSA or Ed25519")
    }
}

/// The kind of a key. It alone decides which algorithms may be used with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyFamily {
    /// RSA, 2048 to 8192 bits.
    Rsa,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// NIST P-256, also known as prime256v1 and secp256r1.
    P256,
    /// NIST P-384, also known as secp384r1.
    P384,
}

impl KeyFamily {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Rsa, Self::Ed25519, Self::P256, Self::P384];

    /// The name in tables, listings and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
            Self::P256 => "p256",
            Self::P384 => "p384",
        }
    }

    /// The algorithms that a key of this family may verify, most preferred first. Our own client
    /// signs with the first.
    pub const fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::Rsa => &[
                Algorithm::Rs512,
                Algorithm::Rs384,
                Algorithm::Rs256,
                Algorithm::Ps512,
                Algorithm::Ps384,
                Algorithm::Ps256,
            ],
            Self::Ed25519 => &[Algorithm::EdDsa],
            Self::P256 => &[Algorithm::Es256],
            Self::P384 => &[Algorithm::Es384],
        }
    }
}

impl fmt::Display for KeyFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of [`KeyFamily::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of key; accepted are ed25519, rsa, p256 and p384")]
pub struct UnknownKeyFamily;

impl FromStr for KeyFamily {
    type Err = UnknownKeyFamily;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|family| family.name() == name).ok_or(UnknownKeyFamily)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_is_listed_by_its_family_at_its_rank() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.family().algorithms()[algorithm.rank()], algorithm);
        }
    }

    #[test]
    fn names_are_exact() {
        assert_eq!("RS512".parse(), Ok(Algorithm::Rs512));
        assert_eq!("Ed25519".parse(), Ok(Algorithm::EdDsa));
        for name in Algorithm::NAMES {
            assert!(name.parse::<Algorithm>().is_ok(), "{name}");
        }
        for name in [
            "none", "None", "HS256", "rs512", "RS512 ", "", "ES512", "ed25519", "Ed448", "ESP256",
            "ESP384",
        ] {
            assert_eq!(name.parse::<Algorithm>(), Err(UnsupportedAlgorithm), "{name}");
        }
    }
}
