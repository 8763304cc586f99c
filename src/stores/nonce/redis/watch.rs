//! The background work beside the claims: finds servers, keeps their epochs right, and checks that
//! the servers may be used.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, aio::ConnectionLike};

use super::{
    KnownEpoch, RedisNonceStore,
    epoch::{Change, Epoch, Sight},
    failure::{BadRedis, ClaimError},
    info::ServerInfo,
    key, reply,
    server::{Server, Unfit},
    servers::DiscoveryError,
};
use crate::{
    domain::time::UnixMillis,
    stores::redis::{CONNECT_TIMEOUT, Connection, within},
};

/// The interval between checks.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long one check of a server may take.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
/// How often epochs are read again because another replica changed them at the same time.
const ROUNDS: usize = 8;

/// Replaces an epoch if it is still the one that was read, and returns the one in effect.
const REPLACE: &str = "local held = redis.call('GET', KEYS[1]) or '' \
                       if held ~= ARGV[1] then return held end \
                       redis.call('SET', KEYS[1], ARGV[2]) return ARGV[2]";

/// The sufficient ACL rules, printed by `countersign config check`.
pub const ACL_RULES: &str = "~countersign:* &countersign:* +set +get +exists +expire +wait +eval +info +time \
                             +cluster|info +cluster|slots +publish +subscribe +hello +auth +select";

/// The difference between the clock of this process and that of Redis.
#[derive(Default)]
pub(super) struct ClockSkew(AtomicI64);

/// Lets one of all waiting claims update the epochs.
#[derive(Default)]
pub(super) struct Settling {
    one: tokio::sync::Mutex<()>,
    ended: AtomicU64,
}

impl RedisNonceStore {
    /// Milliseconds by which the clock of this process is ahead of that of Redis, as last measured;
    /// negative if it is behind.
    pub fn clock_skew_ms(&self) -> i64 {
        self.clock_skew.0.load(Ordering::Relaxed)
    }

    /// Finds the servers and their epochs before the first claim. An unreachable Redis is no error,
    /// since it may become reachable; a Redis that must not be used is one.
    pub async fn start(&self) -> Result<(), BadRedis> {
        let thread = self.thread();
        let connected = async {
            let partitions = self.first_partitions().await;
            let trials = partitions.into_iter().map(|partition| async move {
                (partition, self.try_claim(thread, partition).await)
            });
            for (partition, tried) in join_all(trials).await {
                drop(tried.map_err(|error| self.unavailable(partition, error)));
            }
        };
        let in_time = tokio::time::timeout(CONNECT_TIMEOUT, connected).await;
        let evicts = self.servers.layout_now().servers.iter().find_map(|server| {
            match server.problem().as_deref() {
                Some(problem @ Unfit::Evicts { .. }) => Some(problem.to_string()),
                Some(Unfit::ClockSkew { .. }) | None => None,
            }
        });
        if in_time.is_err() {
            drop(
                self.unavailable(
                    0,
                    ClaimError::Timeout { address: None, timeout: CONNECT_TIMEOUT },
                ),
            );
        }
        evicts.map_or(Ok(()), |problem| Err(BadRedis::Evicts(problem)))
    }

