//! `latchkey users diagnose`.

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::means::Means;
use super::recovery::{
    duties, failing, has_lost_password, has_second_factor, is_contained, is_lost_password, repeatable,
};
use super::show::link;
use crate::cli::commands::audit::is_step;
use crate::cli::commands::mail::to;
use crate::cli::contract::enum_words;
use crate::cli::error::Error;
use crate::cli::output::Screen;
use crate::cli::output::delivery::{is_written, state};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant};
use crate::cli::output::words::{person, reset_by, shell_word};
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::sign_in_finding::{Code, Severity};
use crate::proto::v1::{
    Delivery, DeliveryKind, DeliveryObstacle, DeliveryState, DiagnoseSignInRequest, DiagnoseSignInResponse, Event,
    EventOutcome, EventType, PendingLink, SignInFinding, SignInVerdict, User, UserKind, UserRef,
};

const HELP: &str = "\
Changes nothing. Without --from, a sign-in must work from every place.

Examples:
  latchkey users diagnose ada
  latchkey users diagnose ada@example.com --from 192.0.2.7
  latchkey users diagnose ada --output json | jq .findings";

/// Say why a user can or cannot sign in, and what helps.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Diagnose {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// The user's IP address: it may be blocked, or not be a familiar place.
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    from: String,
    /// How many past sign-ins to show, at most 100.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=100))]
    attempts: i32,
}

impl Diagnose {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let name = user_ref::text(&self.user).unwrap_or_default();
        let request = DiagnoseSignInRequest {
            user: Some(self.user),
            client_address: self.from.clone(),
            max_attempts: self.attempts,
        };
        if cli.client.is_showing() || cli.screen.is_json() {
            return cli.answer(request, |_, _| Ok(())).await;
        }
        let answer = cli.call(request).await?;
        show(&cli.screen, &name, &self.from, &answer, &Means::of(cli).await)
    }
}

/// What comes before the password of an account that may be taken over.
pub(super) const SPEAK_FIRST: &str = "Speak with the user first, by a way that an intruder does not control.";

/// Prints the verdict, what to do, why, and past sign-ins. `typed` is the user as it was named.
pub(super) fn show(
    screen: &Screen,
    typed: &str,
    from: &str,
    answer: &DiagnoseSignInResponse,
    means: &Means,
) -> Result<(), Error> {
    let clock = screen.clock();
    screen.line(title(typed, from, answer, clock))?;
    screen.steps("DO", &steps(typed, answer, means, clock))?;
    let why = answer.findings.iter().map(|finding| reason(finding, clock));
    let why = why.chain(of_returned_link(answer, clock)).chain(mail(answer, clock));
    let why = why.chain(in_order(from, answer, means));
    let log = answer.attempts.chunk_by(are_alike).map(|events| attempts(events, clock));
    screen.fields(labelled("WHY", why).chain(labelled("LOG", log)))
}

/// `✖ Grace Hopper (grace) cannot sign in from 192.0.2.7 until today 14:11`.
pub(super) fn title(typed: &str, from: &str, answer: &DiagnoseSignInResponse, clock: &Clock) -> Text {
    let who = answer.user.as_ref().map_or_else(|| typed.to_owned(), person);
    let is_service = answer.user.as_ref().is_some_and(|user| user.kind() == UserKind::Service);
    let place = if from.is_empty() { String::new() } else { format!(" from {from}") };
    let (tone, mark, what) = match answer.verdict() {
        SignInVerdict::Can if is_service => (Tone::Good, "●", "can sign in, with an API token".to_owned()),
        SignInVerdict::Can if has_second_factor(answer) => {
            (Tone::Good, "●", format!("can sign in{place}, with the right password and a code"))
        }
        SignInVerdict::Can => (Tone::Good, "●", format!("can sign in{place}, with the right password")),
        SignInVerdict::CanAfterSteps if has_lost_password(answer) => {
            (Tone::Bad, "✖", format!("can sign in{place} only with a temporary password that never reached the user"))
        }
        SignInVerdict::CanAfterSteps => (Tone::Warn, "▲", format!("can sign in{place}, then must {}", duties(answer))),
        SignInVerdict::NotYet => {
            let when = end(answer).map_or_else(|| "yet".to_owned(), |at| format!("until {}", clock.moment(at)));
            (Tone::Bad, "✖", format!("cannot sign in{place} {when}"))
        }
        SignInVerdict::Cannot => (Tone::Bad, "✖", format!("cannot sign in{place}")),
        SignInVerdict::NoSuchUser => {
            return Text::toned(Tone::Bad, "✖ ").and(Tone::Strong, format!("there is no user {typed}"));
        }
        SignInVerdict::Unspecified => (Tone::Warn, "?", "this server does not say".to_owned()),
    };
    Text::toned(tone, mark).and(Tone::Strong, format!(" {who} ")).and(Tone::Plain, what)
}

