//! Every configuration key, declared once: its type, default, bounds, the reason for the bounds, and its description.
//! Parsing, `config print`, the manual, the names of the environment variables and the help of the flags are derived from
//! these declarations.
//!
//! Sources of the numbers: NIST SP 800-63B-4 (2025), the OWASP Password Storage Cheat Sheet and
//! RFC 9106 (Argon2).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use strum::{Display, EnumString, VariantNames};

use super::database::{DATABASE_URL, DataPath, DatabaseUrl};
use super::formats::{
    ADDRESS, ADDRESS_OR_OFF, CONTACT, HELLO, ISSUER, LINK_URL, LOG_FILTER, NETWORKS, ORGANISATION, PATH, PATH_OR_OFF,
    PUBLIC_URL, RELAY_URL, SENDER, SOCKET_PATH,
};
use super::given::Given;
use super::key::{Allowed, Key, Mark, Value, parsed_values, section};
use super::notices::{NOTICES, Notices};
use super::pages::{LinkUrl, Networks, PublicUrl};
use super::problem::Problems;
use super::{RelayUrl, Sender};
use crate::domain::email::EmailAddress;
use crate::domain::lockout::ThrottleRules;

/// Every key, section by section.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|(_, keys)| keys.iter())
}

/// The sections in the order in which they are printed: description and keys.
pub(super) const SECTIONS: [(&str, &[Key]); 18] = [
    (Root::DOC, Root::KEYS),
    (Tls::DOC, Tls::KEYS),
    (Connections::DOC, Connections::KEYS),
    (Lists::DOC, Lists::KEYS),
    (Log::DOC, Log::KEYS),
    (Argon2::DOC, Argon2::KEYS),
    (Throttle::DOC, Throttle::KEYS),
    (Password::DOC, Password::KEYS),
    (TemporaryPassword::DOC, TemporaryPassword::KEYS),
    (Session::DOC, Session::KEYS),
    (Token::DOC, Token::KEYS),
    (MailKeys::DOC, MailKeys::KEYS),
    (Smtp::DOC, Smtp::KEYS),
    (Pages::DOC, Pages::KEYS),
    (Links::DOC, Links::KEYS),
    (Organisation::DOC, Organisation::KEYS),
    (Support::DOC, Support::KEYS),
    (Retention::DOC, Retention::KEYS),
];

const fn number(min: u32, max: u32, unit: &'static str) -> Allowed {
    Allowed::Number(min..=max, unit)
}

const fn seconds(min: u64, max: u64) -> Allowed {
    Allowed::Duration(Duration::from_secs(min)..=Duration::from_secs(max))
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

section! {
    /// Addresses, files and the database.
    pub(super) struct Root = "" {
        /// Directory of the server's files. It is created if it is missing.
        data_dir: PathBuf = PathBuf::from("./latchkey-data"), PATH,
            "the server keeps its files there", Flag;
        /// Address of the gRPC service. Port 0 selects a free port. Addresses other than loopback need `[tls]`.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50051)), ADDRESS,
            "a host name could have several addresses", Flag;
        /// Address of `/metrics`, `/livez`, `/readyz` and `/.well-known/jwks.json`. Their content is not secret. A loopback
        /// address serves HTTP, any other address HTTPS with the certificate of `[tls]`.
        http_listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 50052))), ADDRESS_OR_OFF,
            "a host name could have several addresses", Flag;
        /// Allows addresses other than loopback without TLS. Anyone on the network path can then read passwords and
        /// tokens, unless a proxy or mesh on the same host encrypts them.
        insecure_plaintext: bool = false, Allowed::Boolean,
            "no other value exists", Flag;
        /// URL of the database, or of a file that contains it. Put a URL with a password into a file: all users of the
        /// machine can read the arguments of a process.
        database_url: DatabaseUrl = DatabaseUrl::InDataDir, DATABASE_URL,
            "other databases are not supported; percent-encode `@`, `/`, `?` and `#` in a password, but nothing in \
            the path of SQLite", Flag, Secret;
        /// Unix socket for the operator on this machine.
        socket: DataPath = DataPath::InDataDir("latchkey.sock"), SOCKET_PATH,
            "a longer path does not fit into a socket address", Flag;
        /// File with the key that seals secrets in the database. Replicas share it.
        seal_key_file: DataPath = DataPath::InDataDir("seal.key"), PATH,
            "without the key the sealed secrets are lost", Flag;
        /// Name of this service in the `iss` claim of access tokens.
        issuer: String = "latchkey".to_owned(), ISSUER,
            "RFC 7519 requires a string or URI, and every token contains it";
        /// Callers that may use gRPC reflection, as `grpcurl` does: all of them, those with a valid credential, or none.
        reflection: Reflection = Reflection::On, Allowed::Choice(Reflection::VARIANTS),
            "no other value exists";
    }
}

