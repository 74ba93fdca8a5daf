//! `latchkey deliveries`: what became of the mail to users.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::idempotency_key;
use super::mail::{BeforeUse, MailRoute, Sent, Waiting, delivery_json, mail_limit, remedy, show_advice, show_sent, to};
use crate::cli::args::{self, Confirmation, Paging, enum_parser};
use crate::cli::error::{Error, Exit};
use crate::cli::output::Screen;
use crate::cli::output::delivery::{WRITTEN, is_final, is_written, outcome, purpose, state};
use crate::cli::output::table::{Column, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant};
use crate::cli::output::words::{person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::user_ref::Ref;
use crate::proto::v1::{
    CancelDeliveryRequest, Delivery, DeliveryObstacle as Obstacle, DeliveryState, GetDeliveryRequest,
    ListDeliveriesRequest, ListDeliveriesResponse, ResendDeliveryRequest, UserRef,
};

const GROUP_HELP: &str = "\
Examples:
  latchkey deliveries list --user ada
  latchkey deliveries list --state failed
  latchkey deliveries watch";

/// See what became of mail to users; send it again.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub(crate) enum Deliveries {
    List(List),
    Show(Show),
    Resend(Resend),
    Cancel(Cancel),
    Watch(Watch),
}

impl Deliveries {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Deliveries::List(list) => list.run(cli).await,
            Deliveries::Show(show) => show.run(cli).await,
            Deliveries::Resend(resend) => resend.run(cli).await,
            Deliveries::Cancel(cancel) => cancel.run(cli).await,
            Deliveries::Watch(watch) => watch.run(cli).await,
        }
    }
}

const LIST_HELP: &str = "\
Messages are kept for 90 days.

Examples:
  latchkey deliveries list --user ada
  latchkey deliveries list --state failed --state unknown
  latchkey deliveries list --kind invite --all -o json";

/// List messages to users, newest first.
#[derive(Debug, Args)]
#[command(after_help = LIST_HELP)]
pub(crate) struct List {
    /// To this user.
    #[arg(long, value_parser = user_ref::parse)]
    user: Option<UserRef>,
    /// In this state: queued, sending, retrying, accepted, failed, expired, cancelled, unknown.
    #[arg(long = "state", value_name = "STATE", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.DeliveryState", "DELIVERY_STATE_"))]
    states: Vec<i32>,
    /// Of this kind: invite, password-reset, temporary-password, email-verification, notice.
    #[arg(long = "kind", value_name = "KIND", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.DeliveryKind", "DELIVERY_KIND_"))]
    kinds: Vec<i32>,
    #[command(flatten)]
    paging: Paging,
}

impl List {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let clock = cli.screen.clock();
        let request = ListDeliveriesRequest {
            page_size: self.paging.page_size(),
            user: self.user,
            kinds: self.kinds,
            states: self.states,
            ..ListDeliveriesRequest::default()
        };
        let mut worst = None;
        let page = async |answer: &ListDeliveriesResponse| {
            let failed = |delivery: &&Delivery| delivery.state() == DeliveryState::Failed;
            let first = answer.deliveries.iter().find(failed).or_else(|| answer.deliveries.first());
            worst = worst.take().or_else(|| first.map(|delivery| format!("latchkey deliveries show {}", delivery.id)));
            table(&answer.deliveries, clock)
        };
        let listed = cli.pages(&self.paging, request, page).await?;
        cli.list_footer(&listed, "message", worst.as_deref())
    }
}

fn table(deliveries: &[Delivery], clock: &Clock) -> Table {
    let mut table = Table::new(&[
        Column::fixed("MESSAGE"),
        Column::fixed("KIND").left_out(3),
        Column::free("TO"),
        Column::fixed("CREATED").left_out(1),
        Column::fixed("STATE"),
        Column::note("LAST WORDS").left_out(2),
    ]);
    for delivery in deliveries {
        let created = instant(delivery.create_time.as_ref()).map(|at| clock.ago(at)).unwrap_or_default();
        table.row([
            delivery.id.as_str().into(),
            purpose(delivery).into(),
            delivery.address.as_str().into(),
            created.into(),
            state(delivery, clock),
            delivery.last_error.as_str().into(),
        ]);
    }
    table
}

const SHOW_HELP: &str = "\
Examples:
  latchkey deliveries show 01jq3m8d7hw4zk9x6c2v5b1n0t";

/// Show a message, with the relay's last words.
#[derive(Debug, Args)]
#[command(after_help = SHOW_HELP)]
pub(crate) struct Show {
    /// The id of the message.
    #[arg(value_name = "ID")]
    id: String,
}

