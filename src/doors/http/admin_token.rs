//! Checks the admin token. It is compared here and nowhere else.

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use aws_lc_rs::{constant_time, digest};

use crate::config::Secret;

/// Recognizes the admin token. Without one configured, every request is refused.
#[derive(Debug)]
pub(super) struct AdminToken {
    /// SHA-256 of the token. Digests have one length, so the comparison does not leak the token's
    /// length.
    token: Option<digest::Digest>,
}

impl AdminToken {
    pub(super) fn new(token: Option<&Secret>) -> Self {
        Self { token: token.map(|token| sha256(token.expose().as_bytes())) }
    }

    /// Whether a request with these headers carries the admin token.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION);
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let auth_request = sha256(bearer(value).unwrap_or_default());
        self.token.as_ref().is_some_and(|token| {
            constant_time::verify_slices_are_equal(token.as_ref(), auth_request.as_ref()).is_ok()
                && bearer(value).is_some()
        })
    }
}

/// The token in `Bearer TOKEN` (RFC 6750 section 2.1); the scheme is case-insensitive.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn opens(admin_token: &AdminToken, values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                HeaderName::from_static("authorization"),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        admin_token.is_in(&headers)
    }

    #[test]
    fn one_token_opens() {
        let admin_token = AdminToken::new(Some(&Secret::new("s3cret token")));
        for good in ["Bearer s3cret token", "bearer  s3cret token", "BEARER s3cret token "] {
            assert!(opens(&admin_token, &[good]), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cret",
            "Bearer s3cret tokens",
            "s3cret token",
            "Basic s3cret token",
            "Bearers3cret token",
        ] {
            assert!(!opens(&admin_token, &[bad]), "{bad}");
        }
        assert!(!opens(&admin_token, &[]));
        assert!(!opens(&admin_token, &["Bearer s3cret token", "Bearer s3cret token"]), "twice");
    }

    #[test]
    fn nothing_opens_without_a_token() {
        let admin_token = AdminToken::new(None);
        for value in ["Bearer ", "Bearer x", ""] {
            assert!(!opens(&admin_token, &[value]), "{value:?}");
        }
    }
}
