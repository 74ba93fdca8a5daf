//! Replies of an SMTP server (RFC 5321, 4.2): one line or several, all with the same three digits.

use std::fmt;

use crate::domain::text::to_plain_text;

/// Longest line of a reply in bytes. RFC 5321 allows 512; some servers write longer explanations.
const MAX_LINE: usize = 2 * 1024;

/// Longest reply in bytes.
const MAX_REPLY: usize = 16 * 1024;

/// A complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    lines: Vec<String>,
}

/// Why bytes are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// A line does not begin with a code.
    #[error("it sent something that is not SMTP")]
    NotAReply,
    /// The lines of one reply have different codes.
    #[error("it sent a reply with two codes")]
    TwoCodes,
    /// A line or the reply is too long.
    #[error("it sent an endless reply")]
    TooLong,
    /// More was sent than was asked for: from then on replies would be taken for those of other commands.
    #[error("it sent more than the answer")]
    Surplus,
}

impl Reply {
    /// The three digits.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The texts of the lines, without the code.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The enhanced code, such as `5.1.1` (RFC 3463), if there is one.
    pub fn enhanced_code(&self) -> Option<&str> {
        let word = self.lines.first()?.split(' ').next()?;
        let mut parts = word.split('.');
        let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_code = parts.next() == Some(&(self.code / 100).to_string())
            && parts.next().is_some_and(is_number)
            && parts.next().is_some_and(is_number)
            && parts.next().is_none();
        is_code.then_some(word)
    }

    /// Returns whether the reply is about the server: it shuts down, or its mail system has a problem (RFC 3463: `4.3.x`).
    pub(super) fn is_about_relay(&self) -> bool {
        let subject = self.enhanced_code().and_then(|code| code.split('.').nth(1));
        self.code == 421 || !self.is_permanent() && subject == Some("3")
    }

    /// Changes the texts of the lines.
    pub(super) fn map_lines(self, change: impl Fn(&str) -> String) -> Reply {
        Reply { code: self.code, lines: self.lines.iter().map(|line| change(line)).collect() }
    }

    /// Returns whether the command succeeded.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Returns whether the command failed, for now or for good.
    pub(super) fn is_refusal(&self) -> bool {
        self.code >= 400
    }

    /// Returns whether the command failed for good.
    pub(super) fn is_permanent(&self) -> bool {
        self.code >= 500
    }
}

/// The reply on one line, as a log has it. The enhanced code, which many relays repeat on each line, stands in it once.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        let further = self.lines.iter().skip(1).map(|line| without_word(line, self.enhanced_code()));
        let mut lines = self.lines.iter().take(1).map(String::as_str).chain(further).filter(|line| !line.is_empty());
        lines.try_for_each(|line| write!(f, " {line}"))
    }
}

/// The line without its first word, if that is `word`.
fn without_word<'a>(line: &'a str, word: Option<&str>) -> &'a str {
    let rest = word.and_then(|word| line.strip_prefix(word));
    rest.filter(|rest| rest.is_empty() || rest.starts_with(' ')).map_or(line, str::trim_start)
}

/// Assembles one reply from what arrives.
#[derive(Default)]
pub(super) struct ReplyReader {
    unread: Vec<u8>,
    /// Bytes so far.
    length: usize,
    code: Option<u16>,
    lines: Vec<String>,
}

impl ReplyReader {
    /// Takes more bytes. Returns the reply once it is complete. Fails if more follows.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<Reply>, ReplyFault> {
        let reply = self.push_last(bytes)?;
        if reply.is_some() && self.has_surplus() { Err(ReplyFault::Surplus) } else { Ok(reply) }
    }

    /// Returns whether more followed the reply.
    pub(super) fn has_surplus(&self) -> bool {
        !self.unread.is_empty()
    }

    /// As [`ReplyReader::push`], for the last reply on a connection: what follows is left unread.
    pub(super) fn push_last(&mut self, bytes: &[u8]) -> Result<Option<Reply>, ReplyFault> {
        self.length += bytes.len();
        self.unread.extend_from_slice(bytes);
        if self.length > MAX_REPLY {
            return Err(ReplyFault::TooLong);
        }
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            if line.len() > MAX_LINE {
                return Err(ReplyFault::TooLong);
            }
            if let Some(code) = self.take_line(line.trim_ascii_end())? {
                let lines = std::mem::take(&mut self.lines);
                return Ok(Some(Reply { code, lines }));
            }
        }
        if self.unread.len() > MAX_LINE { Err(ReplyFault::TooLong) } else { Ok(None) }
    }

    /// Takes one line. Returns the code if it is the last of the reply.
    fn take_line(&mut self, line: &[u8]) -> Result<Option<u16>, ReplyFault> {
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyFault::NotAReply)?;
        let code: Option<u16> = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let code = code.filter(|code| (200..600).contains(code)).ok_or(ReplyFault::NotAReply)?;
        if self.code.is_some_and(|first| first != code) {
            return Err(ReplyFault::TwoCodes);
        }
        self.code = Some(code);
        let (is_last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyFault::NotAReply),
        };
        self.lines.push(shown(text));
        Ok(is_last.then_some(code))
    }
}

