//! The pages over HTTP, without a browser.

use std::collections::BTreeSet;
use std::time::Duration;

use latchkey::config::Transport;
use latchkey::domain::caller::Network;
use latchkey::proto::v1::EventType;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::daemon::Daemon;
use crate::harness::http::send;
use crate::harness::transcript::Shell;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, eventually, refused};

/// The user of these tests, and an address of theirs.
const USER: &str = "grace";
const ADDRESS: &str = "grace@example.org";

/// A link that was never issued.
const UNKNOWN: &str = "lkl_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

impl Harness {
    /// A server with a user who has an address.
    async fn with_grace() -> Harness {
        let h = Harness::start().await;
        h.create(USER, &[], PASSWORD).await;
        h.give_address(USER, ADDRESS).await;
        h
    }

    async fn give_address(&self, user: &str, address: &str) {
        let request = json!({ "user": { "username": user }, "email": address });
        self.operator().await.call("UserAdmin/UpdateUser", request).await.expect("an address");
    }
}

#[tokio::test]
async fn without_mail_the_page_says_that_no_links_are_sent() {
    let h = Harness::with(|config| config.mail.transport = Transport::Off).await;
    let answer = h.form("/forgot", &[("login", USER)]).await;
    assert_eq!(answer.status, 501);
    assert!(answer.body.contains("This service sends no mail."), "{}", answer.body);
}

impl Harness {
    /// The addresses of clients in the audit log.
    async fn client_addresses(&self) -> BTreeSet<String> {
        let events = self.operator().await.events().await;
        events.into_iter().filter_map(|event| event.actor).map(|actor| actor.client_address).collect()
    }
}

/// The paths of pages that act, each with a form that leads nowhere.
const ACTING: [(&str, &[(&str, &str)]); 6] = [
    ("/reset", &[("token", UNKNOWN)]),
    ("/invite", &[("token", UNKNOWN)]),
    ("/verify", &[("token", UNKNOWN)]),
    ("/cancel", &[("token", UNKNOWN)]),
    ("/forgot", &[("login", "")]),
    ("/security", &[("step", "code"), ("code", "123456")]),
];

#[tokio::test]
async fn every_answer_has_the_headers_that_protect_it() {
    let h = Harness::start().await;
    let mut answers = Vec::new();
    for path in ["/forgot", "/done?of=reset", "/", "/nothing", "/style.css", "/password.js", "/once.js", "/logo"] {
        answers.push((path, h.page(path).await));
    }
    for (path, fields) in ACTING {
        answers.push((path, h.page(&format!("{path}?token={UNKNOWN}")).await));
        answers.push((path, h.form(path, fields).await));
        answers.push((path, h.form_with(path, fields, &[("sec-fetch-site", "cross-site")]).await));
        answers.push((path, send(&h.pages_address(), "PUT", path, &[], "").await));
    }
    for (path, answer) in answers {
        for (name, value) in [
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "deny"),
            ("x-robots-tag", "noindex"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {}", answer.head);
        }
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("script-src 'unsafe"), "{path}: {policy}");
        let is_page = answer.header("content-type").is_none_or(|found| found.starts_with("text/html"));
        let kept = if is_page { "no-store" } else { "public, max-age=86400" };
        assert_eq!(answer.header("cache-control"), Some(kept), "{path}: {}", answer.head);
        assert!(!is_page || policy.contains("form-action 'self'; frame-ancestors 'none'; base-uri 'none'"), "{policy}");
        assert_eq!(answer.header("set-cookie"), None, "{path}");
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 32), "{path}");
    }
}

#[tokio::test]
async fn a_form_of_another_site_is_refused_and_nothing_else_is() {
    let h = Harness::start().await;
    let own = format!("http://{}", h.pages_address());
    for (headers, status) in [
        (&[][..], 303),
        (&[("origin", "null")], 303),
        (&[("origin", own.as_str())], 303),
        (&[("origin", "null"), ("sec-fetch-site", "same-origin")], 303),
        (&[("origin", "https://evil.example")], 403),
        (&[("origin", "https://localhost")], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("sec-fetch-site", "none")], 403),
        (&[("origin", own.as_str()), ("sec-fetch-site", "cross-site")], 403),
    ] {
        let answer = h.form_with("/forgot", &[("login", "nobody")], headers).await;
        assert_eq!(answer.status, status, "{headers:?}");
        let shown = send(&h.pages_address(), "GET", "/forgot", headers, "").await;
        assert_eq!(shown.status, 200, "what only shows is open to links from anywhere: {headers:?}");
    }
}

