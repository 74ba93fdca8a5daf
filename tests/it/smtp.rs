//! The conversation with a relay, over real sockets, with a server that does everything wrong that a server can.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use latchkey::config::{DeliveryLimits, Sender};
use latchkey::domain::email::EmailAddress;
use latchkey::domain::time::Timestamp;
use latchkey::mail::{
    self, CertificateFault, Culprit, Failure, Fault, Letter, Line, Mail, Phase, Relay, Reply, Verdict,
};

use crate::harness::log::has_secret;
use crate::harness::smtp::{Act, Certificate, PASSWORD, SmtpServer, Step, Tls, USER};

/// Long enough for a busy machine, short enough to wait for.
const LIMITS: DeliveryLimits = DeliveryLimits {
    connect: Duration::from_secs(3),
    command: Duration::from_secs(3),
    dot: Duration::from_secs(3),
    attempt: Duration::from_secs(30),
    slow_after: Duration::from_secs(5),
};

fn mail_to(to: &str, content: &str) -> Mail {
    let address = |text| EmailAddress::parse(text).expect("an address");
    let name = "a.eml".to_owned();
    Mail { from: address("latchkey@example.org"), to: address(to), content: content.as_bytes().to_vec(), name }
}

fn a_mail() -> Mail {
    mail_to("ada@example.com", "Subject: a test\r\n\r\nHello.\r\n")
}

/// The relay as an operator would configure it for this server.
fn relay(server: &SmtpServer, scheme: &str, user: Option<&str>) -> Relay {
    let url = server.url(scheme, user).parse().expect("a URL");
    let password = user.map(|_| server.password_file());
    let relay = Relay::load(url, password.as_deref(), Some(&server.ca), None).expect("a relay");
    relay.with_limits(LIMITS)
}

/// The outcome of one delivery, and what an operator would read of the conversation.
async fn deliver(relay: &Relay, mail: &Mail) -> (Result<Reply, Failure>, Vec<String>) {
    let lines = Mutex::new(Vec::new());
    let listen = |line: Line<'_>| {
        let text = match line {
            Line::Client(text) => format!("> {text}"),
            Line::Server(text) => format!("< {text}"),
            Line::Event(text) => format!("* {text}"),
        };
        lines.lock().expect("lines").push(text);
    };
    let outcome = mail::deliver(relay, mail, &listen).await;
    (outcome, lines.into_inner().expect("lines"))
}

async fn failure(relay: &Relay) -> Failure {
    deliver(relay, &a_mail()).await.0.expect_err("a failure")
}

#[tokio::test]
async fn a_mail_is_accepted_over_tls_and_over_starttls_with_each_way_to_authenticate() {
    for (tls, scheme) in [(Tls::Implicit, "smtps"), (Tls::Upgrade, "smtp")] {
        for offers in ["AUTH PLAIN LOGIN", "AUTH LOGIN", "AUTH=LOGIN"] {
            let server = SmtpServer::scripted(tls, Certificate::Good, offers, |_, _| None).await;
            let (outcome, talk) = deliver(&relay(&server, scheme, Some(USER)), &a_mail()).await;
            assert_eq!(outcome.expect("an answer").to_string(), "250 2.0.0 queued as 4711");
            let [received] = server.accepted().try_into().expect("one mail");
            assert_eq!(
                (received.from.as_str(), received.to.concat().as_str()),
                ("<latchkey@example.org>", "<ada@example.com>")
            );
            assert_eq!(received.content, "Subject: a test\r\n\r\nHello.\r\n");
            assert!(received.is_private && received.user.as_deref() == Some(USER));
            assert!(!has_secret(&talk.concat()), "{talk:#?}");
            assert_eq!(server.lines().last().map(String::as_str), Some("QUIT"));
        }
    }
}

#[tokio::test]
async fn without_a_user_nothing_is_authenticated_and_without_tls_only_this_machine_is_reached() {
    let server = SmtpServer::start(Tls::None).await;
    let url = format!("{}?tls=none", server.url("smtp", None)).parse().expect("a URL");
    let relay = Relay::load(url, None, None, Some("id.example.org".to_owned())).expect("a relay");
    deliver(&relay, &a_mail()).await.0.expect("an answer");
    assert_eq!(server.lines().first().map(String::as_str), Some("EHLO id.example.org"));
    assert!(!server.lines().concat().contains("AUTH"));
}

