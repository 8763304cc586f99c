//! For commands: what they need of the service without serving.

use std::{net::SocketAddr, sync::Arc};

use super::{AppError, Foundation, admin_token, hints, issuing, nonce_store, policy, signing_keys, use_one_crypto_library};
use crate::{
    config::Settings,
    domain::presented::Presented,
    doors::tls::ServerTls,
    engine::{
        issue::Issuer,
        ports::{IssuerKeySource, PrincipalSource, UsageStore},
        registry::Registry,
        verify::{Explanation, Vantage, Verifier, VerifierPorts},
    },
    stores::{
        cache::CachedDirectory,
        jwks,
        signing_keys::SigningKeyFolder,
        sql::{SqlRegistry, connect},
        usage::BatchedUsage,
    },
    telemetry::{decisions::DecisionObserver, tokens::TokenObserver},
};

/// The registry on the database of `settings`, as `actor` of the command line changes it.
pub async fn registry(settings: &Settings, actor: &str) -> Result<Registry, AppError> {
    Ok(Foundation::lay(settings).await?.registry(hints(settings), actor))
}

/// What becomes of a folder of signing keys that has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstKey {
    /// It gets its first key, as it would from the service.
    Make,
    /// It stays as it is: whoever only looks, or takes back, makes nothing.
    Leave,
}

/// The issuer of `settings`, for a command that gives out, looks at or revokes a token.
pub async fn issuer(settings: &Settings, first_key: FirstKey) -> Result<Issuer, AppError> {
    let foundation = Foundation::lay(settings).await?;
    let ports = ports(settings, &foundation, first_key).await?;
    let observer = Arc::new(DecisionObserver::unseen());
    let verifier = Verifier::new(policy(settings), ports.clone(), Arc::clone(&observer)).map_err(AppError::Decoys)?;
    issuing::build(
        settings,
        &ports,
        &foundation.store,
        hints(settings),
        Arc::new(verifier),
        observer,
        Arc::new(TokenObserver::unseen()),
    )
}

/// Runs what is presented through every step of a decision, as a service with these settings would decide now.
pub async fn explain(settings: &Settings, presented: &Presented<'_>) -> Result<Explanation, AppError> {
    let foundation = Foundation::lay(settings).await?;
    let ports = ports(settings, &foundation, FirstKey::Leave).await?;
    let observer = Arc::new(DecisionObserver::unseen());
    let verifier = Verifier::new(policy(settings), ports, observer).map_err(AppError::Decoys)?;
    Ok(verifier.explain(presented, Vantage::Outside { nonces_are_shared: settings.nonce.url.is_redis() }).await)
}

/// What a verifier stands on that is asked once.
async fn ports(settings: &Settings, foundation: &Foundation, first_key: FirstKey) -> Result<VerifierPorts, AppError> {
    let Foundation { clock, store, key_sets, .. } = foundation;
    let keys = match first_key {
        FirstKey::Make => SigningKeyFolder::open(&settings.issuer, clock.now())?,
        FirstKey::Leave => SigningKeyFolder::look_at(&settings.issuer, clock.now())?,
    };
    let source = Arc::clone(store) as Arc<dyn PrincipalSource>;
    let (directory, _) = CachedDirectory::start(source, Arc::clone(key_sets), &settings.registry).await?;
    let (usage, _) = BatchedUsage::new(Arc::clone(store) as Arc<dyn UsageStore>);
    Ok(VerifierPorts {
        clock: Arc::clone(clock),
        directory: Arc::new(directory),
        key_sets: Arc::clone(key_sets),
        issuer_keys: keys as Arc<dyn IssuerKeySource>,
        nonces: nonce_store(settings)?,
        usage,
    })
}

/// Reaches every dependency that `settings` name, without changing anything, and says of each what came of it.
pub async fn check(settings: &Settings) -> Vec<(&'static str, Result<(), AppError>)> {
    use_one_crypto_library();
    let database = async {
        SqlRegistry::new(connect(&settings.database).await?).newest_change().await?;
        Ok(())
    };
    let nonces = async { Ok(nonce_store(settings)?.check().await?) };
    vec![
        ("database.url", database.await),
        ("nonce.url", nonces.await),
        ("issuer", signing_keys::check(settings).map_err(Into::into)),
        ("jwks", jwks::check(&settings.jwks).map_err(Into::into)),
        ("admin", admin_token(&settings.admin).map(drop)),
        ("server.tls", ServerTls::load(&settings.server.tls).map(drop).map_err(Into::into)),
    ]
}

/// One question put to both doors of a running service, for `countersign demo`.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What the HTTP door answered.
    pub http: String,
    /// What the gRPC door answered.
    pub grpc: String,
}

/// Presents each of two tokens at its door, as gateways would.
pub async fn show(http: (SocketAddr, &str), grpc: (SocketAddr, &str)) -> Result<Shown, Box<dyn std::error::Error + Send + Sync>> {
    let line = |answer: crate::doors::http::probe::Answer| format!("{:<24} {}", answer.status, answer.says);
    Ok(Shown {
        http: line(crate::doors::http::probe::ask(http.0, http.1).await?),
        grpc: line(crate::doors::grpc::probe::ask(grpc.0, grpc.1).await?),
    })
}
