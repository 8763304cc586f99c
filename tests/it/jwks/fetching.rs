//! When key sets are fetched, how often, and what decisions do meanwhile.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::{Behaviour, Claims, Key, Signer, decision_request, eventually_async};
use crate::jwks::{MARGIN, PATIENCE, World};

/// Far above the 150 ms that a decision may wait, far below what a fetch may take in these tests.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How much closer together two requests may arrive than the moments in which they were decided on.
const JITTER: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_new_trust_is_fetched_before_anyone_asks() {
    let world = World::start(&[]);
    world.server.put("/keys", Behaviour::set([]));
    let trust = world.trust("alice", "/keys");

    eventually_async("it is fetched", Duration::from_secs(1) + MARGIN, async || {
        requested(&world, "/keys", 1)
    })
    .await;
    eventually_async("the fetch is shown", PATIENCE, async || {
        (!world.deployment.listed_trust(&trust)["last_fetched_at"].is_null()).then_some(())
    })
    .await;
    assert!(world.deployment.listed_trust(&trust)["last_error"].is_null());
}

#[tokio::test]
async fn a_set_is_fetched_again_and_again() {
    let world = World::start(&[("jwks.refresh_interval", "1s")]);
    world.server.put("/keys", Behaviour::set([]));
    world.trust("alice", "/keys");

    eventually_async("four refreshes", PATIENCE, async || requested(&world, "/keys", 5)).await;

    // At least four times three quarters of the interval.
    let gaps = gaps(&world.server.requests("/keys"));
    assert!(gaps.iter().sum::<Duration>() + JITTER >= Duration::from_secs(3), "{gaps:?}");
    assert_eq!(world.server.most_in_flight("/keys"), 1);
}

