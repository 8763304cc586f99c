//! A client of the admin API.

use std::net::SocketAddr;

use serde_json::Value;

use super::http::{Answer, Request};
use super::{Countersign, Deployment};

pub const ADMIN_TOKEN: &str = "let me in, please";

/// Sends the admin token with every request, and checks every answer with [`hold_to_promises`].
pub struct Admin {
    pub address: SocketAddr,
}

impl Deployment {
    /// With an admin token.
    #[must_use]
    pub fn administered(self) -> Self {
        self.set("admin.token", ADMIN_TOKEN)
    }
}

impl Admin {
    pub fn of(countersign: &Countersign) -> Self {
        Self { address: countersign.admin }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(&Self::request("GET", path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(
            &Self::request("POST", path)
                .header("Content-Type", "application/json")
                .body(body.to_string()),
        )
        .await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(&Self::patch_request(path, body)).await
    }

    /// Changes it only if its version still is `tag`.
    pub async fn patch_if(&self, path: &str, tag: &str, body: &Value) -> Answer {
        self.send(&Self::patch_request(path, body).header("If-Match", tag)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(&Self::request("DELETE", path)).await
    }

    /// Adds a principal that must not exist yet.
    pub async fn add(&self, principal: &Value) -> Value {
        let added = self.post("/principals", principal).await;
        assert_eq!(added.status, 201, "{added:?}");
        added.json()
    }

    /// Every item of a list, page by page.
    pub async fn all(&self, list: &str) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{list}{cursor}")).await.json();
            items.extend(page["items"].as_array().unwrap().iter().cloned());
            let Some(next) = page["next_cursor"].as_str() else { return items };
            cursor = format!("{}cursor={next}", if list.contains('?') { '&' } else { '?' });
        }
    }

    /// A request to `path` under `/admin/v1`.
    pub fn request(method: &str, path: &str) -> Request {
        Request::new(method, &format!("/admin/v1{path}"))
            .authorization(&format!("Bearer {ADMIN_TOKEN}"))
    }

    fn patch_request(path: &str, body: &Value) -> Request {
        Self::request("PATCH", path)
            .header("Content-Type", "application/merge-patch+json")
            .body(body.to_string())
    }

    pub async fn send(&self, request: &Request) -> Answer {
        let answer = request.send(self.address).await;
        hold_to_promises(&answer);
        answer
    }
}

/// Checks what every answer must have: caches may not store it, and errors are problem documents.
pub fn hold_to_promises(answer: &Answer) {
    hold_to_promises_in("application/problem+json", answer);
}

/// Like [`hold_to_promises`], with problem documents of `media_type`.
pub fn hold_to_promises_in(media_type: &str, answer: &Answer) {
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    if answer.status >= 400 && !answer.body.is_empty() {
        assert_eq!(answer.header("content-type"), Some(media_type), "{answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], answer.status, "{answer:?}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{answer:?}");
    }
}