/// When all that prevents a sign-in has passed. `None` if the server does not know.
pub(super) fn end(answer: &DiagnoseSignInResponse) -> Option<Timestamp> {
    let blocking = answer.findings.iter().filter(|finding| finding.severity() == Severity::Blocking);
    let ends: Option<Vec<Timestamp>> = blocking.map(|finding| instant(finding.until_time.as_ref())).collect();
    ends?.into_iter().max()
}

/// What helps, the most important first: commands, and sentences where there is none.
pub(super) fn steps(typed: &str, answer: &DiagnoseSignInResponse, means: &Means, clock: &Clock) -> Vec<String> {
    let name = shell_word(answer.user.as_ref().map_or(typed, |user| &user.username));
    let repeatable = repeatable(answer).filter(|_| means.sends_links());
    let step = |finding: &SignInFinding| command(finding, &name, answer, means);
    let steps_of = |finding: &SignInFinding| -> Vec<String> {
        let is_lost = is_lost_password(answer, finding);
        let needs_link = is_lost || matches!(finding.code(), Code::Pending | Code::ResetOutstanding);
        // The reset that set the temporary password ended the links of before.
        let counts = |sent: &&Delivery| needs_link && !(is_lost && sent.link_end_time.is_some());
        match newest_link(answer).filter(counts) {
            _ if finding.code() == Code::DeliveryFailing && !is_lost => {
                of_failing_mail(finding, answer, &name, means, clock)
            }
            _ if needs_link && returned_link(answer).is_some() => {
                let again = step(finding).map(|reset| format!("{reset}, if it is lost"));
                std::iter::once(HAND_OVER.to_owned()).chain(again).collect()
            }
            // The mail that failed has the link.
            _ if repeatable.is_some() && finding.remedy_method.ends_with("/ResetPassword") => Vec::new(),
            // The server says what to do before another one is sent.
            Some(sent) if sent.link_end_time.is_some() && pending_link(answer).is_none() => {
                std::iter::once(finding.remedy.clone()).chain(step(finding)).collect()
            }
            // Without mail no link is sent again.
            Some(sent) if sent.link_end_time.is_none() && is_on_its_way(sent) && means.sends_links() => {
                of_unused_link(sent, clock)
            }
            _ if is_lost => of_failing_mail(finding, answer, &name, means, clock),
            _ => step(finding).into_iter().collect(),
        }
    };
    let similar = answer.similar_usernames.iter().map(|name| format!("latchkey users diagnose {}", shell_word(name)));
    let matters = answer.findings.iter().filter(|finding| finding.severity() > Severity::Info);
    let mut matters: Vec<&SignInFinding> = matters.collect();
    matters.sort_by_key(|finding| rank(finding, answer));
    let mut steps: Vec<String> = Vec::new();
    for step in matters.into_iter().flat_map(steps_of).chain(similar) {
        // Two findings of mail may share a sentence.
        let is_sentence = step.ends_with('.');
        if !steps.iter().any(|known| *known == step || is_sentence && known.starts_with(&step)) {
            steps.push(step);
        }
    }
    let otherwise = match answer.verdict() {
        SignInVerdict::Can => Some("Let the user try again, then repeat this command: LOG shows why a sign-in failed."),
        SignInVerdict::NoSuchUser => Some("Ask what exactly the user types: a username, or an address."),
        _ => None,
    };
    steps.extend(otherwise.filter(|_| steps.is_empty()).map(str::to_owned));
    steps
}

/// What is done first, whatever prevents a sign-in. The rest keeps its order.
fn rank(finding: &SignInFinding, answer: &DiagnoseSignInResponse) -> u8 {
    let is_of_address = failing(answer, finding).is_some_and(|sent| sent.obstacle() == DeliveryObstacle::Address);
    match finding.code() {
        // An unlock or a reset may let an intruder in.
        Code::ResetDisowned => 0,
        Code::LockedAsCompromised => 1,
        // A reset mails to the address.
        _ if is_of_address && needs_reset(answer) => 2,
        _ => 3,
    }
}

