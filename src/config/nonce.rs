//! Where used nonces are remembered.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::values::{self, Secret};

/// `nonce.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct NonceSettings {
    /// `memory:` for a single replica, which forgets at a restart; or Redis for any number: `redis://HOST:PORT`,
    /// `rediss://HOST:PORT` with TLS, `redis+cluster://A,B,C`, `redis+sentinel://A,B,C/SERVICE`, the letters being `HOST:PORT`.
    /// Default `memory:`.
    #[serde(deserialize_with = "values::parsed")]
    pub url: NonceUrl,
    /// How long a claim may take, reconnecting included, before the answer is *unavailable*. Default `100ms`, half of what
    /// Envoy waits for a check.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// How many live nonces the store in memory holds; one more is *unavailable*. Each takes some 80 bytes, and lives for twice
    /// the tolerance at most. Not used with Redis. Default 1,000,000.
    pub memory_entries: usize,
}

/// A nonce store, as its URL names it.
#[derive(Clone, Debug)]
pub enum NonceUrl {
    /// In this process.
    Memory,
    /// One Redis, by `redis://` or `rediss://`.
    Single(Secret),
    /// A Redis cluster, by the URLs of some of its nodes.
    Cluster(Vec<Secret>),
    /// A Redis watched by sentinels: their URLs, and the name of the service.
    Sentinel {
        /// The sentinels.
        nodes: Vec<Secret>,
        /// The name under which they watch the master.
        service: String,
    },
}

impl NonceUrl {
    /// Whether all replicas share it.
    pub const fn is_redis(&self) -> bool {
        !matches!(self, Self::Memory)
    }
}

const ACCEPTED: &str = "not a nonce store; accepted are memory:, redis://HOST:PORT, rediss://HOST:PORT, redis+cluster://A,B,C and \
                        redis+sentinel://A,B,C/SERVICE";

impl FromStr for NonceUrl {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if url == "memory:" {
            return Ok(Self::Memory);
        }
        let (scheme, rest) = url.split_once("://").ok_or(ACCEPTED)?;
        let nodes = |list: &str| -> Result<Vec<Secret>, &'static str> {
            let nodes: Vec<Secret> =
                list.split(',').filter(|node| !node.is_empty()).map(|node| Secret::new(format!("redis://{node}"))).collect();
            if nodes.is_empty() { Err(ACCEPTED) } else { Ok(nodes) }
        };
        match scheme {
            "redis" | "rediss" if !rest.is_empty() => Ok(Self::Single(Secret::new(url))),
            "redis+cluster" => nodes(rest).map(Self::Cluster),
            "redis+sentinel" => {
                let (list, service) = rest.split_once('/').filter(|(_, service)| !service.is_empty()).ok_or(ACCEPTED)?;
                Ok(Self::Sentinel { nodes: nodes(list)?, service: service.to_owned() })
            }
            _ => Err(ACCEPTED),
        }
    }
}

impl Serialize for NonceUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Memory => "memory:",
            Self::Single(_) | Self::Cluster(_) | Self::Sentinel { .. } => "(secret)",
        })
    }
}

impl Default for NonceSettings {
    fn default() -> Self {
        Self { url: NonceUrl::Memory, timeout: Duration::from_millis(100), memory_entries: 1_000_000 }
    }
}
