//! `latchkey status`: health, caller, keys, users who need attention, mail, and the list of leaked passwords.

use clap::Args;
use serde_json::{Map, Value, json};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::audit::class_words;
use super::mail::failing_since;
use crate::cli::client::Client;
use crate::cli::client::call::Call;
use crate::cli::error::{Error, Exit};
use crate::cli::output::Screen;
use crate::cli::output::json;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant, length};
use crate::cli::output::words::{Total, count, grouped};
use crate::cli::setting::Cli;
use crate::proto::v1::get_mail_status_response::Transport;
use crate::proto::v1::{
    EventHorizon, GetMailStatusRequest, GetMailStatusResponse, GetSignInPolicyRequest, GetSignInPolicyResponse,
    GetSigningKeysRequest, GetSigningKeysResponse, ListEventsRequest, ListEventsResponse, ListUsersRequest,
    SignInAbilityKind, UserFilter, UserFlag, UserState, WhoAmIRequest, WhoAmIResponse,
};

/// The services in the health check. The empty name means the whole server.
const SERVICES: [&str; 4] = ["", "latchkey.v1.Auth", "latchkey.v1.UserAdmin", "latchkey.v1.Audit"];

/// Digits of the digest of a list of leaked passwords that tell lists apart.
const DIGEST_DIGITS: usize = 12;

const HELP: &str = "\
Exits with 0 if the server is serving, else with 3.

Examples:
  latchkey status
  latchkey status --server id.example.org:50051
  latchkey status --output json | jq .attention";

/// Look here first: the server, who you are, what needs attention.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Status {}

/// What the server answered. A part that failed, or that the caller may not see, is an error.
struct Findings {
    health: Vec<(&'static str, Option<ServingStatus>)>,
    caller: Result<WhoAmIResponse, Error>,
    keys: Result<GetSigningKeysResponse, Error>,
    attention: Option<Result<Attention, Error>>,
    mail: Option<Result<GetMailStatusResponse, Error>>,
    policy: Option<Result<GetSignInPolicyResponse, Error>>,
    audit: Option<Result<ListEventsResponse, Error>>,
}

/// The numbers of users who need an operator.
struct Attention {
    all: Total,
    cannot_sign_in: Total,
    locked: Total,
    must_change: Total,
    throttled: Total,
}

impl Status {
    /// Makes all calls and prints the answers.
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        if cli.client.is_showing() {
            cli.screen.verbatim(&cli.client.grpcurl(&HealthCheckRequest::default())?)?;
            cli.screen.verbatim(&cli.client.grpcurl(&WhoAmIRequest {})?)?;
            return cli.screen.verbatim(&cli.client.grpcurl(&counting(attention_filter()))?);
        }
        let findings = Findings::gather(cli).await?;
        if cli.screen.is_json() {
            cli.screen.json(&findings.to_json(cli)?)?;
        } else {
            findings.show(cli).await?;
        }
        if findings.is_serving() { Ok(()) } else { Err(Error::Silent(Exit::Unexpected)) }
    }
}

impl Findings {
    /// Makes all calls. Fails only if the server cannot be reached.
    async fn gather(cli: &Cli) -> Result<Findings, Error> {
        let mut health = Vec::new();
        for service in SERVICES {
            let request = HealthCheckRequest { service: service.to_owned() };
            let status = match cli.client.call_once(request).await {
                Ok(HealthCheckResponse { status }) => ServingStatus::try_from(status).ok(),
                Err(Error::Refused(_)) if !service.is_empty() => None,
                Err(error) => return Err(error),
            };
            health.push((service, status));
        }
        let caller = cli.client.call_once(WhoAmIRequest {}).await;
        let keys = cli.client.call_once(GetSigningKeysRequest::default()).await;
        let may = |scope: &str| caller.as_ref().is_ok_and(|caller| caller.scopes.iter().any(|known| known == scope));
        let attention = if may("users.read") { Some(Attention::count(cli).await) } else { None };
        let mail =
            if may("deliveries.read") { Some(cli.client.call_once(GetMailStatusRequest {}).await) } else { None };
        let policy = GetSignInPolicyRequest::default();
        let policy = if may("policy.read") { Some(cli.client.call_once(policy).await) } else { None };
        let newest = ListEventsRequest { page_size: 1, ..ListEventsRequest::default() };
        let audit = if may("audit.read") { Some(cli.client.call_once(newest).await) } else { None };
        Ok(Findings { health, caller, keys, attention, mail, policy, audit })
    }

