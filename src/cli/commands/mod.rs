//! One file per command: its arguments, its calls, its output.

pub(crate) mod audit;
pub(crate) mod deliveries;
pub(crate) mod email;
pub(crate) mod login;
pub(crate) mod logout;
mod mail;
pub(crate) mod mfa;
mod mfa_missing;
mod mfa_reset;
pub(crate) mod passwd;
pub(crate) mod password;
mod password_check;
pub(crate) mod policy;
mod policy_report;
pub(crate) mod roles;
pub(crate) mod sessions;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod tokens;
pub(crate) mod users;
pub(crate) mod whoami;

use std::io;

use super::args::Paging;
use super::client::Client;
use super::client::call::{Call, Method};
use super::error::{Error, Exit};
use super::output::Screen;
use super::output::table::{Layout, Table};
use super::output::time::instant;
use super::output::words::{count, locked};
use super::setting::Cli;
use crate::proto::v1::{
    Effects, ListApiTokensRequest, ListDeliveriesRequest, ListEventsRequest, ListSessionsRequest,
    ListUserSessionsRequest, ListUsersRequest, UserLock, WhoAmIRequest,
};

/// More pages than any list has. A server that sends more repeats itself.
const PAGES_MAX: usize = 1_000_000;

/// A request of a list.
trait Paged: Call {
    /// The request for the page of a token.
    fn at(self, page_token: String) -> Self;
    /// The token of the next page. Empty on the last page.
    fn next(answer: &Self::Answer) -> &str;
}

macro_rules! paged {
    ($($request:ident)*) => {
        $(impl Paged for $request {
            fn at(self, page_token: String) -> Self {
                Self { page_token, ..self }
            }

            fn next(answer: &Self::Answer) -> &str {
                &answer.next_page_token
            }
        })*
    };
}

paged!(
    ListUsersRequest ListUserSessionsRequest ListApiTokensRequest ListSessionsRequest ListEventsRequest
    ListDeliveriesRequest
);

/// The hint if an answer cannot be printed although the call succeeded.
const DONE: &str = "the server has done what you asked for; only its answer could not be printed";

/// What is lost with a secret that could not be written.
struct Loss {
    /// What was done: "the password of ada is reset".
    done: String,
    /// The secret: "temporary password".
    secret: &'static str,
    /// How to get another one.
    remedy: String,
}

impl Loss {
    fn error(self, fault: &io::Error) -> Error {
        let Loss { done, secret, remedy } = self;
        let message = format!("{done}, but its {secret} could not be written to standard output and is lost: {fault}");
        Error::stopped(Exit::Stopped, message).hint(remedy)
    }
}

/// Returns whether `scopes` include this one.
fn may(scopes: &[String], scope: &str) -> bool {
    scopes.iter().any(|own| own == scope)
}

/// A new idempotency key, by which the server recognizes a repeated call: a UUID of version 4 (RFC 9562, 5.4).
fn idempotency_key() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::unexpected("cannot get random numbers"))?;
    let bits = (u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default().to_owned());
    Ok(parts.join("-"))
}

/// What was printed of a list.
struct Listed {
    count: usize,
    /// Whether there are more entries.
    more: bool,
}

impl Cli {
    /// The scopes of the caller, so that no command is proposed that the caller may not use. Empty if they are unknown.
    async fn scopes(&self) -> Vec<String> {
        self.client.call(WhoAmIRequest {}).await.map(|caller| caller.scopes).unwrap_or_default()
    }

    /// Makes a call and prints the answer, as JSON or with `show`.
    async fn answer<C: Call>(
        &self,
        request: C,
        show: impl FnOnce(&Screen, C::Answer) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.print::<C>(self.call(request).await?, show)
    }

    /// Prints an answer, as JSON or with `show`.
    fn print<C: Call>(
        &self,
        answer: C::Answer,
        show: impl FnOnce(&Screen, C::Answer) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let shown = if self.screen.is_json() {
            self.screen.json(&Client::reflected::<C>(&answer)?)
        } else {
            show(&self.screen, answer)
        };
        let read_only = Method::of::<C>()?.is_read_only();
        shown.map_err(|error| if read_only { error } else { error.hint(DONE) })
    }

    /// Makes a call and prints an answer with a secret that the server shows only once. `loss` says what to do if it cannot
    /// be written; `None` if the answer has no secret.
    async fn answer_once<C: Call>(
        &self,
        request: C,
        loss: impl FnOnce(&C::Answer) -> Option<Loss>,
        show: impl FnOnce(&Screen, C::Answer) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let answer = self.call(request).await?;
        let loss = loss(&answer);
        self.print_once::<C>(answer, loss, show)
    }

