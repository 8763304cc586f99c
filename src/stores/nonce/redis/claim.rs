//! The steps of a claim.

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisError, Value, aio::ConnectionLike};

use super::{
    RedisNonceStore,
    failure::ClaimError,
    get,
    key::NonceKey,
    link::{Link, Thread},
    reply::{self, SetReply},
};
use crate::domain::{
    nonce::{Attempt, Claimed, NonceClaim},
    time::{Tolerance, remember_for},
};

impl RedisNonceStore {
    pub(super) async fn claim_once(
        &self,
        thread: &Arc<Thread>,
        key: NonceKey,
        claim: NonceClaim<'_>,
    ) -> Result<Claimed, ClaimError> {
        let mut link = self.link(thread, key.partition).await?;
        let (commands, tolerance) = self.claim_commands(&key, &claim);
        match link.connection.req_packed_commands(&commands, 0, commands.len()).await {
            Ok(replies) => match self.read_claim(&link, &key, &claim, tolerance, replies).await {
                Err(error) if error.leads_elsewhere() => {
                    Box::pin(self.claim_elsewhere(thread, &link, &key, &claim, error)).await
                }
                result => result,
            },
            Err(error) => {
                self.drop_link(&link);
                if !is_connection_lost(&error) {
                    return Err(error.into());
                }
                // The first try may have been executed and only its reply lost: then the second one
                // finds the value of this attempt.
                let again = NonceClaim { attempt: Attempt::Named(claim.attempt.number()), ..claim };
                Box::pin(self.claim_again(thread, &key, &again)).await
            }
        }
    }

    /// Retries a claim on another connection. Boxed by its caller, so that the futures of claims
    /// that need no retry stay small.
    async fn claim_again(
        &self,
        thread: &Arc<Thread>,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
    ) -> Result<Claimed, ClaimError> {
        // The connection of another thread may have broken like the first one.
        let mut link = self.own_link(thread, key.partition).await?;
        let (commands, tolerance) = self.claim_commands(key, claim);
        let replies = link.connection.req_packed_commands(&commands, 0, commands.len()).await;
        let replies = replies.inspect_err(|_| self.drop_link(&link))?;
        self.read_claim(&link, key, claim, tolerance, replies).await
    }

    /// Retries a claim after an error reply that may mean that another server has the nonces now.
    async fn claim_elsewhere(
        &self,
        thread: &Arc<Thread>,
        link: &Link,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
        refusal: ClaimError,
    ) -> Result<Claimed, ClaimError> {
        if !self.search().await.unwrap_or(false) || self.has(link.server, key.partition) {
            return Err(refusal);
        }
        self.claim_again(thread, key, claim).await
    }

    /// The commands of a claim, and the tolerance for which the nonce is remembered.
    fn claim_commands(&self, key: &NonceKey, claim: &NonceClaim<'_>) -> (Pipeline, Tolerance) {
        let tolerance = self.tolerance_in_use(key.partition);
        let mut set = Cmd::with_capacity(6, key.text.len() + 48);
        let value = claim.attempt.number().to_be_bytes();
        let seconds = self.remember_for(key.partition, claim, tolerance);
        set.arg("SET").arg(&key.text).arg(&value).arg("NX").arg("EX").arg(seconds);
        let mut commands = Pipeline::with_capacity(3);
        commands.add_command(set);
        if self.rules.replicas_ack > 0 {
            self.add_wait(&mut commands);
        }
        commands.add_command(self.epoch_gets[key.partition].clone());
        (commands, tolerance)
    }

