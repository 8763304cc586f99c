//! Looking at tokens that were given out, and revoking them.

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

/// How a client names a token.
#[derive(Clone, Copy, Debug)]
pub enum TokenName<'a> {
    /// By itself.
    Token(&'a str),
    /// By its `jti`.
    Jti(&'a str),
}

/// Which of the two tokens of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The access token.
    Access,
    /// The refresh token.
    Refresh,
}

/// What is told about a token that may be used now.
#[derive(Clone, Debug)]
pub struct Introspection {
    /// Which it is.
    pub kind: TokenKind,
    /// Its name.
    pub jti: Uuid,
    /// Who issued it.
    pub issuer: Box<str>,
    /// Whose it is.
    pub username: Username,
    /// The same without saying so, as its `sub` does.
    pub subject: String,
    /// Whom it is meant for.
    pub audience: Vec<String>,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The session at the back end.
    pub sid: Option<String>,
    /// When it was issued.
    pub issued_at: UnixMillis,
    /// Until when it may be used.
    pub expires_at: UnixMillis,
}

/// What came of revoking a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is revoked, with all that was given out with it.
    Done,
    /// There is no such token.
    NoSuchToken,
    /// It is another principal's.
    AnotherPrincipal,
}

impl Issuer {
    /// What is told about a token; `None` if it may not be used now, or is not ours. Anyone may ask
    /// about a token that they hold; if `asker` is given, by `jti` only about those of that
    /// principal.
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

    /// Revokes a token, and with it every token that goes back to the same login. Where `only` is
    /// given, it has to be that principal's.
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

    /// Revokes all that goes back to one login.
    pub async fn revoke_family(&self, family: Uuid, actor: &str) -> Result<(), RegistryError> {
        let now = self.ports.clock.now();
        in_time(self.ports.grants.revoke_family(family, Author { actor, now })).await?;
        self.ports.hints.announce().await;
        Ok(())
    }

    /// Every grant, of one principal or of all, revoked ones too.
    pub async fn grants(&self, of: Option<&Username>) -> Result<Vec<GrantRecord>, RegistryError> {
        every(|after| self.grants_page(of, after, PAGE), |grant: &GrantRecord| grant.id).await
    }

    /// Whether an API key is registered and not revoked.
    pub async fn is_api_key_registered(&self, key: &str) -> Result<bool, RegistryError> {
        let held = in_time(self.ports.grants.api_key_by_hash(&SecretHash::of(key))).await?;
        Ok(held.is_some_and(|held| held.key.revoked_at.is_none()))
    }

    /// The grant that a token belongs to, and which of its tokens it is. A text that we signed is
    /// an access token; any other is a refresh token, also one with dots: systems that were
    /// taken over from gave out such.
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