/// Whether only a reset lets the user in.
fn needs_reset(answer: &DiagnoseSignInResponse) -> bool {
    let mut blocking = answer.findings.iter().filter(|finding| finding.severity() == Severity::Blocking);
    blocking.any(|finding| finding.remedy_method.ends_with("/ResetPassword"))
}

/// The command against a finding, or what the server says where there is none. `None` if another step does it.
fn command(finding: &SignInFinding, name: &str, answer: &DiagnoseSignInResponse, means: &Means) -> Option<String> {
    let resets = needs_reset(answer);
    match finding.remedy_method.rsplit('/').next().unwrap_or_default() {
        "UnlockUser" if resets && finding.code() == Code::LockedAsCompromised => Some(SPEAK_FIRST.to_owned()),
        // A reset clears the throttle, and lifts the lock with --unlock.
        "UnlockUser" if resets => None,
        "UnlockUser" => {
            let by = means.by(&["users.lock"], answer.user.as_ref());
            let back = if finding.code() == Code::LockedAsDeactivated { ", if the user is back" } else { "" };
            Some(format!("latchkey users unlock {name}{by}{back}"))
        }
        "CompletePasswordChange" if has_lost_password(answer) => None,
        "ResetPassword" if resets && finding.code() == Code::WrongPasswordLately => None,
        "ResetPassword" => {
            let forgotten =
                if finding.code() == Code::WrongPasswordLately { ", if the password is forgotten" } else { "" };
            answer.user.as_ref().map(|user| format!("{}{forgotten}", reset(user, means, resets)))
        }
        "ResetSecondFactor" => {
            Some(format!("latchkey mfa reset {name}, if the authenticator and the recovery codes are lost"))
        }
        "LockUser" => Some(format!("latchkey users contain {name}, if the password is not the user's")),
        "CreateApiToken" => Some(format!("latchkey tokens create {name} --name TEXT --scope SCOPE, if it has none")),
        "CreateUser" => Some(format!("latchkey users create {name}, if it was deleted by mistake")),
        "DeleteUser" => Some(format!("latchkey users delete {name}, if there is no backup")),
        _ => Some(finding.remedy.clone()).filter(|remedy| !remedy.is_empty()),
    }
}

/// The command that resets the password, and lifts a lock with it if the user cannot sign in otherwise.
fn reset(user: &User, means: &Means, resets: bool) -> String {
    let by_link = !user.email.is_empty() && means.sends_links();
    let unlocked = Some(user).filter(|user| resets && user.lock.is_some());
    let scopes: &[_] = if by_link { &["users.reset"] } else { &["users.reset", "users.reset.temporary"] };
    let unlock = if unlocked.is_some() { " --unlock" } else { "" };
    format!("{}{unlock}{}", reset_by(user, by_link), means.by(scopes, unlocked))
}

/// What comes before another link, if an operator was shown one that still works.
const HAND_OVER: &str = "Hand over the link that was returned to an operator, if the user has not got it.";

/// The newest message with a link or a password.
fn newest(answer: &DiagnoseSignInResponse) -> Option<&Delivery> {
    answer.deliveries.iter().find(|sent| sent.kind() != DeliveryKind::Notice)
}

/// The newest message with a link by which the user chooses a password, if it went to the present address, and not before the
/// password was ended.
fn newest_link(answer: &DiagnoseSignInResponse) -> Option<&Delivery> {
    let user = answer.user.as_ref()?;
    let ended = user.password_status.as_ref().and_then(|status| instant(status.end_time.as_ref()));
    let newest = answer.deliveries.iter().find(|sent| sets_password(sent.kind()))?;
    let is_outdated = instant(newest.create_time.as_ref()) < ended;
    Some(newest).filter(|sent| sent.address == user.email && !is_outdated)
}

fn sets_password(kind: DeliveryKind) -> bool {
    matches!(kind, DeliveryKind::Invite | DeliveryKind::PasswordReset)
}

/// The link by which the user can choose a password, such as one that an operator handed over.
fn pending_link(answer: &DiagnoseSignInResponse) -> Option<&PendingLink> {
    let link = answer.user.as_ref()?.pending_link.as_ref()?;
    Some(link).filter(|link| sets_password(link.kind()))
}

/// The same, if it is in no mail.
fn returned_link(answer: &DiagnoseSignInResponse) -> Option<&PendingLink> {
    pending_link(answer).filter(|link| link.delivery_id.is_empty())
}

