//! `jwthenticator`: API keys, stored as SHA-512 hashes like here, and refresh tokens, stored in
//! plain text. It has no accounts: clients have an identifier, a UUID, which becomes the username
//! of the principal, as at `/register_key`.

use std::collections::HashMap;

use async_trait::async_trait;
use sea_orm::{
    Value,
    sea_query::{Expr, ExprTrait, JoinType, Order, Query, SelectStatement},
};
use uuid::Uuid;

use super::{
    super::record::moment as utc,
    django::origin,
    snapshot::{Snapshot, Table, moment, some_text, text},
};
use crate::{
    config::database::DatabaseUrl,
    domain::time::UnixMillis,
    engine::ports::{
        LegacyAccount, LegacyApiKey, LegacyError, LegacyRefreshToken, LegacySource, LegacyTotals,
    },
};

/// The database of a `jwthenticator` instance.
#[derive(Debug)]
pub struct Jwthenticator {
    snapshot: Snapshot,
    keys: Table,
    tokens: Table,
}

impl Jwthenticator {
    /// Opens the database.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, LegacyError> {
        let snapshot = Snapshot::open(url, "jwthenticator").await?;
        let (keys, tokens) = (Table::new("keys", "k"), Table::new("refresh_tokens", "t"));
        snapshot.require(&keys, &["id", "key_hash", "identifier", "created", "expires_at"]).await?;
        snapshot.require(&tokens, &["id", "token", "key_id", "created", "expires_at"]).await?;
        Ok(Self { snapshot, keys, tokens })
    }

    /// A UUID if the database has such a type, otherwise text without hyphens.
    fn identifier(&self) -> Expr {
        self.snapshot.as_text(self.keys.column("identifier"))
    }

    fn identifiers(&self) -> SelectStatement {
        let mut query = Query::select();
        query.distinct().expr_as(self.identifier(), "identifier").from(self.keys.reference());
        query
    }

    fn is_alive(&self, now: UnixMillis) -> Expr {
        self.tokens.column("expires_at").gt(Value::from(utc(now)))
    }

    fn all_tokens(&self) -> SelectStatement {
        let mut query = Query::select();
        query.expr_as(self.tokens.column("id"), "id").from(self.tokens.reference());
        query
    }

    async fn tokens_of(
        &self,
        first: &str,
        last: &str,
        now: UnixMillis,
    ) -> Result<HashMap<String, Vec<LegacyRefreshToken>>, LegacyError> {
        let mut query = Query::select();
        query
            .expr_as(self.snapshot.as_text(self.tokens.column("id")), "row_id")
            .expr_as(self.snapshot.as_text(self.tokens.column("key_id")), "key_id")
            .expr_as(self.tokens.column("token"), "token")
            .expr_as(self.tokens.column("created"), "created")
            .expr_as(self.tokens.column("expires_at"), "expires_at")
            .from(self.tokens.reference())
            .join(
                JoinType::InnerJoin,
                self.keys.reference(),
                self.tokens.column("key_id").eq(self.keys.column("id")),
            )
            .and_where(self.identifier().gte(first))
            .and_where(self.identifier().lte(last))
            .and_where(self.is_alive(now))
            .order_by_expr(self.tokens.column("id"), Order::Asc);
        let mut tokens: HashMap<String, Vec<LegacyRefreshToken>> = HashMap::new();
        for row in self.snapshot.rows(&query).await? {
            tokens.entry(some_text(&row, "key_id")?).or_default().push(LegacyRefreshToken {
                origin: origin(&self.tokens, &row)?,
                text: text(&row, "token").unwrap_or_default().into(),
                audience: Vec::new(),
                sid: None,
                issued_at: moment(&row, "created"),
                expires_at: moment(&row, "expires_at"),
            });
        }
        Ok(tokens)
    }
}

#[async_trait]
impl LegacySource for Jwthenticator {
    async fn totals(&self, now: UnixMillis) -> Result<LegacyTotals, LegacyError> {
        let mut alive = self.all_tokens();
        alive.and_where(self.is_alive(now));
        let all = self.snapshot.count(self.all_tokens()).await?;
        Ok(LegacyTotals {
            accounts: self.snapshot.count(self.identifiers()).await?,
            passed_over: all.saturating_sub(self.snapshot.count(alive).await?),
            passed_over_kind: "refresh tokens that have expired",
        })
    }

    async fn accounts(
        &self,
        after: Option<&str>,
        limit: u64,
        now: UnixMillis,
    ) -> Result<Vec<LegacyAccount>, LegacyError> {
        let mut query = self.identifiers();
        if let Some(after) = after {
            query.and_where(self.identifier().gt(after));
        }
        query.order_by_expr(self.identifier(), Order::Asc).limit(limit);
        let mut identifiers = Vec::new();
        for row in self.snapshot.rows(&query).await? {
            identifiers.push(some_text(&row, "identifier")?);
        }
        let (Some(first), Some(last)) = (identifiers.first(), identifiers.last()) else {
            return Ok(Vec::new());
        };
        let mut tokens = self.tokens_of(first, last, now).await?;
        let mut query = Query::select();
        query
            .expr_as(self.snapshot.as_text(self.keys.column("id")), "row_id")
            .expr_as(self.identifier(), "identifier")
            .expr_as(self.keys.column("key_hash"), "key_hash")
            .expr_as(self.keys.column("created"), "created")
            .expr_as(self.keys.column("expires_at"), "expires_at")
            .from(self.keys.reference())
            .and_where(self.identifier().gte(first.as_str()))
            .and_where(self.identifier().lte(last.as_str()))
            .order_by_expr(self.identifier(), Order::Asc)
            .order_by_expr(self.keys.column("id"), Order::Asc);
        let mut accounts: Vec<LegacyAccount> = Vec::new();
        for row in self.snapshot.rows(&query).await? {
            let origin = origin(&self.keys, &row)?;
            let identifier = some_text(&row, "identifier")?;
            let key = LegacyApiKey {
                refresh_tokens: tokens.remove(&origin.id).unwrap_or_default(),
                origin,
                key_hash: text(&row, "key_hash").unwrap_or_default(),
                identifier: identifier.clone(),
                expires_at: moment(&row, "expires_at"),
                created_at: moment(&row, "created"),
            };
            match accounts.last_mut().filter(|account| account.cursor == identifier) {
                Some(account) => account.api_keys.push(key),
                None => accounts.push(account(identifier, key)),
            }
        }
        Ok(accounts)
    }
}

fn account(identifier: String, key: LegacyApiKey) -> LegacyAccount {
    // In the form that the username of a principal gets at `/register_key`.
    let unverified_username =
        Uuid::parse_str(&identifier).map_or_else(|_| identifier.clone(), |uuid| uuid.to_string());
    LegacyAccount {
        origin: key.origin.clone(),
        cursor: identifier,
        unverified_username,
        person: None,
        created_at: key.created_at,
        keys: Vec::new(),
        trusts: Vec::new(),
        api_keys: vec![key],
        refresh_tokens: Vec::new(),
    }
}
