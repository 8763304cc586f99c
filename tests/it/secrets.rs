//! No secret is printed or logged, at any level, by any library, whatever goes wrong.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::harness::http::Request;
use crate::harness::{
    Admin, ApiKey, Behaviour, Claims, Countersign, Database, Deployment, Door, JwksServer, Key,
    Question, Ran, Redis, Signer, Tinyproxy, TokenApi, eventually_async, free_port, variable,
};

/// Part of every secret in these tests, and of nothing else.
const PLANTED: &str = "correcthorse";
const PATIENCE: Duration = Duration::from_secs(30);

/// Logs everything, of every crate.
const EVERYTHING: &str = "trace";

fn tells_nothing(what: &str, text: &str) {
    for line in text.lines() {
        assert!(!line.contains(PLANTED), "{what}: {line}");
    }
}

/// Typing mistakes, and settings that are well-formed but do not work.
#[test]
fn what_cannot_be_used_is_not_repeated() {
    let nobody = free_port();
    let values = [
        ("database.url", format!("oracle://user:{PLANTED}@127.0.0.1/db")),
        ("database.url", format!("postgres://user:{PLANTED}@127.0.0.1:port/db")),
        ("database.url", format!("postgres://user:{PLANTED}@[::1/db")),
        ("database.url", format!("postgres://user:p#{PLANTED}@127.0.0.1:{nobody}/db")),
        ("database.url", format!("postgres://user:p/{PLANTED}@127.0.0.1:{nobody}/db")),
        ("database.url", format!("postgres://user:{PLANTED}@127.0.0.1:{nobody}/db")),
        ("database.url", format!("postgres://user:p@127.0.0.1:{nobody}/db?sslmode={PLANTED}")),
        ("database.url", format!("postgres://user:p@127.0.0.1:{nobody}/db?passwort={PLANTED}")),
        ("database.url", format!("mysql://user:{PLANTED}@127.0.0.1:port/db")),
        ("database.url", format!("mysql://user:{PLANTED}@127.0.0.1:{nobody}/db")),
        ("database.url", format!("mariadb://user:{PLANTED}@127.0.0.1:{nobody}/db")),
        ("database.url", PLANTED.to_owned()),
        ("nonce.url", format!("gopher://:{PLANTED}@127.0.0.1")),
        ("nonce.url", format!("redis://user:{PLANTED}@127.0.0.1:port")),
        ("nonce.url", format!("redis://user:{PLANTED}@[::1")),
        ("nonce.url", format!("redis://user:p@127.0.0.1:{nobody}/{PLANTED}")),
        ("nonce.url", format!("rediss://user:{PLANTED}@127.0.0.1:{nobody}/#{PLANTED}")),
        ("nonce.url", format!("redis://user:{PLANTED}@127.0.0.1:{nobody}")),
        ("nonce.url", format!("redis://user:p%zz{PLANTED}@127.0.0.1:{nobody}")),
        ("nonce.url", format!("redis+cluster://user:{PLANTED}@127.0.0.1:{nobody},127.0.0.1:port")),
        ("nonce.url", format!("redis+cluster://user:{PLANTED}@127.0.0.1:{nobody}")),
        ("nonce.url", format!("redis+sentinel://user:{PLANTED}@127.0.0.1:{nobody}/service")),
        (
            "nonce.url",
            format!("redis+sentinel://127.0.0.1:{nobody}/service?sentinel_password={PLANTED}"),
        ),
        ("nonce.url", PLANTED.to_owned()),
        ("admin.token", format!("{PLANTED}!")),
        ("admin.token_file", "short".to_owned()),
        ("jwks.proxy", format!("socks5://user:{PLANTED}@127.0.0.1")),
        ("jwks.proxy", format!("http://user:{PLANTED}@127.0.0.1:port")),
        ("jwks.proxy", format!("http://user:{PLANTED}@127.0.0.1/path")),
        ("telemetry.otlp_endpoint", format!("http://user:{PLANTED}@127.0.0.1:4317")),
        ("telemetry.otlp_endpoint", format!("http://user:{PLANTED}@127.0.0.1:port")),
    ];
    for (key, value) in values {
        let deployment = Deployment::new().set("telemetry.log", EVERYTHING).set(key, &value);
        deployment.file("short", &format!("{PLANTED}!"));
        for command in [
            ["config", "check"].as_slice(),
            &["serve"],
            &["principal", "list"],
            &["migrate", "status"],
        ] {
            // Settings with which the service starts all the same are tested elsewhere.
            let mut command_line = deployment.command(command);
            if command == ["serve"] {
                let mut limited = std::process::Command::new("timeout");
                limited
                    .arg("3")
                    .arg(command_line.get_program())
                    .args(command_line.get_args())
                    .env_clear();
                limited
                    .envs(command_line.get_envs().filter_map(|(name, value)| Some((name, value?))));
                limited.current_dir(deployment.dir.path());
                command_line = limited;
            }
            let ran = Ran::of(&mut command_line);
            tells_nothing(&format!("{key}, {command:?}"), &format!("{}{}", ran.stdout, ran.stderr));
            if command == ["config", "check"] {
                assert!(ran.code != 0 && ran.stderr.contains(key), "{key} is not named: {ran:?}");
            }
        }
        // The same from a file.
        let (section, name) = key.split_once('.').unwrap();
        deployment.file("countersign.toml", &format!("[{section}]\n{name} = '{value}'\n"));
        let ran = Ran::of(deployment.command(&["config", "check"]).env_remove(variable(key)));
        tells_nothing(&format!("{key} in a file"), &format!("{}{}", ran.stdout, ran.stderr));
        deployment.file("countersign.toml", &format!("[{section}]\n{name} = '{value}\n"));
        let ran = deployment.run(&["config", "check"]);
        assert_eq!(ran.code, 2, "{ran:?}");
        tells_nothing(&format!("{key} in a broken file"), &format!("{}{}", ran.stdout, ran.stderr));
    }
}

