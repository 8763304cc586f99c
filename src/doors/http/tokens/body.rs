//! Bodies of requests to the token API. Errors describe what cannot be read, and never repeat it:
//! it may contain secrets.

use std::{borrow::Cow, convert::Infallible};

use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;

use super::{super::reading, problem::TokenProblem};
use crate::domain::json;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";

/// Largest body, in bytes.
const BYTES_MAX: usize = 64 * 1024;

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Form,
    /// HTML forms with files (RFC 7578).
    Multipart,
}

/// The parameters of a form (RFC 6749 appendix B, or RFC 7578).
pub(super) struct Form(Vec<(String, String)>);

/// A JSON body; `expected` tells the client what it should contain. `Content-Type` is ignored:
/// jwthenticator ignores it, and `curl -d` always sends that of a form.
pub(super) async fn json<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    expected: &'static str,
) -> Result<T, TokenProblem> {
    parsed(&read(request, payload).await?, expected)
}

/// A form.
pub(super) async fn form(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<Form, TokenProblem> {
    match format(request) {
        Some(Format::Form) => Form::parse(&read(request, payload).await?),
        Some(Format::Json | Format::Multipart) | None => {
            Err(TokenProblem::unsupported_media_type(FORM))
        }
    }
}

/// JSON or a form, and which of them it is.
pub(super) async fn either<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    expected: &'static str,
    from_form: impl FnOnce(&Form) -> T,
) -> Result<(T, Format), TokenProblem> {
    let Some(format) = format(request) else {
        return Err(TokenProblem::unsupported_media_type(
            "application/json, application/x-www-form-urlencoded or multipart/form-data",
        ));
    };
    let body = read(request, payload).await?;
    let value = match format {
        Format::Json => parsed(&body, expected)?,
        Format::Form => from_form(&Form::parse(&body)?),
        Format::Multipart => {
            from_form(&Form::parse_multipart(reading::content_type(request), body).await?)
        }
    };
    Ok((value, format))
}

impl Form {
    /// Each parameter may occur once (RFC 6749 section 3.2).
    fn parse(body: &[u8]) -> Result<Self, TokenProblem> {
        let mut form = Self(Vec::new());
        for (name, value) in url::form_urlencoded::parse(body)
            .map(|(name, value)| (Cow::into_owned(name), value.into_owned()))
        {
            form.add(name, value)?;
        }
        Ok(form)
    }

    /// Files and parts without a name are ignored.
    async fn parse_multipart(content_type: &str, body: Vec<u8>) -> Result<Self, TokenProblem> {
        let malformed = |_| {
            TokenProblem::invalid_request(
                "the body is not the multipart/form-data that it is said to be",
            )
        };
        let boundary = multer::parse_boundary(content_type).map_err(malformed)?;
        let whole = futures_util::stream::iter([Ok::<_, Infallible>(body)]);
        let mut parts = multer::Multipart::new(whole, boundary);
        let mut form = Self(Vec::new());
        while let Some(part) = parts.next_field().await.map_err(malformed)? {
            let Some(name) = part.name().filter(|_| part.file_name().is_none()).map(str::to_owned)
            else {
                continue;
            };
            let value = String::from_utf8(part.bytes().await.map_err(malformed)?.into());
            form.add(
                name,
                value.map_err(|_| TokenProblem::invalid_request("a parameter is not UTF-8"))?,
            )?;
        }
        Ok(form)
    }

    fn add(&mut self, name: String, value: String) -> Result<(), TokenProblem> {
        if self.0.iter().any(|(known, _)| *known == name) {
            return Err(TokenProblem::invalid_request("a parameter is there twice"));
        }
        if self.0.len() == PARAMETERS_MAX {
            return Err(TokenProblem::invalid_request("there are too many parameters"));
        }
        self.0.push((name, value));
        Ok(())
    }

