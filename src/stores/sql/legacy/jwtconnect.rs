//! `django-jwtconnect-auth`, a Django application: pairs of access and refresh tokens of a
//! project's users, stored in plain text.

use async_trait::async_trait;
use sea_orm::{
    Value,
    sea_query::{Expr, ExprTrait, Query, SelectStatement},
};

use super::{
    super::record::moment as utc,
    UserTable,
    django::{Users, origin},
    snapshot::{Snapshot, Table, moment, some_text, text},
};
use crate::{
    config::database::DatabaseUrl,
    domain::time::UnixMillis,
    engine::ports::{LegacyAccount, LegacyError, LegacyRefreshToken, LegacySource, LegacyTotals},
};

/// The columns read of a pair of tokens.
const COLUMNS: [&str; 5] = ["refresh_token", "issued_at", "refresh_expire_at", "audience", "sid"];

/// The database of a Django project with `django-jwtconnect-auth`.
#[derive(Debug)]
pub struct Jwtconnect {
    snapshot: Snapshot,
    users: Users,
    tokens: Table,
}

impl Jwtconnect {
    /// Opens the database. All users are imported: any of them may get tokens at the next login.
    pub async fn open(url: &DatabaseUrl, users: &UserTable) -> Result<Self, LegacyError> {
        let snapshot = Snapshot::open(url, "django-jwtconnect-auth").await?;
        let tokens = Table::new("jwtconnect_auth_jwtconnectauthtoken", "t");
        snapshot.require(&tokens, &["id", "user_id", "is_active"]).await?;
        snapshot.require(&tokens, &COLUMNS).await?;
        let users = Users::find(&snapshot, users).await?;
        Ok(Self { snapshot, users, tokens })
    }

    /// Whether a refresh token can still be used.
    fn is_alive(&self, now: UnixMillis) -> Expr {
        let until = self.tokens.column("refresh_expire_at");
        self.tokens.column("is_active").eq(true).and(until.gt(Value::from(utc(now))))
    }

    fn all_tokens(&self) -> SelectStatement {
        let mut query = Query::select();
        query.expr_as(self.tokens.column("id"), "id").from(self.tokens.reference());
        query
    }
}

#[async_trait]
impl LegacySource for Jwtconnect {
    async fn totals(&self, now: UnixMillis) -> Result<LegacyTotals, LegacyError> {
        let all = self.snapshot.count(self.all_tokens()).await?;
        let mut alive = self.all_tokens();
        alive.and_where(self.is_alive(now));
        Ok(LegacyTotals {
            accounts: self.snapshot.count(self.users.all()).await?,
            passed_over: all.saturating_sub(self.snapshot.count(alive).await?),
            passed_over_kind: "tokens that have expired or were revoked",
        })
    }

    async fn accounts(
        &self,
        after: Option<&str>,
        limit: u64,
        now: UnixMillis,
    ) -> Result<Vec<LegacyAccount>, LegacyError> {
        let mut page = self.users.page(&self.snapshot, None, after, limit).await?;
        let Some(mut query) = self.users.rows_of(&self.snapshot, &page, &self.tokens, &COLUMNS)
        else {
            return Ok(page.accounts);
        };
        query.and_where(self.is_alive(now));
        for row in self.snapshot.rows(&query).await? {
            let audience = text(&row, "audience").unwrap_or_default();
            let token = LegacyRefreshToken {
                origin: origin(&self.tokens, &row)?,
                text: some_text(&row, "refresh_token")?.into(),
                audience: audience.split_whitespace().map(str::to_owned).collect(),
                sid: text(&row, "sid"),
                issued_at: moment(&row, "issued_at"),
                expires_at: moment(&row, "refresh_expire_at"),
            };
            if let Some(account) = page.owner(&row)? {
                account.refresh_tokens.push(token);
            }
        }
        Ok(page.accounts)
    }
}
