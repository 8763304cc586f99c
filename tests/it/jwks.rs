//! Key sets that principals trust: which tokens pass, and what an operator's changes do while the
//! service runs.

pub mod fetching;
pub mod guards;
pub mod hostile;
pub mod proxy;
pub mod real;
pub mod server;
pub mod sets;

use std::time::Duration;

use crate::harness::{
    Behaviour, Claims, Countersign, Deployment, Door, JwksServer, Key, Question, Signal, Signer,
    Verdict, eventually_async, member,
};

/// For anything without a promised time.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// For a fetch, a decision and a command on a busy machine, in addition to a promised time.
pub const MARGIN: Duration = Duration::from_secs(3);
/// The promise for changes in the registry, and a margin for the command to exit and the request to
/// be sent.
const IN_FORCE_WITHIN: Duration = Duration::from_millis(1_000 + 250);

#[tokio::test]
async fn tokens_of_a_trusted_set_pass_once_at_either_door() {
    let world = World::start(&[]);
    let signers = [
        (Signer::new("rsa", Key::rsa()), "rsa"),
        (Signer::new("p256", Key::p256()), "p256"),
        (Signer::new("p384", Key::p384()), "p384"),
        (Signer::named("2026 \u{fc}%"), "2026%20%C3%BC%25"),
        // Looks like a fingerprint, but is not one.
        (Signer::named("ab".repeat(32)), &"ab".repeat(32)),
    ];
    world.server.put("/keys", Behaviour::set(signers.iter().map(|(signer, _)| signer.jwk())));
    world.trust("alice", "/keys");

    for (signer, key_id) in &signers {
        world.becomes("allowed", "alice", signer, PATIENCE).await;
        for door in Door::BOTH {
            let question = Question::with(signer.authorization("alice"));
            let verdict = door.ask(&world.countersign, &question).await;
            assert!(verdict.allowed(), "{door:?}, {key_id}: {verdict:?}");
            assert_eq!(verdict.header("x-auth-key-id"), Some(*key_id), "{door:?}");
            assert_eq!(verdict.header("x-auth-username"), Some("alice"), "{door:?}");
            assert_eq!(verdict.header("x-auth-method"), Some("self_signed"), "{door:?}");
            assert_eq!(
                verdict.header("x-auth-scopes"),
                Some("orders:read orders:write"),
                "{door:?}"
            );
            assert_eq!(
                door.ask(&world.countersign, &question).await.code(),
                Some("replayed"),
                "{door:?}, {key_id}"
            );
        }
    }
}

