use std::{collections::BTreeMap, sync::atomic::AtomicUsize};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    domain::{
        key_set::{KeySet, KeySetContents, MostTrials},
        principal::{KnownTrust, TrustId},
        scope::Scopes,
    },
    engine::ports::{FetchFailure, RegistryChange},
};

/// A registry whose changes become visible when the test says so, and whose answers can be delayed.
struct TestSource {
    principals: Mutex<BTreeMap<String, (i64, bool)>>,
    changes: Mutex<Vec<RegistryChange>>,
    newest: AtomicI64,
    unnumbered: Mutex<Vec<RegistryChange>>,
    /// Number of changes read.
    read: AtomicUsize,
    forgotten: Mutex<Vec<(i64, Vec<i64>)>>,
    loads: AtomicUsize,
    is_down: Mutex<bool>,
    gate: Semaphore,
}

impl TestSource {
    fn new() -> Arc<Self> {
        let source = Self {
            principals: Mutex::default(),
            changes: Mutex::default(),
            newest: AtomicI64::new(0),
            unnumbered: Mutex::default(),
            read: AtomicUsize::new(0),
            forgotten: Mutex::default(),
            loads: AtomicUsize::new(0),
            is_down: Mutex::new(false),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        };
        Arc::new(source)
    }

    fn set(&self, username: &str, id: i64, is_active: bool) {
        self.principals.lock().unwrap().insert(username.to_owned(), (id, is_active));
    }

    fn page(&self, after: Option<PrincipalId>, limit: u64) -> Vec<(PrincipalId, Username, bool)> {
        let principals = self.principals.lock().unwrap();
        let mut rows: Vec<_> = principals
            .iter()
            .map(|(name, (id, active))| (PrincipalId(*id), Username::new(name).unwrap(), *active))
            .collect();
        rows.retain(|(id, ..)| after.is_none_or(|after| *id > after));
        rows.sort_by_key(|(id, ..)| *id);
        rows.truncate(limit.try_into().unwrap());
        rows
    }

    fn change(&self, number: i64, principal: i64) {
        self.changes
            .lock()
            .unwrap()
            .push(RegistryChange { number, principal: PrincipalId(principal) });
        self.newest.fetch_max(number, Ordering::SeqCst);
    }

    fn up(&self) -> Result<(), RegistryError> {
        if *self.is_down.lock().unwrap() {
            Err(RegistryError::Store("down".into()))
        } else {
            Ok(())
        }
    }
}

/// A principal that trusts one key set.
fn known(id: PrincipalId, username: Username, is_active: bool) -> KnownPrincipal {
    let trust = KnownTrust {
        id: TrustId(id.0),
        url: format!("https://{}.example/", username.as_str()).into(),
    };
    KnownPrincipal::new(id, username, is_active, Scopes::default()).with_trusts(vec![trust])
}

#[async_trait]
impl PrincipalSource for TestSource {
    async fn load(&self, username: &Username) -> Result<Option<KnownPrincipal>, RegistryError> {
        self.up()?;
        self.loads.fetch_add(1, Ordering::SeqCst);
        let found = self.principals.lock().unwrap().get(username.as_str()).copied();
        // Data read before the gate is returned after it: a slow answer is an old one.
        drop(self.gate.acquire().await.unwrap());
        Ok(found.map(|(id, is_active)| known(PrincipalId(id), username.clone(), is_active)))
    }

    async fn load_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<KnownPrincipal>, RegistryError> {
        self.up()?;
        drop(self.gate.acquire().await.unwrap());
        let page = self.page(after, limit).into_iter();
        Ok(page.map(|(id, name, is_active)| known(id, name, is_active)).collect())
    }

    async fn names_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError> {
        self.up()?;
        Ok(self.page(after, limit).into_iter().map(|(id, name, _)| (id, name)).collect())
    }

    async fn newest_change(&self) -> Result<i64, RegistryError> {
        self.up()?;
        Ok(self.newest.load(Ordering::SeqCst))
    }

    async fn changes(&self, seen: i64, limit: u64) -> Result<Vec<RegistryChange>, RegistryError> {
        self.up()?;
        let mut changes: Vec<_> = self
            .changes
            .lock()
            .unwrap()
            .iter()
            .copied()
            .filter(|change| change.number > seen)
            .collect();
        changes.sort_by_key(|change| change.number);
        changes.truncate(limit.try_into().unwrap());
        self.read.fetch_add(changes.len(), Ordering::SeqCst);
        Ok(changes)
    }

