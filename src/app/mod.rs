//! The use cases: one public function for each RPC. Transactions and authorisation are only here.
//!
//! A [`writer::Writer`] exists only for an authorised caller, and commits a change only together with its audit events. So a
//! change without authorisation or audit does not compile.

mod access;
mod audit;
mod breach_lists;
mod counted;
mod deliveries;
mod familiar;
mod horizons;
mod idempotency;
mod inactivity;
mod links;
mod lists;
mod maintenance;
mod outbox;
mod page_tokens;
mod passwords;
mod policy_impact;
mod proving;
mod reauthenticate;
mod reset_requests;
mod second_factor;
mod sessions;
mod sign_in;
mod sign_in_policy;
mod start;
mod throttle;
mod throttle_rules;
mod token_cache;
mod tokens;
mod turns;
mod users;
mod warnings;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::access::Authenticated;
pub use self::audit::{EventPage, ListEvents};
pub use self::breach_lists::BreachListInUse;
pub use self::deliveries::{
    CancelDelivery, DeliveryPage, ListDeliveries, MailQueue, ResendDelivery, SendEmailVerification, Sent,
};
pub use self::idempotency::Idempotency;
pub use self::links::LinkView;
pub use self::outbox::{DeliveryAttempt, MailSettings, MailTransport};
pub use self::passwords::{
    ChangePassword, CheckPasswordStrength, CompletePasswordChange, CompletePasswordReset, Handover, Judged,
    PasswordReset, RequirePasswordChange, ResetMethod, ResetPassword, WaivePasswordChange,
};
pub use self::policy_impact::{Expiries, Group, PolicyImpact};
pub use self::proving::NewPassword;
pub use self::reauthenticate::Reauthenticate;
pub use self::reset_requests::{RequestPasswordReset, ResetRequested};
pub use self::second_factor::{
    ConfirmTotp, DisableTotp, EnrollBy, EnrollTotp, RegenerateRecoveryCodes, ResetSecondFactor, SecondFactorVerified,
    TotpConfirmed, TotpEnrollment, VerifySecondFactor,
};
pub use self::sessions::{RefreshTokens, RevokeTarget, RevokeUserSessions, SessionPage, Tokens};
pub use self::sign_in::{Progress, SignIn};
pub use self::sign_in_policy::{InactivityChange, MaxAgeChange, UpdateSignInPolicy};
pub use self::start::{KeysReplaced, StartError, migrate, open_keys, replace_seal_key, revoke_signing_key};
pub use self::tokens::{ApiTokenPage, CreateApiToken, Identity, Introspection, RevokeApiToken, SigningKeys};
pub use self::users::{
    CreateUser, CreatedUser, DeleteUser, DiagnoseSignIn, FirstCredential, ListUsers, LockEnd, LockUser,
    SignInDiagnosis, UnlockUser, UpdateUser, UserPage,
};
use crate::breach_list::BreachLists;
use crate::crypto::{Hasher, KeyRing, SealKey};
use crate::domain::diagnosis::Readiness;
use crate::domain::horizon::Retention;
use crate::domain::lockout::ThrottleRules;
use crate::domain::password::PasswordRules;
use crate::domain::role::Role;
use crate::domain::session::SessionLimits;
use crate::domain::time::Timestamp;
use crate::domain::user::{Effects, User};
use crate::environment::Environment;
use crate::error::{Error, Outage, Result};
use crate::metrics::Metrics;
pub use crate::store::deliveries::{Leased as LeasedMessage, Room as OutboxRoom};
use crate::store::sources::SourceRules;
use crate::store::users::role_has_members;
use crate::store::{Condition, Store};

/// The settings for accounts and tokens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `iss` claim.
    pub issuer: String,
    /// The name that authenticators show.
    pub organisation: String,
    /// When wrong passwords throttle an account, where the policy does not say it.
    pub throttle: ThrottleRules,
    /// When failures block a source.
    pub sources: SourceRules,
    /// The number of throttle rows that unknown usernames share.
    pub unknown_names: u32,
    /// How long events are kept.
    pub retention: Retention,
    /// The rules for new passwords.
    pub password_rules: PasswordRules,
    /// How long a temporary password works by default.
    pub temporary_password_ttl: Duration,
    /// How long sessions live.
    pub sessions: SessionLimits,
    /// How long sessions of administrators live.
    pub admin_sessions: SessionLimits,
    /// The most sessions that a user can have at a time.
    pub max_sessions: u32,
    /// Sign-ins of one user in a minute; 0 is no limit.
    pub sign_ins_per_minute: u32,
    /// How long an access token works.
    pub access_ttl: Duration,
    /// Mail and links.
    pub mail: MailSettings,
}

