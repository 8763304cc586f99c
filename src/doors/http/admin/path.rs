//! Values in paths.

use actix_web::HttpRequest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::problem::Problem;
use crate::domain::principal::Username;

/// Everything except the unreserved characters, which need no encoding in a path (RFC 3986 section
/// 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path prefix of the admin API.
#[derive(Clone, Debug)]
pub(super) struct Mount(Box<str>);

impl Mount {
    const PATH: &'static str = "/admin/v1";

    pub(super) fn under(prefix: &str) -> Self {
        Self(format!("{prefix}{}", Self::PATH).into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix in front of the API's paths.
    pub(super) fn prefix(&self) -> &str {
        self.0.strip_suffix(Self::PATH).unwrap_or_default()
    }

    pub(super) fn principal(&self, username: &Username) -> String {
        format!("{}/principals/{}", self.0, utf8_percent_encode(username.as_str(), RESERVED))
    }

    pub(super) fn key(&self, id: i64) -> String {
        format!("{}/keys/{id}", self.0)
    }

    pub(super) fn trust(&self, id: i64) -> String {
        format!("{}/jwks-trusts/{id}", self.0)
    }

    pub(super) fn api_key(&self, id: i64) -> String {
        format!("{}/api-keys/{id}", self.0)
    }

    pub(super) fn token(&self, id: i64) -> String {
        format!("{}/tokens/{id}", self.0)
    }
}

/// The username in the path, percent-encoded. The router has decoded part of it by now, but left
/// `%25` encoded, so that what is left is unambiguous.
pub(super) fn username(request: &HttpRequest) -> Result<Username, Problem> {
    let written = request.match_info().get("username").unwrap_or_default();
    let nobody = || {
        Problem::not_found(
            "there is no such principal: a username has 1 to 255 characters and no control characters",
        )
    };
    // The router replaces bytes that are not UTF-8, which could turn the name into another one.
    percent_decode_str(request.uri().path()).decode_utf8().map_err(|_| nobody())?;
    let name = percent_decode_str(written).decode_utf8().map_err(|_| nobody())?;
    Username::new(&name).map_err(|_| nobody())
}

/// The id in the path. Only one spelling is accepted, so that nothing has two addresses.
pub(super) fn id(request: &HttpRequest) -> Result<i64, Problem> {
    let written = request.match_info().get("id").unwrap_or_default();
    let id: Option<i64> = written.parse().ok();
    id.filter(|id| *id > 0 && id.to_string() == written).ok_or_else(|| {
        Problem::not_found("there is nothing with that id: ids are whole numbers from 1 on")
    })
}
