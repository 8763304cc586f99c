//! The claims of access tokens.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde::Serialize;
use uuid::Uuid;

use super::{
    super::ports::{GrantRecord, PrincipalRecord},
    IssuerTerms,
};
use crate::domain::{secret_token::hex, token::ACCESS_TOKEN_TYPE};

#[derive(Serialize)]
struct AccessToken<'a> {
    iss: &'a str,
    sub: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    aud: &'a [String],
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: Uuid,
    ttype: &'static str,
    username: &'a str,
    principal_id: i64,
    /// Only if an API key was exchanged: jwthenticator's names for the owner and for the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    identifier: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<Uuid>,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    #[serde(flatten)]
    profile: BTreeMap<&'a str, &'a str>,
}

/// The claims of the access token of `grant`, as JSON. They only depend on stored data, so the same
/// token can be made again.
pub(super) fn access_token(
    terms: &IssuerTerms,
    holder: &PrincipalRecord,
    grant: &GrantRecord,
    identifier: Option<Uuid>,
) -> serde_json::Result<Vec<u8>> {
    let issued_at = grant.issued_at.seconds();
    let profile = terms.profile_claims.iter().filter_map(|claim| claim.of(&holder.profile));
    serde_json::to_vec(&AccessToken {
        iss: &terms.issuer,
        sub: subject(holder.username.as_str()),
        aud: &grant.audience,
        iat: issued_at,
        nbf: issued_at,
        exp: grant.access_expires_at.seconds(),
        jti: grant.access_jti,
        ttype: ACCESS_TOKEN_TYPE,
        username: holder.username.as_str(),
        principal_id: holder.id.0,
        identifier,
        token_id: identifier.map(|_| grant.access_jti),
        scope: grant.scopes.as_str(),
        sid: grant.sid.as_deref(),
        profile: profile.collect(),
    })
}

/// The token's `sub`: the SHA-256 of the username, in hexadecimal digits, so that it does not
/// reveal the name.
pub(super) fn subject(username: &str) -> String {
    hex(digest::digest(&digest::SHA256, username.as_bytes()).as_ref())
}
