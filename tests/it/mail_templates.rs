//! The text of mails: each as a snapshot, what a reader's program needs, injection on the wire, and `latchkeyd mail preview`.
//!
//! `TEST_BLESS=1 cargo test --test it mail_templates::` rewrites the snapshots: review the difference.

use std::collections::BTreeMap;
use std::path::Path;

use latchkey::config::Sender;
use latchkey::domain::delivery::{LetterKind, Requester};
use latchkey::domain::email::EmailAddress;
use latchkey::domain::time::Timestamp;
use latchkey::mail::{Letter, Relay, Rendered, Templates, Values, deliver, preview};

use crate::harness::smtp::{SmtpServer, Tls};
use crate::harness::transcript::{Ran, Shell};

/// The texts of the files in a folder, by name.
fn texts(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let files = entries.filter(|path| path.is_file());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    files.map(|path| (name(&path), std::fs::read_to_string(&path).expect("a text"))).collect()
}

/// Every mail in every language, with few values and with all.
fn all_mails() -> BTreeMap<String, String> {
    let templates = Templates::load(None, "Example Ltd", Some("help@example.org")).expect("templates");
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(preview(&templates, folder.path()).expect("a preview"), 15 * 2 * 2);
    let mut mails = texts(folder.path());
    mails.remove("index.html").expect("an index");
    mails
}

#[test]
fn every_mail_is_as_its_snapshot() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mails");
    let mails = all_mails();
    if std::env::var("TEST_BLESS").is_ok() {
        for (name, text) in &mails {
            std::fs::write(folder.join(name), text).expect("a file");
        }
    }
    let known = texts(&folder);
    assert_eq!(mails.keys().collect::<Vec<_>>(), known.keys().collect::<Vec<_>>());
    let differing: Vec<_> = mails.iter().filter(|(name, text)| known[*name] != **text).map(|(name, _)| name).collect();
    assert!(differing.is_empty(), "{differing:?} are not as tests/it/mails has them");
}

#[test]
fn every_mail_is_readable_by_every_program_and_loads_nothing() {
    for (name, text) in all_mails() {
        let lines = text.lines().filter(|line| !line.contains("https://"));
        assert!(text.ends_with('\n') && !text.contains("\n\n\n\n"), "{name}");
        if !text.starts_with("<!doctype html>\n") {
            assert!(lines.clone().all(|line| line.chars().count() <= 80), "{name} has a long line");
            assert!(!text.contains("\n\n\n"), "{name}");
            continue;
        }
        let language = if name.contains(".de.") { "de" } else { "en" };
        assert!(text.contains(&format!("<html lang=\"{language}\">")) && text.contains("<title>"), "{name}");
        assert_eq!(text.matches("<table").count(), text.matches("<table role=\"presentation\"").count(), "{name}");
        assert_eq!(text.matches("<h1").count(), 1, "{name}");
        for forbidden in ["<img", "<script", "src=", "url(", "@import", "<link", "<form", "http://"] {
            assert!(!text.contains(forbidden), "{name} has {forbidden}");
        }
        // Gmail cuts off what is longer than some 100 KB.
        assert!(text.len() < 20_000, "{name} has {} bytes", text.len());
    }
}

#[test]
fn after_the_comma_of_a_german_greeting_the_sentence_goes_on() {
    for (name, text) in all_mails().into_iter().filter(|(name, _)| name.contains(".de.")) {
        let (_, rest) = text.split_once("Guten Tag ").expect("a greeting");
        let (_, rest) = rest.split_once(',').expect("a comma");
        let rest: String = rest.split('>').map(|part| part.split('<').next().unwrap_or_default()).collect();
        let first = rest.split_whitespace().next().expect("a word");
        assert!(["Sie", "Ihr"].contains(&first) || first.starts_with(char::is_lowercase), "{name}: {first}");
    }
}

/// The part of a mail with this type, decoded.
fn part(content: &str, kind: &str) -> String {
    let head = format!("Content-Type: {kind}; charset=utf-8\r\nContent-Transfer-Encoding: ");
    let (encoding, body) = content.split(&head).nth(1).and_then(|rest| rest.split_once("\r\n\r\n")).expect("a part");
    let body = body.split("\r\n--latchkey-").next().expect("a body");
    let bytes = match encoding {
        "base64" => data_encoding::BASE64.decode(body.replace("\r\n", "").as_bytes()).expect("base64"),
        "quoted-printable" => unquoted(&body.replace("=\r\n", "")),
        "7bit" => body.as_bytes().to_vec(),
        other => panic!("{other}"),
    };
    String::from_utf8(bytes).expect("UTF-8").replace("\r\n", "\n")
}

fn unquoted(text: &str) -> Vec<u8> {
    let mut pieces = text.split('=');
    let mut bytes = pieces.next().expect("a piece").as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(&piece[..2], 16).expect("a byte"));
        bytes.extend(piece[2..].bytes());
    }
    bytes
}