#[tokio::test]
async fn no_line_of_a_mail_ends_it_or_becomes_a_command() {
    let server = SmtpServer::start(Tls::Implicit).await;
    let content = "Subject: x\r\n\r\n.\r\nRCPT TO:<eve@example.com>\n.\nDATA\r.\r..\r\n";
    let mail = mail_to("o'hara+x@bücher.example", content);
    deliver(&relay(&server, "smtps", None), &mail).await.0.expect("an answer");
    let [received] = server.accepted().try_into().expect("one mail");
    assert_eq!(received.to, ["<o'hara+x@xn--bcher-kva.example>"]);
    assert_eq!(received.content, "Subject: x\r\n\r\n.\r\nRCPT TO:<eve@example.com>\r\n.\r\nDATA\r\n.\r\n..\r\n");
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("RCPT")).count(), 1);
}

#[tokio::test]
async fn nothing_in_a_letter_becomes_a_header_a_recipient_or_a_command() {
    let server = SmtpServer::start(Tls::Implicit).await;
    let from: Sender = "Grüße & Co <id@example.org>".parse().expect("a sender");
    let to = EmailAddress::parse("ada@example.com").expect("an address");
    let injected =
        "x\r\nBcc: eve@example.com\r\n\r\n.\r\nRCPT TO:<eve@example.com>\n.\nDATA\r.\r\0\u{760a}\u{202e}\u{2028}";
    let letter = Letter {
        from: &from,
        reply_to: None,
        to: &to,
        subject: injected,
        text: injected,
        html: Some(injected),
        id: "5e1f",
        date: Timestamp::from_micros(1_795_594_353_000_000),
    };
    let mail = letter.compose().expect("a mail");
    deliver(&relay(&server, "smtps", None), &mail).await.0.expect("an answer");
    let [received] = server.accepted().try_into().expect("one mail");
    assert_eq!(received.to, ["<ada@example.com>"]);
    assert_eq!(received.content.as_bytes(), mail.content, "what arrives is what was composed");
    let (head, _) = received.content.split_once("\r\n\r\n").expect("a head");
    let names: Vec<_> =
        head.replace("\r\n ", " ").lines().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect();
    let expected = [
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
    assert_eq!(names, expected, "{head}");
    let verbs: Vec<_> =
        server.lines().iter().map(|line| line.split([' ', ':']).next().unwrap_or_default().to_owned()).collect();
    assert_eq!(verbs, ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]);
}

/// A fault of a server, and what must come of it.
struct Row {
    step: Step,
    act: Act,
    phase: Phase,
    verdict: Verdict,
    /// The beginning of the explanation.
    fault: &'static str,
}

fn row(step: Step, act: Act, phase: Phase, verdict: Verdict, fault: &'static str) -> Row {
    Row { step, act, phase, verdict, fault }
}

/// Every step of the server, and the phase in which the client notices it.
const STEPS: [(Step, Phase); 8] = [
    (Step::Greeting, Phase::Greeting),
    (Step::Hello, Phase::Hello),
    (Step::StartTls, Phase::StartTls),
    (Step::Auth, Phase::Authenticate),
    (Step::Mail, Phase::Sender),
    (Step::Recipient, Phase::Recipient),
    (Step::Data, Phase::Data),
    (Step::Dot, Phase::Dot),
];

