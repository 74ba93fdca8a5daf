//! The steps of `latchkey users recover`, by what a diagnosis found and what was done.

use super::means::{Means, lacking};
use crate::proto::v1::sign_in_finding::{Code, Severity};
use crate::proto::v1::{
    Delivery, DeliveryKind, DeliveryObstacle, DeliveryState, DiagnoseSignInResponse, LockCause, SignInFinding,
    SignInVerdict, UserLock,
};

/// The next thing to do.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// To lift a lock, or the throttle.
    Unlock(SignInFinding),
    /// To find out whether the user can prove the second factor.
    AskForFactor,
    /// To remove the second factor, which is lost.
    RemoveFactor,
    /// To find out whether the user knows the password.
    AskForPassword,
    /// To give the user a way to choose a password. Without a finding the password is forgotten.
    GiveAccess(Option<SignInFinding>),
}

/// A way to choose a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// A link by mail.
    Link,
    /// The message with this id again.
    Again(String),
    /// None yet: first the right address.
    Address,
    /// A temporary password.
    Password,
}

/// What the user was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    /// A link, by mail to this address.
    Link(String),
    /// A temporary password.
    Password,
}

/// What is known of the user's second factor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Factor {
    /// Nothing yet, or there is none.
    #[default]
    Unknown,
    /// The user can prove it.
    Usable,
    /// It is lost.
    Lost,
    /// It is lost, and the operator was asked whether to remove it.
    LostAndAsked,
}

/// What was done and asked so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) asked_to_unlock: bool,
    pub(super) is_contained: bool,
    pub(super) factor: Factor,
    pub(super) knows_password: Option<bool>,
    pub(super) skips_access: bool,
    pub(super) given: Option<Given>,
}

impl Progress {
    /// The next step. `None` if there is none.
    pub(super) fn next(&self, answer: &DiagnoseSignInResponse) -> Option<Step> {
        // After a containment the reset unlocks: an unlock alone would not help.
        let unlocks = |finding: &&SignInFinding| {
            finding.remedy_method.ends_with("/UnlockUser") && finding.code() != Code::LockedAsCompromised
        };
        if let Some(finding) = blocking(answer).find(unlocks).filter(|_| !self.asked_to_unlock) {
            return Some(Step::Unlock(finding.clone()));
        }
        // The removal ends links, and a link needs a code: it comes before the way to choose a password.
        match self.factor {
            Factor::Unknown if has_second_factor(answer) => return Some(Step::AskForFactor),
            Factor::Lost if has_second_factor(answer) => return Some(Step::RemoveFactor),
            _ => {}
        }
        if self.given.is_some() || self.skips_access {
            return None;
        }
        if let Some(finding) = needs_access(answer) {
            return Some(Step::GiveAccess(Some(finding.clone())));
        }
        let is_locked = answer.user.as_ref().is_some_and(|user| user.lock.is_some());
        match self.knows_password {
            Some(true) => None,
            Some(false) => Some(Step::GiveAccess(None)),
            None => (!is_locked).then_some(Step::AskForPassword),
        }
    }

    /// What the user can do now, and what to tell the user. `None` if nothing helps yet.
    pub(super) fn tell(&self, answer: &DiagnoseSignInResponse, name: &str) -> Option<(String, String)> {
        if has_second_factor(answer) && matches!(self.factor, Factor::Lost | Factor::LostAndAsked) {
            return None;
        }
        let code = if has_second_factor(answer) { " and a code of the authenticator, or a recovery code" } else { "" };
        let with = if code.is_empty() { String::new() } else { format!(" with it{code}") };
        Some(match (&self.given, answer.verdict()) {
            (Some(Given::Link(address)), _) => (
                "can sign in once the link is used".to_owned(),
                format!(
                    "open the link in the newest mail to {address}, choose a password, and sign in as {name}{with}; look \
                     into the spam folder, too"
                ),
            ),
            (Some(Given::Password), _) => (
                "can sign in, then must change the password".to_owned(),
                format!("sign in as {name} with the temporary password{code}, and choose another one then"),
            ),
            (None, _) if self.knows_password == Some(false) || has_lost_password(answer) => return None,
            (None, SignInVerdict::CanAfterSteps) => (
                format!("can sign in, then must {}", duties(answer)),
                format!("sign in as {name} with the password{code}, then {}", duties(answer)),
            ),
            (None, SignInVerdict::Can) => {
                ("can sign in".to_owned(), format!("sign in as {name} with the password{code}"))
            }
            (None, _) => return None,
        })
    }
}

/// Whether it is worth asking for a takeover: there is access to take over, and the account is not contained.
pub(super) fn may_be_taken_over(answer: &DiagnoseSignInResponse) -> bool {
    let status = answer.user.as_ref().and_then(|user| user.password_status.as_ref());
    status.is_some_and(|status| status.password_set) && !is_contained(answer)
}

