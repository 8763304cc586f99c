//! The steps of a decision about an access token.

use super::{
    super::{
        Verifier,
        access::{check_lifetime, check_principal},
    },
    StepOutcome, Walk, explain_scopes, or_none,
};
use crate::domain::{
    auth_request::AuthRequest,
    decision::{DenialReason, Identity},
    time::UnixMillis,
    token::{ACCESS_TOKEN_LEEWAY, AccessClaims},
};

impl Verifier {
    pub(super) async fn walk_access_token(
        &self,
        auth_request: &AuthRequest<'_>,
        text: &str,
        now: UnixMillis,
        walk: &mut Walk,
    ) -> Option<Identity> {
        let expected = "a compact JWS of at most 8192 bytes with the claims of an access token of this service";
        let token = match Self::parse_access_token(text) {
            Ok(token) => token,
            Err((reason, fault)) => {
                walk.step("token", StepOutcome::Denied(reason), fault.to_string(), expected);
                return None;
            }
        };
        let claims = token.unverified_claims();
        let seen = format!(
            "alg {}, kid {}, jti {}",
            token.algorithm(),
            token.key_id().unwrap_or("none"),
            claims.jti
        );
        walk.step("token", StepOutcome::Passed, seen, expected);

        let expires_at = claims.expires_at.millis().to_rfc3339();
        let not_before =
            claims.not_before.map_or_else(|| "none".to_owned(), |at| at.millis().to_rfc3339());
        let expected = format!(
            "not before its nbf, before its exp, at {} give or take {ACCESS_TOKEN_LEEWAY:?}",
            now.to_rfc3339()
        );
        walk.checked(
            "time",
            check_lifetime(claims, now),
            format!("nbf {not_before}, exp {expires_at}"),
            expected,
        );
        self.explain_origin(claims, walk);

        let keys = self.ports.issuer_keys.current();
        let verified = match token.verify(&keys) {
            Ok(verified) => verified,
            Err(fault) => {
                let outcome = StepOutcome::Denied(fault.into());
                walk.step(
                    "key",
                    outcome,
                    fault.to_string(),
                    "a signature by one of this service's own keys",
                );
                walk.step("principal", StepOutcome::Skipped, "", "a verified token");
                walk.step("scopes", StepOutcome::Skipped, "", "a verified token");
                return None;
            }
        };
        let seen = format!("signed by {}", or_none(Some(&verified.key_id())));
        walk.step(
            "key",
            StepOutcome::Passed,
            seen,
            "a signature by one of this service's own keys",
        );

        let principal = self.explain_principal(&claims.username, now, walk).await?;
        let id = principal.id;
        let checked = check_principal(claims, Some(principal));
        let state = match &checked {
            Ok(_) => "not revoked".to_owned(),
            Err(DenialReason::Revoked) => format!("{} is revoked", claims.jti),
            Err(DenialReason::UnknownPrincipal) => {
                format!(
                    "issued to the principal {}, and the name is that of {id} now",
                    claims.principal
                )
            }
            Err(_) => "not looked at".to_owned(),
        };
        let outcome = checked.as_ref().map(|_| ()).map_err(|reason| *reason);
        walk.checked(
            "revocation",
            outcome,
            state,
            "a token that was issued to this principal and is not revoked",
        );
        let identity = Identity::by_access_token(checked.ok()?, verified.key_id(), &claims.scopes);
        explain_scopes(auth_request, &identity, walk);
        Some(identity)
    }

    fn explain_origin(&self, claims: &AccessClaims, walk: &mut Walk) {
        let kind = if claims.is_access_token { "an access token" } else { "no access token" };
        let aud = match &claims.audience {
            None => "no aud",
            Some(audience) if self.policy.audiences.iter().any(|ours| audience.names(ours)) => {
                "aud names this service"
            }
            Some(_) => "aud names others",
        };
        let audience = or_none(self.policy.audiences.first().map(|audience| &**audience));
        let expected = format!("iss {:?}, ttype T, aud {audience}", self.policy.issuer);
        walk.checked(
            "origin",
            self.check_origin(claims),
            format!("iss {:?}, {kind}, {aud}", claims.issuer),
            expected,
        );
    }
}
