//! Introspecting and revoking issued tokens.

use uuid::Uuid;

use super::{
    super::{
        ports::{Author, GrantName, GrantRecord, HeldGrant, RegistryError},
        registry::{PAGE, every},
    },
    IssueError, Issuer,
    claims::subject,
    in_time,
};
use crate::domain::{
    principal::{PrincipalId, Username},
    scope::Scopes,
    secret_token::SecretHash,
    time::UnixMillis,
    token::UntrustedAccessToken,
};

/// How a client identifies a token.
#[derive(Clone, Copy, Debug)]
pub enum TokenName<'a> {
    /// By the token itself.
    Token(&'a str),
    /// By its `jti`.
    Jti(&'a str),
}

/// Which of a grant's two tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The access token.
    Access,
    /// The refresh token.
    Refresh,
}

/// Data of a token that is valid now.
#[derive(Clone, Debug)]
pub struct Introspection {
    /// Access or refresh token.
    pub kind: TokenKind,
    /// Unique id of the token.
    pub jti: Uuid,
    /// The issuer (`iss`).
    pub issuer: Box<str>,
    /// Username of the owning principal.
    pub username: Username,
    /// The value of `sub`: a hash of the username.
    pub subject: String,
    /// The intended audience (`aud`).
    pub audience: Vec<String>,
    /// The scopes of the token.
    pub scopes: Scopes,
    /// The back end's session id (`sid`).
    pub sid: Option<String>,
    /// When the token was issued.
    pub issued_at: UnixMillis,
    /// When the token expires.
    pub expires_at: UnixMillis,
}

/// The result of revoking a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The token is revoked, with every token of its family.
    Done,
    /// There is no such token.
    NoSuchToken,
    /// The token belongs to another principal.
    AnotherPrincipal,
}

impl Issuer {
    /// Data of a token; `None` if it is not valid now or not ours. Anyone may ask about a token
    /// that they hold. By `jti`, an `asker` gets only its own tokens.
    pub async fn introspect(
        &self,
        name: TokenName<'_>,
        asker: Option<PrincipalId>,
    ) -> Result<Option<Introspection>, IssueError> {
        let now = self.ports.clock.now();
        let Some((kind, HeldGrant { grant, holder, .. })) = self.find(name).await? else {
            return Ok(None);
        };
        if matches!(name, TokenName::Jti(_)) && asker.is_some_and(|asker| asker != holder.id) {
            return Ok(None);
        }
        let (jti, expires_at) = match (kind, &grant.refresh) {
            (TokenKind::Access, _) => (grant.access_jti, grant.access_expires_at),
            (TokenKind::Refresh, Some(refresh)) if refresh.rotated_at.is_none() => {
                (refresh.jti, refresh.expires_at)
            }
            (TokenKind::Refresh, _) => return Ok(None),
        };
        if grant.revoked_at.is_some() || !holder.is_active || expires_at <= now {
            return Ok(None);
        }
        Ok(Some(Introspection {
            kind,
            jti,
            issuer: self.terms.issuer.clone(),
            subject: subject(holder.username.as_str()),
            username: holder.username,
            audience: grant.audience,
            scopes: grant.scopes,
            sid: grant.sid,
            issued_at: grant.issued_at,
            expires_at,
        }))
    }

    /// Revokes a token and every other token from the same login. If `only` is given, the token
    /// must belong to that principal.
    pub async fn revoke(
        &self,
        name: TokenName<'_>,
        only: Option<PrincipalId>,
        actor: &str,
    ) -> Result<Revoked, IssueError> {
        let Some((_, HeldGrant { grant, holder, .. })) = self.find(name).await? else {
            return Ok(Revoked::NoSuchToken);
        };
        if only.is_some_and(|only| only != holder.id) {
            return Ok(Revoked::AnotherPrincipal);
        }
        self.revoke_family(grant.family, actor).await?;
        Ok(Revoked::Done)
    }

    /// Revokes every token from one login.
    pub async fn revoke_family(&self, family: Uuid, actor: &str) -> Result<(), RegistryError> {
        let now = self.ports.clock.now();
        in_time(self.ports.grants.revoke_family(family, Author { actor, now })).await?;
        self.ports.hints.announce().await;
        Ok(())
    }

    /// All grants, of one principal or of all, including revoked ones.
    pub async fn grants(&self, of: Option<&Username>) -> Result<Vec<GrantRecord>, RegistryError> {
        every(|after| self.grants_page(of, after, PAGE), |grant: &GrantRecord| grant.id).await
    }

    /// Whether an API key is registered and not revoked.
    pub async fn is_api_key_registered(&self, key: &str) -> Result<bool, RegistryError> {
        let held = in_time(self.ports.grants.api_key_by_hash(&SecretHash::of(key))).await?;
        Ok(held.is_some_and(|held| held.key.revoked_at.is_none()))
    }

    /// The grant that a token belongs to, and which of its tokens it is. A text that we signed is
    /// an access token; anything else is a refresh token, even with dots: imported ones may look
    /// like JWTs.
    async fn find(
        &self,
        name: TokenName<'_>,
    ) -> Result<Option<(TokenKind, HeldGrant)>, RegistryError> {
        let grants = &self.ports.grants;
        match name {
            TokenName::Token(text) => {
                if let Some(jti) = self.jti_of_ours(text) {
                    let found = in_time(grants.find_grant(GrantName::Jti(jti))).await?;
                    return Ok(found
                        .filter(|held| held.grant.access_jti == jti)
                        .map(|held| (TokenKind::Access, held)));
                }
                let hash = SecretHash::of(text);
                let found = in_time(grants.find_grant(GrantName::Refresh(&hash))).await?;
                Ok(found.map(|held| (TokenKind::Refresh, held)))
            }
            TokenName::Jti(text) => {
                let Ok(jti) = Uuid::parse_str(text) else { return Ok(None) };
                let found = in_time(grants.find_grant(GrantName::Jti(jti))).await?;
                Ok(found.map(|held| {
                    let kind = if held.grant.access_jti == jti {
                        TokenKind::Access
                    } else {
                        TokenKind::Refresh
                    };
                    (kind, held)
                }))
            }
        }
    }

    fn jti_of_ours(&self, text: &str) -> Option<Uuid> {
        let token = UntrustedAccessToken::parse(text).ok()?;
        let keys = self.ports.keys.current();
        let verified = token.verify(&keys).ok()?;
        let claims = verified.claims();
        (claims.issuer == self.terms.issuer && claims.is_access_token).then_some(claims.jti)
    }
}
