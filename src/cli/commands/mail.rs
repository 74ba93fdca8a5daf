//! What the commands that send mail share: following a message, and saying what became of it.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::time::Instant;

use super::may;
use crate::cli::args;
use crate::cli::error::{Error, Exit};
use crate::cli::output::Screen;
use crate::cli::output::delivery::{WRITTEN, is_final, is_written, kind, notice, outcome, state};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::instant;
use crate::cli::setting::Cli;
use crate::proto::v1::get_mail_status_response::Transport;
use crate::proto::v1::{
    Delivery, DeliveryKind, DeliveryObstacle, DeliveryState, GetDeliveryRequest, GetMailStatusRequest,
    GetMailStatusResponse,
};

/// The pause between two questions for the state of a message.
const PAUSE: Duration = Duration::from_millis(500);
/// The pause between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(100);
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The option to follow a message.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Waiting {
    /// Follow the mail, for 2m unless you say how long.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "2m", value_parser = args::duration)]
    pub(super) wait: Option<Duration>,
}

/// What a command did that sent a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a> {
    /// The act, as the subject of a sentence: "the reset is done".
    pub(super) done: &'a str,
    /// The user, as a USER argument.
    pub(super) user: &'a str,
    /// Whether to say what to tell the user, once the mail has gone out or is still under way.
    pub(super) tells: bool,
}

/// How the server's mail goes.
#[derive(Debug)]
pub(super) enum MailRoute {
    /// To a relay, or it is unknown.
    Open,
    /// To files instead.
    Files,
    /// To a relay that failed the last message that it failed or took, and when it did.
    Failing(Timestamp, String),
}

impl MailRoute {
    fn of(status: &GetMailStatusResponse) -> MailRoute {
        match (status.transport(), failing_since(status)) {
            (Transport::File, _) => MailRoute::Files,
            (Transport::Smtp, Some(at)) => MailRoute::Failing(at, status.last_failure.clone()),
            _ => MailRoute::Open,
        }
    }
}

impl Cli {
    /// How the server's mail goes. Asks only a caller who may know it, since a refusal is an event.
    pub(super) async fn mail_route(&self, scopes: &[String]) -> MailRoute {
        if !may(scopes, "deliveries.read") {
            return MailRoute::Open;
        }
        let status = self.client.call(GetMailStatusRequest {}).await;
        status.map_or(MailRoute::Open, |status| MailRoute::of(&status))
    }

    /// Follows a message until its end, for `wait` at most, and says what became of it. Without `wait` does nothing.
    pub(super) async fn follow_sent(
        &self,
        sent: Sent<'_>,
        delivery: Option<Delivery>,
        waiting: Waiting,
    ) -> Result<(), Error> {
        let (Some(wait), Some(delivery)) = (waiting.wait, delivery) else { return Ok(()) };
        let last = self.follow(delivery, Some(wait), |_| Ok(())).await.map_err(|(last, error)| {
            let message = format!("{}, but its mail cannot be followed: {}", sent.done, error.message());
            Error::stopped(Exit::UnderWay, message).hint(watch(&last))
        })?;
        if self.screen.is_json() {
            self.screen.json(&delivery_json(&last)?)?;
        }
        self.report(sent, &last)
    }

    /// Prints what became of a message at last, or returns it as the error of the command.
    pub(super) fn report(&self, sent: Sent<'_>, delivery: &Delivery) -> Result<(), Error> {
        let (done, outcome) = (sent.done, outcome(delivery, self.screen.clock()));
        // A mail that waits for the relay may be long in coming.
        let tells = sent.tells && !self.screen.is_json() && delivery.obstacle() != DeliveryObstacle::Relay;
        let told = tell(delivery).filter(|_| tells);
        let advise = || told.map_or(Ok(()), |tell| self.screen.fields([("tell the user", tell.into())]));
        match delivery.state() {
            _ if !is_final(delivery) => {
                advise()?;
                let message = format!("{done}; its mail to {} {outcome}", delivery.address);
                Err(Error::stopped(Exit::UnderWay, message).hint(watch(delivery)))
            }
            DeliveryState::Accepted if self.screen.is_json() => Ok(()),
            DeliveryState::Accepted if is_written(delivery) => self.screen.caution(WRITTEN),
            DeliveryState::Accepted => {
                self.screen.done(format!("the mail to {} {outcome}", delivery.address))?;
                advise()
            }
            _ => {
                let message = format!("{done}, but its mail to {} {outcome}", delivery.address);
                Err(Error::stopped(Exit::Stopped, message).hint(remedy(delivery, sent.user)))
            }
        }
    }

