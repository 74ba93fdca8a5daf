//! The settings of mail, and how it is sent unless that is set.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Sender;
use super::database::DataPath;
use super::keys::{MailKeys, Smtp, Transport};
use super::notices::Notices;
use crate::domain::delivery::LetterKind;

/// The settings of mail.
#[derive(Debug, Clone)]
pub struct Mail {
    /// How mail is sent.
    pub transport: Transport,
    /// The sender.
    pub from: Sender,
    /// The folder for mail as files.
    pub dir: PathBuf,
    /// The name for `EHLO`; `None`: the address of the connection.
    pub hello: Option<String>,
    /// The folder with templates; `None`: the built-in ones.
    pub templates_dir: Option<PathBuf>,
    /// The relay.
    pub smtp: Smtp,
    /// The notices that users get.
    pub notices: Vec<LetterKind>,
    /// Whether a temporary password may be mailed.
    pub temporary_passwords: bool,
    /// How long the steps of a delivery may take. There is no key for it; tests shorten it.
    pub limits: DeliveryLimits,
}

/// How long the steps of a delivery to a relay may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryLimits {
    /// For the connection to one address, and again for the TLS handshake.
    pub connect: Duration,
    /// For a command and its answer, and for sending the content.
    pub command: Duration,
    /// For the answer to the final dot. RFC 5321 (4.5.3.2.6) suggests ten minutes, but a worker's lease ends earlier.
    pub dot: Duration,
    /// For the whole attempt.
    pub attempt: Duration,
    /// How long an attempt may last without being slow. Relays answer within a second, also after they have scanned a mail.
    pub slow_after: Duration,
}

impl Default for DeliveryLimits {
    fn default() -> DeliveryLimits {
        DeliveryLimits {
            connect: Duration::from_secs(10),
            command: Duration::from_mins(1),
            dot: Duration::from_mins(1),
            attempt: Duration::from_secs(100),
            slow_after: Duration::from_secs(5),
        }
    }
}

impl Mail {
    /// Resolves what depends on other settings. On a database that replicas share, each would write links to its own disk.
    pub(super) fn resolve(keys: MailKeys, smtp: Smtp, data_dir: &Path, is_embedded: bool) -> Mail {
        let transport = match keys.transport {
            Some(transport) => transport,
            None if smtp.url.is_some() => Transport::Smtp,
            None if is_embedded => Transport::File,
            None => Transport::Off,
        };
        let hello = (keys.hello != "auto").then_some(keys.hello);
        let (notices, temporary_passwords) = (keys.notices.0, keys.temporary_passwords);
        Mail {
            transport,
            from: keys.from,
            dir: keys.dir.resolve(data_dir),
            hello,
            templates_dir: keys.templates_dir,
            smtp,
            notices,
            temporary_passwords,
            limits: DeliveryLimits::default(),
        }
    }

    /// The keys with the values in effect.
    pub(super) fn keys(&self) -> MailKeys {
        MailKeys {
            transport: Some(self.transport),
            from: self.from.clone(),
            dir: DataPath::At(self.dir.clone()),
            hello: self.hello.clone().unwrap_or_else(|| "auto".to_owned()),
            templates_dir: self.templates_dir.clone(),
            notices: Notices(self.notices.clone()),
            temporary_passwords: self.temporary_passwords,
        }
    }
}
