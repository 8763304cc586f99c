//! HTTP: decisions for nginx, Envoy's HTTP mode and every forward-auth gateway; tokens; liveness;
//! and, on a separate listener, what operators use.

/// An application with `$door` as its state. A macro, because actix-web has no name for what it
/// returns.
macro_rules! app {
    ($door:expr, $routes:expr) => {
        App::new()
            .app_data(web::Data::new($door))
            .configure($routes)
            .default_service(web::to(not_found))
    };
}

mod admin;
mod admin_token;
mod bridge;
mod decision;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod original;
mod peer;
pub mod probe;
mod reading;
mod route;
mod throttle;
mod tokens;

use std::{rc::Rc, sync::Arc, thread};

use actix_web::{
    App, HttpResponse, Route,
    guard::{Any, Get, Head},
    web,
};
use hyper::header::{HeaderName, HeaderValue};

use self::bridge::Bridge;
use self::tokens::TokenApi;
pub use self::{
    admin::AdminDoor,
    tokens::{TokenDoor, token_endpoint},
};
pub use super::response::ResponseConfig;
use super::{
    in_flight::InFlight,
    listen::{
        self, Activity, Connection, ListenError, Listener, Listening, Peer, Protocol, Served,
        Stream, Watched,
    },
    response::PROBLEM_JSON,
    tls::ServerTls,
};
use crate::{engine::verify::Verifier, telemetry::connections::ConnectionCounts};

/// The door for decisions and tokens.
#[derive(Clone, Debug)]
pub struct HttpDoor {
    verifier: Arc<Verifier>,
    tokens: Arc<TokenApi>,
    responses: Arc<ResponseConfig>,
    url_prefix: Arc<str>,
    in_flight: Arc<InFlight>,
    /// The credentials header of the response settings, as the HTTP library's type.
    credentials_header: HeaderName,
    attempt_header: Option<HeaderName>,
    headers_to_remove: HeaderValue,
}

/// A setting holds a name that is not a valid header name.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} cannot be the name of a header")]
pub struct BadHeaderName {
    name: Box<str>,
}

impl HttpDoor {
    /// A door to `verifier` and `tokens`, with `url_prefix` before every path, for up to
    /// `max_in_flight` requests at once.
    pub fn new(
        verifier: Arc<Verifier>,
        tokens: TokenDoor,
        responses: Arc<ResponseConfig>,
        url_prefix: Arc<str>,
        max_in_flight: usize,
    ) -> Result<Self, BadHeaderName> {
        let name = |name: &str| {
            HeaderName::try_from(name).map_err(|_| BadHeaderName { name: name.into() })
        };
        let credentials_header = name(&responses.credentials_header)?;
        let attempt_header = responses.attempt_header.as_deref().map(name).transpose()?;
        let headers_to_remove = HeaderValue::from(credentials_header.clone());
        let tokens = Arc::new(TokenApi::new(tokens, &url_prefix));
        let in_flight = InFlight::new(max_in_flight);
        Ok(Self {
            verifier,
            tokens,
            responses,
            url_prefix,
            in_flight,
            credentials_header,
            attempt_header,
            headers_to_remove,
        })
    }

    /// Serves decisions and tokens on `listener`, with one thread per core.
    pub fn serve(
        self,
        listener: Listener,
        tls: Option<&ServerTls>,
        listening: Listening,
    ) -> Result<Served, ListenError> {
        let threads = thread::available_parallelism().map_or(1, Into::into);
        let serving = Serving { counts: Arc::clone(&listening.counts), door: self };
        listen::serve(listener, threads, tls.map(ServerTls::for_http).as_ref(), &serving, listening)
    }

    /// The paths of the liveness check.
    fn alive_at(&self) -> Vec<String> {
        let prefix = &self.url_prefix;
        let mut paths: Vec<String> =
            ["/", "/livez", "/health"].map(|path| format!("{prefix}{path}")).into();
        if !prefix.is_empty() {
            paths.push(prefix.to_string());
        }
        paths
    }

    /// All routes other than decisions.
    fn routes(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        let (prefix, tokens, alive_at) =
            (Arc::clone(&self.url_prefix), Arc::clone(&self.tokens), self.alive_at());
        move |config| {
            config.service(web::resource(alive_at).route(get().to(health::alive)));
            tokens::routes(config, &prefix, &tokens);
        }
    }
}

/// The door on its listener.
#[derive(Clone, Debug)]
struct Serving {
    door: HttpDoor,
    counts: Arc<ConnectionCounts>,
}

/// The door on one worker thread.
#[derive(Debug)]
struct HttpWorker {
    door: HttpDoor,
    /// The connection counts of the listener.
    counts: Arc<ConnectionCounts>,
    alive_at: Vec<String>,
    app: Bridge,
}

impl Protocol for Serving {
    type Ready = Rc<HttpWorker>;

    async fn prepare(self) -> Rc<HttpWorker> {
        let Self { door, counts } = self;
        let app = Bridge::to(app!(door.clone(), door.routes())).await;
        Rc::new(HttpWorker { alive_at: door.alive_at(), door, counts, app })
    }

    fn serve<S: Stream>(
        worker: &Rc<HttpWorker>,
        stream: Watched<S>,
        peer: Peer,
        activity: &Rc<Activity>,
    ) -> impl Connection {
        let (worker, serving) = (Rc::clone(worker), Rc::clone(activity));
        listen::serve_http(stream, activity, move |request| {
            let (worker, activity) = (Rc::clone(&worker), Rc::clone(&serving));
            async move { worker.answer(request, peer, &activity).await }
        })
    }

    fn refusal() -> Vec<u8> {
        listen::too_many_connections()
    }
}

impl HttpWorker {
    /// The number of requests in flight is checked first, except for liveness, which does not
    /// depend on load.
    async fn answer(
        &self,
        request: hyper::Request<hyper::body::Incoming>,
        peer: Peer,
        activity: &Rc<Activity>,
    ) -> hyper::Response<http_body_util::Full<bytes::Bytes>> {
        activity.standing().begin();
        let place = self.door.in_flight.enter();
        if route::is_question(&self.door.url_prefix, request.uri()) {
            // Its body carries no information and is not read.
            let (request, _) = request.into_parts();
            return decision::answer(request, &self.door, activity.standing(), place.is_none())
                .await;
        }
        if place.is_none() && !self.alive_at.iter().any(|path| path == request.uri().path()) {
            self.counts.overloaded();
            let refusal = tokens::overloaded(&self.door.url_prefix, request.uri().path());
            return Box::pin(bridge::give_back(refusal)).await;
        }
        // Boxed, so that a decision does not carry the space for this future around.
        Box::pin(self.app.answer(request, peer, activity)).await
    }
}

/// `GET` or `HEAD`; a resource that can be read also answers without its body.
fn get() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

async fn not_found() -> HttpResponse {
    let problem = serde_json::json!({ "type": "about:blank", "title": "Not Found", "status": 404 });
    HttpResponse::NotFound().content_type(PROBLEM_JSON).body(problem.to_string())
}
