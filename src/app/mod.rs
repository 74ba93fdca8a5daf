//! The use cases: one public function an RPC, and the only home of transactions and authorisation.
//!
//! A [`writer::Writer`] exists only for a caller whom a rule let in, and can commit only together with an audit event:
//! an unauthorised or unaudited change does not compile.

mod access;
mod audit;
mod hasher;
mod keys;
mod maintenance;
mod pages;
mod passwords;
mod recall;
mod seal;
pub mod seed;
mod sessions;
mod sign_in;
mod start;
mod throttle;
mod tokens;
mod turns;
mod users;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::access::Authenticated;
pub use self::audit::{EventPage, ListEvents};
pub use self::hasher::{Hasher, HasherSettings};
pub use self::keys::PublicKey;
pub use self::passwords::{
    ChangePassword, CompletePasswordChange, PasswordReset, RequirePasswordChange, ResetMethod, ResetPassword,
    WaivePasswordChange,
};
pub use self::seal::{SealError, SealKey};
pub use self::sessions::{RefreshTokens, RevokeTarget, RevokeUserSessions, SessionPage};
pub use self::sign_in::{Progress, SignIn, Tokens};
pub use self::start::{KeysReplaced, StartError, migrate, open_keys, replace_seal_key};
pub use self::tokens::{ApiTokenPage, CreateApiToken, Identity, Introspection, RevokeApiToken, SigningKeys};
pub use self::users::{
    CreateUser, CreatedUser, DeleteUser, Idempotency, ListUsers, LockEnd, LockUser, NewCredential, UnlockUser,
    UpdateUser, UserPage,
};
use crate::domain::lockout::ThrottleRules;
use crate::domain::password::PasswordRules;
use crate::domain::role::Role;
use crate::domain::session::SessionLimits;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects as UserEffects, StoredPassword, User};
use crate::effects::Effects;
use crate::error::{Error, Outage, Result};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::sources::SourceRules;
use crate::store::users::role_has_members;

/// What the configuration says about accounts and tokens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `iss` claim.
    pub issuer: String,
    /// When wrong passwords make an account wait.
    pub throttle: ThrottleRules,
    /// When failures block a source.
    pub sources: SourceRules,
    /// Rows that unknown names share.
    pub unknown_names: u32,
    /// What makes a password acceptable.
    pub password_rules: PasswordRules,
    /// How long a temporary password works when its maker does not say.
    pub temporary_password_ttl: Duration,
    /// How long sessions live.
    pub sessions: SessionLimits,
    /// How long those of administrators live.
    pub admin_sessions: SessionLimits,
    /// Sessions of one user at a time.
    pub max_sessions: u32,
    /// How long an access token works.
    pub access_ttl: Duration,
}

impl Settings {
    /// The limits of a user's sessions.
    fn session_limits(&self, user: &User) -> SessionLimits {
        if user.roles.contains(&Role::Admin) { self.admin_sessions } else { self.sessions }
    }
}

/// The service without its edges.
pub struct App {
    /// Time and randomness.
    pub effects: Effects,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    settings: Settings,
    store: Store,
    hasher: Hasher,
    turns: Arc<turns::Turns>,
    recall: recall::Recall,
    keys: keys::KeyRing,
    seal: SealKey,
    work: TaskTracker,
    /// Whether the database was well when it was last looked at.
    database_well: AtomicBool,
    /// Set when the keys of the database are no longer those of this process.
    keys_replaced: CancellationToken,
}

impl App {
    /// Puts the parts together. The schema is up to date and the keys are open: see [`migrate`] and [`open_keys`].
    pub fn new(
        effects: Effects,
        metrics: Arc<Metrics>,
        settings: Settings,
        store: Store,
        hasher: Hasher,
        opened: start::OpenedKeys,
    ) -> App {
        let start::OpenedKeys { keys, seal } = opened;
        let keys = keys::KeyRing::new(keys);
        let turns = Arc::new(turns::Turns::default());
        let (work, database_well) = (TaskTracker::new(), AtomicBool::new(true));
        let keys_replaced = CancellationToken::new();
        let recall = recall::Recall::new();
        App { effects, metrics, settings, store, hasher, turns, recall, keys, seal, work, database_well, keys_replaced }
    }

    /// Runs work that changes something to its end, even if the client hangs up half-way: a wrong password is counted
    /// whether or not anybody waits for the answer.
    pub async fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.work.is_closed() {
            return Err(Error::Unavailable(Outage::ShuttingDown));
        }
        // Without the text of a panic, which may hold anything; the hook has logged where it was.
        let done = self.work.spawn(work.in_current_span()).await;
        done.map_err(|_| Error::internal("the work panicked"))?
    }

    /// Waits for what is under way.
    pub async fn drain(&self) {
        self.close();
        self.work.wait().await;
    }

    /// Whether calls should be sent here: the database was well a moment ago, and the server is not on its way out.
    pub fn ready(&self) -> bool {
        !self.work.is_closed() && self.database_well.load(Ordering::Relaxed)
    }

    /// Looks whether the database can be worked with, which takes 3 s at most.
    pub async fn look_at_database(&self) -> bool {
        let well = self.store.check().await.is_ok();
        self.database_well.store(well, Ordering::Relaxed);
        well
    }

    /// Why the database cannot be worked with. An answer without an error: it can, from now on.
    pub async fn diagnose_database(&self) -> Result<()> {
        self.store.probe().await
    }

    /// Waits until an operator has replaced the keys of the database, which this process must not go on without.
    pub async fn keys_replaced(&self) {
        self.keys_replaced.cancelled().await;
    }

    /// Takes no more work that changes something. What is under way goes on.
    pub fn close(&self) {
        self.work.close();
    }

    /// Whether anybody is an administrator.
    pub async fn has_administrator(&self) -> Result<bool> {
        role_has_members(self.store.reader(), Role::Admin).await
    }

    /// Whether a hash is weaker than today's settings, and will be renewed at the next sign-in.
    pub fn is_rehash_pending(&self, password: &StoredPassword) -> bool {
        self.hasher.is_outdated(&password.hash)
    }

    /// What makes a password acceptable.
    pub fn password_rules(&self) -> PasswordRules {
        self.settings.password_rules
    }

    /// How many passwords wait to be hashed before more are refused.
    pub fn hashing_places(&self) -> usize {
        self.hasher.places()
    }

    /// Brings up to date what is measured only when it is asked for.
    pub fn report_queues(&self) {
        self.hasher.report_queues();
    }

    fn now(&self) -> Timestamp {
        self.effects.now()
    }

    /// Effects of ending this many sessions.
    fn effects_of_ending(&self, sessions_revoked: u32, now: Timestamp) -> UserEffects {
        let last_token = (sessions_revoked > 0).then(|| now.saturating_add(self.settings.access_ttl).as_micros());
        UserEffects { sessions_revoked, access_expires_at: last_token, ..UserEffects::default() }
    }
}