/// Faults that every step can have. Only after the final dot may the relay have the mail.
fn at_every_step() -> Vec<Row> {
    let mut rows = Vec::new();
    for (step, phase) in STEPS {
        let ambiguous = if step == Step::Dot { Verdict::Unknown } else { Verdict::Retry };
        let permanent = if phase >= Phase::Recipient { Verdict::Failed } else { Verdict::Retry };
        let endless = "it sent an endless reply";
        let slow = [b"250-".as_slice(), &[b'x'; 400]].concat();
        rows.extend([
            row(step, Act::close(), phase, ambiguous, "the connection was closed"),
            row(step, Act::SendAndClose(b"250-half a".to_vec()), phase, ambiguous, "the connection was closed"),
            row(step, Act::Hang, phase, ambiguous, "no answer in time"),
            row(step, Act::Drip(slow), phase, ambiguous, "no answer in time"),
            row(step, Act::Endless, phase, ambiguous, endless),
            row(step, Act::reply("HTTP/1.1 400 Bad Request"), phase, ambiguous, "it sent something that is not SMTP"),
            row(step, Act::Send(b"250-a\r\n550 b\r\n".to_vec()), phase, ambiguous, "it sent a reply with two codes"),
            row(step, Act::reply("299 hm"), phase, ambiguous, "an unexpected answer: 299 hm"),
            row(step, Act::reply("354 hm"), phase, ambiguous, "an unexpected answer: 354 hm"),
            row(step, Act::reply("421 4.3.2 shutting down"), phase, Verdict::Retry, "421 4.3.2 shutting down"),
            row(step, Act::last_word("421 4.3.2 shutting down"), phase, Verdict::Retry, "421 4.3.2 shutting down"),
            row(step, Act::reply("451 4.7.1 greylisted"), phase, Verdict::Retry, "451 4.7.1 greylisted"),
            row(step, Act::reply("450-4.2.0 one\r\n450 two"), phase, Verdict::Retry, "450 4.2.0 one two"),
            row(step, Act::reply("550 5.1.1 gr\u{fc}\u{df}e"), phase, permanent, "550 5.1.1 gr\u{fc}\u{df}e"),
            row(step, Act::reply("535 5.7.8 no"), phase, permanent, "535 5.7.8 no"),
            row(step, Act::reply("552 5.3.4 too big"), phase, permanent, "552 5.3.4 too big"),
            row(step, Act::Send(b"554 gr\xfc\xdfe\r\n".to_vec()), phase, permanent, "554 gr\u{fc}\u{df}e"),
        ]);
    }
    // These are right answers: to any success after the sender, and to DATA.
    let is_right = |row: &Row| match &row.act {
        Act::Send(bytes) if bytes.starts_with(b"299") => matches!(row.step, Step::Mail | Step::Recipient | Step::Dot),
        Act::Send(bytes) if bytes.starts_with(b"354") => row.step == Step::Data,
        _ => false,
    };
    rows.retain(|row| !is_right(row));
    rows
}

async fn try_row(row: Row) -> Option<String> {
    let what = format!("{:?} at {:?}", row.act, row.step);
    let server = SmtpServer::with(Tls::Upgrade, row.step, row.act).await;
    let failure = failure(&relay(&server, "smtp", Some(USER))).await;
    let seen = (failure.phase, failure.verdict(), failure.fault.to_string());
    let as_told = !failure.remedy().is_empty() && !has_secret(&format!("{failure} {}", failure.remedy()));
    let is_right = seen.0 == row.phase && seen.1 == row.verdict && seen.2.starts_with(row.fault) && as_told;
    let is_counted = server.accepted().is_empty() && server.connections() == 1;
    (!is_right || !is_counted).then(|| format!("{what}: {seen:?}, accepted {:?}", server.accepted().len()))
}

