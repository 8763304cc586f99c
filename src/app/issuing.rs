//! Giving out tokens: what the settings say about them, and the issuer of the command line.

use std::sync::Arc;

use super::{AppError, Foundation, SystemClock, hints, nonce_store, policy};
use crate::{
    config::{Settings, telemetry::DecisionLog},
    doors::http::token_endpoint,
    engine::{
        issue::{Issuer, IssuerPorts, IssuerTerms},
        ports::{ChangeHints, Clock, GrantStore, IssuerKeySource, PrincipalSource, RegistryStore, UsageLog},
        verify::{Policy, RequiredClaims, Verifier, VerifierPorts},
    },
    stores::{cache::CachedDirectory, signing_keys::SigningKeyFolder, sql::SqlRegistry, usage::BatchedUsage},
    telemetry::{decisions::DecisionObserver, tokens::TokenObserver},
};

/// The issuer of `settings`, for a command that gives out, looks at or revokes a token.
pub async fn issuer(settings: &Settings) -> Result<Issuer, AppError> {
    let Foundation { clock, store, key_sets, .. } = Foundation::lay(settings).await?;
    let keys = SigningKeyFolder::open(&settings.issuer, SystemClock.now())?;
    let source = Arc::clone(&store) as Arc<dyn PrincipalSource>;
    let (directory, _) = CachedDirectory::start(source, Arc::clone(&key_sets), Arc::clone(&clock), &settings.registry).await?;
    let (usage, _) = BatchedUsage::new(Arc::clone(&store) as _);
    let verifiers = VerifierPorts {
        clock,
        directory: Arc::new(directory),
        key_sets,
        issuer_keys: Arc::clone(&keys) as Arc<dyn IssuerKeySource>,
        nonces: nonce_store(settings)?,
        usage,
    };
    let observer = Arc::new(DecisionObserver::new(DecisionLog::Off));
    let verifier = Arc::new(Verifier::new(policy(settings), verifiers.clone(), Arc::clone(&observer)).map_err(AppError::Decoys)?);
    build(settings, &verifiers, &store, hints(settings), verifier, observer, Arc::default())
}

/// Puts the issuer together on what the doors decide with.
pub(super) fn build(
    settings: &Settings,
    ports: &VerifierPorts,
    store: &Arc<SqlRegistry>,
    hints: Arc<dyn ChangeHints>,
    verifier: Arc<Verifier>,
    decisions: Arc<DecisionObserver>,
    observer: Arc<TokenObserver>,
) -> Result<Issuer, AppError> {
    let assertions = Verifier::new(assertion_policy(settings), ports.clone(), decisions).map_err(AppError::Decoys)?;
    let issuer_ports = IssuerPorts {
        clock: Arc::clone(&ports.clock),
        grants: Arc::clone(store) as Arc<dyn GrantStore>,
        registry: Arc::clone(store) as Arc<dyn RegistryStore>,
        keys: Arc::clone(&ports.issuer_keys),
        usage: Arc::clone(&ports.usage) as Arc<dyn UsageLog>,
        hints,
    };
    Ok(Issuer::new(terms(settings), issuer_ports, verifier, Arc::new(assertions), observer))
}

fn terms(settings: &Settings) -> IssuerTerms {
    let issuer = &settings.issuer;
    IssuerTerms {
        issuer: issuer.url.as_str().into(),
        audience: Some(issuer.audience.clone()).filter(|audience| !audience.is_empty()).into_iter().collect(),
        access_token_lifetime: issuer.access_token_lifetime,
        refresh_token_lifetime: issuer.refresh_token_lifetime,
        multiple_tokens: issuer.multiple_tokens,
        // Those that say nothing were refused with the settings.
        profile_claims: issuer.profile_claims.iter().filter_map(|claim| claim.parse().ok()).collect(),
    }
}

/// A client assertion names this issuer or its token endpoint as its audience (RFC 7523 section 3), and is otherwise a self-signed
/// token. It goes with a request of its own, so that nothing else is bound.
fn assertion_policy(settings: &Settings) -> Policy {
    let url = settings.issuer.url.as_str();
    let base = url.trim_end_matches('/');
    let endpoint = token_endpoint(url, &settings.server.url_prefix);
    let audiences = [url, base, &endpoint].map(Into::into).into();
    Policy { audiences, required_claims: RequiredClaims { audience: true, ..RequiredClaims::default() }, ..policy(settings) }
}
