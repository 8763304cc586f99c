//! Tokens: compact JWS (RFC 7515) with JWT claims (RFC 7519), before and after their signature is
//! verified.

mod access;
mod claims;
mod number;
mod signature;

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

pub use access::{
    ACCESS_TOKEN_LEEWAY, ACCESS_TOKEN_TYPE, AccessClaims, UntrustedAccessToken, VerifiedAccessToken,
};
pub use claims::{Audience, Claims, ClaimsFault};
pub use signature::SignatureFault;

use claims::Text;

use super::{
    algorithm::Algorithm,
    json,
    key::{Fingerprint, VerifyingKey},
    time::UnixMillis,
};

/// Maximum length of a token, in bytes. Longer ones are refused before anything is decoded.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A well-formed token that is not verified yet.
#[derive(Debug)]
pub struct UntrustedToken<'a> {
    signing_input: &'a str,
    decoded: Decoded,
    algorithm: Algorithm,
    key_id: Option<TokenKeyId>,
    unverified_claims: Claims,
}

/// The key that a token claims to be signed with (its `kid`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKeyId {
    /// A `kid` in the format of our fingerprints, whether or not such a key is registered.
    Fingerprint(Fingerprint),
    /// Any other `kid`, as external key sets assign them.
    Name(Box<str>),
}

/// A token whose signature was verified with a key of the principal that it names. Only
/// [`UntrustedToken::verify`] creates one.
#[derive(Debug)]
pub struct VerifiedToken<'t> {
    claims: &'t Claims,
    fingerprint: Fingerprint,
    verified_at: UnixMillis,
}

impl<'t> VerifiedToken<'t> {
    /// The claims, signed by the holder of the key.
    pub const fn claims(&self) -> &'t Claims {
        self.claims
    }

    /// The fingerprint of the key that verified the token.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When the token was verified.
    pub const fn verified_at(&self) -> UnixMillis {
        self.verified_at
    }
}

/// Why a text cannot be parsed as a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("longer than {MAX_TOKEN_BYTES} bytes")]
    TooLarge,
    /// Not three parts of unpadded base64url, or the header is not a JSON object with `alg`.
    #[error("not a compact JWS: {0}")]
    NotAJws(&'static str),
    /// An `alg` that is not accepted, such as `none` or `HS256`.
    #[error(
        "unsupported algorithm; accepted are RS512, RS384, RS256, PS512, PS384, PS256, EdDSA (also called Ed25519), ES256 and ES384"
    )]
    UnsupportedAlgorithm,
    /// The claims are missing, mistyped or contradict one another.
    #[error(transparent)]
    Claims(#[from] ClaimsFault),
}

/// The parts of a compact JWS, not yet decoded.
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
        let mut dots = memchr::memchr_iter(b'.', text.as_bytes());
        let first = dots.next().ok_or(TokenFault::NotAJws("it has no dot"))?;
        let second = dots.next().ok_or(TokenFault::NotAJws("it has one dot instead of two"))?;
        if dots.next().is_some() {
            return Err(TokenFault::NotAJws("it has more than two dots"));
        }
        let (signing_input, signature) = (&text[..second], &text[second + 1..]);
        let (header, payload) = (&text[..first], &text[first + 1..second]);
        Ok(Self { signing_input, header, payload, signature })
    }

    /// Decodes the header. Its content decides whether the other parts are decoded.
    fn decode_header(&self) -> Result<Decoded, TokenFault> {
        let mut bytes = Vec::with_capacity(base64::decoded_len_estimate(
            self.signing_input.len() + self.signature.len(),
        ));
        let header_end = decode(self.header, &mut bytes, &HEADER)?;
        Ok(Decoded { bytes, header_end, payload_end: header_end })
    }

    /// Decodes payload and signature and appends them to `decoded`.
    fn decode_rest(&self, decoded: &mut Decoded) -> Result<(), TokenFault> {
        decoded.payload_end = decode(self.payload, &mut decoded.bytes, &PAYLOAD)?;
        let end = decode(self.signature, &mut decoded.bytes, &SIGNATURE)?;
        if end == decoded.payload_end {
            Err(TokenFault::NotAJws("it has no signature"))
        } else {
            Ok(())
        }
    }
}

/// The error messages for a part that is not valid base64url.
struct EncodingFaults {
    padded: &'static str,
    not_url_safe: &'static str,
    other: &'static str,
}

const HEADER: EncodingFaults = EncodingFaults {
    padded: "its header ends with `=`; base64url has no padding here (RFC 7515 section 2)",
    not_url_safe: "its header has `+` or `/`; base64url has `-` and `_` (RFC 4648 section 5)",
    other: "its header is not base64url",
};
const PAYLOAD: EncodingFaults = EncodingFaults {
    padded: "its payload ends with `=`; base64url has no padding here (RFC 7515 section 2)",
    not_url_safe: "its payload has `+` or `/`; base64url has `-` and `_` (RFC 4648 section 5)",
    other: "its payload is not base64url",
};
const SIGNATURE: EncodingFaults = EncodingFaults {
    padded: "its signature ends with `=`; base64url has no padding here (RFC 7515 section 2)",
    not_url_safe: "its signature has `+` or `/`; base64url has `-` and `_` (RFC 4648 section 5)",
    other: "its signature is not base64url",
};