    /// Prints an answer with such a secret.
    fn print_once<C: Call>(
        &self,
        answer: C::Answer,
        loss: Option<Loss>,
        show: impl FnOnce(&Screen, C::Answer) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let shown = match (self.screen.is_json(), &loss) {
            (true, Some(_)) => self.screen.secret_json(&Client::reflected::<C>(&answer)?),
            (true, None) => self.screen.json(&Client::reflected::<C>(&answer)?),
            (false, _) => show(&self.screen, answer),
        };
        shown.map_err(|error| match (error, loss) {
            (Error::Lost(fault), Some(loss)) => loss.error(&fault),
            (error, _) => error.hint(DONE),
        })
    }

    /// Prints a page of a list, or all pages.
    async fn pages<C: Paged>(
        &self,
        paging: &Paging,
        request: C,
        mut table: impl AsyncFnMut(&C::Answer) -> Table,
    ) -> Result<Listed, Error> {
        let (mut count, mut layout) = (0, Layout::default());
        let mut token = paging.page_token.clone();
        for _ in 0..PAGES_MAX {
            let answer = self.client.call(request.clone().at(token.clone())).await?;
            match (self.screen.is_json(), paging.all) {
                (true, true) => self.screen.json_line(&Client::reflected::<C>(&answer)?)?,
                (true, false) => self.screen.json(&Client::reflected::<C>(&answer)?)?,
                (false, _) => {
                    let table = table(&answer).await;
                    count += table.len();
                    self.screen.table(table, &mut layout)?;
                }
            }
            let next = C::next(&answer);
            if next.is_empty() || !paging.all {
                return Ok(Listed { count, more: !next.is_empty() });
            }
            if next == token {
                break;
            }
            next.clone_into(&mut token);
        }
        Err(Error::unexpected("the list does not end: the server repeats a page"))
    }

    /// Prints the last line of a list, for people.
    fn list_footer(&self, listed: &Listed, noun: &str, next: Option<&str>) -> Result<(), Error> {
        if self.screen.is_json() {
            return Ok(());
        }
        let more = if listed.more { "; there are more: --all" } else { "" };
        let amount = if listed.count == 0 { format!("no {noun}s") } else { count(listed.count, noun) };
        self.screen.footer(&format!("{amount}{more}"), next)
    }

    /// Prints the side effects of a call.
    fn effects(screen: &Screen, effects: Option<&Effects>, lifted_lock: Option<&UserLock>) -> Result<(), Error> {
        Cli::effects_with(screen, effects, lifted_lock, "the earlier name or address")
    }

    /// Prints the side effects of a call. `given_up` is what the account gave up, which stays reserved.
    fn effects_with(
        screen: &Screen,
        effects: Option<&Effects>,
        lifted_lock: Option<&UserLock>,
        given_up: &str,
    ) -> Result<(), Error> {
        let Some(effects) = effects else { return Ok(()) };
        let mut ended = Vec::new();
        if effects.password_ended {
            ended.push("the old password".to_owned());
        }
        if effects.sessions_revoked > 0 {
            ended.push(count(effects.sessions_revoked, "session"));
        }
        if effects.tickets_revoked > 0 {
            ended.push(count(effects.tickets_revoked, "unfinished sign-in"));
        }
        if effects.links_revoked > 0 {
            ended.push(count(effects.links_revoked, "unused link"));
        }
        if effects.api_tokens_revoked > 0 {
            ended.push(count(effects.api_tokens_revoked, "API token"));
        }
        if effects.second_factors_removed {
            ended.push("the second factor and its recovery codes".to_owned());
        }
        if effects.devices_forgotten {
            ended.push("device tokens and familiar places".to_owned());
        }
        let mut lifted = Vec::new();
        if effects.lock_lifted {
            let lock = lifted_lock.map(|lock| format!(" ({})", locked(lock, screen.clock())));
            lifted.push(format!("the lock{}", lock.unwrap_or_default()));
        }
        if effects.throttle_cleared {
            lifted.push("the throttle after wrong passwords".to_owned());
        }
        let clock = screen.clock();
        let offline = instant(effects.access_expire_time.as_ref()).filter(|end| !clock.is_past(*end));
        let offline =
            offline.map(|end| format!("access tokens that services check offline, until {}", clock.moment(end)));
        let reserved = instant(effects.reserve_expire_time.as_ref());
        let reserved = reserved.map(|end| format!("{given_up}, until {}", clock.moment(end)));
        let narrowed = effects.api_tokens_narrowed;
        let narrowed = (narrowed > 0).then(|| format!("{}, to the scopes that are left", count(narrowed, "API token")));
        screen.fields([
            ("ended", ended.join(", ").into()),
            ("narrowed", narrowed.unwrap_or_default().into()),
            ("lifted", lifted.join(", ").into()),
            ("stays", offline.unwrap_or_default().into()),
            ("reserved", reserved.unwrap_or_default().into()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_uuid_of_version_4() -> Result<(), Error> {
        let key = idempotency_key()?;
        let parts: Vec<&str> = key.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts.get(2).is_some_and(|part| part.starts_with('4')), "{key}");
        assert!(parts.get(3).is_some_and(|part| part.starts_with(['8', '9', 'a', 'b'])), "{key}");
        assert_ne!(key, idempotency_key()?);
        Ok(())
    }
}