/// `! unused invitation, 3 d left, returned to an operator`.
pub(super) fn of_returned_link(answer: &DiagnoseSignInResponse, clock: &Clock) -> Option<Text> {
    let user = answer.user.as_ref().filter(|_| returned_link(answer).is_some())?;
    Some(Text::toned(Tone::Warn, "! ").join(link(user, clock)))
}

fn is_on_its_way(sent: &Delivery) -> bool {
    matches!(sent.state(), DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Accepted)
}

/// What helps if a link was sent and not used. Another reset would send the same.
fn of_unused_link(sent: &Delivery, clock: &Clock) -> Vec<String> {
    let again = format!("latchkey deliveries resend {}, {}", sent.id, once_allowed(sent, clock));
    match sent.state() {
        DeliveryState::Accepted => {
            vec![LOOK_FOR_IT.to_owned(), format!("{again}if nothing came and the address is right")]
        }
        _ => vec![
            format!("latchkey deliveries watch {}, since it is being sent", sent.id),
            format!("{again}{NOTHING_CAME}"),
        ],
    }
}

/// What comes before a message that was accepted is sent again.
const LOOK_FOR_IT: &str = "Ask the user to look into the inbox and the spam folder.";

/// `from today 14:05 on, `, if the message cannot be sent again yet.
fn once_allowed(sent: &Delivery, clock: &Clock) -> String {
    let allowed = instant(sent.resend_allowed_time.as_ref()).filter(|at| !clock.is_past(*at));
    // A time is shown in minutes; the next full one is not too early.
    let shown = allowed.map(|at| at.checked_add(SignedDuration::from_secs(59)).unwrap_or(at));
    shown.map(|at| format!("from {} on, ", clock.moment(at))).unwrap_or_default()
}

const NOTHING_CAME: &str = "if the user says that nothing came";

/// What helps a message that does not reach its user: first what the server says, unless a command does it.
fn of_failing_mail(
    finding: &SignInFinding,
    answer: &DiagnoseSignInResponse,
    name: &str,
    means: &Means,
    clock: &Clock,
) -> Vec<String> {
    let sent = failing(answer, finding);
    let next = instant(finding.until_time.as_ref()).map(|at| format!(", next {}.", clock.moment(at)));
    let remedy = finding.remedy.trim_end_matches('.');
    let of_others = [DeliveryObstacle::Relay, DeliveryObstacle::Message];
    let is_of_notice = sent.is_some_and(|sent| sent.kind() == DeliveryKind::Notice);
    let has_command = is_of_notice || !finding.remedy_method.is_empty();
    let is_of_recipient = has_command && sent.is_none_or(|sent| !of_others.contains(&sent.obstacle()));
    let is_of_mailbox = sent.is_some_and(|sent| sent.obstacle() == DeliveryObstacle::Mailbox);
    let said =
        (!is_of_recipient || is_of_mailbox).then(|| format!("{remedy}{}", next.unwrap_or_else(|| ".".to_owned())));
    let Some(sent) = sent else { return said.into_iter().collect() };
    if !means.sends_links() {
        return without_mail(sent, answer, means).into_iter().collect();
    }
    let again = again(sent, answer, means);
    let is_current = answer.user.as_ref().is_some_and(|user| user.email == sent.address);
    let update = |when: &str| is_current.then(|| format!("latchkey users update {name} --email ADDRESS, {when}"));
    let commands = match sent.state() {
        DeliveryState::Retrying => [None, None],
        DeliveryState::Unknown => {
            [again.map(|again| format!("{again}, {}{NOTHING_CAME}", once_allowed(sent, clock))), None]
        }
        DeliveryState::Failed if is_of_mailbox => [again, update("if the user has another address")],
        DeliveryState::Failed if is_of_recipient => [update("if the address is wrong"), again],
        _ => [again, None],
    };
    said.into_iter().chain(commands.into_iter().flatten()).collect()
}

/// The command that helps where the server sends no links: a password that an operator hands over. None if another finding of
/// the user leads to one.
fn without_mail(sent: &Delivery, answer: &DiagnoseSignInResponse, means: &Means) -> Option<String> {
    let can_sign_in = matches!(answer.verdict(), SignInVerdict::Can | SignInVerdict::CanAfterSteps);
    let user = answer.user.as_ref().filter(|_| can_sign_in)?;
    let when = match sent.kind() {
        DeliveryKind::TemporaryPassword => "",
        kind if sets_password(kind) => ", if the password is forgotten",
        _ => return None,
    };
    Some(format!("{}{when}", reset(user, means, false)))
}

