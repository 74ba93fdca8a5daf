//! `latchkey roles`: what each role may do.

use clap::{Args, Subcommand};

use crate::cli::error::Error;
use crate::cli::output::table::{Column, Layout, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::words::count;
use crate::cli::setting::Cli;
use crate::proto::v1::ListRolesRequest;

const HELP: &str = "\
Examples:
  latchkey roles
  latchkey users update ada --add-role helpdesk";

/// List the roles and what each may do.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Roles {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Verb {
    /// The same: list the roles.
    #[command(after_help = HELP)]
    List,
}

impl Roles {
    /// Prints the roles.
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let (None | Some(Verb::List)) = self.verb;
        cli.answer(ListRolesRequest {}, |screen, answer| {
            let mut table = Table::new(&[Column::fixed("ROLE"), Column::wrapped("FOR"), Column::note("SCOPES")]);
            for role in &answer.roles {
                table.row([
                    Text::toned(Tone::Strong, &role.name),
                    Text::from(role.description.as_str()),
                    Text::from(role.scopes.join(" ")),
                ]);
            }
            screen.table(table, &mut Layout::default())?;
            screen.footer(&count(answer.roles.len(), "role"), Some("latchkey users list --role admin"))
        })
        .await
    }
}
