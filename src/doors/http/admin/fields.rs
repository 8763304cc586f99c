//! Values in request and response bodies, in their wire format.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de::Error};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use crate::domain::{
    principal::{USERNAME_CHARACTERS_MAX, Username},
    scope::Scopes,
    time::UnixMillis,
};

/// Most scopes that one request may list, and the longest of them: identity headers must have room
/// for all.
const SCOPES_MAX: usize = 100;
const SCOPE_CHARACTERS_MAX: usize = 100;
/// Same limit as in the registry and the issuer.
const URL_CHARACTERS_MAX: usize = 2000;
const AUDIENCE_CHARACTERS_MAX: usize = 255;

/// Matches text without control characters.
const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

/// Schema of a scope: visible ASCII characters except `"` and `\` (RFC 6749 section 3.3).
pub(super) struct ScopeToken;

impl PartialSchema for ScopeToken {
    fn schema() -> RefOr<Schema> {
        let scope = text(SCOPE_CHARACTERS_MAX, r"^[!#-\[\]-~]+$", "orders:read");
        scope
            .description(Some(
                "What a principal, a key or a route asks for or holds (RFC 6749 section 3.3).",
            ))
            .into()
    }
}

impl ToSchema for ScopeToken {
    fn name() -> Cow<'static, str> {
        "Scope".into()
    }
}

/// Schema of a [`Username`].
pub(super) struct Name;

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        text(USERNAME_CHARACTERS_MAX, PRINTABLE, "alice")
            .description(Some("What a principal is called, byte for byte."))
            .into()
    }
}

impl ToSchema for Name {
    fn name() -> Cow<'static, str> {
        "Username".into()
    }
}

/// Schema of a member of a token's `aud`.
pub(super) struct AudienceToken;

impl PartialSchema for AudienceToken {
    fn schema() -> RefOr<Schema> {
        let audience =
            text(AUDIENCE_CHARACTERS_MAX, r"^[^\s\u0000-\u001f\u007f-\u009f]+$", "orders");
        audience.description(Some("Whom a token is meant for (RFC 7519 section 4.1.3).")).into()
    }
}

impl ToSchema for AudienceToken {
    fn name() -> Cow<'static, str> {
        "Audience".into()
    }
}

fn text(characters_max: usize, pattern: &str, example: &str) -> ObjectBuilder {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(characters_max));
    text.pattern(Some(pattern)).examples([example])
}

/// A list of scopes.
#[derive(Clone, Debug, Default)]
pub(super) struct ScopeList(pub(super) Scopes);

impl<'de> Deserialize<'de> for ScopeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tokens = Vec::<String>::deserialize(deserializer)?;
        if tokens.len() > SCOPES_MAX {
            return Err(D::Error::custom(format!(
                "too many scopes; accepted are up to {SCOPES_MAX}"
            )));
        }
        if let Some(bad) = tokens.iter().find(|token| {
            token.is_empty()
                || token.len() > SCOPE_CHARACTERS_MAX
                || token.contains(char::is_whitespace)
        }) {
            return Err(D::Error::custom(format!(
                "malformed scope {bad:?}: a scope has 1 to {SCOPE_CHARACTERS_MAX} visible ASCII characters other than '\"' and '\\'"
            )));
        }
        Scopes::parse(&tokens.join(" ")).map(Self).map_err(D::Error::custom)
    }
}

/// A time, in RFC 3339 format, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(pub(super) UnixMillis);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment = OffsetDateTime::parse(&text, &Rfc3339).ok();
        let millis = moment.map(|moment| moment.unix_timestamp_nanos().div_euclid(1_000_000));
        let millis =
            millis.filter(|millis| (0..=i128::from(UnixMillis::LAST_WRITABLE.0)).contains(millis));
        let millis = millis.and_then(|millis| i64::try_from(millis).ok());
        millis.map(|millis| Self(UnixMillis(millis))).ok_or_else(|| {
            D::Error::custom(format!(
                "not a moment: {text:?}; accepted is RFC 3339 from 1970 to 9999, such as 2027-01-31T08:00:00Z"
            ))
        })
    }
}

pub(super) fn username<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Username, D::Error> {
    Username::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The URL of a key set. Only checks that it looks like a URL; the registry decides what may be
/// fetched.
#[derive(Clone, Debug)]
pub(super) struct JwksUrl(pub(super) String);

impl<'de> Deserialize<'de> for JwksUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or_default();
        if rest.is_empty()
            || text.chars().count() > URL_CHARACTERS_MAX
            || rest.contains(|character: char| character.is_control() || character.is_whitespace())
        {
            return Err(D::Error::custom(
                "not the URL of a key set; accepted is one such as https://id.example.com/jwks.json",
            ));
        }
        Ok(Self(text))
    }
}

impl PartialSchema for JwksUrl {
    fn schema() -> RefOr<Schema> {
        let url = text(
            URL_CHARACTERS_MAX,
            r"^https?://[^\s\u0000-\u001f\u007f-\u009f]+$",
            "https://id.example.com/jwks.json",
        );
        url.description(Some("Where a key set is. What may be fetched is set by `jwks.*`.")).into()
    }
}

impl ToSchema for JwksUrl {}

/// For members of a merge patch: distinguishes `null` from an absent member, which is `None` by
/// default.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Scopes as a list, for responses.
pub(super) fn scope_list(scopes: &Scopes) -> Vec<String> {
    scopes.iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn moment(text: &str) -> Option<i64> {
        serde_json::from_value::<Moment>(json!(text)).ok().map(|moment| moment.0.0)
    }

    #[test]
    fn moments_are_those_that_databases_keep() {
        assert_eq!(moment("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(moment("1970-01-01T01:00:00.0019+01:00"), Some(1));
        assert_eq!(moment("9999-12-31T23:59:59.999Z"), Some(253_402_300_799_999));
        for bad in [
            "",
            "1970-01-01",
            "1969-12-31T23:59:59Z",
            "9999-12-31T23:59:59-01:00",
            "2027-01-31T08:00:00",
            "1700000000",
        ] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn scopes_are_lists_of_tokens() {
        let read = |value: Value| {
            serde_json::from_value::<ScopeList>(value).map(|list| list.0.to_string()).ok()
        };
        assert_eq!(read(json!(["b", "a", "b"])).as_deref(), Some("a b"));
        assert_eq!(read(json!([])).as_deref(), Some(""));
        for bad in [
            json!(["a b"]),
            json!([""]),
            json!(["a\tb"]),
            json!(["é"]),
            json!("a"),
            json!(["\""]),
            json!(["a".repeat(101)]),
        ] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
        assert_eq!(read(json!(vec!["a"; 101])), None);
    }
}