section! {
    /// TLS 1.2 and 1.3. With a certificate, gRPC requires TLS on every address; only the local socket does not. The server
    /// reads the files again within seconds of a change. If they are not usable, it logs this and keeps the old ones.
    pub struct Tls = "tls." {
        /// PEM file with the server certificate, followed by intermediate CA certificates.
        cert: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at start and after each change", Flag;
        /// PEM file with the key of the certificate, without a passphrase. Only its owner and group may be able to read it.
        key: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at start and after each change", Flag;
        /// PEM file with CA certificates. If set, gRPC accepts only clients with a certificate of one of these CAs.
        /// Tokens still identify callers.
        client_ca: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at start and after each change", Flag;
    }
}

section! {
    /// Limits on connections. Each listener counts its own. All connections to the local socket are from one peer.
    pub struct Connections = "connections." {
        /// Most connections of a listener. Further connections are closed at once.
        max: u32 = 1024, number(1, 65_536, "connections"),
            "each takes a file descriptor, and memory for up to 100 calls";
        /// Most connections of one peer, which is an IPv4 address or an IPv6 /64. Further connections are closed at once.
        /// Behind a proxy, all clients are one peer.
        max_per_peer: u32 = 64, number(1, 65_536, "connections"),
            "each takes a file descriptor, and memory for up to 100 calls";
        /// Time limit for the TLS handshake, and again for the first bytes of HTTP.
        start_timeout: Duration = Duration::from_secs(5), seconds(1, MINUTE),
            "a client on a slow network needs some round trips, and idle connections use up the limits";
        /// How long a response may stay unread before the connection is closed.
        read_timeout: Duration = Duration::from_secs(30), seconds(1, 10 * MINUTE),
            "unread responses take up to 4 MiB of memory for each call";
        /// Calls of one peer in a second that may fail before the caller is known: without a valid credential, of a method
        /// that does not exist, or with an invalid request. Ten times as many may come at once. Further ones are answered
        /// `RATE_LIMITED`, and connections with many of them are closed. Calls with a valid credential, calls of known
        /// applications and wrong passwords do not count. 0 turns the limit off.
        failed_calls: u32 = 50, number(0, 1_000_000, "calls"),
            "each takes some CPU time from password hashing, which has a lower priority";
    }
}

section! {
    /// Lists and searches. Each caller reads one at a time, and all callers together a few.
    pub struct Lists = "lists." {
        /// How long a list or search may take. A longer one is stopped with `QUERY_TOO_BROAD`.
        time_limit: Duration = Duration::from_secs(2), seconds(1, 5),
            "other lists wait for it, and give up after 2s";
    }
}

section! {
    /// The log.
    pub struct Log = "log." {
        /// Format of the lines.
        format: LogFormat = LogFormat::Text, Allowed::Choice(LogFormat::VARIANTS),
            "no other format exists", Flag;
        /// Level of the log, for all modules or for each.
        level: String = "info".to_owned(), LOG_FILTER,
            "any other text would hide lines that an operator expects", Flag;
    }
}

section! {
    /// Password hashing with Argon2id. A change applies to a stored hash at the user's next sign-in.
    pub struct Argon2 = "argon2." {
        /// Memory of one hash, in KiB.
        memory_kib: u32 = 19_456, number(8, 131_072, "KiB"),
            "each hash in progress takes that much, and stored hashes above the maximum are refused";
        /// Passes over the memory.
        iterations: u32 = 2, number(1, 10, "passes"),
            "more would let a few sign-ins keep all cores busy";
        /// Lanes of one hash. The server computes them one after another.
        parallelism: u32 = 1, number(1, 8, "lanes"),
            "stored hashes above the maximum are refused";
        /// Hashing threads. 0 means one for each core.
        threads: Option<usize> = None, number(0, 1024, "threads"),
            "more threads than cores only cost memory";
        /// Accepts weaker parameters than OWASP lists. For tests only.
        allow_weak: bool = false, Allowed::Boolean,
            "no other value exists";
    }
}