    /// Asks for the state of a message until its end, for `wait` at most, and calls `seen` after each answer. At a terminal a
    /// spinner shows the state. The error comes with the last known state.
    pub(super) async fn follow(
        &self,
        mut delivery: Delivery,
        wait: Option<Duration>,
        mut seen: impl FnMut(&Delivery) -> Result<(), Error>,
    ) -> Result<Delivery, (Delivery, Error)> {
        let end = wait.map(|wait| Instant::now() + wait);
        let mut pictures = SPINNER.iter().cycle();
        while !is_final(&delivery) && end.is_none_or(|end| Instant::now() < end) {
            let next = Instant::now() + PAUSE;
            while Instant::now() < next {
                let picture = pictures.next().copied().unwrap_or_default();
                let line = Text::toned(Tone::Dim, format!("{picture} mail to {}: ", delivery.address));
                self.screen.spin(line.join(state(&delivery, self.screen.clock())));
                tokio::time::sleep(TICK).await;
            }
            let request = GetDeliveryRequest { delivery_id: delivery.id.clone() };
            let answer = self.client.call(request).await;
            self.screen.stop_spinning();
            match answer.map(|answer| answer.delivery) {
                Ok(Some(now)) => delivery = now,
                Ok(None) => return Err((delivery, Error::unexpected("the server sent no message"))),
                Err(error) => return Err((delivery, error)),
            }
            if let Err(error) = seen(&delivery) {
                return Err((delivery, error));
            }
        }
        Ok(delivery)
    }
}

/// When the server's mail failed last, unless mail was accepted since: between two successes a failure was mended.
pub(super) fn failing_since(status: &GetMailStatusResponse) -> Option<Timestamp> {
    let accepted = instant(status.last_accepted_time.as_ref());
    instant(status.last_failure_time.as_ref()).filter(|failed| accepted.is_none_or(|accepted| accepted < *failed))
}

/// A message as the answer of `GetDelivery` in JSON.
pub(super) fn delivery_json(delivery: &Delivery) -> Result<serde_json::Value, Error> {
    use crate::cli::client::Client;
    use crate::proto::v1::GetDeliveryResponse;

    let answer = GetDeliveryResponse { delivery: Some(delivery.clone()) };
    crate::cli::output::json::value(&Client::reflected::<GetDeliveryRequest>(&answer)?)
}

/// Adds the hint for a limit on messages.
pub(super) fn mail_limit(error: Error) -> Error {
    match error.limit() {
        "messages" => error.hint("a user gets at most 10 links and temporary passwords an hour"),
        "operator_messages" => error.hint("an operator sends at most 600 links and temporary passwords an hour"),
        _ => error,
    }
}

fn watch(delivery: &Delivery) -> String {
    format!("follow it with `latchkey deliveries watch {}`", delivery.id)
}

/// What helps a message that did not go out.
pub(super) fn remedy(delivery: &Delivery, user: &str) -> String {
    let first = remove_obstacle(delivery, user);
    let again = format!("`latchkey deliveries resend {}`", delivery.id);
    match (delivery.kind(), first) {
        // It was replaced by a newer one, more often than not.
        _ if delivery.state() == DeliveryState::Cancelled => {
            format!("see which one came after it with `latchkey deliveries list --user {user}`")
        }
        (DeliveryKind::TemporaryPassword, Some(first)) => format!("{first}; then `latchkey users reset {user}`"),
        (DeliveryKind::TemporaryPassword, None) => {
            format!("let the user choose a password with `latchkey users reset {user}`")
        }
        (DeliveryKind::Notice | DeliveryKind::Unspecified, first) => {
            first.unwrap_or_else(|| "a notice is not sent again".to_owned())
        }
        (_, Some(first)) => format!("{first}; then {again}"),
        (_, None) => format!("send it again with {again}"),
    }
}

