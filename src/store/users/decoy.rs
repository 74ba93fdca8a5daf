//! The account that is read where there is none: a failed sign-in at an unknown name reads, transfers and decodes as much as one
//! at a known name, so that its duration does not tell them apart.

use sea_orm::sea_query::{Alias, Expr, ExprTrait, Query, SelectStatement, UnionType};
use sea_orm::{ColumnTrait, ColumnType, ConnectionTrait, IdenStatic, Iterable, QuerySelect, QueryTrait, Select};

use super::derived::{DERIVED, Derived};
use super::row::UserRow;
use crate::domain::credentials::UserWithCredentials;
use crate::domain::id::UserId;
use crate::error::{Resource, Result};
use crate::store::entity::user;
use crate::store::single::model;

/// As long as a hash with the default settings.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// The id of no account.
pub(super) fn decoy_id() -> UserId {
    UserId::from_bytes([0; 16])
}

/// Reads one account with its credentials, or the decoy, and returns `None` for the decoy. `found` selects the account, with
/// its derived columns; `same` selects it without locking it.
pub(super) async fn one_or_decoy(
    c: &impl ConnectionTrait,
    found: Select<user::Entity>,
    same: Select<user::Entity>,
) -> Result<Option<UserWithCredentials>> {
    let row = c.query_one(&or_decoy(found.into_query(), same)).await?;
    let row = row.map(|row| model::<UserRow>(Resource::User, &row, "")).transpose()?;
    let account = row.map(UserRow::decode_with_credentials).transpose()?;
    Ok(account.filter(|account| account.user.id != decoy_id()))
}

/// One statement, so that both take as many round trips.
fn or_decoy(found: SelectStatement, same: Select<user::Entity>) -> SelectStatement {
    let mut decoy = Query::select();
    for column in user::Column::iter() {
        decoy.expr(Expr::cust(literal(column)));
    }
    for Derived { kind, .. } in DERIVED {
        decoy.expr(Expr::cust(format!("CAST(NULL AS {kind})")));
    }
    decoy.and_where(Expr::exists(same.select_only().column(user::Column::Id).into_query()).not());
    let mut either = Query::select();
    for name in user::Column::iter().map(|column| column.as_str().to_owned()) {
        either.column(Alias::new(name));
    }
    for Derived { name, .. } in DERIVED {
        either.column(Alias::new(name));
    }
    either.from_subquery(found, Alias::new("found")).union(UnionType::All, decoy);
    either
}

/// The value of a column in the decoy, with its type: `PostgreSQL` takes the types of a union from all of its parts.
fn literal(column: user::Column) -> String {
    let definition = column.def();
    let (kind, zero) = match definition.get_column_type() {
        ColumnType::SmallInteger => ("SMALLINT", "1"),
        ColumnType::Integer => ("INTEGER", "1"),
        ColumnType::BigInteger => ("BIGINT", "1"),
        ColumnType::Boolean => return "FALSE".to_owned(),
        _ => ("TEXT", "''"),
    };
    let value = match column {
        user::Column::Id => format!("'{}'", decoy_id()),
        user::Column::Username => "'decoy.decoy'".to_owned(),
        user::Column::Email | user::Column::EmailKey => "'decoy.decoy@example.com'".to_owned(),
        user::Column::DisplayName => "'Nobody Nobody'".to_owned(),
        user::Column::Locale => "'en-GB'".to_owned(),
        user::Column::Labels => "'{}'".to_owned(),
        user::Column::PasswordHash => format!("'{HASH}'"),
        user::Column::PasswordChangedAt => "1".to_owned(),
        _ if definition.is_null() => "NULL".to_owned(),
        _ => zero.to_owned(),
    };
    format!("CAST({value} AS {kind})")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sea_orm::{DbBackend, DbErr, ExecResult, QueryResult, Statement};
    use sea_orm_migration::async_trait::async_trait;

    use super::super::{user_by_login, user_lock_row_or_decoy};
    use super::*;
    use crate::domain::login::Login;
    use crate::domain::username::Username;
    use crate::store::{Location, Store};

    /// A connection that counts the rows it reads.
    struct Counting<'a, C> {
        inner: &'a C,
        rows: AtomicUsize,
    }

    #[async_trait]
    impl<C: ConnectionTrait> ConnectionTrait for Counting<'_, C> {
        fn get_database_backend(&self) -> DbBackend {
            self.inner.get_database_backend()
        }

        async fn execute_raw(&self, statement: Statement) -> std::result::Result<ExecResult, DbErr> {
            self.inner.execute_raw(statement).await
        }

        async fn execute_unprepared(&self, sql: &str) -> std::result::Result<ExecResult, DbErr> {
            self.inner.execute_unprepared(sql).await
        }

        async fn query_one_raw(&self, statement: Statement) -> std::result::Result<Option<QueryResult>, DbErr> {
            let row = self.inner.query_one_raw(statement).await?;
            self.rows.fetch_add(usize::from(row.is_some()), Ordering::Relaxed);
            Ok(row)
        }

        async fn query_all_raw(&self, statement: Statement) -> std::result::Result<Vec<QueryResult>, DbErr> {
            let rows = self.inner.query_all_raw(statement).await?;
            self.rows.fetch_add(rows.len(), Ordering::Relaxed);
            Ok(rows)
        }
    }

    #[tokio::test]
    async fn a_failed_sign_in_reads_a_row_with_or_without_an_account()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        let ada = UserId::from_bytes([1; 16]);
        let columns =
            "id, kind, username, labels, roles, password_kind, change_demanded, version, created_at, updated_at";
        let insert =
            format!(r#"INSERT INTO "user" ({columns}) VALUES ('{ada}', 1, 'ada', '{{}}', '', 1, FALSE, 1, 1, 1)"#);
        store.autocommit()?.execute_unprepared(&insert).await?;
        for (name, id) in [("ada", Some(ada)), ("bob", None)] {
            let c = Counting { inner: store.reader(), rows: AtomicUsize::new(0) };
            let found = user_by_login(&c, &Login::Username(Username::parse(name)?)).await?;
            assert_eq!((found.is_some(), c.rows.load(Ordering::Relaxed)), (id.is_some(), 1), "{name}");
            let locked = user_lock_row_or_decoy(&c, id).await?;
            assert_eq!((locked.is_some(), c.rows.load(Ordering::Relaxed)), (id.is_some(), 2), "{name}");
        }
        Ok(())
    }

    #[test]
    fn the_decoy_has_a_value_of_its_type_for_every_column() {
        for column in user::Column::iter() {
            let literal = literal(column);
            assert!(literal == "FALSE" || literal.starts_with("CAST("), "{literal}");
        }
        assert_eq!(literal(user::Column::LockCause), "CAST(NULL AS SMALLINT)");
        assert_eq!(literal(user::Column::Version), "CAST(1 AS BIGINT)");
    }
}
