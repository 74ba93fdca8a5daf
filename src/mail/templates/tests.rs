//! Tests of rendering, and of the check at the start.

use crate::domain::delivery::Requester;
use std::path::Path;
use std::time::Duration;

use strum::VariantArray;

use super::*;
use crate::domain::time::Timestamp;

const REQUESTED_AT: Timestamp = Timestamp::from_micros(1_795_961_100_000_000);

fn built_in() -> Result<Templates, TemplateError> {
    Templates::load(None, "Example Ltd", None)
}

fn values(name: &str) -> Values {
    Values {
        username: "grace".to_owned(),
        name: Some(name.to_owned()),
        address: "grace@example.org".to_owned(),
        link: Some("https://id.example.org/reset?a=b&token=t0k3n".to_owned()),
        cancel_link: Some("https://id.example.org/cancel?token=c4ncel".to_owned()),
        temporary_password: Some("p<4>ss".to_owned()),
        expires_at: Some(REQUESTED_AT.saturating_add(Duration::from_hours(24))),
        requester: Requester::Operator { name: Some(name.to_owned()) },
        requested_at: REQUESTED_AT,
        new_address: Some("g.hopper@example.com".to_owned()),
        is_new_address: false,
        security_link: None,
        second_factor_due: None,
        forgot_link: None,
    }
}

/// What the check says of a folder with these files.
fn mistakes(files: &[(&str, &str)]) -> std::io::Result<String> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text)?;
    }
    let found = Templates::load(Some(folder.path()), "Example Ltd", None);
    let path = format!("{}/", folder.path().display());
    Ok(found.err().map(|error| error.to_string().replace(&path, "")).unwrap_or_default())
}

/// The built-in template of this name, changed.
fn changed(name: &str, from: &str, to: &str) -> std::io::Result<String> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mail/templates/files").join(name))?;
    assert!(text.contains(from), "{name} has no {from:?}");
    Ok(text.replacen(from, to, 1))
}

#[test]
fn a_mail_is_in_the_language_of_the_user() -> Result<(), Box<dyn std::error::Error>> {
    let templates = built_in()?;
    let render = |locale: &str| -> Result<Rendered, Box<dyn std::error::Error>> {
        Ok(templates.render(LetterKind::PasswordReset, Locale::parse(locale)?.as_ref(), &values("Grace Hopper"))?)
    };
    assert_eq!(render("")?.subject, "Choose a new password for Example Ltd");
    assert_eq!(render("fr")?.subject, "Choose a new password for Example Ltd");
    let german = render("de-AT")?;
    assert_eq!(german.subject, "Neues Passwort wählen für Example Ltd");
    assert!(german.text.contains("24 Stunden lang: bis 30. November 2026, 14:05 UTC"), "{}", german.text);
    assert!(german.html.contains("<html lang=\"de\">"), "{}", german.html);
    Ok(())
}

#[test]
fn a_link_stands_alone_on_its_line_and_below_the_button() -> Result<(), Box<dyn std::error::Error>> {
    let templates = built_in()?;
    for kind in [LetterKind::PasswordReset, LetterKind::Invite, LetterKind::EmailVerification] {
        let Rendered { text, html, .. } = templates.render(kind, None, &values("Grace"))?;
        for link in ["https://id.example.org/reset?a=b&token=t0k3n", "https://id.example.org/cancel?token=c4ncel"] {
            assert_eq!(text.lines().filter(|line| line.contains(link)).collect::<Vec<_>>(), [link], "{text}");
        }
        let shown = "https://id.example.org/reset?a=b&amp;token=t0k3n";
        assert_eq!(html.matches(&format!("href=\"{shown}\"")).count(), 2, "{html}");
        assert!(html.contains(&format!(">{shown}</a>")), "{html}");
    }
    Ok(())
}

#[test]
fn a_notice_has_no_secret_and_no_link_but_the_contact() -> Result<(), Box<dyn std::error::Error>> {
    let templates = Templates::load(None, "Example Ltd", Some("help@example.org"))?;
    let notices = [
        LetterKind::PasswordChanged,
        LetterKind::PasswordResetDone,
        LetterKind::Compromised,
        LetterKind::AddressChanged,
        LetterKind::TotpEnrolled,
        LetterKind::TotpDisabled,
        LetterKind::SecondFactorReset,
        LetterKind::RecoveryCodeUsed,
        LetterKind::WrongCodes,
        LetterKind::PasswordExpiring,
        LetterKind::AccountInactive,
    ];
    for kind in notices {
        let Rendered { text, html, .. } = templates.render(kind, None, &values("Grace"))?;
        for secret in ["t0k3n", "c4ncel", "p<4>ss", "p&lt;4", "g.hopper"] {
            assert!(!text.contains(secret) && !html.contains(secret), "{kind} shows {secret}");
        }
        assert!(!text.contains("://"), "{text}");
        let links: Vec<&str> = html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let is_contact = |link: &&str| *link == "mailto:help@example.org";
        assert!(!links.is_empty() && links.iter().all(is_contact), "{html}");
    }
    Ok(())
}

