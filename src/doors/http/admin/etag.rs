//! Entity tags: which state of a record a response shows, and which state a change expects (RFC
//! 9110 sections 8.8.3 and 13.1).

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, LOCATION},
    },
};
use serde::Serialize;
use utoipa::IntoParams;

use super::problem::Problem;
use crate::engine::ports::{RegistryError, Version};

/// The header `If-Match`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IfMatch {
    /// Makes the change only if one of these tags names the current state of the record; `*`
    /// matches any state.
    #[param(
        rename = "If-Match",
        nullable = false,
        example = "*",
        pattern = r#"^(\*|[ \t,]*(W/)?"[!#-~]*"([ \t]*,[ \t,]*(W/)?"[!#-~]*")*[ \t,]*)$"#
    )]
    #[expect(dead_code, reason = "it is here for its schema")]
    if_match: Option<String>,
}

/// The header `If-None-Match`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IfNoneMatch {
    /// Answers 304 if one of these tags names the current state of the record; `*` matches any
    /// state.
    #[param(
        rename = "If-None-Match",
        nullable = false,
        example = "*",
        pattern = r#"^(\*|[ \t,]*(W/)?"[!#-~]*"([ \t]*,[ \t,]*(W/)?"[!#-~]*")*[ \t,]*)$"#
    )]
    #[expect(dead_code, reason = "it is here for its schema")]
    if_none_match: Option<String>,
}

/// A response with a record and the tag of its state.
pub(super) fn tagged(
    status: StatusCode,
    record: &impl Serialize,
    version: Version,
) -> HttpResponse {
    HttpResponse::build(status).insert_header((ETAG, tag(version))).json(record)
}

/// A response with a record that was added.
pub(super) fn created(location: &str, record: &impl Serialize, version: Version) -> HttpResponse {
    HttpResponse::Created()
        .insert_header((LOCATION, location))
        .insert_header((ETAG, tag(version)))
        .json(record)
}

/// The state that `request` expects; `None` if any will do. `current` is awaited only if needed.
pub(super) async fn expected(
    request: &HttpRequest,
    current: impl Future<Output = Result<Version, RegistryError>>,
) -> Result<Option<Version>, Problem> {
    match tags(request.headers(), &IF_MATCH)? {
        // The change itself finds out whether the record exists.
        None | Some(Tags::Any) => Ok(None),
        Some(Tags::These(tags)) => {
            let current = current.await?;
            if tags.contains(&Tag { is_weak: false, opaque: opaque(current) }) {
                Ok(Some(current))
            } else {
                Err(Problem::changed())
            }
        }
    }
}

/// Whether the client of `request` already has the current state.
pub(super) fn is_known(request: &HttpRequest, current: Version) -> Result<bool, Problem> {
    Ok(match tags(request.headers(), &IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(tags)) => tags.iter().any(|tag| tag.opaque == opaque(current)),
    })
}

/// The client already has the current state.
pub(super) fn not_modified(version: Version) -> HttpResponse {
    HttpResponse::NotModified().insert_header((ETAG, tag(version))).finish()
}

fn opaque(version: Version) -> String {
    format!("{:016x}", version.0)
}

fn tag(version: Version) -> String {
    format!("\"{}\"", opaque(version))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    These(Vec<Tag>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    is_weak: bool,
    opaque: String,
}

/// The tags in all headers `name`; `None` if there are none.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let bad = || {
        Problem::bad_member(
            name.as_str(),
            "accepted are `*` and tags such as \"0123456789abcdef\", separated by commas",
        )
    };
    let values: Vec<&str> = headers
        .get_all(name)
        .map(HeaderValue::to_str)
        .collect::<Result<_, _>>()
        .map_err(|_| bad())?;
    if values.is_empty() {
        return Ok(None);
    }
    parse(&values.join(",")).map(Some).ok_or_else(bad)
}

fn parse(list: &str) -> Option<Tags> {
    if list.trim() == "*" {
        return Some(Tags::Any);
    }
    let mut tags = Vec::new();
    let mut rest = list;
    loop {
        // Empty list elements are ignored (RFC 9110 section 5.6.1).
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return if tags.is_empty() { None } else { Some(Tags::These(tags)) };
        }
        let unmarked = rest.strip_prefix("W/");
        let (opaque, behind) = unmarked.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if !opaque.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte)) {
            return None;
        }
        tags.push(Tag { is_weak: unmarked.is_some(), opaque: opaque.to_owned() });
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read_as_written() {
        let these = |tags: &[(bool, &str)]| {
            Some(Tags::These(
                tags.iter()
                    .map(|(is_weak, opaque)| Tag {
                        is_weak: *is_weak,
                        opaque: (*opaque).to_owned(),
                    })
                    .collect(),
            ))
        };
        assert_eq!(parse(" * "), Some(Tags::Any));
        assert_eq!(parse("\"a\""), these(&[(false, "a")]));
        assert_eq!(parse("\"a,b\" ,, W/\"\","), these(&[(false, "a,b"), (true, "")]));
        for bad in [
            "",
            ",",
            "a",
            "\"a",
            "\"a\" \"b\"",
            "\"a\"b",
            "w/\"a\"",
            "*, \"a\"",
            "\"a b\"",
            "\"é\"",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(written in prop::collection::vec(("[!#-~]{0,8}", any::<bool>()), 1..5), gap in "[ \t]{0,2},[ \t,]{0,2}") {
            let text: Vec<String> = written.iter().map(|(tag, weak)| format!("{}\"{tag}\"", if *weak { "W/" } else { "" })).collect();
            let expected = written.iter().map(|(tag, weak)| Tag { is_weak: *weak, opaque: tag.clone() }).collect();
            prop_assert_eq!(parse(&text.join(&gap)), Some(Tags::These(expected)));
        }

        #[test]
        fn nothing_makes_it_panic(text in ".{0,32}") {
            let _ = parse(&text);
        }
    }
}
