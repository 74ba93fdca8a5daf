//! `latchkeyd mail test`, with the real binary, as files and to a relay.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::broken_files::SmallDisk;
use crate::harness::daemon::Daemon;
use crate::harness::log::has_secret;
use crate::harness::smtp::{Act, Certificate, SmtpServer, Step, Tls, USER};
use crate::harness::transcript::{Ran, Shell};
use crate::harness::{Harness, eventually};

/// Runs the command without blocking the thread on which the relay runs.
fn mail_test(shell: &Shell, args: &[&str]) -> Ran {
    let args = [&["mail", "test"][..], args].concat();
    tokio::task::block_in_place(|| shell.feed("latchkeyd", &args, ""))
}

/// A shell with the settings for this relay.
fn shell_for(server: &SmtpServer, scheme: &str, user: Option<&str>) -> Shell {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_MAIL_SMTP_URL", &server.url(scheme, user));
    shell.set("LATCHKEY_MAIL_FROM", "Identity <id@example.org>");
    shell.set("LATCHKEY_MAIL_SMTP_CA", &server.ca.display().to_string());
    if user.is_some() {
        shell.set("LATCHKEY_MAIL_SMTP_PASSWORD_FILE", &server.password_file().display().to_string());
    }
    shell
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn without_a_relay_a_mail_is_a_file_that_only_its_owner_can_read() {
    let shell = Shell::default();
    std::fs::create_dir(shell.path("latchkey-data")).expect("a folder");
    let told = mail_test(&shell, &["ada@example.com"]).good();
    assert!(told.contains("no mail leaves this machine"), "{told}");
    let folder = shell.path("latchkey-data/mail");
    let [file] = files(&folder).try_into().expect("one file");
    assert!(told.contains(&file.file_name().expect("a name").to_string_lossy().into_owned()), "{told}");
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    let text = std::fs::read_to_string(&file).expect("a mail");
    assert!(text.contains("To: ada@example.com\r\n") && text.contains("Message-ID: <"), "{text}");
    mail_test(&shell, &["ada@example.com"]).good();
    assert_eq!(files(&folder).len(), 2, "another mail is another file");
}

#[test]
fn without_a_configuration_it_warns_that_the_default_is_tested_and_creates_nothing() {
    const WARNING: &str = "warning: no configuration file was read, so this tests the default, mail as files; for a server \
                           that runs with one: latchkeyd mail test ADDRESS --config FILE\n";
    let mut shell = Shell::default();
    let told = mail_test(&shell, &["ada@example.com"]);
    let error = "error: ./latchkey-data, the data directory, does not exist; nothing is tested\n";
    assert_eq!((told.code, told.stdout.as_str(), told.stderr), (1, "", format!("{WARNING}{error}")));
    assert!(!shell.path("latchkey-data").exists());
    std::fs::create_dir(shell.path("data")).expect("a folder");
    let told = mail_test(&shell, &["ada@example.com", "--data-dir", "data"]);
    assert_eq!((told.code, told.stderr.as_str()), (0, WARNING));
    for configured in [["--set", "mail.transport=file"], ["--set", "mail.dir=latchkey-data/mail"]] {
        let told = mail_test(&shell, &[&["ada@example.com"][..], &configured].concat());
        assert_eq!((told.code, told.stderr.as_str()), (0, ""), "{configured:?}");
    }
    std::fs::write(shell.path("latchkey.toml"), "data_dir = \"new\"\n").expect("a file");
    let told = mail_test(&shell, &["ada@example.com", "--config", "latchkey.toml"]);
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    shell.set("LATCHKEY_CONFIG", "latchkey.toml");
    let told = mail_test(&shell, &["ada@example.com"]);
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    assert_eq!(files(&shell.path("new/mail")).len(), 2);
}

#[test]
fn the_log_names_the_command_with_the_configuration_of_the_server() {
    // Nothing listens on port 1.
    let text = "[mail]\nfrom = \"id@example.org\"\nsmtp.url = \"smtp://127.0.0.1:1?tls=none\"\n";
    for (variable, args) in [("UNUSED", &["--config", "latchkey.toml"][..]), ("LATCHKEY_CONFIG", &[])] {
        let mut shell = Shell::default();
        std::fs::write(shell.path("latchkey.toml"), text).expect("a file");
        shell.set(variable, "latchkey.toml");
        let mut daemon = Daemon::start(&shell, args);
        shell.latchkey(&["users", "invite", "ada", "--email", "ada@example.com"]).good();
        daemon.until("mail fails at the relay");
        let line = daemon.started.last().expect("a line");
        assert!(line.contains("`latchkeyd mail test ADDRESS --config latchkey.toml` explains"), "{line}");
    }
}

#[test]
fn a_server_that_cannot_write_to_its_folder_blames_no_relay() {
    let shell = Shell::default();
    let mut daemon = Daemon::start(&shell, &[]);
    std::fs::write(shell.path("latchkey-data/mail"), "in the way").expect("a file");
    shell.latchkey(&["users", "invite", "ada", "--email", "ada@example.com"]).good();
    daemon.until("is tried again");
    let line = daemon.started.last().expect("a line");
    assert!(
        line.contains("mail cannot be written to its folder, and is tried again; check owner and mode of mail.dir")
    );
    assert!(line.contains("cannot write mail to ./latchkey-data/mail: ") && !line.contains("relay"), "{line}");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named_and_nothing_half_written_is_left() {
    let shell = Shell::default();
    std::fs::create_dir(shell.path("latchkey-data")).expect("a folder");
    std::fs::write(shell.path("latchkey-data/mail"), "in the way").expect("a file");
    let told = mail_test(&shell, &["ada@example.com"]);
    assert!(told.code == 1 && told.stderr.contains("error: cannot write mail to ./latchkey-data/mail"), "{told:?}");
    assert_eq!(files(&shell.path("latchkey-data")).len(), 1);
}

#[test]
fn a_full_or_read_only_disk_is_named_and_mail_is_written_once_there_is_room() {
    let shell = Shell::default();
    let path = shell.path("disk");
    std::fs::create_dir(&path).expect("a folder");
    let Some(disk) = SmallDisk::mount(&shell, &path) else { return };
    let args = ["ada@example.com", "--set", "mail.dir=disk/mail"];
    disk.remount(&shell, "ro");
    let told = mail_test(&shell, &args);
    assert!(
        told.code == 1 && told.stderr.contains("cannot write mail to disk/mail: Read-only file system"),
        "{told:?}"
    );
    disk.remount(&shell, "rw");
    std::fs::create_dir(path.join("mail")).expect("a folder");
    let mut filler = std::fs::File::create(path.join("filler")).expect("a file");
    // A large piece would be refused as a whole and leave room.
    while filler.write_all(&[0; 1024]).is_ok() {}
    let told = mail_test(&shell, &args);
    assert!(told.code == 1 && told.stderr.contains("cannot write mail to disk/mail: No space left"), "{told:?}");
    assert!(told.stderr.contains("hint: check owner and mode of mail.dir, and the free space"), "{told:?}");
    assert!(files(&path.join("mail")).is_empty(), "nothing half written is left");
    // An open file would keep its room.
    drop(filler);
    std::fs::remove_file(path.join("filler")).expect("room");
    mail_test(&shell, &args).good();
    assert_eq!(files(&path.join("mail")).len(), 1);
}

#[test]
fn where_mail_is_off_or_the_address_is_none_that_is_said() {
    let mut shell = Shell::default();
    let told = mail_test(&shell, &["ada"]);
    assert!(told.code == 1 && told.stderr.contains("exactly one '@'"), "{told:?}");
    let told = mail_test(&shell, &["ada@example.com\r\nBcc: eve@example.com"]);
    assert_eq!(told.code, 1, "{told:?}");
    shell.set("LATCHKEY_MAIL_TRANSPORT", "off");
    let told = mail_test(&shell, &["ada@example.com"]);
    assert!(told.code == 1 && told.stderr.contains("mail is off"), "{told:?}");
    assert!(!shell.path("latchkey-data/mail").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conversation_with_the_relay_is_shown_without_the_password() {
    let server = SmtpServer::start(Tls::Upgrade).await;
    let told = mail_test(&shell_for(&server, "smtp", Some(USER)), &["Ada@bücher.example"]).good();
    for line in [
        "> EHLO [127.0.0.1]\n< 250-relay.example\n",
        "> STARTTLS\n< 220 go ahead\n  TLS is on, and the certificate is good\n",
        "> AUTH PLAIN ***\n< 235 2.7.0 welcome\n",
        "> RCPT TO:<Ada@xn--bcher-kva.example>\n< 250 2.1.5 ok\n",
        "accepted: 250 2.0.0 queued as 4711\n",
        "look into the inbox of Ada@bücher.example",
    ] {
        assert!(told.contains(line), "no {line:?} in {told}");
    }
    assert!(!has_secret(&told), "{told}");
    let [received] = server.accepted().try_into().expect("one mail");
    assert!(
        received.content.contains("From: Identity <id@example.org>") || received.content.contains("From: \"Identity\"")
    );
    assert!(received.content.contains("Auto-Submitted: auto-generated\r\n"), "{}", received.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_explained_with_what_to_do() {
    let relaying = Act::reply("554 5.7.1 <ada@example.com>: Relay access denied");
    let no_tls = SmtpServer::start(Tls::None).await;
    let starttls = SmtpServer::start(Tls::Upgrade).await;
    let other_name = SmtpServer::scripted(Tls::Implicit, Certificate::OfAnotherName, "SIZE 1", |_, _| None).await;
    let denied = SmtpServer::with(Tls::Implicit, Step::Recipient, relaying).await;
    let later = Act::reply("451 4.7.1 greylisted");
    let greylisted = SmtpServer::with(Tls::Implicit, Step::Recipient, later).await;
    let gone = SmtpServer::with(Tls::Implicit, Step::Dot, Act::close()).await;
    let implicit = SmtpServer::start(Tls::Implicit).await;
    for (server, scheme, user, what, hint) in [
        (&no_tls, "smtp", None, "at EHLO: the relay does not offer STARTTLS", "mail is sent over TLS only"),
        (&starttls, "smtps", None, "the server does not speak TLS on this port", "use smtp://localhost:587"),
        (&other_name, "smtps", None, "the certificate is for another name", "use a name in mail.smtp.url"),
        (
            &denied,
            "smtps",
            None,
            "at RCPT TO: 554 5.7.1 <ada@example.com>: Relay access denied",
            "authenticate with a user",
        ),
        (&greylisted, "smtps", None, "at RCPT TO: 451 4.7.1 greylisted", "try again in a few minutes"),
        (&gone, "smtps", None, "it is not known whether the relay has the mail", "look into the inbox"),
        (&implicit, "smtps", Some("eve"), "at AUTH: 535 5.7.8 bad credentials", "check the user in mail.smtp.url"),
    ] {
        let told = mail_test(&shell_for(server, scheme, user), &["ada@example.com"]);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.stderr.starts_with("error: localhost:") && told.stderr.contains(what), "{told:?}");
        assert!(told.stderr.contains("\nhint: ") && told.stderr.contains(hint), "{told:?}");
        assert!(!has_secret(&format!("{told:?}")), "{told:?}");
        assert!(server.accepted().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_relay_that_are_not_usable_are_named_before_anything_is_sent() {
    let server = SmtpServer::start(Tls::Implicit).await;
    let mut shell = shell_for(&server, "smtps", Some(USER));
    let file = server.password_file();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let told = mail_test(&shell, &["ada@example.com"]);
    assert!(
        told.code == 1 && told.stderr.contains("can be read by other users (mode 0644); run: chmod o= "),
        "{told:?}"
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(&file, "two\nlines c4nary\n").expect("a file");
    let told = mail_test(&shell, &["ada@example.com"]);
    assert!(told.stderr.contains("must contain the password as one line of text"), "{told:?}");
    server.password_file();
    shell.set("LATCHKEY_MAIL_SMTP_CA", &file.display().to_string());
    let told = mail_test(&shell, &["ada@example.com"]);
    assert!(told.stderr.contains("mail.smtp.ca: ") && told.stderr.contains("must be PEM"), "{told:?}");
    shell.set("LATCHKEY_MAIL_SMTP_CA", "missing.pem");
    let told = mail_test(&shell, &["ada@example.com"]);
    assert!(told.stderr.contains("mail.smtp.ca: cannot read missing.pem: No such file"), "{told:?}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_server_keeps_files_of_mail_for_a_week() {
    let mut old = None;
    let h = Harness::with(|config| {
        let folder = config.mail.dir.clone();
        std::fs::create_dir_all(&folder).expect("a folder");
        for name in ["19700101T000000Z-a.eml", "99991231T235959Z-a.eml", "notes.txt"] {
            std::fs::write(folder.join(name), "x").expect("a file");
        }
        old = Some(folder);
    })
    .await;
    let folder = old.expect("a folder");
    eventually("the old mail is deleted", || async { (files(&folder).len() == 2).then_some(()) }).await;
    assert!(folder.join("99991231T235959Z-a.eml").exists() && folder.join("notes.txt").exists());
    h.stop().await;
}

#[test]
fn the_start_says_where_mail_goes() {
    let mut shell = Shell::default();
    let says = |shell: &Shell, parts: &[&str]| {
        let daemon = Daemon::start(shell, &[]);
        let line = daemon.started.iter().find(|line| line.contains(" mail ")).expect("a line");
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    };
    says(&shell, &["mail is written to files on this machine and reaches no user", "dir=./latchkey-data/mail"]);
    shell.set("LATCHKEY_MAIL_SMTP_URL", "smtp://localhost:25?tls=none");
    shell.set("LATCHKEY_MAIL_FROM", "id@example.org");
    says(&shell, &["mail goes to the relay", "relay=smtp://localhost:25?tls=none"]);
    shell.set("LATCHKEY_MAIL_TRANSPORT", "off");
    says(&shell, &["mail is off"]);
}

#[test]
fn a_server_whose_relay_cannot_be_used_does_not_start() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_MAIL_SMTP_URL", "smtps://latchkey@mail.example.org");
    shell.set("LATCHKEY_MAIL_FROM", "id@example.org");
    shell.set("LATCHKEY_MAIL_SMTP_PASSWORD_FILE", "missing");
    let told = shell.feed("latchkeyd", &["--listen", "127.0.0.1:0", "--http-listen", "off"], "");
    assert!(
        told.code == 1 && told.stderr.contains("mail.smtp.password_file: cannot read missing: No such file"),
        "{told:?}"
    );
    assert!(!shell.path("latchkey-data").exists(), "nothing is started");
}