    fn is_serving(&self) -> bool {
        self.health.iter().any(|(service, status)| service.is_empty() && *status == Some(ServingStatus::Serving))
    }

    async fn show(&self, cli: &Cli) -> Result<(), Error> {
        let screen = &cli.screen;
        let caller = match &self.caller {
            Ok(_) => Text::from(cli.client.whom().await),
            Err(_) if !cli.client.is_known() => Text::toned(Tone::Dim, "not signed in"),
            Err(error) => Text::toned(Tone::Bad, "✖ ").and(Tone::Plain, error.message()),
        };
        let known = self.caller.as_ref().ok();
        let roles = known.and_then(|caller| caller.user.as_ref()).map(|user| user.roles.join(", ")).unwrap_or_default();
        let has_roles = !roles.is_empty();
        screen.fields([
            ("server", self.server(&cli.client.target().place())),
            ("services", self.services()),
            ("as", caller),
            ("roles", roles.into()),
            ("may do", known.filter(|_| !has_roles).map(may_do).unwrap_or_default()),
            ("tokens", self.keys.as_ref().map(|keys| signing(keys, screen.clock())).unwrap_or_default()),
            ("attention", self.attention.as_ref().map(attention).unwrap_or_default()),
            ("mail", self.mail.as_ref().map(|found| mail(found, screen.clock())).unwrap_or_default()),
            ("leak list", self.policy.as_ref().map(|found| leak_list(found, screen.clock())).unwrap_or_default()),
            ("audit log", self.announced(screen.clock())),
        ])?;
        self.next(screen)
    }

    fn server(&self, place: &str) -> Text {
        let state = match self.health.first() {
            Some((_, Some(ServingStatus::Serving))) => Text::toned(Tone::Good, "●").and(Tone::Plain, " serving"),
            _ => Text::toned(Tone::Bad, "✖ not serving"),
        };
        state.and(Tone::Plain, format!(" at {place}"))
    }

    fn services(&self) -> Text {
        let mut text = Text::new();
        for (service, status) in self.health.iter().filter(|(service, _)| !service.is_empty()) {
            let (tone, mark) = match status {
                Some(ServingStatus::Serving) => (Tone::Good, "●"),
                Some(_) => (Tone::Bad, "✖"),
                None => (Tone::Dim, "–"),
            };
            let name = service.rsplit('.').next().unwrap_or(service);
            let gap = if text.is_empty() { "" } else { "  " };
            text = text.and(Tone::Plain, gap).and(tone, mark).and(Tone::Plain, format!(" {name}"));
        }
        text
    }

    /// The deletions of events that wait, so that an operator can still prevent them.
    fn announced(&self, clock: &Clock) -> Text {
        let waits =
            |horizon: &EventHorizon| Some((instant(horizon.deletion_time.as_ref())?, class_words(horizon.class())));
        let waiting: Vec<_> = self.horizons().iter().filter_map(waits).collect();
        let Some(first) = waiting.iter().map(|(at, _)| *at).min() else { return Text::new() };
        let classes: Vec<&str> = waiting.iter().map(|(_, class)| *class).collect();
        let (classes, first) = (classes.join(", "), clock.moment(first));
        let text = format!("old events ({classes}) will be deleted from {first}; audit.retention keeps them longer");
        Text::toned(Tone::Warn, "! ").and(Tone::Plain, text)
    }

    fn horizons(&self) -> &[EventHorizon] {
        self.audit.as_ref().and_then(|audit| audit.as_ref().ok()).map_or(&[], |audit| &audit.horizons)
    }

