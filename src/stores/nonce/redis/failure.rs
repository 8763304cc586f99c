//! Why Redis did not decide a claim, or must not be used.

use std::{sync::Arc, time::Duration};

use redis::RedisError;

use super::{
    reply::{FailureKind, ReplyError},
    server::Unfit,
    servers::DiscoveryError,
};
use crate::{config::redis_url::RedisAddress, stores::redis::BadRedisTls};

/// Why Redis did not decide a claim.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("Redis{} did not answer within {timeout:?}", at(address.as_ref()))]
    Timeout { address: Option<RedisAddress>, timeout: Duration },
    #[error("no connection to Redis at {address}: {error}")]
    Connect { address: RedisAddress, error: RedisError },
    #[error("the connection to Redis failed: {0}")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Reply(#[from] ReplyError),
    #[error(
        "only {acknowledged} of {wanted} replicas of Redis have the claim (`nonce.replicas_ack`)"
    )]
    TooFewReplicas { acknowledged: i64, wanted: u32 },
    #[error("the Redis server was replaced by another while it answered")]
    Replaced,
    #[error("Redis lost its memory while it answered")]
    EpochChanged,
    #[error("the epochs in Redis change faster than they can be written")]
    EpochsUnsettled,
    #[error("Redis is a replica and takes no claims (READONLY)")]
    NotMaster,
    #[error("no Redis server has the nonces")]
    NoServer(#[source] Option<DiscoveryError>),
    #[error(transparent)]
    Unfit(Arc<Unfit>),
    #[error(transparent)]
    Shared(Arc<ClaimError>),
    #[error("the service is stopping")]
    Stopping,
}

impl ClaimError {
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Timeout { .. } => FailureKind::Timeout,
            Self::Connect { .. } | Self::Redis(_) | Self::NoServer(_) | Self::Stopping => {
                FailureKind::Connection
            }
            Self::Reply(error) => error.kind(),
            Self::TooFewReplicas { .. } => FailureKind::TooFewAcknowledged,
            Self::Replaced => FailureKind::Replaced,
            Self::NotMaster => FailureKind::ReadOnly,
            Self::EpochChanged | Self::EpochsUnsettled => FailureKind::MemoryLost,
            Self::Unfit(problem) => match **problem {
                Unfit::ClockSkew { .. } => FailureKind::ClockSkew,
                Unfit::Evicts { .. } => FailureKind::Evicts,
            },
            Self::Shared(error) => error.kind(),
        }
    }

    /// Whether another server may have the nonces now.
    pub(super) fn leads_elsewhere(&self) -> bool {
        matches!(self, Self::Reply(error) if error.leads_elsewhere())
    }
}

/// The settings do not yield a Redis client, or the Redis must not be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRedis {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] BadRedisTls),
    /// The Redis evicts keys.
    #[error("{0}")]
    Evicts(String),
}

fn at(address: Option<&RedisAddress>) -> String {
    address.map_or_else(String::new, |address| format!(" at {address}"))
}
