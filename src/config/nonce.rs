//! Where used nonces are remembered.

use std::{path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Contradiction,
    redis_url::{BadRedisUrl, RedisUrl},
    values,
};
use crate::domain::fence::FenceMode;

/// `nonce.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct NonceSettings {
    /// `memory:` for a single replica, which forgets at a restart; or Redis for any number:
    /// `redis://HOST:PORT/DB`, `redis+unix:PATH`, `redis+cluster://A,B,C`,
    /// `redis+sentinel://A,B,C/SERVICE/DB`, the letters being `HOST:PORT`; with `rediss`
    /// instead of `redis` over TLS. Credentials stand before the first host, `USER:PASSWORD@`, and
    /// are those of Redis on all servers; sentinels may have others,
    /// `?sentinel_username=USER&sentinel_password=PASSWORD`. Default `memory:`.
    #[serde(deserialize_with = "values::parsed")]
    pub url: NonceUrl,
    /// How long a claim may take, reconnecting included, before the answer is *unavailable*. From
    /// `1ms` to `1s`: nonces are remembered for a second longer than their tokens are good.
    /// Default `100ms`, half of what Envoy waits for a check.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// How many live nonces the store in memory holds; one more is *unavailable*. Each takes some
    /// 80 bytes, and lives for twice the tolerance at most. Not used with Redis. Default
    /// 1,000,000.
    pub memory_entries: usize,
    /// What it costs that a store lost its memory: a Redis that was emptied, restarted or failed
    /// over, or the start of this process with `memory:`. `minted_before` denies tokens whose
    /// time is not after the loss; `strict` also those of clients whose clocks run ahead, so
    /// that nothing passes for the length of the tolerance; `off` lets what was forgotten pass
    /// once more. Default `minted_before`.
    #[serde(deserialize_with = "values::parsed")]
    pub fence: FenceMode,
    /// How far the clock of this replica may be off that of Redis; beyond it every claim is
    /// *unavailable*. From `10ms` to `500ms`: two replicas may be off either side, and nonces
    /// are remembered for one second longer than their tokens are good. Default `500ms`.
    #[serde(with = "values::duration")]
    pub max_clock_skew: Duration,
    /// Whether a Redis with an `allkeys-*` eviction policy is used all the same. It may forget a
    /// nonce at any time, and its token then passes again. Default `false`: the service does
    /// not start.
    pub allow_eviction: bool,
    /// How many replicas of Redis have to have a claim before it counts (`WAIT`); fewer within
    /// `nonce.timeout` is *unavailable*. Default 0: none has to, and a failover may lose
    /// claims, which the fence then covers.
    pub replicas_ack: u32,
    /// A PEM file with certificates that count for Redis and its sentinels besides the system's:
    /// those of authorities, or a server's own, such as a self-signed one. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate, and the chain behind it, that this service shows to Redis
    /// and its sentinels. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub client_cert: Option<PathBuf>,
    /// A PEM file with the key of `nonce.client_cert`. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub client_key: Option<PathBuf>,
}

/// A nonce store, as its URL names it.
#[derive(Clone, Debug)]
pub enum NonceUrl {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(Box<RedisUrl>),
}

impl NonceUrl {
    /// Whether all replicas share it.
    pub const fn is_redis(&self) -> bool {
        !matches!(self, Self::Memory)
    }

    fn is_tls(&self) -> bool {
        matches!(self, Self::Redis(url) if url.is_tls)
    }
}

impl FromStr for NonceUrl {
    type Err = BadRedisUrl;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if url == "memory:" { Ok(Self::Memory) } else { url.parse().map(Box::new).map(Self::Redis) }
    }
}

impl Serialize for NonceUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Memory => "memory:",
            Self::Redis(_) => "(secret)",
        })
    }
}

impl Default for NonceSettings {
    fn default() -> Self {
        Self {
            url: NonceUrl::Memory,
            timeout: Duration::from_millis(100),
            memory_entries: 1_000_000,
            fence: FenceMode::default(),
            max_clock_skew: Duration::from_millis(500),
            allow_eviction: false,
            replicas_ack: 0,
            ca_file: None,
            client_cert: None,
            client_key: None,
        }
    }
}

impl NonceSettings {
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        let mut add =
            |key, reason: &str| found.push(Contradiction { key, reason: reason.to_owned() });
        if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&self.timeout) {
            add("nonce.timeout", "expected a duration from 1ms to 1s");
        }
        if !(Duration::from_millis(10)..=Duration::from_millis(500)).contains(&self.max_clock_skew)
        {
            add("nonce.max_clock_skew", "expected a duration from 10ms to 500ms");
        }
        if self.replicas_ack > 0 && !self.url.is_redis() {
            add(
                "nonce.replicas_ack",
                "expected 0 with `nonce.url = \"memory:\"`, which has no replicas",
            );
        }
        for (key, file) in [
            ("nonce.ca_file", &self.ca_file),
            ("nonce.client_cert", &self.client_cert),
            ("nonce.client_key", &self.client_key),
        ] {
            if file.is_some() && !self.url.is_tls() {
                add(key, "expected a `nonce.url` with `rediss`: nothing else uses TLS");
            }
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            let missing =
                if self.client_cert.is_some() { "nonce.client_cert" } else { "nonce.client_key" };
            add(missing, "expected `nonce.client_cert` and `nonce.client_key` together");
        }
        found
    }
}
