//! The back end behind the gateways. It answers with the request that it received.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::HttpRequest;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::http::Answer;

/// More than any test sends.
const HEADERS_MAX: usize = 1_000;

/// Serves until the test ends, on its own thread.
#[derive(Debug)]
pub struct Echo {
    pub address: SocketAddr,
}

impl Echo {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                serve(tokio::net::TcpListener::from_std(listener).unwrap()).await;
            });
        });
        Self { address }
    }

    /// A different back end, which also serves `/healthz`.
    pub const fn at(address: SocketAddr) -> Self {
        Self { address }
    }
}

async fn serve(listener: tokio::net::TcpListener) {
    let next_event = Arc::new(Notify::new());
    let app = Router::new()
        .route("/socket", get(socket).fallback(echo))
        .route("/events", get(events).fallback(echo))
        .route("/events/next", post(send_next_event))
        .fallback(echo)
        .with_state(next_event);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let mut server = hyper::server::conn::http1::Builder::new();
            let connection =
                server.max_headers(HEADERS_MAX).serve_connection(TokioIo::new(stream), service);
            // The test does not care about clients that disconnect.
            let _ = connection.with_upgrades().await;
        });
    }
}

/// Answers with 200, or with N if the query is `answer=N`. At `/with-cors` it sets its own CORS
/// headers.
async fn echo(method: Method, target: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let asked = target
        .query()
        .and_then(|query| query.strip_prefix("answer="))
        .map(|status| status.parse().unwrap());
    let status = StatusCode::from_u16(asked.unwrap_or(200)).unwrap();
    let seen = seen(&method, &target, &headers, &body);
    let mut answer =
        (status, [("content-type", "application/json")], seen.to_string()).into_response();
    if target.path() == "/with-cors" {
        let headers = answer.headers_mut();
        headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        headers.insert("access-control-allow-credentials", HeaderValue::from_static("true"));
        headers.insert("access-control-expose-headers", HeaderValue::from_static("X-Pages"));
    }
    answer
}

/// A WebSocket that sends its handshake, and then echoes every message.
async fn socket(
    upgrade: WebSocketUpgrade,
    method: Method,
    target: Uri,
    headers: HeaderMap,
) -> Response {
    let greeting = seen(&method, &target, &headers, b"").to_string();
    upgrade.on_upgrade(async move |mut socket| {
        let mut next = Some(Message::Text(greeting.into()));
        while let Some(message) = next {
            if socket.send(message).await.is_err() {
                return;
            }
            next = loop {
                match socket.recv().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => break Some(message),
                    Some(Err(_)) | None => break None,
                }
            };
        }
    })
}

/// Server-sent events: the received request first, and another event for each call of
/// `/events/next`.
async fn events(
    State(next): State<Arc<Notify>>,
    method: Method,
    target: Uri,
    headers: HeaderMap,
) -> Response {
    let greeting = seen(&method, &target, &headers, b"").to_string();
    let stream = futures_util::stream::unfold(Some(greeting), move |event| {
        let next = Arc::clone(&next);
        async move {
            let event = if let Some(greeting) = event {
                greeting
            } else {
                next.notified().await;
                "next".to_owned()
            };
            Some((Ok::<_, std::convert::Infallible>(format!("data: {event}\n\n")), None))
        }
    });
    ([("content-type", "text/event-stream")], Body::from_stream(stream)).into_response()
}

async fn send_next_event(State(next): State<Arc<Notify>>) {
    next.notify_one();
}

fn seen(method: &Method, target: &Uri, headers: &HeaderMap, body: &[u8]) -> Value {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    json!({"method": method.as_str(), "target": target.to_string(), "headers": headers, "body": String::from_utf8_lossy(body)})
}

/// A request as it reached the back end.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    /// Reads the echo's answer, which only an allowed request gets.
    pub fn by(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "not allowed: {answer:?}");
        Self::told(&answer.json())
    }

    /// Reads what the echo sends over a WebSocket or as an event.
    pub fn told(json: &Value) -> Self {
        Self {
            method: json["method"].as_str().unwrap().to_owned(),
            target: json["target"].as_str().unwrap().to_owned(),
            headers: serde_json::from_value(json["headers"].clone()).unwrap(),
            body: json["body"].as_str().unwrap().to_owned(),
        }
    }

    pub fn of(request: &HttpRequest, body: &[u8]) -> Self {
        let headers = request.headers().iter();
        Self {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: headers
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect(),
            body: String::from_utf8_lossy(body).into_owned(),
        }
    }

    /// Every value that an application might read as header `name`, in any spelling: lower case,
    /// and with underscores for dashes, as CGI, WSGI and similar interfaces use.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fold = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        self.headers
            .iter()
            .filter(|(found, _)| fold(found) == fold(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}
