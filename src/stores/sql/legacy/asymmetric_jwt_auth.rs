//! `asymmetric_jwt_auth`, a Django application: public keys and trusted key sets of a project's
//! users.

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait};

use super::{
    UserTable,
    django::{Users, origin},
    snapshot::{Snapshot, Table, moment, some_text, text},
};
use crate::{
    config::database::DatabaseUrl,
    domain::time::UnixMillis,
    engine::ports::{
        LegacyAccount, LegacyError, LegacyKey, LegacySource, LegacyTotals, LegacyTrust,
    },
};

/// The database of a Django project with any version of `asymmetric_jwt_auth`.
#[derive(Debug)]
pub struct AsymmetricJwtAuth {
    snapshot: Snapshot,
    users: Users,
    keys: Table,
    /// Which of the later columns `comment` and `last_used_on` this version has.
    key_columns: Vec<&'static str>,
    /// `None` before version 1.0, which has no trusts.
    trusts: Option<Table>,
    trust_columns: Vec<&'static str>,
    takes_all_users: bool,
}

impl AsymmetricJwtAuth {
    /// Opens the database. Users without a key or a trust could not use the application: they are
    /// imported only if `takes_all_users` is set.
    pub async fn open(
        url: &DatabaseUrl,
        users: &UserTable,
        takes_all_users: bool,
    ) -> Result<Self, LegacyError> {
        let snapshot = Snapshot::open(url, "asymmetric_jwt_auth").await?;
        let (keys, trusts) = (
            Table::new("asymmetric_jwt_auth_publickey", "k"),
            Table::new("asymmetric_jwt_auth_jwksendpointtrust", "t"),
        );
        snapshot.require(&keys, &["user_id", "key"]).await?;
        let users = Users::find(&snapshot, users).await?;
        let mut key_columns = vec!["key"];
        for column in ["comment", "last_used_on"] {
            if snapshot.has(&keys, column).await? {
                key_columns.push(column);
            }
        }
        let has_trusts = snapshot.has(&trusts, "jwks_url").await?;
        let mut trust_columns = vec!["jwks_url"];
        if has_trusts && snapshot.has(&trusts, "last_used_on").await? {
            trust_columns.push("last_used_on");
        }
        Ok(Self {
            snapshot,
            users,
            keys,
            key_columns,
            trusts: has_trusts.then_some(trusts),
            trust_columns,
            takes_all_users,
        })
    }

    /// Whether a user has a key or a trust.
    fn has_credentials(&self) -> Expr {
        let has_key = self.users.has_row_of(&self.keys);
        match &self.trusts {
            Some(trusts) => has_key.or(self.users.has_row_of(trusts)),
            None => has_key,
        }
    }
}

#[async_trait]
impl LegacySource for AsymmetricJwtAuth {
    async fn totals(&self, _: UnixMillis) -> Result<LegacyTotals, LegacyError> {
        let all = self.snapshot.count(self.users.all()).await?;
        let accounts = if self.takes_all_users {
            all
        } else {
            let mut query = self.users.all();
            query.and_where(self.has_credentials());
            self.snapshot.count(query).await?
        };
        Ok(LegacyTotals {
            accounts,
            passed_over: all.saturating_sub(accounts),
            passed_over_kind: "users with neither a key nor a trust",
        })
    }

    async fn accounts(
        &self,
        after: Option<&str>,
        limit: u64,
        _: UnixMillis,
    ) -> Result<Vec<LegacyAccount>, LegacyError> {
        let condition = (!self.takes_all_users).then(|| self.has_credentials());
        let mut page = self.users.page(&self.snapshot, condition, after, limit).await?;
        let Some(query) = self.users.rows_of(&self.snapshot, &page, &self.keys, &self.key_columns)
        else {
            return Ok(page.accounts);
        };
        for row in self.snapshot.rows(&query).await? {
            let key = LegacyKey {
                origin: origin(&self.keys, &row)?,
                text: some_text(&row, "key")?,
                comment: text(&row, "comment"),
                last_used_on: moment(&row, "last_used_on"),
            };
            if let Some(account) = page.owner(&row)? {
                account.keys.push(key);
            }
        }
        let Some(trusts) = &self.trusts else { return Ok(page.accounts) };
        let Some(query) = self.users.rows_of(&self.snapshot, &page, trusts, &self.trust_columns)
        else {
            return Ok(page.accounts);
        };
        for row in self.snapshot.rows(&query).await? {
            let trust = LegacyTrust {
                origin: origin(trusts, &row)?,
                url: some_text(&row, "jwks_url")?,
                last_used_on: moment(&row, "last_used_on"),
            };
            if let Some(account) = page.owner(&row)? {
                account.trusts.push(trust);
            }
        }
        Ok(page.accounts)
    }
}
