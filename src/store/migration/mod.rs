//! The schema, step by step. Append-only: a step that has been released is never changed.

mod m0001_first;

use sea_orm_migration::prelude::*;

pub(super) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_first::Migration)]
    }
}

/// Comes after every statement of a step.
async fn statement_done() -> Result<(), DbErr> {
    let done = async {
        failpoint!("migrate.statement");
        Ok(())
    };
    done.await.map_err(|error: crate::error::Error| DbErr::Custom(error.to_string()))
}

/// What the two databases call the same column type.
pub(super) struct Dialect {
    /// Text that is compared byte by byte. Without `COLLATE "C"`, PostgreSQL would order and range over keys by the
    /// rules of some language, and not as SQLite and the page tokens do.
    key: &'static str,
    /// Bytes.
    bytes: &'static str,
}

impl Dialect {
    fn of(backend: sea_orm::DbBackend) -> Dialect {
        match backend {
            sea_orm::DbBackend::Postgres => Dialect { key: "TEXT COLLATE \"C\"", bytes: "BYTEA" },
            _ => Dialect { key: "TEXT", bytes: "BLOB" },
        }
    }

    /// Fills `{key}` and `{bytes}` into a statement.
    fn render(&self, sql: &str) -> String {
        sql.replace("{key}", self.key).replace("{bytes}", self.bytes)
    }
}