section! {
    /// Limits on wrong passwords. A count of 0 turns its limit off. A policy (`latchkey policy set`) comes before the keys that
    /// say so, and needs no restart.
    pub struct Throttle = "throttle." {
        /// Consecutive failures of an account at which waits begin. Failures from familiar places count apart.
        /// A policy comes before it.
        threshold: u32 = 5, Allowed::Number(ThrottleRules::THRESHOLD, "failures"),
            "NIST SP 800-63B allows at most 100 consecutive failures";
        /// First wait. Each further failure doubles it. A policy comes before it.
        initial: Duration = Duration::from_secs(5), Allowed::Duration(ThrottleRules::INITIAL),
            "less does not slow an attacker, more punishes a typing error";
        /// Longest wait. A policy comes before it.
        max: Duration = Duration::from_secs(HOUR), Allowed::Duration(ThrottleRules::MAX),
            "a longer wait is a lock, which an operator should see";
        /// Consecutive failures at which the account is locked. Failures from unfamiliar places refuse such places instead.
        /// A policy comes before it.
        lockout_threshold: u32 = 100, Allowed::Number(ThrottleRules::THRESHOLD, "failures"),
            "NIST SP 800-63B allows at most 100 consecutive failures";
        /// How long such a lock or refusal lasts. `0s` means until a reset or an operator ends it. A policy comes
        /// before it.
        lockout_duration: Duration = Duration::ZERO, Allowed::Duration(ThrottleRules::LOCKOUT_DURATION),
            "a longer lock is permanent, which is `0s`";
        /// Time without failures after which earlier ones are forgotten. A policy comes before it.
        failure_memory: Duration = Duration::from_secs(DAY), Allowed::Duration(ThrottleRules::FAILURE_MEMORY),
            "a shorter time forgives a patient attacker, and failures are stored that long";
        /// Failures from one source, an IPv4 address or an IPv6 /64, at which it is blocked.
        source_failures: u32 = 30, number(0, 1_000_000, "failures"),
            "more is no limit, which is 0";
        /// Time in which these failures are counted.
        source_failures_window: Duration = Duration::from_secs(5 * MINUTE), seconds(1, DAY),
            "failures of a source are stored that long";
        /// Names with failures from one source at which it is blocked: usernames and addresses, known or not.
        source_accounts: u32 = 20, number(0, 1_000_000, "accounts"),
            "more is no limit, which is 0";
        /// Time in which these names are counted.
        source_accounts_window: Duration = Duration::from_secs(10 * MINUTE), seconds(1, DAY),
            "failures of a source are stored that long";
        /// How long a source is blocked.
        source_block: Duration = Duration::from_secs(15 * MINUTE), seconds(1, DAY),
            "users of a shared address are blocked together";
        /// Unknown usernames that are throttled like accounts, which hides whether an account exists.
        unknown_names: u32 = 100_000, number(0, 10_000_000, "names"),
            "each takes a row in the database";
    }
}

section! {
    /// Rules for passwords that users choose.
    pub struct Password = "password." {
        /// Shortest password, in code points. A policy (`latchkey policy set`) comes before it.
        min_length: u32 = 15, number(8, 64, "code points"),
            "NIST SP 800-63B requires 15 for a password that is the only factor, 8 beside a second factor, and that 64 \
            are accepted";
        /// Longest password, in code points. A policy comes before it.
        max_length: u32 = 256, number(64, 256, "code points"),
            "NIST SP 800-63B requires that 64 are accepted, and each sign-in hashes all of it";
        /// File with the list of leaked passwords, which `latchkeyd breach-list build` makes. A new file at this path is taken up
        /// within a minute, or at once on SIGHUP.
        breach_list: Option<PathBuf> = None, PATH_OR_OFF,
            "NIST SP 800-63B requires that leaked passwords are refused";
    }
}

section! {
    /// Passwords that an operator hands out. They are only good for choosing another.
    pub struct TemporaryPassword = "temporary_password." {
        /// How long a temporary password is valid.
        ttl: Duration = Duration::from_secs(DAY), seconds(MINUTE, 3 * DAY),
            "until then it lies in an inbox or in notes";
    }
}

