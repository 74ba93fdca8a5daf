//! What an operator has to help a user with.

use crate::cli::commands::may;
use crate::cli::setting::Cli;
use crate::proto::v1::get_mail_status_response::Transport;
use crate::proto::v1::{GetMailStatusRequest, GetMailStatusResponse, LockCause, User, UserLock};

/// The rights of the caller, and the mail of the server.
#[derive(Debug, Default)]
pub(super) struct Means {
    /// The scopes of the caller. Empty if they are unknown.
    pub(super) scopes: Vec<String>,
    /// `None` if the caller may not know it.
    pub(super) mail: Option<GetMailStatusResponse>,
}

impl Means {
    pub(super) async fn of(cli: &Cli) -> Means {
        let scopes = cli.scopes().await;
        let may_know = lacking(&scopes, &["deliveries.read"]).is_none();
        let mail = if may_know { cli.client.call(GetMailStatusRequest {}).await.ok() } else { None };
        Means { scopes, mail }
    }

    /// Whether the server sends links, as far as the caller may know.
    pub(super) fn sends_links(&self) -> bool {
        self.mail.as_ref().is_none_or(|mail| mail.links_enabled && mail.transport() != Transport::Off)
    }

    /// Whether a user gets the mail that the server sends, as far as the caller may know.
    pub(super) fn reaches_users(&self) -> bool {
        self.mail.as_ref().is_none_or(|mail| mail.transport() == Transport::Smtp)
    }

    /// Whether mail goes to files on the server.
    pub(super) fn writes_files(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.transport() == Transport::File)
    }

    /// `, by an operator with users.write`, if the caller lacks one of the scopes that a step needs. A step that lifts the lock
    /// of `unlocked` needs those for that, too.
    pub(super) fn by(&self, scopes: &[&'static str], unlocked: Option<&User>) -> String {
        let cause = unlocked.and_then(|user| user.lock.as_ref()).map(UserLock::cause);
        let unlocking: &[&str] = match cause {
            None => &[],
            Some(LockCause::Compromise | LockCause::Deactivated) => &["users.lock", "users.write"],
            Some(_) => &["users.lock"],
        };
        let lacks = lacking(&self.scopes, &[scopes, unlocking].concat()).filter(|_| !self.scopes.is_empty());
        lacks.map(|scope| format!(", by an operator with {scope}")).unwrap_or_default()
    }
}

/// The first of these scopes that is not among `scopes`.
pub(super) fn lacking<'a>(scopes: &[String], needed: &[&'a str]) -> Option<&'a str> {
    needed.iter().find(|scope| !may(scopes, scope)).copied()
}