impl Settings {
    /// Returns the limits of a user's sessions.
    fn session_limits(&self, user: &User) -> SessionLimits {
        if user.roles.contains(&Role::Admin) { self.admin_sessions } else { self.sessions }
    }
}

/// The service without network and configuration.
pub struct App {
    /// Time and randomness.
    pub environment: Environment,
    /// Every metric of the server.
    pub metrics: Arc<Metrics>,
    settings: Settings,
    throttle: throttle_rules::RulesInForce,
    /// The list of leaked passwords.
    breach_lists: Arc<BreachLists>,
    store: Store,
    gate: proving::Gate,
    list_queues: Arc<turns::Turns>,
    token_cache: token_cache::TokenCache,
    keys: KeyRing,
    seal: SealKey,
    work: TaskTracker,
    /// Told when a message was posted.
    posted: tokio::sync::Notify,
    /// Told when a stranger asked for a link.
    requested: tokio::sync::Notify,
    /// Cancelled when the keys in the database are no longer those of this process.
    keys_replaced: CancellationToken,
}

impl App {
    /// Puts the parts together. The schema must be up to date and the keys open: see [`migrate`] and [`open_keys`].
    pub fn new(
        environment: Environment,
        metrics: Arc<Metrics>,
        settings: Settings,
        store: Store,
        hasher: Hasher,
        opened: start::OpenedKeys,
    ) -> App {
        let start::OpenedKeys { keys, seal } = opened;
        App {
            environment,
            metrics,
            gate: proving::Gate::new(hasher, settings.sign_ins_per_minute),
            throttle: throttle_rules::RulesInForce::new(settings.throttle),
            settings,
            breach_lists: Arc::default(),
            store,
            list_queues: Arc::default(),
            token_cache: token_cache::TokenCache::new(),
            keys: KeyRing::new(keys),
            seal,
            work: TaskTracker::new(),
            posted: tokio::sync::Notify::new(),
            requested: tokio::sync::Notify::new(),
            keys_replaced: CancellationToken::new(),
        }
    }

    /// Runs work that changes something, and finishes it even if the client disconnects: a wrong password counts whether or
    /// not the client waits for the answer. Fails if the server is stopping.
    pub async fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.work.is_closed() {
            return Err(Error::Unavailable(Outage::ShuttingDown));
        }
        // The text of a panic is left out, since it may contain secrets. The panic hook has logged the location.
        let done = self.work.spawn(work.in_current_span()).await;
        done.map_err(|_| Error::internal("the work panicked"))?
    }

    /// Accepts no more work, and waits until all work has ended.
    pub async fn drain(&self) {
        self.close();
        self.work.wait().await;
    }

    /// Returns whether the server is ready for calls: at the last look the database answered and accepted changes, and the server
    /// is not stopping.
    pub fn ready(&self) -> bool {
        !self.work.is_closed() && self.store.condition() == Condition::Usable
    }

    /// Returns whether this server can sign anybody in.
    fn readiness(&self) -> Readiness {
        if self.store.condition() != Condition::Usable {
            Readiness::ReadOnly
        } else if self.has_room_to_hash() {
            Readiness::Ready
        } else {
            Readiness::Saturated
        }
    }

    /// Looks at what the database can do. Until the next look, calls that need more fail at once.
    pub async fn look_at_database(&self) -> Condition {
        self.store.look().await
    }

    /// Waits until an operator has replaced the keys in the database. This process must then stop.
    pub async fn keys_replaced(&self) {
        self.keys_replaced.cancelled().await;
    }

    /// Accepts no more work that changes something. Work under way goes on.
    pub fn close(&self) {
        self.work.close();
    }

    /// Returns whether there is an administrator.
    pub async fn has_administrator(&self) -> Result<bool> {
        role_has_members(self.store.reader(), Role::Admin).await
    }

    fn now(&self) -> Timestamp {
        self.environment.now()
    }

    /// When the last access token issued until now expires.
    fn last_access_end(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(self.settings.access_ttl)
    }

    /// Returns the effects of ending this many sessions.
    fn effects_of_ending(&self, sessions_revoked: u32, now: Timestamp) -> Effects {
        let last_token = (sessions_revoked > 0).then(|| self.last_access_end(now).as_micros());
        Effects { sessions_revoked, access_expires_at: last_token, ..Effects::default() }
    }
}
