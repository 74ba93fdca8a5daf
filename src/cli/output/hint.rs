//! Hints: for each reason of the server, the command that helps.

use crate::cli::error::Refusal;
use crate::cli::output::words::shell_word;

/// The hint for an error of the server. `None` if the person can do nothing.
pub(crate) fn of(refusal: &Refusal) -> Option<String> {
    let user = refusal.subject.as_deref().unwrap_or("USER");
    let hint = match refusal.reason.as_str() {
        "CREDENTIALS_MISSING" => {
            "sign in with `latchkey login`, set LATCHKEY_TOKEN, or on the host of latchkeyd give `--socket DATA_DIR/latchkey.sock`"
                .to_owned()
        }
        "CREDENTIALS_REJECTED" => format!("an operator sees what is wrong with `latchkey users diagnose {user}`"),
        "TOKEN_EXPIRED" | "TOKEN_INVALID" | "SESSION_REVOKED" | "REFRESH_REUSED" => {
            "sign in again with `latchkey login`".to_owned()
        }
        "TICKET_INVALID" => "sign in again with `latchkey login`".to_owned(),
        "REAUTHENTICATION_REQUIRED" => {
            "at a terminal your password is asked for; elsewhere sign in again with `latchkey login`".to_owned()
        }
        "SECOND_FACTOR_REQUIRED" => {
            "at a terminal the code is asked for; elsewhere sign in again with `latchkey login`".to_owned()
        }
        "SECOND_FACTOR_REJECTED" => {
            "each code works once; if new ones are refused too, let the phone set its clock by the network, or use a recovery code"
                .to_owned()
        }
        "SECOND_FACTOR_MANDATORY" => "replace the authenticator with `latchkey mfa enroll`".to_owned(),
        "SECOND_FACTOR_MISSING" => "set one up with `latchkey mfa enroll`".to_owned(),
        "SCOPE_MISSING" => scope_missing(refusal),
        "FIELD_INVALID" if refusal.names_unknown_user() => {
            not_found(refusal.alike.as_deref(), "`latchkey users list` lists all users")
        }
        "FIELD_INVALID" if refusal.has_violation("scopes", "CONFLICT") => {
            format!("give {user} one of these roles with `latchkey users update {user} --add-role ROLE`, or leave the scope out")
        }
        "TARGET_OUTRANKS_CALLER" => {
            "`latchkey roles` lists the roles with more rights: ask a user who has one, or run this on the host with --local"
                .to_owned()
        }
        "SELF_ACTION_FORBIDDEN" => {
            "for your own password use `latchkey passwd`; otherwise ask another operator, or run this on the host with --local"
                .to_owned()
        }
        "USER_REQUIRED" => "this needs an account of your own: sign in with `latchkey login`".to_owned(),
        "API_TOKEN_FORBIDDEN" => {
            "an API token cannot do this: unset LATCHKEY_TOKEN and sign in with `latchkey login`".to_owned()
        }
        "USER_NOT_FOUND" => {
            let events = format!("`latchkey audit list --user {}` tells whether it was deleted", shell_word(user));
            not_found(refusal.alike.as_deref(), &events)
        }
        "SESSION_NOT_FOUND" => "`latchkey sessions list` lists the ids".to_owned(),
        "DELIVERY_NOT_FOUND" => "`latchkey deliveries list` lists the ids; messages are kept for 90 days".to_owned(),
        "NO_DELIVERY_ADDRESS" => format!("set one with `latchkey users update {user} --email ADDRESS`"),
        "DELIVERY_DISABLED" => "`latchkey status` says how the server sends mail".to_owned(),
        "API_TOKEN_NOT_FOUND" => "`latchkey tokens list` lists the ids".to_owned(),
        "USERNAME_TAKEN" => format!("see who has it with `latchkey users show {user}`"),
        "EMAIL_TAKEN" if refusal.metadata.contains_key("availableTime") => {
            "choose another address, or wait; an administrator can take it with --take-reserved".to_owned()
        }
        "EMAIL_TAKEN" => "see who has it with `latchkey users show ADDRESS`".to_owned(),
        "EXTERNAL_ID_TAKEN" => "see who has it with `latchkey users show ext:ID`".to_owned(),
        "USERNAME_RESERVED" => "choose another name, or wait; an administrator can take it with --take-reserved".to_owned(),
        "ETAG_MISMATCH" if refusal.is_about("latchkey.v1.SignInPolicy") => {
            "see what has changed with `latchkey policy show` and try again".to_owned()
        }
        "ETAG_MISMATCH" => {
            format!("see what has changed with `latchkey users show {user}` and try again")
        }
        "USER_LOCKED" if refusal.metadata.get("lockCause").is_some_and(|cause| cause == "COMPROMISE") => {
            format!("its password ended with the lock: `latchkey users reset {user} --unlock`")
        }
        "USER_LOCKED" => {
            format!("unlock it with `latchkey users unlock {user}`, or reset with --unlock")
        }
        "USER_PENDING" => format!("let the user choose a first one with `latchkey users reset {user}`"),
        "PASSWORD_ENDED" => format!("let the user choose a new one with `latchkey users reset {user}`"),
        "PASSWORD_TOO_YOUNG" => "an operator can give you a new password or a link: `latchkey users reset USER`".to_owned(),
        "USER_IS_SERVICE" => format!("it has API tokens in place of a password: `latchkey tokens list {user}`"),
        "LAST_ADMINISTRATOR" => {
            "make another user an administrator first, or run this on the host with --local".to_owned()
        }
        "THROTTLED" => format!("an operator can lift the wait with `latchkey users unlock {user}`"),
        // The message contains the time to wait.
        "RATE_LIMITED" if refusal.metadata.get("limit").is_some_and(|limit| limit == "checks") => return None,
        "RATE_LIMITED" => {
            let diagnose = format!("`latchkey users diagnose {user} --from ADDRESS`");
            format!("an operator sees why with {diagnose}; on the host of latchkeyd --local still works")
        }
        "STORAGE_UNAVAILABLE" if refusal.is_of_breach_list() => {
            "on the host of latchkeyd, `latchkeyd breach-list verify FILE` says what is wrong with it".to_owned()
        }
        "OVERLOADED" => "on the host of latchkeyd you can still use --local".to_owned(),
        "QUERY_TOO_BROAD" => too_broad(refusal)?,
        "PAGE_TOKEN_INVALID" | "PAGE_TOKEN_MISMATCH" => "start again without --page-token, or use --all".to_owned(),
        "RECORD_CORRUPT" => {
            "see latchkeyd's log; an administrator can remove the account with `latchkey users delete`".to_owned()
        },
        "DEADLINE_PASSED" => "try again; `latchkey status` shows the state of the server".to_owned(),
        "METHOD_UNAVAILABLE" => "the server is older than this client: `latchkey status`".to_owned(),
        _ => return unexpected(refusal),
    };
    Some(hint)
}

