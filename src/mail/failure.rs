//! Why a mail was not accepted: where the conversation broke, whether to try again, and what an operator can do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::reply::{Reply, ReplyFault};
use crate::config::{RelayUrl, Security};

/// The step of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The composition of the mail.
    Compose,
    /// The file.
    File,
    /// The connection.
    Connect,
    /// The TLS handshake.
    Handshake,
    /// The server's greeting.
    Greeting,
    /// `EHLO`.
    Hello,
    /// `STARTTLS`.
    StartTls,
    /// `AUTH`.
    Authenticate,
    /// `MAIL FROM`.
    Sender,
    /// `RCPT TO`.
    Recipient,
    /// `DATA`.
    Data,
    /// The content, before the final dot. The server has not got a whole mail.
    Content,
    /// The final dot and its answer. The server may have taken the mail.
    Dot,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The mail was not accepted; try again.
    Retry,
    /// The relay refused this mail for good.
    Failed,
    /// The relay may have accepted the mail.
    Unknown,
}

/// Whether a failure would meet mail to others too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// The relay, the folder, or their settings: mail to others would fail too.
    Relay,
    /// The recipient or this mail: mail to others may be accepted.
    Recipient,
}

/// Where mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A relay.
    Relay(RelayUrl),
    /// A folder.
    Folder(PathBuf),
}

/// A mail that was not accepted.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Where the mail was to go.
    pub place: Place,
    /// Where it broke.
    pub phase: Phase,
    /// Why.
    pub fault: Fault,
}

/// Why a conversation broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The letter cannot be a mail.
    NotComposed(String),
    /// The file cannot be written.
    NotWritten(String),
    /// The host name has no address.
    Unresolved(String),
    /// No connection can be made.
    Unreachable(String),
    /// There was no answer in time.
    TimedOut,
    /// The connection was closed or lost.
    Closed,
    /// The server refused.
    Refused(Reply),
    /// The server sent a reply that does not fit.
    Unexpected(Reply),
    /// The server sent something that is not a reply.
    Malformed(ReplyFault),
    /// Plain text followed the answer to `STARTTLS`. It would be taken for the server's word after the handshake.
    Injected,
    /// The server does not offer `STARTTLS`.
    NoStartTls,
    /// The server offers no way to authenticate that we know.
    NoAuthentication,
    /// The server does not speak TLS.
    NotTls,
    /// The certificate is not good.
    Certificate(CertificateFault),
    /// The TLS handshake failed for another reason.
    Tls(String),
}

/// Why a certificate is not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFault {
    /// No trusted CA signed it.
    UnknownIssuer,
    /// It is for another name.
    WrongName,
    /// It has expired.
    Expired,
    /// Any other reason.
    Other(String),
}

impl Failure {
    pub(super) fn new(relay: &RelayUrl, phase: Phase, fault: Fault) -> Failure {
        Failure { place: Place::Relay(relay.clone()), phase, fault }
    }