    fn next(&self, screen: &Screen) -> Result<(), Error> {
        let next = match (&self.caller, &self.attention) {
            _ if !self.is_serving() => return Ok(()),
            (Err(_), _) => "latchkey login",
            (_, Some(Ok(attention))) if attention.all.size > 0 => "latchkey users list --attention",
            (_, Some(_)) => "latchkey users list",
            (Ok(_), None) => "latchkey whoami",
        };
        screen.next(next)
    }

    fn to_json(&self, cli: &Cli) -> Result<Value, Error> {
        let health: Map<String, Value> = self
            .health
            .iter()
            .map(|(service, status)| {
                ((*service).to_owned(), status.map_or("SERVICE_UNKNOWN", |status| status.as_str_name()).into())
            })
            .collect();
        let caller = part::<WhoAmIRequest>(&self.caller)?;
        let keys = part::<GetSigningKeysRequest>(&self.keys)?;
        let server = cli.client.target().to_string();
        let attention = match &self.attention {
            Some(Ok(attention)) => attention.to_json(),
            Some(Err(error)) => error_json(error),
            None => Value::Null,
        };
        let mail = self.mail.as_ref().map(part::<GetMailStatusRequest>).transpose()?;
        let breach_list = match &self.policy {
            Some(Err(error)) => error_json(error),
            Some(policy) => part::<GetSignInPolicyRequest>(policy)?.get("breachList").cloned().unwrap_or_default(),
            None => Value::Null,
        };
        let horizons = match &self.audit {
            Some(Ok(audit)) => {
                let horizons = ListEventsResponse { horizons: audit.horizons.clone(), ..ListEventsResponse::default() };
                let horizons = json::value(&Client::reflected::<ListEventsRequest>(&horizons)?)?;
                horizons.get("horizons").cloned().unwrap_or_default()
            }
            _ => Value::Null,
        };
        Ok(json!({
            "server": server, "health": health, "whoAmI": caller, "signingKeys": keys, "attention": attention,
            "mail": mail, "breachList": breach_list, "horizons": horizons,
        }))
    }
}

/// An answer as JSON, or its error.
fn part<C: Call>(answer: &Result<C::Answer, Error>) -> Result<Value, Error> {
    match answer {
        Ok(answer) => json::value(&Client::reflected::<C>(answer)?),
        Err(error) => Ok(error_json(error)),
    }
}

fn error_json(error: &Error) -> Value {
    error.to_json().map(|error| json!(error)).unwrap_or_default()
}

/// The users who need an operator, or why they are unknown, such as while the database is away.
fn attention(found: &Result<Attention, Error>) -> Text {
    match found {
        Ok(attention) => attention.text(),
        Err(error) => Text::toned(Tone::Bad, "✖ ").and(Tone::Plain, error.message()),
    }
}

/// How mail is sent, what waits and since when, and how it went last: `● to a relay; 3 waiting, the oldest for 12 m`.
fn mail(found: &Result<GetMailStatusResponse, Error>, clock: &Clock) -> Text {
    let status = match found {
        Ok(status) => status,
        Err(error) => return Text::toned(Tone::Bad, "✖ ").and(Tone::Plain, error.message()),
    };
    let [accepted, oldest] = [&status.last_accepted_time, &status.oldest_time].map(|at| instant(at.as_ref()));
    let fails = failing_since(status);
    let (tone, mark, how) = match status.transport() {
        Transport::Off => (Tone::Dim, "–", "off: no mail is sent"),
        Transport::File => (Tone::Warn, "!", "to files on the server; no user gets it"),
        Transport::Smtp if fails.is_some() => (Tone::Bad, "✖", "to a relay"),
        Transport::Smtp => (Tone::Good, "●", "to a relay"),
        Transport::Unspecified => (Tone::Warn, "?", "in a way that this client does not know"),
    };
    let mut text = Text::toned(tone, mark).and(Tone::Plain, format!(" {how}"));
    if let Some(at) = fails {
        text = text.and(Tone::Bad, format!("; failed {}", clock.ago(at)));
        let words = if status.last_failure.is_empty() { String::new() } else { format!(": {}", status.last_failure) };
        text = text.and(Tone::Plain, words);
    }
    if let Some(at) = accepted.filter(|_| status.transport() == Transport::Smtp) {
        text = text.and(Tone::Plain, format!("; last accepted {}", clock.ago(at)));
    }
    if status.waiting > 0 {
        let since = oldest.map(|at| format!(", the oldest for {}", clock.age(at))).unwrap_or_default();
        text = text.and(Tone::Plain, format!("; {} waiting{since}", grouped(status.waiting)));
    }
    if !status.links_enabled && status.transport() != Transport::Off {
        text = text.and(Tone::Warn, "; no links can be made");
    }
    text
}