impl Show {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = GetDeliveryRequest { delivery_id: self.id };
        if cli.client.is_showing() || cli.screen.is_json() {
            return cli.answer(request, |_, _| Ok(())).await;
        }
        let delivery = cli.client.call(request).await?.delivery;
        let delivery = delivery.ok_or_else(|| Error::unexpected("the server sent no message"))?;
        let user = cli.addressee(&delivery).await;
        show(&cli.screen, &delivery, user.as_ref().map(|(person, _)| person.as_str()))?;
        let name = user.map_or_else(|| format!("id:{}", delivery.user_id), |(_, name)| name);
        next(&cli.screen, &delivery, &name)
    }
}

fn show(screen: &Screen, delivery: &Delivery, person: Option<&str>) -> Result<(), Error> {
    let clock = screen.clock();
    let time = |stamp: Option<&prost_types::Timestamp>| {
        instant(stamp).map(|at| Text::from(clock.full_and_ago(at))).unwrap_or_default()
    };
    let expires = instant(delivery.expire_time.as_ref()).filter(|_| delivery.link_end_time.is_none());
    let expires = expires.map(|at| format!("{}, {}", clock.moment(at), clock.left(at))).unwrap_or_default();
    let last_words = if delivery.relay_answer.is_empty() { &delivery.last_error } else { &delivery.relay_answer };
    let attempts = if delivery.attempts == 0 { "none yet".to_owned() } else { delivery.attempts.to_string() };
    screen.line(Text::toned(Tone::Strong, to(delivery)))?;
    screen.fields([
        ("state", state(delivery, clock)),
        ("", if is_written(delivery) { Text::toned(Tone::Warn, WRITTEN) } else { Text::new() }),
        ("last words", last_words.as_str().into()),
        ("user", person.unwrap_or(&delivery.user_id).into()),
        ("relay", delivery.relay.as_str().into()),
        ("attempts", attempts.into()),
        ("created", time(delivery.create_time.as_ref())),
        ("changed", time(delivery.update_time.as_ref())),
        ("good until", expires.into()),
        ("link ended", time(delivery.link_end_time.as_ref())),
        ("repeats", delivery.resend_of.as_str().into()),
    ])
}

/// Prints what helps: sending it again, and before that what removes the obstacle.
fn next(screen: &Screen, delivery: &Delivery, user: &str) -> Result<(), Error> {
    match delivery.state() {
        DeliveryState::Accepted => Ok(()),
        DeliveryState::Failed => {
            match delivery.obstacle() {
                Obstacle::Relay | Obstacle::Message => screen.next(
                    "latchkeyd mail test ADDRESS, on the server and with its --config: it explains the failure",
                )?,
                Obstacle::Mailbox => screen.next(&format!(
                    "latchkey users update {user} --email ADDRESS, if the user has an address that is not full or closed"
                ))?,
                Obstacle::Address | Obstacle::Unspecified => {
                    screen.next(&format!("latchkey users update {user} --email ADDRESS, if the address is wrong"))?;
                }
            }
            again(screen, delivery, user)
        }
        DeliveryState::Cancelled => screen.next(&format!("latchkey deliveries list --user {user}")),
        _ if !is_final(delivery) => screen.next(&format!("latchkey deliveries watch {}", delivery.id)),
        _ => again(screen, delivery, user),
    }
}

fn again(screen: &Screen, delivery: &Delivery, user: &str) -> Result<(), Error> {
    use crate::proto::v1::DeliveryKind as Kind;

    match delivery.kind() {
        Kind::TemporaryPassword => screen.next(&format!("latchkey users reset {user}")),
        Kind::Notice | Kind::Unspecified => Ok(()),
        _ => screen.next(&format!("latchkey deliveries resend {}", delivery.id)),
    }
}

const RESEND_HELP: &str = "\
The new message has a new link, and goes to the user's present address. A link that has gone out
stays valid. Temporary passwords and notices cannot be sent again.

Examples:
  latchkey deliveries resend 01jq3m8d7hw4zk9x6c2v5b1n0t --wait";

/// Send a message again, with a new link.
#[derive(Debug, Args)]
#[command(after_help = RESEND_HELP)]
pub(crate) struct Resend {
    /// The id of the message.
    #[arg(value_name = "ID")]
    id: String,
    /// Whether it is a step of `users recover`, which says what to tell the user.
    #[arg(skip)]
    is_step: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Resend {
    /// The message again as a step of `users recover`, which follows it.
    pub(super) fn step(id: String, note: String, wait: Duration) -> Resend {
        Resend { id, is_step: true, waiting: Waiting { wait: Some(wait) }, note, confirmation: Confirmation::default() }
    }

    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let id = self.id.clone();
        let request =
            ResendDeliveryRequest { delivery_id: self.id, note: self.note, idempotency_key: idempotency_key()? };
        let is_for_people = !cli.client.is_showing() && !cli.screen.is_json();
        let route = if is_for_people { cli.mail_route(&cli.scopes().await).await } else { MailRoute::Open };
        let answer = match cli.call(request).await {
            Err(error) if error.limit() == "resends" => return Err(cli.pause(error, id).await),
            answer => answer.map_err(mail_limit)?,
        };
        let delivery = answer.delivery.clone().unwrap_or_default();
        if cli.screen.is_json() {
            cli.screen.json(&crate::cli::client::Client::reflected::<ResendDeliveryRequest>(&answer)?)?;
        } else {
            show_sent(&cli.screen, &delivery, None, BeforeUse::Nothing)?;
            if !self.is_step {
                show_advice(&cli.screen, &delivery, &route, self.waiting.wait.is_some())?;
            }
        }
        let user = format!("id:{}", delivery.user_id);
        let sent = Sent { done: "a new message was made", user: &user, tells: !self.is_step };
        cli.follow_sent(sent, Some(delivery), self.waiting).await
    }
}

