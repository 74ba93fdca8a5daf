//! Proving password and second factor again in a session, for calls that need a recent sign-in.

use super::App;
use super::proving::{Claim, Proof};
use super::second_factor::{Checked, Coded};
use super::sessions::{Tokens, own_session, signed_in_event};
use crate::domain::caller::Caller;
use crate::domain::id::SessionId;
use crate::domain::password::PlainPassword;
use crate::domain::second_factor::SecondFactorCode;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::sessions::{session_lock_row, session_reauthenticate};
use crate::store::users::user_with_credentials;

/// A command to prove the caller's identity again.
#[derive(Debug)]
pub struct Reauthenticate {
    /// The current password. `None` if what was sent cannot be a password, and is therefore wrong.
    pub password: Option<PlainPassword>,
    /// A code of the second factor.
    pub code: Option<SecondFactorCode>,
}

impl App {
    /// Verifies the caller's password and second factor, and makes the session's sign-in recent. Returns new tokens of the same session. The
    /// refresh token stays as it is: a lost answer must not make the one that the client has look copied.
    ///
    /// A wrong password counts as a failed sign-in, with the limits and the answer of one, and leaves the session as it was.
    pub async fn reauthenticate(&self, caller: &Caller, command: Reauthenticate) -> Result<Tokens> {
        let (id, session_id) = own_session(caller)?;
        let password = command.password.as_ref();
        let entry = self.enter(caller).await?;
        let account = user_with_credentials(self.store.reader(), id).await?;
        let account = account.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
        let proof = self.prove(entry, Claim::owner(&account, password)).await?;
        let tokens = self.renew_sign_in(caller, &proof, command.code.as_ref(), session_id).await;
        let tokens = self.settle_coded(&proof, tokens).await?;
        self.renew_hash(caller, &proof, password).await;
        Ok(tokens)
    }

    /// Dates the sign-in of a session to now. Returns `None` if the account was locked or reset while its password was
    /// checked.
    async fn renew_sign_in(
        &self,
        caller: &Caller,
        proof: &Proof<'_>,
        code: Option<&SecondFactorCode>,
        session_id: SessionId,
    ) -> Result<Option<Coded<Tokens>>> {
        self.write(caller, None, |mut writer| async move {
            let over = || Error::Unauthenticated(Unauthenticated::SessionRevoked);
            let Some(user) = writer.unchanged_since(proof.account).await? else { return Ok(writer.unchanged(None)) };
            let mut session = session_lock_row(&writer.tx, session_id).await?.ok_or_else(over)?;
            let change = writer.change();
            let (proofs, more) = match change.demand_code(&user, code).await? {
                Checked::Right { proofs, events } => (proofs, events),
                Checked::Wrong(event) => return Ok(self.code_failed(change, caller, &user, event).await?.map(Some)),
            };
            let throttle_ended = proof.attempt.succeeded(&change, &user).await?;
            session.auth_at = change.now;
            session.proofs = proofs;
            self.touch(&mut session, caller, &user, change.now);
            if !session_reauthenticate(&change.tx, &session, change.now).await? {
                return Err(over());
            }
            let tokens = self.tokens(&session, &user, &session.wish, change.now)?;
            let event = signed_in_event(&user).about(session.id).detail("step", "REAUTHENTICATION");
            change.commit(event.and(throttle_ended).and(more), Some(Coded::Done(tokens))).await
        })
        .await
    }
}
