//! Errors for people: the message, each violation, and a hint.

use std::borrow::Cow;

use super::hint;
use super::text::{Text, Tone};
use super::time::Clock;
use crate::cli::error::{Error, Refusal, Violation};

/// The lines to print, with times as on `clock`. Empty if everything is printed already. `typed` has the commands in a hint as
/// the user has to type them.
pub(crate) fn lines(error: &Error, clock: &Clock, typed: impl Fn(&str) -> String) -> Vec<Text> {
    let (message, violations, hint): (Cow<'_, str>, &[Violation], Option<String>) = match error {
        Error::Stopped(complaint) => (error.message().into(), &[], complaint.hint.clone()),
        Error::Refused(refusal) => {
            (message(refusal, clock), &refusal.violations, refusal.hint.clone().or_else(|| hint::of(refusal)))
        }
        Error::Silent(_) | Error::Lost(_) | Error::Shown(_) => return Vec::new(),
    };
    let mut lines = vec![Text::toned(Tone::Bad, "error: ").and(Tone::Plain, message)];
    for Violation { field, description, .. } in violations {
        let description = in_words_of_the_command_line(description);
        lines.push(Text::from("  ").and(Tone::Strong, argument(field)).and(Tone::Plain, format!(": {description}")));
    }
    if let Some(hint) = hint {
        lines.push(Text::new());
        lines.push(Text::toned(Tone::Good, "hint: ").and(Tone::Plain, typed(&hint)));
    }
    lines
}

/// The message. The server's own names the field; a person who typed a name looks for that name.
fn message<'a>(refusal: &'a Refusal, clock: &Clock) -> Cow<'a, str> {
    if let Some(available) = refusal.metadata.get("availableTime")
        && let Ok(at) = available.parse()
    {
        return refusal.message.replace(available, &clock.moment(at)).into();
    }
    match &refusal.subject {
        Some(user) if refusal.reason == "USER_NOT_FOUND" => format!("there is no user {user}").into(),
        _ if refusal.reason == "API_TOKEN_NOT_FOUND" => "there is no API token with this id".into(),
        _ if refusal.reason == "DELIVERY_NOT_FOUND" => "there is no message with this id".into(),
        _ if refusal.reason == "SESSION_NOT_FOUND" => "there is no session with this id".into(),
        _ => in_minutes(&refusal.message),
    }
}

/// The message, with a long wait in minutes: `…; try again in 50 min` for 3000 s.
fn in_minutes(message: &str) -> Cow<'_, str> {
    let long = message.rsplit_once("; try again in ").and_then(|(what, wait)| {
        let seconds: u64 = wait.strip_suffix(" s")?.parse().ok()?;
        (seconds >= 120).then(|| format!("{what}; try again in {} min", seconds.div_ceil(60)))
    });
    long.map_or(Cow::Borrowed(message), Cow::Owned)
}

/// Fields of requests whose argument has another name than the field, or that are arguments without a name.
pub(crate) const ARGUMENTS: &[(&str, &str)] = &[
    ("display_name", "--name"),
    ("name", "--name"),
    ("email", "--email"),
    ("locale", "--locale"),
    ("external_id", "--external-id"),
    ("labels", "--label"),
    ("roles", "--role"),
    ("add_roles", "--add-role"),
    ("remove_roles", "--remove-role"),
    ("kind", "--kind"),
    ("note", "--note"),
    ("etag", "--etag"),
    ("ttl", "--ttl"),
    ("duration", "--for"),
    ("until_time", "--until"),
    ("start_time", "--since"),
    ("types", "--type"),
    ("actors", "--actor"),
    ("targets", "--user"),
    ("request_id", "--request"),
    ("scopes", "--scope"),
    ("page_size", "--limit"),
    ("page_token", "--page-token"),
    ("text", "PREFIX"),
    ("login", "USER"),
    ("client_address", "--from"),
    ("session_id", "ID"),
    ("session_ids", "ID"),
    ("api_token_id", "ID"),
    ("delivery_id", "ID"),
    ("link_token", "link"),
    ("cancel_token", "link"),
    ("password", "password"),
    ("current_password", "current password"),
    ("new_password", "new password"),
    ("ticket", "ticket"),
    ("code", "code"),
    ("totp", "code"),
    ("recovery_code", "code"),
    ("account_label", "--label"),
    ("preset", "--preset"),
    ("second_factor_required", "--second-factor"),
    ("second_factor_roles.names", "--second-factor"),
    ("second_factor_required_from_time", "--from"),
    ("min_length", "--min-length"),
    ("max_length", "--max-length"),
    ("min_score", "--min-score"),
    ("reject_breached", "--reject-leaked"),
    ("check_breached_at_sign_in", "--leaked-at-sign-in"),
    ("judge_existing", "--judge-existing"),
    ("reject_user_info", "--reject-names"),
    ("require_letter_and_digit", "--letter-and-digit"),
    ("history_size", "--history"),
    ("min_age", "--min-age"),
    ("max_age", "--max-age"),
    ("max_age_rollout", "--rollout"),
    ("expiry_warnings.before", "--warn"),
    ("max_inactivity", "--max-inactivity"),
    ("inactivity_warnings.before", "--warn-inactive"),
    ("throttle_threshold", "--throttle-after"),
    ("throttle_initial", "--first-wait"),
    ("throttle_max", "--longest-wait"),
    ("lockout_threshold", "--lock-after"),
    ("lockout_duration", "--lock-for"),
    ("failure_memory", "--forget-after"),
];