impl Cli {
    /// Adds to the error for a message that is too young to be sent again where it is. The newest of its kind counts.
    async fn pause(&self, error: Error, id: String) -> Error {
        let Ok(Some(named)) =
            self.client.call(GetDeliveryRequest { delivery_id: id }).await.map(|found| found.delivery)
        else {
            return error;
        };
        let list = ListDeliveriesRequest {
            page_size: 1,
            user: Some(UserRef { r#ref: Some(Ref::Id(named.user_id.clone())) }),
            kinds: vec![named.kind],
            ..ListDeliveriesRequest::default()
        };
        let newest = self.client.call(list).await.ok().and_then(|mut found| found.deliveries.pop()).unwrap_or(named);
        match newest.state() {
            _ if !is_final(&newest) => {
                error.hint(format!("it is still being sent; follow it with `latchkey deliveries show {}`", newest.id))
            }
            DeliveryState::Accepted | DeliveryState::Unknown => {
                error.hint("ask the user to look for it, also in the spam folder, before it is sent again")
            }
            _ => error.hint(format!("`latchkey deliveries show {}` says what became of it", newest.id)),
        }
    }
}

const CANCEL_HELP: &str = "\
Examples:
  latchkey deliveries cancel 01jq3m8d7hw4zk9x6c2v5b1n0t";

/// Stop a message that has not gone out, and end its link.
#[derive(Debug, Args)]
#[command(after_help = CANCEL_HELP)]
pub(crate) struct Cancel {
    /// The id of the message.
    #[arg(value_name = "ID")]
    id: String,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Cancel {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = CancelDeliveryRequest { delivery_id: self.id.clone(), note: self.note };
        if cli.asks(self.confirmation.yes)? {
            cli.rehearse(&request).await?;
            let answer = cli.client.call(GetDeliveryRequest { delivery_id: self.id }).await?;
            let delivery = answer.delivery.unwrap_or_default();
            let question = Question::new(format!("Cancel the {}", to(&delivery)));
            let question =
                question.row("ends", "its link, for good").row("state", state(&delivery, cli.screen.clock()));
            cli.confirm(question.row("stays", "the account, and other links")).await?;
        }
        cli.answer(request, |screen, answer| {
            let delivery = answer.delivery.unwrap_or_default();
            match delivery.state() {
                DeliveryState::Cancelled => screen.done(format!("the {} does not go out", to(&delivery))),
                _ if is_final(&delivery) => screen.caution(format!(
                    "the {} was out of reach already; its link does not work any more",
                    to(&delivery)
                )),
                _ => screen.caution(format!(
                    "the {} is being sent this moment; its link does not work any more",
                    to(&delivery)
                )),
            }
        })
        .await
    }
}

const WATCH_HELP: &str = "\
Ends when nothing waits any more. With ID exits with 0 if the message was accepted, 1 if it failed,
expired, was cancelled or may have gone out, 4 if it is still under way after --for.

Examples:
  latchkey deliveries watch
  latchkey deliveries watch 01jq3m8d7hw4zk9x6c2v5b1n0t --for 10m";

/// Follow messages that are under way, and print each change.
#[derive(Debug, Args)]
#[command(after_help = WATCH_HELP)]
pub(crate) struct Watch {
    /// The id of a message; all that are under way if absent.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// No longer than this.
    #[arg(long = "for", value_name = "TIME", value_parser = args::duration)]
    length: Option<Duration>,
}

impl Watch {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        match &self.id {
            Some(id) => self.one(cli, id.clone()).await,
            None => self.all(cli).await,
        }
    }

    async fn one(&self, cli: &Cli, id: String) -> Result<(), Error> {
        let delivery = cli.client.call(GetDeliveryRequest { delivery_id: id }).await?.delivery.unwrap_or_default();
        let mut changes = Changes::default();
        changes.print(cli, &delivery)?;
        let followed = cli.follow(delivery, self.length, |now| changes.print(cli, now)).await;
        let last = followed.map_err(|(_, error)| error)?;
        let user = cli.addressee(&last).await.map_or_else(|| format!("id:{}", last.user_id), |(_, name)| name);
        match last.state() {
            DeliveryState::Accepted if is_written(&last) && !cli.screen.is_json() => cli.screen.caution(WRITTEN),
            DeliveryState::Accepted => Ok(()),
            _ => Err(not_accepted(&last, &user, cli.screen.clock())),
        }
    }

    /// Follows all that are under way. Each that comes later is followed, too.
    async fn all(&self, cli: &Cli) -> Result<(), Error> {
        let under_way =
            [DeliveryState::Queued, DeliveryState::Sending, DeliveryState::Retrying, DeliveryState::Unknown];
        let request = ListDeliveriesRequest {
            page_size: 500,
            states: under_way.map(i32::from).to_vec(),
            ..ListDeliveriesRequest::default()
        };
        let end = self.length.map(|length| tokio::time::Instant::now() + length);
        let mut changes = Changes::default();
        loop {
            let waiting = cli.client.call(request.clone()).await?.deliveries;
            let waiting: Vec<Delivery> = waiting.into_iter().filter(|delivery| !is_final(delivery)).collect();
            // What is not in the list any more has ended.
            for id in changes.gone(&waiting) {
                let ended = cli.client.call(GetDeliveryRequest { delivery_id: id }).await?.delivery.unwrap_or_default();
                changes.print(cli, &ended)?;
            }
            for delivery in &waiting {
                changes.print(cli, delivery)?;
            }
            if waiting.is_empty() || end.is_some_and(|end| tokio::time::Instant::now() >= end) {
                return if cli.screen.is_json() { Ok(()) } else { changes.summary(cli, waiting.len()) };
            }
            tokio::time::sleep(BETWEEN_LISTS).await;
        }
    }
}

/// The pause between two lists of all messages that are under way.
const BETWEEN_LISTS: Duration = Duration::from_secs(1);

/// What is known of the messages that are followed.
#[derive(Default)]
struct Changes(BTreeMap<String, (DeliveryState, i32)>);

impl Changes {
    /// Prints a message if its state differs from the one that was printed last.
    fn print(&mut self, cli: &Cli, delivery: &Delivery) -> Result<(), Error> {
        let now = (delivery.state(), delivery.attempts);
        if self.0.insert(delivery.id.clone(), now) == Some(now) {
            return Ok(());
        }
        if cli.screen.is_json() {
            return cli.screen.json_line(&delivery_json(delivery)?);
        }
        let text = state(delivery, cli.screen.clock()).and(Tone::Plain, format!("  {}", to(delivery)));
        let words = if delivery.last_error.is_empty() { String::new() } else { format!(": {}", delivery.last_error) };
        cli.screen.line(text.and(Tone::Plain, words).and(Tone::Dim, format!("  {}", delivery.id)))
    }