    /// Warnings for the operator about servers that can be used nevertheless. Empty if Redis cannot
    /// be asked.
    pub async fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        for server in &self.servers.layout_now().servers {
            let mut info = Cmd::new();
            info.arg("INFO");
            let asked = async { server.connect().await?.req_packed_command(&info).await };
            let Ok(text) = within(CONNECT_TIMEOUT, asked).await else { continue };
            let policy =
                reply::text(text).ok().and_then(|text| ServerInfo::parse(&text)?.eviction_policy);
            if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
                advice.push(format!(
                    "Redis at {} has `maxmemory-policy {policy}`: when it is full, it forgets nonces, and tokens signed until then \
                     are denied; set it to `noeviction`",
                    server.address
                ));
            }
        }
        advice
    }

    /// Runs the background work until `shutdown` completes.
    pub async fn watch(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut shutdown, mut listening) =
            (std::pin::pin!(shutdown), std::pin::pin!(self.servers.listen()));
        let mut connections = HashMap::new();
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                () = &mut listening => {}
                _ = ticks.tick() => {}
                () = self.servers.wanted.notified() => {}
            }
            tokio::select! {
                () = &mut shutdown => return,
                () = self.look_after(&mut connections) => {}
            }
        }
    }

    async fn look_after(&self, connections: &mut HashMap<u64, Connection>) {
        self.find_servers_or_tell().await;
        let layout = self.servers.layout_now();
        connections.retain(|id, _| layout.servers.iter().any(|server| server.id == *id));
        let looks = layout.servers.iter().map(|server| {
            let held = connections.get(&server.id).cloned();
            async move {
                (
                    server.id,
                    tokio::time::timeout(LOOK_TIMEOUT, self.look_at(server, held)).await.ok(),
                )
            }
        });
        for (id, looked) in join_all(looks).await {
            match looked {
                Some(Ok(connection)) => drop(connections.insert(id, connection)),
                // Claims and readiness report it.
                Some(Err(_)) | None => drop(connections.remove(&id)),
            }
        }
    }

    async fn look_at(
        &self,
        server: &Server,
        held: Option<Connection>,
    ) -> Result<Connection, ClaimError> {
        let mut connection = match held {
            Some(connection) => connection,
            None => server.connect().await?,
        };
        self.settle(server, &mut connection).await?;
        Ok(connection)
    }

    /// Searches for the servers, drops connections to replaced ones, and returns whether any
    /// changed.
    pub(super) async fn find_servers(&self) -> Result<bool, DiscoveryError> {
        let has_changed = self.servers.search().await?;
        if has_changed {
            let layout = self.servers.layout_now();
            for thread in &self.threads {
                thread.drop_if(|link| layout.servers.iter().all(|server| server.id != link.server));
            }
        }
        Ok(has_changed)
    }

    async fn find_servers_or_tell(&self) {
        if let Err(error) = self.find_servers().await {
            tracing::debug!(error = %error, "the Redis servers cannot be found; those that are known are used");
        }
    }

    /// The first partition of each server.
    pub(super) async fn first_partitions(&self) -> Vec<usize> {
        if self.servers.layout().servers.is_empty() {
            self.find_servers_or_tell().await;
        }
        let layout = self.servers.layout_now();
        let mut firsts: Vec<usize> = layout
            .servers
            .iter()
            .filter_map(|server| layout.partitions(server.id).first().copied())
            .collect();
        // A partition without a server is unavailable, like a server that cannot be reached.
        firsts.extend(
            (0..self.servers.partitions()).find(|partition| layout.server(*partition).is_none()),
        );
        firsts
    }

    /// Like [`RedisNonceStore::settle`], run once for all concurrent callers.
    pub(super) async fn settle_once(&self, link: &super::Link) -> Result<(), ClaimError> {
        let layout = self.servers.layout_now();
        let server = layout
            .servers
            .iter()
            .find(|server| server.id == link.server)
            .ok_or(ClaimError::Replaced)?;
        let before = self.settling.ended.load(Ordering::Acquire);
        let _one = self.settling.one.lock().await;
        if self.settling.ended.load(Ordering::Acquire) > before + 1 {
            return Ok(());
        }
        let settled = self.settle(server, &mut link.connection.clone()).await;
        self.settling.ended.fetch_add(1, Ordering::AcqRel);
        settled
    }

    /// Reads the epochs of a server, replaces those that are wrong, and checks whether the server
    /// may be used for claims. Required on each new connection before the first claim, and whenever
    /// a claim finds another epoch.
    pub(super) async fn settle(
        &self,
        server: &Server,
        connection: &mut Connection,
    ) -> Result<(), ClaimError> {
        let partitions = self.servers.layout_now().partitions(server.id);
        for _ in 0..ROUNDS {
            let (info, now, held) = self.look_at_epochs(server, connection, &partitions).await?;
            if !info.is_master {
                return Err(ClaimError::NotMaster);
            }
            if self.replace_epochs(server, connection, &info, now, held).await? {
                return Ok(());
            }
        }
        Err(ClaimError::EpochsUnsettled)
    }

    async fn look_at_epochs(
        &self,
        server: &Server,
        connection: &mut Connection,
        partitions: &[usize],
    ) -> Result<(ServerInfo, UnixMillis, Vec<(usize, Option<Vec<u8>>)>), ClaimError> {
        let mut commands = Pipeline::with_capacity(partitions.len() + 2);
        for partition in partitions {
            commands.add_command(self.epoch_gets[*partition].clone());
        }
        // Read after the epochs: any loss that they show happened before this time.
        commands.cmd("TIME").cmd("INFO");
        let sent = self.clock.now();
        let mut replies =
            connection.req_packed_commands(&commands, 0, commands.len()).await?.into_iter();
        let received = self.clock.now();
        let mut held = Vec::with_capacity(partitions.len());
        for partition in partitions {
            held.push((*partition, reply::get(reply::next(&mut replies))?));
        }
        let now = reply::time(reply::next(&mut replies))?;
        let info = reply::text(reply::next(&mut replies))?;
        let info = ServerInfo::parse(&info)
            .ok_or(reply::ReplyError::Unexpected("an INFO without run_id and role"))?;
        server.read_clock(now);
        let skew_ms = skew_ms(sent, now, received);
        self.clock_skew.0.store(skew_ms, Ordering::Relaxed);
        server.set_problem(self.problem(server, &info, skew_ms));
        Ok((info, now, held))
    }

    fn problem(&self, server: &Server, info: &ServerInfo, skew_ms: i64) -> Option<Unfit> {
        let address = || server.address.clone();
        if u128::from(skew_ms.unsigned_abs()) > self.rules.max_clock_skew.as_millis() {
            return Some(Unfit::ClockSkew { address: address(), skew_ms });
        }
        if info.evicts_any_key() && !self.rules.allow_eviction {
            let policy = info.eviction_policy.clone().unwrap_or_default();
            return Some(Unfit::Evicts { address: address(), policy });
        }
        None
    }

    /// Returns whether all of them are right now.
    async fn replace_epochs(
        &self,
        server: &Server,
        connection: &mut Connection,
        info: &ServerInfo,
        now: UnixMillis,
        held: Vec<(usize, Option<Vec<u8>>)>,
    ) -> Result<bool, ClaimError> {
        let evicted = if self.rules.allow_eviction { 0 } else { info.evicted_keys };
        let mut replacements = Vec::new();
        for (partition, held) in held {
            let known = self.epochs[partition].load();
            let known_tolerance = known.as_ref().map(|known| known.epoch.fence.tolerance);
            let takeover = self.servers.takeover();
            let sight = Sight {
                run_id: &info.run_id,
                evicted,
                now,
                tolerance: self.rules.tolerance,
                known_tolerance,
                takeover,
            };
            match (Epoch::replacement(held.as_deref(), sight), held) {
                (Some((epoch, change)), held) => {
                    replacements.push((partition, held.unwrap_or_default(), epoch, change));
                }
                (None, Some(held)) => self.remember(partition, held),
                (None, None) => {}
            }
        }
        if replacements.is_empty() {
            return Ok(true);
        }
        let mut commands = Pipeline::with_capacity(replacements.len());
        for (partition, held, epoch, _) in &replacements {
            commands
                .cmd("EVAL")
                .arg(REPLACE)
                .arg(1)
                .arg(key::epoch(*partition))
                .arg(held)
                .arg(epoch.encode());
        }
        let mut replies =
            connection.req_packed_commands(&commands, 0, commands.len()).await?.into_iter();
        let mut are_all_right = true;
        let mut told: Option<Change> = None;
        for (partition, _, epoch, change) in replacements {
            let counts = reply::get(reply::next(&mut replies))?;
            if counts.is_some_and(|counts| counts == epoch.encode()) {
                if told != Some(change) {
                    tell(server, change, &epoch);
                    told = Some(change);
                }
                self.remember(partition, epoch.encode());
            } else {
                are_all_right = false;
            }
        }
        Ok(are_all_right)
    }

    fn remember(&self, partition: usize, bytes: Vec<u8>) {
        if self.knows(partition, Some(&bytes)) {
            return;
        }
        if let Some(epoch) = Epoch::decode(&bytes) {
            self.epochs[partition].store(Some(Arc::new(KnownEpoch { epoch, bytes })));
        }
    }
}