/// The text of a line: UTF-8, or else Latin-1, which old servers write. Characters that could forge a line of a log or turn
/// the direction of text are replaced.
fn shown(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    };
    to_plain_text(&text, char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, ReplyFault> {
        ReplyReader::default().push(bytes)
    }

    fn shown_reply(bytes: &[u8]) -> String {
        read(bytes).ok().flatten().map(|reply| reply.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_reply_of_several_lines_ends_with_the_line_without_a_hyphen() {
        let reply = read(b"250-relay.example\r\n250-SIZE 1000\r\n250 STARTTLS\r\n").ok().flatten();
        let lines = reply.map(|reply| (reply.code(), reply.lines().to_vec()));
        assert_eq!(lines, Some((250, vec!["relay.example".into(), "SIZE 1000".into(), "STARTTLS".into()])));
        assert_eq!(read(b"250-relay.example\r\n250-SIZE 1000\r\n"), Ok(None));
        assert_eq!(shown_reply(b"550-5.1.1 no\r\n550 such user\n"), "550 5.1.1 no such user");
        assert_eq!(shown_reply(b"250\r\n"), "250");
    }

    #[test]
    fn an_enhanced_code_that_is_repeated_on_each_line_is_shown_once() {
        let repeated = b"550-5.1.1 not to be\r\n550-5.1.1\r\n550-5.1.10 stays\r\n550 5.1.1 found\r\n";
        assert_eq!(shown_reply(repeated), "550 5.1.1 not to be 5.1.10 stays found");
        assert_eq!(shown_reply(b"550-no\r\n550 5.1.1 such\r\n"), "550 no 5.1.1 such");
    }

    #[test]
    fn a_reply_is_the_same_however_it_is_cut_into_packets() {
        let mut reader = ReplyReader::default();
        let pieces: Vec<_> = b"250-a\r\n250 b\r\n".chunks(1).map(|piece| reader.push(piece)).collect();
        let complete = pieces.iter().filter(|piece| matches!(piece, Ok(Some(_)))).count();
        assert_eq!((complete, pieces.len()), (1, 14));
        assert!(matches!(pieces.last(), Some(Ok(Some(_)))));
    }

    #[test]
    fn an_enhanced_code_is_found_only_where_it_fits_the_code() {
        let code = |bytes: &[u8]| read(bytes).ok().flatten().and_then(|reply| reply.enhanced_code().map(str::to_owned));
        assert_eq!(code(b"550-5.1.1 no\r\n550 such user\r\n").as_deref(), Some("5.1.1"));
        assert_eq!(code(b"452 4.2.2\r\n").as_deref(), Some("4.2.2"));
        for none in ["550 4.1.1 no", "550 no", "550", "550 5.1 no", "550 5.1.1.1 no", "550 5..1 no", "550 5.1.x no"] {
            assert_eq!(code(format!("{none}\r\n").as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn what_is_not_a_reply_is_refused() {
        for wrong in
            ["HTTP/1.1 400 Bad Request\r\n", "25\r\n", "250_ok\r\n", "199 x\r\n", "600 x\r\n", "+50 x\r\n", "\r\n"]
        {
            assert_eq!(read(wrong.as_bytes()), Err(ReplyFault::NotAReply), "{wrong:?}");
        }
        assert_eq!(read(b"250-a\r\n550 b\r\n"), Err(ReplyFault::TwoCodes));
        assert_eq!(read(b"250 a\r\n250 b\r\n"), Err(ReplyFault::Surplus));
        assert_eq!(read(b"250 a\r\nx"), Err(ReplyFault::Surplus));
    }

    #[test]
    fn lines_and_replies_are_bounded_also_without_an_end() {
        assert_eq!(read(&[b'2'; MAX_LINE + 1]), Err(ReplyFault::TooLong));
        let long = [b"250 ".as_slice(), &[b'x'; MAX_LINE], b"\r\n"].concat();
        assert_eq!(read(&long), Err(ReplyFault::TooLong));
        assert_eq!(read(&b"250-x\r\n".repeat(MAX_REPLY)), Err(ReplyFault::TooLong));
    }

    #[test]
    fn latin_1_is_shown_and_control_characters_are_not() {
        assert_eq!(shown_reply(b"550 gr\xfc\xdfe\r\n"), "550 grüße");
        assert_eq!(shown_reply("550 grüße\r\n".as_bytes()), "550 grüße");
        assert_eq!(shown_reply(b"550 a\x1b[2Jb\rc\r\n"), "550 a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(shown_reply("550 a\u{202e}b\r\n".as_bytes()), "550 a\u{fffd}b");
    }
}
