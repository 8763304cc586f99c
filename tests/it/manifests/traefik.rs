//! What Traefik 3.7 makes of its manifests: routers and middlewares, run by a real one that reads
//! them from files.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::passage::HOST;
use crate::harness::{Countersign, Echo, Manifests, StandIn, free_port};

pub struct Running(StandIn);

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// From the files of the file provider, with other addresses.
    pub async fn by_file(manifests: &Manifests, countersign: &Countersign, echo: &Echo) -> Self {
        let [address, way] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let elsewhere = |document: &Value| {
            let text = document
                .to_string()
                .replace("127.0.0.1:8000", &address.to_string())
                .replace("127.0.0.1:8079", &way.to_string());
            let text = text
                .replace("127.0.0.1:8080", "{countersign}")
                .replace("127.0.0.1:3000", &echo.address.to_string());
            serde_json::from_str(&text.replace("{countersign}", &countersign.http.to_string()))
                .unwrap()
        };
        let [fixed, dynamic] =
            ["traefik.yaml", "dynamic.yaml"].map(|name| elsewhere(manifests.file(name)));
        Self(StandIn::traefik(address, fixed, &dynamic, HOST).await)
    }

    /// From the custom resources, at the entry point that they name.
    pub async fn by_crd(manifests: &Manifests, countersign: &Countersign, echo: &Echo) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let route = &manifests.named("IngressRoute", "api")["spec"];
        let mut routers = Map::new();
        for (number, rule) in route["routes"].as_array().unwrap().iter().enumerate() {
            let middlewares: Vec<_> = rule["middlewares"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["name"].clone())
                .collect();
            let mut router = json!({
                "entryPoints": route["entryPoints"],
                "rule": rule["match"],
                "middlewares": middlewares,
                "service": rule["services"][0]["name"],
            });
            if let Some(priority) = rule.get("priority") {
                router["priority"] = priority.clone();
            }
            routers.insert(format!("api-{number}"), router);
        }
        let mut middlewares = Map::new();
        for middleware in manifests.kind("Middleware", None) {
            let mut spec = middleware["spec"].clone();
            if let Some(address) = spec.pointer_mut("/forwardAuth/address") {
                let question = address.as_str().unwrap();
                let path = &question[question.find("/validate_request").unwrap()..];
                *address = format!("http://{}{path}", countersign.http).into();
            }
            middlewares.insert(middleware["metadata"]["name"].as_str().unwrap().to_owned(), spec);
        }
        let backend =
            json!({"loadBalancer": {"servers": [{"url": format!("http://{}", echo.address)}]}});
        let dynamic = json!({"http": {"routers": routers, "middlewares": middlewares, "services": {"backend": backend}}});
        // Its options are those of the example's own entry point.
        let gateway = &manifests.file("traefik.yaml")["entryPoints"]["gateway"];
        let entry_point = json!({"address": address.to_string(), "http": gateway["http"]});
        let fixed =
            json!({"entryPoints": {route["entryPoints"][0].as_str().unwrap(): entry_point}});
        Self(StandIn::traefik(address, fixed, &dynamic, HOST).await)
    }
}