/// The list of leaked passwords: `● 1 204 passwords, digest 0f3a…, built 6 d ago`.
fn leak_list(found: &Result<GetSignInPolicyResponse, Error>, clock: &Clock) -> Text {
    let list = match found {
        Ok(policy) => policy.breach_list.as_ref(),
        Err(error) => return Text::toned(Tone::Bad, "✖ ").and(Tone::Plain, error.message()),
    };
    let Some(list) = list else { return Text::toned(Tone::Dim, "– none") };
    let digest: String = list.digest.chars().take(DIGEST_DIGITS).collect();
    let built = instant(list.build_time.as_ref()).map(|at| format!(", built {}", clock.ago(at))).unwrap_or_default();
    let text = format!(" {}, digest {digest}{built}", count(list.size, "password"));
    if list.problem.is_empty() {
        return Text::toned(Tone::Good, "●").and(Tone::Plain, text);
    }
    Text::toned(Tone::Bad, "✖").and(Tone::Plain, text).and(Tone::Bad, format!("; {}", list.problem))
}

impl Attention {
    async fn count(cli: &Cli) -> Result<Attention, Error> {
        let locked = UserFilter { states: vec![UserState::Locked.into()], ..UserFilter::default() };
        let flagged = |flag: UserFlag| UserFilter { flags: vec![flag.into()], ..UserFilter::default() };
        let unable = [SignInAbilityKind::NotUntil, SignInAbilityKind::No].map(i32::from).to_vec();
        Ok(Attention {
            all: total(cli, attention_filter()).await?,
            cannot_sign_in: total(cli, UserFilter { sign_in_abilities: unable, ..UserFilter::default() }).await?,
            locked: total(cli, locked).await?,
            must_change: total(cli, flagged(UserFlag::MustChange)).await?,
            throttled: total(cli, flagged(UserFlag::Throttled)).await?,
        })
    }

    /// Counts are numbers; `atLeast` names those that have stopped before the end.
    fn to_json(&self) -> Value {
        let counts = [
            ("all", self.all),
            ("cannotSignIn", self.cannot_sign_in),
            ("locked", self.locked),
            ("mustChange", self.must_change),
            ("throttled", self.throttled),
        ];
        let mut attention: Map<String, Value> =
            counts.iter().map(|(name, total)| ((*name).to_owned(), total.size.into())).collect();
        let at_least: Vec<&str> = counts.iter().filter(|(_, total)| total.is_at_least).map(|(name, _)| *name).collect();
        if !at_least.is_empty() {
            attention.insert("atLeast".to_owned(), at_least.into());
        }
        attention.into()
    }

    fn text(&self) -> Text {
        if self.all.size == 0 {
            return Text::toned(Tone::Good, "●").and(Tone::Plain, " none");
        }
        if self.all.is_at_least {
            // The two parts cannot be told apart.
            let all = Text::toned(Tone::Warn, format!("{} of all kinds", self.all.number()));
            return match self.cannot_sign_in {
                Total { size: 0, .. } => all,
                unable => all.and(Tone::Plain, ", ").and(Tone::Bad, format!("{} cannot sign in", unable.number())),
            };
        }
        let parts = [
            (Tone::Bad, self.cannot_sign_in.size, "cannot sign in"),
            (Tone::Warn, self.all.size.saturating_sub(self.cannot_sign_in.size), "must change the password"),
        ];
        let mut text = Text::new();
        for (tone, number, what) in parts.into_iter().filter(|(_, number, _)| *number > 0) {
            let comma = if text.is_empty() { "" } else { ", " };
            text = text.and(Tone::Plain, comma).and(tone, format!("{} {what}", grouped(number)));
        }
        text
    }
}

