//! `countersign top` against services that decide.

use serde_json::Value;

use crate::harness::{
    Claims, Countersign, Database, Deployment, Door, Key, Question, Redis, free_port,
};

#[tokio::test]
async fn one_snapshot_shows_what_was_decided() {
    let (deployment, countersign, key) = alice();
    for door in Door::BOTH {
        let token = Claims::of("alice").authorization(&key);
        assert!(door.ask(&countersign, &Question::with(token.clone())).await.allowed());
        assert!(!door.ask(&countersign, &Question::with(token)).await.allowed());
    }

    let report = snapshot(&deployment, &[&countersign]);

    let replica = &report["replicas"][0];
    assert_eq!(replica["state"], "up", "{report}");
    for figures in [&replica["figures"], &report["all"]] {
        for door in ["http", "grpc"] {
            assert_eq!(figures["decisions_total"][door]["allowed"], 1.0, "{report}");
            assert_eq!(figures["decisions_total"][door]["denied"], 1.0, "{report}");
        }
        assert_eq!(figures["denials_total"]["nonce_claimed"], 2.0, "{report}");
        assert_eq!(figures["restarts"], 0, "{report}");
    }
}

/// Decisions continue while the snapshot is taken: the rates are those of that time, and not higher
/// than the actual ones.
#[tokio::test]
async fn one_snapshot_has_the_rates_of_its_interval() {
    let (deployment, countersign, key) = alice();
    let command = deployment.command(&[
        "top",
        "--output",
        "json",
        "--interval",
        "2s",
        "--url",
        &url(&countersign),
    ]);
    let taking = tokio::task::spawn_blocking(move || {
        let mut command = command;
        crate::harness::Ran::of(&mut command)
    });
    let mut decided = 0.0;
    while !taking.is_finished() {
        assert!(
            Door::Http
                .ask(&countersign, &Question::with(Claims::of("alice").authorization(&key)))
                .await
                .allowed()
        );
        decided += 1.0;
    }

    let ran = taking.await.unwrap();

    assert_eq!(ran.code, 0, "{ran:?}");
    let counted = ran.json()["all"]["decisions_counted"]["http"]["allowed"].as_f64().unwrap();
    let rate = ran.json()["all"]["decisions_per_second"]["http"]["allowed"].as_f64().unwrap();
    assert!(0.0 < counted && counted <= decided, "{counted} of {decided}");
    assert!(0.0 < rate && rate <= counted / 1.9, "{rate} a second, {counted} in two");
}

