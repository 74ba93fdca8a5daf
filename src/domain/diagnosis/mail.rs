//! Findings about mail that should have let the user choose a password.

use super::{Code, Facts, Finding, Severity};
use crate::domain::delivery::{Delivery, DeliveryKind, DeliveryState, Obstacle};
use crate::domain::sign_in_ability::Remedy;
use crate::domain::time::Timestamp;
use crate::domain::user::{ChangeCause, User};

/// What helps if mail fails to all users.
const MAIL_TEST: &str = "Run `latchkeyd mail test ADDRESS` with the server's --config: it explains the failure.";

/// What helps if the relay refuses one message, as spam or as too big.
const MESSAGE_REFUSED: &str = "Ask the operator of the relay why it refuses the message; `latchkeyd mail test ADDRESS` with \
                               the server's --config tries another one.";

/// What helps if the mailbox is full or closed.
const MAILBOX_REFUSED: &str = "Ask the user to put the mailbox in order, or for another address";

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

/// The message with the temporary password that is in force.
fn password_mail<'a>(user: &User, deliveries: &'a [Delivery], now: Timestamp) -> Option<&'a Delivery> {
    let password = user.password.as_ref().filter(|password| !password.is_expired(now))?;
    let is_temporary = user.change_cause(now) == Some(ChangeCause::Temporary);
    let newest = deliveries.iter().find(|sent| sent.letter.kind() == DeliveryKind::TemporaryPassword)?;
    Some(newest).filter(|sent| is_temporary && sent.created_at >= password.changed_at)
}

/// The finding about a temporary password that was to go by mail, and did not. It is only a warning: the password may have been
/// shown to an operator, too.
pub(super) fn of_password_mail(user: &User, deliveries: &[Delivery], now: Timestamp) -> Option<Finding> {
    let sent = password_mail(user, deliveries, now)?;
    let became = match sent.state {
        DeliveryState::Failed => "was refused",
        DeliveryState::Expired => "did not go out in time",
        DeliveryState::Cancelled => "was cancelled",
        DeliveryState::Retrying => {
            let words = last_words(sent);
            let summary = format!(
                "The temporary password has not arrived yet: the mail to {} was not accepted{words}.",
                sent.address
            );
            return Some(waits(Finding::new(Code::DeliveryFailing, Severity::Warning, summary), sent));
        }
        _ => return None,
    };
    let words = last_words(sent);
    let summary =
        format!("The temporary password never reached the user: the mail to {} {became}{words}.", sent.address);
    let again = "reset the password again";
    let remedy = match (sent.state, sent.obstacle()) {
        (_, Some(Obstacle::Relay)) => format!("{MAIL_TEST} Then {again}."),
        (_, Some(Obstacle::Message)) => format!("{MESSAGE_REFUSED} Then {again}."),
        (_, Some(Obstacle::Mailbox)) => format!("{MAILBOX_REFUSED}, then {again}."),
        (DeliveryState::Failed, _) => format!("Correct the address if it is wrong, then {again}."),
        _ => "Reset the password again.".to_owned(),
    };
    let finding = Finding::new(Code::DeliveryFailing, Severity::Warning, summary);
    Some(Finding { since: Some(sent.updated_at), ..finding.helped(remedy, Some(Remedy::ResetPassword)) })
}

/// What the last attempt met, after a colon.
fn last_words(sent: &Delivery) -> String {
    if sent.last_words.is_empty() { String::new() } else { format!(": {}", sent.last_words) }
}

/// Adds what helps a message that is tried again.
fn waits(finding: Finding, sent: &Delivery) -> Finding {
    let finding = match sent.obstacle() {
        Some(Obstacle::Relay) => finding.helped(format!("{MAIL_TEST} It is tried again by itself."), None),
        _ => finding.helped("Wait: it is tried again by itself.", None),
    };
    Finding { since: Some(sent.updated_at), until: sent.next_attempt_at, ..finding }
}

/// The finding about the newest message with a link or a password, if it does not reach the user. [`of_password_mail`] tells of
/// the temporary password that is in force.
pub(super) fn of_newest_message(user: &User, deliveries: &[Delivery], now: Timestamp) -> Option<Finding> {
    let newest = deliveries.iter().find(|sent| sent.letter.kind() != DeliveryKind::Notice)?;
    if newest.letter.kind() == DeliveryKind::TemporaryPassword {
        let is_outdated = user.password.as_ref().is_none_or(|password| password.changed_at > newest.created_at);
        if is_outdated || of_password_mail(user, deliveries, now).is_some() {
            return None;
        }
    }
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
    let summary = format!("The {what} to {} {became}{}.", newest.address, last_words(newest));
    let finding = Finding::new(Code::DeliveryFailing, Severity::Warning, summary);
    if newest.state == DeliveryState::Retrying {
        return Some(waits(finding, newest));
    }
    // A temporary password cannot be sent again.
    let (again, then) = match newest.letter.kind() {
        DeliveryKind::TemporaryPassword => (Some(Remedy::ResetPassword), "reset the password again"),
        _ => (Some(Remedy::ResendDelivery), "send the message again"),
    };
    let finding = match (newest.state, newest.obstacle()) {
        (DeliveryState::Unknown, _) => finding.helped(format!("Ask the user whether it came; if not, {then}."), again),
        (_, Some(Obstacle::Relay)) => finding.helped(format!("{MAIL_TEST} Then {then}."), None),
        (_, Some(Obstacle::Message)) => finding.helped(format!("{MESSAGE_REFUSED} Then {then}."), None),
        (_, Some(Obstacle::Mailbox)) => finding.helped(format!("{MAILBOX_REFUSED}, then {then}."), again),
        (DeliveryState::Failed, _) => {
            finding.helped(format!("Correct the address if it is wrong, then {then}."), again)
        }
        _ => finding.helped(format!("The message did not go out: {then}."), again),
    };
    Some(Finding { since: Some(newest.updated_at), until: newest.next_attempt_at, ..finding })
}

/// The finding about a notice that was refused at the address of today, to which nothing went since. What is sent there next does
/// not arrive, either.
pub(super) fn of_refused_notice(user: &User, deliveries: &[Delivery]) -> Option<Finding> {
    user.mail_failed_at?;
    let is_refused = |sent: &&Delivery| {
        sent.letter.kind() == DeliveryKind::Notice
            && sent.state == DeliveryState::Failed
            && sent.obstacle() == Some(Obstacle::Address)
            && user.email.as_ref().is_some_and(|email| email.as_str() == sent.address)
    };
    let sent = deliveries.iter().find(is_refused)?;
    let summary = format!("A notice to {} was refused{}.", sent.address, last_words(sent));
    let finding = Finding::new(Code::DeliveryFailing, Severity::Warning, summary);
    Some(Finding { since: Some(sent.updated_at), ..finding.helped("Correct the address if it is wrong.", None) })
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
