use std::{pin::Pin, task::Poll, time::SystemTime};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::*;
use crate::{
    domain::{algorithm::KeyFamily, key::PrivateKey, principal::TrustId},
    engine::ports::RegistryError,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a hundred times as fast as real time, so that tests need not wait between two fetches.
struct FastClock;

impl Clock for FastClock {
    fn now(&self) -> UnixMillis {
        let now = UnixMillis::from(SystemTime::now());
        UnixMillis(now.0 * 100)
    }
}

struct NoReports;

#[async_trait]
impl FetchReports for NoReports {
    async fn fetched(
        &self,
        _: &str,
        _: UnixMillis,
        _: Result<&KeySetContents, &FetchFailure>,
    ) -> Result<(), RegistryError> {
        Ok(())
    }
}

/// An endpoint that responds when the test says so.
struct Endpoint {
    listener: TcpListener,
    trust: KnownTrust,
    cache: Arc<JwksCache>,
    _stop: oneshot::Sender<()>,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let settings = JwksSettings {
            allow_http: true,
            allowed_hosts: vec!["127.0.0.1".to_owned()],
            timeout: PATIENCE,
            refresh_interval: Duration::from_hours(10_000),
            max_age: Duration::from_hours(20_000),
            ..JwksSettings::default()
        };
        let (cache, refresher) =
            JwksCache::new(&settings, Arc::new(FastClock), Arc::new(NoReports)).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(refresher.run(async move { drop(stopped.await) }));
        Self { listener, trust: KnownTrust { id: TrustId(1), url: url.into() }, cache, _stop: stop }
    }

    /// Waits for the next request, which then waits for its response.
    async fn asked(&self) -> TcpStream {
        let (mut stream, _) = tokio::time::timeout(PATIENCE, self.listener.accept())
            .await
            .expect("nobody asks")
            .unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream
    }

    /// Whether the cached set has that key.
    async fn has(&self, kid: &str) -> bool {
        let found = self.cache.set(&self.trust, FastClock.now()).await;
        found.is_some_and(|set| set.named(kid).next().is_some())
    }
}

async fn answer(mut stream: TcpStream, kids: &[&str]) {
    let jwk = |kid: &&str| {
        let key = PrivateKey::generate(KeyFamily::Ed25519, 2048).unwrap();
        let mut jwk = serde_json::to_value(key.public_key().to_jwk()).unwrap();
        jwk["kid"] = json!(kid);
        jwk
    };
    let body = json!({ "keys": kids.iter().map(jwk).collect::<Vec<Value>>() }).to_string();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_during_a_fetch_is_followed_by_another() {
    let endpoint = Endpoint::start().await;
    endpoint.cache.anticipate(std::slice::from_ref(&endpoint.trust), false);
    let slow = endpoint.asked().await;
    endpoint.cache.anticipate(std::slice::from_ref(&endpoint.trust), true);
    answer(slow, &["old"]).await;
    answer(endpoint.asked().await, &["new"]).await;
    tokio::time::timeout(PATIENCE, async {
        while !endpoint.has("new").await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the second set is not used");
    assert!(!endpoint.has("old").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_tells_of_a_fetch_that_began_after_it() {
    let endpoint = Endpoint::start().await;
    endpoint.cache.anticipate(std::slice::from_ref(&endpoint.trust), false);
    let slow = endpoint.asked().await;
    let (cache, url) = (Arc::clone(&endpoint.cache), Arc::clone(&endpoint.trust.url));
    let (polled, is_polled) = oneshot::channel();
    let refreshed = tokio::spawn(async move {
        let mut refresh = cache.refresh(&url);
        // So that the refresh has asked for its fetch before the one in progress ends.
        let is_pending = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut refresh).poll(context).is_pending())
        })
        .await;
        assert!(is_pending);
        polled.send(()).unwrap();
        refresh.await
    });
    is_polled.await.unwrap();
    answer(slow, &["old"]).await;
    answer(endpoint.asked().await, &["new", "newer"]).await;
    assert_eq!(
        tokio::time::timeout(PATIENCE, refreshed).await.unwrap().unwrap().unwrap().usable_keys,
        2
    );
}

/// A key set may change without a new `kid`. A token that no key matches triggers a fetch, but only
/// once per cooldown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_fetched_once_in_a_cooldown() {
    let endpoint = Endpoint::start().await;
    let refreshed = {
        let (cache, url) = (Arc::clone(&endpoint.cache), Arc::clone(&endpoint.trust.url));
        tokio::spawn(async move { cache.refresh(&url).await })
    };
    answer(endpoint.asked().await, &["old"]).await;
    tokio::time::timeout(PATIENCE, refreshed).await.unwrap().unwrap().unwrap();
    let began =
        endpoint.cache.watched(&endpoint.trust.url, FastClock.now()).state().last_began.unwrap();
    let cooldown = endpoint.cache.settings.cooldown;

    // The time is the caller's.
    let too_early = began.saturating_add(cooldown.saturating_sub(Duration::from_millis(1)));
    for _ in 0..100 {
        endpoint.cache.missed(&endpoint.trust, too_early);
    }
    assert!(!endpoint.cache.watched(&endpoint.trust.url, too_early).state().is_fetching);
    for _ in 0..100 {
        endpoint.cache.missed(&endpoint.trust, began.saturating_add(cooldown));
    }
    answer(endpoint.asked().await, &["new"]).await;
    tokio::time::timeout(PATIENCE, async {
        while !endpoint.has("new").await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the second set is not used");
    // The fetch is counted when it ends, slightly after its keys are used.
    let mut fetches =
        endpoint.cache.watched(&endpoint.trust.url, FastClock.now()).fetches.subscribe();
    let counted = *tokio::time::timeout(PATIENCE, fetches.wait_for(|fetches| *fetches >= 2))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(counted, 2);
}
