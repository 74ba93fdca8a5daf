//! `latchkey mfa missing`: the users whom the policy asks for a second factor, and who have none.

use clap::Args;

use super::users::list_without_required_factor;
use crate::cli::args::Paging;
use crate::cli::error::Error;
use crate::cli::setting::Cli;

const HELP: &str = "\
Also those whom the policy will ask: `latchkey policy show` says from when on.

Examples:
  latchkey mfa missing
  latchkey mfa missing --all --output json | jq -r '.users[].email // empty'";

/// List users who have to set up a second factor.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Missing {
    #[command(flatten)]
    paging: Paging,
}

impl Missing {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        list_without_required_factor(cli, self.paging).await
    }
}
