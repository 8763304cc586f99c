//! Values that the chart refuses: each message names the value to change.

use crate::harness::chart::Chart;

/// Values that are refused, added to those of a file under `ci`, and what the message names.
const REFUSED: &[(&str, &str, &[&str])] = &[
    // Without a database or a store.
    ("minimal", "database: {existingSecret: {name: ''}}", &["database.existingSecret.name"]),
    ("minimal", "nonce: {existingSecret: {name: ''}}", &["nonce.existingSecret.name"]),
    // Secrets in the ConfigMap, or in the Deployment.
    (
        "minimal",
        "config: {admin: {token: change-me}}",
        &["config.admin.token", "admin.existingSecret.name"],
    ),
    (
        "autoscaling-off",
        "config: {database: {url: 'postgres://countersign:hunter2@database/countersign'}}",
        &["config.database.url", "database.existingSecret.name"],
    ),
    (
        "autoscaling-off",
        "config: {database: {url: 'postgres://database/countersign?user=u&password=hunter2'}}",
        &["config.database.url", "database.existingSecret.name"],
    ),
    (
        "tls",
        "config: {nonce: {url: 'redis://:hunter2@redis:6379'}}",
        &["config.nonce.url", "nonce.existingSecret.name"],
    ),
    (
        "tls",
        "config: {nonce: {url: 'redis+cluster://a:6379,:hunter2@b:6379'}}",
        &["config.nonce.url", "nonce.existingSecret.name"],
    ),
    (
        "minimal",
        "config: {telemetry: {otlp_endpoint: 'http://u:hunter2@collector:4317'}}",
        &["config.telemetry.otlp_endpoint"],
    ),
    (
        "minimal",
        "extraEnv: [{name: COUNTERSIGN_ADMIN__TOKEN, value: hunter2}]",
        &["COUNTERSIGN_ADMIN__TOKEN", "valueFrom"],
    ),
    (
        "minimal",
        "nonce: {existingSecret: {name: ''}}\nextraEnv: [{name: COUNTERSIGN_NONCE__URL, value: 'redis://:hunter2@redis'}]",
        &["COUNTERSIGN_NONCE__URL", "valueFrom"],
    ),
    // Settings that the chart decides itself.
    (
        "minimal",
        "config: {server: {admin_listen: '127.0.0.1:8081'}}",
        &["config.server.admin_listen", "listenAddress"],
    ),
    (
        "minimal",
        "config: {server: {tls: {cert: /a, key: /b}}}",
        &["config.server.tls", "tls.existingSecret"],
    ),
    (
        "minimal",
        "config: {issuer: {signing_keys_dir: /keys}}",
        &["config.issuer.signing_keys_dir", "signingKeys.existingSecret"],
    ),
    (
        "minimal",
        "config: {admin: {token_file: /token}}",
        &["config.admin.token_file", "admin.existingSecret.name"],
    ),
    // Two of something that may exist only once.
    (
        "tls",
        "config: {nonce: {url: 'rediss+sentinel://a/main?sentinel_password=hunter2'}}",
        &["config.nonce.url", "nonce.existingSecret.name"],
    ),
    (
        "tls",
        "config: {nonce: {url: 'redis+unix:/redis.sock?user=u&pass=hunter2'}}",
        &["config.nonce.url", "nonce.existingSecret.name"],
    ),
    (
        "minimal",
        "config: {nonce: {url: 'redis://redis'}}",
        &["nonce.existingSecret.name, config.nonce.url"],
    ),
    (
        "minimal",
        "extraEnv: [{name: COUNTERSIGN_DATABASE__URL, valueFrom: {secretKeyRef: {name: a, key: b}}}]",
        &["database.existingSecret.name, COUNTERSIGN_DATABASE__URL"],
    ),
    (
        "minimal",
        "signingKeys: {existingSecret: a, existingClaim: b}",
        &["signingKeys.existingSecret", "signingKeys.existingClaim"],
    ),
    ("tls", "config: {nonce: {url: 'gopher://hunter2'}}", &["config.nonce.url", "redis://"]),
    (
        "autoscaling-off",
        "config: {database: {url: 'oracle://hunter2'}}",
        &["config.database.url", "postgres:"],
    ),
    // Replicas that share nothing.
    (
        "single-node",
        "replicaCount: 2\npersistence: {enabled: false}\nsigningKeys: {existingSecret: a}",
        &["config.database.url", "replicaCount", "database.existingSecret.name"],
    ),
    (
        "minimal",
        "nonce: {existingSecret: {name: ''}}\nconfig: {nonce: {url: 'memory:'}}",
        &["config.nonce.url", "replicaCount", "nonce.existingSecret.name"],
    ),
    (
        "minimal",
        "nonce: {existingSecret: {name: ''}}\nextraEnv: [{name: COUNTERSIGN_NONCE__URL, value: 'memory:'}]",
        &["config.nonce.url", "replicaCount", "nonce.existingSecret.name"],
    ),
    (
        "minimal",
        "signingKeys: {existingSecret: ''}",
        &["signingKeys.existingSecret", "replicaCount"],
    ),
    (
        "minimal",
        "signingKeys: {existingSecret: ''}\nreplicaCount: 1\nautoscaling: {enabled: true}",
        &["signingKeys.existingSecret", "autoscaling.maxReplicas"],
    ),
    ("minimal", "persistence: {enabled: true}", &["persistence.enabled", "replicaCount"]),
    // One replica, and two for a moment.
    ("single-node", "strategy: {type: RollingUpdate}", &["strategy.type", "Recreate"]),
    // Everything else.
    (
        "minimal",
        "tls: {clientCa: {existingSecret: ca}}",
        &["tls.existingSecret", "tls.clientCa.existingSecret"],
    ),
    ("minimal", "config: {server: {drain: 2s}}", &["config.server.drain", "drainSeconds"]),
    ("minimal", "terminationGracePeriodSeconds: 12", &["terminationGracePeriodSeconds", "13"]),
    (
        "minimal",
        "autoscaling: {enabled: true, minReplicas: 5, maxReplicas: 4}",
        &["autoscaling.maxReplicas"],
    ),
    ("minimal", "serviceMonitor: {enabled: true}", &["networkPolicy.operators"]),
    // Values that the schema refuses.
    ("minimal", "replicas: 3", &["replicas"]),
    ("minimal", "config: {sever: {url_prefix: /auth}}", &["/config", "sever"]),
    ("minimal", "config: {nonce: {timout: 100ms}}", &["/config/nonce", "timout"]),
    ("minimal", "config: {nonce: {timeout: 100}}", &["/config/nonce/timeout"]),
    ("minimal", "config: {nonce: {timeout: soon}}", &["/config/nonce/timeout"]),
    ("minimal", "config: {server: {url_prefix: auth/}}", &["/config/server/url_prefix"]),
    ("minimal", "config: {issuer: {algorithm: HS256}}", &["/config/issuer/algorithm"]),
    ("minimal", "config: {telemetry: {trace_sample: 2}}", &["/config/telemetry/trace_sample"]),
    ("minimal", "image: {digest: latest}", &["/image/digest"]),
    ("minimal", "database: {existingSecret: countersign-database}", &["/database/existingSecret"]),
    ("minimal", "service: {http: {port: 0}}", &["/service/http/port"]),
    ("minimal", "networkPolicy: {operators: [{}]}", &["/networkPolicy/operators/0"]),
    ("minimal", "podAntiAffinity: always", &["/podAntiAffinity"]),
    (
        "minimal",
        "podDisruptionBudget: {maxUnavailable: 0}",
        &["/podDisruptionBudget/maxUnavailable"],
    ),
];

