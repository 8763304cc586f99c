//! Access tokens, for clients that hold an API key: fetched, kept, renewed and presented.

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

/// How long before its end a token is renewed, so that it does not end on its way.
const RENEWED_BEFORE: Duration = Duration::from_secs(30);
/// How long the service may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Exchanges an API key for access tokens and presents them. Share one among all tasks: they share
/// its token, and wait for one renewal together.
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

/// What was given so far.
#[derive(Default)]
struct Held {
    access_token: Option<AccessToken>,
    refresh_token: Option<SecretString>,
}

#[derive(Clone)]
struct AccessToken {
    text: SecretString,
    /// `None` where the token does not say.
    expires_at: Option<SystemTime>,
}

/// No access token could be had, or the request could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The service takes neither the API key nor the identifier, or no longer.
    #[error("the service refused the API key")]
    Refused,
    /// Too many refused attempts.
    #[error("the service asks to try again later")]
    TryLater {
        /// After how long, where the service says.
        after: Option<Duration>,
    },
    /// An answer that the token API does not give.
    #[error("the service answered {status} instead of a token")]
    Unexpected {
        /// Its status.
        status: StatusCode,
    },
    /// The answer is not what the token API gives.
    #[error("the service's answer is no token")]
    NoToken(#[from] serde_json::Error),
    /// There is nothing to verify the service by.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The service, or the other end of the request, cannot be reached.
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
    /// `key`. Nothing is sent yet. The service's certificate has to be of one of the system's
    /// authorities; the environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    pub fn new(server: &str, identifier: Uuid, key: SecretString) -> Result<Self, SessionError> {
        // Without TLS, none is needed.
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

    /// The same over a client that is there already; it should neither follow redirects nor wait
    /// for ever.
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

    /// An access token that may be used for a while, from the service where there is none at hand.
    pub async fn access_token(&self) -> Result<SecretString, SessionError> {
        self.another_than(None).await
    }

    /// Sends `request` with an access token. Where it is refused as unauthenticated, and its body
    /// can be sent again, once more with a new one.
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

    /// The token at hand, unless it is about to end or is the one that was `refused`.
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

    /// By the refresh token, and where that is refused, by the API key.
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

/// When a token ends, by its own word. Whether it is good is for others to say.
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