#[test]
fn a_notice_invites_to_set_up_a_second_factor() -> Result<(), Box<dyn std::error::Error>> {
    let templates = built_in()?;
    let link = "https://id.example.org/security";
    let invites = Values { security_link: Some(link.to_owned()), ..values("Grace") };
    let due = Values { second_factor_due: Some(REQUESTED_AT), ..invites.clone() };
    for kind in [LetterKind::PasswordChanged, LetterKind::PasswordResetDone, LetterKind::TotpDisabled] {
        for locale in ["en", "de"] {
            let locale = Locale::parse(locale)?;
            let Rendered { text, html, .. } = templates.render(kind, locale.as_ref(), &invites)?;
            assert!(text.lines().any(|line| line == link) && !text.contains("2026, 14:05 UTC on"), "{text}");
            assert_eq!(html.matches(&format!("href=\"{link}\"")).count(), 1, "{html}");
            let Rendered { text, html, .. } = templates.render(kind, locale.as_ref(), &due)?;
            let day = if locale.is_some_and(|locale| locale.as_str() == "de") {
                "Ab 29. November"
            } else {
                "From 29 November"
            };
            assert!(text.contains(day) && html.contains(day), "{text}");
        }
    }
    Ok(())
}

#[test]
fn sec_084_nothing_that_users_write_becomes_a_header_markup_or_a_link() -> Result<(), Box<dyn std::error::Error>> {
    let templates = built_in()?;
    for kind in LetterKind::VARIANTS {
        for shown in ["{{7*7}}", "<a href>", "{% include 'x' %}", "\u{760a}"] {
            let Rendered { subject, text, html } = templates.render(*kind, None, &values(shown))?;
            let escaped = shown.replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;");
            assert!(text.contains(&format!("Hello {shown},")), "{kind}: {text}");
            assert!(html.contains(&format!("Hello {escaped},")), "{kind}: {html}");
            assert!(!subject.contains(shown) && !html.contains("<a href>"), "{kind}");
        }
        for hidden in ["x\r\nBcc: e@x", "\n.\n", "http://evil.example", "www.evil.example", "evil.example", "e@evil"] {
            let Rendered { subject, text, html } = templates.render(*kind, None, &values(hidden))?;
            assert!(text.contains("Hello grace,") && html.contains("Hello grace,"), "{kind}: {text}");
            let all = format!("{subject}{text}{html}");
            assert!(
                !all.contains("Bcc") && !all.contains("evil") && !text.lines().any(|line| line == "."),
                "{kind}: {all}"
            );
        }
        let odd = Values { username: "gr\r\nBcc: ace".to_owned(), address: "g\n@x".to_owned(), ..values("Grace") };
        let Rendered { text, .. } = templates.render(*kind, None, &odd)?;
        assert!(!text.lines().any(|line| line.starts_with("Bcc") || line.starts_with('@')), "{kind}: {text}");
    }
    Ok(())
}

#[test]
fn sec_084_a_name_that_is_no_name_of_an_operator_is_not_shown() -> Result<(), Box<dyn std::error::Error>> {
    let templates = built_in()?;
    for (requester, shown) in [
        (Requester::Operator { name: Some("Ada Lovelace".to_owned()) }, "14:05 UTC, by Ada Lovelace\n"),
        (Requester::Operator { name: Some("www.evil.example".to_owned()) }, "14:05 UTC, by an administrator\n"),
        (Requester::Operator { name: None }, "14:05 UTC, by an administrator\n"),
        (Requester::Owner { source: Some("198.51.100.7".to_owned()) }, "14:05 UTC, from 198.51.100.7\n"),
        (Requester::Owner { source: Some("evil.example".to_owned()) }, "14:05 UTC\n"),
        (Requester::Owner { source: None }, "14:05 UTC\n"),
    ] {
        let values = Values { requester, ..values("Grace") };
        let text = templates.render(LetterKind::PasswordReset, None, &values)?.text;
        assert!(text.contains(&format!("Requested:  29 November 2026, {shown}")), "{text}");
    }
    Ok(())
}

#[test]
fn sec_087_a_value_that_is_missing_is_an_error_that_repeats_no_other() -> Result<(), Box<dyn std::error::Error>> {
    let values = Values { expires_at: None, ..values("Grace") };
    let error = built_in()?.render(LetterKind::PasswordReset, None, &values).err();
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    assert_eq!(error, "the template password_reset.en.txt cannot be rendered: undefined value, line 10");
    Ok(())
}

#[test]
fn sec_087_an_unknown_variable_stops_the_start_in_a_branch_that_is_never_taken_too() -> std::io::Result<()> {
    let text = changed("password_reset.en.txt", "{% else %}", "{% else %}\n{% if not name %}{{ nmae }}{% endif %}\n")?;
    let told = mistakes(&[("password_reset.en.txt", &text)])?;
    assert!(
        told.contains("\n  password_reset.en.txt:23: there is no variable nmae here; there are language,"),
        "{told}"
    );
    for (name, to, line) in [
        ("password_changed.en.txt", "{{ link }}", "password_changed.en.txt:5: there is no variable link here"),
        (
            "password_changed.de.html",
            "{{ name.first }}",
            "password_changed.de.html:6: there is no variable name.first here",
        ),
        ("password_changed.en.txt", "{{ range(9) }}", "password_changed.en.txt:5: there is no variable range here"),
    ] {
        let from = if name.ends_with(".de.html") { "{{ name }}" } else { "The password" };
        let told = mistakes(&[(name, &changed(name, from, to)?)])?;
        assert!(told.contains(line), "{told}");
    }
    Ok(())
}

