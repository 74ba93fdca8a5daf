//! What the policy means for the users there are: missing second factors, passwords that expire, locks for inactivity.

use clap::Args;

use crate::cli::error::Error;
use crate::cli::output::Screen;
use crate::cli::output::table::{Column, Layout, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::instant;
use crate::cli::output::words::{count, grouped};
use crate::cli::setting::Cli;
use crate::proto::v1::{ExpiringPasswords, GetSignInPolicyRequest, PolicyImpact};

/// Cells of the longest bar.
const CELLS: i64 = 24;

/// Names that a row of the table shows.
const NAMES: usize = 4;

const HELP: &str = "\
Passwords that users may keep are counted. `latchkey policy preview` shows the same for
a change, before you make it.

Examples:
  latchkey policy report
  latchkey policy report --output json | jq '.impact.passwordsExpiring'";

/// Show for whom the policy means something: missing factors, and passwords that expire.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Report {}

impl Report {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = GetSignInPolicyRequest { include_impact: true };
        cli.answer(request, |screen, answer| {
            let impact = answer.impact.unwrap_or_default();
            screen.fields([
                ("second factor", missing(&impact).into()),
                ("passwords", passwords(&impact).into()),
                ("old passwords", unjudged(&impact).unwrap_or_default().into()),
                ("inactivity", inactive(&impact).into()),
            ])?;
            expiring(screen, &impact)
        })
        .await
    }
}

/// How many people must set up a second factor.
pub(super) fn missing(impact: &PolicyImpact) -> String {
    let people = match impact.second_factors_missing {
        0 => return "no user lacks a second factor that the policy asks for".to_owned(),
        number => count(number, "user"),
    };
    let tokens = match impact.api_tokens_of_users_without_factor {
        0 => String::new(),
        number => format!("; their {} go on", count(number, "API token")),
    };
    format!("{people} must set one up{tokens}")
}

/// How many passwords are older than the rules, and not judged yet. `None` if no password is.
pub(super) fn unjudged(impact: &PolicyImpact) -> Option<String> {
    Some(impact.passwords_unjudged)
        .filter(|number| *number > 0)
        .map(|number| format!("{} not judged yet", grouped(number)))
}

/// How many accounts are locked for inactivity.
pub(super) fn inactive(impact: &PolicyImpact) -> String {
    match impact.inactive_locked {
        0 => "no user is inactive".to_owned(),
        1 => "1 user is locked unless they sign in".to_owned(),
        number => format!("{} are locked unless they sign in", count(number, "user")),
    }
}

/// How many passwords expire.
pub(super) fn passwords(impact: &PolicyImpact) -> String {
    let Some(expired) = &impact.passwords_expired else { return "no password expires".to_owned() };
    let expiring: i32 = impact.passwords_expiring.iter().map(|week| week.users).sum();
    let later = impact.passwords_expiring_later;
    let parts = [
        Some(format!("of {}, {} have expired", count(impact.users, "password"), grouped(expired.users))),
        (expiring > 0).then(|| format!("{} will within a quarter", grouped(expiring))),
        (later > 0).then(|| format!("{} later", grouped(later))),
        (impact.users_untold > 0).then(|| format!("{} cannot be told by mail", count(impact.users_untold, "user"))),
        impact.passwords_incomplete.then(|| "the last weeks were not counted: that took too long".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Shows the weeks in which passwords expire, with a bar and the first names of each.
pub(super) fn expiring(screen: &Screen, impact: &PolicyImpact) -> Result<(), Error> {
    let expired = impact.passwords_expired.iter().filter(|expired| expired.users > 0);
    let groups: Vec<&ExpiringPasswords> = expired.chain(&impact.passwords_expiring).collect();
    let most = groups.iter().map(|group| group.users).max().unwrap_or_default();
    if most == 0 {
        return Ok(());
    }
    let columns = [Column::fixed("EXPIRES"), Column::fixed("USERS"), Column::fixed(""), Column::wrapped("FIRST")];
    let mut table = Table::new(&columns);
    for group in groups {
        let (when, tone) = match instant(group.begin_time.as_ref()) {
            Some(begin) => (format!("from {}", screen.clock().day(begin)), Tone::Plain),
            None => ("expired".to_owned(), Tone::Warn),
        };
        let bar = Text::toned(Tone::Dim, bar(group.users, most));
        table.row([Text::toned(tone, when), grouped(group.users).into(), bar, names(group).into()]);
    }
    screen.table(table, &mut Layout::default())
}

fn bar(users: i32, most: i32) -> String {
    // At least one cell: no bar would look like no user.
    let cells = (i64::from(users) * CELLS / i64::from(most.max(1))).max(1);
    "█".repeat(usize::try_from(cells).unwrap_or_default())
}

/// `ada, bob, carol, dan and 116 others`.
fn names(group: &ExpiringPasswords) -> String {
    let shown = group.usernames.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match group.users.saturating_sub(i32::try_from(group.usernames.len().min(NAMES)).unwrap_or_default()) {
        0 => shown,
        others => format!("{shown} and {}", count(others, "other")),
    }
}