#[tokio::test]
async fn what_cannot_work_is_refused_with_the_value_to_change() {
    let values: Vec<String> = REFUSED.iter().map(|(base, values, _)| over(base, values)).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    for ((base, values, named), rendered) in REFUSED.iter().zip(Chart::render(&values)) {
        let Err(error) = rendered else { panic!("{base} with {values} is taken") };
        for name in *named {
            assert!(error.contains(name), "{base} with {values}: {name} is not in {error}");
        }
        assert!(!error.contains("hunter2"), "{base} with {values}: {error}");
    }
}

/// Values close to refused ones: one replica may keep everything to itself, and a reference to a
/// secret is not a secret.
#[tokio::test]
async fn what_can_work_is_taken() {
    let taken = [
        ("minimal", "replicaCount: 1\nsigningKeys: {existingSecret: ''}"),
        (
            "minimal",
            "replicaCount: 1\nnonce: {existingSecret: {name: ''}}\nconfig: {nonce: {url: 'memory:'}}",
        ),
        (
            "minimal",
            "signingKeys: {existingSecret: ''}\nconfig: {issuer: {hs256_secret_file: /run/secrets/hs256/secret}}",
        ),
        ("minimal", "replicaCount: 0"),
        ("single-node", "strategy: {type: Recreate}"),
        ("tls", "config: {nonce: {url: 'redis://countersign@redis:6379'}}"),
        ("minimal", "terminationGracePeriodSeconds: 13"),
        ("minimal", "serviceMonitor: {enabled: true}\nnetworkPolicy: {enabled: false}"),
        (
            "minimal",
            "extraEnv: [{name: COUNTERSIGN_ADMIN__TOKEN, valueFrom: {secretKeyRef: {name: a, key: b}}}]",
        ),
        ("minimal", "global: {anything: of a chart above}"),
        (
            "minimal",
            "prometheusRule: {enabled: true, disabledAlerts: [CountersignSlow, CountersignClaimsSlow]}",
        ),
    ];
    let values: Vec<String> = taken.iter().map(|(base, values)| over(base, values)).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let mut documents = Vec::new();
    for ((base, values), rendered) in taken.iter().zip(Chart::render(&values)) {
        documents.extend(
            rendered.unwrap_or_else(|error| panic!("{base} with {values}: {error}")).documents,
        );
    }
    assert_eq!(Chart::complaints(&documents), Vec::<serde_json::Value>::new());
}

/// The values of a file under `ci`, without the sections that `values` sets.
fn over(base: &str, values: &str) -> String {
    let section = |line: &str| {
        line.split_once(':')
            .map(|(name, _)| name.to_owned())
            .filter(|_| !line.starts_with([' ', '#', '-']))
    };
    let replaced: Vec<String> = values.lines().filter_map(section).collect();
    let mut kept = Vec::new();
    let mut keeps = true;
    let base = Chart::file(&format!("ci/{base}-values.yaml"));
    for line in base.lines() {
        if let Some(name) = section(line) {
            keeps = !replaced.contains(&name);
        }
        if keeps {
            kept.push(line);
        }
    }
    format!("{}\n{values}\n", kept.join("\n"))
}