#[test]
fn arguments_are_not_repeated() {
    let deployment = Deployment::new();
    let bad = format!("oracle://user:{PLANTED}@127.0.0.1/db");
    let nobody = format!("postgres://user:{PLANTED}@127.0.0.1:{}/db", free_port());
    for url in [&bad, &nobody] {
        for from in ["jwthenticator", "jwtconnect", "asymmetric-jwt-auth"] {
            let ran = deployment.run(&["import", from, "--database", url]);
            assert_ne!(ran.code, 0, "{ran:?}");
            tells_nothing(from, &format!("{}{}", ran.stdout, ran.stderr));
            let ran = Ran::of(
                deployment.command(&["import", from, "--database-env", "OLD"]).env("OLD", url),
            );
            tells_nothing(from, &format!("{}{}", ran.stdout, ran.stderr));
            let ran = Ran::reading(
                &mut deployment.command(&["import", from, "--database", "-"]),
                url.as_bytes(),
            );
            assert_ne!(ran.code, 0, "{ran:?}");
            tells_nothing(from, &format!("{}{}", ran.stdout, ran.stderr));
        }
    }
    for url in [
        format!("ftp://user:{PLANTED}@127.0.0.1"),
        format!("http://user:{PLANTED}@127.0.0.1:{}", free_port()),
    ] {
        let ran = deployment.run(&["top", "--once", "--interval", "100ms", "--url", &url]);
        assert_ne!(ran.code, 0, "{ran:?}");
        tells_nothing("top", &format!("{}{}", ran.stdout, ran.stderr));
    }
}

