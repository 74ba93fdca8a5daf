//! `latchkey policy`: what the server asks of everybody who signs in.

use clap::{Args, Subcommand};
use prost_types::Timestamp;

use crate::cli::args::Confirmation;
use crate::cli::error::Error;
use crate::cli::output::Screen;
use crate::cli::output::time::{instant, stamp};
use crate::cli::output::words::count;
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::proto::v1::{GetSignInPolicyRequest, PolicyImpact, RoleNames, SignInPolicy, UpdateSignInPolicyRequest};

const GROUP_HELP: &str = "\
Examples:
  latchkey policy show
  latchkey policy preview --second-factor all
  latchkey policy set --second-factor operator,admin --from 2027-01-01";

/// See and change whom the server asks for a second factor.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub(crate) enum Policy {
    Show(Show),
    Preview(Preview),
    Set(Set),
}

impl Policy {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Policy::Show(_) => {
                let request = GetSignInPolicyRequest { include_impact: true };
                cli.answer(request, |screen, answer| show(screen, answer.policy, answer.impact)).await
            }
            Policy::Preview(preview) => {
                let request = preview.change.request(cli)?;
                let request = UpdateSignInPolicyRequest { validate_only: true, ..request };
                cli.answer(request, |screen, answer| {
                    screen.note("Nothing was changed. The policy would be:");
                    show(screen, answer.policy, answer.impact)
                })
                .await
            }
            Policy::Set(set) => set.run(cli).await,
        }
    }
}

const SHOW_HELP: &str = "\
Examples:
  latchkey policy show
  latchkey policy show --output json | jq .policy";

/// Show the policy, and for whom it means something.
#[derive(Debug, Args)]
#[command(after_help = SHOW_HELP)]
pub(crate) struct Show {}

/// What to change.
#[derive(Debug, Args)]
struct Change {
    /// The users to ask for a second factor: `all`, `none`, or roles with commas between.
    #[arg(long, value_name = "WHOM", value_delimiter = ',')]
    second_factor: Vec<String>,
    /// From when on, such as `2027-01-01`, `7d` or `now`.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
}

impl Change {
    fn request(self, cli: &Cli) -> Result<UpdateSignInPolicyRequest, Error> {
        if self.second_factor.is_empty() && self.from.is_none() {
            return Err(Error::usage("say what to change").hint("`--second-factor WHOM` or `--from TIME`"));
        }
        let whom: Vec<&str> = self.second_factor.iter().map(String::as_str).collect();
        let (required, roles) = match whom.as_slice() {
            [] => (None, None),
            ["all"] => (Some(true), Some(Vec::new())),
            ["none"] => (Some(false), Some(Vec::new())),
            _ => (Some(false), Some(self.second_factor.clone())),
        };
        let from = match self.from.as_deref() {
            None => None,
            // The server takes a time that has passed as at once.
            Some("now") => Some(Timestamp::default()),
            Some(text) => {
                let at = cli.screen.clock().parse_future(text);
                Some(stamp(at.map_err(|fault| Error::usage(format!("--from: {fault}")))?))
            }
        };
        let policy = SignInPolicy {
            second_factor_required: required,
            second_factor_roles: roles.map(|names| RoleNames { names }),
            second_factor_required_from_time: from,
            etag: String::new(),
        };
        Ok(UpdateSignInPolicyRequest { policy: Some(policy), include_impact: true, ..Default::default() })
    }
}

const PREVIEW_HELP: &str = "\
Examples:
  latchkey policy preview --second-factor all
  latchkey mfa missing";

/// Say what a change would mean, and change nothing.
#[derive(Debug, Args)]
#[command(after_help = PREVIEW_HELP)]
pub(crate) struct Preview {
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    confirmation: Confirmation,
}

const SET_HELP: &str = "\
Users who are asked and have no second factor set one up at the next sign-in.
Sessions without one end at their next refresh; API tokens go on. Until the
time of --from, sign-ins only announce it.

Examples:
  latchkey policy set --second-factor operator,admin
  latchkey policy set --second-factor all --from 2027-01-01 --note \"board decision 12\"
  latchkey policy set --second-factor none";

/// Change the policy.
#[derive(Debug, Args)]
#[command(after_help = SET_HELP)]
pub(crate) struct Set {
    #[command(flatten)]
    change: Change,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the policy is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Set {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = UpdateSignInPolicyRequest { note: self.note, etag: self.etag, ..self.change.request(cli)? };
        if cli.asks(self.confirmation.yes)? {
            let dry = cli.call(UpdateSignInPolicyRequest { validate_only: true, ..request.clone() }).await?;
            let (policy, impact) = (dry.policy.unwrap_or_default(), dry.impact.unwrap_or_default());
            let question = Question::new("Change the policy of signing in".to_owned())
                .row("asks", asks(&cli.screen, &policy))
                .row("means", means(impact));
            cli.confirm(question).await?;
        }
        cli.answer(request, |screen, answer| {
            screen.done("the policy is changed".to_owned())?;
            show(screen, answer.policy, answer.impact)
        })
        .await
    }
}

fn show(screen: &Screen, policy: Option<SignInPolicy>, impact: Option<PolicyImpact>) -> Result<(), Error> {
    let (policy, impact) = (policy.unwrap_or_default(), impact.unwrap_or_default());
    screen.fields([
        ("second factor", asks(screen, &policy).into()),
        ("missing", means(impact).into()),
        ("etag", policy.etag.as_str().into()),
    ])?;
    if impact.second_factors_missing > 0 {
        screen.next("latchkey mfa missing")?;
    }
    Ok(())
}

/// The users whom the policy asks for a second factor, and from when on.
fn asks(screen: &Screen, policy: &SignInPolicy) -> String {
    let roles = policy.second_factor_roles.clone().unwrap_or_default().names;
    let whom = match (policy.second_factor_required(), roles.is_empty()) {
        (true, _) => "of everybody".to_owned(),
        (false, true) => return "of no user; each may set one up".to_owned(),
        (false, false) => format!("of members of {}", roles.join(", ")),
    };
    match instant(policy.second_factor_required_from_time.as_ref()) {
        Some(from) => format!("{whom}, from {}", screen.clock().moment(from)),
        None => whom,
    }
}

fn means(impact: PolicyImpact) -> String {
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