    fn add_wait(&self, commands: &mut Pipeline) {
        let wait_ms = u64::try_from(self.rules.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        commands.cmd("WAIT").arg(self.rules.replicas_ack).arg(wait_ms);
    }

    fn check_acknowledged(&self, acknowledged: i64) -> Result<(), ClaimError> {
        let wanted = self.rules.replicas_ack;
        if acknowledged < wanted.into() {
            Err(ClaimError::TooFewReplicas { acknowledged, wanted })
        } else {
            Ok(())
        }
    }

    /// How many seconds a nonce is remembered if replicas accept its token for `tolerance`. Counted
    /// from the time of the server, since the server expires it by its own clock.
    fn remember_for(&self, partition: usize, claim: &NonceClaim<'_>, tolerance: Tolerance) -> u64 {
        let longer = tolerance.duration().saturating_sub(self.rules.tolerance.duration());
        let now = self.servers.layout().server(partition).map_or(claim.now, |server| server.time());
        remember_for(claim.valid_until.saturating_add(longer), now).as_secs()
    }

    /// The largest tolerance in use, by this replica or any other.
    fn tolerance_in_use(&self, partition: usize) -> Tolerance {
        let own = self.rules.tolerance;
        let known = self.epochs[partition].load();
        known
            .as_ref()
            .map(|known| known.epoch.fence.tolerance)
            .filter(|known| known.duration() > own.duration())
            .unwrap_or(own)
    }

    /// Interprets the replies to a claim.
    async fn read_claim(
        &self,
        link: &Link,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
        tolerance: Tolerance,
        replies: Vec<Value>,
    ) -> Result<Claimed, ClaimError> {
        let mut replies = replies.into_iter();
        let set = self.read(link, reply::set(reply::next(&mut replies)))?;
        if self.rules.replicas_ack > 0 {
            self.check_acknowledged(self.read(link, reply::integer(reply::next(&mut replies)))?)?;
        }
        let epoch = self.read(link, reply::get(reply::next(&mut replies)))?;
        // A server that was replaced in the meantime may have stored a claim that no other server
        // has.
        if !self.has(link.server, key.partition) {
            return Err(ClaimError::Replaced);
        }
        if !self.knows(key.partition, epoch.as_deref()) {
            Box::pin(self.follow_epoch(link, key, claim, tolerance, (set, epoch))).await?;
        }
        if self.is_fenced(key.partition, claim) {
            return Ok(Claimed::Fenced);
        }
        match (set, claim.attempt) {
            (SetReply::Stored, _) => Ok(Claimed::Fresh),
            (SetReply::Held, Attempt::Unique(_)) => Ok(Claimed::Replayed),
            (SetReply::Held, Attempt::Named(number)) => {
                let holder = Box::pin(self.ask(link, &get(&key.text))).await?;
                let holder = self.read(link, reply::get(holder))?;
                if holder.is_none_or(|holder| holder != number.to_be_bytes()) {
                    return Ok(Claimed::Replayed);
                }
                if self.rules.replicas_ack > 0 {
                    Box::pin(self.acknowledge(link, key, claim)).await?;
                }
                Ok(Claimed::Fresh)
            }
        }
    }

    /// Handles a claim that the same attempt has already made, perhaps without enough replicas
    /// acknowledging it. `WAIT` covers only writes of its own connection, and a refused `SET NX`
    /// writes nothing (Valkey then reports that all replicas have it). So the claim is written once
    /// more, by setting its expiry again.
    async fn acknowledge(
        &self,
        link: &Link,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
    ) -> Result<(), ClaimError> {
        let seconds = self.remember_for(key.partition, claim, self.tolerance_in_use(key.partition));
        let mut commands = Pipeline::with_capacity(4);
        commands.cmd("EXPIRE").arg(&key.text).arg(seconds);
        self.add_wait(&mut commands);
        commands.add_command(get(&key.text));
        commands.add_command(self.epoch_gets[key.partition].clone());
        let replies =
            link.connection.clone().req_packed_commands(&commands, 0, commands.len()).await;
        let mut replies = replies.inspect_err(|_| self.drop_link(link))?.into_iter();
        let was_there = self.read(link, reply::integer(reply::next(&mut replies)))? == 1;
        self.check_acknowledged(self.read(link, reply::integer(reply::next(&mut replies)))?)?;
        let holder = self.read(link, reply::get(reply::next(&mut replies)))?;
        let epoch = self.read(link, reply::get(reply::next(&mut replies)))?;
        // If the key was flushed in between, another attempt may have claimed the nonce.
        let is_still_held = was_there
            && holder.is_some_and(|holder| holder == claim.attempt.number().to_be_bytes());
        if !(is_still_held && self.knows(key.partition, epoch.as_deref())) {
            return Err(ClaimError::EpochChanged);
        }
        if self.has(link.server, key.partition) { Ok(()) } else { Err(ClaimError::Replaced) }
    }

    /// Handles a claim that found another epoch than the known one. Settles the epochs first: the
    /// claim counts only if it found the epoch that is then in effect, and is remembered for as
    /// long as that requires.
    async fn follow_epoch(
        &self,
        link: &Link,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
        tolerance: Tolerance,
        (set, found): (SetReply, Option<Vec<u8>>),
    ) -> Result<(), ClaimError> {
        self.settle_once(link).await?;
        if !self.knows(key.partition, found.as_deref()) {
            return Err(ClaimError::EpochChanged);
        }
        let in_use = self.tolerance_in_use(key.partition);
        if in_use.duration() <= tolerance.duration() || set == SetReply::Held {
            return Ok(());
        }
        let mut expire = Cmd::new();
        expire.arg("EXPIRE").arg(&key.text).arg(self.remember_for(key.partition, claim, in_use));
        let reply = self.ask(link, &expire).await?;
        match self.read(link, reply::integer(reply))? {
            1 => Ok(()),
            _ => Err(ClaimError::EpochChanged),
        }
    }

    /// Whether `server` has the partition now.
    fn has(&self, server: u64, partition: usize) -> bool {
        self.servers.layout().server(partition).is_some_and(|found| found.id == server)
    }

    /// Whether `epoch` equals the known one.
    pub(super) fn knows(&self, partition: usize, epoch: Option<&[u8]>) -> bool {
        let known = self.epochs[partition].load();
        epoch.is_some() && known.as_ref().map(|known| &*known.bytes) == epoch
    }

    pub(super) fn is_fenced(&self, partition: usize, claim: &NonceClaim<'_>) -> bool {
        let known = self.epochs[partition].load();
        let Some(fence) = known.as_ref().map(|known| known.epoch.fence) else { return true };
        // Only a raised tolerance depends on the current time.
        let now = if fence.raised.is_some() { self.clock.now() } else { claim.now };
        fence.excludes(claim.token_time, now, self.rules.fence)
    }

    pub(super) async fn look_once(
        &self,
        thread: &Arc<Thread>,
        key: NonceKey,
        claim: NonceClaim<'_>,
    ) -> Result<Claimed, ClaimError> {
        let link = self.link(thread, key.partition).await?;
        let mut exists = Cmd::new();
        exists.arg("EXISTS").arg(&key.text);
        let reply = self.ask(&link, &exists).await?;
        let is_claimed = self.read(&link, reply::exists(reply))?;
        let is_fenced = self.is_fenced(key.partition, &claim);
        Ok(if is_fenced {
            Claimed::Fenced
        } else if is_claimed {
            Claimed::Replayed
        } else {
            Claimed::Fresh
        })
    }
}

fn is_connection_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}