    async fn unnumbered_changes(&self) -> Result<Vec<RegistryChange>, RegistryError> {
        self.up()?;
        Ok(self.unnumbered.lock().unwrap().clone())
    }

    async fn usernames(
        &self,
        ids: &[PrincipalId],
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError> {
        let principals = self.principals.lock().unwrap();
        let named = principals.iter().filter(|(_, (id, _))| ids.contains(&PrincipalId(*id)));
        Ok(named.map(|(name, (id, _))| (PrincipalId(*id), Username::new(name).unwrap())).collect())
    }

    async fn forget_changes(&self, up_to: i64, unnumbered: &[i64]) -> Result<(), RegistryError> {
        self.changes.lock().unwrap().retain(|change| change.number > up_to);
        self.unnumbered.lock().unwrap().retain(|change| !unnumbered.contains(&change.number));
        self.forgotten.lock().unwrap().push((up_to, unnumbered.to_vec()));
        Ok(())
    }
}

/// Records the expected key sets it is given.
#[derive(Default)]
struct TestKeySets(Mutex<Vec<(String, bool)>>);

impl KeySetSource for TestKeySets {
    fn set<'a>(&'a self, _: &'a KnownTrust, _: UnixMillis) -> Answer<'a, Option<Arc<KeySet>>> {
        Answer::ready(None)
    }

    fn missed(&self, _: &KnownTrust, _: UnixMillis) {}

    fn most_trials(&self, _: KeyFamily) -> MostTrials {
        MostTrials::default()
    }

    fn anticipate(&self, trusts: &[KnownTrust], changed: bool) {
        self.0.lock().unwrap().extend(trusts.iter().map(|trust| (trust.url.to_string(), changed)));
    }

    fn check_url(&self, _: &str) -> Result<(), FetchFailure> {
        Ok(())
    }

    fn refresh<'a>(&'a self, _: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>> {
        Answer::ready(Ok(KeySetContents::default()))
    }
}

/// Wall-clock time, which does not matter here.
const NOW: UnixMillis = UnixMillis(1_000_000);

struct Setup {
    source: Arc<TestSource>,
    key_sets: Arc<TestKeySets>,
    directory: Arc<CachedDirectory>,
    follower: Follower,
}

impl Setup {
    async fn new() -> Self {
        Self::with(&RegistrySettings::default()).await
    }

    async fn with(settings: &RegistrySettings) -> Self {
        let source = TestSource::new();
        source.set("alice", 1, true);
        let key_sets = Arc::new(TestKeySets::default());
        let (directory, follower) =
            CachedDirectory::start(Arc::clone(&source) as _, Arc::clone(&key_sets) as _, settings)
                .await
                .unwrap();
        Self { source, key_sets, directory, follower }
    }

    /// Whether the principal is active; `None` if it does not exist.
    async fn lookup(&self, username: &str) -> Result<Option<bool>, Unavailable> {
        let username = Username::new(username).unwrap();
        Ok(self.directory.lookup(&username, NOW).await?.map(|known| known.is_active))
    }

    /// Moves the last poll of the feed `milliseconds` into the past.
    fn let_pass(&self, milliseconds: i64) {
        self.directory.synced_at.fetch_sub(milliseconds, Ordering::SeqCst);
    }

    fn loads(&self) -> usize {
        self.source.loads.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn what_is_known_is_not_read_again() {
    let setup = Setup::new().await;
    for _ in 0..3 {
        assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
        assert_eq!(setup.lookup("nobody").await.unwrap(), None);
    }
    assert_eq!(setup.loads(), 2);
}

#[tokio::test]
async fn changes_are_seen_at_the_next_poll() {
    let mut setup = Setup::new().await;
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
    assert_eq!(setup.lookup("bob").await.unwrap(), None);
    setup.source.set("alice", 1, false);
    setup.source.set("bob", 2, true);
    setup.source.change(1, 1);
    setup.source.change(2, 2);
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true), "not yet");
    setup.follower.poll().await.unwrap();
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(false));
    assert_eq!(setup.lookup("bob").await.unwrap(), Some(true), "absence is forgotten too");
    setup.follower.poll().await.unwrap();
    let loads = setup.loads();
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(false));
    assert_eq!(setup.loads(), loads, "a change is acted on once");
}