/// Fields with a list of values whose argument takes one value only.
const OF_ONE_VALUE: &[&str] = &["actors", "targets"];

/// The words of the API in the server's messages, and the words of the command line.
const WORDS: &[(&str, &str)] = &[
    ("ListRoles names them", "`latchkey roles` lists them"),
    ("is also in add_roles", "is also in --add-role"),
    ("must not be before start_time", "must not be before --since"),
    ("set second_factor_required or second_factor_roles, too", "set --second-factor, too"),
    ("needs reject_breached", "needs --reject-leaked"),
    ("than max_length,", "than --max-length,"),
    ("than max_age,", "than --max-age,"),
    ("than max_inactivity,", "than --max-inactivity,"),
    ("than throttle_max,", "than --longest-wait,"),
    ("than throttle_threshold,", "than --throttle-after,"),
];

/// The argument behind a field of a request: `--role, value 2` for `roles[1]`.
fn argument(field: &str) -> String {
    if field == "user" || field.starts_with("user.") {
        return "USER".to_owned();
    }
    let (path, index) = match field.strip_suffix(']').and_then(|item| item.rsplit_once('[')) {
        Some((path, index)) => (path, index.parse::<usize>().ok()),
        None => (field, None),
    };
    // A path ends with the name of the field, and some names need the one before.
    let is_of = |known: &str| path.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let Some((known, argument)) = ARGUMENTS.iter().find(|(known, _)| is_of(known)) else { return field.to_owned() };
    match index.filter(|_| !OF_ONE_VALUE.contains(known)) {
        Some(index) => format!("{argument}, value {}", index + 1),
        None => (*argument).to_owned(),
    }
}

fn in_words_of_the_command_line(description: &str) -> String {
    WORDS.iter().fold(description.to_owned(), |text, (of_the_api, own)| text.replace(of_the_api, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_is_told_in_minutes() {
        for (message, told) in [
            ("too many messages; try again in 2941 s", "too many messages; try again in 50 min"),
            ("too many messages; try again in 120 s", "too many messages; try again in 2 min"),
            ("too many messages; try again in 119 s", "too many messages; try again in 119 s"),
            ("try again later", "try again later"),
        ] {
            assert_eq!(in_minutes(message), told);
        }
    }

    #[test]
    fn fields_and_methods_are_named_as_arguments_and_commands() {
        assert_eq!(argument("user.id"), "USER");
        assert_eq!(argument("roles[1]"), "--role, value 2");
        assert_eq!(argument("temporary_password.ttl"), "--ttl");
        assert_eq!(argument("set_password.password"), "password");
        assert_eq!(argument("filter.time.start_time"), "--since");
        assert_eq!(argument("username"), "username");
        assert_eq!(argument("policy.inactivity_warnings.before[0]"), "--warn-inactive, value 1");
        assert_eq!(argument("policy.max_age_rollout"), "--rollout");
        assert_eq!(argument("client_address"), "--from");
        assert_eq!(
            in_words_of_the_command_line("no such role; ListRoles names them"),
            "no such role; `latchkey roles` lists them"
        );
    }
}
