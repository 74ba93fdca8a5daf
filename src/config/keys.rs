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
use super::forms::{ADDRESS, ADDRESS_OR_OFF, ISSUER, LOG_FILTER, PATH, PATH_OR_OFF, SOCKET_PATH};
use super::given::Given;
use super::key::{Allowed, Key, Mark, Value, parsed_values, section};
use super::problem::Problems;

/// Every key, section by section.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|(_, keys)| keys.iter())
}

/// The sections in the order in which they are printed: description and keys.
pub(super) const SECTIONS: [(&str, &[Key]); 10] = [
    (Root::DOC, Root::KEYS),
    (Tls::DOC, Tls::KEYS),
    (Connections::DOC, Connections::KEYS),
    (Log::DOC, Log::KEYS),
    (Argon2::DOC, Argon2::KEYS),
    (Throttle::DOC, Throttle::KEYS),
    (Password::DOC, Password::KEYS),
    (TemporaryPassword::DOC, TemporaryPassword::KEYS),
    (Session::DOC, Session::KEYS),
    (Token::DOC, Token::KEYS),
];

const fn count(min: u32, max: u32, unit: &'static str) -> Allowed {
    Allowed::Count(min..=max, unit)
}

const fn seconds(min: u64, max: u64) -> Allowed {
    Allowed::Time(Duration::from_secs(min)..=Duration::from_secs(max))
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

section! {
    /// Addresses, files and the database.
    pub(super) struct Root = "" {
        /// Directory for what the server keeps. It is made if it is missing.
        data_dir: PathBuf = PathBuf::from("./latchkey-data"), PATH,
            "the server keeps its files there", Flag;
        /// Address of the gRPC service. Port 0 takes any free port. Other addresses than those of the loopback
        /// interface need `[tls]`.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50051)), ADDRESS,
            "a host name could mean several addresses", Flag;
        /// Address of `/metrics`, `/livez`, `/readyz` and `/.well-known/jwks.json` over HTTP. It serves no secrets.
        /// On loopback it is plain HTTP, on other addresses HTTPS with the certificate of `[tls]`.
        http_listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 50052))), ADDRESS_OR_OFF,
            "a host name could mean several addresses", Flag;
        /// Allows other addresses than those of the loopback interface without TLS. Everybody on the way can then read
        /// passwords and tokens, unless something else encrypts it: a proxy or a mesh on the same host.
        insecure_plaintext: bool = false, Allowed::Switch,
            "there are no other choices", Flag;
        /// The database. A URL with a password belongs in a file, named by `file:PATH`, because everyone on
        /// the machine can list the arguments of a process.
        database_url: DatabaseUrl = DatabaseUrl::InDataDir, DATABASE_URL,
            "other databases are not supported; in a URL \
            `@`, `/`, `?` and `#` of a password are percent-encoded, in the path of \
            SQLite nothing is", Flag, Secret;
        /// Unix socket for the operator on this machine.
        socket: DataPath = DataPath::InDataDir("latchkey.sock"), SOCKET_PATH,
            "a longer one fits in no socket address", Flag;
        /// File with the key that seals secrets in the database. Replicas share it.
        seal_key_file: DataPath = DataPath::InDataDir("seal.key"), PATH,
            "without the key the sealed secrets are lost", Flag;
        /// Name of this service in the `iss` claim of access tokens.
        issuer: String = "latchkey".to_owned(), ISSUER,
            "RFC 7519 asks for a string or URI, and each token carries it";
        /// Who may ask the server for its API description, as `grpcurl` does.
        reflection: Reflection = Reflection::On, Allowed::Words(Reflection::VARIANTS),
            "there are no other choices";
    }
}

