//! Manifests without a field too many.

use std::collections::BTreeSet;

use crate::harness::{Manifests, unnoticed};

const EXAMPLES: [&str; 6] = ["apisix", "envoy-gateway", "ingress-nginx", "istio", "kong", "traefik"];

/// Where anybody may write what they like.
const FREE: [&str; 9] = [
    "/extra_headers",
    "ConfigMap data",
    "/matchLabels",
    "/workloadSelector/labels",
    "Gateway spec/selector",
    // Envoy's own configuration: a real Envoy is given it, and refuses what it does not know.
    "/patch/value",
    "/patch/value/typed_config",
    "/patch/value/typed_config/common_http_protocol_options",
    "/patch/value/typed_per_filter_config",
];

#[test]
fn manifests_fit_their_schemas() {
    for example in EXAMPLES {
        for manifest in Manifests::of(example).iter() {
            assert!(manifest.problems.is_empty(), "{example}/{}: {:?}", manifest.file, manifest.problems);
        }
    }
}

/// A field that does not exist, in any object of any manifest.
#[test]
fn a_field_that_does_not_exist_is_noticed() {
    for example in EXAMPLES {
        let allowed = |place: &String| {
            FREE.iter().any(|free| place.ends_with(free)) || place.contains("/typed_per_filter_config/envoy.filters.http.ext_authz")
        };
        let places: BTreeSet<_> = unnoticed(example).into_iter().filter(|place| !allowed(place)).collect();
        assert!(places.is_empty(), "examples/{example}: {places:?}");
    }
}

/// What would open a gateway, and what a gateway passes over without a word.
#[test]
fn a_wrong_value_is_noticed() {
    let wrong = [
        ("istio", "mesh-config.yaml", "failOpen: false", "failOpen: true"),
        ("istio", "mesh-config.yaml", "statusOnError: \"503\"", "statusOnError: \"200\""),
        ("istio", "authorization-policy.yaml", "action: CUSTOM", "action: ALLOW"),
        ("envoy-gateway", "security-policy-grpc.yaml", "failOpen: false", "failOpen: true"),
        ("envoy-gateway", "security-policy-http.yaml", "path: /validate_request", "path: validate_request"),
        ("envoy-gateway", "gateway.yaml", "withUnderscoresAction: DropHeader", "withUnderscoresAction: Drop"),
        ("traefik", "middleware.yaml", "trustForwardHeader: false", "trustForwardHeader: true"),
        ("traefik", "dynamic.yaml", "X-Auth-Username: \"\"", "X-Auth-Username: nobody"),
        ("ingress-nginx", "ingress.yaml", "ingress.kubernetes.io/auth-url", "ingress.kubernetes.io/auth-uri"),
        ("ingress-nginx", "controller-config.yaml", "enable-underscores-in-headers: \"false\"", "underscores-in-headers: \"off\""),
        ("apisix", "apisix.yaml", "allow_degradation: false", "allow_degradation: true"),
        ("apisix", "apisix-route.yaml", "timeout: 500", "timeout: 500ms"),
        ("kong", "kong.yml", "_format_version: \"3.0\"", "_format_version: \"1.1\""),
    ];
    for (example, file, right, wrong) in wrong {
        // Files without a kind are known by their place.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(example).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = std::fs::read_to_string(crate::harness::repository().join("examples").join(example).join(file)).unwrap();
        assert!(text.contains(right), "{example}/{file} has no `{right}` any more");
        std::fs::write(&path, text.replace(right, wrong)).unwrap();

        let manifests = Manifests::in_files(&[path]);

        assert!(manifests.iter().any(|manifest| !manifest.problems.is_empty()), "{example}/{file} with `{wrong}`");
    }
}
