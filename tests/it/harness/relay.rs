//! Users with an address, and servers whose mail goes to a relay that follows a script.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::{self, DeliveryState};
use tokio::sync::Notify;

use super::actors::named;
use super::smtp::{Act, Certificate, Received, SmtpServer, Step, Tls};
use super::{Client, Harness, PASSWORD, eventually};

/// Creates users who have an address each, and returns the operator.
pub async fn users(h: &Harness, names: &[&str]) -> Client {
    let operator = h.operator().await;
    for name in names {
        operator.create(person(name)).await.expect("a user");
    }
    operator
}

pub fn person(name: &str) -> v1::CreateUserRequest {
    v1::CreateUserRequest {
        username: name.to_owned(),
        email: format!("{name}@example.com"),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    }
}

impl Client {
    /// Waits until the first attempt to send a message has ended.
    pub async fn attempted(&self, id: &str) -> v1::Delivery {
        eventually("the end of an attempt", || async {
            let now = self.delivery(id).await;
            (!matches!(now.state(), DeliveryState::Queued | DeliveryState::Sending)).then_some(now)
        })
        .await
    }

    pub async fn sends_link(&self, username: &str) -> v1::Delivery {
        let request = v1::ResetPasswordRequest { user: Some(named(username)), ..Default::default() };
        self.reset_with(request).await.expect("a reset").delivery.expect("a delivery")
    }
}

/// A server whose mail goes to this relay, in plain text on loopback, with limits that a test can wait for.
pub async fn with_relay(relay: &SmtpServer) -> Harness {
    with_relay_at(relay, &plain(relay), Duration::from_secs(2)).await
}

/// As `with_relay`, with limits that a test does not reach.
pub async fn with_patient_relay(relay: &SmtpServer) -> Harness {
    with_relay_at(relay, &plain(relay), Duration::from_mins(1)).await
}

pub async fn with_relay_at(relay: &SmtpServer, url: &str, limit: Duration) -> Harness {
    Harness::with(|config| {
        config.mail.transport = latchkey::config::Transport::Smtp;
        config.mail.smtp.url = Some(url.parse().expect("a URL"));
        config.mail.smtp.ca = Some(relay.ca.clone()).filter(|_| !url.ends_with("tls=none"));
        config.mail.limits.command = limit;
        config.mail.limits.dot = limit;
        config.mail.limits.slow_after = limit / 2;
    })
    .await
}

pub fn plain(relay: &SmtpServer) -> String {
    format!("smtp://127.0.0.1:{}?tls=none", relay.address.port())
}

/// A relay that does one thing at one step the first time, and everything else right.
pub async fn once(step: Step, act: Act) -> SmtpServer {
    once_seen(step, act).await.0
}

/// As `once`, with a flag that is set when it is done.
pub async fn once_seen(step: Step, act: Act) -> (SmtpServer, Arc<AtomicBool>) {
    let is_done = Arc::<AtomicBool>::default();
    let seen = Arc::clone(&is_done);
    let script = move |now: Step, _: &str| (now == step && !is_done.swap(true, Relaxed)).then(|| act.clone());
    (SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await, seen)
}

/// A relay that is busy until it is told otherwise, and then follows the script.
pub async fn busy(script: impl Fn(Step) -> Option<Act> + Send + Sync + 'static) -> (SmtpServer, Arc<AtomicBool>) {
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&is_open);
    let script = move |now: Step, _: &str| match now {
        Step::Greeting if !opened.load(Relaxed) => Some(Act::last_word("421 4.3.2 busy")),
        now => script(now),
    };
    (SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await, is_open)
}

/// A relay that keeps the mail to `tar` until it is told to answer.
pub async fn holding() -> (SmtpServer, Arc<Notify>) {
    let release = Arc::<Notify>::default();
    let held = Arc::clone(&release);
    let script =
        move |now: Step, line: &str| (now == Step::Dot && line.contains("tar")).then(|| Act::Hold(Arc::clone(&held)));
    (SmtpServer::scripted(Tls::None, Certificate::Good, "HELP", script).await, release)
}

/// Waits until a flag is set.
pub async fn is_set(flag: &AtomicBool) {
    eventually("the step", || async { flag.load(Relaxed).then_some(()) }).await;
}

pub fn message_id(mail: &Received) -> String {
    let line = mail.content.lines().find(|line| line.starts_with("Message-ID:"));
    line.expect("a Message-ID").to_owned()
}