    /// Returns whether the relay said no, and the conversation is in order.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.fault, Fault::Refused(_))
    }

    /// Returns what to do.
    ///
    /// A refusal for good counts only if it is for this mail. A relay that refuses us must not make every waiting mail fail: a
    /// password may have changed, or the relay may not know this machine yet.
    pub fn verdict(&self) -> Verdict {
        match (&self.fault, self.phase) {
            (Fault::NotComposed(_), _) => Verdict::Failed,
            (Fault::Refused(reply), _) if reply.is_permanent() && self.culprit() == Culprit::Recipient => {
                Verdict::Failed
            }
            (Fault::Refused(_), _) => Verdict::Retry,
            (_, Phase::Dot) => Verdict::Unknown,
            _ => Verdict::Retry,
        }
    }

    /// Returns whether mail to others would fail too.
    ///
    /// The relay has not heard of the recipient before `RCPT TO`. Some answers after it are about the relay all the same.
    pub fn culprit(&self) -> Culprit {
        let is_of_relay = match (&self.fault, self.phase) {
            (Fault::NotComposed(_), _) => false,
            (Fault::Refused(reply), phase) => {
                phase < Phase::Recipient || reply.is_about_relay() || is_relaying_denied(&reply.to_string())
            }
            (_, phase) => phase < Phase::Recipient,
        };
        if is_of_relay { Culprit::Relay } else { Culprit::Recipient }
    }

    /// The same as `Display`, in a form for the log: an answer of the relay may quote addresses, so only its codes.
    pub(super) fn without_addresses(&self) -> String {
        let Some(reply) = self.reply() else { return self.to_string() };
        let enhanced = reply.enhanced_code().map(|code| format!(" {code}")).unwrap_or_default();
        format!("{}, at {}: {}{enhanced}", self.place, self.phase, reply.code())
    }

    /// The server's last answer, if it gave one.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.fault {
            Fault::Refused(reply) | Fault::Unexpected(reply) => Some(reply),
            _ => None,
        }
    }

    /// What an operator can do.
    pub fn remedy(&self) -> String {
        if let Fault::NotComposed(_) = self.fault {
            return "check the recipient's address".to_owned();
        }
        match &self.place {
            Place::Folder(_) => "check owner and mode of mail.dir, and the free space".to_owned(),
            Place::Relay(relay) => self.remedy_at(relay),
        }
    }

    fn remedy_at(&self, relay: &RelayUrl) -> String {
        let host = &relay.host;
        match (&self.fault, self.phase) {
            (Fault::Unresolved(_), _) => "check the host in mail.smtp.url, and this machine's name server".to_owned(),
            (Fault::Unreachable(_), _) | (Fault::TimedOut, Phase::Connect) => {
                "check host and port in mail.smtp.url, and the firewalls between; the usual ports are 465 (smtps://) and 587 \
                 (smtp://), and many networks block 25"
                    .to_owned()
            }
            (Fault::NotTls, _) => {
                format!("this port begins without TLS: use smtp://{host}:587 for STARTTLS, or smtps:// with port 465")
            }
            (Fault::Malformed(ReplyFault::Surplus), Phase::Greeting) if relay.security != Security::Tls => forged(),
            (Fault::Malformed(fault), Phase::Greeting) if *fault != ReplyFault::Surplus => {
                "no mail server greets like this: check host and port in mail.smtp.url".to_owned()
            }
            (Fault::TimedOut | Fault::Closed, Phase::Greeting) => silent_greeting(relay),
            (Fault::NoStartTls, _) => format!(
                "mail is sent over TLS only: use smtps://{host}:465, or have STARTTLS enabled at the relay; if it offers \
                 STARTTLS elsewhere, something between here and there removes it"
            ),
            (Fault::Injected, _) => forged(),
            (Fault::Certificate(fault), _) => fault.remedy(),
            (Fault::NoAuthentication, _) => "latchkey knows AUTH PLAIN and AUTH LOGIN; use the port for submission, 465 or \
                                             587, or leave the user out of mail.smtp.url"
                .to_owned(),
            (Fault::Refused(reply), Phase::Recipient) if is_relaying_denied(&reply.to_string()) => {
                "the relay does not take mail for other domains from here: authenticate with a user in mail.smtp.url, or have \
                 the relay allow this machine"
                    .to_owned()
            }
            (Fault::Refused(reply), _) if !reply.is_permanent() => {
                "the relay is busy or asks for a delay; try again in a few minutes".to_owned()
            }
            (Fault::Refused(_), Phase::Authenticate) => "check the user in mail.smtp.url and the password in \
                                                         mail.smtp.password_file; some providers want a password for \
                                                         programs"
                .to_owned(),
            (Fault::Refused(_), Phase::Sender) => {
                "the relay does not let this user send as mail.from; it may need authentication: smtps://USER@HOST".to_owned()
            }
            (Fault::Refused(_), Phase::Recipient) => "check the recipient's address; the answer says why".to_owned(),
            (Fault::Refused(_), phase) if phase > Phase::Recipient => {
                "the relay does not take this mail; the answer says why".to_owned()
            }
            (_, Phase::Dot) => "the relay may have taken the mail: look into the inbox before it is sent again".to_owned(),
            _ => "the log of the relay has the reason".to_owned(),
        }
    }
}

fn forged() -> String {
    "something between here and the relay may forge its answers; find out what it is, or use smtps:// with port 465"
        .to_owned()
}

fn silent_greeting(relay: &RelayUrl) -> String {
    let host = &relay.host;
    match relay.security {
        Security::Tls => "the relay is overloaded, or refuses this machine; its log has the reason".to_owned(),
        _ => format!(
            "this port may begin with TLS: use smtps://{host}:465, or smtp:// with port 587; or the relay is overloaded, or \
             refuses this machine: its log has the reason"
        ),
    }
}

impl CertificateFault {
    fn remedy(&self) -> String {
        match self {
            CertificateFault::UnknownIssuer => {
                "if the CA is your own, or the certificate signs itself, name its file with mail.smtp.ca"
            }
            CertificateFault::WrongName => "use a name in mail.smtp.url that the certificate has",
            CertificateFault::Expired => {
                "the operator of the relay must renew it; check also the clock of this machine"
            }
            CertificateFault::Other(_) => "tell the operator of the relay",
        }
        .to_owned()
    }
}

