//! Endpoints that are slow, huge, broken or lying, and their effect on decisions.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Behaviour, Claims, Door, JwksServer, Question, Signer, eventually_async};
use crate::jwks::{MARGIN, PATIENCE, World};

const MAX_BYTES: usize = 64 * 1024;

/// A key that was valid stays valid, registered keys stay valid, and the endpoint's new answer is
/// not believed.
#[tokio::test]
async fn an_endpoint_that_turns_hostile_changes_nothing() {
    let (world, elsewhere, evil) = world();
    let good = Signer::named("good");
    let cases = Case::all(&world, &elsewhere, &evil);
    for case in &cases {
        world.server.put(&case.path, Behaviour::set([good.jwk()]));
        case.trust(&world);
    }
    for case in &cases {
        world.becomes("allowed", &case.username, &good, PATIENCE).await;
    }

    let seen: Vec<usize> =
        cases.iter().map(|case| world.server.requests(&case.path).len()).collect();
    for case in &cases {
        world.server.put(&case.path, case.behaviour.clone());
    }
    failures_are_shown(&world, &cases).await;
    for (case, seen) in cases.iter().zip(seen) {
        // The service keeps trying.
        eventually_async(&format!("{} is asked again", case.name), PATIENCE, async || {
            (world.server.requests(&case.path).len() >= seen + 2).then_some(())
        })
        .await;
        for door in Door::BOTH {
            let verdict = door
                .ask(&world.countersign, &Question::with(good.authorization(&case.username)))
                .await;
            assert!(verdict.allowed(), "{}, {door:?}: {verdict:?}", case.name);
        }
        case.nothing_else_changes(&world, &evil).await;
    }

    recovers(&world, &cases).await;
    for case in &cases {
        assert_eq!(
            world.outcome(&case.username, &good).await,
            "invalid_token",
            "{}: the new set lacks the key",
            case.name
        );
    }
    assert_eq!(elsewhere.connections(), 0, "a redirect was followed");
}

/// Nothing from such an endpoint is ever believed; as soon as it is honest, its keys are used.
#[tokio::test]
async fn an_endpoint_that_always_was_hostile_harms_nobody() {
    let (world, elsewhere, evil) = world();
    let cases = Case::all(&world, &elsewhere, &evil);
    for case in &cases {
        world.server.put(&case.path, case.behaviour.clone());
        case.trust(&world);
    }

    failures_are_shown(&world, &cases).await;
    for case in &cases {
        case.nothing_else_changes(&world, &evil).await;
        assert_eq!(world.server.most_in_flight(&case.path), 1, "{}", case.name);
    }

    recovers(&world, &cases).await;
    assert_eq!(elsewhere.connections(), 0, "a redirect was followed");
}

/// The size limit ends a download, not only the deadline.
#[tokio::test]
async fn a_flood_is_cut_off() {
    let world = World::start(&[("jwks.timeout", "2m"), ("jwks.max_bytes", "65536")]);
    let evil = Signer::named("evil");
    world.server.put("/keys", Behaviour::Floods(set_of(&[evil.jwk()])));
    let start = Instant::now();
    let trust = world.trust("alice", "/keys");

    world.shows_an_error(&trust).await;

    assert!(start.elapsed() < Duration::from_mins(1), "{:?}", start.elapsed());
    assert_eq!(world.outcome("alice", &evil).await, "invalid_token");
    world.local_key_goes_on().await;
}

/// The deadline covers the whole download: a byte now and then does not extend it.
#[tokio::test]
async fn a_drip_is_cut_off() {
    let world = World::start(&[("jwks.timeout", "1s")]);
    world.server.put("/keys", Behaviour::Drips);
    let trust = world.trust("alice", "/keys");

    world.shows_an_error(&trust).await;
    world.local_key_goes_on().await;
}