/// What a sign-in has the user do after the right credentials.
pub(super) fn duties(answer: &DiagnoseSignInResponse) -> String {
    let known = [
        (Code::PasswordChangeRequired, "change the password"),
        (Code::PasswordExpired, "change the password"),
        (Code::SecondFactorNotEnrolled, "set up a second factor"),
    ];
    let is_due = |code| {
        let mut of_code = answer.findings.iter().filter(|finding| finding.code() == code);
        of_code.any(|finding| finding.severity() == Severity::Warning)
    };
    let due: Vec<&str> = known.into_iter().filter(|(code, _)| is_due(*code)).map(|(_, duty)| duty).collect();
    if due.is_empty() { "take another step".to_owned() } else { due.join(" and ") }
}

/// Whether the user has a second factor.
pub(super) fn has_second_factor(answer: &DiagnoseSignInResponse) -> bool {
    let status = answer.user.as_ref().and_then(|user| user.second_factor_status.as_ref());
    status.is_some_and(|status| status.totp_enrolled)
}

fn blocking(answer: &DiagnoseSignInResponse) -> impl Iterator<Item = &SignInFinding> {
    answer.findings.iter().filter(|finding| finding.severity() == Severity::Blocking)
}

pub(super) fn is_contained(answer: &DiagnoseSignInResponse) -> bool {
    let lock = answer.user.as_ref().and_then(|user| user.lock.as_ref());
    lock.map(UserLock::cause) == Some(LockCause::Compromise)
}

/// The message that a finding tells of, which does not reach its user. A finding has no id of its message, but the time of the
/// message's last change. Two messages may have changed in one transaction; a notice is the less important one.
pub(super) fn failing<'a>(answer: &'a DiagnoseSignInResponse, finding: &SignInFinding) -> Option<&'a Delivery> {
    let is_told = |sent: &&Delivery| {
        finding.code() == Code::DeliveryFailing
            && sent.update_time == finding.since_time
            && !matches!(sent.state(), DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Accepted)
    };
    let mut told = answer.deliveries.iter().filter(is_told);
    told.clone().find(|sent| sent.kind() != DeliveryKind::Notice).or_else(|| told.next())
}

/// Whether a finding tells that no user knows the temporary password: its mail did not go out.
pub(super) fn is_lost_password(answer: &DiagnoseSignInResponse, finding: &SignInFinding) -> bool {
    use DeliveryState::{Cancelled, Expired, Failed};

    failing(answer, finding).is_some_and(|sent| {
        sent.kind() == DeliveryKind::TemporaryPassword && matches!(sent.state(), Failed | Expired | Cancelled)
    })
}

/// Whether no user knows the temporary password.
pub(super) fn has_lost_password(answer: &DiagnoseSignInResponse) -> bool {
    answer.findings.iter().any(|finding| is_lost_password(answer, finding))
}

/// Why the user needs another way in: there is no password that works, or its mail does not arrive.
fn needs_access(answer: &DiagnoseSignInResponse) -> Option<&SignInFinding> {
    let resets = |finding: &&SignInFinding| finding.remedy_method.ends_with("/ResetPassword");
    let fails = |finding: &&SignInFinding| failing(answer, finding).is_some_and(gives_access);
    let contained = |finding: &&SignInFinding| finding.code() == Code::LockedAsCompromised;
    let failing = answer.findings.iter().find(fails);
    failing.or_else(|| blocking(answer).find(resets)).or_else(|| blocking(answer).find(contained))
}

/// Whether a message should let the user choose a password or sign in.
fn gives_access(sent: &Delivery) -> bool {
    use DeliveryKind::{Invite, PasswordReset, TemporaryPassword};

    matches!(sent.kind(), Invite | PasswordReset | TemporaryPassword)
}

/// The message to send again: one that does not arrive and has a link by which the user chooses a password. None after a
/// containment, which ended it.
pub(super) fn repeatable(answer: &DiagnoseSignInResponse) -> Option<&Delivery> {
    let mut failing = answer.findings.iter().filter_map(|finding| failing(answer, finding));
    let is_link = |sent: &&Delivery| gives_access(sent) && sent.kind() != DeliveryKind::TemporaryPassword;
    failing.find(is_link).filter(|_| !is_contained(answer))
}

/// The ways to choose from, the best first.
pub(super) fn ways(answer: &DiagnoseSignInResponse, means: &Means) -> Vec<(Way, String)> {
    let address = answer.user.as_ref().map_or("", |user| user.email.as_str());
    let sends = means.sends_links();
    let in_file = if means.writes_files() { " (to a file on the server: no user gets it)" } else { "" };
    let is_contained = is_contained(answer);
    let unlocking: &[&str] = if is_contained { &["users.lock", "users.write"] } else { &[] };
    let may = |own: &[&str]| lacking(&means.scopes, &[own, unlocking].concat()).is_none();
    let mut ways = Vec::new();
    if sends && !address.is_empty() && may(&["users.reset"]) {
        let again = repeatable(answer).filter(|_| may(&["deliveries.resend"]));
        let own = if is_contained { ", if only the user reads that mailbox" } else { "" };
        ways.push(match again {
            Some(sent) => {
                (Way::Again(sent.id.clone()), format!("send the mail again, with a new link, to {address}{in_file}"))
            }
            None => (Way::Link, format!("mail a link to {address}{own}{in_file}")),
        });
    }
    if sends && may(&["users.reset", "users.write", "users.email"]) {
        let what = if address.is_empty() { "set an address" } else { "correct the address" };
        let way = (Way::Address, format!("{what}, then choose again"));
        // What is mailed to an address that was refused does not arrive.
        let at = if is_address_refused(answer) { 0 } else { ways.len() };
        ways.insert(at, way);
    }
    if may(&["users.reset", "users.reset.temporary"]) {
        ways.push((Way::Password, "read out a temporary password, shown once".to_owned()));
    }
    ways
}

