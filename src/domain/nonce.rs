//! Nonces: what makes a token pass once.

use super::{
    principal::PrincipalId,
    time::{UnixMillis, remember_for},
};

/// One attempt to use up a nonce.
#[derive(Clone, Copy, Debug)]
pub struct NonceClaim<'a> {
    /// Whose nonce it is; two principals may use the same.
    pub principal: PrincipalId,
    /// The nonce itself, as the token has it.
    pub nonce: &'a str,
    /// The time that its token states.
    pub token_time: UnixMillis,
    /// The last moment at which its token could pass.
    pub valid_until: UnixMillis,
    /// When the claim is made.
    pub now: UnixMillis,
    /// Which presentation claims it.
    pub attempt: Attempt,
}

impl NonceClaim<'_> {
    /// How long the claim has to be remembered.
    pub fn remember_for(&self) -> std::time::Duration {
        remember_for(self.valid_until, self.now)
    }
}

/// Which presentation of a token claims its nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A presentation that the gateway gave no name: it is like no other, and its number is unique.
    Unique(u128),
    /// A request that the gateway named itself. When it asks again about the same request (it
    /// retried, or checked twice), that is the same presentation of the token, and gets the
    /// same answer.
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

/// The outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody had claimed the nonce before this attempt.
    Fresh,
    /// Another attempt had.
    Replayed,
    /// The store may have forgotten that the token was used before
    /// ([`Fence`](super::fence::Fence)).
    Fenced,
}
