//! A database full of made-up users, for the servers of the benchmark.

use std::path::{Path, PathBuf};

use latchkey::config::{Config, Database};
use latchkey::crypto::{HasherSettings, SealKey};
use latchkey::domain::user::UserRef;
use latchkey::domain::user_filter::{UserFilter, UserOrder};
use latchkey::domain::username::Username;
use latchkey::environment::Environment;
use latchkey::server;
use latchkey::store::Store;
use latchkey::store::users::{UserListing, user_by_ref, user_count};
use secrecy::SecretString;
use tempfile::TempDir;

use crate::seed::Seed;
use crate::{Outcome, tell};

/// The same users in every run.
const SEED: u64 = 1;

/// A filled database and the files beside it.
pub(crate) struct Filled {
    /// The number of users.
    pub(crate) users: u64,
    /// Generates the users.
    pub(crate) seed: Seed,
    config: Config,
    /// Temporary directory; removed at the end of the run.
    scratch: TempDir,
}

impl Filled {
    /// Opens the database, and creates the users if it is empty.
    pub(crate) async fn open(users: u64, data_dir: Option<&Path>, url: Option<SecretString>) -> Outcome<Filled> {
        let scratch = tempfile::tempdir()?;
        let mut config = Config::default_in(&data_dir.map_or_else(|| scratch.path().join("server"), Path::to_owned));
        if let Some(url) = url {
            config.database = Database::Postgres { url };
        }
        let (store, lock) = server::open_store(&config).await?;
        if matches!(config.database, Database::Postgres { .. }) && !config.seal_key_file.exists() {
            SealKey::create(&config.seal_key_file, &Environment::system()).map_err(|error| error.to_string())?;
        }
        let seed = fill(&store, &config, users).await?;
        store.close().await;
        drop(lock);
        Ok(Filled { users, seed, config, scratch })
    }

    /// The kind of database.
    pub(crate) fn kind(&self) -> &'static str {
        match self.config.database {
            Database::Sqlite { .. } => "embedded SQLite",
            Database::Postgres { .. } => "PostgreSQL",
        }
    }

    /// Whether the database is the embedded one.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.config.database, Database::Sqlite { .. })
    }

    /// The arguments of a server that is the only one on the database.
    pub(crate) fn place(&self) -> Place {
        self.place_in(self.config.data_dir.clone())
    }

    /// The arguments of a second server: on a copy of the embedded database, or on the same `PostgreSQL`.
    pub(crate) fn second_place(&self, name: &str) -> Outcome<Place> {
        let dir = self.scratch.path().join(name);
        std::fs::create_dir(&dir)?;
        if let Database::Sqlite { path } = &self.config.database {
            std::fs::copy(path, dir.join("latchkey.db"))?;
        }
        if self.config.seal_key_file.exists() {
            std::fs::copy(&self.config.seal_key_file, dir.join("seal.key"))?;
        }
        Ok(self.place_in(dir))
    }

    fn place_in(&self, data_dir: PathBuf) -> Place {
        let url = match &self.config.database {
            Database::Sqlite { .. } => None,
            Database::Postgres { url } => Some(url.clone()),
        };
        Place { data_dir, url }
    }
}

/// The arguments that tell a server where its database is.
pub(crate) struct Place {
    /// `--data-dir`
    pub(crate) data_dir: PathBuf,
    /// `--database-url`
    pub(crate) url: Option<SecretString>,
}

async fn fill(store: &Store, config: &Config, users: u64) -> Outcome<Seed> {
    store.migrate().await?.commit().await?;
    let environment = Environment::system();
    let argon2 = &config.argon2;
    let settings = HasherSettings {
        memory_kib: argon2.memory_kib,
        iterations: argon2.iterations,
        parallelism: argon2.parallelism,
        threads: Some(1),
    };
    let seed = Seed::prepare(users, SEED, settings, &environment).await?;
    let everybody = UserFilter::default();
    let listing = UserListing { filter: &everybody, order: UserOrder::Username, now: environment.now(), max_age: None };
    let has = async |n: u64| -> Outcome<bool> {
        let username = Username::parse(&seed.username(n)).map_err(|_| "a username that is not valid")?;
        Ok(user_by_ref(store.reader(), &UserRef::Username(username)).await?.is_some())
    };
    if user_count(store.reader(), &listing).await?.count == 0 {
        let began = std::time::Instant::now();
        seed.fill(store, |written| tell(&format!("\rfilling: {written} of {users} users"))).await?;
        tell(&format!(" in {:.1} s\n", began.elapsed().as_secs_f64()));
    } else if !has(users - 1).await? || has(users).await? {
        return Err(format!("the database has other users, or not {users} of them").into());
    }
    Ok(seed)
}