/// Every service with a password, while it works and after it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_logs_everything_tells_no_secret() {
    let (proxy, keys) = (Tinyproxy::start("countersign", PLANTED), JwksServer::https());
    let signer = Signer::named("one");
    keys.put("/keys", Behaviour::set([signer.jwk()]));
    for (kind, database) in [("postgres", Database::postgres()), ("mariadb", Database::mariadb())] {
        let mut redis = Redis::start_with(&["--requirepass", PLANTED]);
        let (token, key) = (format!("an admin token of {PLANTED}"), Key::ed25519());
        let url = with_password(&database).await;
        let deployment = Deployment::on(database).trusting(&keys);
        let deployment = deployment
            .set("database.url", &url)
            .set("nonce.url", &format!("redis://:{PLANTED}@{}", redis.address))
            .set("nonce.timeout", "1s")
            .set("admin.token", &token)
            .set("jwks.proxy", &format!("http://countersign:{PLANTED}@{}", proxy.address))
            .set("telemetry.log", EVERYTHING);
        deployment.enrol("alice", &key);
        deployment.done(&["principal", "add", "bob"]);
        deployment.add_trust("bob", &keys.url("/keys"));
        let api_key = deployment.api_key("alice");
        let presented = Claims::of("alice").authorization(&key);
        let countersign = deployment.serve();
        let told = used(&countersign, &token, &presented, &signer, &api_key).await;
        assert!(!proxy.passed().is_empty());
        let check = deployment.run(&["config", "check"]);
        assert_eq!(check.code, 0, "{check:?}");

        redis.stop();
        eventually_async("the loss is noticed", PATIENCE, async || {
            (Request::get("/readyz").send(countersign.admin).await.status == 503).then_some(())
        })
        .await;
        let ready = Request::get("/readyz").send(countersign.admin).await.text();
        let away = deployment.run(&["config", "check"]);
        assert_eq!(away.code, 1, "{away:?}");

        for (what, text) in [
            ("answers", told.as_str()),
            ("readiness", &ready),
            ("the command line", &countersign.command_line()),
            (
                "the check",
                &format!("{}{}{}{}", check.stdout, check.stderr, away.stdout, away.stderr),
            ),
        ] {
            tells_nothing(&format!("{kind}, {what}"), text);
        }
        let log = countersign.log();
        for crate_ in ["sqlx", "redis", "hyper", "reqwest", "rustls"] {
            eprintln!(
                "{kind}: {} lines of {crate_}",
                log.lines().filter(|line| line.contains(&format!("\"{crate_}"))).count()
            );
        }
        assert!(log.contains("TRACE"), "everything is logged");
        tells_nothing(&format!("{kind}, the log"), &log);
        for secret in [api_key.key.as_str(), presented.rsplit('.').next().unwrap()] {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}

/// A user with the password, and its URL.
async fn with_password(database: &Database) -> String {
    if database.url.starts_with("postgres") {
        crate::harness::execute(
            &database.url,
            &format!("ALTER USER countersign PASSWORD '{PLANTED}'"),
        )
        .await;
        return database.url.replace("countersign@", &format!("countersign:{PLANTED}@"));
    }
    crate::harness::execute(
        &database.url,
        &format!("CREATE USER planted@'%' IDENTIFIED BY '{PLANTED}'"),
    )
    .await;
    crate::harness::execute(&database.url, "GRANT ALL ON countersign.* TO planted@'%'").await;
    database.url.replace("root@", &format!("planted:{PLANTED}@"))
}

/// Sends every request, valid and invalid. Returns all answers.
async fn used(
    countersign: &Countersign,
    token: &str,
    presented: &str,
    signer: &Signer,
    api_key: &ApiKey,
) -> String {
    // Writing to a String cannot fail.
    let mut told = String::new();
    for (username, authorization) in [
        ("alice", presented.to_owned()),
        ("bob", signer.authorization("bob")),
        ("nobody", "JWT a.b.c".to_owned()),
    ] {
        for door in [Door::Http, Door::Grpc] {
            let verdict = door.ask(countersign, &Question::with(authorization.clone())).await;
            let _ = writeln!(told, "{username}: {verdict:?}");
        }
    }
    let admin = Admin::of(countersign).address;
    let bearer = format!("Bearer {token}");
    for request in [
        Request::get("/admin/v1/principals").authorization(&bearer),
        Request::get("/admin/v1/principals").authorization(&format!("{bearer}!")),
        Request::get("/admin/v1/nothing").authorization(&bearer),
        Request::get("/admin/v1/log").authorization(&bearer),
        Request::new("POST", "/admin/v1/explain")
            .authorization(&bearer)
            .header("Content-Type", "application/json")
            .body(json!({ "token": presented }).to_string()),
        Request::get("/metrics"),
        Request::get("/readyz"),
    ] {
        let answer = request.send(admin).await;
        let _ = writeln!(told, "{} {}", answer.status, answer.text());
    }
    let api = TokenApi::of(countersign);
    let pair = api.authenticate(api_key).await;
    let _ = writeln!(told, "{}", pair.status);
    told
}
