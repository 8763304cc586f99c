//! A client of the token API.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::http::{Answer, Request};
use super::{Countersign, Deployment, hold_to_promises_in};

/// Checks what every answer must have.
#[derive(Debug, Clone)]
pub struct TokenApi {
    pub address: SocketAddr,
    prefix: String,
}

/// The result of `countersign api-key issue`.
#[derive(Debug, Clone)]
pub struct ApiKey {
    pub id: String,
    pub key: String,
    pub identifier: String,
}

/// An access token and its refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub access: String,
    pub refresh: String,
}

impl Deployment {
    /// Issues an API key to an existing principal.
    pub fn api_key(&self, username: &str) -> ApiKey {
        let issued = object(&self.done(&["api-key", "issue", username, "--output", "json"]));
        let id = issued["id"].as_str().map_or_else(|| issued["id"].to_string(), str::to_owned);
        ApiKey { id, key: text(&issued["key"]), identifier: text(&issued["identifier"]) }
    }

    /// Issues tokens to an existing principal.
    pub fn tokens(&self, username: &str) -> Pair {
        self.tokens_with(username, &[])
    }

    pub fn tokens_with(&self, username: &str, options: &[&str]) -> Pair {
        let issued = object(&self.done(
            &[["token", "issue", username, "--output", "json"].as_slice(), options].concat(),
        ));
        Pair { access: text(&issued["access_token"]), refresh: text(&issued["refresh_token"]) }
    }
}

impl TokenApi {
    pub fn of(countersign: &Countersign) -> Self {
        Self { address: countersign.http, prefix: String::new() }
    }

    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(&Self::json(path, body)).await
    }

    pub async fn form(&self, path: &str, parameters: &[(&str, &str)]) -> Answer {
        self.send(&Self::form_request(path, parameters)).await
    }

    /// Sends `bearer` as the access token.
    pub async fn post_as(&self, bearer: &str, path: &str, body: &Value) -> Answer {
        self.send(&Self::json(path, body).authorization(&format!("Bearer {bearer}"))).await
    }

    pub async fn authenticate(&self, key: &ApiKey) -> Answer {
        self.post("/authenticate", &json!({"key": key.key, "identifier": key.identifier})).await
    }

    /// Like [`Self::authenticate`], but must succeed.
    pub async fn login(&self, key: &ApiKey) -> Pair {
        let answer = self.authenticate(key).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        Pair { access: text(&body["jwt"]), refresh: text(&body["refresh_token"]) }
    }

    pub async fn rotate(&self, refresh_token: &str) -> Answer {
        self.post("/token/refresh", &json!({"token": refresh_token})).await
    }

    /// Like [`Self::rotate`], but must succeed.
    pub async fn rotated(&self, refresh_token: &str) -> Pair {
        let answer = self.rotate(refresh_token).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        Pair::of(&answer)
    }

    /// The status of the answer of `/validate`.
    pub async fn validate(&self, access_token: &str) -> u16 {
        self.post("/validate", &json!({"jwt": access_token})).await.status
    }

    pub fn json(path: &str, body: &Value) -> Request {
        Request::new("POST", path).header("Content-Type", "application/json").body(body.to_string())
    }

    pub fn form_request(path: &str, parameters: &[(&str, &str)]) -> Request {
        let body =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        Request::new("POST", path)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(body)
    }

    pub async fn send(&self, request: &Request) -> Answer {
        let answer = request.clone().below(&self.prefix).send(self.address).await;
        // RFC 6749 section 5.2, except for a wrong method, which is an error of plain HTTP.
        let is_oauth = request.target().starts_with("/oauth2/") && answer.status != 405;
        hold_to_promises_in(
            if is_oauth { "application/json" } else { "application/problem+json" },
            &answer,
        );
        if answer.status >= 400 {
            let problem = answer.json();
            assert!(problem["error"].as_str().is_some_and(|error| !error.is_empty()), "{answer:?}");
            assert_eq!(problem["error_description"], problem["detail"], "{answer:?}");
            assert_eq!(
                answer.header("www-authenticate").is_some(),
                answer.status == 401,
                "{answer:?}"
            );
            assert_eq!(
                answer.header("retry-after").is_some(),
                matches!(answer.status, 429 | 503),
                "{answer:?}"
            );
        }
        answer
    }
}

impl Pair {
    /// By the names that `/token/refresh` and `/oauth2/token` use.
    pub fn of(answer: &Answer) -> Self {
        let body = answer.json();
        Self { access: text(&body["access_token"]), refresh: text(&body["refresh_token"]) }
    }
}

/// The claims of a token, without verification.
pub fn claims_in(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap_or_else(|| panic!("{token} is no JWT"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// The names of a JSON object's members, sorted.
pub fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object
        .as_object()
        .unwrap_or_else(|| panic!("{object}"))
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

fn object(json: &str) -> Value {
    let value: Value =
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error} in {json}"));
    if let Value::Array(items) = &value { items[0].clone() } else { value }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
