//! The keys that sign and verify this service's own access tokens.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytestring::ByteString;

use super::{
    algorithm::{Algorithm, Ed25519Name, KeyFamily},
    key::{Jwk, PrivateKey, PublicKey, VerifyingKey},
    principal::CANDIDATE_KEYS_MAX,
};

/// The algorithms that our asymmetric keys may sign with. They verify no other.
pub const ISSUER_ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];

/// Minimum length of an HS256 secret, in bytes: the length of the digest (RFC 7518 section 3.2).
pub const HS256_SECRET_BYTES_MIN: usize = 32;

const HS256: &str = "HS256";

/// The keys that sign and verify our access tokens at one point in time.
///
/// The keys decide the algorithm, never the token: there is either a secret, which only allows
/// HS256, or there are key pairs, which do not allow HS256.
pub struct IssuerKeys {
    kind: Kind,
    jwks: Box<str>,
}

enum Kind {
    Asymmetric { signing: Arc<SigningKey>, published: Vec<Arc<SigningKey>> },
    Symmetric { secret: Box<hmac::Key>, header: String },
}

/// The HS256 secret is too short: it could be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret is too short for HS256, which needs at least {HS256_SECRET_BYTES_MIN} bytes (RFC 7518 section 3.2); \
     `openssl rand -hex 32` makes one"
)]
pub struct ShortSecret;

/// The cryptographic library failed to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the access token could not be signed")]
pub struct NotSigned;

/// Why a token was not signed by this service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// None of our keys signs with this `alg`, or the key that the token names signs with another.
    #[error("unsupported algorithm")]
    UnsupportedAlgorithm,
    /// No key of ours has that `kid`, or there is no `kid` and no key fits the signature.
    #[error("unknown key")]
    UnknownKey,
    /// No key of ours made this signature over this message.
    #[error("bad signature")]
    BadSignature,
}

impl IssuerKeys {
    /// `signing` signs. `published` contains it, too, and keys that do not sign yet or no longer.
    /// All of them verify and are in the key set, in this order.
    pub fn asymmetric(signing: Arc<SigningKey>, mut published: Vec<Arc<SigningKey>>) -> Self {
        if published.iter().all(|key| key.kid != signing.kid) {
            published.insert(0, Arc::clone(&signing));
        }
        let jwks = key_set(published.iter().map(|key| key.to_jwk()));
        Self { kind: Kind::Asymmetric { signing, published }, jwks }
    }

    /// HS256 with `secret`. The key set is empty, since anyone who can verify can also sign.
    pub fn symmetric(secret: &[u8]) -> Result<Self, ShortSecret> {
        if secret.len() < HS256_SECRET_BYTES_MIN {
            return Err(ShortSecret);
        }
        let secret = Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret));
        Ok(Self {
            kind: Kind::Symmetric { secret, header: header(HS256, None) },
            jwks: key_set([]),
        })
    }

    /// A compact JWS (RFC 7515) over `claims`, the bytes of a JSON object. Its header has `alg`,
    /// `typ` ("JWT") and, for an asymmetric key, `kid`.
    pub fn sign(&self, claims: &[u8]) -> Result<String, NotSigned> {
        let header = match &self.kind {
            Kind::Asymmetric { signing, .. } => &signing.header,
            Kind::Symmetric { header, .. } => header,
        };
        let mut token = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = match &self.kind {
            Kind::Asymmetric { signing, .. } => {
                signing.private.sign(signing.algorithm, token.as_bytes()).ok_or(NotSigned)?
            }
            Kind::Symmetric { secret, .. } => {
                hmac::sign(secret, token.as_bytes()).as_ref().to_vec()
            }
        };
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Verifies `signature` over `message`, a JWS signing input whose header has `alg` and `kid`.
    /// Returns the `kid` of the key that verified it; empty for HS256.
    ///
    /// Our own tokens always have a `kid`. Without one, every key that fits is tried, up to
    /// [`CANDIDATE_KEYS_MAX`].
    pub fn verify(
        &self,
        alg: &str,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<ByteString, KeyFault> {
        let published = match &self.kind {
            Kind::Asymmetric { published, .. } => published,
            Kind::Symmetric { .. } if alg != HS256 => return Err(KeyFault::UnsupportedAlgorithm),
            Kind::Symmetric { secret, .. } => {
                return hmac::verify(secret, message, signature)
                    .map(|()| ByteString::new())
                    .map_err(|_| KeyFault::BadSignature);
            }
        };
        let algorithm: Algorithm = alg.parse().map_err(|_| KeyFault::UnsupportedAlgorithm)?;
        if !ISSUER_ALGORITHMS.contains(&algorithm) {
            return Err(KeyFault::UnsupportedAlgorithm);
        }
        if let Some(kid) = kid {
            let key = published.iter().find(|key| key.kid == kid).ok_or(KeyFault::UnknownKey)?;
            if key.algorithm.family() != algorithm.family() {
                return Err(KeyFault::UnsupportedAlgorithm);
            }
            return if key.verifying.verify(algorithm, message, signature) {
                Ok(key.kid.clone())
            } else {
                Err(KeyFault::BadSignature)
            };
        }
        let mut fault = KeyFault::UnknownKey;
        for key in published
            .iter()
            .filter(|key| key.verifying.fits(algorithm, signature))
            .take(CANDIDATE_KEYS_MAX)
        {
            if key.verifying.verify(algorithm, message, signature) {
                return Ok(key.kid.clone());
            }
            fault = KeyFault::BadSignature;
        }
        Err(fault)
    }

    /// The public keys as a JWK Set (RFC 7517 section 5), rendered once.
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// The `alg` of tokens that are signed now.
    pub fn algorithm(&self) -> &'static str {
        match &self.kind {
            Kind::Asymmetric { signing, .. } => signing.alg,
            Kind::Symmetric { .. } => HS256,
        }
    }

    /// The key that signs now; `None` with a secret.
    pub fn signing_key(&self) -> Option<&SigningKey> {
        match &self.kind {
            Kind::Asymmetric { signing, .. } => Some(signing),
            Kind::Symmetric { .. } => None,
        }
    }

    /// The keys that verify and are in the key set.
    pub fn published(&self) -> &[Arc<SigningKey>] {
        match &self.kind {
            Kind::Asymmetric { published, .. } => published,
            Kind::Symmetric { .. } => &[],
        }
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Asymmetric { signing, published } => f
                .debug_struct("IssuerKeys")
                .field("signing", signing)
                .field("published", published)
                .finish_non_exhaustive(),
            Kind::Symmetric { .. } => f.write_str("IssuerKeys(HS256)"),
        }
    }
}