/// For a while, versions from before the feed had its own numbers write beside this one.
#[tokio::test]
async fn changes_without_a_number_are_acted_on_once_each() {
    let mut setup = Setup::new().await;
    let unnumbered =
        |number: i64, principal: i64| RegistryChange { number, principal: PrincipalId(principal) };
    for number in [700, 3, 5000] {
        let was = setup.lookup("alice").await.unwrap().unwrap();
        setup.source.set("alice", 1, !was);
        setup.source.unnumbered.lock().unwrap().push(unnumbered(number, 1));
        setup.follower.poll().await.unwrap();
        assert_eq!(setup.lookup("alice").await.unwrap(), Some(!was), "{number}");
        let loads = setup.loads();
        setup.follower.poll().await.unwrap();
        assert_eq!(setup.lookup("alice").await.unwrap(), Some(!was));
        assert_eq!(setup.loads(), loads);
    }
}

#[tokio::test]
async fn changes_that_were_cleared_before_they_were_followed_are_missed_by_nobody() {
    let mut setup = Setup::new().await;
    for gap in ["all of them", "the first", "one in between"] {
        let seen = setup.source.newest.load(Ordering::SeqCst);
        let was = setup.lookup("alice").await.unwrap().unwrap();
        setup.source.set("alice", 1, !was);
        setup.source.change(seen + 1, 9);
        setup.source.change(seen + 2, 1);
        setup.source.change(seen + 3, 9);
        setup.source.changes.lock().unwrap().retain(|change| match gap {
            "all of them" => change.number <= seen,
            "the first" => change.number != seen + 1,
            _ => change.number != seen + 2,
        });
        setup.follower.poll().await.unwrap();
        assert_eq!(setup.lookup("alice").await.unwrap(), Some(!was), "{gap}");
        let loads = setup.loads();
        setup.follower.poll().await.unwrap();
        assert_eq!(setup.lookup("alice").await.unwrap(), Some(!was));
        assert_eq!(setup.loads(), loads, "{gap}: once");
    }
}

/// Each replica reads an import once, and not again.
#[tokio::test]
async fn each_change_is_read_once_however_many_there_are() {
    const MANY: i64 = 100_000;

    let mut setup = Setup::new().await;
    for number in 1..=MANY {
        setup.source.change(number, 9);
    }
    for _ in 0..10 {
        setup.follower.poll().await.unwrap();
    }
    assert_eq!(setup.source.read.load(Ordering::SeqCst), usize::try_from(MANY).unwrap());
    assert_eq!(setup.directory.version(), 10, "page after page");
}

#[tokio::test]
async fn what_was_followed_long_ago_is_cleared_and_nothing_else() {
    let mut setup = Setup::new().await;
    let began = Instant::now();
    setup.source.change(1, 1);
    setup
        .source
        .unnumbered
        .lock()
        .unwrap()
        .push(RegistryChange { number: 77, principal: PrincipalId(1) });
    setup.follower.poll().await.unwrap();
    let forgotten = |setup: &Setup| setup.source.forgotten.lock().unwrap().clone();
    setup.follower.clear(began + Duration::from_mins(10)).await;
    setup.source.change(2, 1);
    setup.follower.poll().await.unwrap();
    setup.follower.clear(began + Duration::from_mins(59)).await;
    assert!(forgotten(&setup).is_empty(), "others may still have to follow it");
    setup.follower.clear(began + Duration::from_mins(70)).await;
    assert_eq!(forgotten(&setup), [(0, vec![]), (1, vec![77])][1..], "as it was an hour before");
    setup.follower.poll().await.unwrap();
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
}

#[tokio::test]
async fn removed_principals_are_found_by_their_number() {
    let mut setup = Setup::new().await;
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
    setup.source.principals.lock().unwrap().clear();
    setup.source.change(1, 1);
    setup.follower.poll().await.unwrap();
    assert_eq!(setup.lookup("alice").await.unwrap(), None);
}

#[tokio::test]
async fn a_load_that_a_change_overtakes_is_not_kept() {
    let mut setup = Setup::new().await;
    let held = setup
        .source
        .gate
        .acquire_many(u32::try_from(Semaphore::MAX_PERMITS.min(u32::MAX as usize)).unwrap())
        .await
        .unwrap();
    let everything = setup.source.gate.available_permits();
    setup.source.gate.forget_permits(everything);
    let (directory, username) = (Arc::clone(&setup.directory), Username::new("alice").unwrap());
    let slow = tokio::spawn(async move {
        directory.lookup(&username, UnixMillis(1_000_000)).await.unwrap().unwrap().is_active
    });
    while setup.loads() == 0 {
        tokio::task::yield_now().await;
    }
    setup.source.set("alice", 1, false);
    setup.source.change(1, 1);
    setup.follower.poll().await.unwrap();
    drop(held);
    assert!(slow.await.unwrap(), "this one began before the change");
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(false), "and was not kept");
}

