//! The keys with which this service signs its own access tokens, and verifies them.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytestring::ByteString;

use super::{
    algorithm::{Algorithm, Ed25519Name, KeyFamily},
    key::{Jwk, PrivateKey, PublicKey, VerifyingKey},
    principal::CANDIDATE_KEYS_MAX,
};

/// What an asymmetric key of ours may sign with. What is not here no key of ours verifies either.
pub const ISSUER_ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];

/// Shortest secret for HS256, in bytes: as long as the digest (RFC 7518 section 3.2).
pub const HS256_SECRET_BYTES_MIN: usize = 32;

const HS256: &str = "HS256";

/// What our own access tokens are signed and verified with, at one moment.
///
/// The keys decide the algorithm, never the token: there either is a secret, and HS256 alone, or
/// there are key pairs, and HS256 has no representation.
pub struct IssuerKeys {
    kind: Kind,
    jwks: Box<str>,
}

enum Kind {
    Asymmetric { signing: Arc<SigningKey>, published: Vec<Arc<SigningKey>> },
    Symmetric { secret: Box<hmac::Key>, header: String },
}

/// A secret for HS256 that could be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret is too short for HS256, which needs at least {HS256_SECRET_BYTES_MIN} bytes (RFC 7518 section 3.2); \
     `openssl rand -hex 32` makes one"
)]
pub struct ShortSecret;

/// The cryptographic library refused to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the access token could not be signed")]
pub struct NotSigned;

/// Why a token is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// An `alg` that none of our keys signs with, or not the one that it names.
    #[error("unsupported algorithm")]
    UnsupportedAlgorithm,
    /// None of our keys has that `kid`, or there is no `kid` and none fits the signature.
    #[error("unknown key")]
    UnknownKey,
    /// The signature is no key's of ours over this message.
    #[error("bad signature")]
    BadSignature,
}

impl IssuerKeys {
    /// `signing` signs. `published`, which holds it too, with keys that do not sign yet or no
    /// longer, all verify and are in the key set, in this order.
    pub fn asymmetric(signing: Arc<SigningKey>, mut published: Vec<Arc<SigningKey>>) -> Self {
        if published.iter().all(|key| key.kid != signing.kid) {
            published.insert(0, Arc::clone(&signing));
        }
        let jwks = key_set(published.iter().map(|key| key.to_jwk()));
        Self { kind: Kind::Asymmetric { signing, published }, jwks }
    }

    /// HS256 with `secret`. The key set is empty, since whoever can verify can also sign.
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

    /// A compact JWS (RFC 7515) over `claims`, the bytes of a JSON object. Its header says `alg`,
    /// `typ` ("JWT") and, where the key is asymmetric, `kid`.
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

    /// Verifies `signature` over `message`, a JWS signing input whose header says `alg` and `kid`.
    /// Yields the `kid` of the key that verified it, which is empty for HS256.
    ///
    /// Without a `kid`, which our own tokens always have, every key that fits is tried, up to
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

    /// The public halves as a JWK Set (RFC 7517 section 5), rendered once.
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// The `alg` of the tokens that are signed now.
    pub fn algorithm(&self) -> &'static str {
        match &self.kind {
            Kind::Asymmetric { signing, .. } => signing.alg,
            Kind::Symmetric { .. } => HS256,
        }
    }

    /// The key that signs now; `None` where a secret does.
    pub fn signing_key(&self) -> Option<&SigningKey> {
        match &self.kind {
            Kind::Asymmetric { signing, .. } => Some(signing),
            Kind::Symmetric { .. } => None,
        }
    }

    /// The keys that verify, and are in the key set.
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

/// A key pair of ours, with the one algorithm that it signs with.
pub struct SigningKey {
    private: PrivateKey,
    algorithm: Algorithm,
    /// What that is called in its tokens and in the key set.
    alg: &'static str,
    kid: ByteString,
    /// The header of every token that it signs, encoded.
    header: String,
    /// For all that [`ISSUER_ALGORITHMS`] has of its kind, not only what it signs with itself:
    /// while the setting changes from RS256 to PS256, replicas verify each other's tokens.
    verifying: VerifyingKey,
}

impl SigningKey {
    /// `key`, signing with `preferred` where that is one of [`ISSUER_ALGORITHMS`] and of its kind,
    /// and otherwise with what its kind is used with: RS256, ES256, ES384 or `EdDSA`.
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

    /// The same key, whose tokens and whose place in the key set call Ed25519 `name`.
    #[must_use]
    pub fn naming_ed25519(self, name: Ed25519Name) -> Self {
        let alg = name.of(self.algorithm);
        Self { header: header(alg, Some(&self.kid)), alg, ..self }
    }

    /// The `kid` of its tokens: the fingerprint of the public half.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What it signs with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half.
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

/// A JOSE header (RFC 7515 section 4), encoded.
fn header(alg: &str, kid: Option<&str>) -> String {
    // Neither the names of algorithms nor hexadecimal digits have anything to escape.
    let kid = kid.map(|kid| format!(r#","kid":"{kid}""#)).unwrap_or_default();
    BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"{kid}}}"#))
}

fn key_set(keys: impl IntoIterator<Item = Jwk>) -> Box<str> {
    let keys: Vec<Jwk> = keys.into_iter().collect();
    serde_json::json!({ "keys": keys }).to_string().into()
}

#[cfg(test)]
mod tests;