/// Whether the address of today is what a message failed at.
fn is_address_refused(answer: &DiagnoseSignInResponse) -> bool {
    let address = answer.user.as_ref().map_or("", |user| user.email.as_str());
    let mut failing = answer.findings.iter().filter_map(|finding| failing(answer, finding));
    failing.any(|sent| sent.obstacle() == DeliveryObstacle::Address && sent.address == address)
}

/// What still prevents a sign-in. What a link removes does not, once it was sent.
pub(super) fn stands<'a>(answer: &'a DiagnoseSignInResponse, given: Option<&Given>) -> Vec<&'a SignInFinding> {
    let has_link = matches!(given, Some(Given::Link(_)));
    blocking(answer).filter(|finding| !(has_link && finding.remedy_method.ends_with("/ResetPassword"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::get_mail_status_response::Transport;
    use crate::proto::v1::{GetMailStatusResponse, SecondFactorStatus, User};

    /// The ways for a user with this address, for a caller with all scopes.
    fn offered(email: &str, transport: Transport) -> Vec<Way> {
        let user = Some(User { email: email.to_owned(), ..User::default() });
        let answer = DiagnoseSignInResponse { user, ..DiagnoseSignInResponse::default() };
        let mail = GetMailStatusResponse {
            transport: transport.into(),
            links_enabled: true,
            ..GetMailStatusResponse::default()
        };
        let scopes = ["users.reset", "users.reset.temporary", "users.write", "users.email"].map(str::to_owned);
        ways(&answer, &Means { scopes: scopes.into(), mail: Some(mail) }).into_iter().map(|(way, _)| way).collect()
    }

    #[test]
    fn a_lost_factor_is_removed_before_a_link_is_sent() {
        let status = |totp_enrolled| SecondFactorStatus { totp_enrolled, ..SecondFactorStatus::default() };
        let answer = |totp_enrolled| DiagnoseSignInResponse {
            user: Some(User { second_factor_status: Some(status(totp_enrolled)), ..User::default() }),
            ..DiagnoseSignInResponse::default()
        };
        let mut progress = Progress::default();
        assert_eq!(progress.next(&answer(true)), Some(Step::AskForFactor));
        progress.factor = Factor::Lost;
        assert_eq!(progress.next(&answer(true)), Some(Step::RemoveFactor));
        assert_eq!(progress.next(&answer(false)), Some(Step::AskForPassword), "it was removed");
        progress.factor = Factor::LostAndAsked;
        assert_eq!(progress.next(&answer(true)), Some(Step::AskForPassword), "it was not removed");
        assert_eq!(progress.tell(&answer(true), "ada"), None, "the factor still stands in the way");
        progress.factor = Factor::Usable;
        assert_eq!(progress.next(&answer(true)), Some(Step::AskForPassword));
    }

    #[test]
    fn what_a_sign_in_has_the_user_do_is_told_by_the_findings() {
        let finding = |code: Code, severity: Severity| SignInFinding {
            code: code.into(),
            severity: severity.into(),
            ..SignInFinding::default()
        };
        let told = |findings: &[SignInFinding]| {
            let verdict = SignInVerdict::CanAfterSteps.into();
            let answer = DiagnoseSignInResponse { verdict, findings: findings.to_vec(), ..Default::default() };
            Progress::default().tell(&answer, "ada")
        };
        let [change, factor] = [Code::PasswordChangeRequired, Code::SecondFactorNotEnrolled];
        let [change, factor, later] =
            [(change, Severity::Warning), (factor, Severity::Warning), (factor, Severity::Info)]
                .map(|(code, severity)| finding(code, severity));
        let both = [change.clone(), factor.clone()];
        for (findings, duties) in [
            ([change, later].as_slice(), "change the password"),
            (&[factor], "set up a second factor"),
            (&both, "change the password and set up a second factor"),
            (&[], "take another step"),
        ] {
            let expected = (
                format!("can sign in, then must {duties}"),
                format!("sign in as ada with the password, then {duties}"),
            );
            assert_eq!(told(findings), Some(expected));
        }
    }

    #[test]
    fn a_link_is_offered_first_and_only_where_mail_goes_out() {
        assert_eq!(offered("ada@example.com", Transport::Smtp), [Way::Link, Way::Address, Way::Password]);
        assert_eq!(offered("", Transport::Smtp), [Way::Address, Way::Password]);
        assert_eq!(offered("ada@example.com", Transport::Off), [Way::Password]);
    }
}
