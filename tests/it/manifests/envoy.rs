//! What Istio 1.31, Envoy Gateway 1.9 and Cilium 1.20 make of their manifests: configurations for
//! Envoy, which runs for real.
//!
//! Istio: `pilot/pkg/security/authz/builder`. Envoy Gateway: `internal/xds/translator/extauth.go`
//! and `cors.go`, `internal/gatewayapi/sort.go`. Cilium, for the filters of the Gateway API:
//! `operator/pkg/model/translation/envoy_http_connection_manager.go`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{Countersign, Echo, Manifests, StandIn, free_port, texts};

const CORS: &str = "envoy.filters.http.cors";
const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
const TYPE: &str = "type.googleapis.com/envoy.extensions.filters";

pub struct Running(StandIn);

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

/// The ingress gateway of Istio, which asks the provider of that name.
pub async fn istio(
    manifests: &Manifests,
    provider: &str,
    countersign: &Countersign,
    echo: &Echo,
) -> Running {
    let mesh = &manifests.file("mesh-config.yaml")["meshConfig"];
    let providers = mesh["extensionProviders"].as_array().unwrap();
    let chosen = providers.iter().find(|it| it["name"] == provider).unwrap();
    let policy = manifests.named("AuthorizationPolicy", "countersign");
    assert_eq!(policy["spec"]["action"], "CUSTOM");

    let mut manager = json!({
        "@type": format!("{TYPE}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "outbound_0.0.0.0_8080",
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": mesh["pathNormalization"]["normalization"] == "MERGE_SLASHES",
        "upgrade_configs": websockets(),
        "http_filters": [istio_shadow_rules(policy, provider), istio_ext_authz(chosen, provider), cors(), router()],
        "route_config": routes(&istio_routes(manifests.named("VirtualService", "api"))),
    });
    for patch in
        manifests.named("EnvoyFilter", "countersign")["spec"]["configPatches"].as_array().unwrap()
    {
        let value = &patch["patch"]["value"];
        if patch["applyTo"] == "NETWORK_FILTER" {
            merge(&mut manager, &value["typed_config"]);
        } else if patch["applyTo"] == "HTTP_FILTER" {
            assert_eq!(patch["patch"]["operation"], "INSERT_FIRST");
            manager["http_filters"].as_array_mut().unwrap().insert(0, value.clone());
        } else {
            let name = &patch["match"]["routeConfiguration"]["vhost"]["route"]["name"];
            let routes =
                manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap();
            merge(routes.iter_mut().find(|route| route["name"] == *name).unwrap(), value);
        }
    }
    let asked =
        if chosen.get("envoyExtAuthzGrpc").is_some() { countersign.grpc } else { countersign.http };
    start(&manager, asked == countersign.grpc, asked, echo).await
}

/// The rules of a CUSTOM policy enforce nothing: they mark requests for which Countersign must be
/// asked.
fn istio_shadow_rules(policy: &Value, provider: &str) -> Value {
    let operation = &policy["spec"]["rules"][0]["to"][0]["operation"];
    let paths: Vec<_> = texts(&operation["notPaths"])
        .iter()
        .map(|path| json!({"url_path": {"path": {"exact": path}}}))
        .collect();
    let name = format!("istio-ext-authz-{provider}-ns[istio-ingress]-policy[countersign]-rule[0]");
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": format!("{TYPE}.http.rbac.v3.RBAC"),
            "shadow_rules_stat_prefix": "istio_ext_authz_",
            "shadow_rules": {"policies": {name: {
                "permissions": [{"and_rules": {"rules": [{"not_rule": {"or_rules": {"rules": paths}}}]}}],
                "principals": [{"and_ids": {"ids": [{"any": true}]}}],
            }}},
        },
    })
}

fn istio_ext_authz(provider: &Value, name: &str) -> Value {
    let (grpc, http) = (provider.get("envoyExtAuthzGrpc"), provider.get("envoyExtAuthzHttp"));
    let config = grpc.or(http).unwrap();
    let mut typed = json!({
        "@type": format!("{TYPE}.http.ext_authz.v3.ExtAuthz"),
        "transport_api_version": "V3",
        "failure_mode_allow": config["failOpen"],
        "status_on_error": {"code": status(&config["statusOnError"])},
        "filter_enabled_metadata": {
            "filter": "envoy.filters.http.rbac",
            "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": format!("istio-ext-authz-{name}")}},
        },
    });
    if http.is_some() {
        typed["http_service"] = json!({
            "path_prefix": config["pathPrefix"],
            "server_uri": {
                "uri": format!("http://{}", config["service"].as_str().unwrap()),
                "cluster": "countersign",
                "timeout": config["timeout"],
            },
            "authorization_response": {
                "allowed_upstream_headers": exactly(&config["headersToUpstreamOnAllow"]),
                "allowed_client_headers": exactly(&config["headersToDownstreamOnDeny"]),
            },
        });
    } else {
        typed["grpc_service"] =
            grpc_service(config["service"].as_str().unwrap(), &config["timeout"]);
    }
    json!({"name": EXT_AUTHZ, "typed_config": typed})
}