#[tokio::test]
async fn many_who_wait_for_one_principal_wait_for_one_query() {
    let setup = Setup::new().await;
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let directory = Arc::clone(&setup.directory);
            tokio::spawn(async move {
                directory
                    .lookup(&Username::new("alice").unwrap(), UnixMillis(1_000_000))
                    .await
                    .unwrap()
                    .is_some()
            })
        })
        .collect();
    for lookup in waiting {
        assert!(lookup.await.unwrap());
    }
    assert_eq!(setup.loads(), 1);
}

#[tokio::test]
async fn a_lost_database_is_outlived_for_a_while_and_recovered_from() {
    let settings =
        RegistrySettings { max_stale: Duration::from_mins(1), ..RegistrySettings::default() };
    let mut setup = Setup::with(&settings).await;
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
    *setup.source.is_down.lock().unwrap() = true;
    setup.let_pass(30_000);
    assert!(setup.follower.poll().await.is_err());
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true), "known principals go on");
    assert_eq!(
        setup.lookup("bob").await.unwrap_err().dependency,
        Dependency::KeyDirectory,
        "unknown ones cannot be told"
    );
    assert!(setup.directory.check(NOW).is_ok());

    setup.let_pass(30_001);
    assert_eq!(
        setup.lookup("alice").await.unwrap_err().dependency,
        Dependency::KeyDirectory,
        "but not for ever"
    );
    assert!(setup.directory.check(NOW).is_err());

    *setup.source.is_down.lock().unwrap() = false;
    setup.follower.poll().await.unwrap();
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
    assert!(setup.directory.check(NOW).is_ok());
}

/// Changing the wall clock neither extends how long a lost database is tolerated, nor makes an
/// available one seem lost.
#[tokio::test]
async fn how_old_it_is_does_not_depend_on_what_time_it_is() {
    let settings =
        RegistrySettings { max_stale: Duration::from_mins(1), ..RegistrySettings::default() };
    let setup = Setup::with(&settings).await;
    let alice = Username::new("alice").unwrap();
    let (long_ago, in_a_year) = (UnixMillis(0), UnixMillis(NOW.0 + 365 * 86_400_000));
    for now in [long_ago, NOW, in_a_year] {
        assert!(setup.directory.lookup(&alice, now).await.unwrap().is_some());
        assert!(setup.directory.check(now).is_ok());
    }
    setup.let_pass(60_001);
    *setup.source.is_down.lock().unwrap() = true;
    for now in [long_ago, NOW, in_a_year] {
        assert!(setup.directory.lookup(&alice, now).await.is_err());
        assert!(setup.directory.check(now).is_err());
    }
}

#[tokio::test]
async fn another_database_than_before_is_noticed() {
    let mut setup = Setup::new().await;
    for number in 1..=5 {
        setup.source.change(number, 9);
    }
    setup.follower.poll().await.unwrap();
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
    setup.source.changes.lock().unwrap().clear();
    setup.source.newest.store(3, Ordering::SeqCst);
    setup.source.set("alice", 1, false);
    setup.follower.poll().await.unwrap();
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(false));
}

#[tokio::test]
async fn once_warm_no_name_costs_a_query() {
    let mut setup = Setup::new().await;
    for number in 0..1000 {
        setup.source.set(&format!("user-{number}"), 10 + number, true);
    }
    for _ in 0..20 {
        setup.follower.warm().await.unwrap();
    }
    for number in 0..1000 {
        assert_eq!(setup.lookup(&format!("user-{number}")).await.unwrap(), Some(true));
        assert_eq!(setup.lookup(&format!("nobody-{number}")).await.unwrap(), None);
    }
    assert_eq!(setup.loads(), 0);

    assert_eq!(setup.lookup("late").await.unwrap(), None);
    setup.source.set("late", 5000, true);
    setup.source.change(1, 5000);
    setup.follower.poll().await.unwrap();
    assert_eq!(
        setup.lookup("late").await.unwrap(),
        Some(true),
        "who comes later is known by name from the next poll on"
    );
}