section! {
    /// Lifetime of sessions. A session keeps its end time when its user becomes an administrator.
    pub struct Session = "session." {
        /// Time without use after which a session ends.
        idle: Duration = Duration::from_secs(HOUR), seconds(1, 30 * DAY),
            "NIST SP 800-63B requires a new sign-in every 30 days";
        /// Time after which a session ends in any case.
        absolute: Duration = Duration::from_secs(12 * HOUR), seconds(1, 30 * DAY),
            "NIST SP 800-63B requires a new sign-in every 30 days";
        /// Like `session.idle`, for users with the role admin.
        admin_idle: Duration = Duration::from_secs(15 * MINUTE), seconds(1, DAY),
            "NIST SP 800-63B requires a new sign-in every 24 hours at its second level";
        /// Like `session.absolute`, for users with the role admin.
        admin_absolute: Duration = Duration::from_secs(8 * HOUR), seconds(1, DAY),
            "NIST SP 800-63B requires a new sign-in every 24 hours at its second level";
        /// Most sessions of one user. One more ends the oldest.
        max_per_user: u32 = 10, number(1, 1_000, "sessions"),
            "without a limit one client in a loop fills the database";
        /// Sign-ins of one user in a minute, on one server. Five times as many may come at once. Further ones with the right
        /// password are answered `RATE_LIMITED`. 0 turns the limit off.
        sign_ins_per_minute: u32 = 60, number(0, 1_000_000, "sign-ins"),
            "more is no limit, which is 0; each writes an event, some 3 MB an hour at the default";
    }
}

section! {
    /// Access tokens.
    pub struct Token = "token." {
        /// How long an access token is valid.
        access_ttl: Duration = Duration::from_secs(5 * MINUTE), seconds(1, 15 * MINUTE),
            "services that verify tokens themselves accept a stolen or revoked one until it expires";
    }
}

section! {
    /// Mail. `latchkeyd mail test ADDRESS`, with the `--config` of the server, sends one and explains what goes wrong.
    pub(super) struct MailKeys = "mail." {
        /// How mail is sent: `smtp` to the relay of `mail.smtp.url`, `file` as files in `mail.dir`, or `off`. `auto` is `smtp`
        /// if `mail.smtp.url` is set, otherwise `file` on SQLite and `off` on PostgreSQL.
        transport: Option<Transport> = None, Allowed::Choice(TRANSPORTS),
            "no other value exists";
        /// Sender of all mail, to which bounces go.
        from: Sender = default_sender(), SENDER,
            "recipients must see who writes";
        /// Folder for mail as files, one `.eml` each, kept for a week. Only the server's user can read them, because mail
        /// contains links.
        dir: DataPath = DataPath::InDataDir("mail"), PATH,
            "it is created when it is needed";
        /// Name of this server for `EHLO`. `auto` is the address of the connection.
        hello: String = "auto".to_owned(), HELLO,
            "some relays refuse other names";
        /// Folder with templates of mails, which replace the built-in ones of the same names ([mail.md](mail.md)). They are read
        /// and checked at the start.
        templates_dir: Option<PathBuf> = None, PATH_OR_OFF,
            "every file in it must have the name of a built-in one";
        /// Notices to users, separated by commas: `password_changed`, `password_reset`, `compromised`, `address_changed`,
        /// `totp_enrolled`, `totp_disabled`, `second_factor_reset`, `recovery_code_used`, `wrong_codes`,
        /// `password_expiring` and `inactive`, or `off`.
        notices: Notices = Notices::default(), NOTICES,
            "no other notice exists";
        /// Whether an operator may have a temporary password sent by mail.
        temporary_passwords: bool = true, Allowed::Boolean,
            "no other value exists";
    }
}

section! {
    /// The web pages that the links in mails lead to, where users choose a password or confirm an address.
    pub struct Pages = "pages." {
        /// Address of the pages. They use TLS if `tls.cert` is set, on loopback too. Port 0 selects a free port.
        listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 50053))), ADDRESS_OR_OFF,
            "a host name could have several addresses", Flag;
        /// URL under which browsers reach the pages, such as that of a proxy. `auto` is the address of `pages.listen`, which
        /// only browsers on this machine reach.
        public_url: Option<PublicUrl> = None, PUBLIC_URL,
            "links in mails begin with it, and a password must not cross the network in the clear";
        /// Networks of the proxies in front of the pages. Only they are believed about the address of the client, in
        /// `X-Forwarded-For`. Otherwise all users of a proxy share its limits.
        trusted_proxies: Networks = Networks::default(), NETWORKS,
            "any client may send the header";
        /// Logo at the top of the pages: an SVG or PNG file of at most 256 KiB.
        logo: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at the start";
    }
}