    /// The messages that were under way and are not in the list.
    fn gone(&self, waiting: &[Delivery]) -> Vec<String> {
        let is_open = |state: DeliveryState| {
            !matches!(
                state,
                DeliveryState::Accepted | DeliveryState::Failed | DeliveryState::Expired | DeliveryState::Cancelled
            )
        };
        let open = self.0.iter().filter(|(_, (state, _))| is_open(*state)).map(|(id, _)| id);
        open.filter(|id| waiting.iter().all(|delivery| delivery.id != **id)).cloned().collect()
    }

    fn summary(&self, cli: &Cli, waiting: usize) -> Result<(), Error> {
        match (self.0.is_empty(), waiting) {
            (true, _) => cli.screen.footer("no message is under way", Some("latchkey deliveries list")),
            (false, 0) => cli.screen.footer("nothing is under way any more", Some("latchkey deliveries list")),
            (false, number) => cli.screen.footer(&format!("{number} under way"), Some("latchkey deliveries list")),
        }
    }
}

impl Cli {
    /// The user of a message: for people, and as a USER argument. `None` if the caller may not read it.
    async fn addressee(&self, delivery: &Delivery) -> Option<(String, String)> {
        let scopes = self.scopes().await;
        if !super::may(&scopes, "users.read") {
            return None;
        }
        let user = self.user(user_ref::of_id(&delivery.user_id)).await.ok()?;
        Some((person(&user), shell_word(&user.username)))
    }
}

/// The error of a message that did not go out, or has not yet.
fn not_accepted(delivery: &Delivery, user: &str, clock: &Clock) -> Error {
    let message = format!("the {} {}", to(delivery), outcome(delivery, clock));
    if is_final(delivery) {
        Error::stopped(Exit::Stopped, message).hint(remedy(delivery, user))
    } else {
        Error::stopped(Exit::UnderWay, message)
    }
}
