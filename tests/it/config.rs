//! The configuration of `latchkeyd`, tested with the real binary.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::harness::certificates::Authority;
use crate::harness::daemon::Daemon;
use crate::harness::database::TestDatabase;
use crate::harness::transcript::{Ran, Shell};

fn latchkeyd(shell: &Shell, args: &[&str]) -> Ran {
    shell.feed("latchkeyd", args, "")
}

fn write(shell: &Shell, name: &str, text: &str) -> String {
    let path = shell.path(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// The line of `config print` for a key.
fn printed<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
    line.unwrap_or_else(|| panic!("no {key} in {text}"))
}

#[test]
fn every_mistake_is_told_at_once_and_where_it_is() {
    let mut shell = Shell::default();
    let file = write(
        &shell,
        "bad.toml",
        "listen = \"anywhere:50051\"\ndatabse_url = \"sqlite:x\"\n\n[session]\nidle = \"1y\"\n\n[argon2]\n\
         memory_kib = 64\nthreads = \"many\"\n",
    );
    shell.set("LATCHKEY_LOG_LEVL", "debug");
    latchkeyd(&shell, &["config", "check", "--config", &file, "--set", "password.min_length=7"]).fails(
        1,
        "error: 7 problems in the configuration:\n\
         …/bad.toml:1: listen = \"anywhere:50051\": must be an IP address and port, …\n\
         …/bad.toml:2: there is no key `databse_url` (did you mean `database_url`?)\n\
         …/bad.toml:5: session.idle = \"1y\": must be a duration from 1s to 720h: NIST …\n\
         …/bad.toml:8: argon2.memory_kib = 64 with argon2.iterations = 2: both must be at least …\n\
         …/bad.toml:9: argon2.threads has the TOML type string, not integer; …\n\
         …LATCHKEY_LOG_LEVL: there is no key for this variable (did you mean `LATCHKEY_LOG_LEVEL`?)\n\
         …--set password.min_length: password.min_length = \"7\": must be a number from 8 to 64 code points: …\n\n\
         hint: `latchkeyd config check` reads the configuration and starts nothing; …",
    );
    assert!(!shell.path("latchkey-data").exists(), "nothing is started");
}

#[test]
fn the_files_that_the_configuration_names_are_checked_all_at_once() {
    let mut shell = Shell::default();
    let good =
        ["issuer = \"latchkey\"", "[tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"", "[pages]\nlogo = \"logo.svg\""];
    let relay = "[mail]\nfrom = \"id@example.org\"\ntemplates_dir = \"own\"\n[mail.smtp]\n\
                 url = \"smtps://latchkey@mail.example.org\"\npassword_file = \"password\"\nca = \"ca.pem\"\n";
    let file = write(&shell, "latchkey.toml", &format!("{}\n{relay}", good.join("\n")));
    shell.set("LATCHKEY_CONFIG", &file);
    let check = || latchkeyd(&shell, &["config", "check"]);
    check().fails(
        1,
        "error: cannot read cert.pem: No such file…\n\
         error: cannot read key.pem: No such file…\n\
         error: cannot read logo.svg, the logo of pages.logo: No such file…\n\
         error: mail.smtp.password_file: cannot read password: No such file…\n\
         error: mail.smtp.ca: cannot read ca.pem: No such file…\n\
         error: the templates of mails have mistakes\n  own: cannot be read: No such file…",
    );
    let authority = Authority::new("a CA");
    authority.write(&shell.path("ca.pem"));
    authority.issue(&["localhost"], &shell.path("cert.pem"), &shell.path("other.pem"));
    authority.issue(&["localhost"], &shell.path("second.pem"), &shell.path("key.pem"));
    std::fs::create_dir(shell.path("own")).expect("a folder");
    write(&shell, "logo.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>");
    let password = write(&shell, "password", "c4nary\n");
    let mode = |mode| std::fs::set_permissions(&password, std::fs::Permissions::from_mode(mode)).expect("a mode");
    mode(0o644);
    check().fails(
        1,
        "error: the key key.pem does not belong to the certificate cert.pem; …\n\
         error: mail.smtp.password_file: password can be read by other users (mode 0644); run: chmod o= password",
    );
    mode(0o600);
    std::fs::rename(shell.path("other.pem"), shell.path("key.pem")).expect("another name");
    check().good();
    assert!(!shell.path("latchkey-data").exists(), "nothing is started");
}

#[test]
fn a_start_that_finds_a_removed_key_warns_and_goes_on() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_ARGON2_ONLY_WHEN_IDLE", "true");
    latchkeyd(&shell, &["config", "check"]).good();
    let daemon = Daemon::start(&shell, &[]);
    let log = daemon.started.concat();
    assert!(log.contains("argon2.only_when_idle was removed in version 0.1.0"), "{log}");
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_told() {
    let shell = Shell::default();
    let missing = latchkeyd(&shell, &["config", "check", "--config", "none.toml"]);
    assert!(
        missing.code == 1 && missing.stderr.contains("--config: cannot read none.toml: No such file"),
        "{missing:?}"
    );
    let file = write(&shell, "broken.toml", "issuer = \"latchkey\"\nlisten = \n");
    let broken = latchkeyd(&shell, &["config", "check", "--config", &file]);
    assert!(broken.code == 1 && broken.stderr.contains("broken.toml:2: "), "{broken:?}");
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let mut shell = Shell::default();
    let file = write(
        &shell,
        "good.toml",
        "issuer = \"https://id.example.org\"\n[session]\nidle = \"30m\"\n[password]\nmin_length = 20\n[log]\nformat = \"json\"\n",
    );
    shell.set("LATCHKEY_CONFIG", &file).set("LATCHKEY_SESSION_IDLE", "20m").set("LATCHKEY_PASSWORD_MIN_LENGTH", "18");
    // The server ignores the variables of the client.
    shell.set("LATCHKEY_TOKEN", "lka_x").set("LATCHKEY_SERVER", "127.0.0.1:1");
    let text = latchkeyd(&shell, &["config", "print", "--set", "session.idle=10m", "--log-format", "text"]).good();
    assert!(printed(&text, "idle").contains("\"10m\""), "{text}");
    assert!(printed(&text, "min_length").contains("18"), "{text}");
    assert!(printed(&text, "issuer").contains("https://id.example.org"), "{text}");
    assert!(printed(&text, "format").contains("\"text\""), "{text}");
    for origin in ["--set session.idle", "LATCHKEY_PASSWORD_MIN_LENGTH", "good.toml:1", "--log-format"] {
        assert!(text.contains(origin), "{origin} is not named in {text}");
    }
    // The printed text is a valid configuration with the same values.
    let again = write(&shell, "again.toml", &text);
    let second = shell.bash(&format!(
        "unset LATCHKEY_SESSION_IDLE LATCHKEY_PASSWORD_MIN_LENGTH LATCHKEY_CONFIG; latchkeyd config print --config {again}"
    ));
    let second = String::from_utf8_lossy(&second.stdout).into_owned();
    for key in ["idle", "min_length", "issuer", "format"] {
        let value = |text: &str| printed(text, key).split('#').next().unwrap_or_default().trim().to_owned();
        assert_eq!(value(&second), value(&text));
    }
}

#[test]
fn passwords_in_urls_are_never_printed() {
    let shell = Shell::default();
    let file = write(&shell, "url", "postgres://latchkey:c4nary@localhost/latchkey\n");
    for url in ["postgres://latchkey:c4nary@localhost/latchkey", &format!("file:{file}")] {
        let text = latchkeyd(&shell, &["config", "print", "--database-url", url]).good();
        assert!(!text.contains("c4nary"), "{text}");
    }
    let wrong = latchkeyd(&shell, &["config", "check", "--database-url", "mysql://u:c4nary@h/d"]);
    assert!(wrong.code == 1 && !wrong.stderr.contains("c4nary"), "{wrong:?}");
}

#[test]
fn weak_hashing_and_open_addresses_are_refused() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_PAGES_PUBLIC_URL", "https://id.example.org");
    let weak = ["--set", "argon2.memory_kib=64"];
    let refused = latchkeyd(&shell, &[&["serve"], weak.as_slice()].concat());
    assert!(refused.code == 1 && refused.stderr.contains("OWASP considers less too weak"), "{refused:?}");
    latchkeyd(&shell, &[&["config", "check"], weak.as_slice(), &["--set", "argon2.allow_weak=true"]].concat()).good();

    for flag in ["--listen", "--http-listen", "--pages-listen"] {
        for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051", "[::ffff:192.0.2.1]:50051"] {
            let refused = latchkeyd(&shell, &["serve", flag, open]);
            let remedies = "would be served in the clear: set tls.cert and tls.key, or insecure_plaintext if";
            assert!(refused.code == 1 && refused.stderr.contains(remedies), "{flag} {open}: {refused:?}");
            latchkeyd(&shell, &["config", "check", flag, open, "--insecure-plaintext"]).good();
            latchkeyd(&shell, &["config", "print", flag, open, "--tls-cert", "a", "--tls-key", "b"]).good();
        }
    }
    for half in [["--tls-cert", "a"], ["--tls-key", "b"], ["--tls-client-ca", "c"]] {
        let refused = latchkeyd(&shell, &["serve", half[0], half[1]]);
        assert!(refused.code == 1 && refused.stderr.contains("tls.cert and tls.key"), "{half:?}: {refused:?}");
    }
    latchkeyd(&shell, &["config", "check", "--listen", "[::1]:0"]).good();
}