section! {
    /// TLS 1.2 and 1.3. With a certificate gRPC speaks nothing else, wherever it listens; only the local socket does.
    /// The files are read again within seconds of a change; what cannot be used is logged, and the old ones stay.
    pub struct Tls = "tls." {
        /// PEM file with the server's certificate and those of the CAs between it and a root.
        cert: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at the start and whenever it changes", Flag;
        /// PEM file with the key of the certificate, without a passphrase. Everybody must not be able to read it.
        key: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at the start and whenever it changes", Flag;
        /// PEM file with CAs. If it is set, gRPC lets in only clients that show a certificate of one of them; who they
        /// are is still told by their token.
        client_ca: Option<PathBuf> = None, PATH_OR_OFF,
            "it is read at the start and whenever it changes", Flag;
    }
}

section! {
    /// How many connections there are, and what they may do. Each listener counts its own, and to the local socket
    /// this machine is one peer.
    pub struct Connections = "connections." {
        /// Connections that a listener has at most. More are closed at once.
        max: u32 = 1024, count(1, 65_536, "connections"),
            "each takes a descriptor, and memory for up to 100 calls";
        /// Connections that one peer has at most: one address, or one /64 of IPv6. More are closed at once. Behind a
        /// proxy all callers are one peer.
        max_per_peer: u32 = 64, count(1, 65_536, "connections"),
            "each takes a descriptor, and memory for up to 100 calls";
        /// How long a TLS handshake may take, and after it, or without TLS, the first words of HTTP.
        start_timeout: Duration = Duration::from_secs(5), seconds(1, MINUTE),
            "a client on a slow line needs a few round trips, and silent ones take the place of others";
        /// How long an answer may lie unread before the connection is closed.
        read_timeout: Duration = Duration::from_secs(30), seconds(1, 10 * MINUTE),
            "what nobody reads lies in memory, up to 4 MiB a call";
    }
}

section! {
    /// The log.
    pub struct Log = "log." {
        /// Form of the lines.
        format: LogFormat = LogFormat::Text, Allowed::Words(LogFormat::VARIANTS),
            "there are no other forms", Flag;
        /// What is logged: a level for everything, or one for each module.
        level: String = "info".to_owned(), LOG_FILTER,
            "anything else would silence lines that somebody expects", Flag;
    }
}

section! {
    /// How passwords are hashed: Argon2id. A change applies to a stored hash at its next sign-in.
    pub struct Argon2 = "argon2." {
        /// Memory of one hash, in KiB.
        memory_kib: u32 = 19_456, count(8, 131_072, "KiB"),
            "each hash in progress takes that much, and stored hashes above it are refused";
        /// Passes over the memory.
        iterations: u32 = 2, count(1, 10, "passes"),
            "more would let a few sign-ins keep all cores busy";
        /// Lanes of one hash. The server computes them one after another.
        parallelism: u32 = 1, count(1, 8, "lanes"),
            "stored hashes above it are refused";
        /// Threads that hash. 0 takes one for each core.
        threads: Option<usize> = None, count(0, 1024, "threads"),
            "more threads than cores only cost memory";
        /// Accepts parameters below those that OWASP lists. For tests only.
        allow_weak: bool = false, Allowed::Switch,
            "it is a switch";
    }
}

