//! A mail as text, and as the bytes of MIME.

use std::time::{Duration, SystemTime};

use lettre::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MessageBuilder, MultiPart, SinglePart};

use super::{Mail, file_name};
use crate::config::Sender;
use crate::domain::email::EmailAddress;
use crate::domain::text::{to_multiline, to_plain_text};
use crate::domain::time::Timestamp;

/// Headers by which other programs recognise mail of a program, and send no automatic answer (RFC 3834).
const AUTOMATIC: [(HeaderName, &str); 2] = [
    (HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated"),
    (HeaderName::new_from_ascii_str("X-Auto-Response-Suppress"), "All"),
];

/// A mail to one recipient.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// The sender.
    pub from: &'a Sender,
    /// The address for answers, if it is not the sender's.
    pub reply_to: Option<&'a EmailAddress>,
    /// The recipient.
    pub to: &'a EmailAddress,
    /// The subject, on one line.
    pub subject: &'a str,
    /// The text.
    pub text: &'a str,
    /// The same as HTML, which readers prefer. It comes escaped.
    pub html: Option<&'a str>,
    /// Letters and digits that no other mail has and that cannot be guessed. The `Message-ID` has them, so every try of a mail
    /// is the same mail, and they separate text and HTML.
    pub id: &'a str,
    /// When it was written.
    pub date: Timestamp,
}

/// A mail cannot be composed.
#[derive(Debug, thiserror::Error)]
#[error("the mail cannot be composed: {0}")]
pub struct ComposeError(String);

impl Letter<'_> {
    /// Composes the mail. The same letter gives the same bytes.
    ///
    /// # Errors
    ///
    /// An address that MIME cannot express, or an id that is more than letters and digits.
    pub fn compose(&self) -> Result<Mail, ComposeError> {
        if self.id.is_empty() || !self.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(ComposeError("the id is not of letters and digits".to_owned()));
        }
        let since_epoch = Duration::from_secs(u64::try_from(self.date.as_unix_seconds()).unwrap_or_default());
        let builder = Message::builder()
            .message_id(Some(format!("<{}@{}>", self.id, self.from.address.domain())))
            .date(SystemTime::UNIX_EPOCH + since_epoch)
            .from(mailbox(self.from.name.clone(), &self.from.address)?)
            .to(mailbox(None, self.to)?)
            // A line break in a subject would begin another header.
            .subject(to_plain_text(self.subject, ' '));
        let builder = match self.reply_to {
            Some(address) => builder.reply_to(mailbox(None, address)?),
            None => builder,
        };
        let automatic = AUTOMATIC.into_iter().map(|(name, value)| HeaderValue::new(name, value.to_owned()));
        let builder = automatic.fold(builder, MessageBuilder::raw_header);
        let message = match self.html {
            Some(html) => builder.multipart(
                MultiPart::alternative()
                    .boundary(format!("latchkey-{}", self.id))
                    .singlepart(SinglePart::plain(plain_lines(self.text)))
                    .singlepart(SinglePart::html(plain_lines(html))),
            ),
            None => builder.singlepart(SinglePart::plain(plain_lines(self.text))),
        };
        let content = message.map_err(|error| ComposeError(error.to_string()))?.formatted();
        let (from, to) = (self.from.address.clone(), self.to.clone());
        Ok(Mail { from, to, content, name: file_name(self.date, self.id) })
    }
}

/// The text with no control characters but tabs and the ends of its lines. A lone carriage return would end a line for some
/// servers.
fn plain_lines(text: &str) -> String {
    to_multiline(&text.replace("\r\n", "\n").replace('\r', "\n"), ' ')
}