#[tokio::test]
async fn replicas_that_are_not_well_are_told_apart() {
    let mut redis = Redis::start();
    let (deployment, key) = (Deployment::new().nonces_in(&redis), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    redis.stop();
    let nobody = format!("http://127.0.0.1:{}", free_port());

    let ran = deployment.run(&[
        "top",
        "--output",
        "json",
        "--interval",
        "100ms",
        "--url",
        &url(&countersign),
        "--url",
        &nobody,
    ]);

    assert_eq!(ran.code, 0, "{ran:?}");
    let replicas = ran.json()["replicas"].clone();
    assert_eq!(replicas[0]["state"], "not_ready", "{replicas}");
    assert_eq!(replicas[0]["unavailable"].as_array().map(Vec::len), Some(1), "{replicas}");
    assert_eq!(replicas[1]["state"], "unreachable", "{replicas}");
    assert!(replicas[1]["error"].as_str().is_some_and(|why| why.contains("refused")), "{replicas}");
}

#[tokio::test]
async fn where_no_replica_answers_a_script_can_tell() {
    let deployment = Deployment::bare();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let ran = deployment.run(&["top", "--once", "--interval", "100ms", "--url", &nobody]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("unreachable"), "{ran:?}");

    let (_deployment, countersign, _) = alice();
    let elsewhere = format!("http://{}", countersign.http);
    let ran = deployment.run(&["top", "--once", "--interval", "100ms", "--url", &elsewhere]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("answered 404"), "{ran:?}");

    for bad in [["--url", "ftp://127.0.0.1"], ["--interval", "1ms"]] {
        let ran = deployment.run(&["top", "--once", bad[0], bad[1]]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(
            ran.stderr.contains("accepted are") || ran.stderr.contains("expected an address"),
            "{ran:?}"
        );
    }
}

/// Without `--url` it uses the service that these settings configure; without a terminal it prints
/// lines.
#[tokio::test]
async fn the_settings_say_where_to_look() {
    let (_deployment, countersign, _) = alice();
    let here = Deployment::bare().set("server.admin_listen", &countersign.admin.to_string());

    let ran = here.run(&["top", "--interval", "100ms"]);

    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.starts_with(&format!("replica              {} up\n", url(&countersign))),
        "{ran:?}"
    );
}

#[tokio::test]
async fn on_a_terminal_it_draws_until_a_key_or_a_signal_ends_it() {
    let (deployment, countersign, _) = alice();
    for action in ["type:q", "type:\u{1b}", "type:\u{3}", "type:ppr\u{1b}[B\tq", "signal:TERM"] {
        let ran = deployment.on_terminal(
            &["top", "--url", &url(&countersign)],
            "countersign top",
            action,
        );

        assert_eq!(ran.code, 0, "{action:?}: {ran:?}");
        assert!(ran.is_restored, "{action:?}: {ran:?}");
        let (before, drawn) = ran
            .written
            .split_once("\u{1b}[?1049h")
            .unwrap_or_else(|| panic!("{action:?}: {ran:?}"));
        assert_eq!(before, "", "{action:?}");
        let (drawn, after) =
            drawn.split_once("\u{1b}[?1049l").unwrap_or_else(|| panic!("{action:?}: {ran:?}"));
        for panel in ["Decisions", "Times", "Denials", "State", "Replicas"] {
            assert!(drawn.contains(&format!("┌{panel}")), "{action:?}: {ran:?}");
        }
        assert!(!after.contains("1049h"), "{action:?}: {ran:?}");
        assert!(ran.written.ends_with("\u{1b}[?25h"), "the cursor is back: {action:?}: {ran:?}");
    }
}

/// The bar and the printed lines do not overwrite each other.
#[test]
fn migrating_on_a_terminal_still_prints_what_was_applied() {
    let deployment = Deployment::unmigrated(Database::sqlite());

    let ran = deployment.on_terminal(&["migrate", "up"], "", "");

    assert_eq!((ran.code, ran.is_restored), (0, true), "{ran:?}");
    let status = deployment.list(&["migrate", "status"]);
    assert!(!status.is_empty());
    for migration in status {
        let line = format!("applied {}\r\n", migration["id"].as_str().unwrap());
        assert!(ran.written.contains(&line), "{line:?} is not in {ran:?}");
    }
}

/// Without a terminal, standard output has what was applied and nothing else.
#[test]
fn migrating_in_a_job_prints_what_was_applied() {
    let deployment = Deployment::unmigrated(Database::sqlite());
    let printed = deployment.done(&["migrate", "up"]);
    assert!(
        !printed.is_empty() && printed.lines().all(|line| line.starts_with("applied m")),
        "{printed}"
    );
    assert_eq!(deployment.done(&["migrate", "up"]), "nothing to apply\n");
}

fn snapshot(deployment: &Deployment, replicas: &[&Countersign]) -> Value {
    let urls: Vec<String> =
        replicas.iter().flat_map(|replica| ["--url".to_owned(), url(replica)]).collect();
    let arguments: Vec<&str> = ["top", "--once", "--output", "json", "--interval", "100ms"]
        .into_iter()
        .chain(urls.iter().map(String::as_str))
        .collect();
    serde_json::from_str(&deployment.done(&arguments)).unwrap()
}

fn url(replica: &Countersign) -> String {
    format!("http://{}", replica.admin)
}

fn alice() -> (Deployment, Countersign, Key) {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    (deployment, countersign, key)
}
