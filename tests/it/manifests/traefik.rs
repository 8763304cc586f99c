//! Traefik 3.7's `forwardAuth`: `pkg/middlewares/auth/forward.go`.

use std::net::SocketAddr;

use serde_json::Value;

use super::passage::{Asked, HOST, Passage};
use crate::harness::http::Request;
use crate::harness::{Manifests, texts};

pub struct Traefik {
    drops_underscores: bool,
    refuses_encoded_slashes: bool,
    routers: Vec<Router>,
    countersign: SocketAddr,
}

struct Router {
    rule: String,
    middleware: Value,
}

impl Traefik {
    /// By the files of the file provider.
    pub fn by_file(manifests: &Manifests, countersign: SocketAddr) -> Self {
        let http = &manifests.file("dynamic.yaml")["http"];
        let routers = http["routers"].as_object().unwrap().values();
        let routers = routers.map(|router| {
            let middlewares = texts(&router["middlewares"]);
            assert_eq!(middlewares.len(), 1, "which runs first? {router}");
            Router::new(&router["rule"], &http["middlewares"][&middlewares[0]])
        });
        Self::new(manifests, routers.collect(), countersign)
    }

    /// By the custom resources.
    pub fn by_crd(manifests: &Manifests, countersign: SocketAddr) -> Self {
        let rules = manifests.named("IngressRoute", "api")["spec"]["routes"].as_array().unwrap();
        let routers = rules.iter().map(|route| {
            let middlewares = route["middlewares"].as_array().unwrap();
            assert_eq!(middlewares.len(), 1, "which runs first? {route}");
            let name = middlewares[0]["name"].as_str().unwrap();
            Router::new(&route["match"], &manifests.named("Middleware", name)["spec"])
        });
        Self::new(manifests, routers.collect(), countersign)
    }

    fn new(manifests: &Manifests, mut routers: Vec<Router>, countersign: SocketAddr) -> Self {
        let entry_point = &manifests.file("traefik.yaml")["entryPoints"]["websecure"]["http"];
        // The longest rule is tried first.
        routers.sort_by_key(|router| std::cmp::Reverse(router.rule.len()));
        Self {
            drops_underscores: entry_point["underscoreHeadersStrategy"] == "delete",
            refuses_encoded_slashes: entry_point["encodedCharacters"]["allowEncodedSlash"] == false,
            routers,
            countersign,
        }
    }

    pub async fn send(&self, asked: &Asked) -> Passage {
        if self.refuses_encoded_slashes && asked.path().to_ascii_lowercase().contains("%2f") {
            return Passage::back(400, None, |_| false);
        }
        let mut asked = asked.clone();
        asked.headers.retain(|(name, _)| !(self.drops_underscores && name.contains('_')));
        let router = self.routers.iter().find(|router| router.matches(asked.path())).unwrap();
        if let Some(custom) = router.middleware["headers"]["customRequestHeaders"].as_object() {
            // An empty value takes a header away.
            asked.headers.retain(|(name, _)| !custom.iter().any(|(taken, value)| taken.eq_ignore_ascii_case(name) && value == ""));
            return Passage::on(&asked, asked.headers.clone());
        }
        self.forward_auth(&asked, &router.middleware["forwardAuth"]).await
    }

    async fn forward_auth(&self, asked: &Asked, config: &Value) -> Passage {
        let Ok(answer) = question(asked, config).try_send(self.countersign).await else {
            return Passage::back(500, None, |_| false);
        };
        if !(200..300).contains(&answer.status) {
            // All of the answer, but for what belongs to the connection.
            let hop = ["connection", "keep-alive", "te", "trailers", "transfer-encoding", "upgrade"];
            return Passage::back(answer.status, Some(&answer), |name| !hop.contains(&name));
        }
        let mut headers = asked.headers.clone();
        for name in texts(&config["authResponseHeaders"]) {
            headers.retain(|(found, _)| !found.eq_ignore_ascii_case(&name));
            headers.extend(answer.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(&name)).cloned());
        }
        Passage::on(asked, headers)
    }
}

/// A GET, with those of the client's headers that are listed, and then Traefik's own, which overwrite.
fn question(asked: &Asked, config: &Value) -> Request {
    assert_eq!(config["trustForwardHeader"], false);
    let address = config["address"].as_str().unwrap();
    let target = &address[address.find("/validate_request").unwrap()..];
    let own = [
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Method", asked.method.as_str()),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Port", "8443"),
        ("X-Forwarded-Host", HOST),
        ("X-Forwarded-Uri", asked.target.as_str()),
    ];
    let mut request = Request::get(target).header("Host", "countersign-http.countersign.svc.cluster.local:8080");
    for name in texts(&config["authRequestHeaders"]) {
        for value in asked.values(&name) {
            request = request.header(&name, value);
        }
    }
    for (name, value) in own {
        request = request.header(name, value);
    }
    request.header("Accept-Encoding", "gzip")
}

impl Router {
    fn new(rule: &Value, middleware: &Value) -> Self {
        assert!(middleware.is_object(), "no middleware for {rule}");
        Self { rule: rule.as_str().unwrap().to_owned(), middleware: middleware.clone() }
    }

    /// By the matchers that the example uses.
    fn matches(&self, path: &str) -> bool {
        self.rule.split(" && ").all(|matcher| {
            let (name, value) = matcher.strip_suffix("`)").unwrap().split_once("(`").unwrap();
            match name {
                "Host" => HOST.split(':').next() == Some(value),
                "Path" => path == value,
                "PathPrefix" => path.starts_with(value),
                other => panic!("{other} is not modelled"),
            }
        })
    }
}
