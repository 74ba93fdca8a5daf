//! What the containment of an account ends, and what to do after it. The command is in `lock.rs`.

use crate::cli::commands::may;
use crate::cli::error::Error;
use crate::cli::output::Screen;
use crate::cli::output::words::{person, reset_command, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::proto::v1::{LockCause, LockUserRequest, User, UserKind};

/// The question before it.
pub(super) async fn question(cli: &Cli, user: &User, words: &str, removes_factor: bool) -> Question {
    let has_factor = user.second_factor_status.is_some_and(|status| status.totp_enrolled);
    let has_password = user.password_status.as_ref().is_some_and(|status| status.password_set);
    let has_devices = user.last_sign_in_time.is_some();
    let ends = [
        has_password.then(|| "the password".to_owned()),
        (has_factor && removes_factor).then(|| "the second factor and its recovery codes".to_owned()),
        cli.sessions_of(user).await,
        user.pending_link.is_some().then(|| "unused links".to_owned()),
        cli.api_tokens_of(user).await,
        has_devices.then(|| "device tokens and familiar places".to_owned()),
    ];
    let ends: Vec<String> = ends.into_iter().flatten().collect();
    let ends = if ends.is_empty() { String::new() } else { format!("{}, now and for good", ends.join(", ")) };
    Question::new(format!("Lock {} as compromised", person(user)))
        .row("ends", ends)
        .row("stops", format!("signing in, {words}; to unlock it needs users.write"))
        .row(
            "stays",
            if has_factor && !removes_factor {
                "the account, its address, its roles and its second factor"
            } else {
                "the account, its address and its roles"
            },
        )
        .row("roles", user.roles.join(", "))
}

/// The scopes of the caller, if the request contains an account and a person is told what to do next.
pub(super) async fn scopes(cli: &Cli, request: &LockUserRequest) -> Vec<String> {
    if request.cause() != LockCause::Compromise || cli.client.is_showing() || cli.screen.is_json() {
        return Vec::new();
    }
    cli.scopes().await
}

/// Prints the commands that are useful next, of those that the caller may use.
pub(super) fn next(screen: &Screen, user: &User, scopes: &[String]) -> Result<(), Error> {
    let name = shell_word(&user.username);
    let may_give_back = ["users.reset", "users.lock", "users.write"].iter().all(|scope| may(scopes, scope));
    let by = if may_give_back { "" } else { "by an operator with users.write, " };
    let give_back = match user.kind() {
        UserKind::Service => format!("latchkey users unlock {name}, {by}and then a new API token"),
        _ => format!("{} --unlock, {by}after speaking with the user", reset_command(user)),
    };
    look_back(screen, &name, scopes)?;
    screen.next(&give_back)
}

/// Prints the commands that show what was done with the account, of those that the caller may use. `name` is a word of a
/// shell.
pub(super) fn look_back(screen: &Screen, name: &str, scopes: &[String]) -> Result<(), Error> {
    let steps = [
        ("audit.read", format!("latchkey audit list --actor {name}, for what was done in its name")),
        ("sessions.read", format!("latchkey sessions list {name} --ended, for where from")),
    ];
    steps.iter().filter(|(scope, _)| may(scopes, scope)).try_for_each(|(_, step)| screen.next(step))
}
