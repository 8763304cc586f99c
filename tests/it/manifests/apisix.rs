//! Apache APISIX 3.17's `forward-auth`: `apisix/plugins/forward-auth.lua`.

use std::net::SocketAddr;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::passage::{Asked, PORT, Passage};
use crate::harness::http::{Answer, Request};
use crate::harness::{Manifests, texts};

pub struct Apisix {
    drops_underscores: bool,
    routes: Vec<Route>,
    countersign: SocketAddr,
}

struct Route {
    uri: String,
    forward_auth: Option<Value>,
    /// Settings of `proxy-rewrite`.
    removes: Vec<String>,
}

impl Apisix {
    /// From the files of the standalone mode.
    pub fn by_file(manifests: &Manifests, countersign: SocketAddr) -> Self {
        let routes = manifests.file("apisix.yaml")["routes"].as_array().unwrap().iter();
        let routes = routes
            .map(|route| Route::new(&route["uri"], |plugin| route["plugins"].get(plugin).cloned()));
        Self::new(manifests, routes.collect(), countersign)
    }

    /// From the custom resource of the ingress controller.
    pub fn by_crd(manifests: &Manifests, countersign: SocketAddr) -> Self {
        let routes =
            manifests.named("ApisixRoute", "api")["spec"]["http"].as_array().unwrap().iter();
        let routes = routes.map(|route| {
            let plugins = route["plugins"].as_array().unwrap();
            Route::new(&route["match"]["paths"][0], |name| {
                plugins
                    .iter()
                    .find(|plugin| plugin["name"] == name && plugin["enable"] == true)
                    .map(|it| it["config"].clone())
            })
        });
        Self::new(manifests, routes.collect(), countersign)
    }

    fn new(manifests: &Manifests, mut routes: Vec<Route>, countersign: SocketAddr) -> Self {
        let http = &manifests.file("config.yaml")["nginx_config"]["http"];
        // The radix tree prefers the longest prefix, and an exact path to any prefix.
        routes.sort_by_key(|route| (route.uri.ends_with('*'), std::cmp::Reverse(route.uri.len())));
        Self { drops_underscores: http["underscores_in_headers"] == "off", routes, countersign }
    }

    pub async fn send(&self, asked: &Asked) -> Passage {
        let mut asked = asked.clone();
        asked.headers.retain(|(name, _)| !(self.drops_underscores && name.contains('_')));
        let route = self.routes.iter().find(|route| route.matches(asked.path())).unwrap();
        // proxy-rewrite runs before forward-auth.
        asked.headers.retain(|(name, _)| {
            !route.removes.iter().any(|removed| removed.eq_ignore_ascii_case(name))
        });
        match &route.forward_auth {
            Some(config) => self.forward_auth(&asked, config).await,
            None => Passage::on(&asked, asked.headers.clone()),
        }
    }

    async fn forward_auth(&self, asked: &Asked, config: &Value) -> Passage {
        let Ok(answer) = question(asked, config).try_send(self.countersign).await else {
            assert_eq!(config["allow_degradation"], false);
            return Passage::back(status(&config["status_on_error"]), None, |_| false);
        };
        if answer.status >= 300 {
            let listed = texts(&config["client_headers"]);
            return Passage::back(answer.status, Some(&answer), |name| {
                listed.iter().any(|it| it.eq_ignore_ascii_case(name))
            });
        }
        Passage::on(asked, upstream_headers(asked, config, &answer))
    }
}

/// The listed headers of the client, except those that APISIX sets itself.
fn question(asked: &Asked, config: &Value) -> Request {
    let uri = config["uri"].as_str().unwrap();
    let mut headers = vec![
        ("X-Forwarded-Proto".to_owned(), "http".to_owned()),
        ("X-Forwarded-Method".to_owned(), asked.method.clone()),
        // nginx's `$host`: without the port.
        ("X-Forwarded-Host".to_owned(), asked.server()),
        // Percent-decoded.
        (
            "X-Forwarded-Uri".to_owned(),
            percent_decode_str(&asked.target).decode_utf8().unwrap().into_owned(),
        ),
        ("X-Forwarded-For".to_owned(), "192.0.2.7".to_owned()),
    ];
    for (name, value) in config["extra_headers"].as_object().unwrap() {
        headers.retain(|(found, _)| found != name);
        headers.push((name.clone(), resolved(value.as_str().unwrap(), asked)));
    }
    for name in texts(&config["request_headers"]) {
        if !headers.iter().any(|(found, _)| *found == name) {
            headers.extend(asked.values(&name).first().map(|value| (name, (*value).to_owned())));
        }
    }
    let request = Request::get(&uri[uri.find("/validate_request").unwrap()..]);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// Each is set to the answer's value, or cleared; nginx treats an empty value as none.
fn upstream_headers(asked: &Asked, config: &Value, answer: &Answer) -> Vec<(String, String)> {
    let mut headers = asked.headers.clone();
    for name in texts(&config["upstream_headers"]) {
        headers.retain(|(found, _)| !found.eq_ignore_ascii_case(&name));
        let value = answer.header(&name.to_ascii_lowercase()).filter(|value| !value.is_empty());
        headers.extend(value.map(|value| (name, value.to_owned())));
    }
    headers
}

/// Variables; only those that the example uses.
fn resolved(value: &str, asked: &Asked) -> String {
    let variables = [
        ("$server_port", PORT.to_string()),
        ("$host", asked.server()),
        ("$http_host", asked.host_line.clone()),
        ("$real_request_uri", asked.path_and_query().to_owned()),
        ("$remote_addr", "192.0.2.7".to_owned()),
    ];
    let resolved =
        variables.iter().fold(value.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!resolved.contains('$'), "{value} is not modelled");
    resolved
}

fn status(value: &Value) -> u16 {
    value.as_u64().and_then(|status| status.try_into().ok()).unwrap()
}

impl Route {
    fn new(uri: &Value, plugin: impl Fn(&str) -> Option<Value>) -> Self {
        let removes = plugin("proxy-rewrite")
            .map(|config| texts(&config["headers"]["remove"]))
            .unwrap_or_default();
        Self {
            uri: uri.as_str().unwrap().to_owned(),
            forward_auth: plugin("forward-auth"),
            removes,
        }
    }

    fn matches(&self, path: &str) -> bool {
        self.uri.strip_suffix('*').map_or(path == self.uri, |prefix| path.starts_with(prefix))
    }
}