/// The number of scopes of a caller without roles. `latchkey whoami` lists them.
fn may_do(caller: &WhoAmIResponse) -> Text {
    match caller.scopes.len() {
        0 => Text::toned(Tone::Dim, "nothing beyond its own account"),
        number => Text::from(count(number, "scope")).and(Tone::Dim, "; latchkey whoami lists them"),
    }
}

fn attention_filter() -> UserFilter {
    UserFilter { needs_attention: true, ..UserFilter::default() }
}

fn counting(filter: UserFilter) -> ListUsersRequest {
    ListUsersRequest { page_size: 1, include_total: true, filter: Some(filter), ..ListUsersRequest::default() }
}

/// The number of users that a filter selects.
pub(super) async fn total(cli: &Cli, filter: UserFilter) -> Result<Total, Error> {
    let answer = cli.client.call_once(counting(filter)).await?;
    Ok(Total { size: answer.total_size.unwrap_or_default(), is_at_least: answer.total_is_at_least })
}

/// `signed with key 7f…, for 3 d; with the next from tomorrow 02:14`.
fn signing(keys: &GetSigningKeysResponse, clock: &Clock) -> Text {
    let Some(current) = keys.keys.first() else { return Text::toned(Tone::Bad, "✖ no key") };
    let since = instant(current.not_before.as_ref());
    let age = since.filter(|at| clock.is_past(*at)).map(|at| {
        let seconds = u64::try_from(clock.now().as_second() - at.as_second()).unwrap_or(0);
        format!(", for {}", length(std::time::Duration::from_secs(seconds)))
    });
    let starts = keys.keys.iter().skip(1).filter_map(|key| instant(key.not_before.as_ref()));
    let next =
        starts.filter(|at| !clock.is_past(*at)).min().map(|at| format!("; with the next from {}", clock.moment(at)));
    Text::from(format!("signed with key {}{}{}", current.key_id, age.unwrap_or_default(), next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;

    fn printed(status: GetMailStatusResponse) -> Result<String, jiff::Error> {
        let clock = Clock::new(Timestamp::from_second(10_000)?, TimeZone::UTC);
        Ok(anstream::adapter::strip_str(&mail(&Ok(status), &clock).to_string()).to_string())
    }

    fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn mail_says_how_it_goes_out_and_what_waits() -> Result<(), jiff::Error> {
        let of = |transport: Transport| GetMailStatusResponse {
            transport: transport.into(),
            links_enabled: true,
            ..GetMailStatusResponse::default()
        };
        assert_eq!(printed(of(Transport::Off))?, "– off: no mail is sent");
        assert_eq!(printed(of(Transport::File))?, "! to files on the server; no user gets it");
        let relay = of(Transport::Smtp);
        let good = GetMailStatusResponse {
            last_accepted_time: Some(at(9_992)),
            last_failure_time: Some(at(9_000)),
            ..relay.clone()
        };
        assert_eq!(printed(good)?, "● to a relay; last accepted 8 s ago");
        let bad = GetMailStatusResponse {
            waiting: 3,
            oldest_time: Some(at(9_280)),
            last_accepted_time: Some(at(6_400)),
            last_failure_time: Some(at(9_880)),
            last_failure: "451 try later".to_owned(),
            ..relay
        };
        assert_eq!(
            printed(bad)?,
            "✖ to a relay; failed 2 m ago: 451 try later; last accepted 1 h ago; 3 waiting, the oldest for 12 m"
        );
        Ok(())
    }
}
