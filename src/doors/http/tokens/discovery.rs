//! What anyone may read: the public keys of our tokens (RFC 7517), and the addresses of the
//! endpoints (RFC 8414).

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, ETAG, EntityTag, Header as _, IfNoneMatch},
    web,
};
use aws_lc_rs::digest;
use serde::Serialize;

use super::TokenApi;
use crate::{domain::algorithm::Algorithm, domain::secret_token::hex};

pub(super) const JWKS: &str = "/jwks";
pub(super) const WELL_KNOWN_JWKS: &str = "/.well-known/jwks.json";
pub(super) const METADATA: &str = "/.well-known/oauth-authorization-server";
pub(super) const TOKEN: &str = "/oauth2/token";
pub(super) const INTROSPECTION: &str = "/token/introspection";
pub(super) const REVOCATION: &str = "/token/revoke";

/// Upper limit of the key set's max-age, however long keys are published before they sign.
const KEY_SET_MAX_AGE_LONGEST: Duration = Duration::from_hours(1);

/// How long a copy of the key set may be cached: half as long as a key is published before it
/// signs. The other half is for replicas that notice a new key late, and for caches that keep a
/// copy of a copy.
pub(super) fn key_set_max_age(signing_key_delay: Duration) -> Duration {
    (signing_key_delay / 2).min(KEY_SET_MAX_AGE_LONGEST)
}

/// The URL of the token endpoint as clients see it, which a client assertion may use as its
/// audience.
pub fn token_endpoint(issuer: &str, url_prefix: &str) -> String {
    Places::new(issuer, url_prefix).at(TOKEN)
}

/// The URLs under which we are reached from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Without a trailing slash.
    base: String,
    /// The path of the issuer; empty if it has none.
    issuer_path: String,
}

impl Places {
    /// We are reached at the issuer's URL. The prefix of our paths follows it, unless it is already
    /// part of it.
    pub(super) fn new(issuer: &str, url_prefix: &str) -> Self {
        let issuer = issuer.trim_end_matches('/');
        let path = url::Url::parse(issuer)
            .map(|url| url.path().trim_end_matches('/').to_owned())
            .unwrap_or_default();
        let base = if path.ends_with(url_prefix) {
            issuer.to_owned()
        } else {
            format!("{issuer}{url_prefix}")
        };
        Self { base, issuer_path: path }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The path of the metadata of an issuer that has a path: the well-known path at the root of
    /// the host, followed by the issuer's path (RFC 8414 section 3.1).
    pub(super) fn metadata_of_issuer(&self) -> Option<String> {
        // A path that the router would not take literally gets no route.
        let is_plain = !self.issuer_path.contains(['{', '}', '%']);
        (!self.issuer_path.is_empty() && is_plain)
            .then(|| format!("{METADATA}{}", self.issuer_path))
    }
}

/// `GET /jwks` and `GET /.well-known/jwks.json`
pub(super) async fn key_set(
    request: actix_web::HttpRequest,
    api: web::Data<TokenApi>,
) -> HttpResponse {
    let keys = api.issuer.jwks();
    let tag =
        EntityTag::new_strong(hex(&digest::digest(&digest::SHA256, keys.as_bytes()).as_ref()[..8]));
    let is_known = match IfNoneMatch::parse(&request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    let max_age = api.key_set_max_age.as_secs();
    response
        .insert_header((CACHE_CONTROL, format!("public, max-age={max_age}")))
        .insert_header((ETAG, tag.to_string()));
    // Not `application/jwk-set+json`, which some clients do not parse as JSON.
    if is_known { response.finish() } else { response.content_type("application/json").body(keys) }
}

/// RFC 8414 section 2.
#[derive(Serialize)]
struct Metadata<'a> {
    issuer: &'a str,
    token_endpoint: String,
    /// Left out if tokens are signed with a shared secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks_uri: Option<String>,
    introspection_endpoint: String,
    revocation_endpoint: String,
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; 2],
    /// `none` is for refresh tokens.
    token_endpoint_auth_methods_supported: [&'static str; 2],
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 10],
    introspection_endpoint_auth_methods_supported: [&'static str; 1],
    revocation_endpoint_auth_methods_supported: [&'static str; 1],
}

/// `GET /.well-known/oauth-authorization-server`
pub(super) async fn metadata(api: web::Data<TokenApi>) -> HttpResponse {
    let (issuer, places) = (&api.issuer, &api.places);
    let (_, keys_are_public) = issuer.algorithm();
    let metadata = Metadata {
        issuer: &issuer.terms().issuer,
        token_endpoint: places.at(TOKEN),
        jwks_uri: keys_are_public.then(|| places.at(WELL_KNOWN_JWKS)),
        introspection_endpoint: places.at(INTROSPECTION),
        revocation_endpoint: places.at(REVOCATION),
        response_types_supported: [],
        grant_types_supported: ["client_credentials", "refresh_token"],
        token_endpoint_auth_methods_supported: ["private_key_jwt", "none"],
        token_endpoint_auth_signing_alg_values_supported: Algorithm::NAMES,
        // RFC 8414 section 2 allows the name of an HTTP authentication scheme here.
        introspection_endpoint_auth_methods_supported: ["Bearer"],
        revocation_endpoint_auth_methods_supported: ["Bearer"],
    };
    let max_age = METADATA_MAX_AGE.as_secs();
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, format!("public, max-age={max_age}")))
        .json(metadata)
}

/// How long the metadata may be cached. It changes only with the settings.
const METADATA_MAX_AGE: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_as_they_are_reached() {
        for (issuer, prefix, endpoint) in [
            ("http://localhost:8080", "", "http://localhost:8080/oauth2/token"),
            ("http://localhost:8080/", "", "http://localhost:8080/oauth2/token"),
            ("http://localhost:8080", "/auth", "http://localhost:8080/auth/oauth2/token"),
            ("https://example.com/auth", "/auth", "https://example.com/auth/oauth2/token"),
            ("https://example.com/auth/", "/auth", "https://example.com/auth/oauth2/token"),
            ("https://example.com/auth", "", "https://example.com/auth/oauth2/token"),
        ] {
            assert_eq!(token_endpoint(issuer, prefix), endpoint, "{issuer} {prefix}");
        }
    }

    #[test]
    fn an_issuer_with_a_path_is_described_where_clients_look() {
        let of = |issuer| Places::new(issuer, "").metadata_of_issuer();
        assert_eq!(of("https://example.com"), None);
        assert_eq!(
            of("https://example.com/auth/"),
            Some("/.well-known/oauth-authorization-server/auth".to_owned())
        );
        assert_eq!(of("https://example.com/{a}"), None);
    }

    #[test]
    fn key_sets_are_kept_shorter_than_keys_wait() {
        assert_eq!(key_set_max_age(Duration::from_mins(5)), Duration::from_secs(150));
        assert_eq!(key_set_max_age(Duration::ZERO), Duration::ZERO);
        assert_eq!(key_set_max_age(Duration::from_hours(100)), Duration::from_hours(1));
    }
}
