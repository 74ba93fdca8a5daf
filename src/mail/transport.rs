//! The way that mail takes: a relay or a folder.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Mail;
use super::connections::Connections;
use super::conversation::{Line, deliver};
use super::failure::{Failure, Fault, Phase, Place};
use super::folder::Folder;
use super::letter::Letter;
use super::relay::{Relay, RelayError};
use super::reply::Reply;
use crate::config;
use crate::domain::time::Timestamp;

/// How long files of mail are kept. They are for trials, and their links have ended by then.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// The way that mail takes.
#[derive(Debug)]
pub enum Transport {
    /// A relay.
    Relay(Box<Relay>),
    /// A folder, which only this machine sees.
    Folder(Folder),
}

/// A mail that has left this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The relay's answer. The relay is now responsible for the mail, which is not delivery.
    Relay(Reply),
    /// The file, complete and on the disk.
    File(PathBuf),
}

impl Transport {
    /// The transport of the configuration; `None` if mail is off. Reads the files of a relay.
    pub fn load(config: &config::Mail) -> Result<Option<Transport>, RelayError> {
        let smtp = &config.smtp;
        match (config.transport, &smtp.url) {
            (config::Transport::Smtp, Some(url)) => {
                let (password, ca) = (smtp.password_file.as_deref(), smtp.ca.as_deref());
                let relay = Relay::load(url.clone(), password, ca, config.hello.clone())?;
                Ok(Some(Transport::Relay(Box::new(relay.with_limits(config.limits)))))
            }
            (config::Transport::File, _) => Ok(Some(Transport::Folder(Folder::new(config.dir.clone())))),
            // The configuration has a URL for a relay, or was refused.
            (config::Transport::Smtp | config::Transport::Off, _) => Ok(None),
        }
    }

    /// All that is wrong with the files of a relay.
    pub fn faults(config: &config::Mail) -> Vec<RelayError> {
        let smtp = &config.smtp;
        match (config.transport, &smtp.url) {
            (config::Transport::Smtp, Some(url)) => {
                Relay::faults(url, smtp.password_file.as_deref(), smtp.ca.as_deref())
            }
            _ => Vec::new(),
        }
    }

    /// Where mail goes.
    pub fn place(&self) -> Place {
        match self {
            Transport::Relay(relay) => Place::Relay(relay.url().clone()),
            Transport::Folder(folder) => Place::Folder(folder.path().to_owned()),
        }
    }

    /// Deletes files of mail that are older than a week. A relay keeps none here.
    pub async fn sweep(&self, now: Timestamp) -> io::Result<()> {
        match self {
            Transport::Relay(_) => Ok(()),
            Transport::Folder(folder) => folder.sweep(now.saturating_sub(KEPT)).await,
        }
    }

    /// Sends a letter. Ends within the limits of the configuration. Dropping the future ends the attempt. `connections` has those
    /// to the relay that earlier letters have left.
    ///
    /// # Errors
    ///
    /// Where it broke, why, and whether to try again.
    pub async fn send(&self, letter: &Letter<'_>, connections: &Connections) -> Result<Accepted, Failure> {
        let mail = self.compose(letter)?;
        match self {
            Transport::Relay(relay) => connections.deliver(relay, &mail).await.map(Accepted::Relay),
            Transport::Folder(folder) => self.write(folder, &mail).await,
        }
    }

    /// Sends a letter over a connection of its own. `listen` hears every line of the conversation with a relay, without secrets.
    ///
    /// # Errors
    ///
    /// As [`Transport::send`].
    pub async fn send_shown(
        &self,
        letter: &Letter<'_>,
        listen: &(dyn Fn(Line<'_>) + Sync),
    ) -> Result<Accepted, Failure> {
        let mail = self.compose(letter)?;
        match self {
            Transport::Relay(relay) => deliver(relay, &mail, listen).await.map(Accepted::Relay),
            Transport::Folder(folder) => self.write(folder, &mail).await,
        }
    }

    /// Ends the connections to the relay that are kept for the next letter.
    pub async fn hang_up(&self, connections: &Connections) {
        if let Transport::Relay(relay) = self {
            connections.hang_up(relay).await;
        }
    }

    fn compose(&self, letter: &Letter<'_>) -> Result<Mail, Failure> {
        letter.compose().map_err(|error| self.failure(Phase::Compose, Fault::NotComposed(error.to_string())))
    }

    async fn write(&self, folder: &Folder, mail: &Mail) -> Result<Accepted, Failure> {
        let written = folder.write(mail).await;
        written.map(Accepted::File).map_err(|error| self.failure(Phase::File, Fault::NotWritten(error.to_string())))
    }

    fn failure(&self, phase: Phase, fault: Fault) -> Failure {
        Failure { place: self.place(), phase, fault }
    }
}

impl Accepted {
    /// The relay's answer; `None` if the mail is a file.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Accepted::Relay(reply) => Some(reply),
            Accepted::File(_) => None,
        }
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accepted::Relay(reply) => write!(f, "{reply}"),
            Accepted::File(path) => write!(f, "{}", path.display()),
        }
    }
}