section! {
    /// The links in mails.
    pub struct Links = "links." {
        /// URL of links, for pages of your own, which call latchkey over gRPC. `{purpose}` becomes `reset`, `invite`, `verify` or
        /// `cancel`. `auto` is the built-in pages.
        url: Option<LinkUrl> = None, LINK_URL,
            "a token must not cross the network in the clear";
        /// How long a link works that a user asked for.
        self_service_ttl: Duration = Duration::from_secs(30 * MINUTE), seconds(MINUTE, DAY),
            "a link in a mailbox is a password";
        /// How long a link works that an operator sent, unless the operator says otherwise.
        operator_ttl: Duration = Duration::from_secs(12 * HOUR), seconds(MINUTE, DAY),
            "a link in a mailbox is a password";
        /// How long an invitation works, unless the operator says otherwise.
        invite_ttl: Duration = Duration::from_secs(72 * HOUR), seconds(MINUTE, 72 * HOUR),
            "a link in a mailbox is a password";
        /// How long a link works that confirms an address.
        verification_ttl: Duration = Duration::from_secs(DAY), seconds(MINUTE, 72 * HOUR),
            "a link in a mailbox is a password";
    }
}

section! {
    /// The relay: the server that takes mail and delivers it. It gets mail over TLS only, and its certificate is checked.
    pub struct Smtp = "mail.smtp." {
        /// URL of the relay. `smtps://` is TLS from the first byte, port 465 by default; `smtp://` is STARTTLS, port 587 by
        /// default, and a relay without it gets nothing. `?tls=none` is for a relay on this machine.
        url: Option<RelayUrl> = None, RELAY_URL,
            "percent-encode special characters of the user; the password belongs into `mail.smtp.password_file`", Secret;
        /// File with the password for the user of `mail.smtp.url`. Only its owner and group may be able to read it.
        password_file: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at the start";
        /// PEM file with CA certificates, instead of those of the system.
        ca: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at the start";
    }
}

section! {
    /// The organisation that runs this service.
    pub(super) struct Organisation = "organisation." {
        /// Name of the organisation, in mails. `auto` is the name in `mail.from`, or the domain if it has no name.
        name: String = "auto".to_owned(), ORGANISATION,
            "it is in the subject of every mail";
    }
}

section! {
    /// Help for users.
    pub(super) struct Support = "support." {
        /// Contact in mails: an address, or a text such as `the service desk, room 12`. `off` names the administrator.
        contact: Option<String> = None, CONTACT,
            "it ends a sentence of every mail, and a URL would not end there";
    }
}

section! {
    /// How long events of the audit log are kept. `0s` keeps them for ever.
    pub struct Retention = "audit.retention." {
        /// What operators and the server did.
        operators: Duration = Duration::from_secs(400 * DAY), seconds(0, 3650 * DAY),
            "longer is for ever, which is `0s`";
        /// Sign-ins, failures at an account, and refusals of known callers.
        sign_ins: Duration = Duration::from_secs(400 * DAY), seconds(0, 3650 * DAY),
            "longer is for ever, which is `0s`";
        /// Failures of unknown callers at no account, such as unknown names and invalid tokens.
        strangers: Duration = Duration::from_secs(30 * DAY), seconds(0, 3650 * DAY),
            "longer is for ever, which is `0s`";
    }
}

impl Throttle {
    /// The configured limits by account.
    pub fn rules(&self) -> ThrottleRules {
        ThrottleRules {
            threshold: self.threshold,
            initial: self.initial,
            max: self.max,
            lockout_threshold: self.lockout_threshold,
            lockout_duration: self.lockout_duration,
            failure_memory: self.failure_memory,
        }
    }
}

/// The sender of mail that is written to files. For a relay, the sender must be set.
pub(super) fn default_sender() -> Sender {
    Sender { name: Some("latchkey".to_owned()), address: EmailAddress::at_localhost("latchkey") }
}

/// Which callers may use gRPC reflection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Reflection {
    /// All callers.
    On,
    /// Callers with a valid credential.
    Authenticated,
    /// No caller.
    Off,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How mail is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Transport {
    /// To the relay of `mail.smtp.url`.
    Smtp,
    /// As files in `mail.dir`.
    File,
    /// Not at all.
    Off,
}

/// The texts of `mail.transport`.
const TRANSPORTS: &[&str] = &["auto", "smtp", "file", "off"];

/// A transport, or `auto`.
impl Value for Option<Transport> {
    fn read(text: &str) -> Option<Self> {
        if text == "auto" { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn write(&self) -> String {
        self.map_or_else(|| "auto".to_owned(), |transport| transport.to_string())
    }
}

parsed_values!(Reflection, LogFormat, Sender);