section! {
    /// Waits and lockouts after wrong passwords. A count of 0 turns its limit off.
    pub struct Throttle = "throttle." {
        /// Wrong passwords in a row, for one account, from which on each costs a wait.
        threshold: u32 = 5, count(0, 100, "failures"),
            "NIST SP 800-63B allows at most 100 failures in a row";
        /// The first wait. Each further failure doubles it.
        initial: Duration = Duration::from_secs(5), seconds(1, HOUR),
            "less slows nobody down, more locks people out for a slip";
        /// The longest wait.
        max: Duration = Duration::from_secs(HOUR), seconds(1, DAY),
            "a longer wait is a lock, which an operator should see";
        /// Wrong passwords in a row at which the account is locked.
        lockout_threshold: u32 = 100, count(0, 100, "failures"),
            "NIST SP 800-63B allows at most 100 failures in a row";
        /// How long such a lock lasts. 0s is until a reset or an operator ends it.
        lockout_duration: Duration = Duration::ZERO, seconds(0, 365 * DAY),
            "a longer lock is one for good, which is 0s";
        /// Time without failures after which they are forgotten.
        failure_memory: Duration = Duration::from_secs(DAY), seconds(MINUTE, 365 * DAY),
            "a shorter one forgives a patient guesser, and failures are kept so long";
        /// Failures from one source (an IPv4 address or an IPv6 /64) at which it is blocked.
        source_failures: u32 = 30, count(0, 1_000_000, "failures"),
            "more is no limit, which is 0";
        /// The time in which they are counted.
        source_failures_window: Duration = Duration::from_secs(5 * MINUTE), seconds(1, DAY),
            "failures of one source are kept so long";
        /// Accounts failed at from one source at which it is blocked.
        source_accounts: u32 = 20, count(0, 1_000_000, "accounts"),
            "more is no limit, which is 0";
        /// The time in which they are counted.
        source_accounts_window: Duration = Duration::from_secs(10 * MINUTE), seconds(1, DAY),
            "failures of one source are kept so long";
        /// How long a source is blocked.
        source_block: Duration = Duration::from_secs(15 * MINUTE), seconds(1, DAY),
            "people behind a shared address are blocked with it";
        /// Unknown names that are throttled as if they were accounts, so that nobody can tell.
        unknown_names: u32 = 100_000, count(0, 10_000_000, "names"),
            "each is a row in the database";
    }
}

section! {
    /// Which passwords people may choose.
    pub struct Password = "password." {
        /// Shortest password, in code points.
        min_length: u32 = 15, count(8, 64, "code points"),
            "NIST SP 800-63B asks for 15 where a password is the only factor and for 8 \
            beside a second one, and that 64 are accepted";
        /// Longest password, in code points.
        max_length: u32 = 256, count(64, 256, "code points"),
            "NIST SP 800-63B asks that 64 are accepted, and each sign-in has to hash the whole";
    }
}

section! {
    /// Passwords that an operator hands out. Their only use is to choose another.
    pub struct TemporaryPassword = "temporary_password." {
        /// How long one works.
        ttl: Duration = Duration::from_secs(DAY), seconds(MINUTE, 3 * DAY),
            "it lies in somebody's inbox or notes until it ends";
    }
}

section! {
    /// How long people stay signed in. Whoever becomes an administrator keeps the end that their session was given.
    pub struct Session = "session." {
        /// Time without use after which a session ends.
        idle: Duration = Duration::from_secs(HOUR), seconds(1, 30 * DAY),
            "NIST SP 800-63B asks for a new sign-in after 30 days at the latest";
        /// Time after which a session ends in any case.
        absolute: Duration = Duration::from_secs(12 * HOUR), seconds(1, 30 * DAY),
            "NIST SP 800-63B asks for a new sign-in after 30 days at the latest";
        /// Time without use after which the session of a user with the role admin ends.
        admin_idle: Duration = Duration::from_secs(15 * MINUTE), seconds(1, DAY),
            "NIST SP 800-63B asks for a new sign-in after 24 hours at its second level";
        /// Time after which the session of a user with the role admin ends in any case.
        admin_absolute: Duration = Duration::from_secs(8 * HOUR), seconds(1, DAY),
            "NIST SP 800-63B asks for a new sign-in after 24 hours at its second level";
        /// Sessions that one user can have. One more ends the oldest.
        max_per_user: u32 = 10, count(1, 1_000, "sessions"),
            "without a bound one client in a loop fills the database";
    }
}

section! {
    /// Access tokens.
    pub struct Token = "token." {
        /// How long an access token works.
        access_ttl: Duration = Duration::from_secs(5 * MINUTE), seconds(1, 15 * MINUTE),
            "services that check it themselves accept a stolen or revoked one until it ends";
    }
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

parsed_values!(Reflection, LogFormat);
