//! The Helm chart: what it renders for every value file under `ci`, and what is mandatory in it.

mod alerts;
mod refusals;
mod settings;
mod values;

use serde_json::{Value, json};

use crate::harness::chart::{Chart, Rendered};

/// Every value file, rendered.
fn all() -> Vec<(String, Rendered)> {
    let files = Chart::value_files();
    let values: Vec<&str> = files.iter().map(|(_, values)| values.as_str()).collect();
    let rendered = Chart::render(&values);
    let named = files.iter().zip(rendered).map(|((name, _), rendered)| {
        (name.clone(), rendered.unwrap_or_else(|error| panic!("{name}: {error}")))
    });
    named.collect()
}

fn of(name: &str) -> Rendered {
    Chart::rendered(&Chart::file(&format!("ci/{name}-values.yaml")))
}

#[tokio::test]
async fn helm_finds_nothing_wrong_with_it() {
    let files = Chart::value_files();
    assert!(files.len() >= 6, "{files:?}");
    let values: Vec<&str> = files.iter().map(|(_, values)| values.as_str()).collect();
    for ((name, _), report) in files.iter().zip(Chart::lint(&values)) {
        assert_eq!(report["total_charts_linted"], 1, "{name}");
        assert_eq!(report["errors"], json!([]), "{name}");
        for message in report["messages"].as_array().unwrap() {
            // Exactly one remark: there is no icon.
            assert_eq!(message["severity"], 1, "{name}: {message}");
        }
    }
}

#[tokio::test]
async fn the_api_server_would_take_every_manifest() {
    let mut documents = Vec::new();
    for (name, rendered) in all() {
        assert!(rendered.documents.len() >= 7, "{name}: {:?}", rendered.kinds());
        documents.extend(rendered.documents);
    }
    assert_eq!(Chart::complaints(&documents), Vec::<Value>::new());
    for kind in [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Job",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Pod",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    ] {
        assert!(
            documents.iter().any(|document| document["kind"] == kind),
            "no value file makes a {kind}"
        );
    }
}

/// Tests the check itself: it finds misspelt and mistyped fields, in Kubernetes' own kinds and in
/// others.
#[tokio::test]
async fn a_wrong_field_would_be_noticed() {
    let rendered = of("production");
    let spoilt = |kind: &str, pointer: &str, value: Value| {
        let mut manifest = rendered.one(kind, "").clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        manifest.pointer_mut(parent).unwrap_or_else(|| panic!("{kind}: {parent}"))[key] = value;
        manifest["metadata"]["name"] = json!(pointer);
        manifest
    };
    let manifests = [
        spoilt("Deployment", "/spec/template/spec/containers/0/redinessProbe", json!({})),
        spoilt("Deployment", "/spec/replicas", json!("three")),
        spoilt("HorizontalPodAutoscaler", "/spec/maxReplica", json!(3)),
        spoilt("NetworkPolicy", "/spec/ingress/0/port", json!([])),
        spoilt("PodDisruptionBudget", "/spec/selector/matchLabel", json!({})),
        spoilt("ServiceMonitor", "/spec/endpoints/0/interval", json!("often")),
        spoilt("ServiceMonitor", "/spec/endpoints/0/ports", json!("admin")),
        spoilt("PrometheusRule", "/spec/groups/0/rules/0/when", json!("5m")),
        spoilt("PrometheusRule", "/spec/groups/0/rules/0/record", json!("an:alert")),
    ];
    let complaints = Chart::complaints(&manifests);
    for manifest in &manifests {
        let name = manifest["metadata"]["name"].as_str().unwrap();
        assert!(
            complaints.iter().any(|complaint| complaint.as_str().unwrap().contains(name)),
            "{name} passes"
        );
    }
}

#[tokio::test]
async fn no_pod_has_more_rights_than_it_needs() {
    for (name, rendered) in all() {
        let pods: Vec<&Value> = rendered
            .documents
            .iter()
            .filter_map(|manifest| match manifest["kind"].as_str().unwrap() {
                "Deployment" | "Job" => Some(&manifest["spec"]["template"]["spec"]),
                "Pod" => Some(&manifest["spec"]),
                _ => None,
            })
            .collect();
        assert!(!pods.is_empty(), "{name}");
        for pod in pods {
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}: {pod}");
            assert_eq!(pod["enableServiceLinks"], false, "{name}: {pod}");
            let context = &pod["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{name}: {pod}");
            assert!(context["runAsUser"].as_u64().unwrap() > 0, "{name}: {pod}");
            assert_eq!(
                context["seccompProfile"],
                json!({ "type": "RuntimeDefault" }),
                "{name}: {pod}"
            );
            for container in pod["containers"].as_array().unwrap() {
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                });
                assert_eq!(container["securityContext"], expected, "{name}: {container}");
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{name}: {container}"
                );
            }
            // Only the owner may read mounted secrets.
            for volume in pod["volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|volume| volume["secret"].is_object())
            {
                assert_eq!(volume["secret"]["defaultMode"], 0o440, "{name}: {volume}");
            }
        }
        for account in rendered.all("ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false, "{name}");
        }
    }
}