/// Waiting for endpoints that hang delays no others: keys of an honest one still rotate in time.
#[tokio::test]
async fn endpoints_that_hang_do_not_delay_the_others() {
    const INTERVAL: Duration = Duration::from_secs(3);
    let world = World::start(&[("jwks.refresh_interval", "3s"), ("jwks.timeout", "20s")]);
    let mut former = Signer::named("2025");
    world.server.put("/keys", Behaviour::set([former.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &former, PATIENCE).await;
    world.deployment.done(&["principal", "add", "mallory"]);
    for number in 0..12 {
        let path = format!("/hangs/{number}");
        world.server.put(&path, Behaviour::Holds);
        world.trust("mallory", &path);
    }
    eventually_async("an endpoint hangs", PATIENCE, async || {
        (!world.server.requests("/hangs/0").is_empty()).then_some(())
    })
    .await;

    for year in 2026..2030 {
        let next = Signer::named(year.to_string());
        world.server.put("/keys", Behaviour::set([next.jwk()]));
        world.becomes("allowed", "alice", &next, INTERVAL + MARGIN).await;
        assert_eq!(world.outcome("alice", &former).await, "invalid_token");
        former = next;
    }
}

struct Case {
    name: &'static str,
    username: String,
    path: String,
    behaviour: Behaviour,
}

impl Case {
    /// Each with a principal of its own, who has Alice's registered key. Every answer with a body
    /// offers the evil key in it.
    fn all(world: &World, elsewhere: &JwksServer, evil: &Signer) -> Vec<Self> {
        let set = set_of(&[evil.jwk()]);
        let offer = || Behaviour::text(set.as_str());
        let filler = (0..100).map(|number| evil.key.jwk(&number.to_string()));
        let hundred_and_one: Vec<Value> = [evil.jwk()].into_iter().chain(filler).collect();
        let nested = |open: &str, close: &str| {
            let inside = format!("{}1{}", open.repeat(5_000), close.repeat(5_000));
            Behaviour::text(format!("{{\"keys\":[{}],\"deep\":{inside}}}", evil.jwk()))
        };
        let huge = format!("{set}{}", " ".repeat(MAX_BYTES));
        let mut behaviours = vec![
            ("never answers", Behaviour::Holds),
            ("drips", Behaviour::Drips),
            ("says more than it may", Behaviour::text(huge)),
            ("never ends", Behaviour::Floods(set.clone())),
            ("has nested lists", nested("[", "]")),
            ("has nested objects", nested("{\"a\":", "}")),
            ("has 101 keys", Behaviour::text(set_of(&hundred_and_one))),
            ("breaks off", Behaviour::text(&set[..set.len() - 1])),
            ("says more than one thing", Behaviour::text(format!("{set}{set}"))),
            ("is a web page", Behaviour::text("<!DOCTYPE html><title>Hello</title>")),
            ("is empty", Behaviour::text("")),
            ("is a list", Behaviour::text(json!([evil.jwk()]).to_string())),
            ("has no keys", Behaviour::text("{}")),
            (
                "has keys that are no list",
                Behaviour::text(json!({"keys": {"evil": evil.jwk()}}).to_string()),
            ),
        ];
        behaviours.extend([404, 500, 503].map(|status| ("fails", offer().with_status(status))));
        let target = elsewhere.url("/keys");
        behaviours.extend(
            [302, 307, 308].map(|status| ("redirects", offer().redirecting(status, &target))),
        );
        let numbered = behaviours.into_iter().enumerate();
        numbered
            .map(|(number, (name, behaviour))| {
                let username = format!("user-{number}");
                world.deployment.enrol(&username, &world.local);
                Self { name, username, path: format!("/{number}"), behaviour }
            })
            .collect()
    }

    fn trust(&self, world: &World) {
        world.trust(&self.username, &self.path);
    }

    async fn nothing_else_changes(&self, world: &World, evil: &Signer) {
        assert_eq!(world.outcome(&self.username, evil).await, "invalid_token", "{}", self.name);
        for door in Door::BOTH {
            let authorization = Claims::of(&self.username).authorization(&world.local);
            let verdict = door.ask(&world.countersign, &Question::with(authorization)).await;
            assert!(verdict.allowed(), "{}, {door:?}, a registered key: {verdict:?}", self.name);
        }
    }
}

/// The service, a server as target of redirects, and a key that only hostile answers offer.
fn world() -> (World, JwksServer, Signer) {
    let evil = Signer::named("evil");
    let elsewhere = JwksServer::http();
    elsewhere.put("/keys", Behaviour::set([evil.jwk()]));
    // Plain text is allowed, so that a redirect is refused only because it is a redirect.
    let settings = [
        ("jwks.refresh_interval", "2s"),
        ("jwks.timeout", "1s"),
        ("jwks.max_bytes", &MAX_BYTES.to_string()),
        ("jwks.allow_http", "true"),
    ];
    (World::start(&settings), elsewhere, evil)
}

/// Every trust shows that its last fetch failed, with a reason short enough for a table.
async fn failures_are_shown(world: &World, cases: &[Case]) {
    for case in cases {
        let error = eventually_async(
            &format!("{} is shown", case.name),
            Duration::from_secs(30),
            async || last_error(world, case).as_str().map(str::to_owned),
        )
        .await;
        assert!(
            !error.trim().is_empty() && error.len() <= 1_000 && !error.contains('\n'),
            "{}: {error:?}",
            case.name
        );
    }
}

/// Every endpoint serves a new key, which is then allowed, and shows no failure.
async fn recovers(world: &World, cases: &[Case]) {
    let new = Signer::named("new");
    for case in cases {
        world.server.put(&case.path, Behaviour::set([new.jwk()]));
    }
    for case in cases {
        world.becomes("allowed", &case.username, &new, PATIENCE).await;
        eventually_async(&format!("{} is over", case.name), PATIENCE, async || {
            last_error(world, case).is_null().then_some(())
        })
        .await;
    }
}

fn last_error(world: &World, case: &Case) -> Value {
    let trusts = world.deployment.list(&["trust", "list", &case.username]);
    assert_eq!(trusts.len(), 1, "{trusts:?}");
    trusts[0]["last_error"].clone()
}

fn set_of(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}