/// What to do before a message is sent again.
fn remove_obstacle(delivery: &Delivery, user: &str) -> Option<String> {
    use DeliveryObstacle::{Address, Mailbox, Message, Relay, Unspecified};

    match delivery.obstacle() {
        Relay | Message => {
            Some("`latchkeyd mail test ADDRESS` with the server's --config explains the failure".to_owned())
        }
        Mailbox => Some("ask the user to put the mailbox in order, or for another address".to_owned()),
        Address | Unspecified => (delivery.state() == DeliveryState::Failed)
            .then(|| format!("if the address is wrong, `latchkey users update {user} --email ADDRESS`")),
    }
}

/// What changes before a link is used.
#[derive(Debug, Clone, Copy)]
pub(super) enum BeforeUse {
    Nothing,
    LockLifted,
    AccessEnded,
}

/// Prints `✔ a link by mail to ada@example.com, good until tomorrow 02:14; nothing changes until it is used`.
pub(super) fn show_sent(
    screen: &Screen,
    delivery: &Delivery,
    expire_time: Option<&prost_types::Timestamp>,
    before: BeforeUse,
) -> Result<(), Error> {
    let what = match delivery.kind() {
        DeliveryKind::TemporaryPassword => "a temporary password",
        DeliveryKind::Notice => "a notice",
        DeliveryKind::Invite => "an invitation",
        _ => "a link",
    };
    let good = instant(expire_time.or(delivery.expire_time.as_ref()));
    let good = good.map(|end| format!(", good until {}", screen.clock().moment(end))).unwrap_or_default();
    let rest = match (delivery.kind(), before) {
        (DeliveryKind::PasswordReset, BeforeUse::Nothing) => "; nothing changes until it is used",
        (DeliveryKind::PasswordReset, BeforeUse::LockLifted) => "; nothing else changes until it is used",
        _ => "",
    };
    screen.done(format!("{what} by mail to {}{good}{rest}", delivery.address))
}

/// Prints what to tell the user, and the command that shows what becomes of the message. Of a message that is followed,
/// [`Cli::report`] tells when its outcome is known.
pub(super) fn show_advice(screen: &Screen, delivery: &Delivery, route: &MailRoute, follows: bool) -> Result<(), Error> {
    if follows {
        return Ok(());
    }
    match (route, tell(delivery)) {
        (MailRoute::Files, _) => screen.caution("mail is written to files on the server; no user gets it")?,
        (MailRoute::Failing(at, words), _) => screen.caution(format!(
            "the last mail of the server failed {}: {words}; this one is kept and tried again: see `latchkey status`",
            screen.clock().ago(*at)
        ))?,
        (MailRoute::Open, Some(tell)) => screen.fields([("tell the user", tell.into())])?,
        (MailRoute::Open, None) => {}
    }
    screen.next(&format!("latchkey deliveries watch {}", delivery.id))
}

/// What to tell the user of a message. `None` if there is nothing to do.
fn tell(delivery: &Delivery) -> Option<&'static str> {
    Some(match delivery.kind() {
        DeliveryKind::Invite | DeliveryKind::PasswordReset => {
            "open the link in the newest mail and choose a password; look into the spam folder, too"
        }
        DeliveryKind::TemporaryPassword => "sign in with the password in the newest mail, and choose another one then",
        DeliveryKind::EmailVerification => "open the link in the newest mail; the password stays as it is",
        DeliveryKind::Notice | DeliveryKind::Unspecified => return None,
    })
}

/// The words for what a message is for and where it goes: `password reset to ada@example.com`, `notice (address changed) to
/// ada@example.com`.
pub(super) fn to(delivery: &Delivery) -> String {
    let notice = notice(delivery).map(|notice| format!(" ({notice})")).unwrap_or_default();
    format!("{}{notice} to {}", kind(delivery.kind()), delivery.address)
}
