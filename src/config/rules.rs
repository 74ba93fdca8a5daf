//! Rules between several keys, and warnings.

use std::net::SocketAddr;
use std::time::Duration;

use super::given::Given;
use super::keys::{Argon2, Links, Pages, Retention, Root, Session, Throttle, Tls};
use super::problem::{Origin, Problems};
use super::{Config, Mail, Transport};
use crate::domain::lockout::Contradiction;

/// Pairs of memory (KiB) and iterations that the OWASP Password Storage Cheat Sheet lists as equally strong. A hash must
/// have at least both numbers of one pair.
const ARGON2_FLOOR: [(u32, u32); 5] = [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];

/// The most work of one hash: memory in KiB times iterations. It takes about 0.2 s on a machine where the default takes 15 ms.
const ARGON2_WORK_MAX: u64 = 524_288;

/// Memory that each lane needs, in KiB (RFC 9106, section 3.1).
const ARGON2_LANE_KIB: u32 = 8;

/// Returns whether the parameters are at least as strong as a pair that OWASP lists.
pub(super) fn is_strong(argon2: &Argon2) -> bool {
    ARGON2_FLOOR
        .iter()
        .any(|(memory_kib, iterations)| argon2.memory_kib >= *memory_kib && argon2.iterations >= *iterations)
}

/// The origin with the highest precedence among these keys, which is the one to correct first.
fn strongest_origin(given: &Given, keys: &[&str]) -> Origin {
    keys.iter().map(|key| given.origin(key)).max().unwrap_or(Origin::Default)
}

/// Checks that a hash costs neither too little nor too much.
pub(super) fn check_argon2(argon2: &Argon2, given: &Given, problems: &mut Problems) {
    let cost = ["argon2.memory_kib", "argon2.iterations"];
    let (memory_kib, iterations) = (argon2.memory_kib, argon2.iterations);
    let written = format!("argon2.memory_kib = {memory_kib} with argon2.iterations = {iterations}");
    if !is_strong(argon2) && !argon2.allow_weak {
        let pairs: Vec<String> =
            ARGON2_FLOOR.iter().map(|(memory_kib, iterations)| format!("{memory_kib} with {iterations}")).collect();
        problems.add(
            strongest_origin(given, &cost),
            format!(
                "{written}: both must be at least those of one of the pairs {}: OWASP considers \
                 less too weak (a test may set argon2.allow_weak)",
                pairs.join(", ")
            ),
        );
    }
    if u64::from(memory_kib) * u64::from(iterations) > ARGON2_WORK_MAX {
        problems.add(
            strongest_origin(given, &cost),
            format!(
                "{written}: their product must be at most {ARGON2_WORK_MAX}: more would let a few \
                 sign-ins keep all cores busy"
            ),
        );
    }
    let lanes = argon2.parallelism;
    if memory_kib < ARGON2_LANE_KIB.saturating_mul(lanes) {
        problems.add(
            strongest_origin(given, &["argon2.memory_kib", "argon2.parallelism"]),
            format!(
                "argon2.memory_kib = {memory_kib} with argon2.parallelism = {lanes}: the memory \
                 must be at least {ARGON2_LANE_KIB} KiB a lane (RFC 9106)"
            ),
        );
    }
}

/// Checks that the numbers of throttle and lockout do not contradict each other.
pub(super) fn check_throttle(throttle: &Throttle, given: &Given, problems: &mut Problems) {
    for contradiction in throttle.rules().contradictions() {
        let (keys, problem) = match contradiction {
            Contradiction::InitialAboveMax => (
                ["throttle.initial", "throttle.max"],
                "throttle.initial must be at most throttle.max: waits grow from one to the other",
            ),
            Contradiction::MemoryBelowMax => (
                ["throttle.failure_memory", "throttle.max"],
                "throttle.failure_memory must be at least throttle.max: otherwise failures are forgotten \
                 during the wait that they cause",
            ),
            Contradiction::LockoutBeforeThrottle => (
                ["throttle.threshold", "throttle.lockout_threshold"],
                "throttle.threshold must be less than throttle.lockout_threshold: otherwise the account \
                 is locked before any wait",
            ),
        };
        problems.add(strongest_origin(given, &keys), problem);
    }
}

/// Checks that the idle limit of a session is not longer than its absolute limit.
pub(super) fn check_session(session: &Session, given: &Given, problems: &mut Problems) {
    if session.idle > session.absolute {
        problems.add(
            strongest_origin(given, &["session.idle", "session.absolute"]),
            "session.idle must be at most session.absolute: otherwise it has no effect",
        );
    }
    if session.admin_idle > session.admin_absolute {
        problems.add(
            strongest_origin(given, &["session.admin_idle", "session.admin_absolute"]),
            "session.admin_idle must be at most session.admin_absolute: otherwise it has no effect",
        );
    }
}

/// Checks that no retention deletes events before an operator can have seen them.
pub(super) fn check_retention(retention: &Retention, given: &Given, problems: &mut Problems) {
    let kept = [
        ("audit.retention.operators", retention.operators),
        ("audit.retention.sign_ins", retention.sign_ins),
        ("audit.retention.strangers", retention.strangers),
    ];
    for (key, kept) in kept {
        if !kept.is_zero() && kept < Duration::from_hours(24) {
            let problem = format!("{key} must be 0s or at least 1d: otherwise events go before anyone has seen them");
            problems.add(given.origin(key), problem);
        }
    }
}