#[tokio::test]
async fn sec_084_what_users_write_stays_text_on_the_wire() {
    let server = SmtpServer::start(Tls::Implicit).await;
    let relay = Relay::load(server.url("smtps", None).parse().expect("a URL"), None, Some(&server.ca), None);
    let relay = relay.expect("a relay");
    let templates = Templates::load(None, "Example Ltd", None).expect("templates");
    let names = ["x\r\nBcc: e@x", "{{7*7}}", "<a href>", "\n.\n", "\u{760a}", "\r\n.\r\nMAIL FROM:<e@x>"];
    let (from, to): (Sender, _) = ("id@example.org".parse().expect("a sender"), "grace@example.com");
    let to = EmailAddress::parse(to).expect("an address");
    for name in names {
        let values = Values {
            username: "grace".to_owned(),
            name: Some(name.to_owned()),
            address: to.to_string(),
            link: Some("https://id.example.org/reset?token=t0k3n".to_owned()),
            cancel_link: None,
            temporary_password: None,
            expires_at: Some(Timestamp::from_micros(1_796_047_500_000_000)),
            requester: Requester::Operator { name: Some(name.to_owned()) },
            requested_at: Timestamp::from_micros(1_795_961_100_000_000),
            new_address: None,
            is_new_address: false,
            security_link: None,
            second_factor_due: None,
            forgot_link: None,
        };
        let Rendered { subject, text, html } =
            templates.render(LetterKind::PasswordReset, None, &values).expect("a mail");
        let (html, date) = (Some(html.as_str()), values.requested_at);
        let (subject, text) = (subject.as_str(), text.as_str());
        let letter = Letter { from: &from, reply_to: None, to: &to, subject, text, html, id: "5e1f", date };
        deliver(&relay, &letter.compose().expect("a mail"), &|_| ()).await.expect("an answer");
    }
    let received = server.accepted();
    assert_eq!(received.len(), names.len());
    for (name, mail) in names.iter().zip(received) {
        assert_eq!(mail.to, ["<grace@example.com>"], "{name:?}");
        let head = mail.content.split("\r\n\r\n").next().expect("a header");
        let headers = head.lines().filter(|line| !line.starts_with(' ')).map(|line| line.split(':').next());
        let known = [
            "Message-ID",
            "Date",
            "From",
            "To",
            "Subject",
            "Auto-Submitted",
            "X-Auto-Response-Suppress",
            "MIME-Version",
            "Content-Type",
        ];
        let strange: Vec<_> = headers.flatten().filter(|header| !known.contains(header)).collect();
        assert!(strange.is_empty(), "{name:?}: {strange:?}");
        let is_shown = ["{{7*7}}", "<a href>", "\u{760a}"].contains(name);
        let shown = if is_shown { *name } else { "grace" };
        let (text, html) = (part(&mail.content, "text/plain"), part(&mail.content, "text/html"));
        assert!(text.contains(&format!("Hello {shown},\n")), "{text}");
        let escaped = shown.replace('<', "&lt;").replace('>', "&gt;");
        assert!(html.contains(&format!("Hello {escaped},")), "{html}");
        assert!(!text.contains("Bcc") && !html.contains("Bcc") && !html.contains("<a href>"), "{name:?}");
    }
}

fn latchkeyd(shell: &Shell, args: &[&str]) -> Ran {
    shell.feed("latchkeyd", args, "")
}

#[test]
fn a_preview_is_written_again_but_never_over_other_files() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_ORGANISATION_NAME", "Müller & Co.");
    shell.set("LATCHKEY_SUPPORT_CONTACT", "the service desk");
    for _ in 0..2 {
        assert_eq!(latchkeyd(&shell, &["mail", "preview", "p"]).good(), "60 mails: open p/index.html\n");
    }
    let mails = texts(&shell.path("p"));
    assert_eq!(mails.len(), 15 * 2 * 2 * 2 + 1);
    assert_eq!(mails["index.html"].matches("<li>").count(), 60);
    let text = &mails["invite.en.full.txt"];
    assert!(text.starts_with("Subject: Your account at Müller & Co.: choose a password\n"), "{text}");
    assert!(text.contains("Questions? Ask the service desk.\n"), "{text}");
    assert!(mails["invite.en.full.html"].contains("Welcome to Müller &amp; Co.</h1>"));
    assert!(!shell.path("latchkey-data").exists(), "a preview needs no database");

    std::fs::create_dir(shell.path("mine")).expect("a folder");
    std::fs::write(shell.path("mine/index.html"), "<p>mine").expect("a file");
    let refused = latchkeyd(&shell, &["mail", "preview", "mine"]);
    assert_eq!(
        (refused.code, refused.stderr.as_str()),
        (1, "error: mine has other files than a preview; name a new folder\n")
    );
    assert_eq!(texts(&shell.path("mine")).len(), 1);
}

#[test]
fn the_templates_of_a_preview_are_a_start_for_ones_own() {
    let mut shell = Shell::default();
    latchkeyd(&shell, &["mail", "preview", "p"]).good();
    shell.set("LATCHKEY_MAIL_TEMPLATES_DIR", "p/templates");
    latchkeyd(&shell, &["mail", "preview", "q"]).good();
    assert_eq!(texts(&shell.path("p")), texts(&shell.path("q")));
}

#[test]
fn sec_087_a_mistake_in_a_template_stops_the_server_with_file_and_line() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_MAIL_TEMPLATES_DIR", "own");
    std::fs::create_dir(shell.path("own")).expect("a folder");
    let text = "Subject: Hello\n\n{{ link }}\n{% if cancel_link %}{% else %}{{ supprot }}{% endif %}\n";
    std::fs::write(shell.path("own/invite.de.txt"), text).expect("a file");
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["mail", "preview", "p"], &["config", "check"]] {
        let refused = latchkeyd(&shell, command);
        let told = "error: the templates of mails have mistakes\n  own/invite.de.txt:4: there is no variable supprot here; there are ";
        assert!(refused.code == 1 && refused.stderr.contains(told), "{refused:?}");
    }
    assert!(!shell.path("latchkey-data").exists() && !shell.path("p").exists(), "the start stopped too late");
}
