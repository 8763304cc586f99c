//! Access tokens for clients that hold an API key: fetched, cached, renewed and attached to
//! requests.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    domain::json,
    roots::{Roots, RootsError},
};

/// How long before its expiry a token is renewed, so that it does not expire on its way.
const RENEWED_BEFORE: Duration = Duration::from_secs(30);
/// Timeout of a request to the service.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Exchanges an API key for access tokens and sends requests with them. Share one session among all
/// tasks: they share its token, and wait for one renewal together.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use countersign::client::Session;
///
/// let identifier = "0e1b0a5e-6f55-4d3e-8d0a-6a4f7a1f3c52".parse()?;
/// let session = Session::new("https://auth.example.com", identifier, std::env::var("COUNTERSIGN_API_KEY")?.into())?;
/// let response = session.send(reqwest::Client::new().get("https://api.example.com/orders")).await?;
/// # let _ = response;
/// # Ok(())
/// # }
/// ```
pub struct Session {
    http: reqwest::Client,
    server: String,
    identifier: Uuid,
    key: SecretString,
    held: Mutex<Held>,
}

/// The tokens received so far.
#[derive(Default)]
struct Held {
    access_token: Option<AccessToken>,
    refresh_token: Option<SecretString>,
}

#[derive(Clone)]
struct AccessToken {
    text: SecretString,
    /// `None` if the token has no expiry.
    expires_at: Option<SystemTime>,
}

/// No access token could be obtained, or the request could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The service does not accept the API key or the identifier, or no longer does.
    #[error("the service refused the API key")]
    Refused,
    /// There were too many failed attempts.
    #[error("the service asks to try again later")]
    TryLater {
        /// How long to wait, if the service says so.
        after: Option<Duration>,
    },
    /// The service answered with a status that the token API does not use.
    #[error("the service answered {status} instead of a token")]
    Unexpected {
        /// The status of the answer.
        status: StatusCode,
    },
    /// The answer is not a token response.
    #[error("the service's answer is no token")]
    NoToken(#[from] serde_json::Error),
    /// No root certificates to verify the service with could be loaded.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The service, or the receiver of the request, cannot be reached.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

#[derive(Serialize)]
struct Authenticate<'a> {
    key: &'a str,
    identifier: Uuid,
}

#[derive(Serialize)]
struct Refresh<'a> {
    refresh_token: &'a str,
    identifier: Uuid,
}

#[derive(Deserialize)]
struct Tokens {
    jwt: SecretString,
    #[serde(default)]
    refresh_token: Option<SecretString>,
}

impl Session {
    /// A session with the service at `server`, the URL before `/authenticate`, for the holder of
    /// `key`. Sends nothing yet. The service's certificate must be issued by an authority that the
    /// system trusts; the environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    pub fn new(server: &str, identifier: Uuid, key: SecretString) -> Result<Self, SessionError> {
        // Without TLS, no root certificates are needed.
        let builder =
            reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let builder = if is_https(server) {
            builder.tls_backend_preconfigured(Roots::load(None)?.for_reqwest())
        } else {
            builder.tls_certs_only([])
        };
        let http = builder.build()?;
        Ok(Self::with_client(http, server, identifier, key))
    }

    /// The same with an existing client; it should not follow redirects, and should have a timeout.
    pub fn with_client(
        http: reqwest::Client,
        server: &str,
        identifier: Uuid,
        key: SecretString,
    ) -> Self {
        Self {
            http,
            server: server.trim_end_matches('/').to_owned(),
            identifier,
            key,
            held: Mutex::default(),
        }
    }

    /// An access token that stays valid for a while, fetched from the service if there is none
    /// cached.
    pub async fn access_token(&self) -> Result<SecretString, SessionError> {
        self.another_than(None).await
    }

    /// Sends `request` with an access token. If the answer is 401 and the body can be sent again,
    /// retries once with a new token.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, SessionError> {
        let token = self.access_token().await?;
        let again = request.try_clone();
        let response = request.bearer_auth(token.expose_secret()).send().await?;
        let Some(again) = again.filter(|_| response.status() == StatusCode::UNAUTHORIZED) else {
            return Ok(response);
        };
        let renewed = self.another_than(Some(&token)).await?;
        Ok(again.bearer_auth(renewed.expose_secret()).send().await?)
    }

    /// The cached token, unless it is about to expire or is the one that was `refused`.
    async fn another_than(
        &self,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, SessionError> {
        let mut held = self.held.lock().await;
        if let Some(token) = &held.access_token {
            let was_refused = refused
                .is_some_and(|refused| refused.expose_secret() == token.text.expose_secret());
            let lasts = token.expires_at.is_none_or(|at| SystemTime::now() + RENEWED_BEFORE < at);
            if lasts && !was_refused {
                return Ok(token.text.clone());
            }
        }
        held.access_token = None;
        let tokens = self.renew(&mut held).await?;
        if tokens.refresh_token.is_some() {
            held.refresh_token = tokens.refresh_token;
        }
        held.access_token = Some(AccessToken {
            expires_at: expiry(tokens.jwt.expose_secret()),
            text: tokens.jwt.clone(),
        });
        Ok(tokens.jwt)
    }

    /// Renews with the refresh token or, if that is refused, with the API key.
    async fn renew(&self, held: &mut Held) -> Result<Tokens, SessionError> {
        if let Some(refresh_token) = &held.refresh_token {
            let request = Refresh {
                refresh_token: refresh_token.expose_secret(),
                identifier: self.identifier,
            };
            match self.ask("/refresh", &request).await {
                Err(SessionError::Refused) => held.refresh_token = None,
                answered => return answered,
            }
        }
        self.ask(
            "/authenticate",
            &Authenticate { key: self.key.expose_secret(), identifier: self.identifier },
        )
        .await
    }

    async fn ask(&self, path: &str, request: &impl Serialize) -> Result<Tokens, SessionError> {
        let body = serde_json::to_vec(request)?;
        let url = format!("{}{path}", self.server);
        let response =
            self.http.post(url).header(CONTENT_TYPE, "application/json").body(body).send().await?;
        match response.status() {
            StatusCode::OK => Ok(json::object(&response.bytes().await?)?),
            StatusCode::UNAUTHORIZED => Err(SessionError::Refused),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok()?.parse().ok());
                Err(SessionError::TryLater { after: seconds.map(Duration::from_secs) })
            }
            status => Err(SessionError::Unexpected { status }),
        }
    }
}

fn is_https(url: &str) -> bool {
    url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

/// The expiry that a token claims. Does not verify the token.
fn expiry(jwt: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let Claims { exp } = json::object(&payload).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp))
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.server)
            .field("identifier", &self.identifier)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_itself_when_it_ends() {
        let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
        let token = format!("{}.{}.x", part("{}"), part(r#"{"exp":1800000001}"#));
        assert_eq!(
            expiry(&token),
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_001))
        );
        for other in [
            "",
            "a.b",
            "a.!.c",
            &format!("a.{}.c", part("{}")),
            &format!("a.{}.c", part(r#"{"exp":"soon"}"#)),
        ] {
            assert_eq!(expiry(other), None, "{other}");
        }
    }

    #[test]
    fn debug_tells_no_secret() {
        let session =
            Session::new("http://localhost:1/", Uuid::nil(), "csk_secret".into()).unwrap();
        let text = format!("{session:?}");
        assert!(text.contains("http://localhost:1\"") && !text.contains("secret"), "{text}");
    }
}