/// Decodes `part`, appends it to `bytes`, and returns the end of the result.
fn decode(part: &str, bytes: &mut Vec<u8>, faults: &EncodingFaults) -> Result<usize, TokenFault> {
    BASE64_URL_SAFE_NO_PAD.decode_vec(part, bytes).map_err(|_| {
        TokenFault::NotAJws(match part {
            part if part.ends_with('=') => faults.padded,
            part if part.contains(['+', '/']) => faults.not_url_safe,
            _ => faults.other,
        })
    })?;
    Ok(bytes.len())
}

/// The parts of a compact JWS, decoded into a single buffer.
#[derive(Debug)]
struct Decoded {
    bytes: Vec<u8>,
    header_end: usize,
    payload_end: usize,
}

impl Decoded {
    fn header(&self) -> &[u8] {
        &self.bytes[..self.header_end]
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[self.header_end..self.payload_end]
    }

    fn signature(&self) -> &[u8] {
        &self.bytes[self.payload_end..]
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Text<'a>,
    #[serde(borrow, default)]
    kid: Option<Text<'a>>,
    /// Whether the header has `crit`, a list of extensions that must be understood (RFC 7515
    /// section 4.1.11), even if the list is empty. We support none.
    #[serde(default, deserialize_with = "presence")]
    crit: bool,
    /// Whether the payload is base64url-encoded (`b64`, RFC 7797). `true` is the default. Anything
    /// else means another signing input than the one verified here, and must not be used in JWTs
    /// (section 7). It is only allowed together with `crit` (section 6); we check that ourselves.
    #[serde(default = "yes")]
    b64: bool,
}

fn presence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

const fn yes() -> bool {
    true
}

impl<'a> Header<'a> {
    fn read(json: &'a [u8]) -> Result<Self, TokenFault> {
        let header: Self = json::object(json).map_err(|_| {
            TokenFault::NotAJws(if json.starts_with("\u{feff}".as_bytes()) {
                "its header begins with a byte order mark (BOM)"
            } else {
                "its header is not a JWS header"
            })
        })?;
        if header.crit {
            return Err(TokenFault::NotAJws(
                "it names critical extensions, and none is known here",
            ));
        }
        if !header.b64 {
            return Err(TokenFault::NotAJws("its payload is not encoded (b64)"));
        }
        Ok(header)
    }
}

impl<'a> UntrustedToken<'a> {
    /// Parses a token: size, format, algorithm and types of its claims. Verifies nothing.
    pub fn parse(text: &'a str) -> Result<Self, TokenFault> {
        let parts = Parts::of(text)?;
        let mut decoded = parts.decode_header()?;
        let header = Header::read(decoded.header())?;
        let algorithm = header.alg.0.parse().map_err(|_| TokenFault::UnsupportedAlgorithm)?;
        let key_id = header.kid.map(|Text(kid)| kid.into());
        parts.decode_rest(&mut decoded)?;
        let unverified_claims = Claims::parse(decoded.payload())?;
        Ok(Self {
            signing_input: parts.signing_input,
            decoded,
            algorithm,
            key_id,
            unverified_claims,
        })
    }

    /// Verifies the signature with `key`. The only way to get a [`VerifiedToken`].
    pub fn verify(&self, key: &VerifyingKey, now: UnixMillis) -> Option<VerifiedToken<'_>> {
        key.verify(self.algorithm, self.signing_input.as_bytes(), self.decoded.signature()).then(
            || VerifiedToken {
                claims: &self.unverified_claims,
                fingerprint: key.fingerprint(),
                verified_at: now,
            },
        )
    }

    /// Whether `key` could have signed this token, judging by its kind and the length of the
    /// signature. Cheap: no cryptography.
    pub fn fits(&self, key: &VerifyingKey) -> bool {
        key.fits(self.algorithm, self.decoded.signature())
    }

    /// The algorithm in the token's header, always an accepted one.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The length of the signature, in bytes.
    pub fn signature_length(&self) -> usize {
        self.decoded.signature().len()
    }

    /// What is wrong with the format of the signature; `None` if nothing is.
    pub fn signature_fault(&self) -> Option<SignatureFault> {
        SignatureFault::of(self.algorithm, self.decoded.signature())
    }

    /// The length of the salt, in bytes, if the RSA key `key` made the signature by RSASSA-PSS with
    /// another salt length than the algorithm requires. Costs more than verifying: only for
    /// explanations.
    pub fn other_pss_salt(&self, key: &VerifyingKey) -> Option<usize> {
        key.pss_salt(self.algorithm, self.signing_input.as_bytes(), self.decoded.signature())
    }

    /// The key that the token claims to be signed with (`kid`); `None` without one.
    pub const fn key_id(&self) -> Option<&TokenKeyId> {
        self.key_id.as_ref()
    }

    /// The claims, not verified yet.
    pub const fn unverified_claims(&self) -> &Claims {
        &self.unverified_claims
    }
}

impl TokenKeyId {
    /// The `kid` as it appears in the token.
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
