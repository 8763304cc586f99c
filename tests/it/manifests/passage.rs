//! A client's request, and its result.

use std::net::SocketAddr;

use crate::harness::Seen;
use crate::harness::http::{Answer, Request};

/// The host that clients of modelled gateways use.
pub const HOST: &str = "api.example.com:8443";

/// The address of modelled gateways.
pub const PORT: u16 = 8443;

/// The value of identity headers that clients forge.
pub const MADE_UP: &str = "made-up";

/// A client's request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub target: String,
    /// The Host line, for modelled gateways.
    pub host_line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target, host_line) = (method.to_owned(), target.to_owned(), HOST.to_owned());
        Self { method, target, host_line, headers: Vec::new(), body: String::new() }
    }

    /// Adds a header, even if there is one of that name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this Host line.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host_line);
        self.header("Host", host)
    }

    #[must_use]
    pub fn authorization(self, value: &str) -> Self {
        self.header("Authorization", value)
    }

    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.path_and_query().split('?').next().unwrap_or_default()
    }

    /// The target without its host, if it names one.
    pub fn path_and_query(&self) -> &str {
        let rest = self.target.strip_prefix("http://");
        rest.map_or(&self.target, |rest| rest.find('/').map_or("/", |start| &rest[start..]))
    }

    /// nginx's `$host`: from the target or else from the Host line, in lower case and without the
    /// port.
    pub fn server(&self) -> String {
        let named = self.target.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        named.unwrap_or(&self.host_line).split(':').next().unwrap_or_default().to_ascii_lowercase()
    }

    /// The values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Sends the request to a real gateway in front of an echo.
    pub async fn through(&self, gateway: SocketAddr) -> Passage {
        let mut request = Request::new(&self.method, &self.target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if !self.body.is_empty() {
            request = request.body(self.body.as_str());
        }
        let answer = request.send(gateway).await;
        // The gateway's own answer has no body.
        let is_of_the_back_end = answer.status == 200 && !answer.body.is_empty();
        Passage {
            seen: is_of_the_back_end.then(|| Seen::by(&answer)),
            status: answer.status,
            headers: answer.headers,
        }
    }
}

/// The result of a request.
#[derive(Debug)]
pub struct Passage {
    /// Sent by the client.
    pub status: u16,
    /// The answer that the client gets. Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The request that the back end gets; `None` if it gets none.
    pub seen: Option<Seen>,
}

impl Passage {
    /// Forwards to the back end, with these headers.
    pub fn on(asked: &Asked, headers: Vec<(String, String)>) -> Self {
        let seen = Seen {
            method: asked.method.clone(),
            target: asked.target.clone(),
            headers,
            body: asked.body.clone(),
        };
        Self { status: 200, headers: Vec::new(), seen: Some(seen) }
    }

    /// Answers the client, with the selected headers of an answer.
    pub fn back(status: u16, answer: Option<&Answer>, wanted: impl Fn(&str) -> bool) -> Self {
        let headers = answer.map_or(&[][..], |answer| &answer.headers);
        Self {
            status,
            headers: headers.iter().filter(|(name, _)| wanted(name)).cloned().collect(),
            seen: None,
        }
    }

    pub fn seen(&self) -> &Seen {
        self.seen.as_ref().unwrap_or_else(|| panic!("not allowed: {self:?}"))
    }

    /// The code is in the one header that every gateway passes on.
    pub fn assert_challenge(&self, code: &str) {
        let challenge = self.headers.iter().find(|(name, _)| name == "www-authenticate");
        let (_, challenge) = challenge.unwrap_or_else(|| panic!("no challenge in {self:?}"));
        assert!(
            challenge.contains(&format!("error=\"{code}\"")),
            "{challenge} does not say {code}"
        );
    }
}
