//! The database of a test: a file, or a separate schema on PostgreSQL.

use std::path::{Path, PathBuf};

use latchkey::config::Database;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

/// Directory and database of one server, or of several replicas.
pub enum TestDatabase {
    File(PathBuf),
    Schema { url: String, name: String },
}

impl TestDatabase {
    pub async fn create(dir: &Path) -> TestDatabase {
        let Ok(url) = std::env::var("TEST_DATABASE_URL") else {
            return TestDatabase::File(dir.join("latchkey.db"));
        };
        let suffix = dir.file_name().expect("a name").to_string_lossy().replace(|c: char| !c.is_alphanumeric(), "");
        let name = format!("test_{}_{suffix}", std::process::id()).to_lowercase();
        connect(&url).await.execute_unprepared(&format!("CREATE SCHEMA {name}")).await.expect("a schema");
        TestDatabase::Schema { url, name }
    }

    /// Returns whether several servers can share the database.
    pub fn is_shared(&self) -> bool {
        matches!(self, TestDatabase::Schema { .. })
    }

    pub fn location(&self) -> Database {
        match self {
            TestDatabase::File(path) => Database::Sqlite { path: path.clone() },
            TestDatabase::Schema { .. } => Database::Postgres { url: self.url().into() },
        }
    }

    /// The URL for `--database-url`.
    pub fn url(&self) -> String {
        match self {
            TestDatabase::File(path) => format!("sqlite://{}", path.display()),
            TestDatabase::Schema { url, name } => {
                let separator = if url.contains('?') { '&' } else { '?' };
                format!("{url}{separator}options=-c%20search_path%3D{name}")
            }
        }
    }

    pub async fn connect(&self) -> DatabaseConnection {
        connect(&self.url()).await
    }

    pub async fn execute(&self, statement: &str) {
        let connection = self.connect().await;
        connection.execute_unprepared(statement).await.expect("a statement that works");
        connection.close().await.expect("an end");
    }

    /// Blocks all other connections from writing users.
    pub async fn hold(&self) -> Held {
        let connection = connect(&self.url()).await;
        let begin = match self {
            TestDatabase::File(_) => "BEGIN IMMEDIATE",
            TestDatabase::Schema { .. } => r#"BEGIN; LOCK TABLE "user" IN EXCLUSIVE MODE"#,
        };
        connection.execute_unprepared(begin).await.expect("a lock");
        Held(connection)
    }

    pub async fn query(&self, statement: &str) -> Vec<String> {
        let connection = self.connect().await;
        let backend: DbBackend = connection.get_database_backend();
        let rows = connection.query_all_raw(Statement::from_string(backend, statement)).await.expect("rows");
        connection.close().await.expect("an end");
        rows.iter()
            .map(|row| {
                row.try_get_by_index::<Option<String>>(0)
                    .map(Option::unwrap_or_default)
                    .or_else(|_| row.try_get_by_index::<i64>(0).map(|number| number.to_string()))
                    .expect("text or a number")
            })
            .collect()
    }
}

/// A transaction that holds a lock.
pub struct Held(DatabaseConnection);

impl Held {
    pub async fn release(self) {
        self.0.execute_unprepared("ROLLBACK").await.expect("the end of the transaction");
        self.0.close().await.expect("an end");
    }
}

async fn connect(url: &str) -> DatabaseConnection {
    let mut options = sea_orm::ConnectOptions::new(url.to_owned());
    options.max_connections(1).sqlx_logging(false);
    sea_orm::Database::connect(options).await.expect("a database")
}
