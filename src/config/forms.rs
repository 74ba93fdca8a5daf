//! The forms of text that keys accept.

use std::net::SocketAddr;

use super::key::Allowed;

/// Bytes in the path of a Unix socket. `sun_path` has 104 on macOS and 108 on Linux, one of them
/// for the closing zero; the smaller one makes a configuration work on both.
const SOCKET_PATH_MAX: usize = 103;

/// Bytes in the name of the issuer. It is in every token, and tokens travel in headers.
const ISSUER_MAX: usize = 256;

/// The levels of `tracing`, and `off`.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// An address.
pub(super) const ADDRESS: Allowed =
    Allowed::Form("an IP address and port, such as `127.0.0.1:50051` or `[::1]:50051`", |text| {
        text.parse::<SocketAddr>().is_ok()
    });

/// An address, or none.
pub(super) const ADDRESS_OR_OFF: Allowed =
    Allowed::Form("an IP address and port, such as `127.0.0.1:50052`, or `off`", |text| {
        text == "off" || text.parse::<SocketAddr>().is_ok()
    });

/// A path.
pub(super) const PATH: Allowed = Allowed::Form("a path", is_path);

/// A path, or none.
pub(super) const PATH_OR_OFF: Allowed = Allowed::Form("a path, or `off`", is_path);

/// The path of a Unix socket.
pub(super) const SOCKET_PATH: Allowed = Allowed::Form("a path of at most 103 bytes", is_socket_path);

/// The `iss` of a token: a `StringOrURI` of RFC 7519, section 2.
pub(super) const ISSUER: Allowed =
    Allowed::Form("1 to 256 printable ASCII characters without spaces, and a URI if there is a `:` in it", |text| {
        let has_scheme = text.split_once(':').is_none_or(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                && !rest.is_empty()
        });
        (1..=ISSUER_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic()) && has_scheme
    });

/// The directives of a `tracing_subscriber::EnvFilter`.
///
/// A bare word must be a level, although the filter would take any other for the name of a module
/// to log at every level: `inf` is rather a slip.
pub(super) const LOG_FILTER: Allowed = Allowed::Form(
    "a level (`off`, `error`, `warn`, `info`, `debug`, `trace`) or `module=level`, or several with commas between",
    |text| {
        text.split(',').all(|directive| {
            let (target, level) =
                directive.rsplit_once('=').map_or((None, directive), |(target, level)| (Some(target), level));
            let is_target = |target: &str| !target.is_empty() && target.chars().all(|c| c.is_ascii_graphic());
            LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) && target.is_none_or(is_target)
        })
    },
);

/// Whether a path can be opened at all.
pub(super) fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// Whether a path can be bound as a Unix socket.
pub(super) fn is_socket_path(text: &str) -> bool {
    is_path(text) && text.len() <= SOCKET_PATH_MAX
}