#[test]
fn the_reference_is_the_document() {
    let shell = Shell::default();
    assert_eq!(latchkeyd(&shell, &["config", "reference"]).good(), include_str!("../../docs/config.md"));
}

#[test]
fn migrations_are_checked_and_made_once() {
    let shell = Shell::default();
    let check = latchkeyd(&shell, &["migrate", "--check"]);
    assert!(check.code == 3 && check.stdout.starts_with("there is no database yet; pending: m0001_"), "{check:?}");
    assert!(!shell.path("latchkey-data").exists(), "looking makes nothing");
    latchkeyd(&shell, &["key", "replace", "--discard-sealed"]).fails(1, "error: this database has no sealed keys…\n…");
    assert!(!shell.path("latchkey-data").exists(), "nor does a slip");
    assert!(latchkeyd(&shell, &["migrate"]).good().starts_with("migrated: m0001_"));
    assert_eq!(latchkeyd(&shell, &["migrate", "--check"]).good(), "the schema is up to date\n");
    assert_eq!(latchkeyd(&shell, &["migrate"]).good(), "the schema was up to date\n");
    let mode = std::fs::metadata(shell.path("latchkey-data/latchkey.db")).expect("a database").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_seal_key_is_made_once_and_for_its_owner() {
    let shell = Shell::default();
    let made = latchkeyd(&shell, &["key", "new", "seal.key"]).good();
    assert!(made.starts_with("wrote a seal key to seal.key, fingerprint "), "{made}");
    let key = std::fs::read_to_string(shell.path("seal.key")).expect("a key");
    assert_eq!(std::fs::metadata(shell.path("seal.key")).expect("a key").permissions().mode() & 0o777, 0o600);
    assert!(!made.contains(key.trim()), "the key itself is not printed");
    latchkeyd(&shell, &["key", "new", "seal.key"])
        .fails(1, "error: seal.key is there already, and may be the only copy of a key; choose another name");
    assert_eq!(std::fs::read_to_string(shell.path("seal.key")).expect("a key"), key, "the old key stays");
    assert_eq!(latchkeyd(&shell, &["key", "replace"]).code, 2, "what is discarded must be said");
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let shell = Shell::default();
    std::fs::create_dir(shell.path("open")).expect("a directory");
    std::fs::set_permissions(shell.path("open"), std::fs::Permissions::from_mode(0o777)).expect("a mode");
    let refused = latchkeyd(&shell, &["--data-dir", "open", "--listen", "127.0.0.1:0", "--http-listen", "off"]);
    assert!(refused.code == 1 && refused.stderr.contains("and run: chmod 700 open"), "{refused:?}");
}

#[test]
fn a_database_that_is_not_there_is_named() {
    let shell = Shell::default();
    let refused = latchkeyd(&shell, &["migrate", "--database-url", "postgres://nobody@127.0.0.1:1/nowhere"]);
    assert!(refused.code == 1 && refused.stderr.contains("127.0.0.1:1"), "{refused:?}");
}

#[test]
fn an_address_in_use_is_told() {
    let shell = Shell::default();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("an address").to_string();
    for flags in [
        ["--listen", &address, "--http-listen", "off"],
        ["--http-listen", &address, "--listen", "127.0.0.1:0"],
        ["--pages-listen", &address, "--listen", "127.0.0.1:0"],
    ] {
        let refused = latchkeyd(&shell, &flags);
        let told = format!("error: cannot listen on {address} (choose another with {}): Address already", flags[0]);
        assert!(refused.code == 1 && refused.stderr.contains(&told), "{refused:?}");
        assert!(!shell.path("latchkey-data/latchkey.sock").exists(), "a server that did not start has left its socket");
    }
}

#[test]
fn a_second_server_keeps_away_from_the_files_of_the_first() {
    let shell = Shell::default();
    let first = Daemon::start(&shell, &[]);
    let second = latchkeyd(&shell, &["--listen", "127.0.0.1:0", "--http-listen", "off"]);
    let told = "another latchkeyd uses the database beside ./latchkey-data/lock; stop it first";
    assert!(second.code == 1 && second.stderr.contains(told), "{second:?}");
    assert!(shell.latchkey(&["status"]).good().contains("● serving"), "the first goes on");
    let (code, log) = first.stop();
    assert_eq!(code, Some(0));
    assert!(log.ends_with("stopped\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_postgresql_needs_one_setting_and_a_seal_key() {
    let mut shell = Shell::default();
    let database = TestDatabase::create(&shell.path("")).await;
    if !database.is_shared() {
        eprintln!("skipped: set TEST_DATABASE_URL");
        return;
    }
    let url = write(&shell, "url", &database.url());
    shell.set("LATCHKEY_DATABASE_URL", &format!("file:{url}"));
    let refused = latchkeyd(&shell, &["--listen", "127.0.0.1:0", "--http-listen", "off"]);
    assert!(refused.code == 1 && refused.stderr.contains("seal"), "{refused:?}");

    latchkeyd(&shell, &["key", "new", "seal.key"]).good();
    shell.set("LATCHKEY_SEAL_KEY_FILE", "seal.key");
    let daemon = Daemon::start(&shell, &[]);
    shell.latchkey(&["users", "create", "ada", "--temporary-password"]).good();
    assert_eq!(daemon.stop().0, Some(0));
    let _again = Daemon::start(&shell, &[]);
    assert!(shell.latchkey(&["users", "list"]).good().contains("ada"));
}