#[tokio::test]
async fn an_unknown_kid_fetches_once_the_cooldown_is_over() {
    let world = World::start(&[("jwks.cooldown", "2s")]);
    let (old, new) = (Signer::named("2025"), Signer::named("2026"));
    world.server.put("/keys", Behaviour::set([old.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &old, PATIENCE).await;

    world.server.put("/keys", Behaviour::set([old.jwk(), new.jwk()]));
    world.becomes("allowed", "alice", &new, Duration::from_secs(2) + MARGIN).await;
    assert_eq!(world.outcome("alice", &old).await, "allowed");
}

#[tokio::test]
async fn forged_kids_cause_one_fetch_per_cooldown() {
    const COOLDOWN: Duration = Duration::from_secs(3);
    const ENOUGH: usize = 4;
    let world = World::start(&[("jwks.cooldown", "3s")]);
    let good = Signer::named("good");
    world.server.put("/keys", Behaviour::set([good.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &good, PATIENCE).await;

    // Enough floods for more than one cooldown to pass.
    let start = Instant::now();
    while world.server.requests("/keys").len() < ENOUGH {
        assert!(
            start.elapsed() < COOLDOWN * 4 + PATIENCE,
            "unknown kids fetch nothing: {:?}",
            world.server.requests("/keys")
        );
        flood(&world, 200).await;
        assert_eq!(world.outcome("alice", &good).await, "allowed");
    }

    let requests = world.server.requests("/keys");
    // The first fetch was for the trust, not for a `kid`.
    let gaps = gaps(&requests[1..]);
    assert!(gaps.iter().all(|gap| *gap + JITTER >= COOLDOWN), "{gaps:?}");
    assert_eq!(world.server.most_in_flight("/keys"), 1);
}

/// For any number of requests, principals and keys.
#[tokio::test]
async fn one_fetch_is_in_flight_and_nobody_waits_for_it() {
    let world = World::start(&[
        ("jwks.cooldown", "1s"),
        ("jwks.refresh_interval", "1s"),
        ("jwks.timeout", "1m"),
    ]);
    let good = Signer::named("good");
    world.deployment.enrol("bob", &Key::ed25519());
    world.server.put("/keys", Behaviour::Holds);
    world.trust("alice", "/keys");
    world.trust("bob", "/keys");
    eventually_async("the first fetch", PATIENCE, async || requested(&world, "/keys", 1)).await;

    // Longer than the cooldown and the interval.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        flood(&world, 64).await;
        let asked = Instant::now();
        assert_eq!(world.outcome("alice", &good).await, "invalid_token", "nobody knows yet");
        assert!(asked.elapsed() < AT_ONCE, "a decision took {:?}", asked.elapsed());
        world.local_key_goes_on().await;
    }
    // Every change triggers a fetch, too.
    world.deployment.enrol("carol", &Key::ed25519());
    world.trust("carol", "/keys");
    flood(&world, 64).await;

    assert_eq!(world.server.requests("/keys").len(), 1);
    world.server.put("/keys", Behaviour::set([good.jwk()]));
    world.becomes("allowed", "alice", &good, PATIENCE).await;
    world.becomes("allowed", "bob", &good, PATIENCE).await;
    assert_eq!(world.server.most_in_flight("/keys"), 1);
}

/// A later fetch delays nobody, whether their key is known or not.
#[tokio::test]
async fn a_slow_refresh_delays_no_decision() {
    let world = World::start(&[
        ("jwks.refresh_interval", "1s"),
        ("jwks.cooldown", "1s"),
        ("jwks.timeout", "1m"),
    ]);
    let (good, unknown) = (Signer::named("good"), Signer::named("unknown"));
    world.server.put("/keys", Behaviour::set([good.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &good, PATIENCE).await;
    let seen = world.server.requests("/keys").len();
    world.server.put("/keys", Behaviour::Holds);
    eventually_async("a fetch that hangs", PATIENCE, async || requested(&world, "/keys", seen + 1))
        .await;

    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(world.outcome("alice", &good).await, "allowed");
        assert_eq!(world.outcome("alice", &unknown).await, "invalid_token");
        assert!(asked.elapsed() < AT_ONCE, "two decisions took {:?}", asked.elapsed());
    }
}

/// The very first fetch is worth a short wait: a token that comes while it is under way passes. A
/// busy machine may be too slow for that, but not every time.
#[tokio::test]
async fn a_decision_waits_a_little_for_the_first_fetch() {
    const ATTEMPTS: usize = 10;
    let world = World::start(&[("jwks.timeout", "1m")]);
    for attempt in 1..=ATTEMPTS {
        let (username, path) = (format!("user-{attempt}"), format!("/{attempt}"));
        let signer = Signer::named("first");
        world.server.put(&path, Behaviour::Holds);
        world.deployment.done(&["principal", "add", &username]);
        world.trust(&username, &path);
        eventually_async("the first fetch", PATIENCE, async || requested(&world, &path, 1)).await;

        let release = async {
            // So that the decision starts before the key set arrives.
            tokio::time::sleep(Duration::from_millis(40)).await;
            world.server.put(&path, Behaviour::set([signer.jwk()]));
        };
        let (outcome, ()) = tokio::join!(world.outcome(&username, &signer), release);

        if outcome == "allowed" {
            return;
        }
        assert_eq!(outcome, "invalid_token");
        world.becomes("allowed", &username, &signer, PATIENCE).await;
    }
    panic!("in {ATTEMPTS} attempts, no decision waited for the first fetch");
}

#[tokio::test]
async fn failures_are_tried_again_later_and_later() {
    let world = World::start(&[]);
    world.server.put("/keys", Behaviour::text("").with_status(500));
    let trust = world.trust("alice", "/keys");
    world.shows_an_error(&trust).await;

    // Immediately, and then after 1, 2 and 4 seconds.
    eventually_async("three more attempts", Duration::from_secs(7) + PATIENCE, async || {
        requested(&world, "/keys", 4)
    })
    .await;

    let gaps = gaps(&world.server.requests("/keys"));
    assert!(gaps[0] + gaps[1] + gaps[2] >= Duration::from_secs(4), "{gaps:?}");
    assert!(gaps[2] > gaps[0], "{gaps:?}");
}

#[tokio::test]
async fn an_outage_is_outlived_and_ends_by_itself() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let mut world = World::start(&[("jwks.refresh_interval", "2s")]);
    let (old, new) = (Signer::named("2025"), Signer::named("2026"));
    world.server.put("/keys", Behaviour::set([old.jwk()]));
    let trust = world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &old, PATIENCE).await;

    world.server.stop();
    world.shows_an_error(&trust).await;
    let fetched = world.deployment.listed_trust(&trust)["last_fetched_at"].clone();
    assert!(!fetched.is_null(), "it was fetched, once");
    assert_eq!(world.outcome("alice", &old).await, "allowed");
    assert_eq!(world.outcome("alice", &new).await, "invalid_token");
    world.local_key_goes_on().await;

    world.server.put("/keys", Behaviour::set([new.jwk()]));
    world.server.resume();
    world.becomes("allowed", "alice", &new, INTERVAL + MARGIN).await;
    assert_eq!(world.outcome("alice", &old).await, "invalid_token");
    world.shows_no_error(&trust).await;
    assert_ne!(world.deployment.listed_trust(&trust)["last_fetched_at"], fetched);
}

/// Nobody knows the keys then: that is a denial, not an outage of ours.
#[tokio::test]
async fn a_service_that_starts_during_an_outage_serves_the_rest() {
    let (mut server, deployment) = World::prepare(&[("jwks.refresh_interval", "2s")]);
    server.stop();
    let (signer, local) = (Signer::named("one"), Key::ed25519());
    deployment.enrol("alice", &local);
    deployment.add_trust("alice", &server.url("/keys"));
    let mut world = World { countersign: deployment.serve(), server, deployment, local };

    assert_eq!(world.outcome("alice", &signer).await, "invalid_token");
    world.local_key_goes_on().await;

    world.server.put("/keys", Behaviour::set([signer.jwk()]));
    world.server.resume();
    world.becomes("allowed", "alice", &signer, PATIENCE).await;
}

#[tokio::test]
async fn a_set_that_is_too_old_is_not_trusted() {
    const MAX_AGE: Duration = Duration::from_secs(6);
    let world = World::start(&[("jwks.refresh_interval", "1s"), ("jwks.max_age", "6s")]);
    let signer = Signer::named("one");
    world.server.put("/keys", Behaviour::set([signer.jwk()]));
    let trust = world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &signer, PATIENCE).await;

    world.server.put("/keys", Behaviour::text("").with_status(500));
    world.shows_an_error(&trust).await;
    assert_eq!(world.outcome("alice", &signer).await, "allowed", "not yet too old");
    world.becomes("invalid_token", "alice", &signer, MAX_AGE + MARGIN).await;
    world.local_key_goes_on().await;

    world.server.put("/keys", Behaviour::set([signer.jwk()]));
    world.becomes("allowed", "alice", &signer, PATIENCE).await;
}

/// Asks with this many forged tokens at once, each with a `kid` of its own, and checks that each is
/// refused.
async fn flood(world: &World, count: usize) {
    let forger = Key::ed25519();
    let mut questions = JoinSet::new();
    for _ in 0..count {
        // Random, like all hash values.
        let kid = Key::ed25519().fingerprint()[..16].to_owned();
        let claims = Claims::of("alice").with_header("kid", kid);
        let request = decision_request().authorization(&claims.authorization(&forger));
        let server = world.countersign.http;
        questions.spawn(async move {
            let asked = Instant::now();
            (request.send(server).await, asked.elapsed())
        });
    }
    for (answer, took) in questions.join_all().await {
        assert_eq!(
            (answer.status, answer.header("x-auth-error")),
            (401, Some("invalid_token")),
            "{answer:?}"
        );
        assert!(took < AT_ONCE, "a decision took {took:?}");
    }
}

fn requested(world: &World, path: &str, times: usize) -> Option<()> {
    (world.server.requests(path).len() >= times).then_some(())
}

fn gaps(requests: &[Instant]) -> Vec<Duration> {
    requests.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
