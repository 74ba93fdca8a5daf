//! A cache of verified tokens: the claims of a token whose signature was checked and, on the embedded database, the session
//! and the user behind it.
//!
//! A signature stays valid, so claims are cached by the digest of their token. Times, issuer and key are checked at each use.
//!
//! Rows are different: a lock must take effect for every call that begins after it was answered. On a database that replicas
//! share, rows are read each time. The embedded database belongs to this process, and each of its commits advances
//! [`Store::commits`]: rows are up to date as long as that number has not changed since before they were read.
//!
//! The blocks of sources are valid as long as [`Store::failure_commits`] has not changed, which only failures advance. Each
//! sign-in reads them twice and then commits, so with [`Store::commits`] they would rarely be valid.
//!
//! [`Store::commits`]: crate::store::Store::commits
//! [`Store::failure_commits`]: crate::store::Store::failure_commits

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::domain::api_token::ApiToken;
use crate::domain::caller::Source;
use crate::domain::id::{ApiTokenId, SessionId};
use crate::domain::secret::Digest32;
use crate::domain::session::Session;
use crate::domain::time::Timestamp;
use crate::domain::token::Claims;
use crate::domain::user::User;
use crate::error::Result;

/// The entries of each kind. Claims and rows of a token take some 2 KiB, so a full cache takes 16 MiB. Each active token
/// beyond these costs a read.
const ENTRIES: usize = 8192;

/// How long rows are valid at most. Only this process may write to the embedded database. If another program writes to it, or
/// moves the file away, rows are wrong for no longer than this.
const ROWS_VALID_FOR: Duration = Duration::from_secs(1);

/// A token whose signature, header and form are valid.
pub(super) struct Verified {
    /// The key that signed it.
    pub(super) key: String,
    pub(super) claims: Claims,
}

/// The cache.
pub(super) struct TokenCache {
    /// Claims by the SHA-256 of their token, so that the cache holds no token.
    pub(super) verified: Cache<[u8; 32], Arc<Verified>>,
    pub(super) sessions: Rows<SessionId, (Session, User)>,
    pub(super) api_tokens: Rows<ApiTokenId, (ApiToken, Digest32, User)>,
    /// When the block of a source ends, if it is blocked.
    pub(super) blocks: Rows<Source, Option<Timestamp>>,
    /// When the last attempt was made to note the use of an API token.
    pub(super) uses: Cache<ApiTokenId, Timestamp>,
}

impl TokenCache {
    pub(super) fn new() -> TokenCache {
        TokenCache {
            verified: Cache::new(ENTRIES),
            sessions: Rows::new(),
            api_tokens: Rows::new(),
            blocks: Rows::new(),
            uses: Cache::new(ENTRIES),
        }
    }
}

/// Cached rows by key.
pub(super) struct Rows<K, V>(Cache<K, Read<V>>);

struct Read<V> {
    commits: u64,
    at: Instant,
    rows: Arc<V>,
}

impl<V> Clone for Read<V> {
    fn clone(&self) -> Read<V> {
        Read { commits: self.commits, at: self.at, rows: Arc::clone(&self.rows) }
    }
}

impl<K: Eq + Hash, V> Rows<K, V> {
    fn new() -> Rows<K, V> {
        Rows(Cache::new(ENTRIES))
    }

    /// Returns the cached rows if they were read at the same number of `commits`, and else what `read` finds. The caller asks
    /// the store for that number before it reads; `None` turns the cache off. A missing row is not cached.
    pub(super) async fn get(
        &self,
        commits: Option<u64>,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<Arc<V>>> {
        let Some(commits) = commits else { return Ok(read.await?.map(Arc::new)) };
        let good = |found: &Read<V>| found.commits == commits && found.at.elapsed() < ROWS_VALID_FOR;
        if let Some(found) = self.0.get(&key).filter(good) {
            return Ok(Some(found.rows));
        }
        let at = Instant::now();
        let Some(rows) = read.await?.map(Arc::new) else { return Ok(None) };
        self.0.insert(key, Read { commits, at, rows: Arc::clone(&rows) });
        Ok(Some(rows))
    }
}