/// A hook runs before the other objects of the release exist.
#[tokio::test]
async fn the_database_is_migrated_before_anything_else() {
    for (name, rendered) in all() {
        let Some(job) = rendered.all("Job").next() else {
            assert!(
                ["single-node-values.yaml", "own-environment-values.yaml"].contains(&name.as_str()),
                "{name}"
            );
            continue;
        };
        assert_eq!(
            job["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade",
            "{name}"
        );
        let pod = &job["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["args"], json!(["migrate", "up"]), "{name}");
        assert_eq!(pod["restartPolicy"], "Never", "{name}");
        let own: Vec<&str> = rendered
            .documents
            .iter()
            .filter(|manifest| {
                ["ServiceAccount", "ConfigMap"].contains(&manifest["kind"].as_str().unwrap())
            })
            .map(|manifest| manifest["metadata"]["name"].as_str().unwrap())
            .collect();
        assert!(!own.contains(&pod["serviceAccountName"].as_str().unwrap()), "{name}: {pod}");
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            assert!(
                !own.contains(&volume["configMap"]["name"].as_str().unwrap_or_default()),
                "{name}: {volume}"
            );
        }
        let urls = container["env"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|variable| variable["name"] == "COUNTERSIGN_DATABASE__URL");
        assert_eq!(urls.count(), 1, "{name}: {container}");
        // No selector of the service's pods selects this pod.
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"], "migrate",
            "{name}"
        );
    }
}