fn scope_missing(refusal: &Refusal) -> String {
    let scope = refusal.scope_missing().unwrap_or("it");
    match refusal.roles.as_slice() {
        [] => format!("an administrator can give you {scope}: `latchkey users update NAME --add-role ROLE`"),
        [role] => format!("only the role {role} has {scope}; `latchkey whoami` says what you may do"),
        [roles @ .., last] => {
            let roles = roles.join(", ");
            format!("the roles {roles} and {last} have {scope}; `latchkey whoami` says what you may do")
        }
    }
}

/// The options for the fields that the server names.
fn too_broad(refusal: &Refusal) -> Option<String> {
    let ways = refusal.metadata.get("fields")?.split(' ').filter_map(|field| match field {
        "include_total" => Some("leave out --count"),
        "order" => Some("leave out --order"),
        "filter.text" => Some("give more letters of PREFIX"),
        "filter.time" => Some("give a later --since"),
        "filter.targets" => Some("name one --user"),
        "include_ended" => Some("leave out --ended"),
        "page_size" => Some("give a smaller --limit"),
        _ => None,
    });
    Some(ways.collect::<Vec<_>>().join(", or ")).filter(|ways| !ways.is_empty())
}

fn unexpected(refusal: &Refusal) -> Option<String> {
    match refusal.request_id.as_str() {
        "" if refusal.is_unexpected() => Some("`latchkey status` shows the state of the server".to_owned()),
        id if refusal.is_unexpected() => Some(format!("see latchkeyd's log, request {id}")),
        _ => None,
    }
}

/// Names that are like the mistyped one, if they are known, or where to look if there are none.
fn not_found(alike: Option<&[String]>, where_to_look: &str) -> String {
    match alike {
        None => "check the spelling; an id is written id:…, the id of another system ext:…".to_owned(),
        Some([]) => format!("no name is like it; {where_to_look}"),
        Some([name]) => format!("did you mean {name}?"),
        Some([names @ .., last]) => format!("did you mean {} or {last}?", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_judged_passwords_has_no_way_round_it() {
        let mut refusal = Refusal::foreseen(tonic::Code::ResourceExhausted, "RATE_LIMITED", "too many", None);
        assert!(of(&refusal).is_some_and(|hint| hint.contains("--local")));
        refusal.metadata.insert("limit".to_owned(), "checks".to_owned());
        assert_eq!(of(&refusal), None);
    }

    #[test]
    fn the_nearest_names_are_proposed() {
        let names = ["ada", "adam", "adan"].map(str::to_owned);
        assert_eq!(not_found(Some(&names[..1]), ""), "did you mean ada?");
        assert_eq!(not_found(Some(&names), ""), "did you mean ada, adam or adan?");
        assert_eq!(not_found(Some(&[]), "`x` lists all"), "no name is like it; `x` lists all");
    }
}
