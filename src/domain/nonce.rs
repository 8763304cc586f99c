//! Nonces: they make sure that a token passes only once.

use super::{
    principal::PrincipalId,
    time::{UnixMillis, remember_for},
};

/// One attempt to claim a nonce.
#[derive(Clone, Copy, Debug)]
pub struct NonceClaim<'a> {
    /// The principal that used the nonce; two principals may use the same one.
    pub principal: PrincipalId,
    /// The nonce, as in the token.
    pub nonce: &'a str,
    /// The time in the token.
    pub token_time: UnixMillis,
    /// The last moment at which the token could pass.
    pub valid_until: UnixMillis,
    /// When the claim is made.
    pub now: UnixMillis,
    /// The attempt that makes the claim.
    pub attempt: Attempt,
}

impl NonceClaim<'_> {
    /// How long the claim must be remembered.
    pub fn remember_for(&self) -> std::time::Duration {
        remember_for(self.valid_until, self.now)
    }
}

/// Identifies the request that claims a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A request without an id from the gateway: it differs from every other, and its number is
    /// unique.
    Unique(u128),
    /// A request with an id from the gateway. If the gateway asks again about the same request (it
    /// retried, or checked twice), that is the same attempt and gets the same answer.
    Named(u128),
}

impl Attempt {
    /// The number that is stored with the claim.
    pub const fn number(self) -> u128 {
        match self {
            Self::Unique(number) | Self::Named(number) => number,
        }
    }
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// No other attempt has claimed the nonce.
    Fresh,
    /// Another attempt has claimed the nonce before.
    Replayed,
    /// The store may have forgotten that the token was used before
    /// ([`Fence`](super::fence::Fence)).
    Fenced,
}