fn istio_routes(service: &Value) -> Vec<Value> {
    let rules = service["spec"]["http"].as_array().unwrap();
    rules
        .iter()
        .map(|rule| {
            let uri = &rule["match"][0]["uri"];
            let matched = match (uri["exact"].as_str(), uri["regex"].as_str(), uri["prefix"].as_str()) {
                (Some(path), ..) => json!({"path": path}),
                (None, Some(regex), _) => json!({"safe_regex": {"regex": regex}}),
                (None, None, prefix) => json!({"prefix": prefix.unwrap_or("/")}),
            };
            let mut route = json!({
                "name": rule["name"],
                "match": matched,
                // For every route, unless it says otherwise.
                "route": {"cluster": "backend", "retry_policy": {
                    "num_retries": 2,
                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                    "retriable_status_codes": [503],
                }},
                "request_headers_to_remove": or_none(&rule["headers"]["request"]["remove"]),
            });
            if let Some(policy) = rule.get("corsPolicy") {
                let origins = policy["allowOrigins"].as_array().unwrap().clone();
                // Istio's `unmatchedPreflights` is unset, and this is its default.
                route["typed_per_filter_config"] = json!({CORS: cors_policy(policy, &origins, ",", true)});
            }
            route
        })
        .collect()
}

/// The Envoy of a Gateway, with the policies of one file.
pub async fn gateway(
    manifests: &Manifests,
    policies: &str,
    countersign: &Countersign,
    echo: &Echo,
) -> Running {
    let policies = manifests.kind("SecurityPolicy", Some(policies));
    let client = &manifests.named("ClientTrafficPolicy", "api")["spec"];
    let asking = policies.iter().filter(|policy| policy["spec"].get("extAuth").is_some());
    let asking = asking.map(|policy| gateway_ext_authz(policy));
    let filters: Vec<_> = std::iter::once(cors()).chain(asking).chain([router()]).collect();
    let manager = json!({
        "@type": format!("{TYPE}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "https-443",
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": screaming(&client["path"]["escapedSlashesAction"]),
        "common_http_protocol_options": {
            "headers_with_underscores_action": screaming(&client["headers"]["withUnderscoresAction"]),
        },
        "http_filters": filters,
        "route_config": routes(&gateway_routes(&manifests.kind("HTTPRoute", None), &policies)),
    });
    let is_grpc = policies.iter().any(|policy| policy["spec"]["extAuth"].get("grpc").is_some());
    start(&manager, is_grpc, if is_grpc { countersign.grpc } else { countersign.http }, echo).await
}

/// A filter for each policy, disabled until a route enables it.
fn gateway_ext_authz(policy: &Value) -> Value {
    let config = &policy["spec"]["extAuth"];
    let timeout =
        config["timeout"].as_str().unwrap().strip_suffix("ms").unwrap().parse::<f64>().unwrap();
    let timeout = json!(format!("{}s", timeout / 1_000.0));
    let mut typed = json!({
        "@type": format!("{TYPE}.http.ext_authz.v3.ExtAuthz"),
        "transport_api_version": "V3",
        "failure_mode_allow": config["failOpen"],
        "status_on_error": {"code": status(&config["statusOnError"])},
    });
    if let Some(listed) = config.get("headersToExtAuth") {
        typed["allowed_headers"] = exactly(listed);
    }
    if let Some(http) = config.get("http") {
        typed["http_service"] = json!({
            "path_prefix": http["path"],
            "server_uri": {"uri": "http://countersign-http.countersign:8080", "cluster": "countersign", "timeout": timeout},
            "authorization_response": {"allowed_upstream_headers": exactly(&http["headersToBackend"])},
        });
    } else {
        typed["grpc_service"] = grpc_service("countersign-grpc.countersign:9191", &timeout);
    }
    json!({"name": gateway_filter(policy), "disabled": true, "typed_config": typed})
}

fn gateway_routes(routes: &[&Value], policies: &[&Value]) -> Vec<Value> {
    let of = |kind: &str, name: &Value| {
        policies.iter().find(|policy| {
            policy["spec"]["targetRefs"][0]["kind"] == kind
                && policy["spec"]["targetRefs"][0]["name"] == *name
        })
    };
    let mut routes: Vec<_> = routes
        .iter()
        .map(|route| (&route["metadata"]["name"], &route["spec"]["rules"][0]))
        .collect();
    // Exact paths first, then expressions, then the longest prefix.
    let path = |rule: &Value| rule["matches"][0]["path"].clone();
    let kinds = ["Exact", "RegularExpression", "PathPrefix"];
    routes.sort_by_key(|(_, rule)| {
        let kind = kinds.iter().position(|kind| path(rule)["type"] == *kind).unwrap();
        (kind, std::cmp::Reverse(path(rule)["value"].as_str().unwrap().len()))
    });
    routes
        .into_iter()
        .map(|(name, rule)| {
            let value = path(rule)["value"].clone();
            let matched = match (path(rule)["type"].as_str().unwrap(), value.as_str().unwrap()) {
                ("Exact", _) => json!({"path": value}),
                ("RegularExpression", _) => json!({"safe_regex": {"regex": value}}),
                (_, "/") => json!({"prefix": "/"}),
                _ => json!({"path_separated_prefix": value}),
            };
            let mut route = json!({
                "name": name,
                "match": matched,
                "route": {"cluster": "backend", "upgrade_configs": websockets()},
                "request_headers_to_remove": or_none(&rule["filters"][0]["requestHeaderModifier"]["remove"]),
                "typed_per_filter_config": {},
            });
            // The policy of the route replaces the Gateway's.
            let policy = of("HTTPRoute", name).or_else(|| of("Gateway", &json!("api"))).unwrap();
            if let Some(config) = policy["spec"].get("extAuth") {
                let extensions = config["contextExtensions"].as_array().into_iter().flatten();
                let extensions: serde_json::Map<_, _> =
                    extensions.map(|it| (it["name"].as_str().unwrap().to_owned(), it["value"].clone())).collect();
                route["typed_per_filter_config"][gateway_filter(policy)] = json!({
                    "@type": format!("{TYPE}.http.ext_authz.v3.ExtAuthzPerRoute"),
                    "check_settings": {"context_extensions": extensions},
                });
            }
            if let Some(config) = policy["spec"].get("cors") {
                let origins: Vec<_> = texts(&config["allowOrigins"]).iter().map(|origin| json!({"exact": origin})).collect();
                route["typed_per_filter_config"][CORS] = cors_policy(config, &origins, ", ", false);
            }
            route
        })
        .collect()
}

fn gateway_filter(policy: &Value) -> String {
    format!("{EXT_AUTHZ}/securitypolicy/app/{}", policy["metadata"]["name"].as_str().unwrap())
}

/// The Envoy of a Cilium Gateway, with the `HTTPRoute` of one file: it cannot set a timeout, a
/// status or header rules.
pub async fn filters(
    manifests: &Manifests,
    route: &str,
    countersign: &Countersign,
    echo: &Echo,
) -> Running {
    let [route] = manifests.kind("HTTPRoute", Some(route))[..] else { panic!("several routes") };
    let rules: Vec<_> = route["spec"]["rules"].as_array().unwrap().iter().collect();
    let of = |rule: &Value, kind: &str| {
        let filters = rule["filters"].as_array().unwrap();
        filters.iter().find(|filter| filter["type"] == kind).cloned()
    };
    let [asking] =
        &rules.iter().filter_map(|rule| of(rule, "ExternalAuth")).collect::<Vec<_>>()[..]
    else {
        panic!("not one filter")
    };
    let asking = &asking["externalAuth"];
    let mut typed = json!({
        "@type": format!("{TYPE}.http.ext_authz.v3.ExtAuthz"),
        "transport_api_version": "V3",
        "decoder_header_mutation_rules": {"disallow_expression": {"regex": "^(:authority|host)$"}},
    });
    let is_grpc = asking["protocol"] == "GRPC";
    let mode = if is_grpc { &asking["grpc"] } else { &asking["http"] };
    if let Some(listed) = mode.get("allowedHeaders") {
        typed["allowed_headers"] = exactly(listed);
    }
    if is_grpc {
        typed["grpc_service"] = json!({"envoy_grpc": {"cluster_name": "countersign", "authority": "countersign-grpc:9191"}});
    } else {
        typed["http_service"] = json!({
            "path_prefix": mode["path"],
            "server_uri": {"uri": "http://countersign-http:8080", "cluster": "countersign", "timeout": "10s"},
            "authorization_response": {"allowed_upstream_headers": exactly(&mode["allowedResponseHeaders"])},
        });
    }
    let routes_of = rules.iter().map(|rule| {
        let path = &rule["matches"][0]["path"];
        let matched = if path["type"] == "Exact" { json!({"path": path["value"]}) } else { json!({"prefix": path["value"]}) };
        let removed =
            of(rule, "RequestHeaderModifier").map_or(json!([]), |filter| filter["requestHeaderModifier"]["remove"].clone());
        let mut route = json!({"match": matched, "route": {"cluster": "backend"}, "request_headers_to_remove": removed});
        if of(rule, "ExternalAuth").is_none() {
            let disabled = json!({"@type": format!("{TYPE}.http.ext_authz.v3.ExtAuthzPerRoute"), "disabled": true});
            route["typed_per_filter_config"] = json!({EXT_AUTHZ: disabled});
        }
        route
    });
    let manager = json!({
        "@type": format!("{TYPE}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "listener",
        "use_remote_address": true,
        "upgrade_configs": websockets(),
        "http_filters": [{"name": EXT_AUTHZ, "typed_config": typed}, router()],
        "route_config": routes(&routes_of.collect::<Vec<_>>()),
    });
    start(&manager, is_grpc, if is_grpc { countersign.grpc } else { countersign.http }, echo).await
}

async fn start(manager: &Value, is_grpc: bool, asked: SocketAddr, echo: &Echo) -> Running {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut countersign = cluster("countersign", asked);
    if is_grpc {
        countersign["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    let filter =
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let config = json!({"static_resources": {
        "listeners": [{"name": "gateway", "address": socket(address), "filter_chains": [{"filters": [filter]}]}],
        "clusters": [countersign, cluster("backend", echo.address)],
    }});
    Running(StandIn::envoy(address, &config).await)
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    let endpoint = json!({"endpoint": {"address": socket(address)}});
    let endpoints = json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]});
    json!({"name": name, "type": "STATIC", "connect_timeout": "10s", "load_assignment": endpoints})
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn routes(routes: &[Value]) -> Value {
    json!({"name": "gateway", "virtual_hosts": [{"name": "api", "domains": ["*"], "routes": routes}]})
}

/// All of them carry `WebSockets` by default.
fn websockets() -> Value {
    json!([{"upgrade_type": "websocket"}])
}

fn cors() -> Value {
    json!({"name": CORS, "typed_config": {"@type": format!("{TYPE}.http.cors.v3.Cors")}})
}

/// Istio and Envoy Gateway use the same names for the fields.
fn cors_policy(policy: &Value, origins: &[Value], separator: &str, forwards_others: bool) -> Value {
    let joined = |name: &str| texts(&policy[name]).join(separator);
    let age = policy["maxAge"].as_str().unwrap();
    let minutes = age.strip_suffix('m').map(|minutes| minutes.parse::<u32>().unwrap() * 60);
    let seconds = minutes.unwrap_or_else(|| age.strip_suffix('s').unwrap().parse().unwrap());
    json!({
        "@type": format!("{TYPE}.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": origins,
        "allow_methods": joined("allowMethods"),
        "allow_headers": joined("allowHeaders"),
        "expose_headers": joined("exposeHeaders"),
        "max_age": seconds.to_string(),
        "forward_not_matching_preflights": forwards_others,
    })
}

fn router() -> Value {
    json!({"name": "envoy.filters.http.router", "typed_config": {"@type": format!("{TYPE}.http.router.v3.Router")}})
}

fn grpc_service(authority: &str, timeout: &Value) -> Value {
    json!({"envoy_grpc": {"cluster_name": "countersign", "authority": authority}, "timeout": timeout})
}

fn exactly(headers: &Value) -> Value {
    let patterns: Vec<_> =
        texts(headers).iter().map(|name| json!({"exact": name, "ignore_case": true})).collect();
    json!({"patterns": patterns})
}

fn or_none(headers: &Value) -> Value {
    if headers.is_null() { json!([]) } else { headers.clone() }
}

/// 503, or "503".
fn status(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

/// `DropHeader` is `DROP_HEADER` to Envoy.
fn screaming(value: &Value) -> String {
    let mut name = String::new();
    for letter in value.as_str().unwrap().chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Istio's MERGE: objects are merged, everything else is replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
