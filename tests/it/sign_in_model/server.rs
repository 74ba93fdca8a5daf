//! The server that the model is compared with.

use latchkey::domain::second_factor::STEP;
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::{self, sign_in_progress::Step};
use proptest_state_machine::StateMachineTest;
use tokio::runtime::Runtime;
use tonic::Status;

use super::reference::{Account, Code, Kind, Outcome, Reference, THRESHOLD, Transition};
use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::factor::{Authenticator, recovery, totp};
use crate::harness::{Client, Harness, PASSWORD, Refusal};

const NAME: &str = "ada";

/// A server with one user, and what it has given out, in the order in which it did.
pub(super) struct Server {
    runtime: Runtime,
    world: World,
}

struct World {
    h: Harness,
    operator: Client,
    stranger: Client,
    password: String,
    passwords: u32,
    places: u8,
    authenticator: Option<Authenticator>,
    recovery_used: usize,
    /// The code that was accepted last.
    accepted: String,
    tickets: Vec<String>,
    /// The keys that came with tickets to confirm.
    offered: Vec<Option<String>>,
    sessions: Vec<v1::TokenSet>,
    links: Vec<String>,
    outcome: Outcome,
}

impl World {
    async fn start() -> World {
        let h = Harness::with(|config| {
            config.throttle.threshold = THRESHOLD;
            config.throttle.initial = STEP;
            config.throttle.lockout_threshold = 0;
            config.throttle.source_failures = 0;
            config.throttle.source_accounts = 0;
        })
        .await;
        h.create(NAME, &[], PASSWORD).await;
        let (operator, stranger) = (h.operator().await, h.stranger().await);
        World {
            h,
            operator,
            stranger,
            password: PASSWORD.to_owned(),
            passwords: 0,
            places: 0,
            authenticator: None,
            recovery_used: 0,
            accepted: String::new(),
            tickets: Vec::new(),
            offered: Vec::new(),
            sessions: Vec::new(),
            links: Vec::new(),
            outcome: Outcome::Done,
        }
    }

    async fn run(&mut self, transition: &Transition) -> Result<Outcome, Status> {
        match *transition {
            Transition::SignIn { right, code } => self.sign_in(right, code).await,
            Transition::Verify { ticket, code } => self.verify(ticket, code).await,
            Transition::Complete { ticket } => self.complete(ticket).await,
            Transition::EnrollInSession { session, code } => self.enroll_in_session(session, code).await,
            Transition::EnrollByTicket { ticket } => {
                let request = v1::EnrollTotpRequest { ticket: self.tickets[ticket].clone(), ..Default::default() };
                let offered = self.stranger.auth().enroll_totp(request).await?.into_inner();
                Ok(self.offer(None, offered))
            }
            Transition::Confirm { ticket, right } => self.confirm(ticket, right).await,
            Transition::Disable { session, code } => {
                let client = self.signed_in(session).await?;
                let request = v1::DisableTotpRequest { second_factor: self.proof(code) };
                client.auth().disable_totp(request).await?;
                self.used(code);
                self.authenticator = None;
                Ok(Outcome::Done)
            }
            Transition::ChangePassword { session, code } => self.change_password(session, code).await,
            Transition::Refresh { session } => {
                let client = self.signed_in(session).await?;
                let mfa = client.who_am_i().await?.session.expect("a session").auth_methods.len() > 1;
                Ok(Outcome::Session { mfa })
            }
            Transition::Reset => {
                let reset = self.operator.reset(NAME).await?;
                reset.shown().clone_into(&mut self.password);
                Ok(Outcome::Done)
            }
            Transition::SendLink => self.send_link().await,
            Transition::UseLink { link, code } => self.use_link(link, code).await,
            Transition::Lock => self.operator.lock(NAME).await.map(|_| Outcome::Done),
            Transition::Unlock => self.operator.unlock(NAME).await.map(|_| Outcome::Done),
            Transition::ResetFactor => {
                self.operator.reset_factor(NAME).await?;
                self.authenticator = None;
                Ok(Outcome::Done)
            }
            Transition::Policy { required } => {
                let policy = v1::SignInPolicy { second_factor_required: Some(required), ..Default::default() };
                let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
                self.operator.user_admin().update_sign_in_policy(request).await?;
                Ok(Outcome::Done)
            }
            Transition::Wait { steps } => {
                self.h.clock.advance(STEP * steps);
                Ok(Outcome::Done)
            }
        }
    }

