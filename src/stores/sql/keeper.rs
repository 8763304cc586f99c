//! Tracks whether the database is available and accepts writes, and reconnects, possibly to another
//! server, if it is or does not.

use std::{fmt, future::Future, sync::atomic::Ordering, time::Duration};

use sea_orm::sqlx;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    database::{Database, State},
    open::{Reached, Server, Session, Writes, is_busy, is_write_failure, reach_any},
};

/// Intervals between checks: while all is well, during trouble, and the minimum.
const CALM_INTERVAL: Duration = Duration::from_secs(1);
const TROUBLED_INTERVAL: Duration = Duration::from_millis(200);
/// How long no write must have been refused before SQLite counts as writable again: a large write
/// may not fit even if a small one does.
const SQLITE_CALM: Duration = Duration::from_millis(400);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
/// How long an existing connection may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long connecting may take, including all round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Checks a database for all its users, over a separate connection.
pub struct Keeper {
    database: Database,
    session: Option<Session>,
    refused_at: Instant,
    returned: Box<dyn Fn() + Send>,
}

impl Keeper {
    /// Creates a keeper of `database` that calls `returned` whenever the database becomes readable
    /// again.
    pub fn new(database: Database, returned: impl Fn() + Send + 'static) -> Self {
        Self { database, session: None, refused_at: Instant::now(), returned: Box::new(returned) }
    }

    /// Runs checks until `shutdown` completes.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let looked_at = Instant::now();
            let is_calm = self.state() == State::Usable;
            let interval = if is_calm { CALM_INTERVAL } else { TROUBLED_INTERVAL };
            let signs = std::sync::Arc::clone(&self.database.0.signs);
            tokio::select! {
                () = &mut shutdown => break,
                () = sleep_until(looked_at + interval) => {}
                () = signs.seen.notified(), if is_calm => sleep_until(looked_at + SHORTEST_INTERVAL).await,
            }
            tokio::select! {
                () = &mut shutdown => break,
                was_away = self.look() => if was_away {
                    (self.returned)();
                },
            }
        }
        if let Some(session) = self.session {
            session.close().await;
        }
    }

    fn state(&self) -> State {
        self.database.0.state.borrow().clone()
    }

    /// Checks once, and returns whether the database has become readable again.
    async fn look(&mut self) -> bool {
        let (was, refused) = (self.state(), self.database.0.signs.take_refused());
        if matches!(self.database.0.servers.as_slice(), [Server::Sqlite(_)]) {
            self.look_at_sqlite(&was, refused).await;
            return false;
        }
        self.look_at_server(was, refused.is_some()).await
    }

    /// Only a write can tell that the disk is full.
    async fn look_at_sqlite(&mut self, was: &State, refused: Option<String>) {
        let [server @ Server::Sqlite(options)] = self.database.0.servers.as_slice() else { return };
        let now = match refused {
            Some(reason) => {
                self.refused_at = Instant::now();
                State::ReadOnly(reason)
            }
            None if *was == State::Usable || self.refused_at.elapsed() < SQLITE_CALM => return,
            None => match Session::try_sqlite(options).await {
                Err(error) if is_busy(&error) => return,
                Err(error) if is_write_failure(&error) => State::ReadOnly(error.to_string()),
                // A missing schema is a different problem.
                Ok(()) | Err(_) => State::Usable,
            },
        };
        if (*was == State::Usable) != (now == State::Usable) {
            self.database.turn_to(server);
        }
        self.set(now);
    }

    async fn look_at_server(&mut self, was: State, was_refused: bool) -> bool {
        let asked = if matches!(was, State::Away(_)) { None } else { self.ask().await };
        let is_fine = matches!(&asked, Some(Ok(writes)) if writes.refused.is_none());
        if is_fine && was == State::Usable && !was_refused {
            return false;
        }
        if let Some(Err(sqlx::Error::PoolTimedOut)) = &asked {
            // Fail waiting queries now: the database counts as unreachable until a new connection
            // succeeds.
            self.set(State::Away(format!("no answer within {ANSWER_TIMEOUT:?}")));
        }
        let is_broken = matches!(asked, Some(Err(_)));
        let reached =
            match timeout(CONNECT_TIMEOUT, reach_any(&self.database.0.servers, CONNECT_TIMEOUT))
                .await
            {
                Ok(Ok(reached)) => reached,
                Ok(Err(error)) if !matches!(error, sqlx::Error::PoolTimedOut) => {
                    return self.lose(error.to_string());
                }
                Ok(Err(_)) | Err(_) => {
                    return self.lose(format!("no connection within {CONNECT_TIMEOUT:?}"));
                }
            };
        let Reached { server, session, writes, .. } = reached;
        let before = self.state();
        let now = writes.refused.map_or(State::Usable, State::ReadOnly);
        // Keep a server that can be read until there is a better one.
        let is_better = match (&before, &now) {
            (State::Away(_), _) | (State::ReadOnly(_), State::Usable) => true,
            (State::Usable, State::Usable) => {
                was_refused || is_broken || (asked.is_some() && !is_fine)
            }
            (_, State::ReadOnly(_) | State::Away(_)) => is_broken,
        };
        self.database
            .0
            .signs
            .is_marked_read_only
            .store(writes.is_marked_read_only, Ordering::Release);
        if is_better {
            self.database.turn_to(&server);
        }
        if is_better || self.session.is_none() {
            self.session = Some(session);
        } else {
            session.close().await;
        }
        self.set(now);
        matches!(before, State::Away(_))
    }

    fn lose(&mut self, reason: String) -> bool {
        self.session = None;
        self.set(State::Away(reason));
        false
    }

    /// Asks over the existing connection.
    async fn ask(&mut self) -> Option<Result<Writes, sqlx::Error>> {
        let session = self.session.as_mut()?;
        Some(
            timeout(ANSWER_TIMEOUT, session.writes())
                .await
                .unwrap_or(Err(sqlx::Error::PoolTimedOut)),
        )
    }

    /// Logs a change of the state. An unreachable database is logged by those who read it.
    fn set(&self, now: State) {
        let was = self.database.0.state.send_replace(now.clone());
        match (was, now) {
            (State::ReadOnly(_), State::ReadOnly(_)) => {}
            (_, State::ReadOnly(reason)) => {
                tracing::error!(
                    reason,
                    "the database takes no changes; logins and changes fail until it does, or another one is found"
                );
            }
            (State::ReadOnly(_), State::Usable) => {
                tracing::info!("the database takes changes again");
            }
            (_, State::Usable | State::Away(_)) => {}
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("database", &self.database).finish_non_exhaustive()
    }
}