fn tell(server: &Server, change: Change, epoch: &Epoch) {
    let (address, reason) = (&server.address, change.describe());
    if change == Change::ToleranceRaised {
        let tolerance = epoch.fence.tolerance.duration();
        tracing::info!(server = %address, reason, ?tolerance, "nonces are remembered for longer from now on");
        return;
    }
    tracing::warn!(
        server = %address,
        reason,
        until = epoch.fence.lost_at.to_rfc3339(),
        "Redis may have lost claims: tokens that were signed until then are denied"
    );
}

/// Milliseconds by which this process's clock is at least ahead of that of Redis, or behind it
/// (negative); what the network may account for is not counted.
fn skew_ms(sent: UnixMillis, redis: UnixMillis, received: UnixMillis) -> i64 {
    if redis < sent {
        sent.0 - redis.0
    } else if redis > received {
        received.0 - redis.0
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_the_way_does_not_explain() {
        let skew = |sent, redis, received| {
            skew_ms(UnixMillis(sent), UnixMillis(redis), UnixMillis(received))
        };
        assert_eq!(skew(1000, 1005, 1010), 0);
        assert_eq!(skew(1000, 990, 1010), 10, "ahead");
        assert_eq!(skew(1000, 1500, 1010), -490, "behind");
        assert_eq!(skew(1000, 1500, 2000), 0, "a slow answer tells nothing");
    }
}
