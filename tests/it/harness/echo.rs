//! The back end behind the gateways: it answers with what reached it.

use std::net::SocketAddr;

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::json;

use super::http::Answer;

/// Serves until the test ends, on a thread of its own.
#[derive(Debug)]
pub struct Echo {
    pub address: SocketAddr,
}

impl Echo {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                HttpServer::new(|| App::new().default_service(web::to(echo)))
                    .workers(1)
                    .disable_signals()
                    .listen(listener)
                    .unwrap()
                    .run()
                    .await
            })
        });
        Self { address }
    }
}

/// With 200, or with N where the query is `answer=N`.
async fn echo(request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let asked = request.query_string().strip_prefix("answer=").map(|status| status.parse().unwrap());
    let status = StatusCode::from_u16(asked.unwrap_or(200)).unwrap();
    let Seen { method, target, headers, body } = Seen::of(&request, &body);
    HttpResponse::build(status).json(json!({"method": method, "target": target, "headers": headers, "body": body}))
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
        let json = answer.json();
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
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body: String::from_utf8_lossy(body).into_owned(),
        }
    }

    /// Every value that an application might read as header `name`, however it spells it: lower-cased, and with
    /// underscores for dashes, as CGI, WSGI and their like do.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fold = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        self.headers.iter().filter(|(found, _)| fold(found) == fold(name)).map(|(_, value)| value.as_str()).collect()
    }
}