#[tokio::test]
async fn every_fault_at_every_step_is_named_and_only_after_the_final_dot_is_the_outcome_unknown() {
    let mut wrong = Vec::new();
    let mut rows = at_every_step().into_iter();
    assert!(rows.len() > 120, "too few rows to be all");
    loop {
        let batch: Vec<_> = rows.by_ref().take(34).map(try_row).collect();
        if batch.is_empty() {
            break;
        }
        wrong.extend(join_all(batch).await.into_iter().flatten());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_connection_that_breaks_inside_the_content_leaves_no_doubt() {
    for act in [Act::close(), Act::last_word("451 4.3.0 full"), Act::last_word("552 5.3.4 too big")] {
        let server = SmtpServer::with(Tls::Implicit, Step::Content, act.clone()).await;
        // More than the buffers of both sides take.
        let mail = mail_to("ada@example.com", &"x".repeat(16 * 1024 * 1024));
        let failure = deliver(&relay(&server, "smtps", None), &mail).await.0.expect_err("a failure");
        assert_eq!(failure.phase, Phase::Content, "{act:?}: {failure}");
        assert_ne!(failure.verdict(), Verdict::Unknown, "{act:?}: {failure}");
    }
}

#[tokio::test]
async fn only_a_fault_that_other_mail_would_meet_too_is_the_relays() {
    for (step, reply, culprit) in [
        (Step::Greeting, "554 5.7.1 go away", Culprit::Relay),
        (Step::Auth, "535 5.7.8 no", Culprit::Relay),
        (Step::Mail, "550 5.1.8 no such sender", Culprit::Relay),
        (Step::Recipient, "550 5.1.1 no such user", Culprit::Recipient),
        (Step::Recipient, "450 4.2.1 busy", Culprit::Recipient),
        (Step::Recipient, "451 4.7.1 greylisted", Culprit::Recipient),
        (Step::Recipient, "452 4.2.2 mailbox full", Culprit::Recipient),
        (Step::Recipient, "452 4.3.1 disk full", Culprit::Relay),
        (Step::Recipient, "421 too many connections", Culprit::Relay),
        (Step::Recipient, "554 5.7.1 Relay access denied", Culprit::Relay),
        (Step::Dot, "554 5.6.0 not this mail", Culprit::Recipient),
        (Step::Dot, "552 5.3.4 too big", Culprit::Recipient),
    ] {
        let server = SmtpServer::with(Tls::Upgrade, step, Act::reply(reply)).await;
        let failure = failure(&relay(&server, "smtp", Some(USER))).await;
        assert_eq!((failure.culprit(), failure.reply().map(ToString::to_string).as_deref()), (culprit, Some(reply)));
        let is_final = culprit == Culprit::Recipient && reply.starts_with('5');
        assert_eq!(failure.verdict(), if is_final { Verdict::Failed } else { Verdict::Retry }, "{reply} at {step:?}");
    }
    for (step, culprit) in
        [(Step::Mail, Culprit::Relay), (Step::Recipient, Culprit::Recipient), (Step::Dot, Culprit::Recipient)]
    {
        let server = SmtpServer::with(Tls::Upgrade, step, Act::Hang).await;
        let failure = failure(&relay(&server, "smtp", Some(USER))).await;
        assert_eq!((failure.culprit(), failure.reply()), (culprit, None), "{failure}");
    }
}

#[tokio::test]
async fn a_machine_that_takes_connections_and_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let server = SmtpServer::start(Tls::None).await;
    for (scheme, phase) in [("smtps", Phase::Handshake), ("smtp", Phase::Greeting)] {
        let url = format!("{scheme}://localhost:{port}").parse().expect("a URL");
        let relay = Relay::load(url, None, Some(&server.ca), None).expect("a relay").with_limits(LIMITS);
        let failure = failure(&relay).await;
        assert_eq!((failure.phase, &failure.fault), (phase, &Fault::TimedOut), "{failure}");
        assert_eq!((failure.verdict(), failure.culprit()), (Verdict::Retry, Culprit::Relay));
    }
}

#[tokio::test]
async fn an_attempt_ends_even_if_every_step_takes_almost_as_long_as_it_may() {
    let limits = DeliveryLimits { attempt: Duration::from_secs(1), command: Duration::from_mins(1), ..LIMITS };
    let server = SmtpServer::with(Tls::Upgrade, Step::Mail, Act::Hang).await;
    let failure = failure(&relay(&server, "smtp", None).with_limits(limits)).await;
    assert_eq!((failure.phase, &failure.fault), (Phase::Sender, &Fault::TimedOut), "{failure}");
}

#[tokio::test]
async fn a_reply_too_many_is_never_taken_for_the_answer_to_another_command() {
    for (step, phase) in STEPS.into_iter().filter(|(step, _)| *step != Step::Dot) {
        let extra = Act::Append(b"250 2.0.0 queued, believe me\r\n".to_vec());
        let server = SmtpServer::with(Tls::Upgrade, step, extra).await;
        let failure = failure(&relay(&server, "smtp", Some(USER))).await;
        assert_eq!((failure.phase, failure.verdict()), (phase, Verdict::Retry), "{failure}");
    }
}

#[tokio::test]
async fn the_answer_to_the_final_dot_counts_whatever_follows_it() {
    for more in ["421 4.7.0 enough\r\n", "250 2.0.0 and another\r\n", "x"] {
        let server = SmtpServer::with(Tls::Upgrade, Step::Dot, Act::Append(more.as_bytes().to_vec())).await;
        let answer = deliver(&relay(&server, "smtp", Some(USER)), &a_mail()).await.0.expect("an answer");
        assert_eq!(answer.to_string(), "250 2.0.0 queued as 4711");
        assert!(!server.lines().contains(&"QUIT".to_owned()), "{more:?}: nothing is said on such a connection");
        let refusal = Act::Send(format!("552 5.3.4 too big\r\n{more}").into_bytes());
        let server = SmtpServer::with(Tls::Upgrade, Step::Dot, refusal).await;
        let failure = failure(&relay(&server, "smtp", Some(USER))).await;
        assert_eq!(
            failure.reply().map(ToString::to_string).as_deref(),
            Some("552 5.3.4 too big"),
            "{more:?}: {failure}"
        );
    }
}

#[tokio::test]
async fn text_behind_the_greeting_is_explained_as_forged() {
    let server = SmtpServer::with(Tls::Upgrade, Step::Greeting, Act::Append(b"250 injected\r\n".to_vec())).await;
    let failure = failure(&relay(&server, "smtp", None)).await;
    assert!(failure.remedy().contains("may forge its answers"), "{failure}: {}", failure.remedy());
}

#[tokio::test]
async fn nothing_is_believed_that_was_injected_behind_the_answer_to_starttls() {
    for injected in ["250-injected\r\n250 AUTH PLAIN\r\n", "250 x\r\n", "x", "\r\n"] {
        let server = SmtpServer::with(Tls::Upgrade, Step::StartTls, Act::Append(injected.as_bytes().to_vec())).await;
        let failure = failure(&relay(&server, "smtp", Some(USER))).await;
        assert_eq!((failure.phase, &failure.fault), (Phase::StartTls, &Fault::Injected), "{injected:?}: {failure}");
        assert_eq!(server.lines(), ["EHLO [127.0.0.1]", "STARTTLS"]);
    }
}

#[tokio::test]
async fn a_relay_without_starttls_gets_neither_mail_nor_password() {
    let server = SmtpServer::start(Tls::None).await;
    let failure = failure(&relay(&server, "smtp", Some(USER))).await;
    assert_eq!((&failure.fault, failure.verdict()), (&Fault::NoStartTls, Verdict::Retry));
    assert_eq!(server.lines(), ["EHLO [127.0.0.1]"]);
}

#[tokio::test]
async fn a_relay_whose_certificate_is_not_good_gets_neither_mail_nor_password() {
    for (tls, scheme) in [(Tls::Implicit, "smtps"), (Tls::Upgrade, "smtp")] {
        for (certificate, expected) in [
            (Certificate::OfAnotherName, CertificateFault::WrongName),
            (Certificate::Expired, CertificateFault::Expired),
            (Certificate::OfAnotherAuthority, CertificateFault::UnknownIssuer),
        ] {
            let server = SmtpServer::scripted(tls, certificate, "AUTH PLAIN", |_, _| None).await;
            let failure = failure(&relay(&server, scheme, Some(USER))).await;
            assert_eq!((failure.phase, &failure.fault), (Phase::Handshake, &Fault::Certificate(expected)), "{failure}");
            assert_eq!(failure.verdict(), Verdict::Retry);
            assert!(!server.lines().concat().contains("AUTH") && server.accepted().is_empty());
        }
    }
}

#[tokio::test]
async fn a_wrong_port_is_explained() {
    let starttls = SmtpServer::start(Tls::Upgrade).await;
    let begins_plain = failure(&relay(&starttls, "smtps", None)).await;
    assert_eq!((begins_plain.phase, &begins_plain.fault), (Phase::Handshake, &Fault::NotTls));
    assert!(begins_plain.remedy().contains("smtp://localhost:587"), "{}", begins_plain.remedy());
    let implicit = SmtpServer::start(Tls::Implicit).await;
    let (refused, lines) = deliver(&relay(&implicit, "smtp", None), &a_mail()).await;
    let begins_with_tls = refused.expect_err("no greeting");
    assert_eq!(lines.iter().filter(|line| line.contains("no greeting yet; if this port begins with TLS")).count(), 1);
    assert_eq!((begins_with_tls.phase, &begins_with_tls.fault), (Phase::Greeting, &Fault::TimedOut));
    assert!(begins_with_tls.remedy().contains("smtps://localhost:465"), "{}", begins_with_tls.remedy());
    for greeting in [
        Act::Endless,
        Act::reply("* OK [CAPABILITY IMAP4rev1] Dovecot ready."),
        Act::reply("+OK POP3 ready"),
        Act::reply("SSH-2.0-OpenSSH_9.6"),
    ] {
        for (tls, scheme) in [(Tls::None, "smtp"), (Tls::Implicit, "smtps")] {
            let other = SmtpServer::with(tls, Step::Greeting, greeting.clone()).await;
            let no_mail_server = failure(&relay(&other, scheme, None)).await;
            let remedy = no_mail_server.remedy();
            assert!(remedy.contains("no mail server greets like this"), "{greeting:?}: {remedy}");
        }
    }
    let closing = SmtpServer::with(Tls::None, Step::Greeting, Act::close()).await;
    let closed = failure(&relay(&closing, "smtp", None)).await;
    assert!(closed.remedy().contains("smtps://localhost:465"), "{}", closed.remedy());
    // The port is free again once the listener is dropped.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let url = format!("smtps://127.0.0.1:{}", gone.port()).parse().expect("a URL");
    let nobody = failure(&Relay::load(url, None, Some(&starttls.ca), None).expect("a relay").with_limits(LIMITS)).await;
    assert!(matches!(nobody.fault, Fault::Unreachable(_)) && nobody.phase == Phase::Connect, "{nobody}");
}

#[tokio::test]
async fn a_refused_login_and_a_refused_recipient_are_explained() {
    let server = SmtpServer::start(Tls::Implicit).await;
    let refused = failure(&relay(&server, "smtps", Some("eve"))).await;
    assert_eq!((refused.phase, refused.verdict()), (Phase::Authenticate, Verdict::Retry));
    assert!(refused.remedy().contains("mail.smtp.password_file"), "{}", refused.remedy());
    let relaying = Act::reply("554 5.7.1 <ada@example.com>: Relay access denied");
    let server = SmtpServer::with(Tls::Implicit, Step::Recipient, relaying).await;
    let denied = failure(&relay(&server, "smtps", None)).await;
    assert!(denied.remedy().contains("does not take mail for other domains"), "{}", denied.remedy());
    let server = SmtpServer::scripted(Tls::Implicit, Certificate::Good, "AUTH CRAM-MD5", |_, _| None).await;
    let unknown = failure(&relay(&server, "smtps", Some(USER))).await;
    assert_eq!((unknown.phase, &unknown.fault), (Phase::Authenticate, &Fault::NoAuthentication));
}

#[tokio::test]
async fn the_password_is_hidden_even_if_the_relay_repeats_it() {
    use data_encoding::BASE64;
    let plain = BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes());
    let own = BASE64.encode(PASSWORD.as_bytes());
    let echo = format!("535-{PASSWORD}\r\n535-{own}\r\n535 {plain}");
    let server = SmtpServer::with(Tls::Implicit, Step::Auth, Act::reply(&echo)).await;
    let (outcome, talk) = deliver(&relay(&server, "smtps", Some(USER)), &a_mail()).await;
    let failure = outcome.expect_err("a failure");
    let told = format!("{} {failure} {failure:?}", talk.concat());
    for secret in [PASSWORD, &own, &plain] {
        assert!(!told.contains(secret), "{told}");
    }
    assert!(told.contains("535-***"), "{told}");
}

#[tokio::test]
async fn a_cancelled_delivery_hangs_up_and_leaves_no_mail_behind() {
    for (step, _) in STEPS {
        let server = SmtpServer::with(Tls::Upgrade, step, Act::Hang).await;
        let relay = relay(&server, "smtp", Some(USER));
        let mail = a_mail();
        let reached = tokio::sync::Notify::new();
        // The last thing that is said before the server is silent.
        let last = match step {
            Step::Greeting => "connected",
            Step::Hello => "EHLO",
            Step::StartTls => "STARTTLS",
            Step::Auth => "AUTH",
            Step::Mail => "MAIL",
            Step::Recipient => "RCPT",
            Step::Data => "DATA",
            _ => ".",
        };
        let listen = |line: Line<'_>| match line {
            Line::Client(text) | Line::Event(text) if text.starts_with(last) => reached.notify_one(),
            _ => {}
        };
        tokio::select! {
            outcome = mail::deliver(&relay, &mail, &listen) => panic!("{step:?}: {outcome:?}"),
            () = reached.notified() => {}
        }
        server.is_left().await;
        assert!(server.accepted().is_empty(), "{step:?}");
    }
}
