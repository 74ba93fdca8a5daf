//! Proving a second factor as a step of a sign-in.

use super::{Checked, Coded};
use crate::app::App;
use crate::app::sign_in::Progress;
use crate::domain::caller::Caller;
use crate::domain::second_factor::{SecondFactorCode, SecondFactorMethod, Step};
use crate::domain::secret::TicketSecret;
use crate::domain::ticket::TicketPurpose;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::tickets::{ticket_end, ticket_find, ticket_lock_row, ticket_wrong_code};

/// A command to go on with a sign-in by a code.
#[derive(Debug)]
pub struct VerifySecondFactor {
    /// The ticket. `None` if what was sent cannot be one.
    pub ticket: Option<TicketSecret>,
    /// The code.
    pub code: SecondFactorCode,
}

/// A second factor that was proved.
#[derive(Debug)]
pub struct SecondFactorVerified {
    /// The next step.
    pub progress: Progress,
    /// The recovery codes that are left, if one was used.
    pub recovery_codes_left: Option<u32>,
}

impl App {
    /// Goes on with a sign-in by a code. A wrong code leaves the ticket, which ends after a few of them.
    ///
    /// Fails with [`Unauthenticated::TicketInvalid`] if the ticket is invalid, or if the account was locked or reset since it was
    /// issued, and with [`Unauthenticated::SecondFactorRejected`] if the code is wrong.
    pub async fn verify_second_factor(
        &self,
        caller: &Caller,
        command: VerifySecondFactor,
    ) -> Result<SecondFactorVerified> {
        self.check_source(caller).await?;
        let purpose = TicketPurpose::SecondFactor;
        let digest = command.ticket.as_ref().map(TicketSecret::digest);
        let found = match &digest {
            Some(digest) => ticket_find(self.store.reader(), digest, purpose, self.now()).await?,
            None => None,
        };
        let (Some(digest), Some(found)) = (&digest, found) else { return self.ticket_invalid(caller).await };
        let (code, user_id) = (&command.code, found.user_id);
        let verified = self.write(caller, None, |mut writer| async move {
            let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
            let user = writer.locked(user_id).await?;
            let user = user.filter(|user| user.refusal(writer.now).is_none()).ok_or_else(dead)?;
            let ticket = ticket_lock_row(&writer.tx, digest, purpose, writer.now).await?;
            let ticket = ticket.filter(|ticket| ticket.tries < purpose.max_tries()).ok_or_else(dead)?;
            if user.next_step(ticket.proofs) != Step::SecondFactor {
                return Err(dead());
            }
            let change = writer.change();
            let (proofs, mut events) = match change.check_code(&user, code).await? {
                Checked::Right { proofs, events } => (proofs, events),
                Checked::Wrong(event) => {
                    ticket_wrong_code(&change.tx, digest, purpose, change.now).await?;
                    return self.code_failed(change, caller, &user, event).await;
                }
            };
            ticket_end(&change.tx, digest).await?;
            events.extend(change.clear_throttle(&user).await?.1);
            Ok(self.advance(change, caller, &user, proofs, &ticket.wish, events).await?.map(|progress| {
                let used = proofs.second_factor == Some(SecondFactorMethod::RecoveryCode);
                let left = user.second_factor.map(|factor| factor.recovery_codes_left.saturating_sub(1));
                Coded::Done(SecondFactorVerified { progress, recovery_codes_left: left.filter(|_| used) })
            }))
        });
        let verified = verified.await?.answer()?;
        self.count_progress(&verified.progress);
        Ok(verified)
    }
}