#[tokio::test]
async fn only_the_named_key_of_a_trusting_principal_counts() {
    let world = World::start(&[]);
    world.deployment.enrol("bob", &world.local);
    let (signer, other) = (Signer::named("one"), Signer::named("another"));
    world.server.put("/keys", Behaviour::set([signer.jwk(), other.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &signer, PATIENCE).await;

    assert_eq!(world.outcome("bob", &signer).await, "invalid_token", "bob does not trust the set");
    assert_eq!(
        world.outcome("nobody", &signer).await,
        "invalid_token",
        "there is no such principal"
    );
    for (case, claims) in [
        ("the kid of another key of the set", other.claims("alice")),
        ("another spelling of the kid", Claims::of("alice").with_header("kid", "ONE")),
        (
            "the fingerprint, which names registered keys only",
            Claims::of("alice").with_header("kid", signer.key.fingerprint()),
        ),
    ] {
        let verdict = world.ask(claims.authorization(&signer.key)).await;
        assert_eq!(verdict.code(), Some("invalid_token"), "{case}: {verdict:?}");
    }
    // A token without a `kid` may be signed with any key, and is reported with the key's
    // fingerprint.
    let verdict = world.ask(Claims::of("alice").authorization(&signer.key)).await;
    assert_eq!(
        verdict.header("x-auth-key-id"),
        Some(signer.key.fingerprint().as_str()),
        "{verdict:?}"
    );
}

/// A required scope is checked against the principal's scopes: a key set neither narrows nor widens
/// them.
#[tokio::test]
async fn scopes_are_those_of_the_principal() {
    let world = World::start(&[]);
    let signer = Signer::named("one");
    world.server.put("/keys", Behaviour::set([member(signer.jwk(), "scope", "admin")]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &signer, PATIENCE).await;

    for door in Door::BOTH {
        for (scope, code) in [
            ("orders:read", None),
            ("orders:write orders:read", None),
            ("admin", Some("insufficient_scope")),
        ] {
            let question = Question {
                scope: Some(scope.to_owned()),
                ..Question::with(signer.authorization("alice"))
            };
            let verdict = door.ask(&world.countersign, &question).await;
            assert_eq!(verdict.code(), code, "{door:?}, {scope}: {verdict:?}");
        }
    }
}

#[tokio::test]
async fn keys_rotate_without_a_gap() {
    const INTERVAL: Duration = Duration::from_secs(3);
    let world = World::start(&[("jwks.refresh_interval", "3s")]);
    let (old, new) = (Signer::named("2025"), Signer::new("2026", Key::p256()));
    world.server.put("/keys", Behaviour::set([old.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &old, PATIENCE).await;

    world.server.put("/keys", Behaviour::set([old.jwk(), new.jwk()]));
    eventually_async("the new key is allowed", INTERVAL + MARGIN, async || {
        assert_eq!(world.outcome("alice", &old).await, "allowed", "the old key");
        (world.outcome("alice", &new).await == "allowed").then_some(())
    })
    .await;

    world.server.put("/keys", Behaviour::set([new.jwk()]));
    eventually_async("the old key is refused", INTERVAL + MARGIN, async || {
        assert_eq!(world.outcome("alice", &new).await, "allowed", "the new key");
        (world.outcome("alice", &old).await == "invalid_token").then_some(())
    })
    .await;

    // Another key with the same name.
    let successor = Signer::named("2026");
    world.server.put("/keys", Behaviour::set([successor.jwk()]));
    world.becomes("allowed", "alice", &successor, INTERVAL + MARGIN).await;
    assert_eq!(world.outcome("alice", &new).await, "invalid_token");

    // A set may be empty, too: then no token passes.
    world.server.put("/keys", Behaviour::set([]));
    world.becomes("invalid_token", "alice", &successor, INTERVAL + MARGIN).await;
    world.local_key_goes_on().await;
}

#[tokio::test]
async fn a_removed_trust_and_a_disabled_principal_stop_at_once_everywhere() {
    let world = World::start(&[]);
    let replicas = [world.deployment.serve(), world.deployment.serve()];
    let signer = Signer::named("one");
    world.server.put("/keys", Behaviour::set([signer.jwk()]));
    let everywhere = async |expected: &str, within: Duration| {
        let start = std::time::Instant::now();
        for replica in &replicas {
            let left = within.saturating_sub(start.elapsed());
            eventually_async(&format!("alice is {expected}"), left, async || {
                let verdict =
                    Door::Http.ask(replica, &Question::with(signer.authorization("alice"))).await;
                (outcome(&verdict) == expected).then_some(())
            })
            .await;
        }
    };

    let trust = world.trust("alice", "/keys");
    everywhere("allowed", PATIENCE).await;
    world.deployment.done(&["principal", "disable", "alice"]);
    everywhere("invalid_token", IN_FORCE_WITHIN).await;
    world.deployment.done(&["principal", "enable", "alice"]);
    everywhere("allowed", IN_FORCE_WITHIN).await;
    world.deployment.done(&["trust", "remove", &trust]);
    everywhere("invalid_token", IN_FORCE_WITHIN).await;
    world.local_key_goes_on().await;

    // The set can be trusted again.
    world.trust("alice", "/keys");
    everywhere("allowed", PATIENCE).await;
}

#[tokio::test]
async fn a_principal_may_trust_several_sets() {
    let world = World::start(&[]);
    let (first, second, third) =
        (Signer::named("first"), Signer::new("second", Key::rsa()), Signer::named("third"));
    for (path, signer) in [("/first", &first), ("/second", &second), ("/third", &third)] {
        world.server.put(path, Behaviour::set([signer.jwk()]));
    }
    let trust = world.trust("alice", "/first");
    world.trust("alice", "/broken");
    world.trust("alice", "/second");
    world.deployment.done(&["principal", "add", "bob"]);
    world.trust("bob", "/third");

    world.becomes("allowed", "alice", &first, PATIENCE).await;
    world.becomes("allowed", "alice", &second, PATIENCE).await;
    world.becomes("allowed", "bob", &third, PATIENCE).await;
    assert_eq!(world.outcome("alice", &third).await, "invalid_token");
    assert_eq!(world.outcome("bob", &first).await, "invalid_token");

    world.deployment.done(&["trust", "remove", &trust]);
    world.becomes("invalid_token", "alice", &first, IN_FORCE_WITHIN).await;
    assert_eq!(world.outcome("alice", &second).await, "allowed");
}

/// One fetch serves everyone who trusts the set, and each may stop trusting it.
#[tokio::test]
async fn a_set_that_two_principals_trust_is_fetched_once() {
    let (server, deployment) = World::prepare(&[]);
    let (signer, local) = (Signer::named("shared"), Key::ed25519());
    server.put("/keys", Behaviour::set([signer.jwk()]));
    let trusts = ["alice", "bob"].map(|username| {
        deployment.enrol(username, &local);
        deployment.add_trust(username, &server.url("/keys"))
    });
    let world = World { countersign: deployment.serve(), server, deployment, local };

    world.becomes("allowed", "alice", &signer, PATIENCE).await;
    world.becomes("allowed", "bob", &signer, PATIENCE).await;
    assert_eq!(world.server.requests("/keys").len(), 1);
    for trust in &trusts {
        eventually_async("both trusts show the fetch", PATIENCE, async || {
            (!world.deployment.listed_trust(trust)["last_fetched_at"].is_null()).then_some(())
        })
        .await;
    }

    world.deployment.done(&["trust", "remove", &trusts[0]]);
    world.becomes("invalid_token", "alice", &signer, IN_FORCE_WITHIN).await;
    assert_eq!(world.outcome("bob", &signer).await, "allowed", "bob still trusts it");
}

/// Whatever names a set gives to its keys, a registered key is used as itself.
#[tokio::test]
async fn a_set_cannot_take_the_place_of_a_registered_key() {
    let world = World::start(&[]);
    let fingerprint = world.local.fingerprint();
    let (impostor, honest) = (Signer::named(&fingerprint), Signer::named("honest"));
    world.server.put("/keys", Behaviour::set([impostor.jwk(), honest.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &honest, PATIENCE).await;

    for claims in
        [Claims::of("alice"), Claims::of("alice").with_header("kid", fingerprint.as_str())]
    {
        let verdict = world.ask(claims.authorization(&world.local)).await;
        assert!(verdict.allowed(), "{verdict:?}");
        assert_eq!(verdict.header("x-auth-key-id"), Some(fingerprint.as_str()));
    }
}

#[tokio::test]
async fn a_refresh_by_command_fetches_at_once() {
    let world = World::start(&[]);
    let (old, new) = (Signer::named("2025"), Signer::named("2026"));
    world.server.put("/keys", Behaviour::set([old.jwk()]));
    let trust = world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &old, PATIENCE).await;

    world.server.put("/keys", Behaviour::set([new.jwk()]));
    assert_eq!(world.outcome("alice", &new).await, "invalid_token", "the next fetch is far away");
    world.deployment.done(&["trust", "refresh", &trust]);

    world.becomes("allowed", "alice", &new, IN_FORCE_WITHIN + MARGIN).await;
    assert_eq!(world.outcome("alice", &old).await, "invalid_token");
}

#[tokio::test]
async fn what_a_trust_is_used_for_is_written_down() {
    let mut world = World::start(&[]);
    let (often, late) = (Signer::named("often"), Signer::named("late"));
    world.server.put("/often", Behaviour::set([often.jwk()]));
    world.server.put("/late", Behaviour::set([late.jwk()]));
    let [used, last, unused] = ["/often", "/late", "/never"].map(|path| world.trust("alice", path));
    let last_used = |world: &World, trust: &str| {
        world.deployment.listed_trust(trust)["last_used_on"].as_str().map(str::to_owned)
    };

    world.becomes("allowed", "alice", &often, PATIENCE).await;
    eventually_async(
        "the use is written behind the decision",
        Duration::from_secs(12) + MARGIN,
        async || last_used(&world, &used),
    )
    .await;
    assert_eq!(last_used(&world, &last), None);

    // Anything not yet written is written at shutdown.
    world.becomes("allowed", "alice", &late, PATIENCE).await;
    world.countersign.signal(Signal::Term);
    assert!(world.countersign.exited_within(PATIENCE).success());
    assert!(last_used(&world, &last).is_some());
    assert_eq!(last_used(&world, &unused), None);
}

/// A service with one principal, `alice`, who has a registered key, and a server for the sets that
/// she may trust. Sets are fetched only when a trust is new, unless a test configures otherwise.
pub struct World {
    pub server: JwksServer,
    pub countersign: Countersign,
    pub deployment: Deployment,
    /// Alice's registered key.
    pub local: Key,
}

impl World {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let (server, deployment) = Self::prepare(settings);
        let local = Key::ed25519();
        deployment.done(&["principal", "add", "alice", "--scope", "orders:read orders:write"]);
        deployment.add_key("alice", &local);
        Self { server, countersign: deployment.serve(), deployment, local }
    }

    /// The server and the settings, without principals; not yet serving.
    pub fn prepare(settings: &[(&str, &str)]) -> (JwksServer, Deployment) {
        let server = JwksServer::https();
        let rarely =
            [("jwks.refresh_interval", "10m"), ("jwks.cooldown", "10m"), ("jwks.timeout", "2s")];
        let deployment = Deployment::new().trusting(&server);
        let deployment = rarely
            .iter()
            .chain(settings)
            .fold(deployment, |deployment, (key, value)| deployment.set(key, value));
        (server, deployment)
    }

    /// Makes `username` trust the set at this path of the server. Returns the trust's id.
    pub fn trust(&self, username: &str, path: &str) -> String {
        self.deployment.add_trust(username, &self.server.url(path))
    }

    pub async fn ask(&self, authorization: String) -> Verdict {
        Door::Http.ask(&self.countersign, &Question::with(authorization)).await
    }

    /// The outcome of a fresh token: `allowed`, or the code of the denial.
    pub async fn outcome(&self, username: &str, signer: &Signer) -> String {
        outcome(&self.ask(signer.authorization(username)).await)
    }

    pub async fn becomes(&self, expected: &str, username: &str, signer: &Signer, within: Duration) {
        let what = format!("{username} with {} is {expected}", signer.kid);
        eventually_async(&what, within, async || {
            (self.outcome(username, signer).await == expected).then_some(())
        })
        .await;
    }

    /// Checks that both doors allow Alice's registered key.
    pub async fn local_key_goes_on(&self) {
        for door in Door::BOTH {
            let verdict = door
                .ask(
                    &self.countersign,
                    &Question::with(Claims::of("alice").authorization(&self.local)),
                )
                .await;
            assert!(verdict.allowed(), "{door:?}: {verdict:?}");
        }
    }

    /// Waits until the list shows a failed fetch. Returns the reason.
    pub async fn shows_an_error(&self, trust: &str) -> String {
        eventually_async("the failure is shown", PATIENCE, async || {
            self.deployment.listed_trust(trust)["last_error"].as_str().map(str::to_owned)
        })
        .await
    }

    /// Waits until the list shows no failure.
    pub async fn shows_no_error(&self, trust: &str) {
        eventually_async("the failure is gone", PATIENCE, async || {
            self.deployment.listed_trust(trust)["last_error"].is_null().then_some(())
        })
        .await;
    }
}

pub fn outcome(verdict: &Verdict) -> String {
    if verdict.allowed() {
        "allowed".to_owned()
    } else {
        verdict.code().unwrap_or("no code").to_owned()
    }
}
