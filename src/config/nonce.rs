//! Where used nonces are stored.

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
    /// Where used nonces are stored: `memory:` for a single replica, which forgets them at a
    /// restart; or Redis for any number of replicas: `redis://HOST:PORT/DB`, `redis+unix:PATH`,
    /// `redis+cluster://A,B,C` or `redis+sentinel://A,B,C/SERVICE/DB`, with `HOST:PORT` for each
    /// letter. Write `rediss` instead of `redis` for TLS. Credentials go before the first host as
    /// `USER:PASSWORD@` and are used for Redis on all servers; sentinels may have their own,
    /// `?sentinel_username=USER&sentinel_password=PASSWORD`. Default `memory:`.
    #[serde(deserialize_with = "values::parsed")]
    pub url: NonceUrl,
    /// How long a claim may take, including a reconnect, before the answer is *unavailable*. From
    /// `1ms` to `1s`, because nonces are stored for one second longer than their tokens are valid.
    /// Default `100ms`, half of what Envoy waits for a check.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// How many live nonces the store in memory holds; when it is full, the answer is
    /// *unavailable*. Each takes about 80 bytes and lives for at most twice the tolerance. Not used
    /// with Redis. Default 1,000,000.
    pub memory_entries: usize,
    /// What to deny after a store has lost its nonces: when a Redis was emptied, restarted or
    /// failed over, or when this process starts with `memory:`. `minted_before` denies tokens whose
    /// time is not after the loss. `strict` also denies tokens of clients whose clocks run ahead,
    /// so that nothing passes for the length of the tolerance. `off` denies nothing: tokens that
    /// the store has forgotten can pass once more. Default `minted_before`.
    #[serde(deserialize_with = "values::parsed")]
    pub fence: FenceMode,
    /// How far the clock of this replica may differ from that of Redis; beyond it every claim is
    /// *unavailable*. From `10ms` to `500ms`: two replicas may be off in opposite directions, and
    /// nonces are stored for one second longer than their tokens are valid. Default `500ms`.
    #[serde(with = "values::duration")]
    pub max_clock_skew: Duration,
    /// Whether to use a Redis with an `allkeys-*` eviction policy anyway. Such a Redis may drop a
    /// nonce at any time, and its token can then pass again. If false, the service does not start
    /// with such a Redis. Default `false`.
    pub allow_eviction: bool,
    /// How many Redis replicas must acknowledge a claim before it counts (`WAIT`). If fewer do so
    /// within `nonce.timeout`, the answer is *unavailable*. With 0, no acknowledgement is needed; a
    /// failover may then lose claims, and `nonce.fence` covers the loss. Default 0.
    pub replicas_ack: u32,
    /// A PEM file with certificates to trust for Redis and its sentinels, in addition to the
    /// system's: certificate authorities, or the server's own certificate if it is self-signed.
    /// Default none.
    #[serde(deserialize_with = "values::optional")]
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the client certificate, followed by its chain, that this service presents to
    /// Redis and its sentinels. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub client_cert: Option<PathBuf>,
    /// A PEM file with the private key of `nonce.client_cert`. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub client_key: Option<PathBuf>,
}

/// The nonce store that a URL names.
#[derive(Clone, Debug)]
pub enum NonceUrl {
    /// In the memory of this process.
    Memory,
    /// In Redis.
    Redis(Box<RedisUrl>),
}

impl NonceUrl {
    /// Whether the store is Redis, which replicas can share.
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
