//! `latchkey mfa`: sets up and removes one's own second factor. Its reset by an operator is in `mfa_reset.rs`.

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use tonic::Code;

use super::Loss;
use super::mfa_missing::Missing;
use super::mfa_reset::Reset;
use crate::cli::args::Confirmation;
use crate::cli::client::Client;
use crate::cli::error::{Error, Refusal};
use crate::cli::factor::{Codes, TRIES, digits};
use crate::cli::output::Screen;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::instant;
use crate::cli::output::words::count;
use crate::cli::setting::Cli;
use crate::proto::v1::second_factor_proof::Code as ProofCode;
use crate::proto::v1::{
    ConfirmTotpRequest, ConfirmTotpResponse, DisableTotpRequest, EnrollTotpRequest, EnrollTotpResponse,
    RegenerateRecoveryCodesRequest, SecondFactorProof, WhoAmIRequest,
};

const GROUP_HELP: &str = "\
Examples:
  latchkey mfa enroll
  latchkey mfa reset ada --note \"ticket 4711, called back\"";

/// Set up your second factor; reset that of a user.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub(crate) enum Mfa {
    Enroll(Enroll),
    Confirm(Confirm),
    Disable(Disable),
    Codes(NewCodes),
    Missing(Missing),
    Reset(Reset),
}

impl Mfa {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Mfa::Enroll(enroll) => enroll.run(cli).await,
            Mfa::Confirm(confirm) => confirm.run(cli).await,
            Mfa::Disable(disable) => disable.run(cli).await,
            Mfa::Codes(codes) => codes.run(cli).await,
            Mfa::Missing(missing) => missing.run(cli).await,
            Mfa::Reset(reset) => reset.run(cli).await,
        }
    }
}

const ENROLL_HELP: &str = "\
Draws a QR code, asks for a first code, and prints ten recovery codes, once.
Your other sessions end. Without a terminal, and with --output json, prints the
ticket and the key; `latchkey mfa confirm --ticket-stdin` goes on.

Examples:
  latchkey mfa enroll
  latchkey mfa enroll --output json";

/// Set up an authenticator, or replace yours.
#[derive(Debug, Args)]
#[command(after_help = ENROLL_HELP)]
pub(crate) struct Enroll {
    /// The account's name in the authenticator; your username if absent.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    label: String,
    /// Print the key instead of a QR code.
    #[arg(long)]
    no_qr: bool,
    /// Read a code of the authenticator that you have from standard input.
    #[arg(long)]
    code_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Enroll {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        cli.client.warn_if_overheard(&cli.screen);
        let request = EnrollTotpRequest { account_label: self.label.clone(), ..EnrollTotpRequest::default() };
        let begun = cli.call_with_code(request, Codes::of(self.code_stdin)).await?;
        if cli.screen.is_json() {
            // Nothing has changed yet: what cannot be written is not lost.
            return cli.screen.json(&Client::reflected::<EnrollTotpRequest>(&begun)?);
        }
        let goes_on = io::stdin().is_terminal() && !self.code_stdin;
        show_key(&cli.screen, &begun, self.no_qr, goes_on)?;
        if !goes_on {
            return cli.screen.next("latchkey mfa confirm --ticket-stdin, with the ticket and a code as two lines");
        }
        finish(cli, &begun.ticket, Codes::Asked).await
    }
}

/// Prints the key of an authenticator: as a QR code where one can be drawn, and in groups to type. If the command goes on, no
/// ticket is needed.
pub(super) fn show_key(screen: &Screen, begun: &EnrollTotpResponse, no_qr: bool, goes_on: bool) -> Result<(), Error> {
    let key = Text::from(groups(&begun.secret));
    if goes_on && !no_qr && screen.qr_code(&begun.otpauth_uri)? {
        screen.line("Scan this with an authenticator app. Or type the key into it:")?;
        screen.fields([("key", key)])?;
        screen.note("");
        return Ok(());
    }
    screen.line("Type the key into an authenticator app, or open the URI with it:")?;
    screen.fields([("key", key), ("URI", begun.otpauth_uri.as_str().into())])?;
    if goes_on {
        screen.note("");
        return Ok(());
    }
    let good = instant(begun.expire_time.as_ref()).map(|end| format!("until {}", screen.clock().moment(end)));
    screen.fields([("ticket", begun.ticket.as_str().into()), ("good", good.unwrap_or_default().into())])
}

