//! A server that sends scripted answers, and records requests.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

use super::Seen;

/// Serves until the test ends, on its own thread.
pub struct Scripted {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    replies: HashMap<&'static str, VecDeque<Reply>>,
    seen: Vec<Seen>,
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    header: Option<(&'static str, String)>,
    body: Value,
}

impl Reply {
    pub fn of(status: u16) -> Self {
        Self { status, header: None, body: json!({}) }
    }

    #[must_use]
    pub fn header(self, name: &'static str, value: &str) -> Self {
        Self { header: Some((name, value.to_owned())), ..self }
    }

    #[must_use]
    pub fn json(self, body: Value) -> Self {
        Self { body, ..self }
    }
}

impl Scripted {
    /// The replies at each path, in order; the last one is repeated.
    pub fn start(replies: impl IntoIterator<Item = (&'static str, Vec<Reply>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let replies = replies.into_iter().map(|(path, replies)| (path, replies.into())).collect();
        let script = Arc::new(Mutex::new(Script { replies, seen: Vec::new() }));
        let shared = web::Data::from(Arc::clone(&script));
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                HttpServer::new(move || {
                    App::new().app_data(shared.clone()).default_service(web::to(reply))
                })
                .workers(1)
                .disable_signals()
                .listen(listener)
                .unwrap()
                .run()
                .await
            })
        });
        Self { address, script }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests to this path, in order.
    pub fn asked(&self, path: &str) -> Vec<Seen> {
        self.script
            .lock()
            .unwrap()
            .seen
            .iter()
            .filter(|seen| seen.target == path)
            .cloned()
            .collect()
    }
}

async fn reply(
    request: HttpRequest,
    body: web::Bytes,
    script: web::Data<Mutex<Script>>,
) -> HttpResponse {
    let mut script = script.lock().unwrap();
    script.seen.push(Seen::of(&request, &body));
    let reply = match script.replies.get_mut(request.path()) {
        Some(replies) if replies.len() > 1 => replies.pop_front(),
        Some(replies) => replies.front().cloned(),
        None => None,
    };
    let Reply { status, header, body } = reply.unwrap_or_else(|| Reply::of(404));
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    if let Some(header) = header {
        response.insert_header(header);
    }
    response.json(body)
}
