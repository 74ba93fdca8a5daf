//! Text formats that keys accept.

use std::net::SocketAddr;

use super::key::Allowed;

/// Longest path of a Unix socket in bytes. `sun_path` has 104 bytes on macOS and 108 on Linux, including a final zero byte.
/// With the smaller limit a configuration works on both.
const SOCKET_PATH_MAX: usize = 103;

/// Longest issuer in bytes. Every token contains it, and tokens are sent in headers.
const ISSUER_MAX: usize = 256;

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

/// Returns whether a path can be opened at all.
pub(super) fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// Returns whether a path can be bound as a Unix socket.
pub(super) fn is_socket_path(text: &str) -> bool {
    is_path(text) && text.len() <= SOCKET_PATH_MAX
}