fn mailbox(name: Option<String>, address: &EmailAddress) -> Result<Mailbox, ComposeError> {
    let envelope = address.envelope();
    let (local, domain) = envelope.rsplit_once('@').unwrap_or_default();
    let address = Address::new(local, domain).map_err(|error| ComposeError(error.to_string()))?;
    Ok(Mailbox::new(name, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: Timestamp = Timestamp::from_micros(1_795_594_353_000_000);

    fn composed(from: &str, to: &str, subject: &str, text: &str) -> Result<Mail, Box<dyn std::error::Error>> {
        let (from, to) = (from.parse::<Sender>()?, EmailAddress::parse(to)?);
        Ok(letter(&from, &to, subject, text).compose()?)
    }

    fn letter<'a>(from: &'a Sender, to: &'a EmailAddress, subject: &'a str, text: &'a str) -> Letter<'a> {
        Letter { from, reply_to: None, to, subject, text, html: None, id: "5e1f", date: DATE }
    }

    /// The headers in a mail, and its body.
    fn parts(mail: &Mail) -> (Vec<String>, String) {
        let text = String::from_utf8_lossy(&mail.content);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        (head.replace("\r\n ", " ").lines().map(str::to_owned).collect(), body.to_owned())
    }

    #[test]
    fn a_letter_has_every_header_that_mail_of_a_program_needs() -> Result<(), Box<dyn std::error::Error>> {
        let mail = composed("Müller & Co. <id@example.org>", "Ada.L@bücher.example", "Grüße", "Hello.\n")?;
        let (headers, body) = parts(&mail);
        for header in [
            "Message-ID: <5e1f@example.org>",
            "Date: Wed, 25 Nov 2026 08:12:33 +0000",
            "To: Ada.L@xn--bcher-kva.example",
            "Auto-Submitted: auto-generated",
            "X-Auto-Response-Suppress: All",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(headers.iter().any(|found| found == header), "no {header:?} in {headers:#?}");
        }
        assert!(headers.iter().any(|header| header.starts_with("From: =?utf-8?")), "{headers:#?}");
        assert!(headers.iter().any(|header| header.starts_with("Subject: =?utf-8?")), "{headers:#?}");
        assert_eq!(body.trim_end(), "Hello.");
        assert_eq!(mail.name, "20261125T081233Z-5e1f.eml");
        assert_eq!(mail.to.envelope(), "Ada.L@xn--bcher-kva.example");
        Ok(())
    }

    #[test]
    fn the_same_letter_gives_the_same_bytes() -> Result<(), Box<dyn std::error::Error>> {
        let (from, to) = ("id@example.org".parse()?, EmailAddress::parse("ada@example.com")?);
        let plain = letter(&from, &to, "A subject", "Text, with ünicode.\n");
        for letter in [plain, Letter { html: Some("<p>Text, with ünicode.</p>"), ..plain }] {
            assert_eq!(letter.compose()?.content, letter.compose()?.content);
        }
        Ok(())
    }

    #[test]
    fn text_and_html_are_alternatives_and_the_better_one_is_last() -> Result<(), Box<dyn std::error::Error>> {
        let (from, to) = ("id@example.org".parse()?, EmailAddress::parse("ada@example.com")?);
        let support = EmailAddress::parse("help@bücher.example")?;
        let plain = letter(&from, &to, "x", "Hello.\r--latchkey-5e1\n--\n");
        let html = "<p lang=\"de\">Grüße</p>\r\n.\n".to_owned() + &"x".repeat(2000);
        let mail = Letter { html: Some(&html), reply_to: Some(&support), ..plain }.compose()?;
        let (headers, body) = parts(&mail);
        assert!(headers.contains(&"Reply-To: help@xn--bcher-kva.example".to_owned()), "{headers:#?}");
        let kind = "Content-Type: multipart/alternative; boundary=\"latchkey-5e1f\"";
        assert!(headers.iter().any(|header| header.starts_with(kind)), "{headers:#?}");
        let found: Vec<_> = body.split("--latchkey-5e1f").map(str::trim).collect();
        let [before, text, rich, after] = found.try_into().map_err(|found| format!("{found:?}"))?;
        assert_eq!((before, after), ("", "--"));
        assert!(text.starts_with("Content-Type: text/plain; charset=utf-8\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nHello.\r\n--latchkey-5e1\r\n--"), "{text}");
        assert!(rich.starts_with("Content-Type: text/html; charset=utf-8\r\n"), "{rich}");
        let longest = mail.content.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
        assert!(mail.content.is_ascii() && longest.is_some_and(|longest| longest <= 999), "{longest:?}");
        Ok(())
    }

    #[test]
    fn an_id_that_could_end_a_header_or_leave_the_folder_is_refused() -> Result<(), Box<dyn std::error::Error>> {
        let (from, to) = ("id@example.org".parse()?, EmailAddress::parse("ada@example.com")?);
        for id in ["", "../x", "a>\r\nBcc: eve@example.com", "a b", "ä"] {
            assert!(Letter { id, ..letter(&from, &to, "x", "y") }.compose().is_err(), "{id:?}");
        }
        Ok(())
    }

    #[test]
    fn nothing_in_a_subject_or_text_becomes_a_header() -> Result<(), Box<dyn std::error::Error>> {
        let subject = "x\r\nBcc: eve@example.com\nCc: eve@example.com\u{760a}\u{85}\u{2028}y\0\u{202e}";
        let mail =
            composed("id@example.org", "ada@example.com", subject, "a\r\n.\r\nBcc: eve@example.com\n.\n{{7*7}}\r")?;
        let (headers, body) = parts(&mail);
        let names: Vec<_> = headers.iter().filter_map(|header| header.split_once(": ").map(|(name, _)| name)).collect();
        assert_eq!(names.len(), headers.len(), "{headers:#?}");
        assert!(!names.iter().any(|name| ["bcc", "cc"].contains(&name.to_lowercase().as_str())), "{headers:#?}");
        assert_eq!(names.iter().filter(|name| **name == "Subject").count(), 1);
        assert!(body.contains("{{7*7}}"), "{body:?}");
        let is_bare = |pair: &[u8]| pair.ends_with(b"\n") != pair.starts_with(b"\r");
        assert!(!mail.content.windows(2).any(is_bare), "{body:?}");
        Ok(())
    }

    #[test]
    fn long_lines_are_folded_for_every_server() -> Result<(), Box<dyn std::error::Error>> {
        let long = "word ".repeat(1000);
        let mail = composed("id@example.org", "ada@example.com", &long, &long)?;
        let longest = mail.content.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
        assert!(longest.is_some_and(|longest| longest <= 999), "{longest:?}");
        Ok(())
    }

    #[test]
    fn every_address_of_a_user_can_be_written_to() -> Result<(), Box<dyn std::error::Error>> {
        for to in
            ["o'hara+math@example.org", "root@localhost", "a.b!#$%&*/=?^_`{|}~-@sub.example.org", "x@straße.example"]
        {
            let mail = composed("latchkey@localhost", to, "x", "y")?;
            assert_eq!(mail.to.as_str(), to);
        }
        Ok(())
    }
}
