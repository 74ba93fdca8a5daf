//! Text formats that keys accept.

use std::net::SocketAddr;

use super::key::{Allowed, Value};
use super::pages::{LinkUrl, Networks, PublicUrl};
use super::{RelayUrl, Sender};
use crate::domain::text::plain_text;

/// Longest path of a Unix socket in bytes. `sun_path` has 104 bytes on macOS and 108 on Linux, including a final zero byte.
/// With the smaller limit a configuration works on both.
const SOCKET_PATH_MAX: usize = 103;

/// Longest issuer in bytes. Every token contains it, and tokens are sent in headers.
const ISSUER_MAX: usize = 256;

/// Longest host name in bytes (RFC 1035, 2.3.4).
const HOST_NAME_MAX: usize = 253;

/// The levels of `tracing`, and `off`.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// An IP address and port.
pub(super) const ADDRESS: Allowed =
    Allowed::Text("an IP address and port, such as `127.0.0.1:50051` or `[::1]:50051`", |text| {
        text.parse::<SocketAddr>().is_ok()
    });

/// An IP address and port, or `off`.
pub(super) const ADDRESS_OR_OFF: Allowed =
    Allowed::Text("an IP address and port, such as `127.0.0.1:50052`, or `off`", |text| {
        text == "off" || text.parse::<SocketAddr>().is_ok()
    });

/// A path.
pub(super) const PATH: Allowed = Allowed::Text("a path", is_path);

/// A path, or `off`.
pub(super) const PATH_OR_OFF: Allowed = Allowed::Text("a path, or `off`", is_path);

/// The path of a Unix socket.
pub(super) const SOCKET_PATH: Allowed = Allowed::Text("a path of at most 103 bytes", is_socket_path);

/// The sender of mail.
pub(super) const SENDER: Allowed =
    Allowed::Text("an e-mail address, or `NAME <ADDRESS>`", |text| text.parse::<Sender>().is_ok());

/// The URL of a relay, or `off`.
pub(super) const RELAY_URL: Allowed = Allowed::Text(
    "`smtps://USER@HOST:PORT`, `smtp://USER@HOST:PORT`, `smtp://127.0.0.1:25?tls=none` on loopback only, or `off`; user and \
     port may be left out",
    |text| text == "off" || text.parse::<RelayUrl>().is_ok(),
);

/// The name for `EHLO`.
pub(super) const HELLO: Allowed = Allowed::Text("a host name, or `auto`", |text| {
    let is_label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    text.len() <= HOST_NAME_MAX && text.split('.').all(is_label)
});

/// Longest name of the organisation in bytes. Longer subjects are cut off in an inbox.
const ORGANISATION_MAX: usize = 100;

/// Longest contact in bytes.
const CONTACT_MAX: usize = 200;

/// The name of the organisation.
pub(super) const ORGANISATION: Allowed = Allowed::Text("1 to 100 bytes of text on one line, or `auto`", |text| {
    !text.trim().is_empty() && plain_text(text, ORGANISATION_MAX).is_ok()
});

/// The contact for users, or `off`.
pub(super) const CONTACT: Allowed =
    Allowed::Text("1 to 200 bytes of text on one line without a URL, or `off`", |text| {
        !text.trim().is_empty() && plain_text(text, CONTACT_MAX).is_ok() && !text.contains("://")
    });

/// The `iss` claim of a token: a `StringOrURI` (RFC 7519, section 2).
pub(super) const ISSUER: Allowed =
    Allowed::Text("1 to 256 printable ASCII characters without spaces, and a URI if it contains `:`", |text| {
        let has_scheme = text.split_once(':').is_none_or(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                && !rest.is_empty()
        });
        (1..=ISSUER_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic()) && has_scheme
    });

/// The directives of a `tracing_subscriber::EnvFilter`.
///
/// A word without `=` must be a level. `EnvFilter` would accept any other word as the name of a module and log it at every
/// level, but a word such as `inf` is more likely a typing error.
pub(super) const LOG_FILTER: Allowed = Allowed::Text(
    "a level (`off`, `error`, `warn`, `info`, `debug`, `trace`), `module=level`, or several of them separated by commas",
    |text| {
        text.split(',').all(|directive| {
            let (target, level) =
                directive.rsplit_once('=').map_or((None, directive), |(target, level)| (Some(target), level));
            let is_target = |target: &str| !target.is_empty() && target.chars().all(|c| c.is_ascii_graphic());
            LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) && target.is_none_or(is_target)
        })
    },
);

/// The URL of the built-in pages, or `auto`.
pub(super) const PUBLIC_URL: Allowed = Allowed::Text(
    "an `https` URL without `?` and `#`, such as `https://id.example.org`, an `http` URL of this machine, or `auto`",
    |text| Option::<PublicUrl>::read(text).is_some(),
);

/// The URL of links, or `auto`.
pub(super) const LINK_URL: Allowed = Allowed::Text(
    "an `https` URL with `{purpose}` and `{token}` after the host, such as `https://id.example.org/{purpose}?token={token}`, \
     an `http` URL of this machine, or `auto`",
    |text| Option::<LinkUrl>::read(text).is_some(),
);

/// Networks, or `off`.
pub(super) const NETWORKS: Allowed =
    Allowed::Text("IP networks separated by commas, such as `10.0.0.0/8,2001:db8::/32`, or `off`", |text| {
        Networks::read(text).is_some()
    });

/// Returns whether a path can be opened at all.
pub(super) fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// Returns whether a path can be bound as a Unix socket.
pub(super) fn is_socket_path(text: &str) -> bool {
    is_path(text) && text.len() <= SOCKET_PATH_MAX
}