#[tokio::test]
async fn more_principals_than_memory_holds_are_known_by_name() {
    let settings = RegistrySettings { cache_entries: 10, ..RegistrySettings::default() };
    let mut setup = Setup::with(&settings).await;
    for number in 0..300 {
        setup.source.set(&format!("user-{number}"), 10 + number, true);
    }
    for _ in 0..20 {
        setup.follower.warm().await.unwrap();
    }
    for number in 0..300 {
        assert_eq!(setup.lookup(&format!("nobody-{number}")).await.unwrap(), None);
    }
    assert_eq!(setup.loads(), 0);
    assert_eq!(setup.lookup("user-299").await.unwrap(), Some(true));
    assert_eq!(setup.loads(), 1);
}

#[tokio::test]
async fn a_registry_that_cannot_be_read_to_its_end_says_nothing_about_names() {
    let mut setup = Setup::new().await;
    *setup.source.is_down.lock().unwrap() = true;
    assert!(setup.follower.warm().await.is_err());
    *setup.source.is_down.lock().unwrap() = false;
    setup.source.set("bob", 2, true);
    assert_eq!(setup.lookup("bob").await.unwrap(), Some(true));
}

#[tokio::test]
async fn who_was_added_a_moment_ago_is_found_by_catching_up() {
    let settings =
        RegistrySettings { poll_interval: Duration::from_mins(1), ..RegistrySettings::default() };
    let mut setup = Setup::with(&settings).await;
    setup.follower.warm().await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let directory = Arc::clone(&setup.directory);
    let running = tokio::spawn(setup.follower.run(async move { drop(stopped.await) }));
    let lookup = async |name: &str| {
        directory
            .lookup(&Username::new(name).unwrap(), UnixMillis(1_000_000))
            .await
            .unwrap()
            .is_some()
    };

    let version = directory.version();
    assert!(!lookup("bob").await);
    assert!(!directory.catch_up(version).await, "nothing has changed");
    setup.source.set("bob", 2, true);
    setup.source.change(1, 2);
    assert!(!lookup("bob").await, "the next poll is a minute away");
    assert!(directory.catch_up(version).await);
    assert!(lookup("bob").await);

    *setup.source.is_down.lock().unwrap() = true;
    assert!(
        !directory.catch_up(directory.version()).await,
        "an outage is no change, and nobody waits for its end"
    );
    drop(stop);
    running.await.unwrap();
}

/// A database that disappears without closing its connections does not block polling, which may
/// soon succeed over another connection, or stopping the service.
#[tokio::test]
async fn a_page_that_never_comes_holds_nothing_up() {
    let setup = Setup::new().await;
    setup.source.gate.forget_permits(Semaphore::MAX_PERMITS);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(setup.follower.run(async move { drop(stopped.await) }));
    let mut polls = setup.directory.polls_ended.subscribe();
    let second =
        tokio::time::timeout(Duration::from_secs(20), polls.wait_for(|polls| *polls >= 2)).await;
    assert!(second.is_ok_and(|polls| polls.is_ok()), "the feed is not followed");
    drop(stop);
    let ended = tokio::time::timeout(Duration::from_secs(1), running).await;
    assert!(ended.is_ok_and(|ended| ended.is_ok()), "it does not stop");
}

#[tokio::test]
async fn a_flood_of_refusals_causes_few_polls() {
    let settings =
        RegistrySettings { poll_interval: Duration::from_mins(1), ..RegistrySettings::default() };
    let setup = Setup::with(&settings).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let directory = Arc::clone(&setup.directory);
    let running = tokio::spawn(setup.follower.run(async move { drop(stopped.await) }));
    let began = tokio::time::Instant::now();
    let refusals: Vec<_> = (0..1000)
        .map(|_| {
            let directory = Arc::clone(&directory);
            tokio::spawn(async move { directory.catch_up(0).await })
        })
        .collect();
    for refusal in refusals {
        assert!(!refusal.await.unwrap());
    }
    let most = began.elapsed().as_millis() / 20 + 2;
    let polls = directory.polls_begun.load(Ordering::SeqCst);
    assert!(u128::from(polls) <= most, "{polls} polls instead of {most}");
    drop(stop);
    running.await.unwrap();
}

#[tokio::test]
async fn key_sets_are_expected_before_they_are_needed() {
    let mut setup = Setup::new().await;
    let expected = |setup: &Setup| std::mem::take(&mut *setup.key_sets.0.lock().unwrap());
    setup.follower.warm().await.unwrap();
    assert_eq!(expected(&setup), [("https://alice.example/".to_owned(), false)], "after the start");

    setup.source.change(1, 1);
    setup.follower.poll().await.unwrap();
    assert_eq!(setup.lookup("alice").await.unwrap(), Some(true));
    assert_eq!(expected(&setup), [("https://alice.example/".to_owned(), true)], "after a change");
}
