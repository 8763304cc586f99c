//! Manifests have no unknown fields.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::harness::{Manifests, example_files, repository, unnoticed};

const EXAMPLES: [&str; 9] = [
    "agentgateway",
    "apisix",
    "envoy-gateway",
    "gateway-api",
    "ingress-nginx",
    "istio",
    "kgateway",
    "kong",
    "traefik",
];

/// Objects whose members are free.
const FREE: [&str; 11] = [
    "/extra_headers",
    "ConfigMap data",
    "/matchLabels",
    "/workloadSelector/labels",
    "Gateway spec/selector",
    // Envoy's own configuration: a real Envoy reads it, and rejects unknown fields.
    "/patch/value",
    "/patch/value/typed_config",
    "/patch/value/typed_config/common_http_protocol_options",
    "/patch/value/typed_per_filter_config",
    // Names in the gateway's own expressions, or names of headers.
    "/addRequestHeaders",
    "/contextExtensions",
];

#[test]
fn manifests_fit_their_schemas() {
    for manifest in Manifests::in_files(&all_files()).iter() {
        assert!(
            manifest.problems.is_empty(),
            "{}: {:?}",
            manifest.path.display(),
            manifest.problems
        );
    }
}

/// A field that does not exist, in any object of any manifest.
#[test]
fn a_field_that_does_not_exist_is_noticed() {
    let is_free = |place: &str| {
        FREE.iter().any(|free| place.ends_with(free))
            || place.contains("/typed_per_filter_config/envoy.filters.http.ext_authz")
    };

    let (free, places): (BTreeSet<_>, BTreeSet<_>) =
        unnoticed(&all_files()).into_iter().partition(|place| is_free(place));

    assert!(places.is_empty(), "{places:#?}");
    assert!(!free.is_empty(), "nothing was changed");
}

/// Settings that would open a gateway, and settings that a gateway silently ignores.
#[test]
fn a_wrong_value_is_noticed() {
    let wrong = [
        ("istio", "mesh-config.yaml", "failOpen: false", "failOpen: true"),
        ("istio", "mesh-config.yaml", "statusOnError: \"503\"", "statusOnError: \"200\""),
        ("istio", "authorization-policy.yaml", "action: CUSTOM", "action: ALLOW"),
        ("envoy-gateway", "security-policy-grpc.yaml", "failOpen: false", "failOpen: true"),
        (
            "envoy-gateway",
            "security-policy-http.yaml",
            "path: /validate_request",
            "path: validate_request",
        ),
        (
            "envoy-gateway",
            "gateway.yaml",
            "withUnderscoresAction: DropHeader",
            "withUnderscoresAction: Drop",
        ),
        (
            "envoy-gateway",
            "security-policy-grpc.yaml",
            "https://app.example.com",
            "app.example.com",
        ),
        ("gateway-api", "route-http.yaml", "protocol: HTTP", "protocol: GRPC"),
        ("gateway-api", "route-grpc.yaml", "type: ExternalAuth", "type: RequestHeaderModifier"),
        ("kgateway", "external-auth.yaml", "failOpen: false", "failOpen: true"),
        ("agentgateway", "policy.yaml", "failureMode: FailClosed", "failureMode: FailOpen"),
        // An answer about a single-use token must not be cached.
        (
            "agentgateway",
            "policy.yaml",
            "failureMode: FailClosed",
            "cache: { key: [request.path], ttl: 5m }",
        ),
        ("traefik", "middleware.yaml", "trustForwardHeader: false", "trustForwardHeader: true"),
        ("traefik", "traefik.yaml", "allowEncodedSlash: false", "allowEncodedSlashes: false"),
        ("traefik", "dynamic.yaml", "X-Auth-Username: \"\"", "X-Auth-Username: nobody"),
        (
            "ingress-nginx",
            "ingress.yaml",
            "ingress.kubernetes.io/auth-url",
            "ingress.kubernetes.io/auth-uri",
        ),
        (
            "ingress-nginx",
            "controller-config.yaml",
            "enable-underscores-in-headers: \"false\"",
            "underscores-in-headers: \"off\"",
        ),
        ("apisix", "apisix.yaml", "allow_degradation: false", "allow_degradation: true"),
        ("apisix", "apisix-route.yaml", "timeout: 500", "timeout: 500ms"),
        ("kong", "kong.yml", "_format_version: \"3.0\"", "_format_version: \"1.1\""),
    ];
    let dir = tempfile::tempdir().unwrap();
    let places = wrong.into_iter().enumerate().map(|(index, (example, file, right, wrong))| {
        // Files without a `kind` are recognised by their path.
        let path = dir.path().join(index.to_string()).join(example).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = std::fs::read_to_string(repository().join("examples").join(example).join(file))
            .unwrap();
        assert!(text.contains(right), "{example}/{file} has no `{right}` any more");
        std::fs::write(&path, text.replace(right, wrong)).unwrap();
        (path, wrong)
    });
    let places: Vec<_> = places.collect();

    let files: Vec<_> = places.iter().map(|(path, _)| path.clone()).collect();
    let manifests = Manifests::in_files(&files);

    for (path, wrong) in places {
        let mut inside = manifests.iter().filter(|manifest| manifest.path == path);
        assert!(
            inside.any(|manifest| !manifest.problems.is_empty()),
            "{} with `{wrong}`",
            path.display()
        );
    }
}

fn all_files() -> Vec<PathBuf> {
    EXAMPLES.into_iter().flat_map(example_files).collect()
}
