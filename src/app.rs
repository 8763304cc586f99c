//! The only place that builds adapters and wires them together.

mod clock;
mod commands;
mod descriptors;
mod importing;
mod issuing;
mod migrating;
mod observability;
mod signing_keys;
#[cfg(test)]
mod world;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

pub use crate::telemetry::log::LogControl;
pub use clock::SystemClock;
pub use commands::{Check, DemoAnswers, FirstKey, check, explain, issuer, registry, show};
use futures_util::future::{FusedFuture as _, FutureExt as _};
pub use importing::{LegacySystem, LegacyUsers, import, legacy_source};
pub use migrating::{
    MigrationState, MigrationStep, migrate_down, migrate_up, migrate_up_telling, migration_status,
};
pub use signing_keys::{ListedKey, SigningKeyError, rotate_signing_key, signing_keys};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

use self::observability::Observability;
use crate::{
    config::{
        ListenAddress, Secret, Settings,
        admin::{AdminSettings, TOKEN_MIN},
        server::TlsKeys,
    },
    domain::{fence::Fence, key::KeyError, time::Tolerance},
    doors::{
        grpc::{GrpcDoor, GrpcError},
        http::{AdminDoor, BadHeaderName, HttpDoor, ResponseConfig, TokenDoor},
        listen::{
            Bound, Inherited, InheritedError, ListenError, Listener, Listening, Stage, Stages,
        },
        tls::{ServerTls, TlsError},
    },
    engine::{
        issue::Issuer,
        ports::{
            ChangeHints, Clock, FetchReports, IssuerKeySource, KeyDirectory, KeySetSource,
            NonceStore, PrincipalSource, RegistryError, RegistryStore, Unavailable, UsageStore,
        },
        readiness::Readiness,
        registry::Registry,
        verify::{Policy, RequiredClaims, Verifier, VerifierPorts},
    },
    stores::{
        cache::{CachedDirectory, Follower},
        jwks::{FetcherError, JwksCache, Refresher},
        nonce::{
            memory::MemoryNonceStore,
            redis::{BadRedis, RedisNonceStore},
        },
        notify::{HintListener, LocalHints, NoHints, RedisHints},
        redis::RedisAccess,
        signing_keys::SigningKeyFolder,
        sql::{ConnectError, Database, Keeper, SchemaError, SqlRegistry, connect},
        usage::{BatchedUsage, UsageWriter},
    },
    telemetry::{
        TelemetryError,
        connections::{ConnectionCounts, ListenerName},
        decisions::DecisionObserver,
        log::{LogError, LogGuard},
        tokens::TokenObserver,
    },
};

/// How long requests in flight may take to finish after the listeners have closed. Together with
/// the usual `server.drain` and closing the stores this stays under the 10 s after which
/// orchestrators kill the process.
const FINISH: Duration = Duration::from_secs(5);

/// How long connections that are cut may take to end.
const CUT: Duration = Duration::from_secs(1);

