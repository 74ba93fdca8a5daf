//! Mail: how a message leaves this server.
//!
//! A caller loads a [`Transport`] once, and sends each [`Letter`] with [`Transport::send`]:
//!
//! - `Ok(Accepted)`: the relay has taken the mail, or its file is on the disk.
//! - `Err(Failure)`: `verdict()` says whether to try again, `phase` where it broke, `reply()` the relay's last answer, and
//!   `culprit()` whether mail to others would fail too.
//!
//! Everything about a mail comes from its letter, so every try sends the same bytes. A future that is dropped hangs up; before
//! the final dot the relay then has nothing. An attempt ends within [`config::DeliveryLimits`](crate::config::DeliveryLimits).
//!
//! The SMTP conversation is our own. A general client does not say in which phase a connection broke, and that decides
//! whether a mail may be sent again: before the final dot the relay has nothing, after it the relay may have everything
//! (RFC 1047). It must also distrust what a man in the middle could have put in front of the TLS handshake.
//!
//! ```text
//! templates/            the subject, text and HTML of every mail, in every language
//! transport.rs          sends a letter to a relay, or to a folder (folder.rs)
//!     letter.rs         composes the mail
//!     connections.rs    keeps connections for the next letter
//!     conversation.rs   connects, TLS, EHLO, AUTH, MAIL, RCPT, DATA, each with a deadline
//!         reply.rs      reads one reply, of several lines, within bounds
//!     failure.rs        where it broke, why, whether to try again, and what an operator can do
//! mailer.rs             sends a message of the outbox
//! trial.rs              sends one letter and shows the conversation
//! ```

mod connections;
mod conversation;
mod failure;
mod folder;
mod letter;
mod mailer;
mod relay;
mod reply;
mod templates;
mod transport;
mod trial;

pub use self::connections::Connections;
pub use self::conversation::{Line, deliver};
pub use self::failure::{CertificateFault, Culprit, Failure, Fault, Phase, Place, Verdict};
pub use self::folder::Folder;
pub use self::letter::{ComposeError, Letter};
pub use self::mailer::{Mailer, Outcome};
pub use self::relay::{Relay, RelayError};
pub use self::reply::{Reply, ReplyFault};
pub use self::templates::{PreviewError, RenderError, Rendered, TemplateError, Templates, Values, preview};
pub use self::transport::{Accepted, Transport};
pub use self::trial::{TrialError, try_out};
use crate::domain::email::EmailAddress;
use crate::domain::time::Timestamp;

/// A mail as a relay gets it.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The address for bounces: `MAIL FROM`.
    pub from: EmailAddress,
    /// The recipient: `RCPT TO`.
    pub to: EmailAddress,
    /// Header and body. Lines end with CRLF or LF.
    pub content: Vec<u8>,
    /// The name of its file in a [`Folder`], the same at every try.
    pub name: String,
}

/// The name of the file of a mail. Names are in the order of the dates.
fn file_name(date: Timestamp, id: &str) -> String {
    format!("{}-{id}{FILE_ENDING}", stamp(date))
}

/// The end of the name of a file that is a mail.
const FILE_ENDING: &str = ".eml";

/// An instant as the beginning of a file's name, such as `20261125T081233Z`.
fn stamp(date: Timestamp) -> String {
    date.to_string().chars().filter(char::is_ascii_alphanumeric).collect()
}
