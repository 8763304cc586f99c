//! The kinds of decisions that are measured, and what each is compared with.

use crate::floors::Part;

/// A kind of decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Rs256Redis,
    Ed25519Redis,
    Rs256Memory,
    Ed25519Memory,
    Bearer,
    GrpcRs256Redis,
    GrpcEd25519Redis,
    GrpcEd25519Memory,
    Garbage,
    UnknownRs256,
    UnknownEd25519,
    ReplayRs256,
    ReplayEd25519,
}

impl Case {
    /// In the order of measurement: a replay comes after the decision it repeats.
    pub(crate) const ALL: [Self; 13] = [
        Self::Rs256Redis,
        Self::Ed25519Redis,
        Self::Rs256Memory,
        Self::Ed25519Memory,
        Self::Bearer,
        Self::GrpcRs256Redis,
        Self::GrpcEd25519Redis,
        Self::GrpcEd25519Memory,
        Self::Garbage,
        Self::UnknownRs256,
        Self::UnknownEd25519,
        Self::ReplayRs256,
        Self::ReplayEd25519,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|case| case.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rs256Redis => "rs256-redis",
            Self::Ed25519Redis => "ed25519-redis",
            Self::Rs256Memory => "rs256-memory",
            Self::Ed25519Memory => "ed25519-memory",
            Self::Bearer => "bearer",
            Self::GrpcRs256Redis => "grpc-rs256-redis",
            Self::GrpcEd25519Redis => "grpc-ed25519-redis",
            Self::GrpcEd25519Memory => "grpc-ed25519-memory",
            Self::Garbage => "garbage",
            Self::UnknownRs256 => "unknown-rs256",
            Self::UnknownEd25519 => "unknown-ed25519",
            Self::ReplayRs256 => "replay-rs256",
            Self::ReplayEd25519 => "replay-ed25519",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Rs256Redis => "allow, HTTP, RS256, Redis nonces",
            Self::Ed25519Redis => "allow, HTTP, Ed25519, Redis nonces",
            Self::Rs256Memory => "allow, HTTP, RS256, in-memory nonces",
            Self::Ed25519Memory => "allow, HTTP, Ed25519, in-memory nonces",
            Self::Bearer => "allow, HTTP, access token (RS256)",
            Self::GrpcRs256Redis => "allow, gRPC, RS256, Redis nonces",
            Self::GrpcEd25519Redis => "allow, gRPC, Ed25519, Redis nonces",
            Self::GrpcEd25519Memory => "allow, gRPC, Ed25519, in-memory nonces",
            Self::Garbage => "deny, HTTP, garbage",
            Self::UnknownRs256 => "deny, HTTP, unknown user, RS256",
            Self::UnknownEd25519 => "deny, HTTP, unknown user, Ed25519",
            Self::ReplayRs256 => "deny, HTTP, replay, RS256, Redis nonces",
            Self::ReplayEd25519 => "deny, HTTP, replay, Ed25519, Redis nonces",
        }
    }

    pub(crate) const fn is_grpc(self) -> bool {
        matches!(self, Self::GrpcRs256Redis | Self::GrpcEd25519Redis | Self::GrpcEd25519Memory)
    }

    /// Whether the service stores its nonces in Redis.
    pub(crate) const fn uses_redis(self) -> bool {
        !matches!(
            self,
            Self::Rs256Memory | Self::Ed25519Memory | Self::Bearer | Self::GrpcEd25519Memory
        )
    }

    /// The signature that is verified. For garbage, the cheaper one: garbage is compared with its
    /// allow.
    pub(crate) const fn signature(self) -> Part {
        match self {
            Self::Rs256Redis
            | Self::Rs256Memory
            | Self::Bearer
            | Self::GrpcRs256Redis
            | Self::Garbage
            | Self::UnknownRs256
            | Self::ReplayRs256 => Part::Rs256,
            Self::Ed25519Redis
            | Self::Ed25519Memory
            | Self::GrpcEd25519Redis
            | Self::GrpcEd25519Memory
            | Self::UnknownEd25519
            | Self::ReplayEd25519 => Part::Ed25519,
        }
    }

    /// The allow that this denial is compared with: same transport, same signature, same nonce
    /// store.
    pub(crate) const fn denial_of(self) -> Option<Self> {
        match self {
            Self::Garbage | Self::UnknownRs256 | Self::ReplayRs256 => Some(Self::Rs256Redis),
            Self::UnknownEd25519 | Self::ReplayEd25519 => Some(Self::Ed25519Redis),
            Self::Rs256Redis
            | Self::Ed25519Redis
            | Self::Rs256Memory
            | Self::Ed25519Memory
            | Self::Bearer
            | Self::GrpcRs256Redis
            | Self::GrpcEd25519Redis
            | Self::GrpcEd25519Memory => None,
        }
    }

    /// Maximum ratio of its cost to the cost that it is compared with.
    pub(crate) const fn bound(self) -> f64 {
        match self {
            Self::Rs256Redis | Self::Ed25519Redis => 1.15,
            Self::Rs256Memory | Self::Ed25519Memory | Self::Bearer => 1.2,
            Self::GrpcRs256Redis | Self::GrpcEd25519Redis | Self::GrpcEd25519Memory => 1.25,
            Self::Garbage
            | Self::UnknownRs256
            | Self::UnknownEd25519
            | Self::ReplayRs256
            | Self::ReplayEd25519 => 1.0,
        }
    }
}
