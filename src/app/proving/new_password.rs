//! Judges and hashes new passwords: of a user who proved the current one, and those that an operator gives. Each operator
//! has a few turns.

use std::time::{Duration, Instant};

use super::Proof;
use crate::app::App;
use crate::crypto::{HashPermit, Priority};
use crate::domain::caller::Caller;
use crate::domain::credentials::{StoredPassword, UserWithCredentials};
use crate::domain::password::{AcceptedPassword, ContextWords, PasswordFault, PlainPassword, RuleBroken};
use crate::domain::password_hash::PasswordHash;
use crate::domain::temporary_password::TemporaryPassword;
use crate::domain::user::{Password, PasswordKind};
use crate::domain::violation::Violations;
use crate::error::{Error, Result};
use crate::store::old_passwords::old_passwords;

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

impl NewPassword {
    /// Returns whether the user may keep the password.
    pub(in crate::app) fn is_lasting(&self) -> bool {
        matches!(self, NewPassword::Chosen { change_required: false, .. })
    }
}

/// A [`NewPassword`] that the rules accept, not hashed yet.
struct GivenPassword {
    password: AcceptedPassword,
    /// The generated password, to be shown to the operator once.
    generated: Option<TemporaryPassword>,
    kind: PasswordKind,
    ttl: Option<Duration>,
}

impl App {
    /// Judges and hashes the new password of a user whose current one, `current`, was just proved. Fails if they are the same.
    pub(in crate::app) async fn hash_own(
        &self,
        proof: &Proof<'_>,
        current: Option<&PlainPassword>,
        new_password: std::result::Result<PlainPassword, PasswordFault>,
    ) -> Result<PasswordHash> {
        let words = self.words_of(&proof.account.user);
        let new_password = self.accept(proof.attempt.permit(), "new_password", new_password, words).await?;
        let (permit, typed) = (proof.attempt.permit(), new_password.as_plain());
        let is_current = current.is_some_and(|current| current.expose() == typed.expose());
        if is_current || self.was_used_before(permit, typed, proof.account).await? {
            return Err(reused("new_password"));
        }
        self.gate.hasher.hash(permit, new_password.into_plain()).await
    }

    /// Returns whether `password` is the one that was ended last, which someone else may know, or one of those that the policy
    /// asks to remember.
    pub(super) async fn was_used_before(
        &self,
        permit: &HashPermit,
        password: &PlainPassword,
        account: &UserWithCredentials,
    ) -> Result<bool> {
        let mut old: Vec<PasswordHash> = account.ended_password.iter().cloned().collect();
        if account.user.policy.password_history > 0 {
            let remembered = account.user.policy.password_history;
            old.extend(old_passwords(self.store.reader(), account.user.id, remembered).await?);
        }
        self.gate.hasher.matches_any(permit, password.copy(), &old).await
    }

    /// Judges and hashes a password that an operator gives, or generates one. Also for a dry run, which then costs as much and
    /// fails as the act would. `words` are those of the user. The time of a password begins when it is hashed, which may have
    /// waited for its turn.
    pub(in crate::app) async fn hash_given(
        &self,
        caller: &Caller,
        field: &str,
        given: NewPassword,
        words: ContextWords,
    ) -> Result<(StoredPassword, Option<TemporaryPassword>)> {
        let of_operator = format!("o:{}", caller.principal.id());
        let _turn = self.turn(of_operator, self.gate.share(), Instant::now()).await?;
        let permit = self.gate.hasher.admit(Priority::Operator)?;
        let GivenPassword { password, generated, kind, ttl } = self.given(&permit, field, given, words).await?;
        let hash = self.gate.hasher.hash(&permit, password.into_plain()).await?;
        let now = self.now();
        let expires_at = ttl.map(|ttl| now.saturating_add(ttl));
        let password = Password::new(hash.method(), kind, now, expires_at);
        Ok((StoredPassword { password, hash }, generated))
    }

    async fn given(
        &self,
        permit: &HashPermit,
        field: &str,
        given: NewPassword,
        words: ContextWords,
    ) -> Result<GivenPassword> {
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
                let password = self.accept(permit, field, Ok(password), words).await?;
                let (kind, ttl) = if change_required {
                    (PasswordKind::Chosen, Some(CHOSEN_PASSWORD_TTL))
                } else {
                    (PasswordKind::Lasting, None)
                };
                Ok(GivenPassword { password, generated: None, kind, ttl })
            }
        }
    }
}

pub(super) fn reused(field: &str) -> Error {
    let mut violations = Violations::new();
    violations.push_error(field, &RuleBroken::Reused);
    Error::PasswordRejected(violations)
}
