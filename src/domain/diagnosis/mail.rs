//! Findings about mail that should have let the user choose a password.

use super::{Code, Facts, Finding, Severity};
use crate::domain::delivery::{Delivery, DeliveryKind, DeliveryState, Obstacle};
use crate::domain::sign_in_ability::Remedy;
use crate::domain::time::Timestamp;
use crate::domain::user::User;

/// What helps if mail fails to all users.
const MAIL_TEST: &str = "Run `latchkeyd mail test ADDRESS` on the server, which explains the failure.";

/// What helps if the relay refuses one message, as spam or as too big.
const MESSAGE_REFUSED: &str = "Ask the operator of the relay why it refuses the message; `latchkeyd mail test ADDRESS` on the \
                               server tries another one. Then send the message again.";

/// What helps if the mailbox is full or closed.
const MAILBOX_REFUSED: &str =
    "Ask the user to put the mailbox in order, or for another address, then send the message again.";

/// Why the link in the newest mail, which should have let the user choose a password, does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeadLink {
    /// The user cancelled it by the second link of the mail.
    Disowned,
    /// It ended otherwise, such as by an operator.
    Ended,
}

impl DeadLink {
    /// Adds to the finding about a password that is missing.
    pub(super) fn explain(self, mut finding: Finding) -> Finding {
        let (what, remedy) = match self {
            DeadLink::Disowned => (
                "The user cancelled the link in the newest mail, as not asked for.",
                "Speak with the user, who said that they did not ask for it, before you send another link.",
            ),
            DeadLink::Ended => (
                "The link in the newest mail was ended.",
                "Find out in the user's history why it was ended, before you send another link.",
            ),
        };
        finding.summary = format!("{} {what}", finding.summary);
        remedy.clone_into(&mut finding.remedy);
        finding
    }
}

/// `None` if a link works, or if the newest one was not ended. One to another address, or of before the password was ended, is
/// no surprise.
pub(super) fn dead_link(user: &User, facts: &Facts, now: Timestamp) -> Option<DeadLink> {
    let sets_password =
        |sent: &&Delivery| matches!(sent.letter.kind(), DeliveryKind::Invite | DeliveryKind::PasswordReset);
    let newest = facts.deliveries.iter().find(sets_password)?;
    let is_at_address = user.email.as_ref().is_some_and(|email| email.as_str() == newest.address);
    let is_outdated = user.password_ended_at.is_some_and(|at| newest.created_at < at);
    let ended_at = newest.link_ended_at.filter(|_| is_at_address && !is_outdated)?;
    match user.pending_link(now) {
        Some(link) if link.purpose.sets_password() => None,
        _ if facts.disowned_at == Some(ended_at) => Some(DeadLink::Disowned),
        _ => Some(DeadLink::Ended),
    }
}

/// The finding about the newest message with a link or a password, if it does not reach the user.
pub(super) fn of_newest_message(deliveries: &[Delivery], now: Timestamp) -> Option<Finding> {
    let newest = deliveries.iter().find(|sent| sent.letter.kind() != DeliveryKind::Notice)?;
    let became = match newest.state {
        DeliveryState::Failed => "was refused",
        DeliveryState::Expired if newest.expires_at.is_some_and(|at| at > now) => {
            "did not go out, and no time was left for another attempt"
        }
        DeliveryState::Expired => "did not go out before its link ended",
        DeliveryState::Retrying => "was not accepted yet",
        // A link that was used or ended has arrived, or does not matter any more.
        DeliveryState::Unknown if newest.link_ended_at.is_none() => "may have gone out",
        _ => return None,
    };
    let what = match newest.letter.kind() {
        DeliveryKind::Invite => "invitation",
        DeliveryKind::TemporaryPassword => "mail with the temporary password",
        DeliveryKind::EmailVerification => "mail that confirms the address",
        DeliveryKind::PasswordReset | DeliveryKind::Notice => "mail with the link",
    };
    let words = if newest.last_words.is_empty() { String::new() } else { format!(": {}", newest.last_words) };
    let summary = format!("The {what} to {} {became}{words}.", newest.address);
    let finding = Finding::new(Code::DeliveryFailing, Severity::Warning, summary);
    let again = Some(Remedy::ResendDelivery);
    let finding = match (newest.state, newest.obstacle()) {
        (DeliveryState::Unknown, _) => finding.helped("Ask the user whether it came; if not, send it again.", again),
        (DeliveryState::Retrying, Some(Obstacle::Relay)) => {
            finding.helped(format!("{MAIL_TEST} It is tried again by itself."), None)
        }
        (DeliveryState::Retrying, _) => finding.helped("Wait: it is tried again by itself.", None),
        (_, Some(Obstacle::Relay)) => finding.helped(format!("{MAIL_TEST} Then send the message again."), None),
        (_, Some(Obstacle::Message)) => finding.helped(MESSAGE_REFUSED, None),
        (_, Some(Obstacle::Mailbox)) => finding.helped(MAILBOX_REFUSED, again),
        (DeliveryState::Failed, _) => {
            finding.helped("Correct the address if it is wrong, then send the message again.", again)
        }
        _ => finding.helped("Send the message again.", again),
    };
    Some(Finding { since: Some(newest.updated_at), until: newest.next_attempt_at, ..finding })
}

/// What all messages meet, if none goes out.
pub(super) fn of_outage(error: &str) -> Finding {
    let finding = Finding::new(Code::MailUnavailable, Severity::Warning, format!("No mail goes out: {error}."));
    finding.helped(MAIL_TEST, None)
}

/// The password of today may be an intruder's, who reads the user's mail.
pub(super) fn of_disowned(at: Timestamp) -> Finding {
    let summary = "The user says that they did not ask for the link by which the password was set.";
    let remedy = "Speak with the user by a way that an intruder does not control. If the password is not theirs, contain the account.";
    let finding = Finding::new(Code::ResetDisowned, Severity::Warning, summary);
    Finding { since: Some(at), ..finding.helped(remedy, Some(Remedy::Lock)) }
}