#[tokio::test]
async fn a_body_is_a_form_of_at_most_16_kib_in_utf_8() {
    let h = Harness::start().await;
    let address = h.pages_address();
    let of_length = |length: usize| format!("login={}", "a".repeat(length - 6));
    for (media_type, body, status) in [
        ("application/x-www-form-urlencoded", of_length(16 << 10), 422),
        ("application/x-www-form-urlencoded; charset=utf-8", "login=nobody".to_owned(), 303),
        ("application/x-www-form-urlencoded", of_length((16 << 10) + 1), 413),
        ("application/x-www-form-urlencoded", of_length(1 << 20), 413),
        ("application/x-www-form-urlencoded", "login=%E4".to_owned(), 400),
        ("text/plain", "login=nobody".to_owned(), 415),
        ("multipart/form-data; boundary=x", "login=nobody".to_owned(), 415),
    ] {
        let answer = send(&address, "POST", "/forgot", &[("content-type", media_type)], &body).await;
        assert_eq!(answer.status, status, "{media_type}, {} bytes", body.len());
        assert!(status == 303 || answer.body.contains("<h1>"), "a page says what is wrong: {}", answer.body);
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_or_is_too_large_ends_the_connection() {
    let h = Harness::start().await;
    let large = send(&h.pages_address(), "GET", "/forgot", &[("x-large", &"a".repeat(20 << 10))], "").await;
    assert_eq!(large.status, 431);
    let mut slow = TcpStream::connect(h.pages_address()).await.expect("a connection");
    slow.write_all(b"GET /forgot HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.expect("a piece");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_mins(1), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && !rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
}

#[tokio::test]
async fn what_is_not_a_page_says_so() {
    let h = Harness::start().await;
    for path in ["/nothing", "/reset/", "/done", "/done?of=nothing", "/done?of=%3Cscript%3E", "/metrics", "/RESET"] {
        let answer = h.page(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("There is no such page"), "{path}: {}", answer.body);
    }
    for (path, allowed) in [("/reset", "get, head, post"), ("/done", "get, head"), ("/style.css", "get, head")] {
        let answer = send(&h.pages_address(), "DELETE", path, &[], "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{path}");
    }
    let front = h.page("/").await;
    assert_eq!((front.status, front.header("location")), (303, Some("forgot")));
}

#[tokio::test]
async fn no_page_loads_anything_from_elsewhere_or_runs_a_script_of_its_own() {
    let h = Harness::with_grace().await;
    let token = h.link(USER).await;
    for path in
        [&format!("/reset?token={token}"), "/reset?token=x", "/forgot", "/security", "/done?of=cancel", "/nothing"]
    {
        let html = h.page(path).await.body;
        for foreign in ["http:", "https:", "//", "javascript:", "<script>", "<style", " style=", " onclick", "<iframe"]
        {
            assert!(!html.contains(foreign), "{path} has {foreign}: {html}");
        }
    }
}

#[tokio::test]
async fn a_password_is_chosen_after_every_mistake_was_told() {
    let h = Harness::with_grace().await;
    let token = &h.link(USER).await;
    let opened = h.page(&format!("/reset?token={token}")).await;
    assert_eq!(opened.status, 200);
    for part in [
        format!(r#"name="token" value="{token}""#),
        format!(r#"value="{USER}" autocomplete="username""#),
        r#"autocomplete="new-password""#.to_owned(),
        r#"<form method="post" action="reset""#.to_owned(),
        "for another 12 hours".to_owned(),
    ] {
        assert!(opened.body.contains(&part), "{part}: {}", opened.body);
    }
    for (password, repeat, told) in [
        ("", "", &["#password\">Enter a password."][..]),
        ("short c4nary", "short c4nary", &["#password\">The password is too short: it needs at least 15 characters."]),
        (
            "grace2026grace2026",
            "grace2026grace2026",
            &[
                "#password\">The password consists of little but your name",
                "#password\">The password is too easy to guess.",
            ],
        ),
        (OTHER_PASSWORD, PASSWORD, &["#repeat\">The two passwords differ."]),
        ("short c4nary", "c4nary", &["#password\">The password is too short", "#repeat\">The two passwords differ"]),
        ("a line\nwith a c4nary in it", "a line\nwith a c4nary in it", &["#password\">The password has a character"]),
        (
            &"c4nary ".repeat(40),
            &"c4nary ".repeat(40),
            &["#password\">The password is too long: it may have at most 256"],
        ),
        (PASSWORD, PASSWORD, &["#password\">This is an old password."]),
    ] {
        let answer = h.form("/reset", &[("token", token), ("password", password), ("repeat", repeat)]).await;
        assert_eq!(answer.status, 422, "{told:?}: {}", answer.body);
        for told in told {
            assert!(answer.body.contains(told), "{told}: {}", answer.body);
        }
        let field = if told[0].starts_with("#repeat") { "repeat" } else { "password" };
        assert!(answer.body.contains(r#"role="alert""#) && answer.body.contains("<title>Error: "), "{}", answer.body);
        assert!(answer.body.contains(&format!(r#"id="{field}-fault""#)), "{}", answer.body);
        assert!(answer.body.contains(r#"aria-invalid="true""#), "{}", answer.body);
        assert!(!answer.body.contains("c4nary"), "a password is not sent back");
    }
    let fields = [("token", token.as_str()), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    let done = h.form("/reset", &fields).await;
    assert_eq!((done.status, done.header("location")), (303, Some("done?of=reset")), "{}", done.body);
    assert!(h.page("/done?of=reset").await.body.contains("Your password is changed"));
    h.stranger().await.tokens(USER, OTHER_PASSWORD).await.expect("the new password");
    refused(h.stranger().await.sign_in(USER, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    assert_eq!(h.form("/reset", &fields).await.status, 410, "a link works once");
}

#[tokio::test]
async fn sec_007_a_mail_scanner_opens_a_link_fifty_times_and_it_still_works() {
    let h = Harness::with_grace().await;
    let token = &h.link(USER).await;
    for round in 0..50 {
        let method = if round % 2 == 0 { "GET" } else { "HEAD" };
        let answer = send(&h.pages_address(), method, &format!("/reset?token={token}"), &[], "").await;
        assert_eq!(answer.status, 200);
    }
    let fields = [("token", token.as_str()), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    assert_eq!(h.form("/reset", &fields).await.status, 303);
}

#[tokio::test]
async fn sec_007_a_mail_scanner_opens_every_link_of_every_mail_fifty_times_and_each_still_works() {
    let h = Harness::with_grace().await;
    let operator = h.operator().await;
    let sends = async |method: &str, request: serde_json::Value| {
        let answer = operator.call(method, request).await.expect("a message");
        let id = answer["delivery"]["id"].as_str().expect("an id").to_owned();
        h.mail_of(&operator.delivery(&id).await).await
    };
    let invite = json!({ "username": "ada", "email": "ada@example.org", "invite": {} });
    let grace = json!({ "user": { "username": USER } });
    let mails = [
        (sends("UserAdmin/CreateUser", invite).await, "invite"),
        (sends("UserAdmin/SendEmailVerification", grace.clone()).await, "verify"),
        (sends("UserAdmin/ResetPassword", grace).await, "reset"),
    ];
    let shown = h.page(&format!("/verify?token={}", mails[1].0.token("verify"))).await;
    assert!(
        shown.body.contains(&format!("<strong class=\"username\">{}</strong>", mails[1].0.header("To"))),
        "{}",
        shown.body
    );
    let before = operator.user(USER).await.etag;
    for (mail, page) in &mails {
        for link in [mail.link(page), mail.link("cancel")] {
            let path = link.strip_prefix(&format!("http://{}", h.pages_address())).expect("a page").to_owned();
            for round in 0..50 {
                let method = if round % 2 == 0 { "GET" } else { "HEAD" };
                let answer = send(&h.pages_address(), method, &path, &[], "").await;
                assert_eq!(answer.status, 200, "{method} {path}");
            }
        }
    }
    assert_eq!(operator.user(USER).await.etag, before, "nothing has changed");
    for (mail, page) in &mails {
        let fields = [("token", &*mail.token(page)), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
        assert_eq!(h.form(&format!("/{page}"), &fields).await.status, 303, "{page}");
        let late = h.form("/cancel", &[("token", &*mail.token("cancel"))]).await;
        assert!(late.status == 303 && late.head.contains("location: done?of=too-late"), "{page}: {late:?}");
    }
    let told = h.page("/done?of=too-late&lang=en").await.body;
    assert!(told.contains("<h1>The link has been used already</h1>") && told.contains("at once"), "{told}");
    h.stranger().await.tokens("ada", OTHER_PASSWORD).await.expect("the first password");
    h.stranger().await.tokens(USER, OTHER_PASSWORD).await.expect("the new password");
}

#[tokio::test]
async fn every_dead_link_gets_the_same_page() {
    let h = Harness::with_grace().await;
    let used = h.link(USER).await;
    let fields = [("token", used.as_str()), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    assert_eq!(h.form("/reset", &fields).await.status, 303);
    let replaced = h.link(USER).await;
    for _ in 0..3 {
        h.link(USER).await;
    }
    let expired = h.link(USER).await;
    h.clock.advance(Duration::from_hours(25));
    let live = h.link(USER).await;
    let mut pages = BTreeSet::new();
    for token in ["", "x", UNKNOWN, &used, &replaced, &expired, &live[..live.len() - 1], &live.to_uppercase()] {
        let shown = h.page(&format!("/reset?token={token}")).await;
        let sent = h.form("/reset", &[("token", token), ("password", PASSWORD), ("repeat", PASSWORD)]).await;
        assert_eq!([shown.status, sent.status], [410, 410], "{token}");
        pages.extend([shown.body, sent.body]);
    }
    assert_eq!(pages.len(), 1, "{pages:#?}");
    let page = pages.first().expect("a page");
    assert!(page.contains("This link does not work any more") && page.contains(r#"href="forgot""#), "{page}");
    for other in ["invite", "verify", "cancel"] {
        assert_eq!(h.page(&format!("/{other}?token={live}")).await.status, 410, "a link is for one page: {other}");
        let fields = [("token", live.as_str()), ("password", PASSWORD), ("repeat", PASSWORD)];
        assert_eq!(h.form(&format!("/{other}"), &fields).await.status, 410, "{other}");
    }
    let unconfirmed = h.page(&format!("/verify?token={live}")).await.body;
    assert!(unconfirmed.contains("where you signed in") && !unconfirmed.contains("forgot"), "{unconfirmed}");
    assert_eq!(h.page(&format!("/reset?token={live}")).await.status, 200);
}

#[tokio::test]
async fn asking_for_a_link_says_the_same_for_every_name() {
    let h = Harness::with_grace().await;
    h.create("mailless", &[], PASSWORD).await;
    h.create("locked", &[], PASSWORD).await;
    h.give_address("locked", "locked@example.org").await;
    h.operator().await.lock("locked").await.expect("a lock");
    let mut answers = BTreeSet::new();
    for login in [USER, ADDRESS, "GRACE", "mailless", "locked", "nobody", "nobody@example.org"] {
        let answer = h.form("/forgot", &[("login", login)]).await;
        let changing = ["x-request-id: ", "date: "];
        let head = answer.head.lines().filter(|line| !changing.iter().any(|name| line.starts_with(name)));
        answers.insert((answer.status, head.collect::<Vec<_>>().join("\n"), answer.body));
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert!(
        answers.first().is_some_and(|(status, head, _)| *status == 303 && head.contains("location: done?of=forgot"))
    );
    let nothing = h.form("/forgot", &[("login", " ")]).await;
    assert_eq!(nothing.status, 422);
    assert!(nothing.body.contains("#login\">Enter your username or e-mail address."), "{}", nothing.body);
    let hostile = h.form("/forgot", &[("login", "\"><script>alert(1)</script>\n")]).await;
    assert_eq!(hostile.status, 422);
    assert!(hostile.body.contains("&quot;&gt;&lt;script&gt;"), "it is shown again, as text: {}", hostile.body);
}

#[tokio::test]
async fn a_page_is_in_the_language_of_the_switch_the_user_or_the_browser() {
    let h = Harness::with_grace().await;
    let address = h.pages_address();
    let token = &h.link(USER).await;
    let open = async |path: String, accept: &str| {
        let html = send(&address, "GET", &path, &[("accept-language", accept)], "").await.body;
        html.split_once("<html lang=\"").map(|(_, rest)| rest[..2].to_owned()).expect("a language")
    };
    let reset = format!("/reset?token={token}");
    assert_eq!(open(reset.clone(), "fr").await, "en", "the default");
    assert_eq!(open(reset.clone(), "de-AT,en;q=0.5").await, "de", "that of the browser");
    let request = json!({ "user": { "username": USER }, "locale": "de-CH" });
    h.operator().await.call("UserAdmin/UpdateUser", request).await.expect("a locale");
    assert_eq!(open(reset.clone(), "en").await, "de", "the user's is before that of the browser");
    assert_eq!(open(format!("{reset}&lang=en"), "de").await, "en", "the switch is before all");
    assert_eq!(open(format!("{reset}&lang=fr"), "en").await, "de", "and an unknown one is none");
    let wrong = h.form("/reset", &[("token", token), ("lang", "en")]).await;
    assert!(
        wrong.body.contains("<html lang=\"en\">") && wrong.body.contains(r#"name="lang" value="en""#),
        "{}",
        wrong.body
    );
    let fields = [("token", token.as_str()), ("lang", "de"), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    let done = h.form("/reset", &fields).await;
    assert_eq!(done.header("location"), Some("done?of=reset&lang=de"));
    assert!(h.page("/done?of=reset&lang=de").await.body.contains("Ihr Passwort ist geändert"));
}

#[tokio::test]
async fn a_link_of_a_stranger_fills_in_no_name() {
    let h = Harness::start().await;
    for path in ["forgot", "security"] {
        let page = h.page(&format!("/{path}?login={USER}&step=code&ticket={USER}")).await;
        assert!(page.status == 200 && !page.body.contains(USER), "{}", page.body);
    }
}

#[tokio::test]
async fn a_mail_that_was_asked_for_is_in_the_language_of_the_user_or_else_of_the_page() {
    let h = Harness::with_grace().await;
    for (locale, language) in [("", "de"), ("en", "en")] {
        let request = json!({ "user": { "username": USER }, "locale": locale });
        h.operator().await.call("UserAdmin/UpdateUser", request).await.expect("a locale");
        h.sql("DELETE FROM delivery").await;
        let headers = [("accept-language", "de-AT,en;q=0.5")];
        assert_eq!(h.form_with("/forgot", &[("login", USER)], &headers).await.status, 303);
        let sent = eventually("a mail", || async { h.query("SELECT locale FROM delivery").await.pop() }).await;
        assert_eq!(sent, language, "{locale}");
    }
}

#[tokio::test]
async fn an_event_of_a_page_has_the_id_of_the_answer_and_the_browser_in_few_characters() {
    let h = Harness::with_grace().await;
    let token = &h.link(USER).await;
    let fields = [("token", token.as_str()), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    let long = "Mozilla ".repeat(100);
    let sent = h.form_with("/reset", &fields, &[("user-agent", &long)]).await;
    let id = sent.header("x-request-id").expect("an id");
    let events = h.operator().await.events().await;
    let of_page = events.iter().find(|event| event.r#type() == EventType::PasswordResetCompleted).expect("an event");
    assert_eq!(of_page.request_id, id);
    assert_eq!(of_page.actor.as_ref().map(|actor| actor.user_agent.as_str()), Some(&long[..128]));
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_address_of_the_client_counts() {
    let h = Harness::with(|config| {
        config.pages.trusted_proxies.0 = Network::parse("127.0.0.0/8").into_iter().collect();
    })
    .await;
    h.create(USER, &[], PASSWORD).await;
    let token = &h.link(USER).await;
    let fields = [("token", token.as_str()), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    let sent = h.form_with("/reset", &fields, &[("x-forwarded-for", "203.0.113.9, 198.51.100.7")]).await;
    assert_eq!(sent.status, 303, "{}", sent.body);
    let addresses = h.client_addresses().await;
    assert!(addresses.contains("198.51.100.7") && !addresses.contains("203.0.113.9"), "{addresses:?}");
}

#[tokio::test]
async fn an_address_that_a_client_states_without_a_trusted_proxy_does_not_count() {
    let h = Harness::with_grace().await;
    let token = &h.link(USER).await;
    let fields = [("token", token.as_str()), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    let sent = h.form_with("/reset", &fields, &[("x-forwarded-for", "198.51.100.7")]).await;
    assert_eq!(sent.status, 303, "{}", sent.body);
    let addresses = h.client_addresses().await;
    assert!(addresses.contains("127.0.0.1") && !addresses.contains("198.51.100.7"), "{addresses:?}");
}

#[tokio::test]
async fn requests_are_counted_by_page_and_status_in_a_lane_of_their_own() {
    let h = Harness::start().await;
    h.page(&format!("/reset?token={UNKNOWN}")).await;
    h.page("/forgot").await;
    h.page("/forgot").await;
    h.page("/guess-1").await;
    let text = h.http("/metrics").await.body;
    for line in [
        r#"latchkey_page_requests_total{page="reset",status="410"} 1"#,
        r#"latchkey_page_requests_total{page="forgot",status="200"} 2"#,
        r#"latchkey_page_requests_total{page="unknown",status="404"} 1"#,
        r#"latchkey_calls_limit{lane="pages"} 128"#,
        r#"latchkey_calls_in_flight{lane="pages"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("guess-1"));
}

#[test]
fn a_request_is_logged_without_its_query() {
    let mut shell = Shell::default();
    shell.set("LATCHKEY_LOG_LEVEL", "info,latchkey=trace");
    let mut daemon = Daemon::start(&shell, &[]);
    let line = daemon.started.iter().find(|line| line.contains(" pages=")).expect("where the pages are");
    let address = line.split_once("pages=\"http://").and_then(|(_, rest)| rest.split('"').next()).expect("an address");
    let address = address.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(send(&address, "GET", &format!("/reset?token={UNKNOWN}"), &[], ""));
    daemon.until("page=\"reset\"");
    let line = daemon.started.last().expect("a line");
    for part in
        ["http.method=\"GET\"", "http.status=410", "rpc.reason=\"TICKET_INVALID\"", "client.address=\"127.0.0.1\""]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    for (method, path) in [("GET", "/forgot"), ("POST", "/forgot"), ("GET", "/style.css"), ("GET", "/nothing")] {
        runtime.block_on(send(&address, method, &format!("{path}?hunter2&login=hunter2"), &[], ""));
    }
    daemon.until("page=\"unknown\"");
    let log = daemon.started.clone();
    let (_, rest) = daemon.stop();
    for line in log.iter().map(String::as_str).chain(rest.lines()) {
        assert!(![UNKNOWN, "token=", "hunter2"].iter().any(|part| line.contains(part)), "{line}");
    }
}

#[tokio::test]
async fn the_logo_and_the_names_of_the_configuration_are_on_every_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let logo = dir.path().join("logo.svg");
    std::fs::write(&logo, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1 1\"/>").expect("a file");
    let h = Harness::with(|config| {
        config.pages.logo = Some(logo);
        config.organisation = "Ada & Söhne".to_owned();
        config.support = Some("help@example.org".to_owned());
    })
    .await;
    for path in ["/forgot", "/security", "/reset?token=x", "/done?of=reset", "/nothing"] {
        let html = h.page(path).await.body;
        assert!(
            html.contains("alt=\"Ada &amp; Söhne\"") && html.contains("Help: <a href=\"mailto:help@example.org\">"),
            "{path}: {html}"
        );
    }
    let answer = h.page("/logo?v=1").await;
    assert_eq!(answer.header("content-type"), Some("image/svg+xml"));
    assert!(
        answer.header("content-security-policy").is_some_and(|policy| policy.contains("sandbox")),
        "{}",
        answer.head
    );
}

#[tokio::test]
async fn a_logo_that_is_not_usable_stops_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content, told) in [
        ("page.svg", b"<html><script/></html>".to_vec(), "is neither SVG nor PNG"),
        ("large.png", [b"\x89PNG\r\n\x1a\n".to_vec(), vec![0; 256 << 10]].concat(), "has more than 256 KiB"),
        ("missing.png", Vec::new(), "cannot read"),
    ] {
        let path = dir.path().join(name);
        if !content.is_empty() {
            std::fs::write(&path, content).expect("a file");
        }
        let shell = Shell::default();
        let set = format!("pages.logo={}", path.display());
        let ran = shell.feed("latchkeyd", &["--listen", "127.0.0.1:0", "--http-listen", "off", "--set", &set], "");
        assert!(ran.code == 1 && ran.stderr.contains(told) && ran.stderr.contains(name), "{name}: {ran:?}");
    }
}