/// A key in groups of four, to be typed.
fn groups(key: &str) -> String {
    let symbols: Vec<char> = key.chars().collect();
    let groups: Vec<String> = symbols.chunks(4).map(|group| group.iter().collect()).collect();
    groups.join(" ")
}

const CONFIRM_HELP: &str = "\
Asks for the ticket of `latchkey mfa enroll` and for a code, without showing
them, and prints ten recovery codes, once.

Examples:
  printf '%s\\n%s\\n' \"$TICKET\" \"$CODE\" | latchkey mfa confirm --ticket-stdin";

/// Finish what `mfa enroll` began elsewhere.
#[derive(Debug, Args)]
#[command(after_help = CONFIRM_HELP)]
pub(crate) struct Confirm {
    /// Read two lines from standard input: the ticket, and a code of the new authenticator.
    #[arg(long)]
    ticket_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Confirm {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        cli.client.warn_if_overheard(&cli.screen);
        let ticket = if self.ticket_stdin {
            cli.read_required_secret("the ticket")?
        } else {
            cli.ask_unseen("Ticket", "the ticket").map_err(|error| error.hint("use --ticket-stdin"))?
        };
        finish(cli, ticket.expose_secret().trim(), Codes::of(self.ticket_stdin)).await
    }
}

/// Sets the authenticator up and prints the recovery codes.
async fn finish(cli: &Cli, ticket: &str, codes: Codes) -> Result<(), Error> {
    show_confirmed(cli, confirm(cli, ticket, codes, "latchkey mfa enroll").await?)?;
    // What services permit depends on how the user signed in. Without this, the next renewal tells it.
    let _ = cli.client.renew_login().await;
    Ok(())
}

/// Proves a code of the new authenticator. While it is wrong, asks for another one. `again` is the command that starts again.
pub(super) async fn confirm(cli: &Cli, ticket: &str, codes: Codes, again: &str) -> Result<ConfirmTotpResponse, Error> {
    let attempt = async || {
        let code = cli.secret_code(codes, "Code that the app shows")?;
        cli.client.call(ConfirmTotpRequest { ticket: ticket.to_owned(), code: digits(&code) }).await
    };
    let mut outcome = attempt().await;
    for _ in 1..TRIES {
        let is_rejected = outcome.as_ref().is_err_and(|error| error.reason() == "SECOND_FACTOR_REJECTED");
        if !is_rejected || codes == Codes::Stdin {
            break;
        }
        let wrong = "The code is wrong. Is the clock of the phone right? Try the next code:";
        cli.screen.note(Text::toned(Tone::Warn, wrong));
        outcome = attempt().await;
    }
    outcome.map_err(|error| match error.reason() {
        "TICKET_INVALID" => {
            error.hint(format!("nothing was changed; tickets work for a few minutes: start again with `{again}`"))
        }
        "SECOND_FACTOR_REJECTED" => error.hint(format!(
            "nothing was changed; let the phone set its clock by the network, and start again with `{again}`"
        )),
        _ => error,
    })
}

/// Prints that an authenticator is set up, and the recovery codes.
pub(super) fn show_confirmed(cli: &Cli, answer: ConfirmTotpResponse) -> Result<(), Error> {
    let loss = loss("your second factor is set up");
    cli.print_once::<ConfirmTotpRequest>(answer, Some(loss), |screen, answer| {
        screen.done(format!("your second factor is set up{}", others(answer.sessions_revoked)))?;
        show_codes(screen, &answer.recovery_codes)
    })
}

/// `; 2 other sessions ended`.
fn others(sessions_revoked: i32) -> String {
    match sessions_revoked {
        0 => String::new(),
        number => format!("; {} ended", count(number, "other session")),
    }
}

fn loss(done: &str) -> Loss {
    Loss {
        done: done.to_owned(),
        secret: "list of recovery codes",
        remedy: "make new ones with `latchkey mfa codes`".to_owned(),
    }
}

