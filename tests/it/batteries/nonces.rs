//! The stores of used nonces.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use countersign::{
    app::SystemClock,
    config::nonce::{NonceSettings, NonceUrl},
    domain::{
        fence::{Fence, FenceMode},
        nonce::{Attempt, Claimed, NonceClaim},
        principal::PrincipalId,
        time::Tolerance,
    },
    engine::ports::NonceStore,
    stores::nonce::{memory::MemoryNonceStore, redis::RedisNonceStore},
};

use super::now;
use crate::harness::{Redis, RedisCluster, RedisSentinel, ScriptedRedis};

/// A unique claim, on a token that is valid for `valid` from now.
fn claim(principal: i64, nonce: &str, valid: Duration) -> NonceClaim<'_> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let attempt = Attempt::Unique(NUMBER.fetch_add(1, Ordering::Relaxed).into());
    let valid_until = now().saturating_add(valid);
    // Like a client whose clock is ahead: the fence refuses what was signed before a store started.
    let token_time = now().saturating_add(VALID);
    NonceClaim {
        principal: PrincipalId(principal),
        nonce,
        token_time,
        valid_until,
        now: now(),
        attempt,
    }
}

const VALID: Duration = Duration::from_secs(20);

async fn nonce_battery(store: Arc<dyn NonceStore>) {
    store.check(now()).await.unwrap();
    let outcome = async |claim| store.claim(claim).await.unwrap();

    assert_eq!(outcome(claim(1, "n", VALID)).await, Claimed::Fresh);
    assert_eq!(outcome(claim(1, "n", VALID)).await, Claimed::Replayed);
    assert_eq!(
        outcome(claim(1, "n", Duration::from_secs(1))).await,
        Claimed::Replayed,
        "whatever the second token's time"
    );
    assert_eq!(outcome(claim(2, "n", VALID)).await, Claimed::Fresh, "another principal's");
    assert_eq!(
        outcome(claim(1, "N", VALID)).await,
        Claimed::Fresh,
        "nonces are compared byte for byte"
    );

    let is_claimed = async |principal, nonce| {
        store.look(claim(principal, nonce, VALID)).await.unwrap() == Claimed::Replayed
    };
    assert!(
        is_claimed(1, "n").await && !is_claimed(2, "N").await && !is_claimed(1, "looked at").await
    );
    assert_eq!(
        outcome(claim(1, "looked at", VALID)).await,
        Claimed::Fresh,
        "looking claims nothing"
    );

    let odd = [
        "",
        " ",
        "a b",
        "a\r\nSET x y",
        "{tag}",
        "ü",
        "\u{0}",
        &"x".repeat(64),
        &"x".repeat(65),
        &"x".repeat(7000),
    ];
    for nonce in odd {
        assert_eq!(outcome(claim(3, nonce, VALID)).await, Claimed::Fresh, "{nonce:?}");
        assert_eq!(outcome(claim(3, nonce, VALID)).await, Claimed::Replayed, "{nonce:?}");
        assert!(is_claimed(3, nonce).await, "{nonce:?}");
    }

    let named =
        |number| NonceClaim { attempt: Attempt::Named(number), ..claim(4, "retried", VALID) };
    assert_eq!(outcome(named(7)).await, Claimed::Fresh);
    assert_eq!(outcome(named(7)).await, Claimed::Fresh, "the same attempt asks again");
    assert_eq!(outcome(named(8)).await, Claimed::Replayed);
    assert_eq!(outcome(claim(4, "retried", VALID)).await, Claimed::Replayed);

    for round in 0..20 {
        let claims: Vec<_> = (0..64)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    store.claim(claim(5, &format!("raced-{round}"), VALID)).await.unwrap()
                })
            })
            .collect();
        let mut fresh = 0;
        for claimed in claims {
            fresh += usize::from(claimed.await.unwrap() == Claimed::Fresh);
        }
        assert_eq!(fresh, 1, "of 64 claims at once");
    }

    // Remembered until the token cannot pass any more and a second longer; then forgotten, or the
    // store would only grow.
    let first = now();
    assert_eq!(outcome(claim(6, "short", Duration::from_millis(10))).await, Claimed::Fresh);
    let forgotten_after = loop {
        match outcome(claim(6, "short", Duration::from_millis(10))).await {
            Claimed::Fresh => break now().since(first),
            Claimed::Fenced => panic!("nothing was lost"),
            Claimed::Replayed => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        assert!(now().since(first) < Duration::from_secs(10), "never forgotten");
    };
    assert!(forgotten_after >= Duration::from_secs(1), "forgotten after {forgotten_after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_keeps_the_nonce_promise() {
    nonce_battery(Arc::new(
        MemoryNonceStore::new(
            100_000,
            Fence::since(now(), Tolerance::DEFAULT),
            FenceMode::MintedBefore,
        )
        .unwrap(),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_redis_store_keeps_the_nonce_promise() {
    let redis = Redis::start();
    nonce_battery(redis_store(&format!("redis://{}", redis.address))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_redis_store_keeps_the_nonce_promise_on_a_cluster() {
    let redis = RedisCluster::start();
    nonce_battery(redis_store(&format!("redis+cluster://{}", redis.address))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_redis_store_keeps_the_nonce_promise_behind_a_sentinel() {
    let redis = RedisSentinel::start();
    nonce_battery(redis_store(&format!("redis+sentinel://{}/main", redis.address))).await;
}

/// Everything that a claim leaves in Redis expires by itself, within the time that the contract
/// gives.
#[tokio::test]
async fn claims_in_redis_expire_by_themselves() {
    let redis = Redis::start();
    let store = redis_store(&format!("redis://{}", redis.address));
    for (nonce, valid) in [("past", Duration::ZERO), ("now", VALID), ("future", VALID * 2)] {
        store.claim(claim(1, nonce, valid)).await.unwrap();
    }
    let client = redis::Client::open(format!("redis://{}", redis.address)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for (nonce, longest) in [("past", 1), ("now", 21), ("future", 41)] {
        let key = format!("countersign:{{0}}:nonce:1:n{nonce}");
        let left: i64 = redis::cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
        // The server's time is read a little late, and rounding up may turn that into a second.
        assert!((longest - 1..=longest + 1).contains(&left), "{nonce}: {left} s");
    }
}

/// Of Redis' replies to a claim, only `+OK` means fresh and only nil means replayed. Any other
/// reply means unavailable, and the next claim that Redis accepts is decided as usual.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reply_but_ok_is_fresh() {
    const ERRORS: [&str; 14] = [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOPERM User default has no permissions to run the 'set' command",
        "NOAUTH Authentication required.",
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN Hash slot not served",
        "MOVED 3999 127.0.0.1:1",
        "ERR max number of clients reached",
        "WHATEVER comes next",
    ];
    const NONSENSE: [&str; 8] = [
        "+QUEUED\r\n",
        "+ok\r\n",
        "$2\r\nOK\r\n",
        ":1\r\n",
        ":0\r\n",
        "*1\r\n+OK\r\n",
        "*0\r\n",
        "%0\r\n",
    ];

    let redis = Redis::start();
    let scripted = ScriptedRedis::before(redis.address).await;
    let store = redis_store(&format!("redis://{}", scripted.address));
    let mut numbers = 0..;
    let replies = ERRORS
        .iter()
        .map(|text| format!("-{text}\r\n"))
        .chain(NONSENSE.iter().map(ToString::to_string));
    for reply in replies {
        let nonce = format!("n{}", numbers.next().unwrap());
        let named = NonceClaim { attempt: Attempt::Named(7), ..claim(1, &nonce, VALID) };
        scripted.reply(&reply);
        for attempt in [claim(1, &nonce, VALID), named, claim(1, &nonce, VALID)] {
            assert!(store.claim(attempt).await.is_err(), "{reply:?}");
        }
        assert!(store.check(now()).await.is_err(), "{reply:?} to a claim on trial");
        scripted.pass();
        store.check(now()).await.unwrap();
        assert_eq!(
            store.claim(claim(1, &nonce, VALID)).await.unwrap(),
            Claimed::Fresh,
            "after {reply:?}"
        );
        assert_eq!(
            store.claim(claim(1, &nonce, VALID)).await.unwrap(),
            Claimed::Replayed,
            "after {reply:?}"
        );
    }
    for half in ["", "+", "+OK", "+OK\r", "$-1", "-OOM command"] {
        let nonce = format!("n{}", numbers.next().unwrap());
        scripted.reply_and_close(half);
        assert!(store.claim(claim(1, &nonce, VALID)).await.is_err(), "{half:?}");
        scripted.pass();
        assert_eq!(
            store.claim(claim(1, &nonce, VALID)).await.unwrap(),
            Claimed::Fresh,
            "after {half:?}"
        );
    }
    let failures: u64 = store.failures().map(|(_, count)| count).sum();
    let oom = store.failures().find(|(kind, _)| kind.name() == "oom").map(|(_, count)| count);
    assert_eq!((failures, oom), (22 * 4 + 6, Some(4)));
}

fn redis_store(url: &str) -> Arc<RedisNonceStore> {
    let url: NonceUrl = url.parse().unwrap();
    let settings =
        NonceSettings { url, timeout: Duration::from_secs(5), ..NonceSettings::default() };
    RedisNonceStore::new(&settings, Tolerance::DEFAULT, Arc::new(SystemClock)).unwrap().unwrap()
}