    async fn sign_in(&mut self, right: bool, code: Code) -> Result<Outcome, Status> {
        let password = if right { self.password.clone() } else { "a wrong c4nary password".to_owned() };
        let second_factor = self.proof(code);
        let request = v1::SignInRequest { login: NAME.to_owned(), password, second_factor, ..Default::default() };
        // Each sign-in comes from a place where the user never was, so all count alike.
        self.places += 1;
        let stranger = self.h.stranger_at(&format!("127.1.{}.1", self.places)).await;
        let answer = stranger.auth().sign_in(request).await?.into_inner();
        let outcome = self.progressed(answer.progress);
        if self.authenticator.is_some() {
            self.used(code);
        }
        Ok(outcome)
    }

    async fn verify(&mut self, ticket: usize, code: Code) -> Result<Outcome, Status> {
        let ticket = self.tickets[ticket].clone();
        let request = v1::VerifySecondFactorRequest { ticket, second_factor: self.proof(code) };
        let answer = self.stranger.auth().verify_second_factor(request).await?.into_inner();
        self.used(code);
        Ok(self.progressed(answer.progress))
    }

    async fn complete(&mut self, ticket: usize) -> Result<Outcome, Status> {
        let new = self.new_password();
        let answer = self.stranger.complete(&self.tickets[ticket], &new).await?;
        self.password = new;
        Ok(self.progressed(answer.progress))
    }

    async fn enroll_in_session(&mut self, session: usize, code: Code) -> Result<Outcome, Status> {
        let client = self.signed_in(session).await?;
        let request = v1::EnrollTotpRequest { second_factor: self.proof(code), ..Default::default() };
        let offered = client.auth().enroll_totp(request).await?.into_inner();
        if self.authenticator.is_some() {
            self.used(code);
        }
        Ok(self.offer(Some(session), offered))
    }

    fn offer(&mut self, session: Option<usize>, offered: v1::EnrollTotpResponse) -> Outcome {
        self.tickets.push(offered.ticket);
        self.offered.push(Some(offered.secret));
        Outcome::Step(Kind::Confirmation(session))
    }

    async fn confirm(&mut self, ticket: usize, right: bool) -> Result<Outcome, Status> {
        let secret = self.offered[ticket].clone().unwrap_or_else(|| "A".repeat(32));
        let authenticator = Authenticator::with(&secret, Vec::new());
        let code = if right { authenticator.shows(&self.h, 0) } else { "no code".to_owned() };
        let request = v1::ConfirmTotpRequest { ticket: self.tickets[ticket].clone(), code: code.clone() };
        let confirmed = self.stranger.auth().confirm_totp(request).await?.into_inner();
        self.accepted = code;
        self.authenticator = Some(Authenticator::with(&secret, confirmed.recovery_codes));
        self.recovery_used = 0;
        self.h.next_code();
        Ok(if confirmed.progress.is_some() { self.progressed(confirmed.progress) } else { Outcome::Done })
    }

    async fn change_password(&mut self, session: usize, code: Code) -> Result<Outcome, Status> {
        let client = self.signed_in(session).await?;
        let new = self.new_password();
        let request = v1::ChangePasswordRequest {
            current_password: self.password.clone(),
            new_password: new.clone(),
            second_factor: self.proof(code),
            validate_only: false,
        };
        client.auth().change_password(request).await?;
        self.password = new;
        if self.authenticator.is_some() {
            self.used(code);
        }
        Ok(Outcome::Done)
    }

    async fn send_link(&mut self) -> Result<Outcome, Status> {
        let request = v1::ResetPasswordRequest {
            user: Some(named(NAME)),
            method: Some(Method::ReturnLink(v1::ReturnLink::default())),
            ..Default::default()
        };
        let reset = self.operator.reset_with(request).await?;
        let Some(v1::reset_password_response::Secret::ResetLink(url)) = reset.secret else { panic!("no link") };
        self.links.push(url.split_once("token=").expect("a token").1.to_owned());
        Ok(Outcome::Done)
    }

    async fn use_link(&mut self, link: usize, code: Code) -> Result<Outcome, Status> {
        let new = self.new_password();
        let request = v1::CompletePasswordResetRequest {
            link_token: self.links[link].clone(),
            new_password: new.clone(),
            second_factor: self.proof(code),
            validate_only: false,
        };
        self.stranger.auth().complete_password_reset(request).await?;
        self.password = new;
        if self.authenticator.is_some() {
            self.used(code);
        }
        Ok(Outcome::Done)
    }

