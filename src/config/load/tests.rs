use std::time::Duration;

use super::*;
use crate::{
    config::{ListenAddress, database::DatabaseKind, nonce::NonceUrl, telemetry::DecisionLog},
    domain::algorithm::Algorithm,
};

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("countersign.toml");
    std::fs::write(&path, text).unwrap();
    load(
        Some(&path),
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn message(text: &str, environment: &[(&str, &str)]) -> String {
    let error = load_text(text, environment).expect_err("the settings are wrong");
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error.to_string()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let settings = load_text("", &[]).unwrap();
    assert_eq!(settings.server.http_listen.to_string(), "0.0.0.0:8080");
    assert_eq!(settings.server.grpc_listen.to_string(), "0.0.0.0:9191");
    assert_eq!(settings.server.admin_listen.to_string(), "127.0.0.1:8081");
    assert_eq!(settings.server.drain, Duration::from_secs(2));
    assert_eq!((settings.server.max_connections, settings.server.max_in_flight), (4096, 4096));
    assert!(settings.database.url.servers().eq(["sqlite://countersign.db?mode=rwc"]));
    assert!(settings.database.migrates_at_start());
    assert!(matches!(settings.nonce.url, NonceUrl::Memory));
    assert_eq!(settings.self_signed.tolerance, Duration::from_secs(20));
    assert_eq!(settings.registry.poll_interval, Duration::from_millis(500));
    assert_eq!(settings.issuer.refresh_token_lifetime, Duration::from_hours(60 * 24));
    assert_eq!(settings.issuer.algorithm.algorithm(), Algorithm::Rs256);
    assert_eq!(settings.issuer.signing_key_delay, Duration::from_mins(5));
    assert_eq!(settings.issuer.hs256_secret_file, None);
    assert_eq!(settings.telemetry.decision_log, DecisionLog::Denied);
}

#[test]
fn secrets_are_not_shown() {
    let settings = load_text(
        "",
        &[
            ("COUNTERSIGN_DATABASE__URL", "postgres://user:correcthorse@host/name"),
            ("COUNTERSIGN_NONCE__URL", "redis+sentinel://user:correcthorse@host:1/service"),
            ("COUNTERSIGN_ADMIN__TOKEN", "correcthorse and more"),
            ("COUNTERSIGN_JWKS__PROXY", "http://user:correcthorse@proxy.example:3128"),
        ],
    )
    .unwrap();
    for shown in [
        format!("{settings:?}"),
        format!("{settings:#?}"),
        serde_json::to_string(&settings).unwrap(),
    ] {
        assert!(
            shown.contains("http://proxy.example:3128") && !shown.contains("correcthorse"),
            "{shown}"
        );
    }
}

#[test]
fn a_line_that_cannot_be_read_is_not_shown() {
    for line in [
        "url = 'postgres://user:correcthorse@host/name",
        "url = correcthorse",
        "url = \"correcthorse\" \"correcthorse\"",
    ] {
        let message = message(&format!("[database]\n{line}\n"), &[]);
        assert!(message.contains("line 2") && !message.contains("correcthorse"), "{message}");
    }
}

#[test]
fn the_environment_overrides_the_file() {
    let settings = load_text(
        "[server]\nhttp_listen = \"127.0.0.1:1\"\ngrpc_listen = \"127.0.0.1:2\"\n[jwks]\nallowed_hosts = [\"a\", \"b\"]",
        &[
            ("COUNTERSIGN_SERVER__HTTP_LISTEN", "127.0.0.1:3"),
            ("COUNTERSIGN_SELF_SIGNED__REQUIRE", "htm, htu"),
            ("COUNTERSIGN_DATABASE__URL", "postgres://u:p@h/n"),
            ("COUNTERSIGN_DATABASE__AUTO_MIGRATE", "true"),
            ("COUNTERSIGN_REGISTRY__CACHE_ENTRIES", "7"),
            ("COUNTERSIGN_SERVER__TOKEN_API", "false"),
            ("COUNTERSIGN_TELEMETRY__DECISION_LOG", "all"),
            ("COUNTERSIGN_ADMIN__TOKEN", "1234567890123456"),
            ("COUNTERSIGN_SERVICE_HOST", "10.0.0.1"),
            ("COUNTERSIGN_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ],
    )
    .unwrap();
    assert_eq!(settings.server.http_listen.tcp().unwrap().port(), 3);
    assert_eq!(settings.server.grpc_listen.tcp().unwrap().port(), 2);
    assert_eq!(settings.self_signed.require, ["htm", "htu"]);
    assert_eq!(settings.jwks.allowed_hosts, ["a", "b"]);
    assert_eq!(settings.database.url.kind(), DatabaseKind::Postgres);
    assert!(settings.database.migrates_at_start());
    assert_eq!(settings.registry.cache_entries, 7);
    assert!(!settings.server.token_api);
    assert_eq!(settings.telemetry.decision_log, DecisionLog::All);
    assert_eq!(settings.admin.token.unwrap().expose(), "1234567890123456");
}

#[test]
fn unknown_keys_are_named_with_their_source_and_their_neighbours() {
    let error = message("[server]\nhttp_lisen = \"127.0.0.1:1\"", &[]);
    assert!(
        error.contains("`server.http_lisen`")
            && error.contains("countersign.toml")
            && error.contains("`http_listen`"),
        "{error}"
    );
    let error = message("[sever]\nhttp_listen = \"127.0.0.1:1\"", &[]);
    assert!(error.contains("`sever`") && error.contains("`server`"), "{error}");
    let error = message("", &[("COUNTERSIGN_NONCE__URI", "memory:")]);
    assert!(
        error.contains("`nonce.uri`")
            && error.contains("COUNTERSIGN_NONCE__URI")
            && error.contains("`url`"),
        "{error}"
    );
    let error = message("", &[("COUNTERSIGN_SERVER_HTTP_LISTEN", "127.0.0.1:1")]);
    assert!(error.contains("COUNTERSIGN_SERVER__HTTP_LISTEN"), "{error}");
}

#[test]
fn bad_values_are_named_with_their_source_and_what_is_accepted() {
    for (text, environment, parts) in [
        (
            "[server]\nhttp_listen = \"localhost\"",
            &[][..],
            &["`server.http_listen`", "countersign.toml", "127.0.0.1:8080"][..],
        ),
        (
            "",
            &[("COUNTERSIGN_SELF_SIGNED__TOLERANCE", "soon")],
            &["`self_signed.tolerance`", "COUNTERSIGN_SELF_SIGNED__TOLERANCE", "20s"],
        ),
        (
            "[self_signed]\ntolerance = \"2h\"",
            &[],
            &["`self_signed.tolerance`", "countersign.toml", "1h"],
        ),
        ("[self_signed]\nrequire = [\"jti\"]", &[], &["`self_signed.require`", "`htm`"]),
        ("[telemetry]\nlog_format = \"xml\"", &[], &["`telemetry.log_format`", "`json`", "`text`"]),
        (
            "[telemetry]\nlog_overflow = \"block\"",
            &[],
            &["`telemetry.log_overflow`", "`drop`", "`wait`"],
        ),
        ("[telemetry]\nlog = \"loud\"", &[], &["`telemetry.log`", "debug"]),
        ("[database]\nurl = \"oracle://u:hunter2@h\"", &[], &["`database.url`", "postgres://"]),
        ("", &[("COUNTERSIGN_NONCE__URL", "memcached://h")], &["`nonce.url`", "redis://"]),
        (
            "",
            &[("COUNTERSIGN_DATABASE__AUTO_MIGRATE", "perhaps")],
            &["`database.auto_migrate`", "COUNTERSIGN_DATABASE__AUTO_MIGRATE"],
        ),
        (
            "[registry]\ncache_entries = \"many\"",
            &[],
            &["`registry.cache_entries`", "countersign.toml"],
        ),
        (
            "[issuer]\nalgorithm = \"RS512\"",
            &[],
            &["`issuer.algorithm`", "countersign.toml", "RS256, PS256, ES256, ES384 and EdDSA"],
        ),
        (
            "",
            &[("COUNTERSIGN_ISSUER__ALGORITHM", "HS256")],
            &["`issuer.algorithm`", "`issuer.hs256_secret_file`"],
        ),
        ("[issuer]\nsigning_key_delay = \"8d\"", &[], &["`issuer.signing_key_delay`", "7d"]),
        ("[server]\nurl_prefix = \"auth\"", &[], &["`server.url_prefix`", "`/auth`"]),
        (
            "[server]\nhttp_listen = \"unix:http.sock\"",
            &[],
            &["`server.http_listen`", "countersign.toml", "unix:/run/"],
        ),
        (
            "[server]\nsocket_mode = \"rw\"",
            &[],
            &["`server.socket_mode`", "countersign.toml", "\"0660\""],
        ),
        // 0o660, as the file parser passes it.
        ("[server]\nsocket_mode = 0o660", &[], &["`server.socket_mode`", "\"0660\""]),
        (
            "",
            &[("COUNTERSIGN_ADMIN__SOCKET_MODE", "0880")],
            &["`admin.socket_mode`", "COUNTERSIGN_ADMIN__SOCKET_MODE"],
        ),
        ("[server]\ndrain = \"2m\"", &[], &["`server.drain`", "`1m`"]),
        ("[server]\nmax_connections = 0", &[], &["`server.max_connections`", "1 to 1000000"]),
        ("[server]\nmax_in_flight = 0", &[], &["`server.max_in_flight`", "1 to 1000000"]),
        ("[server.tls]\ncert = \"a.pem\"", &[], &["`server.tls.cert`", "`server.tls.key`"]),
        (
            "[server.grpc]\nmax_message = 16777217",
            &[],
            &["`server.grpc.max_message`", "countersign.toml", "16777216"],
        ),
        (
            "",
            &[("COUNTERSIGN_SERVER__GRPC__MAX_MESSAGE", "1")],
            &["`server.grpc.max_message`", "16384"],
        ),
        ("server = 5", &[], &["`server`"]),
    ] {
        let error = message(text, environment);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}\nlacks one of {parts:?}");
    }
}

#[test]
fn a_listener_may_be_a_unix_socket() {
    let settings = load_text(
        "[server]\nhttp_listen = \"unix:/run/countersign/http.sock\"\nsocket_mode = \"0666\"",
        &[
            ("COUNTERSIGN_SERVER__GRPC_LISTEN", "unix:/run/g"),
            ("COUNTERSIGN_ADMIN__SOCKET_MODE", "0640"),
        ],
    )
    .unwrap();
    assert_eq!(
        settings.server.http_listen,
        ListenAddress::Unix("/run/countersign/http.sock".into())
    );
    assert_eq!(settings.server.http_listen.to_string(), "unix:/run/countersign/http.sock");
    assert_eq!(settings.server.grpc_listen, ListenAddress::Unix("/run/g".into()));
    assert_eq!(
        (settings.server.socket_mode.to_string(), settings.admin.socket_mode.to_string()),
        ("0666".into(), "0640".into())
    );
}

#[test]
fn contradictions_are_refused() {
    let error = message("[admin]\ntoken = \"a\"\ntoken_file = \"b\"", &[]);
    assert!(error.contains("`admin.token_file`") && error.contains("`admin.token`"), "{error}");
    let error = message("[server]\nhttp_listen = \"0.0.0.0:1\"\ngrpc_listen = \"0.0.0.0:1\"", &[]);
    assert!(error.contains("`server.grpc_listen`"), "{error}");
    let error =
        message("[server]\ngrpc_listen = \"unix:/run/a\"\nadmin_listen = \"unix:/run/a\"", &[]);
    assert!(error.contains("`server.admin_listen`"), "{error}");
    let error = message(
        "[server]\nhttp_listen = \"unix:/run/a\"\ngrpc_listen = \"unix:/run/b\"\n[server.tls]\ncert = \"c\"\nkey = \"k\"",
        &[],
    );
    assert!(error.contains("`server.tls.cert`") && error.contains("Unix socket"), "{error}");
    let error = message(
        "[server]\nadmin_listen = \"unix:/run/a\"\n[admin.tls]\ncert = \"c\"\nkey = \"k\"",
        &[],
    );
    assert!(error.contains("`admin.tls.cert`") && error.contains("Unix socket"), "{error}");
    let error = message("[self_signed]\nscheme = \"bearer\"", &[]);
    assert!(error.contains("`self_signed.scheme`"), "{error}");
    let error = message("[nonce]\nurl = \"redis://h\"\nca_file = \"ca.pem\"", &[]);
    assert!(error.contains("`nonce.ca_file`") && error.contains("`rediss`"), "{error}");
    let error = message("[nonce]\nurl = \"rediss://h\"\nclient_cert = \"c.pem\"", &[]);
    assert!(
        error.contains("`nonce.client_cert`") && error.contains("`nonce.client_key`"),
        "{error}"
    );
    let error = message("[issuer]\nalgorithm = \"ES256\"\nhs256_secret_file = \"secret\"", &[]);
    assert!(
        error.contains("`issuer.algorithm`") && error.contains("`issuer.hs256_secret_file`"),
        "{error}"
    );
}

#[test]
fn secrets_are_never_echoed() {
    let secret = "hunter2";
    for (text, environment) in [
        (format!("[database]\nurl = \"oracle://u:{secret}@h\""), vec![]),
        (String::new(), vec![("COUNTERSIGN_NONCE__URL", "redis+sentinel://:hunter2@h")]),
        ("[nonce]\nurl = \"redis://u:hunter2/@h\"".to_owned(), vec![]),
        (format!("[admin]\ntoken = [\"{secret}\"]"), vec![]),
        (format!("[server]\ntoken_api = \"{secret}\""), vec![]),
    ] {
        let error = load_text(&text, &environment).expect_err("the settings are wrong");
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
    let token = secret.repeat(3);
    let settings = load_text(
        "",
        &[
            ("COUNTERSIGN_ADMIN__TOKEN", &token),
            ("COUNTERSIGN_DATABASE__URL", "postgres://u:hunter2@h/n"),
        ],
    )
    .unwrap();
    assert!(!format!("{settings:?}").contains(secret));
    assert!(!serde_json::to_string(&settings).unwrap().contains(secret));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = load(Some(Path::new("no/such/file.toml")), []).expect_err("there is none");
    assert!(missing.to_string().contains("no/such/file.toml"));
    assert!(message("[server\n", &[]).contains("not valid TOML"));
}

/// The settings file that packages install. It has to mention settings that are new or have a
/// different default, too.
#[test]
fn the_commented_file_has_every_setting_with_its_default() {
    let text = include_str!("../../../deploy/countersign.toml");
    let is_setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| is_setting(rest)).unwrap_or(line))
        .collect();

    let defaults = schema().unwrap();
    for text in [text, &uncommented.join("\n")] {
        let settings = load_text(text, &[]).unwrap();
        assert_eq!(serde_json::to_value(&settings).unwrap(), defaults);
        assert!(settings.database.url.servers().eq(Settings::default().database.url.servers()));
        assert!(settings.admin.token.is_none());
    }

    let mut section = "";
    let written = uncommented.iter().filter_map(|line| {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        is_setting(line).then(|| line.split(' ').next().map(|key| join(section, key))).flatten()
    });
    let (mut written, mut known) = (written.collect::<Vec<_>>(), leaves(&defaults, ""));
    written.sort();
    known.sort();
    assert_eq!(written, known);
}
