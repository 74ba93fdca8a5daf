//! What need not be worked out twice: the claims of a token whose signature was checked, and, on the embedded database,
//! who stands behind it.
//!
//! A signature is good for ever, so claims are kept by the digest of their token; times, issuer and key are judged anew
//! at each use. Rows are another matter: a lock must count from the moment at which it returns. On a database that
//! replicas share they are read each time. The embedded one is this process's own, and every commit to it moves
//! [`Store::generation`]: what was read is good while that has not moved since before the read. Whether a source is blocked
//! has a number of its own, which only failures move: each sign-in asks it twice, and commits.
//!
//! [`Store::generation`]: crate::store::Store::generation

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

/// Tokens that are remembered, of each kind. Some 2 KiB each, claims and rows together: 16 MiB when full. More tokens
/// than this at work on one server cost a read each.
const ENTRIES: usize = 8192;

/// How long rows are good for, whatever the generation says. Only this process may write to the embedded database;
/// should somebody do so with another program all the same, or take the file away, it is noticed after this time.
const ROWS_GOOD_FOR: Duration = Duration::from_secs(1);

/// A token whose signature, header and form were found good.
pub(super) struct Verified {
    /// The key that signed it.
    pub(super) key: String,
    pub(super) claims: Claims,
}

/// What is remembered.
pub(super) struct Recall {
    /// By the SHA-256 of the token: who reads this memory learns no token.
    pub(super) verified: Cache<[u8; 32], Arc<Verified>>,
    pub(super) sessions: Rows<SessionId, (Session, User)>,
    pub(super) api_tokens: Rows<ApiTokenId, (ApiToken, Digest32, User)>,
    /// Until when a source is blocked, if it is.
    pub(super) blocks: Rows<Source, Option<Timestamp>>,
    /// When it was last tried to note that an API token is used.
    pub(super) uses: Cache<ApiTokenId, Timestamp>,
}

impl Recall {
    pub(super) fn new() -> Recall {
        Recall {
            verified: Cache::new(ENTRIES),
            sessions: Rows::new(),
            api_tokens: Rows::new(),
            blocks: Rows::new(),
            uses: Cache::new(ENTRIES),
        }
    }
}

/// Rows as they were read, by key.
pub(super) struct Rows<K, V>(Cache<K, Read<V>>);

struct Read<V> {
    generation: u64,
    at: Instant,
    rows: Arc<V>,
}

impl<V> Clone for Read<V> {
    fn clone(&self) -> Read<V> {
        Read { generation: self.generation, at: self.at, rows: Arc::clone(&self.rows) }
    }
}

impl<K: Eq + Hash, V> Rows<K, V> {
    fn new() -> Rows<K, V> {
        Rows(Cache::new(ENTRIES))
    }

    /// What `read` finds, or has found in this generation, of which the caller has asked the store. What is not there is
    /// looked for each time.
    pub(super) async fn get(
        &self,
        generation: Option<u64>,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<Arc<V>>> {
        let Some(generation) = generation else { return Ok(read.await?.map(Arc::new)) };
        let good = |found: &Read<V>| found.generation == generation && found.at.elapsed() < ROWS_GOOD_FOR;
        if let Some(found) = self.0.get(&key).filter(good) {
            return Ok(Some(found.rows));
        }
        let at = Instant::now();
        let Some(rows) = read.await?.map(Arc::new) else { return Ok(None) };
        self.0.insert(key, Read { generation, at, rows: Arc::clone(&rows) });
        Ok(Some(rows))
    }
}
