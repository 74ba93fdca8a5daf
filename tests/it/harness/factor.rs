//! Authenticators of users, with the clock of the test.

use latchkey::clock::Clock;
use latchkey::domain::second_factor::{TotpKey, TotpStep};
use latchkey::proto::v1::{self, second_factor_proof::Code, sign_in_progress::Step};
use tonic::{Response, Status};

use super::actors::named;
use super::{Client, Harness, Person};

/// An authenticator that a user has set up.
pub struct Authenticator {
    key: TotpKey,
    /// The recovery codes that came with it.
    pub recovery_codes: Vec<String>,
}

impl Authenticator {
    /// The authenticator with this key, in base32.
    pub fn with(secret: &str, recovery_codes: Vec<String>) -> Authenticator {
        let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).expect("base32");
        Authenticator { key: TotpKey::from_slice(&key).expect("a key"), recovery_codes }
    }

    /// The code that it shows `steps` steps after now.
    pub fn shows(&self, h: &Harness, steps: i64) -> String {
        let now = TotpStep::at(h.clock.now());
        self.at(TotpStep(now.0 + steps))
    }

    /// The code of a step.
    pub fn at(&self, step: TotpStep) -> String {
        self.key.code(step).to_string()
    }

    /// The code of now as a proof. Each works once: advance the clock before the next.
    pub fn proof(&self, h: &Harness) -> v1::SecondFactorProof {
        totp(&self.shows(h, 0))
    }
}

pub fn totp(code: &str) -> v1::SecondFactorProof {
    v1::SecondFactorProof { code: Some(Code::Totp(code.to_owned())) }
}

pub fn recovery(code: &str) -> v1::SecondFactorProof {
    v1::SecondFactorProof { code: Some(Code::RecoveryCode(code.to_owned())) }
}

impl Harness {
    /// Sets up an authenticator for a signed-in person, and waits for the next code.
    pub async fn enroll(&self, person: &Person) -> Authenticator {
        let started = person.client.enroll(None).await.expect("an enrolment");
        let authenticator = Authenticator::with(&started.secret, Vec::new());
        let code = authenticator.shows(self, 0);
        let request = v1::ConfirmTotpRequest { ticket: started.ticket, code };
        let confirmed = person.client.auth().confirm_totp(request).await.expect("a confirmation").into_inner();
        self.next_code();
        Authenticator { recovery_codes: confirmed.recovery_codes, ..authenticator }
    }

    /// Advances the clock to the next code of all authenticators.
    pub fn next_code(&self) {
        self.clock.advance(latchkey::domain::second_factor::STEP);
    }
}

impl Client {
    pub async fn enroll(&self, proof: Option<v1::SecondFactorProof>) -> Result<v1::EnrollTotpResponse, Status> {
        let request = v1::EnrollTotpRequest { second_factor: proof, ..Default::default() };
        self.auth().enroll_totp(request).await.map(Response::into_inner)
    }

    /// Signs in, and returns the second-factor step.
    pub async fn factor_step(&self, login: &str, password: &str) -> Result<v1::SecondFactorStep, Status> {
        match self.sign_in(login, password).await? {
            Step::SecondFactor(step) => Ok(step),
            step => panic!("another step: {step:?}"),
        }
    }

    pub async fn prove(&self, ticket: &str, proof: v1::SecondFactorProof) -> Result<Step, Status> {
        let request = v1::VerifySecondFactorRequest { ticket: ticket.to_owned(), second_factor: Some(proof) };
        let verified = self.auth().verify_second_factor(request).await?.into_inner();
        Ok(verified.progress.and_then(|progress| progress.step).expect("a step"))
    }

    /// Signs in with a code in the same call.
    pub async fn sign_in_with(
        &self,
        login: &str,
        password: &str,
        proof: v1::SecondFactorProof,
    ) -> Result<Step, Status> {
        let request = v1::SignInRequest {
            login: login.to_owned(),
            password: password.to_owned(),
            second_factor: Some(proof),
            ..Default::default()
        };
        let answer = self.auth().sign_in(request).await?.into_inner();
        Ok(answer.progress.and_then(|progress| progress.step).expect("a step"))
    }

    pub async fn disable(&self, proof: Option<v1::SecondFactorProof>) -> Result<v1::DisableTotpResponse, Status> {
        let request = v1::DisableTotpRequest { second_factor: proof };
        self.auth().disable_totp(request).await.map(Response::into_inner)
    }

    pub async fn regenerate(&self, proof: Option<v1::SecondFactorProof>) -> Result<Vec<String>, Status> {
        let request = v1::RegenerateRecoveryCodesRequest { second_factor: proof };
        self.auth().regenerate_recovery_codes(request).await.map(|answer| answer.into_inner().recovery_codes)
    }

    pub async fn reset_factor(&self, username: &str) -> Result<v1::ResetSecondFactorResponse, Status> {
        let request = v1::ResetSecondFactorRequest { user: Some(named(username)), ..Default::default() };
        self.user_admin().reset_second_factor(request).await.map(Response::into_inner)
    }
}
