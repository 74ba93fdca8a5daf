//! Verifying passwords and hashing new ones. No other file hashes or verifies.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::App;
use crate::crypto::Priority;
use crate::domain::credentials::{StoredPassword, UserWithCredentials};
use crate::domain::password::{AcceptedPassword, PasswordFault, PlainPassword, RuleBroken};
use crate::domain::password_hash::PasswordHash;
use crate::domain::temporary_password::{TemporaryPassword, canonical};
use crate::domain::time::Timestamp;
use crate::domain::user::{Password, PasswordKind};
use crate::domain::violation::Violations;
use crate::error::{Error, Result};

/// How long a password works that an operator chose and the user must change. Short, because the operator knows it; long
/// enough for a weekend.
const CHOSEN_PASSWORD_TTL: Duration = Duration::from_hours(72);

/// A new password that an operator gives a user.
#[derive(Debug)]
pub enum NewPassword {
    /// The server generates one.
    Temporary {
        /// How long the password works. `None` takes the configured time.
        ttl: Option<Duration>,
    },
    /// The operator chose one.
    Chosen {
        /// The chosen password.
        password: PlainPassword,
        /// Whether the next sign-in must change it. A lasting password needs the scope `users.reset.secrets`.
        change_required: bool,
    },
}

/// A [`NewPassword`] that the rules accept, not hashed yet.
pub(super) struct GivenPassword {
    password: AcceptedPassword,
    /// The generated password, to be shown to the operator once.
    generated: Option<TemporaryPassword>,
    kind: PasswordKind,
    ttl: Option<Duration>,
}

impl GivenPassword {
    /// Returns whether the user may keep the password.
    pub(super) fn is_lasting(&self) -> bool {
        self.kind == PasswordKind::Lasting
    }
}

impl App {
    /// Fails if the hashing queue is full. Called before anything is read for a sign-in.
    pub(super) fn check_room_to_hash(&self) -> Result<()> {
        self.hasher.check_room()
    }

    /// Takes a permit to hash. Called before anything is written for a sign-in. Fails if the hashing queue is full.
    pub(super) fn admit_to_hash(&self) -> Result<OwnedSemaphorePermit> {
        self.hasher.admit()
    }

    /// Checks a password that an operator gives against the rules, or generates one. Called before anything is read or
    /// hashed.
    pub(super) fn accept_given(&self, field: &str, given: NewPassword) -> Result<GivenPassword> {
        match given {
            NewPassword::Temporary { ttl } => {
                let generated =
                    TemporaryPassword::generate(&mut |bytes: &mut [u8]| self.environment.entropy.fill(bytes));
                Ok(GivenPassword {
                    password: generated.to_accepted(),
                    generated: Some(generated),
                    kind: PasswordKind::Generated,
                    ttl: Some(ttl.unwrap_or(self.settings.temporary_password_ttl)),
                })
            }
            NewPassword::Chosen { password, change_required } => {
                let password = self.accept(field, Ok(password))?;
                let (kind, ttl) = if change_required {
                    (PasswordKind::Chosen, Some(CHOSEN_PASSWORD_TTL))
                } else {
                    (PasswordKind::Lasting, None)
                };
                Ok(GivenPassword { password, generated: None, kind, ttl })
            }
        }
    }

    /// Hashes a password that an operator gives. A dry run hashes nothing: its result is never stored or shown.
    pub(super) async fn hash_given(
        &self,
        given: GivenPassword,
        is_dry_run: bool,
        now: Timestamp,
    ) -> Result<(StoredPassword, Option<TemporaryPassword>)> {
        let GivenPassword { password, generated, kind, ttl } = given;
        let (hash, generated) = if is_dry_run {
            (self.hasher.dummy(), None)
        } else {
            (self.hash(Priority::Operator, password).await?, generated)
        };
        let expires_at = ttl.map(|ttl| now.saturating_add(ttl));
        let password = Password { method: hash.method(), kind, changed_at: now, expires_at };
        Ok((StoredPassword { password, hash }, generated))
    }

    /// Checks a new password against the rules. The error names every rule that it breaks.
    pub(super) fn accept(&self, field: &str, parsed: Result<PlainPassword, PasswordFault>) -> Result<AcceptedPassword> {
        let mut violations = Violations::new();
        match parsed.map(|password| self.settings.password_rules.accept(password)) {
            Ok(Ok(accepted)) => return Ok(accepted),
            Ok(Err(broken)) => broken.iter().for_each(|broken| violations.push_error(field, broken)),
            Err(PasswordFault::NotText) => violations.push_error(field, &RuleBroken::NotText),
            Err(fault) => {
                violations.push_error(field, &fault);
                return Err(Error::InvalidInput(violations));
            }
        }
        Err(Error::PasswordRejected(violations))
    }

    /// Hashes a new password.
    pub(super) async fn hash(&self, priority: Priority, password: AcceptedPassword) -> Result<PasswordHash> {
        self.hasher.hash(priority, password.into_plain()).await
    }

    /// Hashes a password, which was just verified, under today's settings. Returns `None` if the stored hash is not weaker.
    pub(super) async fn rehash(
        &self,
        account: &UserWithCredentials,
        password: Option<&PlainPassword>,
    ) -> Result<Option<PasswordHash>> {
        let (Some(stored), Some(typed)) = (&account.user.password, password) else { return Ok(None) };
        if !self.is_rehash_pending(stored) {
            return Ok(None);
        }
        self.hasher.hash(Priority::SignIn, as_stored(stored, typed)).await.map(Some)
    }

    /// Returns whether `password` is the account's. Always computes one hash, so that the duration does
    /// not show whether the account exists.
    pub(super) async fn prove(
        &self,
        priority: Priority,
        password: Option<&PlainPassword>,
        account: Option<&UserWithCredentials>,
    ) -> Result<bool> {
        let Some(typed) = password else {
            // What was typed cannot be a password. Hash a dummy, which is always wrong.
            return self.hasher.verify(priority, PlainPassword::decoy(), None).await;
        };
        let hash = account.and_then(|account| account.credentials.password.as_ref());
        let typed = match account.and_then(|account| account.user.password.as_ref()) {
            Some(stored) => as_stored(stored, typed),
            None => typed.copy(),
        };
        self.hasher.verify(priority, typed, hash).await
    }
}

/// Returns a typed password in the form that was hashed: a generated password is compared without hyphens and case.
fn as_stored(stored: &Password, typed: &PlainPassword) -> PlainPassword {
    let canonical = (stored.kind == PasswordKind::Generated).then(|| canonical(typed)).flatten();
    canonical.unwrap_or_else(|| typed.copy())
}