/// Why the service cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database cannot be reached.
    #[error(transparent)]
    Database(#[from] ConnectError),
    /// The migrations failed.
    #[error("the database could not be migrated")]
    Migration(#[source] SchemaError),
    /// The registry in the database cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The nonce store cannot be used.
    #[error(transparent)]
    NonceStore(#[from] BadRedis),
    /// The system provides no randomness.
    #[error("the system gave no random bytes")]
    NoRandomness,
    /// The decoy keys could not be made.
    #[error("the decoy keys could not be made")]
    Decoys(#[source] KeyError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The service cannot listen on an address.
    #[error(
        "cannot listen on {address} (`{key}`): {source}; stop the process that uses it, or choose another address"
    )]
    Listen {
        /// The setting with the address.
        key: &'static str,
        /// The address.
        address: ListenAddress,
        /// The cause.
        source: std::io::Error,
    },
    /// Sockets from the service manager cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// A header name in the settings cannot be used.
    #[error(transparent)]
    HeaderName(#[from] BadHeaderName),
    /// A listener failed while serving.
    #[error(transparent)]
    Serving(#[from] ListenError),
    /// The gRPC server failed while serving.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    /// Metrics or traces cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Key sets cannot be fetched.
    #[error(transparent)]
    KeySets(#[from] FetcherError),
    /// The admin token cannot be read, or is too short.
    #[error("`admin.token_file` {file:?} cannot be used: {source}")]
    AdminToken {
        /// The file named by `admin.token_file`.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// No usable key to sign access tokens with.
    #[error(transparent)]
    SigningKeys(#[from] SigningKeyError),
    /// A dependency is unreachable.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Starts logging to standard error, as `settings` specify. Logging ends when the returned guard is
/// dropped.
pub fn init_log(settings: &Settings) -> Result<LogGuard, LogError> {
    crate::telemetry::log::init(&settings.telemetry)
}

/// Sockets that are bound but do not accept connections yet: until this process can make decisions,
/// gateways should use other replicas.
#[derive(Debug)]
pub struct Listeners {
    /// Decisions over HTTP.
    pub http: Bound,
    /// Decisions over gRPC.
    pub grpc: Bound,
    /// Readiness, metrics and the admin API.
    pub admin: Bound,
}

/// The same sockets, accepting connections.
#[derive(Debug)]
pub struct OpenListeners {
    http: Listener,
    grpc: Listener,
    admin: Listener,
}

/// The setting with a listener's address.
const fn listen_key(listener: ListenerName) -> &'static str {
    match listener {
        ListenerName::Http => "server.http_listen",
        ListenerName::Grpc => "server.grpc_listen",
        ListenerName::Admin => "server.admin_listen",
    }
}

impl Listeners {
    /// Binds the addresses of the settings, except those of listeners whose sockets a service
    /// manager passes in. Call it once.
    pub fn bind(settings: &Settings) -> Result<Self, AppError> {
        let mut inherited = Inherited::take()?;
        let mut bind = |listener| {
            if let Some(socket) = inherited.socket(listener) {
                return Ok(socket);
            }
            let (address, mode) = match listener {
                ListenerName::Http => (&settings.server.http_listen, settings.server.socket_mode),
                ListenerName::Grpc => (&settings.server.grpc_listen, settings.server.socket_mode),
                ListenerName::Admin => (&settings.server.admin_listen, settings.admin.socket_mode),
            };
            Bound::bind(address, mode).map_err(|source| AppError::Listen {
                key: listen_key(listener),
                address: address.clone(),
                source,
            })
        };
        Ok(Self {
            http: bind(ListenerName::Http)?,
            grpc: bind(ListenerName::Grpc)?,
            admin: bind(ListenerName::Admin)?,
        })
    }

    /// Starts accepting connections. Call it on a runtime, once decisions can be made.
    pub fn open(self) -> Result<OpenListeners, AppError> {
        let open = |listener, bound: Bound| {
            let address =
                bound.address().unwrap_or_else(|_| ListenAddress::Tcp(([0, 0, 0, 0], 0).into()));
            bound.open().map_err(|source| AppError::Listen {
                key: listen_key(listener),
                address,
                source,
            })
        };
        Ok(OpenListeners {
            http: open(ListenerName::Http, self.http)?,
            grpc: open(ListenerName::Grpc, self.grpc)?,
            admin: open(ListenerName::Admin, self.admin)?,
        })
    }
}

impl OpenListeners {
    /// The address for decisions over HTTP.
    pub const fn http(&self) -> &ListenAddress {
        self.http.address()
    }

    /// The address for decisions over gRPC.
    pub const fn grpc(&self) -> &ListenAddress {
        self.grpc.address()
    }

    /// The address of the admin listener.
    pub const fn admin(&self) -> &ListenAddress {
        self.admin.address()
    }
}

/// The service, built but not yet serving.
#[derive(Debug)]
pub struct App {
    http: HttpDoor,
    grpc: GrpcDoor,
    admin: AdminDoor,
    background: Background,
    tls: Option<ServerTls>,
    admin_tls: Option<ServerTls>,
    readiness: Readiness,
    limits: Limits,
    observability: Observability,
}

/// How long the service continues after the signal to stop, and how many connections it serves.
#[derive(Clone, Copy, Debug)]
struct Limits {
    drain: Duration,
    max_connections: usize,
}

/// Tasks that run beside the decisions.
#[derive(Debug)]
struct Background {
    keeper: Keeper,
    follower: Follower,
    refresher: Refresher,
    listener: Option<HintListener>,
    usage_writer: UsageWriter,
    signing_keys: Arc<SigningKeyFolder>,
    issuer: Issuer,
    redis: Option<Arc<RedisNonceStore>>,
}

impl App {
    /// Connects the stores and builds the service. Migrates the database first if the settings say
    /// so.
    #[allow(clippy::too_many_lines, reason = "one part after the other, each needed by the next")]
    pub async fn build(settings: &Settings, log: LogControl) -> Result<Self, AppError> {
        let observability = Observability::start(&settings.telemetry)?;
        let shared = Shared::connect(settings).await?;
        let tls = ServerTls::load(&settings.server.tls, TlsKeys::SERVER)?;
        let admin_tls = ServerTls::load(&settings.admin.tls, TlsKeys::ADMIN)?;
        let Shared { clock, store, key_sets, .. } = &shared;
        let (directory, follower) = CachedDirectory::start(
            Arc::clone(store) as Arc<dyn PrincipalSource>,
            Arc::clone(key_sets),
            &settings.registry,
        )
        .await?;
        let known = Arc::clone(&directory);
        let directory: Arc<dyn KeyDirectory> = Arc::new(directory);
        let Nonces { port: nonces, redis } = Nonces::new(settings, clock)?;
        if let Some(redis) = &redis {
            redis.start().await?;
        }
        let (usage, usage_writer) = BatchedUsage::new(Arc::clone(store) as Arc<dyn UsageStore>);
        let listener = redis
            .as_ref()
            .map(|redis| HintListener::new(redis.access().clone(), Arc::clone(&directory)));
        let signing_keys = SigningKeyFolder::open(&settings.issuer, clock.now())?;
        let ports = VerifierPorts {
            clock: Arc::clone(clock),
            directory: Arc::clone(&directory),
            key_sets: Arc::clone(key_sets),
            issuer_keys: Arc::clone(&signing_keys) as Arc<dyn IssuerKeySource>,
            nonces: Arc::clone(&nonces),
            usage,
        };
        let observer = Arc::new(DecisionObserver::new(
            Arc::clone(log.decisions()),
            &observability.metrics,
            observability.traces.clone(),
        ));
        let verifier = Arc::new(
            Verifier::new(policy(settings), ports.clone(), Arc::clone(&observer))
                .map_err(AppError::Decoys)?,
        );
        let local_hints: Arc<dyn ChangeHints> =
            Arc::new(LocalHints::new(Arc::clone(&directory), change_hints(settings)?));
        let token_observer = Arc::new(TokenObserver::new(&observability.metrics));
        let issuer = issuing::build(
            settings,
            &ports,
            store,
            Arc::clone(&local_hints),
            Arc::clone(&verifier),
            observer,
            token_observer,
        )?;
        let readiness = Readiness::new(
            Arc::clone(clock),
            Arc::clone(&directory),
            nonces,
            Arc::new(shared.database.clone()),
        );
        observability.observe(&known, &shared.cached_sets, &readiness, redis.clone(), log.clone());
        let responses = Arc::new(responses(settings));
        let url_prefix: Arc<str> = settings.server.url_prefix.as_str().into();
        let admin_token = admin_token(&settings.admin)?;
        let tokens = TokenDoor {
            issuer: issuer.clone(),
            is_open: settings.server.token_api,
            admin_token: admin_token.clone(),
            signing_key_delay: settings.issuer.signing_key_delay,
            failures_per_peer: settings.issuer.failures_per_peer,
            failures_per_identifier: settings.issuer.failures_per_identifier,
        };
        Ok(Self {
            http: HttpDoor::new(
                Arc::clone(&verifier),
                tokens,
                Arc::clone(&responses),
                Arc::clone(&url_prefix),
                settings.server.max_in_flight as usize,
            )?,
            grpc: GrpcDoor {
                verifier: Arc::clone(&verifier),
                readiness: readiness.clone(),
                responses: Arc::clone(&responses),
                max_message: settings.server.grpc.max_message,
                max_in_flight: settings.server.max_in_flight as usize,
            },
            admin: AdminDoor {
                registry: shared.registry(local_hints, "admin-api"),
                issuer: issuer.clone(),
                verifier,
                metrics: observability.metrics.clone(),
                log,
                readiness: readiness.clone(),
                scheme: responses.scheme().into(),
                url_prefix,
                token: admin_token,
                allowed_hosts: settings.admin.allowed_hosts.clone(),
                failures_per_peer: settings.admin.failures_per_peer,
                open_key_registration: settings.admin.open_key_registration,
                api_key_lifetime: settings.issuer.api_key_lifetime,
            },
            background: Background {
                keeper: Keeper::new(shared.database, move || directory.look()),
                follower,
                refresher: shared.refresher,
                listener,
                usage_writer,
                signing_keys,
                issuer,
                redis,
            },
            tls,
            admin_tls,
            readiness,
            limits: Limits {
                drain: settings.server.drain,
                max_connections: settings.server.max_connections as usize,
            },
            observability,
        })
    }

    /// Serves until `shutdown` is ready, then stops in order, or at once when `hurry` is also
    /// ready.
    pub async fn serve(
        self,
        listeners: OpenListeners,
        shutdown: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), AppError> {
        let connections = descriptors::connections(self.limits.max_connections);
        let (stop, stopping) = watch::channel(false);
        let stopped = move || {
            let mut stopping = stopping.clone();
            // The sender outlives every receiver. If it did not, that would be a reason to stop.
            async move { drop(stopping.wait_for(|stop| *stop).await) }
        };
        let (drained, draining) = oneshot::channel::<()>();
        let usage = tokio::spawn(self.background.usage_writer.run(async { drop(draining.await) }));
        let mut background = JoinSet::new();
        background.spawn(self.background.keeper.run(stopped()));
        background.spawn(self.background.follower.run(stopped()));
        background.spawn(self.background.refresher.run(stopped()));
        background.spawn(self.background.signing_keys.watch(Arc::new(SystemClock), stopped()));
        background.spawn(self.background.issuer.clear_expired(stopped()));
        if let Some(redis) = self.background.redis {
            background.spawn(redis.watch(stopped()));
        }
        if let Some(listener) = self.background.listener {
            background.spawn(listener.run(stopped()));
        }
        let watched = [&self.tls, &self.admin_tls].into_iter().flatten().cloned();
        let watchers: Vec<_> = watched.map(|tls| tokio::spawn(tls.watch())).collect();
        let stages = Stages::default();
        let [http, grpc, admin] =
            ConnectionCounts::of_all(&self.observability.metrics).map(|counts| Listening {
                max_connections: connections,
                stages: stages.clone(),
                counts,
            });
        let mut http = self.http.serve(listeners.http, self.tls.as_ref(), http)?;
        let mut grpc = self.grpc.serve(listeners.grpc, self.tls.as_ref(), grpc)?;
        let mut admin = self.admin.serve(listeners.admin, self.admin_tls.as_ref(), admin)?;
        let mut all_ended = std::pin::pin!(
            async { tokio::try_join!(http.ended(), grpc.ended(), admin.ended()).map(|_| ()) }
                .fuse()
        );

        let mut ended = tokio::select! {
            () = shutdown => Ok(()),
            ended = &mut all_ended => ended,
        };
        if ended.is_ok() {
            tracing::info!(drain = ?self.limits.drain, "stopping: readiness says so, and new connections are still taken");
            self.readiness.drain();
            stages.enter(Stage::Draining);
            let closing = async {
                tokio::time::sleep(self.limits.drain).await;
                tracing::info!("stopping: finishing what is in flight");
                stages.enter(Stage::Closing);
                tokio::time::timeout(FINISH, &mut all_ended).await
            };
            ended = tokio::select! {
                ended = closing => ended.unwrap_or(Ok(())),
                () = hurry => Ok(()),
            };
        }
        stages.enter(Stage::Cut);
        if !all_ended.is_terminated() {
            // The connections that are cut carried decisions, which may have used keys.
            drop(tokio::time::timeout(CUT, &mut all_ended).await);
        }
        stop.send_replace(true);
        while background.join_next().await.is_some() {}
        // All decisions are made: write the key usage last.
        drop(drained);
        drop(usage.await);
        for watcher in watchers {
            watcher.abort();
        }
        self.observability.end().await;
        tracing::info!("stopped");
        ended.map_err(Into::into)
    }
}

/// What both the service and the commands need.
struct Shared {
    clock: Arc<dyn Clock>,
    database: Database,
    store: Arc<SqlRegistry>,
    key_sets: Arc<dyn KeySetSource>,
    cached_sets: Arc<JwksCache>,
    refresher: Refresher,
}

impl Shared {
    /// Connects the database. Migrates it first if the settings say so.
    async fn connect(settings: &Settings) -> Result<Self, AppError> {
        use_one_crypto_library();
        if settings.database.migrates_at_start() {
            Box::pin(migrate_up(&settings.database)).await?;
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let database = connect(&settings.database).await?;
        let store = Arc::new(SqlRegistry::new(database.clone()));
        let reports = Arc::clone(&store) as Arc<dyn FetchReports>;
        let (cached_sets, refresher) = JwksCache::new(&settings.jwks, Arc::clone(&clock), reports)?;
        Ok(Self {
            clock,
            database,
            store,
            key_sets: Arc::new(Arc::clone(&cached_sets)),
            cached_sets,
            refresher,
        })
    }

    fn registry(&self, hints: Arc<dyn ChangeHints>, actor: &str) -> Registry {
        let store = Arc::clone(&self.store) as Arc<dyn RegistryStore>;
        Registry::new(store, Arc::clone(&self.key_sets), hints, Arc::clone(&self.clock), actor)
    }
}

/// Notifies other processes of changes.
fn change_hints(settings: &Settings) -> Result<Arc<dyn ChangeHints>, AppError> {
    Ok(match RedisAccess::new(&settings.nonce).map_err(BadRedis::Tls)? {
        Some(access) => Arc::new(RedisHints::new(access)),
        None => Arc::new(NoHints),
    })
}

fn admin_token(settings: &AdminSettings) -> Result<Option<Secret>, AppError> {
    let Some(file) = &settings.token_file else { return Ok(settings.token.clone()) };
    let token = std::fs::read_to_string(file)
        .map_err(|source| AppError::AdminToken { file: file.clone(), source })?;
    let token = token.trim();
    if token.is_empty() {
        let source = std::io::Error::other("it is empty");
        return Err(AppError::AdminToken { file: file.clone(), source });
    }
    if token.chars().count() < TOKEN_MIN {
        let source = std::io::Error::other(format!("it holds fewer than {TOKEN_MIN} characters"));
        return Err(AppError::AdminToken { file: file.clone(), source });
    }
    Ok(Some(Secret::new(token)))
}

/// The nonce store as the port, and also as its own type if it is Redis, which has more functions.
struct Nonces {
    port: Arc<dyn NonceStore>,
    redis: Option<Arc<RedisNonceStore>>,
}

impl Nonces {
    fn new(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Self, AppError> {
        let tolerance = tolerance(settings);
        if let Some(store) = RedisNonceStore::new(&settings.nonce, tolerance, Arc::clone(clock)) {
            let store = store?;
            return Ok(Self {
                port: Arc::clone(&store) as Arc<dyn NonceStore>,
                redis: Some(store),
            });
        }
        let fence = Fence::since(clock.now(), tolerance);
        let store =
            MemoryNonceStore::new(settings.nonce.memory_entries, fence, settings.nonce.fence)
                .map_err(|_| AppError::NoRandomness)?;
        Ok(Self { port: Arc::new(store), redis: None })
    }
}

fn tolerance(settings: &Settings) -> Tolerance {
    Tolerance::new(settings.self_signed.tolerance).unwrap_or(Tolerance::DEFAULT)
}

fn policy(settings: &Settings) -> Policy {
    let required = |claim| settings.self_signed.requires(claim);
    let audience = settings.issuer.audience.as_str();
    Policy {
        scheme: settings.self_signed.scheme.as_str().into(),
        tolerance: tolerance(settings),
        audiences: (!audience.is_empty()).then(|| audience.into()).into_iter().collect(),
        issuer: settings.issuer.url.as_str().into(),
        authorities: settings.self_signed.parsed_authorities().collect(),
        required_claims: RequiredClaims {
            method: required("htm"),
            uri: required("htu"),
            audience: required("aud"),
            query: required("htq"),
            digest: required("digest"),
        },
    }
}

fn responses(settings: &Settings) -> ResponseConfig {
    let self_signed = &settings.self_signed;
    ResponseConfig::new(
        &self_signed.header,
        self_signed.attempt_header.as_deref(),
        &self_signed.scheme,
        &self_signed.realm,
    )
}

/// Makes all TLS use the library that also verifies tokens. Calling it twice has no further effect.
fn use_one_crypto_library() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
