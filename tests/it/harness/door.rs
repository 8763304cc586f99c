//! The same request for both doors, and their answers in a common form.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use prost::Message as _;

use super::ext_authz::{bare_request, http_attributes};
use super::http::{Answer, Request};
use super::{CheckAnswer, Countersign};

/// A way to ask for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Http,
    Grpc,
}

impl Door {
    pub const BOTH: [Self; 2] = [Self::Http, Self::Grpc];

    pub async fn ask(self, countersign: &Countersign, question: &Question) -> Verdict {
        match self {
            Self::Http => Verdict::from(question.as_nginx().send(countersign.http).await),
            Self::Grpc => {
                let mut request = http_attributes(question.as_envoy());
                if let Some(scope) = &question.scope {
                    let attributes = request.attributes.as_mut().unwrap();
                    attributes.context_extensions.insert("scope".to_owned(), scope.clone());
                }
                Verdict::from(countersign.ext_authz().check(request).await)
            }
        }
    }
}

/// A client's request, as a gateway presents it.
#[derive(Debug, Clone)]
pub struct Question {
    pub method: String,
    pub scheme: String,
    pub host: String,
    /// Path and query.
    pub target: String,
    /// The values of its Authorization headers.
    pub authorization: Vec<String>,
    /// The scopes that the route requires.
    pub scope: Option<String>,
    /// The gateway's id of the client's request.
    pub attempt: Option<String>,
}

impl Question {
    /// A request for `GET /` of `gateway.test`.
    pub fn with(authorization: impl Into<String>) -> Self {
        Self { authorization: vec![authorization.into()], ..Self::bare() }
    }

    /// A request without credentials.
    pub fn bare() -> Self {
        Self {
            method: "GET".to_owned(),
            scheme: "http".to_owned(),
            host: "gateway.test".to_owned(),
            target: "/".to_owned(),
            authorization: Vec::new(),
            scope: None,
            attempt: None,
        }
    }

    fn as_nginx(&self) -> Request {
        let mut request = Request::get("/validate_request")
            .header("X-Original-Method", &self.method)
            .header("X-Original-URI", &self.target)
            .header("X-Forwarded-Proto", &self.scheme)
            .header("X-Forwarded-Host", &self.host);
        for value in &self.authorization {
            request = request.authorization(value);
        }
        if let Some(scope) = &self.scope {
            request = request.header("X-Required-Scope", scope);
        }
        if let Some(attempt) = &self.attempt {
            request = request.header("X-Request-Id", attempt);
        }
        request
    }

    fn as_envoy(&self) -> HttpRequest {
        let mut headers = HashMap::new();
        if !self.authorization.is_empty() {
            // Joined the way Envoy does it.
            headers.insert("authorization".to_owned(), self.authorization.join(","));
        }
        let bare = bare_request();
        HttpRequest {
            method: self.method.clone(),
            scheme: self.scheme.clone(),
            host: self.host.clone(),
            path: self.target.clone(),
            id: self.attempt.as_deref().map_or(bare.id, stream_number),
            headers,
            ..HttpRequest::default()
        }
    }
}

/// The number that Envoy would give the attempt of that name.
fn stream_number(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish().to_string()
}

/// A decision, as the gateway understands it.
pub struct Verdict {
    /// For an allow the headers for the back end, for a denial those for the client. Names are in
    /// lower case.
    pub headers: Vec<(String, String)>,
    /// The status that the client receives, or 200.
    pub status: u16,
    /// The code inside the gRPC answer.
    pub inner_code: Option<i32>,
    pub body: Vec<u8>,
    /// The whole answer as received, except that the entries of maps are sorted, since their order
    /// differs each time.
    pub wire: Vec<u8>,
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} (inside: {:?}) {:?} {body}", self.status, self.inner_code, self.headers)
    }
}

impl Verdict {
    pub fn allowed(&self) -> bool {
        self.status == 200
    }

    /// The code of a denial.
    pub fn code(&self) -> Option<&str> {
        self.header("x-auth-error")
    }

    /// The value of the only header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "a second {name} header in {self:?}");
        value
    }
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Self {
        let wire = [answer.head.as_slice(), &answer.body].concat();
        Self {
            headers: answer.headers,
            status: answer.status,
            inner_code: None,
            body: answer.body,
            wire,
        }
    }
}

impl From<CheckAnswer> for Verdict {
    fn from(answer: CheckAnswer) -> Self {
        let allowed = answer.code() == 0;
        let (status, headers, body) = if allowed {
            (200, &answer.ok().headers, "")
        } else {
            let denied = answer.denied();
            (
                denied.status.as_ref().map_or(0, |status| status.code),
                &denied.headers,
                denied.body.as_str(),
            )
        };
        Self {
            headers: headers.iter().map(pair).collect(),
            status: u16::try_from(status).unwrap(),
            inner_code: Some(answer.code()),
            body: body.as_bytes().to_vec(),
            wire: in_order(&answer),
        }
    }
}

/// The bytes of an answer with the entries of its dynamic metadata sorted, and the number of bytes
/// received.
fn in_order(answer: &CheckAnswer) -> Vec<u8> {
    if answer.bytes.is_empty() {
        return Vec::new();
    }
    let mut response = answer.response.clone();
    let mut metadata: Vec<String> = Vec::new();
    for (name, value) in response.dynamic_metadata.take().unwrap_or_default().fields {
        let Some(Kind::StructValue(inner)) = value.kind else { panic!("{name} is no object") };
        metadata.extend(
            inner.fields.iter().map(|(field, value)| format!("{name}.{field}: {:?}\n", value.kind)),
        );
    }
    metadata.sort_unstable();
    let length = answer.bytes.len().to_string();
    [response.encode_to_vec(), metadata.concat().into_bytes(), length.into_bytes()].concat()
}

fn pair(option: &HeaderValueOption) -> (String, String) {
    let header = option.header.as_ref().expect("a header option without a header");
    (header.key.to_ascii_lowercase(), header.value.clone())
}
