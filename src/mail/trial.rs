//! One mail on trial: the whole conversation is shown, and a failure is explained.

use super::{Accepted, Failure, Letter, Line, RelayError, Transport, Verdict};
use crate::config;
use crate::domain::email::EmailAddress;
use crate::environment::Environment;

/// The subject of the mail.
const SUBJECT: &str = "A test of latchkey's mail";

/// The text of the mail.
const TEXT: &str = "This is a test.\n\n\
    An operator of latchkey sent it with `latchkeyd mail test`, to see that mail arrives. There is nothing to do.\n";

/// Why a mail on trial was not accepted. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Mail is off.
    #[error("mail is off (mail.transport); set mail.smtp.url and mail.from, or mail.transport = \"file\"")]
    Off,
    /// The relay cannot be used.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The mail was not accepted.
    #[error("{0}\nhint: {hint}", hint = .0.remedy())]
    Refused(Box<Failure>),
    /// The relay may have accepted the mail.
    #[error("{0}: it is not known whether the relay has the mail\nhint: {hint}", hint = .0.remedy())]
    Unknown(Box<Failure>),
}

/// Sends one mail to `to`. `print` gets the lines of the conversation as they come, without secrets.
pub async fn try_out(
    config: &config::Mail,
    to: &EmailAddress,
    environment: &Environment,
    print: &(dyn Fn(&str) + Sync),
) -> Result<(), TrialError> {
    let id = data_encoding::HEXLOWER.encode(&environment.bytes::<16>());
    let (from, date) = (&config.from, environment.now());
    let letter = Letter { from, reply_to: None, to, subject: SUBJECT, text: TEXT, html: None, id: &id, date };
    let transport = Transport::load(config)?.ok_or(TrialError::Off)?;
    if let Transport::Relay(relay) = &transport {
        print(&format!("  {}", relay.url()));
    }
    let listen = |line: Line<'_>| match line {
        Line::Client(text) => print(&format!("> {text}")),
        Line::Server(text) => print(&format!("< {text}")),
        Line::Event(text) => print(&format!("  {text}")),
    };
    let accepted = transport.send_shown(&letter, &listen).await.map_err(|failure| match failure.verdict() {
        Verdict::Unknown => TrialError::Unknown(Box::new(failure)),
        Verdict::Retry | Verdict::Failed => TrialError::Refused(Box::new(failure)),
    })?;
    match accepted {
        Accepted::File(path) => {
            print(&format!("written to {}; with mail.transport = file, no mail leaves this machine", path.display()));
        }
        Accepted::Relay(reply) => {
            print(&format!("accepted: {reply}"));
            print(&format!(
                "The relay has the mail, which is not delivery: look into the inbox of {to}, and into its spam."
            ));
        }
    }
    Ok(())
}
