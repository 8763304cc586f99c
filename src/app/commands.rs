//! What commands need from the service without serving.

use std::sync::Arc;

use super::{
    AppError, Nonces, Shared, SystemClock, admin_token, change_hints, issuing, policy,
    signing_keys, use_one_crypto_library,
};
use crate::{
    config::{ListenAddress, Settings, database::DatabaseSettings, server::TlsKeys},
    domain::auth_request::AuthRequest,
    doors::tls::ServerTls,
    engine::{
        issue::Issuer,
        ports::{
            Clock, IssuerKeySource, PrincipalSource, RegistryError, RegistryHealth, UsageStore,
        },
        registry::Registry,
        verify::{ExplainFrom, Explanation, Verifier, VerifierPorts},
    },
    roots::Roots,
    stores::{
        cache::CachedDirectory,
        jwks,
        nonce::redis::{ACL_RULES, FailureKind},
        notify,
        signing_keys::SigningKeyFolder,
        sql::{SqlRegistry, is_missing_file, look_at},
        usage::BatchedUsage,
    },
    telemetry::{decisions::DecisionObserver, tokens::TokenObserver},
};

/// The registry in the database of `settings`; audit events name `actor` for changes.
pub async fn registry(settings: &Settings, actor: &str) -> Result<Registry, AppError> {
    Ok(Shared::connect(settings).await?.registry(change_hints(settings)?, actor))
}

/// What to do with a folder of signing keys that has no key yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstKey {
    /// Create the first key, as the service would.
    Make,
    /// Leave the folder as it is: a command that only reads or revokes creates nothing.
    Leave,
}

/// The issuer of `settings`, for a command that issues, inspects or revokes tokens.
pub async fn issuer(settings: &Settings, first_key: FirstKey) -> Result<Issuer, AppError> {
    let shared = Shared::connect(settings).await?;
    let ports = ports(settings, &shared, first_key).await?;
    let observer = Arc::new(DecisionObserver::unseen());
    let verifier = Verifier::new(policy(settings), ports.clone(), Arc::clone(&observer))
        .map_err(AppError::Decoys)?;
    issuing::build(
        settings,
        &ports,
        &shared.store,
        change_hints(settings)?,
        Arc::new(verifier),
        observer,
        Arc::new(TokenObserver::unseen()),
    )
}

/// Runs a request through every step of a decision, as a service with these settings would decide
/// it now.
pub async fn explain(
    settings: &Settings,
    auth_request: &AuthRequest<'_>,
) -> Result<Explanation, AppError> {
    let shared = Shared::connect(settings).await?;
    let ports = ports(settings, &shared, FirstKey::Leave).await?;
    let observer = Arc::new(DecisionObserver::unseen());
    let verifier = Verifier::new(policy(settings), ports, observer).map_err(AppError::Decoys)?;
    Ok(verifier
        .explain(
            auth_request,
            ExplainFrom::Outside { nonces_are_shared: settings.nonce.url.is_redis() },
        )
        .await)
}

/// The ports of a verifier that is used for a single decision.
async fn ports(
    settings: &Settings,
    shared: &Shared,
    first_key: FirstKey,
) -> Result<VerifierPorts, AppError> {
    let Shared { clock, store, key_sets, .. } = shared;
    let keys = match first_key {
        FirstKey::Make => SigningKeyFolder::open(&settings.issuer, clock.now())?,
        FirstKey::Leave => SigningKeyFolder::look_at(&settings.issuer, clock.now())?,
    };
    let source = Arc::clone(store) as Arc<dyn PrincipalSource>;
    let (directory, _) =
        CachedDirectory::start(source, Arc::clone(key_sets), &settings.registry).await?;
    let nonces = Nonces::new(settings, clock)?;
    let (usage, _) = BatchedUsage::new(Arc::clone(store) as Arc<dyn UsageStore>);
    Ok(VerifierPorts {
        clock: Arc::clone(clock),
        directory: Arc::new(directory),
        key_sets: Arc::clone(key_sets),
        issuer_keys: keys as Arc<dyn IssuerKeySource>,
        nonces: nonces.port,
        usage,
    })
}

/// The result of connecting to a dependency.
#[derive(Debug)]
pub struct Check {
    /// The setting that names the dependency.
    pub key: &'static str,
    /// Whether the dependency can be used.
    pub result: Result<(), AppError>,
    /// What to change even if it can be used, or what would make it usable.
    pub advice: Vec<String>,
    /// Something noticed about the dependency that needs no action.
    pub note: Option<String>,
}

