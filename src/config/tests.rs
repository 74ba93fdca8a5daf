#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::time::Duration;

use clap::CommandFactory;
use secrecy::{ExposeSecret, SecretString};

use super::key::{Key, Mark};
use super::*;

/// A configuration from a file `latchkey.toml`, variables, and `--set` flags.
fn read(file: &str, variables: &[(&str, &str)], set: &[&str]) -> Result<Config, String> {
    let flags = Flags {
        config: (!file.is_empty()).then(|| PathBuf::from("latchkey.toml")),
        set: set.iter().copied().map(SecretString::from).collect(),
        ..Flags::default()
    };
    read_with(&flags, file, variables)
}

/// The same with flags. The file `url` contains a URL with a password.
fn read_with(flags: &Flags, file: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read_file = |path: &Path| match path.to_str() {
        Some("latchkey.toml") => Ok(file.to_owned()),
        Some("url") => Ok("postgres://app:hunter2@db:5432/latchkey\n".to_owned()),
        Some("nonsense") => Ok("hunter2".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    load(flags, environment, read_file).map_err(|problems| problems.to_string())
}

/// The reported problems, one line each.
fn problems(file: &str, variables: &[(&str, &str)], set: &[&str]) -> Vec<String> {
    let text = read(file, variables, set).unwrap_err();
    text.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
}

/// The only reported problem.
fn problem(file: &str, variables: &[(&str, &str)], set: &[&str]) -> String {
    let mut all = problems(file, variables, set);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn without_any_source_the_defaults_hold() {
    let config = read("", &[("HOME", "/home/ada"), ("LATCHKEY_TOKEN", "x")], &[]).unwrap();
    assert_eq!(config.data_dir, Path::new("./latchkey-data"));
    assert_eq!(config.socket, Path::new("./latchkey-data/latchkey.sock"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
    assert!(config.warnings.is_empty());
    let in_same_place = Config::default_in(&config.data_dir);
    assert_eq!(config.print(), in_same_place.print());
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "[session]\nidle = \"2h\"\n";
    let variable = [("LATCHKEY_SESSION_IDLE", "3h")];
    let idle = |config: Result<Config, String>| config.unwrap().session.idle;
    assert_eq!(idle(read("", &[], &[])), Duration::from_hours(1));
    assert_eq!(idle(read(file, &[], &[])), Duration::from_hours(2));
    assert_eq!(idle(read(file, &variable, &[])), Duration::from_hours(3));
    let config = read(file, &variable, &["session.idle=4h"]);
    assert_eq!(idle(config), Duration::from_hours(4));
}

#[test]
fn the_environment_can_name_the_file_and_a_flag_another_one() {
    let file = "issuer = \"from-file\"";
    let named = [("LATCHKEY_CONFIG", "latchkey.toml")];
    let config = read_with(&Flags::default(), file, &named).unwrap();
    assert_eq!(config.issuer, "from-file");
    let missing = read(file, &[("LATCHKEY_CONFIG", "missing.toml")], &[]).unwrap();
    assert_eq!(missing.issuer, "from-file");
    let missing = [("LATCHKEY_CONFIG", "missing.toml")];
    let text = read_with(&Flags::default(), file, &missing).unwrap_err();
    assert!(text.contains("LATCHKEY_CONFIG: cannot read missing.toml"), "{text}");
}

#[test]
fn every_path_follows_the_data_directory() {
    let config = read("", &[("LATCHKEY_DATA_DIR", "/srv/id")], &[]).unwrap();
    assert_eq!(config.socket, Path::new("/srv/id/latchkey.sock"));
    assert_eq!(config.seal_key_file, Path::new("/srv/id/seal.key"));
    assert!(matches!(
        config.database,
        Database::Sqlite { path } if path == Path::new("/srv/id/latchkey.db")
    ));
    let config = read("", &[], &["seal_key_file=/run/key"]).unwrap();
    assert_eq!(config.seal_key_file, Path::new("/run/key"));
    let long = format!("data_dir=/{}", "d".repeat(120));
    assert!(problem("", &[], &[&long]).starts_with("--set data_dir: data_dir makes the path"));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_a_near_one() {
    let file = "issuer = \"x\"\n\n[argon2]\nmemory = 1\nmemory_kb = 65536\n";
    assert_eq!(
        problems(file, &[], &[]),
        [
            "latchkey.toml:4: there is no key `argon2.memory`",
            "latchkey.toml:5: there is no key `argon2.memory_kb` (did you mean `argon2.memory_kib`?)",
        ]
    );
    assert_eq!(
        problem("max_per_user = 3", &[], &[]),
        "latchkey.toml:1: there is no key `max_per_user` (did you mean `session.max_per_user`?)"
    );
    assert_eq!(
        problem("[sesion]\nidle = \"1h\"", &[], &[]),
        "latchkey.toml:2: there is no key `sesion.idle` (did you mean `session.idle`?)"
    );
    assert_eq!(problem("argon2 = 3", &[], &[]), "latchkey.toml:1: `argon2` is a section, not a key");
    assert_eq!(
        problem("", &[("LATCHKEY_LISTENS", "x")], &[]),
        "LATCHKEY_LISTENS: there is no key for this variable (did you mean `LATCHKEY_LISTEN`?)"
    );
    assert_eq!(
        problem("", &[], &["sesion.idle=1h"]),
        "--set: there is no key `sesion.idle` (did you mean `session.idle`?)"
    );
    assert!(problem("", &[("LATCHKEY_PORT", "tcp://10.0.0.1:1")], &[]).contains("Kubernetes"));
}

#[test]
fn a_removed_key_is_ignored_with_a_warning_that_says_when_and_why() {
    let file = "[argon2]\niterations = 3\nonly_when_idle = true\n";
    let variable = [("LATCHKEY_ARGON2_ONLY_WHEN_IDLE", "true")];
    let set = ["argon2.only_when_idle=perhaps"];
    let config = read(file, &variable, &set).unwrap();
    assert_eq!(config.argon2.iterations, 3);
    let origins = ["latchkey.toml:3", "LATCHKEY_ARGON2_ONLY_WHEN_IDLE", "--set argon2.only_when_idle"];
    assert_eq!(config.warnings.len(), origins.len(), "{:#?}", config.warnings);
    for (warning, origin) in config.warnings.iter().zip(origins) {
        let start = format!("{origin}: argon2.only_when_idle was removed in version 0.1.0 and is ignored: it gained");
        assert!(warning.starts_with(&start), "{warning}");
    }
    assert!(!config.print().contains("only_when_idle"));
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_a_reader() {
    let file = "listen = \"anywhere:50051\"\nhttp_listen = false\nextra = 1\n";
    let variables = [("LATCHKEY_TOKEN_ACCESS_TTL", "1h"), ("LATCHKEY_ARGON2_ITERATIONS", "1")];
    let all = problems(file, &variables, &["reflection=no", "idle"]);
    let starts = [
        "latchkey.toml:1: listen = \"anywhere:50051\": must be an IP address and port",
        "latchkey.toml:2: http_listen has the TOML type boolean, not string; it must be an IP",
        "latchkey.toml:3: there is no key `extra`",
        "LATCHKEY_ARGON2_ITERATIONS: argon2.memory_kib = 19456 with argon2.iterations = 1: both",
        "LATCHKEY_TOKEN_ACCESS_TTL: token.access_ttl = \"1h\": must be a duration from 1s to 15m: ",
        "--set: must be KEY=VALUE",
        "--set reflection: reflection = \"no\": must be one of `on`, `authenticated`, `off`: ",
    ];
    assert_eq!(all.len(), starts.len(), "{all:#?}");
    for (line, start) in all.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
    let text = read(file, &variables, &[]).unwrap_err();
    assert!(text.starts_with("5 problems in the configuration:\n"), "{text}");
    assert!(text.contains("hint: `latchkeyd config check`"), "{text}");
}

#[test]
fn tables_dotted_keys_and_inline_tables_are_the_same() {
    for file in ["\n[log]\nlevel = \"warn\"", "\n\nlog.level = \"warn\"", "\n\nlog = { level = \"warn\" }"] {
        let printed = read(file, &[], &[]).unwrap().print();
        assert!(printed.contains("level = \"warn\" # latchkey.toml:3\n"), "{printed}");
    }
    assert!(read("[log]\n", &[], &[]).is_ok());
    assert_eq!(problem("[[log]]\n", &[], &[]), "latchkey.toml:1: `log` is a section, not a key");
}

#[test]
fn a_wrong_value_is_reported_although_a_later_one_replaces_it() {
    let line = problem("[token]\naccess_ttl = \"5\"", &[], &["token.access_ttl=5m"]);
    assert!(line.starts_with("latchkey.toml:2: token.access_ttl = \"5\": must be"), "{line}");
}

#[test]
fn a_syntax_error_names_its_line_and_repeats_nothing_of_it() {
    let line = problem("\n\ndatabase_url = \"postgres://app:hunter2@db/x\n", &[], &[]);
    assert!(line.starts_with("latchkey.toml:3: is not TOML: "), "{line}");
    assert!(!line.contains("hunter2"), "{line}");
}

#[test]
fn a_key_is_given_once_on_the_command_line() {
    let flags =
        Flags { listen: Some("127.0.0.1:1".to_owned()), set: vec!["listen=127.0.0.1:2".into()], ..Flags::default() };
    let text = read_with(&flags, "", &[]).unwrap_err();
    assert!(text.contains("--set listen: listen is given twice"), "{text}");
}

#[test]
fn argon2_is_at_least_as_strong_as_a_listed_pair() {
    let with = |memory: &str, iterations: &str, more: &[&str]| {
        let memory = format!("argon2.memory_kib={memory}");
        let iterations = format!("argon2.iterations={iterations}");
        let mut set = vec![memory.as_str(), iterations.as_str()];
        set.extend(more);
        read("", &[], &set)
    };
    for (memory, iterations) in
        [("47104", "1"), ("19456", "2"), ("12288", "3"), ("9216", "4"), ("7168", "5"), ("131072", "4")]
    {
        let config = with(memory, iterations, &[]).unwrap();
        assert!(config.warnings.is_empty(), "{memory} {iterations}");
    }
    for (memory, iterations) in [("47103", "1"), ("19455", "2"), ("7167", "10"), ("131072", "5")] {
        assert!(with(memory, iterations, &[]).is_err(), "{memory} {iterations}");
    }
    let weak = with("16", "1", &["argon2.allow_weak=true"]).unwrap();
    assert!(weak.warnings.concat().contains("argon2.allow_weak"));
    let lanes = ["argon2.allow_weak=true", "argon2.parallelism=3"];
    assert!(with("16", "1", &lanes).unwrap_err().contains("at least 8 KiB a lane"));
}

#[test]
fn rules_between_keys_name_the_key_that_was_set() {
    for (set, start) in [
        ("http_listen=127.0.0.1:50051", "--set http_listen: listen and http_listen must differ"),
        ("pages.listen=127.0.0.1:50051", "--set pages.listen: listen and pages.listen must differ"),
        ("pages.listen=127.0.0.1:50052", "--set pages.listen: http_listen and pages.listen must differ"),
        ("throttle.initial=1h", ""),
        ("throttle.max=1s", "--set throttle.max: throttle.initial must be at most throttle.max"),
        ("throttle.failure_memory=1m", "--set throttle.failure_memory: throttle.failure_memory must"),
        ("throttle.lockout_threshold=5", "--set throttle.lockout_threshold: throttle.threshold must"),
        ("throttle.lockout_threshold=6", ""),
        ("session.idle=13h", "--set session.idle: session.idle must be at most session.absolute"),
        ("session.admin_absolute=5m", "--set session.admin_absolute: session.admin_idle must be"),
    ] {
        if start.is_empty() {
            assert!(read("", &[], &[set]).is_ok(), "{set}");
        } else {
            let line = problem("", &[], &[set]);
            assert!(line.starts_with(start), "{line}");
        }
    }
}

#[test]
fn zero_turns_a_limit_off_and_off_a_listener() {
    let set = ["throttle.source_failures=0", "http_listen=off", "argon2.threads=0"];
    let config = read("", &[], &set).unwrap();
    assert_eq!(config.throttle.source_failures, 0);
    assert_eq!(config.http_listen, None);
    assert_eq!(config.argon2.threads, None);
    let config = read("", &[], &["throttle.lockout_threshold=0", "throttle.unknown_names=0"]);
    assert_eq!(config.unwrap().warnings.len(), 2);
}

#[test]
fn pages_that_others_reach_say_under_which_url() {
    let tls = ["tls.cert=a", "tls.key=b", "pages.listen=0.0.0.0:443"];
    let told = problem("", &[], &tls);
    assert!(
        told.starts_with("--set pages.listen: pages.listen is no loopback address: set pages.public_url"),
        "{told}"
    );
    for url in ["pages.public_url=https://id.example.org", "links.url=https://id.example.org/{purpose}/{token}"] {
        assert!(read("", &[], &[tls.as_slice(), &[url]].concat()).is_ok(), "{url}");
    }
    let config = read("", &[], &["pages.listen=off", "pages.trusted_proxies=10.0.0.0/8, 2001:db8::/32"]).unwrap();
    assert_eq!(config.pages.trusted_proxies.0.len(), 2);
    assert!(config.print().contains("trusted_proxies = \"10.0.0.0/8,2001:db8::/32\""), "{}", config.print());
    assert_eq!(config.link_urls(None), None);
}

#[test]
fn a_database_is_a_file_a_server_or_a_file_that_names_one() {
    let database = |url: &str| read("", &[("LATCHKEY_DATABASE_URL", url)], &[]).map(|c| c.database);
    for url in ["sqlite:/srv/a.db", "sqlite:///srv/a.db"] {
        assert!(matches!(
            database(url).unwrap(),
            Database::Sqlite { path } if path == Path::new("/srv/a.db")
        ));
    }
    for url in [
        "postgres://app@db/latchkey",
        "postgresql://app:p%40ss@[::1]:5432/latchkey?sslmode=require",
        "postgres:///latchkey?host=/run/postgresql",
        "file:url",
    ] {
        assert!(matches!(database(url).unwrap(), Database::Postgres { .. }), "{url}");
    }
    for url in [
        "",
        "mysql://app:hunter2@db/latchkey",
        "postgres://app:hun@ter2@db/latchkey",
        "postgres://app:hunter2/x@db/latchkey",
        "postgres://app:5432/hunter2@db/latchkey",
        "postgres://app:hunter2?@db/latchkey",
        "postgres://app:hunter2@db:port/latchkey",
        "sqlite::memory:",
        "sqlite:",
        "hunter2",
        "file:",
        "file:missing",
        "file:nonsense",
    ] {
        let text = database(url).unwrap_err();
        assert!(text.contains("LATCHKEY_DATABASE_URL: database_url: "), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_password_is_in_no_text() {
    let url = "postgres://app:hunter2@db:5432/latchkey?password=hunter2&sslmode=require&sslkey=hunter2";
    let flags = Flags { database_url: Some(url.into()), set: vec!["issuer=x".into()], ..Flags::default() };
    let config = read_with(&flags, "", &[]).unwrap();
    assert!(matches!(&config.database, Database::Postgres { url: kept } if kept.expose_secret() == url));
    let masked = "postgres://app:***@db:5432/latchkey?password=***&sslmode=require&sslkey=***";
    assert!(config.print().contains(masked), "{}", config.print());
    assert!(config.warnings.concat().contains("--database-url file:PATH"));
    let from_file = read("", &[], &["database_url=file:url"]).unwrap();
    assert!(from_file.warnings.is_empty());
    assert!(from_file.print().contains("database_url = \"file:url\" # --set database_url\n"));
    for text in [
        config.print(),
        format!("{config:?}{flags:?}{:?}", config.warnings),
        from_file.print(),
        format!("{from_file:?}"),
        problem("\"postgres://app:hunter2@db\" = 1", &[], &[]),
        problem("", &[], &["postgres://app:hunter2@db/x?sslmode=off"]),
    ] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn what_is_printed_can_be_read_and_tells_where_each_value_is_from() {
    let file = "[log]\nlevel = \"latchkey=debug,info\"\n";
    let config = read(file, &[("LATCHKEY_SOCKET", "/tmp/a\"b")], &["session.idle=90m"]).unwrap();
    let printed = config.print();
    for line in [
        "level = \"latchkey=debug,info\" # latchkey.toml:2\n",
        "socket = \"/tmp/a\\\"b\" # LATCHKEY_SOCKET\n",
        "idle = \"90m\" # --set session.idle\n",
        "absolute = \"12h\" # default\n",
        "memory_kib = 19456 # default\n",
    ] {
        assert!(printed.contains(line), "{line}{printed}");
    }
    let values = |text: &str| -> Vec<String> {
        let values = text.lines().filter(|line| !line.starts_with('#'));
        values.map(|line| line.split(" # ").next().unwrap().to_owned()).collect()
    };
    let again = read(&printed, &[], &[]).unwrap().print();
    assert_eq!(values(&printed), values(&again));
}

#[test]
fn every_key_is_documented_and_can_be_set_in_every_way() {
    let printed = Config::default_in(Path::new("/srv/id"));
    let mut names = HashSet::new();
    for key in keys::all() {
        assert!(key.doc.trim().ends_with('.'), "{}", key.name);
        assert!(!key.why.is_empty() && !key.why.ends_with('.'), "{}", key.name);
        assert!(names.insert(key.variable()), "{}", key.name);
        let value = match key.name {
            "database_url" => "sqlite:/srv/id/latchkey.db".to_owned(),
            name => (key.default)().replace("<data_dir>", name),
        };
        let assignment = format!("{}={value}", key.name);
        assert!(read("", &[], &[&assignment]).is_ok(), "{assignment}");
        let config = read("", &[(&key.variable(), &value)], &[]).unwrap();
        assert_eq!(config.origin(key.name), &Origin::Variable(key.variable()));
        assert!(config.print().contains(&format!(" # {}\n", key.variable())), "{}", key.name);
    }
    assert_eq!(printed.print().matches(" # default\n").count(), names.len());
}

#[test]
fn the_flags_are_those_that_keys_are_marked_with() {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        _flags: Flags,
    }
    let mut known: Vec<String> = keys::all().filter_map(Key::flag).collect();
    known.extend(["--config".to_owned(), "--set".to_owned()]);
    let command = Command::command();
    for argument in command.get_arguments() {
        let flag = format!("--{}", argument.get_long().unwrap());
        assert!(known.contains(&flag), "{flag}");
        assert!(argument.get_help().is_some_and(|help| !help.to_string().is_empty()), "{flag}");
    }
    assert_eq!(command.get_arguments().count(), known.len());
    for (name, _) in Flags::default().given() {
        assert!(keys::all().any(|key| key.name == name && key.is(Mark::Flag)), "{name}");
    }
}

#[test]
fn the_manual_is_up_to_date_and_its_example_is_right() {
    let committed = include_str!("../../docs/config.md");
    assert!(committed == reference(), "docs/config.md is not the text of `config::reference()`");
    let example = render::EXAMPLE.replace("/run/secrets/latchkey-database-url", "url");
    assert!(read(&example, &[], &[]).is_ok());
}

#[test]
fn forms_accept_what_they_describe() {
    for (assignment, is_right) in [
        ("issuer=https://id.example.org", true),
        ("issuer=latchkey", true),
        ("issuer=a b", false),
        ("issuer=:x", false),
        ("issuer=", false),
        ("log.level=info,latchkey::app=debug", true),
        ("log.level=inf", false),
        ("log.level=latchkey=", false),
        ("log.level=", false),
        ("listen=[::1]:0", true),
        ("listen=localhost:50051", false),
        ("listen=192.0.2.1:50051", false),
        ("http_listen=0.0.0.0:8080", false),
        ("http_listen=[::1]:8080", true),
        ("connections.max=0", false),
        ("tls.client_ca=off", true),
        ("data_dir=", false),
        ("session.idle=900", false),
        ("password.min_length=7", false),
        ("password.min_length=-1", false),
        ("temporary_password.ttl=3days", true),
        ("temporary_password.ttl=73h", false),
        ("argon2.allow_weak=yes", false),
        ("log.format=JSON", false),
        ("pages.listen=off", true),
        ("pages.public_url=http://id.example.org", false),
        ("pages.public_url=auto", true),
        ("pages.trusted_proxies=10.0.0.1/8", false),
        ("pages.trusted_proxies=10.0.0.1", true),
        ("links.url=https://id.example.org/{token}", false),
        ("mail.from=Identity <id@example.org>", true),
        ("mail.from=Identity", false),
        ("mail.transport=sendmail", false),
        ("mail.hello=id.example.org", true),
        ("mail.hello=id example", false),
        ("mail.hello=a..b", false),
        ("organisation.name=Müller & Co.", true),
        ("organisation.name= ", false),
        ("organisation.name=a\nb", false),
        ("support.contact=the service desk, room 12", true),
        ("support.contact=", false),
        ("support.contact=https://help.example.org", false),
    ] {
        assert_eq!(read("", &[], &[assignment]).is_ok(), is_right, "{assignment}");
    }
}

#[test]
fn other_machines_are_served_over_tls_or_by_an_explicit_switch() {
    let open = "listen = \"192.0.2.1:50051\"\nhttp_listen = \"[::]:50052\"\n";
    let told = problems(open, &[], &[]);
    assert!(told.len() == 2 && told.iter().all(|line| line.contains("served in the clear: set tls.cert")), "{told:#?}");
    let pair = "[tls]\ncert = \"a\"\nkey = \"b\"\n";
    assert!(read(&format!("{open}{pair}"), &[], &[]).unwrap().warnings.is_empty());
    let switched = read(open, &[("LATCHKEY_INSECURE_PLAINTEXT", "true")], &[]).unwrap();
    assert!(switched.warnings.iter().any(|warning| warning.starts_with("insecure_plaintext")));
    // Without effect it causes no warning.
    assert!(read("insecure_plaintext = true", &[], &[]).unwrap().warnings.is_empty());
    assert!(problem("[tls]\ncert = \"a\"\n", &[], &[]).contains("must be set together"));
    assert!(problem("[tls]\nclient_ca = \"a\"\n", &[], &[]).contains("needs tls.cert and tls.key"));
}

#[test]
fn mail_goes_to_a_relay_if_there_is_one_else_to_files_or_nowhere() {
    let transport = |set: &[&str]| read("", &[], set).map(|config| config.mail.transport);
    let from = "mail.from=Identity <id@example.org>";
    let url = "mail.smtp.url=smtps://mail.example.org";
    let shared = "database_url=postgres://app@db/latchkey";
    assert_eq!(transport(&[]), Ok(Transport::File));
    assert_eq!(transport(&[shared]), Ok(Transport::Off));
    assert_eq!(transport(&[url, from]), Ok(Transport::Smtp));
    assert_eq!(transport(&[url, from, shared]), Ok(Transport::Smtp));
    assert_eq!(transport(&[url, "mail.transport=file"]), Ok(Transport::File));
    assert_eq!(transport(&[shared, "mail.transport=file"]), Ok(Transport::File));
    let config = read("", &[("LATCHKEY_DATA_DIR", "/srv/id")], &["mail.hello=id.example.org"]).unwrap();
    assert_eq!(config.mail.dir, Path::new("/srv/id/mail"));
    assert_eq!(config.mail.hello.as_deref(), Some("id.example.org"));
}

#[test]
fn a_relay_needs_an_address_a_sender_and_user_and_password_together() {
    let from = "mail.from=id@example.org";
    for (set, start) in [
        (&["mail.transport=smtp", from][..], "--set mail.transport: mail.transport = smtp needs mail.smtp.url"),
        (&["mail.smtp.url=smtps://mail.example.org"][..], "--set mail.smtp.url: mail.from must be set"),
        (&["mail.smtp.url=smtps://ada@mail.example.org", from][..], "--set mail.smtp.url: mail.smtp.url names a user"),
        (
            &["mail.smtp.url=smtps://mail.example.org", "mail.smtp.password_file=a", from][..],
            "--set mail.smtp.password_file: mail.smtp.password_file needs a user",
        ),
    ] {
        let line = problem("", &[], set);
        assert!(line.starts_with(start), "{line}");
    }
    let whole = ["mail.smtp.url=smtps://ada@mail.example.org", "mail.smtp.password_file=a", from];
    let config = read("", &[], &whole).unwrap();
    assert!(config.print().contains("url = \"smtps://ada@mail.example.org:465\""), "{}", config.print());
}

#[test]
fn a_relay_url_takes_no_password_and_repeats_none() {
    for url in ["smtps://ada:hunter2@mail.example.org", "smtp://hunter2@192.0.2.1?tls=none", "hunter2"] {
        let line = problem("", &[("LATCHKEY_MAIL_SMTP_URL", url)], &[]);
        assert!(line.starts_with("LATCHKEY_MAIL_SMTP_URL: mail.smtp.url: must be `smtps://USER@HOST:PORT`"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn mails_name_the_sender_unless_the_organisation_has_a_name() {
    let name = |set: &[&str]| read("", &[], set).map(|config| config.organisation);
    assert_eq!(name(&[]).as_deref(), Ok("latchkey"));
    assert_eq!(name(&["mail.from=Identity <id@example.org>"]).as_deref(), Ok("Identity"));
    assert_eq!(name(&["mail.from=id@example.org"]).as_deref(), Ok("example.org"));
    assert_eq!(name(&["organisation.name=Example Ltd", "mail.from=id@example.org"]).as_deref(), Ok("Example Ltd"));
    assert_eq!(read("", &[], &[]).unwrap().support, None);
    let config = read("", &[], &["support.contact=help@example.org"]).unwrap();
    assert_eq!(config.support.as_deref(), Some("help@example.org"));
    let printed = config.print();
    assert!(printed.contains("name = \"latchkey\"") && printed.contains("contact = \"help@example.org\""), "{printed}");
}
