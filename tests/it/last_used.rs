//! `last_used_on`: written after the decisions, not often, and not lost at shutdown.

use std::time::{Duration, Instant};

use crate::harness::{
    Claims, Countersign, Database, Deployment, Door, Key, Question, Signal, Sluice,
    eventually_async, now,
};

/// A note waits up to 10 s to be written; the rest is for the machine.
const WRITTEN_WITHIN: Duration = Duration::from_secs(12);
const INTERVAL_SECONDS: i64 = 10;
/// The promise of [`crate::shutdown`].
const EXIT_WITHIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);

/// At every door, as long as there are decisions. Keys that allowed nothing were not used.
#[tokio::test]
async fn uses_are_written_every_ten_seconds_at_most() {
    let deployment = Deployment::new();
    let holders =
        ["http", "grpc", "verification"].map(|username| Holder::enrol(&deployment, username));
    let [unused, refused, replaced] =
        ["unused", "refused", "replaced"].map(|username| Holder::enrol(&deployment, username));
    let successor = Key::ed25519();
    let successor = Holder {
        username: "replaced",
        id: deployment.add_key("replaced", &successor),
        key: successor,
    };
    let countersign = deployment.serve();

    let began_at = now();
    let start = Instant::now();
    let mut seen: [Vec<i64>; 3] = Default::default();
    eventually_async("every use is written twice", PATIENCE + WRITTEN_WITHIN, async || {
        assert!(Door::Http.ask(&countersign, &holders[0].question()).await.allowed());
        assert!(Door::Grpc.ask(&countersign, &holders[1].question()).await.allowed());
        countersign.verification().verify(&holders[2].question()).await.allowed();
        assert!(Door::Http.ask(&countersign, &successor.question()).await.allowed());
        let lacking = Question { scope: Some("admin".to_owned()), ..refused.question() };
        for door in Door::BOTH {
            assert_eq!(door.ask(&countersign, &lacking).await.code(), Some("insufficient_scope"));
        }
        for (holder, seen) in holders.iter().zip(&mut seen) {
            let noted = deployment.last_used_on(&holder.id);
            if noted != seen.last().copied() {
                seen.extend(noted);
            }
            let is_late = seen.is_empty() && start.elapsed() > WRITTEN_WITHIN;
            assert!(!is_late, "the first use at the door {} is not written yet", holder.username);
        }
        seen.iter().all(|seen| seen.len() > 1).then_some(())
    })
    .await;

    for (holder, seen) in holders.iter().zip(&seen) {
        // A second note may have arrived before the first was written.
        let first = [0, INTERVAL_SECONDS].map(|later| began_at + later);
        assert!(
            first.iter().any(|at| (*at..=at + 1).contains(&seen[0])),
            "{}: begun at {began_at}, {seen:?}",
            holder.username
        );
        let far_apart = seen.windows(2).all(|pair| pair[1] - pair[0] >= INTERVAL_SECONDS);
        assert!(far_apart, "{}: {seen:?}", holder.username);
    }
    for holder in [&unused, &refused, &replaced] {
        assert_eq!(deployment.last_used_on(&holder.id), None, "{}", holder.username);
    }
    assert!(deployment.last_used_on(&successor.id).is_some());
}

#[tokio::test]
async fn what_was_used_last_is_written_at_the_end() {
    for door in Door::BOTH {
        let deployment = Deployment::new();
        let [first, last, unused] =
            ["first", "last", "unused"].map(|username| Holder::enrol(&deployment, username));
        let mut countersign = deployment.serve();
        let used_at = now();
        for holder in [&first, &last] {
            assert!(door.ask(&countersign, &holder.question()).await.allowed());
        }
        assert_eq!(deployment.last_used_on(&last.id), None, "not yet");

        ends(&mut countersign);

        for holder in [&first, &last] {
            let noted = deployment.last_used_on(&holder.id);
            assert!(
                noted.is_some_and(|noted| (used_at..=now()).contains(&noted)),
                "{door:?}: {used_at}, {noted:?}"
            );
        }
        assert_eq!(deployment.last_used_on(&unused.id), None);
    }
}

/// Two replicas write what each has seen: the later use is kept.
#[tokio::test]
async fn a_later_use_is_not_overwritten_by_an_earlier_one() {
    let deployment = Deployment::new();
    let alice = Holder::enrol(&deployment, "alice");
    let [mut early, mut late] = [(); 2].map(|()| deployment.serve());

    assert!(Door::Http.ask(&early, &alice.question()).await.allowed());
    let used_early = now();
    eventually_async("the next second", PATIENCE, async || (now() > used_early).then_some(()))
        .await;
    let used_late = now();
    assert!(Door::Http.ask(&late, &alice.question()).await.allowed());
    ends(&mut late);
    ends(&mut early);

    let noted = deployment.last_used_on(&alice.id).unwrap();
    assert!(noted >= used_late, "used at {used_early} and {used_late}, written {noted}");
}

/// A database that never answers: notes that cannot be written do not delay the exit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_database_holds_nothing_up() {
    let database = Database::postgres();
    let sluice = Sluice::before(database.address()).await;
    let url = database.url.replace(&database.address().to_string(), &sluice.address().to_string());
    let deployment = Deployment::on(database).set("database.url", &url);
    let [alice, bob] = ["alice", "bob"].map(|username| Holder::enrol(&deployment, username));
    let mut countersign = deployment.serve();

    // So that there are connections that hang.
    assert!(Door::Http.ask(&countersign, &alice.question()).await.allowed());
    eventually_async("a note is written", WRITTEN_WITHIN, async || {
        deployment.last_used_on(&alice.id)
    })
    .await;
    assert!(Door::Http.ask(&countersign, &bob.question()).await.allowed());
    sluice.shut();

    ends(&mut countersign);
}

struct Holder {
    username: &'static str,
    key: Key,
    id: String,
}

impl Holder {
    fn enrol(deployment: &Deployment, username: &'static str) -> Self {
        let key = Key::ed25519();
        Self { username, id: deployment.enrol(username, &key), key }
    }

    /// With a fresh token.
    fn question(&self) -> Question {
        Question::with(Claims::of(self.username).authorization(&self.key))
    }
}

fn ends(countersign: &mut Countersign) {
    countersign.signal(Signal::Term);
    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
}