    /// A client of a session, with tokens that were refreshed a moment ago.
    async fn signed_in(&mut self, session: usize) -> Result<Client, Status> {
        let tokens = self.stranger.refresh(&self.sessions[session].refresh_token).await?;
        let client = self.stranger.bearing(&tokens.access_token);
        self.sessions[session] = tokens;
        Ok(client)
    }

    fn proof(&self, code: Code) -> Option<v1::SecondFactorProof> {
        let authenticator = self.authenticator.as_ref();
        match (code, authenticator) {
            (Code::None, _) => None,
            (Code::Right, Some(authenticator)) => Some(authenticator.proof(&self.h)),
            (Code::Replayed, Some(_)) => Some(totp(&self.accepted)),
            (Code::Recovery, Some(authenticator)) => {
                let codes = &authenticator.recovery_codes;
                Some(recovery(codes.get(self.recovery_used).map_or("no code", String::as_str)))
            }
            _ => Some(totp("no code")),
        }
    }

    /// Notes that a code was accepted.
    fn used(&mut self, code: Code) {
        match code {
            Code::Right => {
                self.accepted = self.authenticator.as_ref().expect("an authenticator").shows(&self.h, 0);
                self.h.next_code();
            }
            Code::Recovery => self.recovery_used += 1,
            Code::None | Code::Wrong | Code::Replayed => {}
        }
    }

    fn progressed(&mut self, progress: Option<v1::SignInProgress>) -> Outcome {
        let (ticket, kind) = match progress.and_then(|progress| progress.step).expect("a step") {
            Step::Tokens(tokens) => {
                self.sessions.push(tokens);
                let mfa =
                    self.sessions.last().is_some_and(|tokens| tokens.access_token.contains('.') && is_mfa(tokens));
                return Outcome::Session { mfa };
            }
            Step::SecondFactor(step) => (step.ticket, Kind::SecondFactor),
            Step::PasswordChange(step) => (step.ticket, Kind::PasswordChange),
            Step::Enrollment(step) => (step.ticket, Kind::Enrollment),
        };
        self.tickets.push(ticket);
        self.offered.push(None);
        Outcome::Step(kind)
    }

    fn new_password(&mut self) -> String {
        self.passwords += 1;
        format!("c4nary password number {}", self.passwords)
    }
}

/// Whether the claims of an access token name a second factor.
fn is_mfa(tokens: &v1::TokenSet) -> bool {
    let payload = tokens.access_token.split('.').nth(1).expect("a payload");
    let json = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).expect("base64url");
    let claims: serde_json::Value = serde_json::from_slice(&json).expect("claims");
    claims["amr"].as_array().expect("methods").iter().any(|method| method == "mfa")
}

/// The names of reasons in the model.
fn refused(status: &Status) -> Outcome {
    const REASONS: [&str; 10] = [
        "CREDENTIALS_REJECTED",
        "TICKET_INVALID",
        "SECOND_FACTOR_REJECTED",
        "SECOND_FACTOR_REQUIRED",
        "SECOND_FACTOR_MISSING",
        "SECOND_FACTOR_MANDATORY",
        "SESSION_REVOKED",
        "REAUTHENTICATION_REQUIRED",
        "THROTTLED",
        "USER_LOCKED",
    ];
    let reason = Refusal::of(status).reason;
    let known = REASONS.into_iter().find(|known| *known == reason);
    Outcome::Refused(known.unwrap_or_else(|| panic!("{status:?}")))
}

impl StateMachineTest for Server {
    type SystemUnderTest = Server;
    type Reference = Reference;

    fn init_test(_: &Account) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let world = runtime.block_on(World::start());
        Server { runtime, world }
    }

    fn apply(mut server: Server, account: &Account, transition: Transition) -> Server {
        let outcome = server.runtime.block_on(server.world.run(&transition));
        server.world.outcome = outcome.unwrap_or_else(|status| refused(&status));
        assert_eq!(server.world.outcome, account.outcome, "{transition:?} in {account:?}");
        server
    }

    fn teardown(server: Server, _: Account) {
        let Server { runtime, world } = server;
        runtime.block_on(world.h.stop());
    }
}