/// Checks that a relay has all that it needs, and that user and password of the relay are set together.
pub(super) fn check_mail(mail: &Mail, given: &Given, problems: &mut Problems) {
    let user = mail.smtp.url.as_ref().and_then(|url| url.user.as_ref());
    if user.is_some() && mail.smtp.password_file.is_none() {
        let problem = "mail.smtp.url names a user: set mail.smtp.password_file, or leave the user out";
        problems.add(given.origin("mail.smtp.url"), problem);
    }
    if user.is_none() && mail.smtp.password_file.is_some() {
        let problem = "mail.smtp.password_file needs a user in mail.smtp.url, such as smtps://USER@HOST";
        problems.add(given.origin("mail.smtp.password_file"), problem);
    }
    if mail.transport != Transport::Smtp {
        return;
    }
    if mail.smtp.url.is_none() {
        problems.add(given.origin("mail.transport"), "mail.transport = smtp needs mail.smtp.url: there is no relay");
    }
    if given.origin("mail.from") == Origin::Default {
        problems.add(
            strongest_origin(given, &["mail.transport", "mail.smtp.url"]),
            "mail.from must be set for mail to a relay: recipients must see who writes, and bounces go there",
        );
    }
}

/// The addresses of the listeners, each with its key.
fn listeners(root: &Root, pages: Option<&Pages>) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let pages = pages.and_then(|pages| pages.listen);
    let all = [("listen", Some(root.listen)), ("http_listen", root.http_listen), ("pages.listen", pages)];
    all.into_iter().filter_map(|(key, address)| Some((key, address?)))
}

/// Checks that no two listeners share a port.
pub(super) fn check_addresses(root: &Root, pages: Option<&Pages>, given: &Given, problems: &mut Problems) {
    let all: Vec<_> = listeners(root, pages).filter(|(_, address)| address.port() > 0).collect();
    for (index, (key, address)) in all.iter().enumerate() {
        for (other, _) in all.iter().take(index).filter(|(_, taken)| taken == address) {
            problems.add(
                strongest_origin(given, &[other, key]),
                format!("{other} and {key} must differ: only one of them can have the port"),
            );
        }
    }
}

/// Checks that the links in mails lead to a page that others than this machine can reach.
pub(super) fn check_links(pages: &Pages, links: &Links, given: &Given, problems: &mut Problems) {
    let is_open = pages.listen.is_some_and(|address| !address.ip().to_canonical().is_loopback());
    if is_open && pages.public_url.is_none() && links.url.is_none() {
        problems.add(
            given.origin("pages.listen"),
            "pages.listen is no loopback address: set pages.public_url to the URL under which browsers reach it, for the \
             links in mails",
        );
    }
}

/// Checks that certificate and key are both set or both unset: with only one of them the operator expects TLS, and there
/// would be none.
pub(super) fn check_tls(tls: &Tls, given: &Given, problems: &mut Problems) {
    if tls.cert.is_some() != tls.key.is_some() {
        problems.add(
            strongest_origin(given, &["tls.cert", "tls.key"]),
            "tls.cert and tls.key must be set together: a certificate is of no use without its key",
        );
    }
    if tls.client_ca.is_some() && tls.cert.is_none() {
        problems.add(
            given.origin("tls.client_ca"),
            "tls.client_ca needs tls.cert and tls.key: clients show certificates only over TLS",
        );
    }
}

/// Checks that no listener uses plain text outside loopback unless that is set explicitly.
pub(super) fn check_plaintext(
    root: &Root,
    pages: Option<&Pages>,
    tls: Option<&Tls>,
    given: &Given,
    problems: &mut Problems,
) {
    // A problem with the TLS keys themselves is already reported.
    if tls.is_none_or(|tls| tls.cert.is_some() || tls.key.is_some()) || root.insecure_plaintext {
        return;
    }
    for (key, address) in listeners(root, pages) {
        if !address.ip().to_canonical().is_loopback() {
            problems.add(
                given.origin(key),
                format!(
                    "{key} = {address} would be served in the clear: set tls.cert and tls.key, or insecure_plaintext \
                     if other means encrypt the whole network path"
                ),
            );
        }
    }
}

/// Warnings about values that are valid but risky.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let on_command_line = matches!(config.origin("database_url"), Origin::Flag(_));
    if on_command_line && config.database_file.is_none() && config.database.has_password() {
        warnings.push(
            "database_url: all users of this machine can read a password on the command line; \
             put the URL in a file and write `--database-url file:PATH`"
                .to_owned(),
        );
    }
    let is_open = |address: &std::net::SocketAddr| !address.ip().to_canonical().is_loopback();
    if config.tls.cert.is_none()
        && [Some(config.listen), config.http_listen, config.pages.listen].iter().flatten().any(is_open)
    {
        warnings.push(
            "insecure_plaintext: passwords and tokens cross the network in the clear; set tls.cert and tls.key unless \
             they are encrypted by other means"
                .to_owned(),
        );
    }
    if !is_strong(&config.argon2) {
        warnings.push(
            "argon2.allow_weak: passwords are hashed with weaker parameters than OWASP recommends; for tests only"
                .to_owned(),
        );
    }
    if config.throttle.lockout_threshold == 0 {
        warnings.push(
            "throttle.lockout_threshold = 0: an attacker can guess passwords of an account without limit; NIST SP \
             800-63B allows at most 100 consecutive failures"
                .to_owned(),
        );
    }
    if config.throttle.threshold > 0 && config.throttle.unknown_names == 0 {
        warnings.push(
            "throttle.unknown_names = 0: only existing accounts are throttled, so callers can find \
             out which usernames exist"
                .to_owned(),
        );
    }
    warnings
}
