//! Access tokens issued by this service: by which issuer, for whom, and for how long. They may be
//! used any number of times.

use std::time::Duration;

use bytestring::ByteString;
use serde::Deserialize;
use uuid::Uuid;

use super::{Audience, ClaimsFault, Decoded, Header, Parts, TokenFault, claims::Text};
use crate::domain::{
    issuer_keys::{IssuerKeys, KeyFault},
    json,
    principal::{PrincipalId, Username},
    scope::Scopes,
    time::{UnixMillis, UnixSeconds},
};

/// Maximum difference between the clocks of the replica that issues a token and the one that
/// decides.
pub const ACCESS_TOKEN_LEEWAY: Duration = Duration::from_secs(5);

/// The value of `ttype` in access tokens.
pub const ACCESS_TOKEN_TYPE: &str = "T";

/// The claims of an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessClaims {
    /// The issuer (`iss`).
    pub issuer: Box<str>,
    /// The intended audience (`aud`).
    pub audience: Option<Audience>,
    /// The token must not be used before this time (`nbf`).
    pub not_before: Option<UnixSeconds>,
    /// The token must not be used at or after this time (`exp`).
    pub expires_at: UnixSeconds,
    /// Unique id of the token (`jti`).
    pub jti: Uuid,
    /// Whether the token is an access token and not a refresh token (`ttype`).
    pub is_access_token: bool,
    /// Username of the owning principal (`username`).
    pub username: Username,
    /// Id of the owning principal (`principal_id`). Another principal may have the username by now.
    pub principal: PrincipalId,
    /// The scopes of the token (`scope`).
    pub scopes: Scopes,
}

/// The claims as they appear in the token. Unknown ones are ignored; a duplicate is an error.
#[derive(Deserialize)]
struct RawClaims<'a> {
    #[serde(borrow)]
    iss: Option<Text<'a>>,
    aud: Option<Audience>,
    nbf: Option<i64>,
    exp: Option<i64>,
    jti: Option<Uuid>,
    #[serde(borrow)]
    ttype: Option<Text<'a>>,
    #[serde(borrow)]
    username: Option<Text<'a>>,
    principal_id: Option<i64>,
    #[serde(borrow)]
    scope: Option<Text<'a>>,
}

impl AccessClaims {
    fn parse(payload: &[u8]) -> Result<Self, ClaimsFault> {
        let raw: RawClaims<'_> = json::object(payload).map_err(|_| ClaimsFault::Mistyped)?;
        let Text(username) = raw.username.ok_or(ClaimsFault::NoUsername)?;
        Ok(Self {
            issuer: raw.iss.ok_or(ClaimsFault::Missing)?.0.into(),
            audience: raw.aud,
            not_before: raw.nbf.map(UnixSeconds),
            expires_at: UnixSeconds(raw.exp.ok_or(ClaimsFault::NoTime)?),
            jti: raw.jti.ok_or(ClaimsFault::Missing)?,
            is_access_token: raw.ttype.is_some_and(|Text(kind)| kind == ACCESS_TOKEN_TYPE),
            username: Username::new(&username).map_err(|_| ClaimsFault::BadUsername)?,
            principal: PrincipalId(raw.principal_id.ok_or(ClaimsFault::Missing)?),
            scopes: Scopes::parse(raw.scope.as_ref().map_or("", |Text(scopes)| scopes))
                .map_err(|_| ClaimsFault::Mistyped)?,
        })
    }

    /// Whether the token has expired at `now`.
    pub fn has_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.millis().saturating_add(ACCESS_TOKEN_LEEWAY) <= now
    }

    /// Whether the token is not valid yet at `now`.
    pub fn is_early(&self, now: UnixMillis) -> bool {
        self.not_before
            .is_some_and(|not_before| now.saturating_add(ACCESS_TOKEN_LEEWAY) < not_before.millis())
    }
}

/// A well-formed access token that is not verified yet.
#[derive(Debug)]
pub struct UntrustedAccessToken<'a> {
    signing_input: &'a str,
    decoded: Decoded,
    algorithm: Box<str>,
    key_id: Option<Box<str>>,
    unverified_claims: AccessClaims,
}

/// An access token whose signature was verified with a key of this service. Only
/// [`UntrustedAccessToken::verify`] creates one.
#[derive(Debug)]
pub struct VerifiedAccessToken<'t> {
    claims: &'t AccessClaims,
    key_id: ByteString,
}

impl<'t> VerifiedAccessToken<'t> {
    /// The claims, as this service issued them.
    pub const fn claims(&self) -> &'t AccessClaims {
        self.claims
    }

    /// The `kid` of the key, in hexadecimal digits; empty for an HS256 secret.
    pub fn key_id(&self) -> ByteString {
        self.key_id.clone()
    }
}

impl<'a> UntrustedAccessToken<'a> {
    /// Parses a token: size, format and types of its claims. Verifies nothing.
    pub fn parse(text: &'a str) -> Result<Self, TokenFault> {
        let parts = Parts::of(text)?;
        let mut decoded = parts.decode_header()?;
        let header = Header::read(decoded.header())?;
        let (algorithm, key_id) = (header.alg.0.into(), header.kid.map(|Text(kid)| kid.into()));
        parts.decode_rest(&mut decoded)?;
        let unverified_claims = AccessClaims::parse(decoded.payload())?;
        Ok(Self {
            signing_input: parts.signing_input,
            decoded,
            algorithm,
            key_id,
            unverified_claims,
        })
    }

    /// Verifies the signature with the keys of this service. The only way to get a
    /// [`VerifiedAccessToken`].
    pub fn verify(&self, keys: &IssuerKeys) -> Result<VerifiedAccessToken<'_>, KeyFault> {
        let key_id = keys.verify(
            &self.algorithm,
            self.key_id.as_deref(),
            self.signing_input.as_bytes(),
            self.decoded.signature(),
        )?;
        Ok(VerifiedAccessToken { claims: &self.unverified_claims, key_id })
    }

    /// The algorithm in the token's header (`alg`), which may be any text.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The key that the token claims to be signed with (`kid`); `None` without one.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The claims, not verified yet.
    pub const fn unverified_claims(&self) -> &AccessClaims {
        &self.unverified_claims
    }
}