/// The command that sends a message again, or another temporary password. None for a notice, and after a containment, which
/// ended the link.
fn again(sent: &Delivery, answer: &DiagnoseSignInResponse, means: &Means) -> Option<String> {
    match sent.kind() {
        _ if is_contained(answer) => None,
        DeliveryKind::TemporaryPassword => answer.user.as_ref().map(|user| reset(user, means, false)),
        kind => (sets_password(kind) || kind == DeliveryKind::EmailVerification)
            .then(|| format!("latchkey deliveries resend {}", sent.id)),
    }
}

/// `✔ accepted: invitation to ada@example.com · 2 h ago`, unless a finding tells of the message.
fn mail(answer: &DiagnoseSignInResponse, clock: &Clock) -> Option<Text> {
    let mut told = answer.findings.iter().filter_map(|finding| failing(answer, finding));
    let sent = newest(answer).filter(|newest| told.all(|told| told.id != newest.id))?;
    let at = instant(sent.update_time.as_ref()).map(|at| format!(" · {}", clock.ago(at))).unwrap_or_default();
    let ended = if sent.link_end_time.is_some() { " · its link no longer works" } else { "" };
    Some(state(sent, clock).and(Tone::Plain, format!(": {}", to(sent))).and(Tone::Dim, at + ended))
}

/// `✖ Locked by root: laptop lost · 2 h ago · until tomorrow 08:00, 9 h left`.
pub(super) fn reason(finding: &SignInFinding, clock: &Clock) -> Text {
    let (tone, mark) = match finding.severity() {
        Severity::Blocking => (Tone::Bad, "✖"),
        Severity::Warning => (Tone::Warn, "!"),
        Severity::Info | Severity::Unspecified => (Tone::Dim, "·"),
    };
    Text::toned(tone, mark).and(Tone::Plain, " ").join(told(finding, clock))
}

/// What was found, since when, and until when.
pub(super) fn told(finding: &SignInFinding, clock: &Clock) -> Text {
    let since = instant(finding.since_time.as_ref()).map(|at| format!(" · {}", clock.ago(at))).unwrap_or_default();
    let until = instant(finding.until_time.as_ref()).map(|at| {
        let left = if clock.is_past(at) { String::new() } else { format!(", {}", clock.left(at)) };
        let until = if finding.code() == Code::DeliveryFailing { "next attempt" } else { "until" };
        format!(" · {until} {}{left}", clock.moment(at))
    });
    Text::from(finding.summary.trim_end_matches('.')).and(Tone::Dim, since + &until.unwrap_or_default())
}

/// `✔ not locked  ✔ not throttled` and `✔ database  ✔ server`: what does not stand in the way.
fn in_order(from: &str, answer: &DiagnoseSignInResponse, means: &Means) -> [Text; 2] {
    let Some(user) = &answer.user else { return [Text::new(), Text::new()] };
    let lacks = |codes: &[Code]| !answer.findings.iter().any(|finding| codes.contains(&finding.code()));
    let of_lock = [
        Code::LockedAsCompromised,
        Code::LockedAsDeactivated,
        Code::LockedByOperator,
        Code::LockedForInactivity,
        Code::LockedAfterFailures,
    ];
    let of_password = [Code::Pending, Code::ResetOutstanding, Code::TemporaryPasswordExpired, Code::HashUnsupported];
    let is_person = user.kind() == UserKind::Person;
    let is_ready = is_person && lacks(&[Code::ServerNotReady]);
    let of_account = [
        (lacks(&of_lock), "not locked"),
        (is_person && lacks(&of_password), "password set"),
        (is_person && lacks(&[Code::ThrottledAccount]), "not throttled"),
        (has_second_factor(answer) && lacks(&[Code::SecondFactorRejectedLately]), "codes accepted"),
        (is_person && !from.is_empty() && lacks(&[Code::ThrottledSource]), "address not blocked"),
    ];
    let is_sent = means.reaches_users() && answer.deliveries.first().is_some_and(|sent| !is_written(sent));
    let mail = is_person && is_sent && lacks(&[Code::DeliveryFailing, Code::MailUnavailable]);
    [ticks(&of_account), ticks(&[(is_ready, "database"), (is_ready, "server"), (mail, "mail")])]
}

