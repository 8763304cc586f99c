//! Builds the token issuer from the settings.

use std::sync::Arc;

use super::{AppError, policy};
use crate::{
    config::Settings,
    doors::http::token_endpoint,
    engine::{
        issue::{Issuer, IssuerPorts, IssuerTerms},
        ports::{ChangeHints, GrantStore, RegistryStore, UsageLog},
        verify::{Policy, RequiredClaims, Verifier, VerifierPorts},
    },
    stores::sql::SqlRegistry,
    telemetry::{decisions::DecisionObserver, tokens::TokenObserver},
};

/// Builds the issuer on the same ports that the doors use for decisions.
pub(super) fn build(
    settings: &Settings,
    ports: &VerifierPorts,
    store: &Arc<SqlRegistry>,
    hints: Arc<dyn ChangeHints>,
    verifier: Arc<Verifier>,
    decisions: Arc<DecisionObserver>,
    observer: Arc<TokenObserver>,
) -> Result<Issuer, AppError> {
    let assertions = Verifier::new(assertion_policy(settings), ports.clone(), decisions)
        .map_err(AppError::Decoys)?;
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
        audience: Some(issuer.audience.clone())
            .filter(|audience| !audience.is_empty())
            .into_iter()
            .collect(),
        access_token_lifetime: issuer.access_token_lifetime,
        refresh_token_lifetime: issuer.refresh_token_lifetime,
        multiple_tokens: issuer.multiple_tokens,
        // Entries that do not parse were already rejected with the settings.
        profile_claims: issuer
            .profile_claims
            .iter()
            .filter_map(|claim| claim.parse().ok())
            .collect(),
    }
}

/// A client assertion names this issuer or its token endpoint as its audience (RFC 7523 section 3),
/// and is otherwise a self-signed token. It is sent in its own request, so no other claim is bound.
fn assertion_policy(settings: &Settings) -> Policy {
    let url = settings.issuer.url.as_str();
    let base = url.trim_end_matches('/');
    let endpoint = token_endpoint(url, &settings.server.url_prefix);
    let audiences = [url, base, &endpoint].map(Into::into).into();
    Policy {
        audiences,
        required_claims: RequiredClaims { audience: true, ..RequiredClaims::default() },
        ..policy(settings)
    }
}
