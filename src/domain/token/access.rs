//! Access tokens of our own: which service issued them, to whom, for how long. They may be used any
//! number of times.

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

/// By how much the clocks of those who issue and those who decide may differ.
pub const ACCESS_TOKEN_LEEWAY: Duration = Duration::from_secs(5);

/// The `ttype` of access tokens.
pub const ACCESS_TOKEN_TYPE: &str = "T";

/// What an access token states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessClaims {
    /// Who issued it (`iss`).
    pub issuer: Box<str>,
    /// Whom it is meant for (`aud`).
    pub audience: Option<Audience>,
    /// Before this moment it may not be used (`nbf`).
    pub not_before: Option<UnixSeconds>,
    /// From this moment on it may not be used (`exp`).
    pub expires_at: UnixSeconds,
    /// Its name (`jti`).
    pub jti: Uuid,
    /// Whether it says that it is an access token (`ttype`), and not a refresh token.
    pub is_access_token: bool,
    /// Whose it is, by name (`username`).
    pub username: Username,
    /// Whose it is, by number (`principal_id`): another principal may have the name by now.
    pub principal: PrincipalId,
    /// What it may be used for (`scope`).
    pub scopes: Scopes,
}

/// Claims as they stand in the token. Unknown ones are passed over; one that comes twice is an
/// error.
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

    /// Whether it may no longer be used at `now`.
    pub fn has_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.millis().saturating_add(ACCESS_TOKEN_LEEWAY) <= now
    }

    /// Whether it may be used from later than `now` on.
    pub fn is_early(&self, now: UnixMillis) -> bool {
        self.not_before
            .is_some_and(|not_before| now.saturating_add(ACCESS_TOKEN_LEEWAY) < not_before.millis())
    }
}

/// An access token as it was presented: well-formed, and otherwise not to be believed.
#[derive(Debug)]
pub struct UntrustedAccessToken<'a> {
    signing_input: &'a str,
    decoded: Decoded,
    algorithm: Box<str>,
    key_id: Option<Box<str>>,
    unverified_claims: AccessClaims,
}

/// An access token whose signature was verified with a key of this service. Only
/// [`UntrustedAccessToken::verify`] makes one.
#[derive(Debug)]
pub struct VerifiedAccessToken<'t> {
    claims: &'t AccessClaims,
    key_id: ByteString,
}

impl<'t> VerifiedAccessToken<'t> {
    /// What this service stated when it issued it.
    pub const fn claims(&self) -> &'t AccessClaims {
        self.claims
    }

    /// The `kid` of the key, made of hexadecimal digits; empty where the secret has none.
    pub fn key_id(&self) -> ByteString {
        self.key_id.clone()
    }
}

impl<'a> UntrustedAccessToken<'a> {
    /// Reads a token and decides nothing but whether it is one: size, form, shape of its claims.
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

    /// Verifies the signature with the keys of this service. The only way to a
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

    /// The algorithm it names.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The key it says it was signed with.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// What it states, proven by nothing yet.
    pub const fn unverified_claims(&self) -> &AccessClaims {
        &self.unverified_claims
    }
}