fn ticks(checks: &[(bool, &str)]) -> Text {
    let mut text = Text::new();
    for (_, what) in checks.iter().filter(|(holds, _)| *holds) {
        let gap = if text.is_empty() { "" } else { "  " };
        text = text.and(Tone::Plain, gap).and(Tone::Good, "✔").and(Tone::Plain, format!(" {what}"));
    }
    text
}

/// Whether two attempts ended in the same way and came from the same address.
fn are_alike(one: &Event, other: &Event) -> bool {
    let address = |event: &Event| event.actor.as_ref().map(|actor| actor.client_address.clone());
    let what = |event: &Event| (event.r#type, event.outcome, event.reason, event.details.get("step").cloned());
    (what(one), address(one)) == (what(other), address(other))
}

/// `✖ today 08:14: password wrong, from 192.0.2.7 · 5 times since today 08:09`, of attempts that are alike, newest first.
fn attempts(events: &[Event], clock: &Clock) -> Text {
    let (Some(newest), Some(oldest)) = (events.first(), events.last()) else { return Text::new() };
    let at = |event: &Event| instant(event.time.as_ref()).map(|at| clock.moment(at)).unwrap_or_default();
    let (tone, mark, what) = match newest.outcome() {
        EventOutcome::Succeeded if is_step(newest, "SECOND_FACTOR") => {
            (Tone::Good, "✔", "password right, code outstanding".to_owned())
        }
        EventOutcome::Succeeded => (Tone::Good, "✔", "signed in".to_owned()),
        _ if newest.r#type() == EventType::SecondFactorFailed => (Tone::Bad, "✖", "wrong code".to_owned()),
        _ => (Tone::Bad, "✖", enum_words("latchkey.v1.ErrorReason", "ERROR_REASON_", newest.reason)),
    };
    let from = newest.actor.as_ref().map(|actor| actor.client_address.as_str()).filter(|from| !from.is_empty());
    let from = from.map(|from| format!(", from {from}")).unwrap_or_default();
    let times =
        if events.len() > 1 { format!(" · {} times since {}", events.len(), at(oldest)) } else { String::new() };
    Text::toned(tone, mark).and(Tone::Plain, format!(" {}: {what}{from}", at(newest))).and(Tone::Dim, times)
}

/// Texts with the label before the first one.
pub(super) fn labelled(
    label: &'static str,
    texts: impl Iterator<Item = Text>,
) -> impl Iterator<Item = (&'static str, Text)> {
    std::iter::once(label).chain(std::iter::repeat("")).zip(texts.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::proto::v1::GetMailStatusResponse;
    use crate::proto::v1::get_mail_status_response::Transport;

    #[test]
    fn a_link_is_not_sent_again_before_the_server_allows_it() {
        let sent = |state: DeliveryState| Delivery {
            id: "7".to_owned(),
            state: state.into(),
            resend_allowed_time: Some(prost_types::Timestamp { seconds: 90, nanos: 0 }),
            ..Delivery::default()
        };
        let at = |seconds| Clock::new(Timestamp::from_second(seconds).unwrap_or_default(), TimeZone::UTC);
        let accepted = |seconds| of_unused_link(&sent(DeliveryState::Accepted), &at(seconds));
        let again = "latchkey deliveries resend 7";
        let right = "if nothing came and the address is right";
        assert_eq!(accepted(89), [LOOK_FOR_IT.to_owned(), format!("{again}, from today 00:02 on, {right}")]);
        assert_eq!(accepted(90), [LOOK_FOR_IT.to_owned(), format!("{again}, {right}")]);
        let queued = of_unused_link(&sent(DeliveryState::Queued), &at(0));
        assert_eq!(queued.last(), Some(&format!("{again}, from today 00:02 on, {NOTHING_CAME}")));
    }

    #[test]
    fn mail_is_in_order_only_where_the_server_sends_it() {
        let sent = Delivery { state: DeliveryState::Accepted.into(), ..Delivery::default() };
        let user = User { kind: UserKind::Person.into(), ..User::default() };
        let answer = DiagnoseSignInResponse { user: Some(user), deliveries: vec![sent], ..Default::default() };
        for (transport, is_sent) in [(Transport::Smtp, true), (Transport::File, false), (Transport::Off, false)] {
            let mail = Some(GetMailStatusResponse { transport: transport.into(), ..Default::default() });
            let [_, server] = in_order("", &answer, &Means { mail, ..Means::default() });
            assert_eq!(server.to_string().contains("mail"), is_sent, "{transport:?}");
        }
    }
}