#[test]
fn sec_087_a_mistake_stops_the_start_with_file_and_line() -> std::io::Result<()> {
    let loops = "{% for a in [1, 1, 1, 1, 1, 1, 1, 1, 1, 1] %}".repeat(5) + &"{% endfor %}".repeat(5);
    let mut missed = Vec::new();
    for (from, to, line) in [
        ("{% endif %}", "", "26: syntax error"),
        ("{{ link }}", "{{ link", "10: syntax error"),
        (
            "{% if cancel_link %}",
            "{{ cancel_link }}{% if cancel_link %}",
            "18: some mails have no cancel_link: show it only within {% if cancel_link %} and {% endif %}",
        ),
        ("{{ name }}", "{{ name|shout }}", "3: unknown filter"),
        ("{{ name }}", &loops, "3: engine ran out of fuel"),
        ("closing.en.txt", "ending.txt", "26: template not found"),
        ("closing.en.txt", "../../../../etc/passwd", "26: template not found"),
        ("Subject: ", "Betreff: ", "1: must begin with `Subject: `"),
        ("{{ organisation }}", "{{ name }}", "1: there is no variable name here; there are organisation"),
        ("{{ link }}", "Open {{ link }}", "8: a link must stand alone on its line"),
        ("{{ link }}", "", " the mail must show its link"),
    ] {
        let told = mistakes(&[("password_reset.en.txt", &changed("password_reset.en.txt", from, to)?)])?;
        if !told.contains(&format!("\n  password_reset.en.txt:{line}")) {
            missed.push(format!("{line} is not in {told}"));
        }
    }
    for (from, to, line) in [
        ("{{ name }}", "{{ name|safe }}", "6: the name of a user is not escaped"),
        ("{{ name }}", "{% include 'closing.de.txt' %}{{ nmae }}", "6: there is no variable nmae here"),
        ("{{ action(link", "{{ action(username", " the mail must have its link"),
    ] {
        let told = mistakes(&[("password_reset.de.html", &changed("password_reset.de.html", from, to)?)])?;
        if !told.contains(&format!("\n  password_reset.de.html:{line}")) {
            missed.push(format!("{line} is not in {told}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    Ok(())
}

#[test]
fn sec_087_a_shared_template_is_checked_in_every_mail() -> std::io::Result<()> {
    let told = mistakes(&[("closing.en.txt", "{{ link }}\n")])?;
    assert!(told.contains("\n  closing.en.txt:1: there is no variable link here"), "{told}");
    let told = mistakes(&[("closing.en.txt", "{{ support_link }}\n")])?;
    assert!(told.contains("\n  closing.en.txt:1: some mails have no support_link: show it"), "{told}");
    assert_eq!(told.lines().count(), 2, "one mistake is told once: {told}");
    Ok(())
}

#[test]
fn sec_087_a_file_with_another_name_stops_the_start() -> std::io::Result<()> {
    let told =
        mistakes(&[("password-reset.en.txt", "x"), ("reset.en.txt", "x"), ("layout.html.bak", "x"), (".hidden", "x")])?;
    let expected = "the templates of mails have mistakes\n  \
        layout.html.bak: no template has this name; the nearest is layout.html\n  \
        password-reset.en.txt: no template has this name; the nearest is password_reset.en.txt\n  \
        reset.en.txt: no template has this name; the nearest is password_reset.en.txt";
    assert_eq!(told, expected);
    assert!(
        mistakes(&[("layout.html", &"x".repeat(70_000))])?
            .contains("layout.html: cannot be read: it has more than 64 KiB")
    );
    let missing = Templates::load(Some(Path::new("/nowhere/at/all")), "Example Ltd", None).err();
    assert!(missing.is_some_and(|error| error.to_string().contains("check mail.templates_dir")));
    Ok(())
}

#[test]
fn a_file_of_a_folder_replaces_the_built_in_one() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let text = changed("password_changed.en.txt", "Hello {{ name }}", "Dear {{ name }}")?.replace('\n', "\r\n");
    std::fs::write(folder.path().join("password_changed.en.txt"), format!("\u{feff}{text}"))?;
    std::fs::create_dir(folder.path().join("..data"))?;
    let templates = Templates::load(Some(folder.path()), "Example Ltd", None)?;
    let Rendered { text, html, .. } = templates.render(LetterKind::PasswordChanged, None, &values("Grace"))?;
    assert!(text.starts_with("Dear Grace,\n\n") && html.contains("Hello Grace,"), "{text}");
    Ok(())
}
