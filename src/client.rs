//! The client's side: signs a token for each request, and builds the header. Needs nothing from the
//! server. With the feature `client-http`, [`Session`] exchanges an API key for access tokens
//! instead.
//!
//! ```
//! use countersign::{client::Signer, domain::{algorithm::KeyFamily, key::PrivateKey}};
//!
//! let key = PrivateKey::generate(KeyFamily::Ed25519, 2048)?;
//! let signer = Signer::new("alice", key);
//! let header = signer.authorization_header()?;
//! assert!(header.starts_with("JWT "));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "client-http")]
mod session;

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
#[cfg(feature = "client-http")]
pub use session::{Session, SessionError};

use crate::domain::{
    algorithm::Algorithm,
    content_digest::ContentDigest,
    key::{Fingerprint, PrivateKey},
    time::UnixMillis,
};

/// Random bytes in a nonce: 128 bits, 22 characters of base64url.
const NONCE_BYTES: usize = 16;

/// Signs single-use tokens for one principal, with the preferred algorithm of its key: RS512,
/// `EdDSA`, ES256, ES384.
#[derive(Debug)]
pub struct Signer {
    username: String,
    key: PrivateKey,
    scheme: String,
    audience: Option<String>,
}

/// The request that a token is bound to; `None` leaves a part unbound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binding<'a> {
    /// The only HTTP method that it may be used with (`htm`).
    pub method: Option<&'a str>,
    /// The only URI that it may be used at (`htu`), such as `https://api.example/orders`. Query and
    /// fragment are left out.
    pub uri: Option<&'a str>,
    /// The only query that it may be used with (`htq`), without the `?`, byte for byte as it is
    /// sent; empty for a request without a query.
    pub query: Option<&'a str>,
    /// The only body that it may be used with (`content_digest`); empty for a request without a
    /// body.
    pub body: Option<&'a [u8]>,
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The system provided no random bytes for the nonce.
    #[error("the system gave no random bytes for a nonce")]
    NoRandomness,
    /// The library refused to sign.
    #[error("the key could not sign")]
    NotSigned,
    /// The claims could not be serialized.
    #[error("the claims could not be written as JSON")]
    Claims(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'static str,
    kid: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    username: &'a str,
    time: i64,
    nonce: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    htm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    htu: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    htq: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_digest: Option<String>,
}

impl Signer {
    /// Signs as `username` with `key`. Its public key must be registered with the service.
    pub fn new(username: impl Into<String>, key: PrivateKey) -> Self {
        Self { username: username.into(), key, scheme: "JWT".to_owned(), audience: None }
    }

    /// Puts `scheme` before the token, if the service's `self_signed.scheme` is not `JWT`.
    #[must_use]
    pub fn with_scheme(mut self, scheme: impl Into<String>) -> Self {
        self.scheme = scheme.into();
        self
    }

    /// Makes tokens that only the service with this audience accepts (`aud`).
    #[must_use]
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// The value of a new `Authorization` header. It can be used once, within the service's time
    /// tolerance.
    pub fn authorization_header(&self) -> Result<String, SignError> {
        self.authorization_header_for(Binding::default())
    }

    /// Like [`Signer::authorization_header`], but only for the request that `binding` describes.
    pub fn authorization_header_for(&self, binding: Binding<'_>) -> Result<String, SignError> {
        Ok(format!("{} {}", self.scheme, self.sign(binding, SystemTime::now())?))
    }

    /// A new token, issued at `now`.
    pub fn sign(&self, binding: Binding<'_>, now: SystemTime) -> Result<String, SignError> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SignError::NoRandomness)?;
        let header = Header {
            alg: self.algorithm().name(),
            typ: "JWT",
            kid: self.fingerprint().to_string(),
        };
        let claims = Claims {
            username: &self.username,
            time: UnixMillis::from(now).seconds(),
            nonce: BASE64_URL_SAFE_NO_PAD.encode(nonce),
            aud: self.audience.as_deref(),
            htm: binding.method,
            htu: binding.uri.map(|uri| uri.split(['?', '#']).next().unwrap_or(uri)),
            htq: binding
                .query
                .map(|query| BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, query.as_bytes()))),
            content_digest: binding.body.map(|body| ContentDigest::of(body).to_string()),
        };
        let part = |json: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(json);
        let mut token = format!(
            "{}.{}",
            part(&serde_json::to_vec(&header)?),
            part(&serde_json::to_vec(&claims)?)
        );
        let signature =
            self.key.sign(self.algorithm(), token.as_bytes()).ok_or(SignError::NotSigned)?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The fingerprint of the key, which is the `kid` of its tokens.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.public_key().fingerprint()
    }

    fn algorithm(&self) -> Algorithm {
        self.key.public_key().family().algorithms()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{algorithm::KeyFamily, key::VerifyingKey, token::UntrustedToken};

    #[test]
    fn tokens_verify_and_never_repeat() {
        for family in KeyFamily::ALL {
            let signer = Signer::new("alice", PrivateKey::generate(family, 2048).unwrap())
                .with_audience("us");
            let binding = Binding {
                method: Some("POST"),
                uri: Some("https://api.example/orders?page=1#top"),
                query: Some(""),
                body: Some(b"{}"),
            };
            let now = SystemTime::now();
            let (first, second) =
                (signer.sign(binding, now).unwrap(), signer.sign(binding, now).unwrap());
            let (first, second) =
                (UntrustedToken::parse(&first).unwrap(), UntrustedToken::parse(&second).unwrap());
            let verified = first
                .verify(&VerifyingKey::new(signer.key.public_key()), UnixMillis::from(now))
                .expect("our own token");
            assert_eq!(verified.claims().username.as_str(), "alice");
            assert_eq!(verified.claims().time.millis().seconds(), UnixMillis::from(now).seconds());
            assert_eq!(verified.claims().method.as_deref(), Some("POST"));
            assert_eq!(verified.claims().uri.as_deref(), Some("https://api.example/orders"));
            assert_eq!(
                verified.claims().query.as_deref(),
                Some("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU")
            );
            assert_eq!(verified.claims().content_digest, Some(ContentDigest::of(b"{}")));
            assert!(verified.claims().audience.as_ref().unwrap().names("us"));
            assert_ne!(verified.claims().nonce, second.unverified_claims().nonce);
        }
    }
}
