//! `latchkey users list`.

use clap::Args;

use crate::cli::args::{Paging, enum_parser};
use crate::cli::commands::status::total;
use crate::cli::error::Error;
use crate::cli::output::table::{Column, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::Clock;
use crate::cli::output::words::{Total, attention, password, shell_word, signed_in, state};
use crate::cli::setting::Cli;
use crate::proto::v1::{
    ListUsersRequest, ListUsersResponse, SignInAbilityKind, User, UserFilter, UserFlag, UserOrder, UserState,
};

const HELP: &str = "\
All must hold; of --state, --lock-cause, --kind and --role, any of those given.

Examples:
  latchkey users list --attention
  latchkey users list --can-sign-in no --count
  latchkey users list --all -o json | jq -r '.users[].email // empty'";

/// List accounts; PREFIX begins a username, an address or a name.
#[derive(Debug, Default, Args)]
#[command(after_help = HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct List {
    /// The beginning of a username, an address or a word of the name.
    #[arg(value_name = "PREFIX", hide = true)]
    prefix: Option<String>,
    /// The same, for a text that begins with a hyphen.
    #[arg(long, value_name = "PREFIX", hide = true, conflicts_with = "prefix", allow_hyphen_values = true)]
    text: Option<String>,
    /// Only those who need help, the worst first.
    #[arg(long)]
    attention: bool,
    /// Only this answer: yes, yes-then, not-until, no.
    #[arg(long, value_name = "ANSWER", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.SignInAbilityKind", "SIGN_IN_ABILITY_KIND_"))]
    can_sign_in: Vec<i32>,
    /// Only in this state: pending, active or locked.
    #[arg(long = "state", value_name = "STATE", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.UserState", "USER_STATE_"))]
    states: Vec<i32>,
    /// Only locked accounts.
    #[arg(long, conflicts_with = "states")]
    locked: bool,
    /// Only this cause, such as compromise or operator.
    #[arg(long = "lock-cause", value_name = "CAUSE", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.LockCause", "LOCK_CAUSE_"))]
    lock_causes: Vec<i32>,
    /// Only those who must change their password.
    #[arg(long)]
    must_change: bool,
    /// Only those with a temporary password.
    #[arg(long)]
    temporary: bool,
    /// Only those with a link that they have not used.
    #[arg(long)]
    link_pending: bool,
    /// Only those to whom mail failed.
    #[arg(long)]
    mail_failed: bool,
    /// Only those who have not confirmed their address.
    #[arg(long)]
    unconfirmed: bool,
    /// Only those with an expired password.
    #[arg(long)]
    expired_password: bool,
    /// Only those throttled after wrong passwords.
    #[arg(long)]
    throttled: bool,
    /// Only those with a second factor.
    #[arg(long)]
    second_factor: bool,
    /// Only those without one.
    #[arg(long, conflicts_with = "second_factor")]
    without_second_factor: bool,
    /// Whether to list those who have to set up a second factor, for `mfa missing`.
    #[arg(skip)]
    lacks_factor: bool,
    /// Only those who have never signed in.
    #[arg(long)]
    never_signed_in: bool,
    /// Only with this role.
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// Only this kind: person or service.
    #[arg(long = "kind", value_name = "KIND", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.UserKind", "USER_KIND_"))]
    kinds: Vec<i32>,
    /// By username, or the newest first: created.
    #[arg(
        long,
        value_enum,
        value_name = "ORDER",
        default_value_t,
        hide_possible_values = true,
        hide_default_value = true
    )]
    order: Order,
    /// Also count the matches, up to 10 000.
    #[arg(long)]
    count: bool,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Order {
    /// From a to z.
    #[default]
    Username,
    /// The newest first.
    Created,
}