impl Fault {
    /// The fault behind an error of a TLS handshake, or of a read or write over TLS.
    pub(super) fn of_io(error: &io::Error) -> Fault {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(tls) = tls else { return Fault::Closed };
        match tls {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Fault::NotTls,
            rustls::Error::InvalidCertificate(fault) => Fault::Certificate(match fault {
                // The other two: a CA of the same name is trusted, but it has another key.
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                    CertificateFault::UnknownIssuer
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    CertificateFault::WrongName
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateFault::Expired,
                other => CertificateFault::Other(other.to_string()),
            }),
            rustls::Error::AlertReceived(AlertDescription::CloseNotify) => Fault::Closed,
            other => Fault::Tls(other.to_string()),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Compose => "the composition",
            Phase::File => "the file",
            Phase::Connect => "the connection",
            Phase::Handshake => "the TLS handshake",
            Phase::Greeting => "the greeting",
            Phase::Hello => "EHLO",
            Phase::StartTls => "STARTTLS",
            Phase::Authenticate => "AUTH",
            Phase::Sender => "MAIL FROM",
            Phase::Recipient => "RCPT TO",
            Phase::Data => "DATA",
            Phase::Content => "the content",
            Phase::Dot => "the end of the content",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotComposed(why) | Fault::NotWritten(why) | Fault::Unreachable(why) => write!(f, "{why}"),
            Fault::Unresolved(why) => write!(f, "the host name has no address ({why})"),
            Fault::TimedOut => f.write_str("no answer in time"),
            Fault::Closed => f.write_str("the connection was closed"),
            Fault::Refused(reply) => write!(f, "{reply}"),
            Fault::Unexpected(reply) => write!(f, "an unexpected answer: {reply}"),
            Fault::Malformed(fault) => write!(f, "{fault}"),
            Fault::Injected => f.write_str("plain text followed the answer, before TLS"),
            Fault::NoStartTls => f.write_str("the relay does not offer STARTTLS"),
            Fault::NoAuthentication => f.write_str("the relay offers no known way to authenticate"),
            Fault::NotTls => f.write_str("the server does not speak TLS on this port"),
            Fault::Certificate(fault) => write!(f, "{fault}"),
            Fault::Tls(why) => write!(f, "TLS failed: {why}"),
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateFault::UnknownIssuer => {
                f.write_str("the certificate is signed by a CA that is not trusted here")
            }
            CertificateFault::WrongName => f.write_str("the certificate is for another name"),
            CertificateFault::Expired => f.write_str("the certificate has expired"),
            CertificateFault::Other(why) => write!(f, "the certificate is invalid: {why}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.fault, &self.place) {
            (Fault::NotComposed(why), _) => write!(f, "{why}"),
            (fault, Place::Folder(path)) => write!(f, "cannot write mail to {}: {fault}", path.display()),
            (fault, Place::Relay(relay)) => write!(f, "{}, at {}: {fault}", relay.place(), self.phase),
        }
    }
}

impl std::error::Error for Failure {}

/// `file`, or host and port of the relay.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Relay(relay) => f.write_str(&relay.place()),
            Place::Folder(_) => f.write_str("file"),
        }
    }
}

/// Returns whether a recipient was refused because of the sender. Relays have no code of their own for it.
fn is_relaying_denied(answer: &str) -> bool {
    let text = answer.to_ascii_lowercase();
    let signs =
        ["relay access", "relaying", "relay not", "unable to relay", "authentication required", "not authenticated"];
    signs.iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::reply::ReplyReader;

    #[test]
    fn a_certificate_that_a_namesake_of_its_authority_did_not_sign_has_an_unknown_issuer() {
        let of_another_kind_of_key = CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![6, 8],
            public_key_algorithm_id: vec![6, 7],
        };
        for found in [of_another_kind_of_key, CertificateError::BadSignature, CertificateError::UnknownIssuer] {
            let fault = Fault::of_io(&io::Error::other(rustls::Error::InvalidCertificate(found)));
            assert_eq!(fault, Fault::Certificate(CertificateFault::UnknownIssuer));
        }
    }

    #[test]
    fn a_refusal_is_explained_by_its_step_and_by_whether_it_is_for_good() -> Result<(), Box<dyn std::error::Error>> {
        let relay: RelayUrl = "smtps://mail.example.org".parse()?;
        let phases = [Phase::Greeting, Phase::Hello, Phase::Authenticate, Phase::Sender, Phase::Recipient, Phase::Dot];
        let remedy = |phase, line: &str| -> Result<String, Box<dyn std::error::Error>> {
            let reply = ReplyReader::default().push(format!("{line}\r\n").as_bytes())?.ok_or("half a reply")?;
            Ok(Failure::new(&relay, phase, Fault::Refused(reply)).remedy())
        };
        for phase in phases {
            assert!(remedy(phase, "421 4.3.2 busy")?.contains("try again in a few minutes"), "{phase}");
        }
        for (phase, line, part) in [
            (Phase::Greeting, "554 no service", "the log of the relay"),
            (Phase::Authenticate, "535 5.7.8 no", "check the user"),
            (Phase::Sender, "550 5.1.8 no", "send as mail.from"),
            (Phase::Recipient, "550 5.1.1 no", "check the recipient's address"),
            (Phase::Recipient, "454 4.7.1 Relay access denied", "other domains"),
            (Phase::Dot, "554 5.6.0 no", "does not take this mail"),
        ] {
            let found = remedy(phase, line)?;
            assert!(found.contains(part), "{line} at {phase}: {found}");
        }
        let lost = Failure::new(&relay, Phase::Dot, Fault::Closed);
        assert!(lost.remedy().contains("may have taken the mail"), "{}", lost.remedy());
        Ok(())
    }
}
