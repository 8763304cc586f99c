//! The users of a Django project.

use std::collections::HashMap;

use sea_orm::{
    QueryResult,
    sea_query::{Expr, ExprTrait, JoinType, Order, Query, SelectStatement},
};

use super::snapshot::{Snapshot, Table, moment, some_text, text};
use crate::engine::ports::{LegacyAccount, LegacyError, LegacyPerson, Origin, Profile};

/// The user table of a Django project.
#[derive(Clone, Debug)]
pub struct UserTable {
    /// Name of the table, optionally with a schema; `auth_user` unless the project has a custom
    /// user model.
    pub name: String,
    /// Name of the primary key column.
    pub id_column: String,
}

/// Users, page by page in the order of their usernames: those are unique, whatever the primary key
/// is.
#[derive(Debug)]
pub(super) struct Users {
    table: Table,
    id_column: String,
    /// The optional columns that this user model has.
    optional: Vec<&'static str>,
}

/// Columns that a custom user model may lack.
const OPTIONAL: [&str; 5] = ["is_active", "first_name", "last_name", "email", "date_joined"];

/// A page of users, to which rows of other tables are attached.
pub(super) struct Page {
    pub(super) accounts: Vec<LegacyAccount>,
    places: HashMap<String, usize>,
}

impl Users {
    pub(super) async fn find(snapshot: &Snapshot, table: &UserTable) -> Result<Self, LegacyError> {
        let UserTable { name, id_column } = table;
        let table = Table::new(name, "u");
        snapshot.require(&table, &[id_column, "username"]).await?;
        let mut optional = Vec::new();
        for column in OPTIONAL {
            if snapshot.has(&table, column).await? {
                optional.push(column);
            }
        }
        Ok(Self { table, id_column: id_column.clone(), optional })
    }

    pub(super) fn id(&self) -> Expr {
        self.table.column(&self.id_column)
    }

    /// Selects all users, without any columns.
    pub(super) fn all(&self) -> SelectStatement {
        let mut query = Query::select();
        query.expr_as(self.id(), "user_id").from(self.table.reference());
        query
    }

    /// Up to `limit` users that match `condition`, starting after the username `after`.
    pub(super) async fn page(
        &self,
        snapshot: &Snapshot,
        condition: Option<Expr>,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Page, LegacyError> {
        let username = self.table.column("username");
        let mut query = Query::select();
        query
            .expr_as(snapshot.as_text(self.id()), "user_id")
            .expr_as(username.clone(), "username")
            .from(self.table.reference());
        for column in &self.optional {
            query.expr_as(self.table.column(column), *column);
        }
        if let Some(condition) = condition {
            query.and_where(condition);
        }
        if let Some(after) = after {
            query.and_where(username.clone().gt(after));
        }
        query.order_by_expr(username, Order::Asc).limit(limit);
        let mut page = Page { accounts: Vec::new(), places: HashMap::new() };
        for row in snapshot.rows(&query).await? {
            let account = self.account(&row)?;
            page.places.insert(account.origin.id.clone(), page.accounts.len());
            page.accounts.push(account);
        }
        Ok(page)
    }

    fn account(&self, row: &QueryResult) -> Result<LegacyAccount, LegacyError> {
        let is_active = if self.optional.contains(&"is_active") {
            row.try_get("", "is_active").map_err(|error| LegacyError::Failed(error.into()))?
        } else {
            true
        };
        let profile = Profile {
            given_name: text(row, "first_name"),
            family_name: text(row, "last_name"),
            email: text(row, "email"),
        };
        let username = some_text(row, "username")?;
        Ok(LegacyAccount {
            cursor: username.clone(),
            origin: Origin {
                table: self.table.name.as_str().into(),
                id: some_text(row, "user_id")?,
            },
            unverified_username: username,
            person: Some(LegacyPerson { is_active, profile }),
            created_at: moment(row, "date_joined"),
            keys: Vec::new(),
            trusts: Vec::new(),
            api_keys: Vec::new(),
            refresh_tokens: Vec::new(),
        })
    }

    /// The rows of `table` that belong to the users of a page, with `columns`, ordered by username
    /// and then by id. Each row has its id as text in `row_id`, and that of its user in `user_id`.
    /// `None` if the page is empty.
    pub(super) fn rows_of(
        &self,
        snapshot: &Snapshot,
        page: &Page,
        table: &Table,
        columns: &[&str],
    ) -> Option<SelectStatement> {
        let (first, last) = (page.accounts.first()?, page.accounts.last()?);
        let username = || self.table.column("username");
        let mut query = Query::select();
        query
            .expr_as(snapshot.as_text(table.column("id")), "row_id")
            .expr_as(snapshot.as_text(self.id()), "user_id")
            .from(table.reference())
            .join(
                JoinType::InnerJoin,
                self.table.reference(),
                table.column("user_id").eq(self.id()),
            )
            .and_where(username().gte(first.cursor.as_str()))
            .and_where(username().lte(last.cursor.as_str()))
            .order_by_expr(username(), Order::Asc)
            .order_by_expr(table.column("id"), Order::Asc);
        for column in columns {
            query.expr_as(table.column(column), (*column).to_owned());
        }
        Some(query)
    }

    /// Whether `table` has a row that belongs to the user.
    pub(super) fn has_row_of(&self, table: &Table) -> Expr {
        let mut query = Query::select();
        query
            .expr(Expr::val(1))
            .from(table.reference())
            .and_where(table.column("user_id").eq(self.id()));
        Expr::exists(query)
    }
}

impl Page {
    /// The account that owns a row of [`Users::rows_of`]. `None` if its user is not in the page:
    /// rows are selected by a range of usernames, which in the database's collation may include
    /// other users.
    pub(super) fn owner(
        &mut self,
        row: &QueryResult,
    ) -> Result<Option<&mut LegacyAccount>, LegacyError> {
        let id = some_text(row, "user_id")?;
        Ok(self.places.get(&id).and_then(|place| self.accounts.get_mut(*place)))
    }
}

/// The table and id of a row of [`Users::rows_of`].
pub(super) fn origin(table: &Table, row: &QueryResult) -> Result<Origin, LegacyError> {
    Ok(Origin { table: table.name.as_str().into(), id: some_text(row, "row_id")? })
}
