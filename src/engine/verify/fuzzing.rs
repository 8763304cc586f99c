//! The parts of the engine that fuzz targets need.

use super::{Credential, Policy, RequiredClaims, binding};
use crate::domain::{
    auth_request::{AuthRequest, OriginalRequest},
    decision::{AuthMethod, DenialReason},
    target::Authority,
    time::Tolerance,
    token::Claims,
};

/// The kind of the credential, as its scheme names it, and the text after the scheme.
pub fn credential<'a>(
    scheme: &str,
    auth_request: &AuthRequest<'a>,
) -> Result<(AuthMethod, &'a str), DenialReason> {
    let credential = Credential::of(auth_request, scheme)?;
    let (Credential::SelfSigned(text) | Credential::AccessToken(text)) = credential;
    Ok((credential.method(), text))
}

/// Whether a token with these claims is valid for this request, at a service with this audience and
/// these authorities.
pub fn check_binding(
    claims: &Claims,
    request: &OriginalRequest<'_>,
    audience: &str,
    authorities: &[&str],
) -> Result<(), DenialReason> {
    let policy = Policy {
        scheme: "JWT".into(),
        tolerance: Tolerance::DEFAULT,
        audiences: [audience.into()].into(),
        issuer: "".into(),
        authorities: authorities
            .iter()
            .filter_map(|text| Authority::parse(text))
            .map(Authority::into_owned)
            .collect(),
        required_claims: RequiredClaims::default(),
    };
    binding::check(claims, request, &policy)
}
