//! What ingress-nginx 1.15 makes of its manifests: a configuration for nginx, which runs for real.
//!
//! From `rootfs/etc/nginx/template/nginx.tmpl`, only the parts that matter here: the location of
//! the auth subrequest, and that of the application.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::{Countersign, Echo, Manifests, StandIn, free_port};

const ANNOTATION: &str = "nginx.ingress.kubernetes.io";

pub struct Running(StandIn);

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

pub async fn start(manifests: &Manifests, countersign: &Countersign, echo: &Echo) -> Running {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let controller = &manifests.named("ConfigMap", "ingress-nginx-controller")["data"];
    let underscores =
        if controller["enable-underscores-in-headers"] == "true" { "on" } else { "off" };
    let buffers = controller["large-client-header-buffers"].as_str().unwrap();
    let mut config =
        format!("underscores_in_headers {underscores};\nlarge_client_header_buffers {buffers};\n");
    // The controller keeps a client's own id.
    config += "map $http_x_request_id $req_id { default $http_x_request_id; \"\" $request_id; }\n";
    config += "map $scheme $pass_access_scheme { default $scheme; }\n";
    writeln!(config, "server {{\nlisten {address};").unwrap();
    for ingress in manifests.kind("Ingress", None) {
        let places =
            Places { manifests, ingress, countersign: countersign.http, backend: echo.address };
        config += &places.question();
        config += &places.application();
    }
    config += "}\n";
    Running(StandIn::nginx(address, &config).await)
}

struct Places<'a> {
    manifests: &'a Manifests,
    ingress: &'a Value,
    countersign: SocketAddr,
    backend: SocketAddr,
}

impl Places<'_> {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.ingress["metadata"]["annotations"][format!("{ANNOTATION}/{name}")].as_str()
    }

    fn name(&self) -> &str {
        self.ingress["metadata"]["name"].as_str().unwrap()
    }

    fn question(&self) -> String {
        let Some(url) = self.annotation("auth-url") else { return String::new() };
        let target = &url[url.find("/validate_request").unwrap()..];
        let buffer = self.annotation("proxy-buffer-size").unwrap_or("4k");
        let name = self.name();
        let mut location = format!("location = /_external-auth-{name} {{\ninternal;\n");
        for (header, value) in [
            ("Content-Length", "\"\""),
            ("X-Forwarded-Proto", "\"\""),
            ("X-Request-ID", "$req_id"),
            ("Host", "countersign-http.countersign.svc.cluster.local"),
            ("X-Original-URL", "$scheme://$http_host$request_uri"),
            ("X-Original-Method", "$request_method"),
            ("X-Sent-From", "\"nginx-ingress-controller\""),
            ("X-Real-IP", "$remote_addr"),
            ("X-Forwarded-For", "$remote_addr"),
            ("X-Auth-Request-Redirect", "$request_uri"),
        ] {
            writeln!(location, "proxy_set_header {header} {value};").unwrap();
        }
        if let Some(map) = self.annotation("auth-proxy-set-headers") {
            location += &set_headers(self.manifests, map);
        }
        location += "proxy_pass_request_body off;\nproxy_pass_request_headers on;\nproxy_http_version 1.1;\n";
        writeln!(location, "proxy_buffer_size {buffer};\nproxy_buffers 4 {buffer};").unwrap();
        location
            + &format!(
                "set $target http://{}{target};\nproxy_pass $target;\n}}\n",
                self.countersign
            )
    }

    fn application(&self) -> String {
        let path = &self.ingress["spec"]["rules"][0]["http"]["paths"][0];
        let modifier = if path["pathType"] == "Exact" { "= " } else { "" };
        let mut location = format!("location {modifier}{} {{\n", path["path"].as_str().unwrap());
        if self.annotation("auth-url").is_some() {
            writeln!(location, "auth_request /_external-auth-{};", self.name()).unwrap();
            let listed = self
                .annotation("auth-response-headers")
                .unwrap_or_default()
                .split(',')
                .map(str::trim);
            for (index, header) in listed.filter(|header| !header.is_empty()).enumerate() {
                let variable = header.to_ascii_lowercase().replace('-', "_");
                writeln!(
                    location,
                    "auth_request_set $authHeader{index} $upstream_http_{variable};"
                )
                .unwrap();
                writeln!(location, "proxy_set_header '{header}' $authHeader{index};").unwrap();
            }
        }
        location += "set $pass_port $server_port;\n";
        writeln!(
            location,
            "proxy_set_header Host \"{}\";",
            self.annotation("upstream-vhost").unwrap_or("$http_host")
        )
        .unwrap();
        location += "proxy_set_header X-Request-ID $req_id;\nproxy_set_header Proxy \"\";\n";
        // The controller sets these for every location.
        let controller = &self.manifests.named("ConfigMap", "ingress-nginx-controller")["data"];
        location += &set_headers(self.manifests, controller["proxy-set-headers"].as_str().unwrap());
        location + &format!("proxy_http_version 1.1;\nproxy_pass http://{};\n}}\n", self.backend)
    }
}

/// One line for each entry of the `ConfigMap` `namespace/name`.
fn set_headers(manifests: &Manifests, map: &str) -> String {
    let (namespace, name) = map.split_once('/').unwrap();
    let map = manifests.named("ConfigMap", name);
    assert_eq!(map["metadata"]["namespace"], namespace);
    let mut lines = String::new();
    for (header, value) in map["data"].as_object().unwrap() {
        writeln!(lines, "proxy_set_header \"{header}\" \"{}\";", value.as_str().unwrap()).unwrap();
    }
    lines
}
