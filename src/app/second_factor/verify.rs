//! Proving a second factor as a step of a sign-in.

use super::{Checked, Coded};
use crate::app::App;
use crate::app::sign_in::{Asked, Progress, Told};
use crate::domain::caller::Caller;
use crate::domain::second_factor::{SecondFactorCode, SecondFactorMethod};
use crate::domain::secret::TicketSecret;
use crate::domain::ticket::TicketPurpose;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::tickets::{ticket_end, ticket_wrong_code};

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
        let known = &self.known_ticket(caller, command.ticket.as_ref(), TicketPurpose::SecondFactor).await?;
        let code = &command.code;
        let verified = self.write(caller, None, |mut writer| async move {
            let (user, ticket) = writer.locked_ticket(known).await?;
            if !user.owes_second_factor(ticket.proofs) {
                return Err(Error::Unauthenticated(Unauthenticated::TicketInvalid));
            }
            let change = writer.change();
            let (proofs, before) = match change.check_code(&user, code).await? {
                Checked::Right { proofs, events } => (proofs, events),
                Checked::Wrong(event) => {
                    ticket_wrong_code(&change.tx, &known.digest, ticket.purpose, change.now).await?;
                    return self.code_failed(change, caller, &user, event).await;
                }
            };
            ticket_end(&change.tx, &known.digest).await?;
            let after = change.clear_throttle(&user).await?.1.into_iter().collect();
            let told = Told { before, after };
            let advanced = self.advance(change, caller, &user, proofs, Asked::of(&ticket), told).await?;
            let is_recovery = proofs.second_factor == Some(SecondFactorMethod::RecoveryCode);
            let left = user.second_factor.map(|factor| factor.recovery_codes_left.saturating_sub(1));
            Ok(advanced.map(|progress| {
                Coded::Done(SecondFactorVerified { progress, recovery_codes_left: left.filter(|_| is_recovery) })
            }))
        });
        let verified = verified.await?.answer()?;
        self.count_progress(&verified.progress);
        Ok(verified)
    }
}