/// Prints recovery codes in two columns.
fn show_codes(screen: &Screen, codes: &[String]) -> Result<(), Error> {
    screen.line("")?;
    screen.line("Recovery codes, shown only this once. Each stands in for one code if you lose the authenticator.")?;
    screen.line("Print them or write them down, and keep them where you keep your passport.")?;
    screen.line("")?;
    let (left, right) = codes.split_at(codes.len().div_ceil(2));
    let mut right = right.iter();
    left.iter().try_for_each(|code| {
        let code = Text::from("  ").and(Tone::Strong, code).padded(26);
        screen.secret(code.and(Tone::Strong, right.next().map(String::as_str).unwrap_or_default()))
    })
}

const DISABLE_HELP: &str = "\
Asks for a code of the authenticator, or a recovery code. Your other sessions end.

Examples:
  latchkey mfa disable
  printf '%s\\n' \"$CODE\" | latchkey mfa disable --code-stdin";

/// Remove your second factor and its recovery codes.
#[derive(Debug, Args)]
#[command(after_help = DISABLE_HELP)]
pub(crate) struct Disable {
    #[command(flatten)]
    code: CodeArgs,
}

impl Disable {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        cli.has_second_factor().await?;
        cli.screen.note("This removes your second factor and its recovery codes: the password alone signs you in.");
        let request = DisableTotpRequest { second_factor: placeholder(cli) };
        let answer = cli.call_with_code(request, Codes::of(self.code.code_stdin)).await?;
        cli.print::<DisableTotpRequest>(answer, |screen, answer| {
            screen.done(format!("your second factor is removed{}", others(answer.sessions_revoked)))?;
            screen.undo("latchkey mfa enroll")
        })
    }
}

const CODES_HELP: &str = "\
Asks for a code of the authenticator, or a recovery code, and prints ten new
ones, once. The earlier ones work no longer. Your other sessions end.

Examples:
  latchkey mfa codes
  printf '%s\\n' \"$CODE\" | latchkey mfa codes --code-stdin";

/// Replace your recovery codes.
#[derive(Debug, Args)]
#[command(after_help = CODES_HELP)]
pub(crate) struct NewCodes {
    #[command(flatten)]
    code: CodeArgs,
}

impl NewCodes {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        cli.has_second_factor().await?;
        let request = RegenerateRecoveryCodesRequest { second_factor: placeholder(cli) };
        let answer = cli.call_with_code(request, Codes::of(self.code.code_stdin)).await?;
        let loss = loss("your recovery codes are replaced");
        cli.print_once::<RegenerateRecoveryCodesRequest>(answer, Some(loss), |screen, answer| {
            screen.done(format!("your recovery codes are replaced{}", others(answer.sessions_revoked)))?;
            show_codes(screen, &answer.recovery_codes)
        })
    }
}

/// The options of commands that need a code.
#[derive(Debug, Args)]
struct CodeArgs {
    /// Read the code from standard input.
    #[arg(long)]
    code_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// A code for a call that is only printed.
fn placeholder(cli: &Cli) -> Option<SecondFactorProof> {
    let code = Some(ProofCode::Totp("code".to_owned()));
    cli.client.is_showing().then_some(SecondFactorProof { code })
}

impl Cli {
    /// Fails if the caller has no second factor, before a code is asked for.
    async fn has_second_factor(&self) -> Result<(), Error> {
        if self.client.is_showing() {
            return Ok(());
        }
        let user = self.client.call(WhoAmIRequest {}).await?.user.unwrap_or_default();
        let has = user.second_factor_status.is_some_and(|status| status.totp_enrolled);
        // A caller without an account is refused by the server.
        if has || user.id.is_empty() {
            return Ok(());
        }
        let message = "you have no second factor";
        let refusal = Refusal::foreseen(Code::FailedPrecondition, "SECOND_FACTOR_MISSING", message, None);
        Err(Error::Refused(Box::new(refusal)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_typed_in_groups_of_four() {
        assert_eq!(groups("ABCDEFGHIJ"), "ABCD EFGH IJ");
    }
}
