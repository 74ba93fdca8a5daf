//! The URL of a relay: `smtps://USER@HOST:PORT`, or `smtp://…` for STARTTLS.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// How a connection to the relay is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (RFC 8314).
    Tls,
    /// TLS after `STARTTLS`. A relay that does not offer it gets nothing.
    StartTls,
    /// None; only to this machine.
    Plain,
}

/// Where the relay is, and who we are to it. The password is never in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl {
    /// A host name or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// TLS.
    pub security: Security,
    /// The name for `AUTH`. Without one there is no authentication.
    pub user: Option<String>,
}

/// A text is not the URL of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a relay")]
pub struct NotARelayUrl;

impl RelayUrl {
    /// Returns whether the host can only be this machine.
    pub fn is_loopback(&self) -> bool {
        let is_loopback_address = self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        is_loopback_address || self.host == "localhost"
    }

    /// Host and port, as a message names the relay.
    pub fn place(&self) -> String {
        let brackets = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{}{}{}:{}", brackets.0, self.host, brackets.1, self.port)
    }
}

impl FromStr for RelayUrl {
    type Err = NotARelayUrl;

    fn from_str(text: &str) -> Result<RelayUrl, NotARelayUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(NotARelayUrl)?;
        let (authority, security) = match (scheme, rest.strip_suffix("?tls=none")) {
            ("smtps", None) => (rest, Security::Tls),
            ("smtp", None) => (rest, Security::StartTls),
            ("smtp", Some(authority)) => (authority, Security::Plain),
            _ => return Err(NotARelayUrl),
        };
        if authority.contains(|c: char| c.is_whitespace() || c.is_control() || "/?#".contains(c)) {
            return Err(NotARelayUrl);
        }
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(decoded(user)?), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        let default_port = match security {
            Security::Tls => 465,
            Security::StartTls => 587,
            Security::Plain => 25,
        };
        ServerName::try_from(host).map_err(|_| NotARelayUrl)?;
        let url = RelayUrl { host: host.to_ascii_lowercase(), port: port.unwrap_or(default_port), security, user };
        if security == Security::Plain && !url.is_loopback() { Err(NotARelayUrl) } else { Ok(url) }
    }
}

/// `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn host_and_port(place: &str) -> Result<(&str, Option<u16>), NotARelayUrl> {
    let (host, after) = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(NotARelayUrl)?,
        None => place.find(':').and_then(|at| place.split_at_checked(at)).unwrap_or((place, "")),
    };
    let port = match after.strip_prefix(':') {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or(NotARelayUrl)?),
        None if after.is_empty() => None,
        None => return Err(NotARelayUrl),
    };
    Ok((host, port))
}

/// Decodes `%40` and its kind. A `:` would begin a password, which has no place in a URL.
fn decoded(user: &str) -> Result<String, NotARelayUrl> {
    let mut bytes = Vec::new();
    let mut pieces = user.split('%');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).ok_or(NotARelayUrl)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| NotARelayUrl)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let decoded = String::from_utf8(bytes).map_err(|_| NotARelayUrl)?;
    let is_name = !decoded.is_empty() && !user.contains(':') && !decoded.contains(char::is_control);
    if is_name { Ok(decoded) } else { Err(NotARelayUrl) }
}

/// The URL as an operator would write it, with its port.
impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.security == Security::Tls { "smtps" } else { "smtp" };
        write!(f, "{scheme}://")?;
        if let Some(user) = &self.user {
            for byte in user.bytes() {
                let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte);
                if is_unreserved { write!(f, "{}", char::from(byte))? } else { write!(f, "%{byte:02X}")? }
            }
            f.write_str("@")?;
        }
        f.write_str(&self.place())?;
        if self.security == Security::Plain { f.write_str("?tls=none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Option<String> {
        text.parse::<RelayUrl>().ok().map(|url| url.to_string())
    }

    #[test]
    fn a_url_names_host_port_user_and_kind_of_tls() {
        for (text, full) in [
            ("smtps://mail.example.org", "smtps://mail.example.org:465"),
            ("smtp://mail.example.org", "smtp://mail.example.org:587"),
            ("smtp://Mail.Example.org:2525", "smtp://mail.example.org:2525"),
            ("smtps://ada@mail.example.org:465", "smtps://ada@mail.example.org:465"),
            ("smtps://ada%40example.org@mail.example.org", "smtps://ada%40example.org@mail.example.org:465"),
            ("smtps://ada@example.org@mail.example.org", "smtps://ada%40example.org@mail.example.org:465"),
            ("smtp://[::1]:25?tls=none", "smtp://[::1]:25?tls=none"),
            ("smtp://localhost?tls=none", "smtp://localhost:25?tls=none"),
        ] {
            assert_eq!(written(text).as_deref(), Some(full));
            assert_eq!(written(full).as_deref(), Some(full));
        }
        let url: Option<RelayUrl> = "smtps://ada%40example.org@mail.example.org".parse().ok();
        assert_eq!(url.and_then(|url| url.user).as_deref(), Some("ada@example.org"));
    }

    #[test]
    fn plain_text_goes_to_this_machine_only() {
        assert!(written("smtp://127.0.0.1:25?tls=none").is_some());
        for open in ["smtp://mail.example.org:25?tls=none", "smtp://192.0.2.1?tls=none", "smtps://localhost?tls=none"] {
            assert_eq!(written(open), None, "{open}");
        }
    }

    #[test]
    fn other_texts_are_no_url_of_a_relay() {
        for wrong in [
            "mail.example.org",
            "http://mail.example.org",
            "smtps://",
            "smtps://:465",
            "smtps://mail.example.org:0",
            "smtps://mail.example.org:66000",
            "smtps://mail.example.org/",
            "smtps://mail.example.org?tls=off",
            "smtps://mail example.org",
            "smtps://@mail.example.org",
            "smtps://ada:secret@mail.example.org",
            "smtps://ada%3@mail.example.org",
            "smtps://ada%0A@mail.example.org",
            "smtps://[::1",
            "smtps://[::1]x",
        ] {
            assert_eq!(written(wrong), None, "{wrong}");
        }
    }
}