/// A key pair of this service, and the one algorithm that it signs with.
pub struct SigningKey {
    private: PrivateKey,
    algorithm: Algorithm,
    /// The `alg` in its tokens and in the key set.
    alg: &'static str,
    kid: ByteString,
    /// The encoded header of every token that the key signs.
    header: String,
    /// Accepts all algorithms of [`ISSUER_ALGORITHMS`] that fit the key's kind, not only the one
    /// that it signs with: while the setting changes from RS256 to PS256, replicas verify each
    /// other's tokens.
    verifying: VerifyingKey,
}

impl SigningKey {
    /// A key that signs with `preferred` if that is one of [`ISSUER_ALGORITHMS`] and fits the key's
    /// kind, and otherwise with the default of its kind: RS256, ES256, ES384 or `EdDSA`.
    pub fn new(key: PrivateKey, preferred: Option<Algorithm>) -> Self {
        let family = key.public_key().family();
        let usual = match family {
            KeyFamily::Rsa => Algorithm::Rs256,
            KeyFamily::Ed25519 => Algorithm::EdDsa,
            KeyFamily::P256 => Algorithm::Es256,
            KeyFamily::P384 => Algorithm::Es384,
        };
        let fits = |algorithm: &Algorithm| {
            algorithm.family() == family && ISSUER_ALGORITHMS.contains(algorithm)
        };
        let algorithm = preferred.filter(fits).unwrap_or(usual);
        let kid = key.public_key().fingerprint().to_string();
        let verifying = VerifyingKey::new(key.public_key());
        let alg = algorithm.name();
        Self {
            header: header(alg, Some(&kid)),
            kid: kid.into(),
            private: key,
            algorithm,
            alg,
            verifying,
        }
    }

    /// Uses `name` for Ed25519 in the key's tokens and in the key set.
    #[must_use]
    pub fn naming_ed25519(self, name: Ed25519Name) -> Self {
        let alg = name.of(self.algorithm);
        Self { header: header(alg, Some(&self.kid)), alg, ..self }
    }

    /// The `kid` of its tokens: the fingerprint of the public key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm that the key signs with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half of the key pair.
    pub const fn public_key(&self) -> &PublicKey {
        self.private.public_key()
    }

    fn to_jwk(&self) -> Jwk {
        Jwk { alg: Some(self.alg.to_owned()), ..self.public_key().to_jwk() }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.alg, self.kid)
    }
}

/// An encoded JOSE header (RFC 7515 section 4).
fn header(alg: &str, kid: Option<&str>) -> String {
    // Neither names of algorithms nor hexadecimal digits need escaping.
    let kid = kid.map(|kid| format!(r#","kid":"{kid}""#)).unwrap_or_default();
    BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"{kid}}}"#))
}

fn key_set(keys: impl IntoIterator<Item = Jwk>) -> Box<str> {
    let keys: Vec<Jwk> = keys.into_iter().collect();
    serde_json::json!({ "keys": keys }).to_string().into()
}

#[cfg(test)]
mod tests;