impl Check {
    const fn of(key: &'static str, result: Result<(), AppError>) -> Self {
        Self { key, result, advice: Vec::new(), note: None }
    }
}

/// Connects to every dependency that `settings` name, without changing anything, and returns the
/// result for each.
pub async fn check(settings: &Settings) -> Vec<Check> {
    use_one_crypto_library();
    vec![
        check_database(&settings.database).await,
        check_nonces(settings).await,
        Check::of("issuer", signing_keys::check(settings).map_err(Into::into)),
        check_key_sets(settings),
        Check::of("admin", admin_token(&settings.admin).map(drop)),
        Check::of(
            "server.tls",
            ServerTls::load(&settings.server.tls, TlsKeys::SERVER).map(drop).map_err(Into::into),
        ),
        Check::of(
            "admin.tls",
            ServerTls::load(&settings.admin.tls, TlsKeys::ADMIN).map(drop).map_err(Into::into),
        ),
        check_roots(),
    ]
}

fn check_key_sets(settings: &Settings) -> Check {
    match jwks::check(&settings.jwks) {
        Ok(note) => Check { note, ..Check::of("jwks", Ok(())) },
        Err(error) => Check::of("jwks", Err(error.into())),
    }
}

/// The certificate authorities that verify servers. A service without TLS connections needs none.
fn check_roots() -> Check {
    let (note, advice) = match Roots::load(None) {
        Ok(roots) => (Some(roots.to_string()), Vec::new()),
        Err(error) => (None, vec![error.to_string()]),
    };
    Check { advice, note, ..Check::of("outgoing TLS", Ok(())) }
}

async fn check_database(settings: &DatabaseSettings) -> Check {
    let mut note = None;
    let result = async {
        if is_missing_file(settings)? {
            return Err(RegistryError::NotMigrated("there is no such file".into()).into());
        }
        let database = look_at(settings).await?;
        if database.is_pooled() {
            note = Some(POOLED.to_owned());
        }
        SqlRegistry::new(database.clone()).newest_change().await?;
        database.check().map_err(|trouble| RegistryError::ReadOnly(trouble.into()).into())
    }
    .await;
    Check { note, ..Check::of("database.url", result) }
}

/// For information only: no setting needs to change.
const POOLED: &str = "there is a connection pooler, such as PgBouncer, before the database: no statement is prepared by name, and each \
                      query is a transaction";

async fn check_nonces(settings: &Settings) -> Check {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let nonces = match Nonces::new(settings, &clock) {
        Ok(nonces) => nonces,
        Err(error) => return Check::of("nonce.url", Err(error)),
    };
    let Some(redis) = nonces.redis else { return Check::of("nonce.url", Ok(())) };
    let result =
        async { Ok(redis.start().await.map(|()| nonces.port.check(clock.now()))?.await?) }.await;
    let mut advice = redis.advice().await;
    advice.extend(notify::check(redis.access()).await.err().map(|error| {
        format!(
            "replicas cannot tell each other of changes over Redis ({error}), so that these are in force only after \
             `registry.poll_interval`; a Redis user with these rules is enough: {ACL_RULES}"
        )
    }));
    let refused =
        redis.failures().any(|(kind, count)| kind == FailureKind::NoPermission && count > 0);
    if refused {
        advice.push(format!("a Redis user with these rules is enough: {ACL_RULES}"));
    }
    Check { advice, ..Check::of("nonce.url", result) }
}

/// The answers of both doors of a running service to one question, for `countersign demo`.
#[derive(Clone, Debug)]
pub struct DemoAnswers {
    /// What the HTTP door answered.
    pub http: String,
    /// What the gRPC door answered.
    pub grpc: String,
}

/// Presents each of two tokens at its door, as a gateway would.
pub async fn show(
    http: (&ListenAddress, &str),
    grpc: (&ListenAddress, &str),
) -> Result<DemoAnswers, Box<dyn std::error::Error + Send + Sync>> {
    let line = |answer: crate::doors::http::probe::Answer| {
        format!("{:<24} {}", answer.status, answer.says)
    };
    Ok(DemoAnswers {
        http: line(crate::doors::http::probe::ask(http.0, http.1).await?),
        grpc: line(crate::doors::grpc::probe::ask(grpc.0, grpc.1).await?),
    })
}
