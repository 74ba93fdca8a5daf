//! The example of pages of one's own, as a process, with the links of a real server.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};

use latchkey::config::{LinkUrl, Transport};
use latchkey::proto::v1;
use serde_json::json;

use crate::clients::has_python_packages;
use crate::harness::http::{HttpAnswer, send};
use crate::harness::mailbox::Eml;
use crate::harness::transcript::{Shell, blocks};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, eventually};

const README: &str = include_str!("../../examples/own-page/README.md");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// The running example.
struct OwnPage {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl OwnPage {
    /// Follows the README. Returns `None` if Python lacks the packages that it installs.
    fn start(shell: &Shell, latchkey: &str) -> Option<OwnPage> {
        if !has_python_packages(shell) {
            return None;
        }
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        std::os::unix::fs::symlink(format!("{root}proto"), shell.path("proto")).expect("a link");
        std::fs::create_dir_all(shell.path("examples/own-page")).expect("a folder");
        let program = "examples/own-page/own_page.py";
        std::fs::copy(format!("{root}{program}"), shell.path(program)).expect("a copy");

        let [(_, setup)] = blocks(README, &["sh"]).try_into().expect("one block");
        let [install, generate, run] = setup.lines().collect::<Vec<_>>().try_into().expect("three commands");
        assert!(install.starts_with("pip install "), "{install}");
        let generated = shell.bash(generate);
        assert!(generated.status.success(), "{generated:?}");
        let run = run.replace("127.0.0.1:8080", "127.0.0.1:0");
        let mut command = shell.command("bash");
        command.args(["-c", &format!("exec {run}")]).env("TARGET", latchkey);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a process");
        let mut output = BufReader::new(child.stdout.take().expect("an output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Some(OwnPage { child, output, address })
    }

    async fn get(&self, path: &str) -> HttpAnswer {
        let answer = send(&self.address, "GET", path, &[], "").await;
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        answer
    }

    /// Sends a form as a browser does.
    async fn post(&self, page: &str, fields: &[(&str, &str)]) -> HttpAnswer {
        self.post_from(("origin", "null"), page, fields).await
    }

    async fn post_from(&self, site: (&str, &str), page: &str, fields: &[(&str, &str)]) -> HttpAnswer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        send(&self.address, "POST", page, &[FORM, site], &body).await
    }

    /// Stops it and returns all that it has logged.
    fn stop(mut self) -> String {
        self.child.kill().expect("a process");
        let mut log = String::new();
        self.output.read_to_string(&mut log).expect("text");
        log
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        // If it has ended by itself, the test has failed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server whose links lead to the example, and a user with an address. `None` if the example cannot run.
async fn started(shell: &Shell) -> Option<(Harness, OwnPage)> {
    let mut h = Harness::with(|config| config.mail.transport = Transport::File).await;
    let page = tokio::task::block_in_place(|| OwnPage::start(shell, &h.address()))?;
    let links = format!("http://{}/{{purpose}}?token={{token}}", page.address);
    h.config.listen = h.address().parse().expect("an address");
    h.config.links.url = Some(LinkUrl::parse(&links).expect("a URL"));
    let h = h.restart().await;
    h.create("grace", &[], PASSWORD).await;
    let request = json!({ "user": { "username": "grace" }, "email": "grace@example.org" });
    h.operator().await.call("UserAdmin/UpdateUser", request).await.expect("an address");
    Some((h, page))
}

/// The mail with a new link to choose a password.
async fn mail(h: &Harness) -> Eml {
    let request = json!({ "user": { "username": "grace" }, "sendLink": {} });
    let sent = h.operator().await.call("UserAdmin/ResetPassword", request).await.expect("a link");
    let id = sent["delivery"]["id"].as_str().expect("an id").to_owned();
    h.mail_of(&v1::Delivery { id, ..Default::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_chosen_on_a_page_of_ones_own_with_the_link_in_a_mail() {
    let shell = Shell::default();
    let Some((h, page)) = Box::pin(started(&shell)).await else { return };
    let mail = mail(&h).await;
    assert!(mail.text.contains(&format!("http://{}/reset?token=", page.address)), "{}", mail.text);
    let token = mail.token("reset");
    let link = format!("/reset?token={token}");

    for _ in 0..3 {
        let shown = page.get(&link).await;
        assert!(shown.status == 200 && shown.body.contains("Choose a password, grace"), "a scanner uses nothing up");
    }
    let choose = |new: &'static str, again: &'static str| [("new", new), ("again", again)];
    let with_token = |fields: [(&'static str, &'static str); 2]| [("token", token.as_str()), fields[0], fields[1]];

    let good = with_token(choose(OTHER_PASSWORD, OTHER_PASSWORD));
    for site in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        assert_eq!(page.post_from(site, "/reset", &good).await.status, 403);
    }
    let short = page.post("/reset", &with_token(choose("c4nary", "c4nary"))).await;
    assert!(short.status == 422 && short.body.contains("<li>shorter than 15 characters</li>"), "{}", short.body);
    let differ = page.post("/reset", &with_token(choose(OTHER_PASSWORD, PASSWORD))).await;
    assert!(differ.status == 422 && differ.body.contains("<li>the two passwords differ</li>"), "{}", differ.body);
    h.signed_in("grace", PASSWORD).await;

    let done = page.post("/reset", &good).await;
    assert_eq!((done.status, done.header("location")), (303, Some("done")), "{}", done.body);
    h.signed_in("grace", OTHER_PASSWORD).await;
    assert_eq!(page.get(&link).await.status, 410);
    assert_eq!(page.post("/reset", &good).await.status, 410);
    let log = page.stop();
    assert!(log.contains("POST /reset 303\n") && !log.contains("lkl_") && !log.contains("c4nary"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_ones_own_sends_a_link_says_the_same_for_every_name_and_cancels() {
    let shell = Shell::default();
    let Some((h, page)) = Box::pin(started(&shell)).await else { return };
    assert_eq!(page.get("/forgot").await.status, 200);
    let known = page.post("/forgot", &[("login", "grace")]).await;
    let unknown = page.post("/forgot", &[("login", "nobody")]).await;
    assert_eq!((known.status, &known.body), (200, &unknown.body));
    let asked = eventually("the mail with the link", || async {
        h.mails().into_iter().find(|mail| mail.text.contains("/reset?token="))
    })
    .await;
    let (token, cancel) = (asked.token("reset"), asked.token("cancel"));
    assert_eq!(page.get(&format!("/cancel?token={cancel}")).await.status, 200);
    assert_eq!(page.get(&format!("/reset?token={token}")).await.status, 200, "showing cancels nothing");
    assert_eq!(page.post("/cancel", &[("token", &cancel)]).await.status, 303);
    assert_eq!(page.get(&format!("/reset?token={token}")).await.status, 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_ones_own_asks_a_user_with_a_second_factor_for_a_code() {
    let shell = Shell::default();
    let Some((h, page)) = Box::pin(started(&shell)).await else { return };
    let without = page.get(&format!("/reset?token={}", mail(&h).await.token("reset"))).await;
    assert!(!without.body.contains("code\""), "{}", without.body);
    let factor = h.enroll(&h.signed_in("grace", PASSWORD).await).await;
    let token = mail(&h).await.token("reset");
    let shown = page.get(&format!("/reset?token={token}")).await;
    assert!(shown.body.contains(r#"name="code" autocomplete="one-time-code""#), "{}", shown.body);

    let old = factor.shows(&h, -3);
    let choose = async |code: &str| {
        let fields = [("token", token.as_str()), ("new", OTHER_PASSWORD), ("again", OTHER_PASSWORD), ("code", code)];
        page.post("/reset", &fields).await
    };
    for (code, told) in
        [("", "enter a code of your authenticator app"), (&old, "this code is wrong"), ("x", "this code")]
    {
        let answer = choose(code).await;
        assert!(answer.status == 422 && answer.body.contains(&format!("<li>{told}")), "{code}: {}", answer.body);
        assert!(answer.body.contains(r#"name="code""#), "the field is still there: {}", answer.body);
    }
    let code = factor.shows(&h, 0);
    let done = choose(&format!("{} {}", &code[..3], &code[3..])).await;
    assert_eq!((done.status, done.header("location")), (303, Some("done")), "{}", done.body);
    h.stranger().await.factor_step("grace", OTHER_PASSWORD).await.expect("the new password");
    assert_eq!(page.get(&format!("/reset?token={token}")).await.status, 410);

    let token = mail(&h).await.token("reset");
    let fields = [("token", token.as_str()), ("new", PASSWORD), ("again", PASSWORD)];
    let recovered = page.post("/reset", &[&fields[..], &[("code", &factor.recovery_codes[0])]].concat()).await;
    assert_eq!(recovered.status, 303, "{}", recovered.body);
}