    /// A parameter. One with an empty value counts as absent (RFC 6749 section 3.2).
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

/// More parameters than any meaningful request has.
const PARAMETERS_MAX: usize = 64;

/// The format according to `Content-Type`; JSON if there is none.
fn format(request: &HttpRequest) -> Option<Format> {
    let media_type = reading::media_type(request);
    if media_type.is_empty() || media_type.eq_ignore_ascii_case(JSON) {
        Some(Format::Json)
    } else if media_type.eq_ignore_ascii_case(FORM) {
        Some(Format::Form)
    } else if media_type.eq_ignore_ascii_case(MULTIPART) {
        Some(Format::Multipart)
    } else {
        None
    }
}

async fn read(request: &HttpRequest, payload: web::Payload) -> Result<Vec<u8>, TokenProblem> {
    reading::body(request, payload, BYTES_MAX)
        .await
        .map_err(|unread| TokenProblem::unread(&unread, BYTES_MAX))
}

/// serde's own error messages would repeat values.
fn parsed<T: DeserializeOwned>(body: &[u8], expected: &'static str) -> Result<T, TokenProblem> {
    json::object(body).map_err(|fault| {
        if fault.is_data() {
            TokenProblem::invalid_request(expected)
        } else {
            TokenProblem::invalid_request(format!(
                "no JSON, from line {} column {} on; {expected}",
                fault.line(),
                fault.column()
            ))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_browsers_write_them() {
        let form =
            Form::parse(b"grant_type=client_credentials&scope=a+b%20c&empty=&token_type_hint")
                .unwrap();
        assert_eq!(form.parameter("grant_type"), Some("client_credentials"));
        assert_eq!(form.parameter("scope"), Some("a b c"));
        assert_eq!(form.parameter("empty"), None);
        assert_eq!(form.parameter("token_type_hint"), None);
        assert_eq!(form.parameter("absent"), None);
    }

    #[test]
    fn nothing_is_there_twice() {
        for twice in ["a=1&a=1", "a=1&b=2&a=", "a=1&%61=2"] {
            assert!(Form::parse(twice.as_bytes()).is_err(), "{twice}");
        }
    }

    async fn multipart(body: &str) -> Result<Form, TokenProblem> {
        Form::parse_multipart(
            "multipart/form-data; boundary=\"b\"",
            body.replace('\n', "\r\n").into(),
        )
        .await
    }

    #[tokio::test]
    async fn forms_may_come_in_parts() {
        let part = |head: &str, body: &str| {
            format!("--b\nContent-Disposition: form-data; {head}\n\n{body}\n")
        };
        let whole = format!(
            "{}{}{}--b--\n",
            part("name=\"token\"", "a+b%20c"),
            part("name=\"empty\"", ""),
            part("name=\"file\"; filename=\"f\"", "content")
        );
        let form = multipart(&whole).await.unwrap();
        assert_eq!(
            [form.parameter("token"), form.parameter("empty"), form.parameter("file")],
            [Some("a+b%20c"), None, None]
        );
        let twice = format!("{0}{0}--b--\n", part("name=\"token\"", "a"));
        let many: String =
            (0..=PARAMETERS_MAX).map(|number| part(&format!("name=\"{number}\""), "")).collect();
        for wrong in [
            twice,
            format!("{many}--b--\n"),
            part("name=\"token\"", "a"),
            "token=a".to_owned(),
            String::new(),
        ] {
            assert!(multipart(&wrong).await.is_err(), "{wrong}");
        }
        assert!(
            Form::parse_multipart("multipart/form-data", Vec::new()).await.is_err(),
            "no boundary"
        );
    }

    #[test]
    fn what_is_wrong_is_not_repeated() {
        for wrong in [r#""s3cret""#, r#"{"a": "s3cret"}"#, r#"["s3cret"]"#, r#"{"s3cret": 1"#] {
            let problem = parsed::<uuid::Uuid>(wrong.as_bytes(), "send a UUID").unwrap_err();
            assert!(!problem.to_string().contains("s3cret"), "{problem}");
        }
    }
}
