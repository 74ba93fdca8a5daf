//! The migrations. Append-only: a migration that has been released is never changed.

mod m0001_first;
mod m0002_ability_and_reservations;
mod m0003_ticket_tries;
mod m0004_familiar_places;
mod m0005_bounded_writing;
mod m0006_client_request_id;
mod m0007_events_by_kind;
mod m0008_ended_passwords;
mod m0009_links_and_deliveries;
mod m0010_reset_requests;
mod m0011_pending_links_and_failed_mail;
mod m0012_second_factors;
mod m0013_password_policy;
mod m0014_throttle_policy;
mod m0015_password_age;
mod m0016_inactivity;
mod m0017_existing_passwords;
mod m0018_relay_failures;
mod m0019_used_links;

use sea_orm_migration::prelude::*;

pub(super) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_first::Migration),
            Box::new(m0002_ability_and_reservations::Migration),
            Box::new(m0003_ticket_tries::Migration),
            Box::new(m0004_familiar_places::Migration),
            Box::new(m0005_bounded_writing::Migration),
            Box::new(m0006_client_request_id::Migration),
            Box::new(m0007_events_by_kind::Migration),
            Box::new(m0008_ended_passwords::Migration),
            Box::new(m0009_links_and_deliveries::Migration),
            Box::new(m0010_reset_requests::Migration),
            Box::new(m0011_pending_links_and_failed_mail::Migration),
            Box::new(m0012_second_factors::Migration),
            Box::new(m0013_password_policy::Migration),
            Box::new(m0014_throttle_policy::Migration),
            Box::new(m0015_password_age::Migration),
            Box::new(m0016_inactivity::Migration),
            Box::new(m0017_existing_passwords::Migration),
            Box::new(m0018_relay_failures::Migration),
            Box::new(m0019_used_links::Migration),
        ]
    }
}

/// Executes the statements of a migration, in the dialect of the database.
async fn execute(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    let dialect = Dialect::of(manager.get_database_backend());
    for statement in statements {
        manager.get_connection().execute_unprepared(&dialect.render(statement)).await?;
        statement_done().await?;
    }
    Ok(())
}

/// Runs after every statement of a migration.
async fn statement_done() -> Result<(), DbErr> {
    let done = async {
        failpoint!("migrate.statement");
        Ok(())
    };
    done.await.map_err(|error: crate::error::Error| DbErr::Custom(error.to_string()))
}

/// The names of the same column types in the two databases.
pub(super) struct Dialect {
    /// Text that is compared byte by byte. Without `COLLATE "C"`, PostgreSQL would order keys and evaluate ranges by the rules
    /// of a language, unlike SQLite and the page tokens.
    key: &'static str,
    /// Binary data.
    bytes: &'static str,
}

impl Dialect {
    fn of(backend: sea_orm::DbBackend) -> Dialect {
        match backend {
            sea_orm::DbBackend::Postgres => Dialect { key: "TEXT COLLATE \"C\"", bytes: "BYTEA" },
            _ => Dialect { key: "TEXT", bytes: "BLOB" },
        }
    }

    /// Replaces `{key}` and `{bytes}` in a statement.
    fn render(&self, sql: &str) -> String {
        sql.replace("{key}", self.key).replace("{bytes}", self.bytes)
    }
}