impl List {
    /// The list of those who have to set up a second factor.
    pub(super) fn without_required_factor(paging: Paging) -> List {
        List { lacks_factor: true, paging, ..List::default() }
    }

    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = ListUsersRequest {
            page_size: self.paging.page_size(),
            filter: Some(self.filter()),
            order: self.order().into(),
            include_total: self.count,
            ..ListUsersRequest::default()
        };
        let mut total = None;
        let mut first = None;
        let page = async |answer: &ListUsersResponse| {
            total = total.or(answer.total_size.map(|size| Total { size, is_at_least: answer.total_is_at_least }));
            if first.is_none() {
                first = answer.users.first().map(|user| format!("latchkey users show {}", shell_word(&user.username)));
            }
            table(&answer.users, cli.screen.clock())
        };
        let listed = cli.pages(&self.paging, request, page).await?;
        if self.attention && !cli.screen.is_json() {
            let amount = self.attention_of(cli, listed.more).await?;
            return cli.screen.footer(&amount, first.as_deref());
        }
        match total {
            Some(total) if listed.more && !cli.screen.is_json() => {
                let amount = format!("{} of {}; the others with --all", listed.count, total.of("user"));
                cli.screen.footer(&amount, first.as_deref())
            }
            _ => cli.list_footer(&listed, "user", first.as_deref()),
        }
    }

    /// `3 of 1 204 users need attention; 2 cannot sign in`.
    async fn attention_of(&self, cli: &Cli, more: bool) -> Result<String, Error> {
        let all = UserFilter { needs_attention: false, ..self.filter() };
        let unable = [SignInAbilityKind::NotUntil, SignInAbilityKind::No].map(i32::from).to_vec();
        let concerned = total(cli, self.filter()).await?;
        let all = total(cli, all).await?;
        let unable = total(cli, UserFilter { sign_in_abilities: unable, ..self.filter() }).await?;
        let unable = if unable.size > 0 { format!("; {} cannot sign in", unable.number()) } else { String::new() };
        let more = if more { "; there are more: --all" } else { "" };
        let need = if concerned.size == 1 { "needs" } else { "need" };
        let of_all = if concerned.is_at_least { "users".to_owned() } else { format!("of {}", all.of("user")) };
        Ok(format!("{} {of_all} {need} attention{unable}{more}", concerned.number()))
    }

    fn order(&self) -> UserOrder {
        match self.order {
            Order::Username => UserOrder::Unspecified,
            Order::Created => UserOrder::CreateTimeDesc,
        }
    }

    fn filter(&self) -> UserFilter {
        let switches = [
            (self.must_change, UserFlag::MustChange),
            (self.temporary, UserFlag::TemporaryPassword),
            (self.link_pending, UserFlag::LinkPending),
            (self.mail_failed, UserFlag::MailFailed),
            (self.unconfirmed, UserFlag::EmailUnverified),
            (self.throttled, UserFlag::Throttled),
            (self.expired_password, UserFlag::PasswordExpired),
            (self.lacks_factor, UserFlag::SecondFactorMissing),
            (self.never_signed_in, UserFlag::NeverSignedIn),
        ];
        let flags = switches.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag.into()).collect();
        let states = if self.locked { vec![UserState::Locked.into()] } else { self.states.clone() };
        UserFilter {
            text: self.prefix.clone().or_else(|| self.text.clone()).unwrap_or_default(),
            states,
            kinds: self.kinds.clone(),
            lock_causes: self.lock_causes.clone(),
            flags,
            roles: self.roles.clone(),
            needs_attention: self.attention,
            sign_in_abilities: self.can_sign_in.clone(),
            second_factor_enrolled: (self.second_factor || self.without_second_factor).then_some(self.second_factor),
            ..UserFilter::default()
        }
    }
}

fn table(users: &[User], clock: &Clock) -> Table {
    let mut table = Table::new(&[
        Column::fixed("USER"),
        Column::free("NAME").left_out(2),
        Column::fixed("STATE"),
        Column::fixed("PASSWORD").left_out(4),
        Column::fixed("SIGNED IN").left_out(1),
        Column::note("ATTENTION").left_out(3),
    ]);
    for user in users {
        table.row([
            Text::toned(Tone::Strong, &user.username),
            user.display_name.as_str().into(),
            state(user, clock),
            password(user, clock),
            signed_in(user, clock),
            attention(user, clock),
        ]);
    }
    table
}