#[tokio::test]
async fn every_selector_finds_the_pods_and_every_port_is_there() {
    for (name, rendered) in all() {
        let labels =
            rendered.deployment()["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
        let ports: Vec<&str> = rendered.container()["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port["name"].as_str().unwrap())
            .collect();
        let finds_pods = |selector: &Value| {
            let selector = selector.as_object().unwrap_or_else(|| panic!("{name}: no selector"));
            assert!(
                selector.iter().all(|(key, value)| labels.get(key) == Some(value)),
                "{name}: {selector:?}"
            );
            assert_eq!(
                selector["app.kubernetes.io/component"], "service",
                "{name}: it would find other pods, too"
            );
        };
        finds_pods(&rendered.deployment()["spec"]["selector"]["matchLabels"]);
        let services: Vec<&Value> = rendered.all("Service").collect();
        assert_eq!(services.len(), 3, "{name}");
        for service in services {
            finds_pods(&service["spec"]["selector"]);
            assert!(
                ports.contains(&service["spec"]["ports"][0]["targetPort"].as_str().unwrap()),
                "{name}: {service}"
            );
        }
        for kind in ["PodDisruptionBudget", "NetworkPolicy"] {
            for manifest in rendered.all(kind) {
                let selector = if kind == "NetworkPolicy" { "podSelector" } else { "selector" };
                finds_pods(&manifest["spec"][selector]["matchLabels"]);
            }
        }
        for monitor in rendered.all("ServiceMonitor") {
            let admin = rendered.one("Service", "-admin");
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
            assert!(
                wanted.iter().all(|(key, value)| &admin["metadata"]["labels"][key] == value),
                "{name}: {wanted:?}"
            );
            assert_eq!(
                monitor["spec"]["endpoints"][0]["port"], admin["spec"]["ports"][0]["name"],
                "{name}"
            );
            let http = rendered.one("Service", "-http");
            assert_ne!(
                http["metadata"]["labels"]["app.kubernetes.io/component"],
                wanted["app.kubernetes.io/component"]
            );
        }
        for autoscaler in rendered.all("HorizontalPodAutoscaler") {
            assert_eq!(
                autoscaler["spec"]["scaleTargetRef"]["name"],
                rendered.deployment()["metadata"]["name"]
            );
            // Both would set it in turns.
            assert!(rendered.deployment()["spec"]["replicas"].is_null(), "{name}");
        }
    }
}

#[tokio::test]
async fn the_admin_listener_is_open_to_nobody_who_is_not_named() {
    let ports = |policy: &Value| -> Vec<(Vec<String>, bool)> {
        let rules = policy["spec"]["ingress"].as_array().unwrap().iter();
        rules
            .map(|rule| {
                let names = rule["ports"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|port| port["port"].as_str().unwrap().to_owned());
                (names.collect(), rule["from"].as_array().is_some_and(|peers| !peers.is_empty()))
            })
            .collect()
    };
    let decisions = vec!["http".to_owned(), "grpc".to_owned()];

    let minimal = of("minimal");
    assert_eq!(ports(minimal.one("NetworkPolicy", "")), [(decisions.clone(), false)]);
    let production = of("production");
    assert_eq!(
        ports(production.one("NetworkPolicy", "")),
        [(decisions, true), (vec!["admin".to_owned()], true)]
    );
    for rendered in [minimal, production] {
        let types = &rendered.one("NetworkPolicy", "")["spec"]["policyTypes"];
        assert!(types.as_array().unwrap().contains(&json!("Ingress")));
        assert_eq!(rendered.one("Service", "-admin")["spec"]["type"], "ClusterIP");
    }
    assert_eq!(of("own-environment").all("NetworkPolicy").count(), 0);
    assert!(of("own-environment").notes.contains("no NetworkPolicy"), "it says so");
}

#[tokio::test]
async fn grpc_ports_say_what_they_speak() {
    let protocol = |rendered: &Rendered, suffix: &str| {
        rendered.one("Service", suffix)["spec"]["ports"][0]["appProtocol"].clone()
    };
    let (plain, tls) = (of("minimal"), of("tls"));
    assert_eq!(protocol(&plain, "-grpc"), "kubernetes.io/h2c");
    assert_eq!(protocol(&plain, "-http"), "http");
    assert_eq!(protocol(&tls, "-grpc"), "https");
    assert_eq!(protocol(&tls, "-http"), "https");
    assert_eq!(protocol(&tls, "-admin"), "http");
    assert_eq!(of("own-environment").one("Service", "-grpc")["spec"]["clusterIP"], "None");
}

/// If two pods would each let a token pass, the old one stops before the new one starts.
#[tokio::test]
async fn pods_are_replaced_without_a_gap_or_an_overlap() {
    let strategy = |rendered: &Rendered| rendered.deployment()["spec"]["strategy"].clone();
    assert_eq!(strategy(&of("single-node")), json!({ "type": "Recreate" }));
    assert_eq!(
        strategy(&of("minimal")),
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
    );
    // A budget for one replica would stop anyone who drains its node.
    assert_eq!(of("single-node").all("PodDisruptionBudget").count(), 0);
    for (name, rendered) in all() {
        let grace =
            rendered.deployment()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
                .as_u64()
                .unwrap();
        let drain = drain(&rendered);
        assert!(grace > drain + 7, "{name}: {grace} s are not enough");
        // The service waits by itself, and is not ready meanwhile.
        assert!(rendered.container()["lifecycle"].is_null(), "{name}");
    }
}

/// A pod that receives SIGTERM is reported as not ready while it still answers.
#[tokio::test]
async fn the_end_of_a_pod_is_noticed_before_it_comes() {
    for (name, rendered) in all().into_iter().filter(|(_, rendered)| drain(rendered) > 0) {
        let probe = &rendered.container()["readinessProbe"];
        let seconds = |name: &str| probe[name].as_u64().unwrap();
        assert!(
            seconds("periodSeconds") * seconds("failureThreshold") < drain(&rendered),
            "{name}: {probe}"
        );
    }
    assert_eq!((drain(&of("minimal")), drain(&of("own-environment"))), (5, 0));
}

/// `server.drain`, in seconds.
fn drain(rendered: &Rendered) -> u64 {
    let line = rendered
        .settings()
        .lines()
        .find_map(|line| line.strip_prefix("drain = \""))
        .expect("no server.drain");
    line.strip_suffix("s\"").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_change_of_settings_replaces_the_pods() {
    let checksum = |values: &str| {
        let rendered = Chart::rendered(values);
        rendered.deployment()["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let minimal = Chart::file("ci/minimal-values.yaml");
    let changed = format!("{minimal}\nconfig:\n  self_signed:\n    tolerance: 10s\n");
    assert_eq!(checksum(&minimal), checksum(&minimal));
    assert_ne!(checksum(&minimal), checksum(&changed));
}

#[tokio::test]
async fn an_image_is_named_by_its_digest_where_there_is_one() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let minimal = Chart::file("ci/minimal-values.yaml");
    let image = |values: &str| {
        Chart::rendered(&format!("{minimal}\n{values}")).container()["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(image(""), concat!("countersign:", env!("CARGO_PKG_VERSION")));
    assert_eq!(
        image("image: {tag: nightly, registry: 'r.example:5000', repository: a/b}"),
        "r.example:5000/a/b:nightly"
    );
    assert_eq!(
        image(&format!("image: {{tag: nightly, digest: '{digest}'}}")),
        format!("countersign@{digest}")
    );
}

#[tokio::test]
async fn the_archive_has_what_it_needs_and_no_more() {
    let names = Chart::package();
    for needed in [
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "README.md",
        "files/alerts.yaml",
        "files/dashboard.json",
    ] {
        assert!(
            names.iter().any(|name| name == &format!("countersign/{needed}")),
            "{needed} is not in {names:?}"
        );
    }
    assert!(!names.iter().any(|name| name.contains("/ci/")), "{names:?}");
}
