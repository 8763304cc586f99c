//! Tokens: compact JWS (RFC 7515) with JWT claims (RFC 7519), before and after their signature is known to be good.

mod access;
mod claims;

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

pub use access::{ACCESS_TOKEN_LEEWAY, ACCESS_TOKEN_TYPE, AccessClaims, UntrustedAccessToken, VerifiedAccessToken};
pub use claims::{Audience, Claims, ClaimsFault};

use super::{
    algorithm::Algorithm,
    key::{Fingerprint, VerifyingKey},
    time::UnixMillis,
};

/// Longest token read, in bytes. Longer ones are refused before anything is decoded.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A token as it was presented: well-formed, and otherwise not to be believed.
#[derive(Debug)]
pub struct UntrustedToken<'a> {
    signing_input: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: Option<TokenKeyId>,
    unverified_claims: Claims,
}

/// Which key a token says it was signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKeyId {
    /// In the form of one of our fingerprints.
    Fingerprint(Fingerprint),
    /// Some other name, as key sets elsewhere give them.
    Name(Box<str>),
}

/// A token whose signature was verified with a key of the principal that it names. Only [`UntrustedToken::verify`] makes one.
#[derive(Debug)]
pub struct VerifiedToken<'t> {
    claims: &'t Claims,
    fingerprint: Fingerprint,
    verified_at: UnixMillis,
}

impl<'t> VerifiedToken<'t> {
    /// What the holder of the key states.
    pub const fn claims(&self) -> &'t Claims {
        self.claims
    }

    /// The key that verified it.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When it was verified.
    pub const fn verified_at(&self) -> UnixMillis {
        self.verified_at
    }
}

/// Why a text is not a token that could be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("longer than {MAX_TOKEN_BYTES} bytes")]
    TooLarge,
    /// Not three parts of unpadded base64url, or a header that is not a JSON object with `alg`.
    #[error("not a compact JWS: {0}")]
    NotAJws(&'static str),
    /// An `alg` that is not accepted, such as `none` or `HS256`.
    #[error("unsupported algorithm")]
    UnsupportedAlgorithm,
    /// The claims are missing, mistyped or contradict one another.
    #[error(transparent)]
    Claims(#[from] ClaimsFault),
}

/// The parts of a compact JWS, not decoded yet.
struct Parts<'a> {
    signing_input: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, TokenFault> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::TooLarge);
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(TokenFault::NotAJws("it has no dot"))?;
        let (header, payload) = signing_input.split_once('.').ok_or(TokenFault::NotAJws("it has one dot instead of two"))?;
        if payload.contains('.') {
            return Err(TokenFault::NotAJws("it has more than two dots"));
        }
        Ok(Self { signing_input, header, payload, signature })
    }

    fn signature(&self) -> Result<Vec<u8>, TokenFault> {
        let signature = decode(self.signature, "its signature is not base64url")?;
        if signature.is_empty() { Err(TokenFault::NotAJws("it has no signature")) } else { Ok(signature) }
    }
}

fn decode(part: &str, fault: &'static str) -> Result<Vec<u8>, TokenFault> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::NotAJws(fault))
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11). We understand none.
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

impl<'a> Header<'a> {
    fn read(json: &'a [u8]) -> Result<Self, TokenFault> {
        let header: Self = serde_json::from_slice(json).map_err(|_| TokenFault::NotAJws("its header is not a JWS header"))?;
        if header.crit.is_some() {
            return Err(TokenFault::NotAJws("it names critical extensions, and none is known here"));
        }
        Ok(header)
    }
}

impl<'a> UntrustedToken<'a> {
    /// Reads a token and decides nothing but whether it is one: size, form, algorithm, shape of its claims.
    pub fn parse(text: &'a str) -> Result<Self, TokenFault> {
        let parts = Parts::of(text)?;
        let header = decode(parts.header, "its header is not base64url")?;
        let header = Header::read(&header)?;
        let algorithm = header.alg.parse().map_err(|_| TokenFault::UnsupportedAlgorithm)?;
        let signature = parts.signature()?;
        let payload = decode(parts.payload, "its payload is not base64url")?;
        Ok(Self {
            signing_input: parts.signing_input,
            signature,
            algorithm,
            key_id: header.kid.map(TokenKeyId::from),
            unverified_claims: Claims::parse(&payload)?,
        })
    }

    /// Verifies the signature with `key`. The only way to a [`VerifiedToken`].
    pub fn verify(&self, key: &VerifyingKey, now: UnixMillis) -> Option<VerifiedToken<'_>> {
        key.verify(self.algorithm, self.signing_input.as_bytes(), &self.signature).then(|| VerifiedToken {
            claims: &self.unverified_claims,
            fingerprint: key.fingerprint(),
            verified_at: now,
        })
    }

    /// Whether `key` could have signed this, by its kind and the length of the signature. Costs nothing.
    pub fn fits(&self, key: &VerifyingKey) -> bool {
        key.fits(self.algorithm, &self.signature)
    }

    /// The algorithm it names, one of those accepted.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Length of its signature, in bytes.
    pub fn signature_length(&self) -> usize {
        self.signature.len()
    }

    /// The key it says it was signed with.
    pub const fn key_id(&self) -> Option<&TokenKeyId> {
        self.key_id.as_ref()
    }

    /// What it states, proven by nothing yet.
    pub const fn unverified_claims(&self) -> &Claims {
        &self.unverified_claims
    }
}

impl TokenKeyId {
    /// The `kid` as the token gives it.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Fingerprint(fingerprint) => Cow::Owned(fingerprint.to_string()),
            Self::Name(name) => Cow::Borrowed(name),
        }
    }
}

impl From<Cow<'_, str>> for TokenKeyId {
    fn from(kid: Cow<'_, str>) -> Self {
        kid.parse().map_or_else(|_| Self::Name(kid.into()), Self::Fingerprint)
    }
}

#[cfg(test)]
mod tests;
