//! A person with an address, and the calls with links.

use latchkey::proto::v1;
use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::reset_password_request::Method;
use latchkey::proto::v1::reset_password_response::Secret;
use tonic::{Code, Response, Status};

use super::actors::named;
use super::{Client, Harness, PASSWORD, refused};

pub const ADDRESS: &str = "bob@example.com";

/// A person with an address and a password.
pub async fn bob(h: &Harness) -> Client {
    let operator = h.operator().await;
    let request = v1::CreateUserRequest {
        username: "bob".to_owned(),
        email: ADDRESS.to_owned(),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    operator.create(request).await.expect("a user");
    operator
}

pub fn reset(method: Option<Method>) -> v1::ResetPasswordRequest {
    v1::ResetPasswordRequest { user: Some(named("bob")), method, ..Default::default() }
}

pub fn returned() -> v1::ResetPasswordRequest {
    reset(Some(Method::ReturnLink(v1::ReturnLink::default())))
}

impl Client {
    /// The token of a link that the operator passes on.
    pub async fn link(&self) -> String {
        let answer = self.reset_with(returned()).await.expect("a link");
        let Some(Secret::ResetLink(url)) = answer.secret else { panic!("no link") };
        url.split_once("token=").expect("a token").1.to_owned()
    }

    pub async fn inspect(&self, token: &str) -> Result<v1::InspectLinkResponse, Status> {
        let request = v1::InspectLinkRequest { link_token: token.to_owned() };
        self.auth().inspect_link(request).await.map(Response::into_inner)
    }

    pub async fn choose(&self, token: &str, password: &str) -> Result<v1::CompletePasswordResetResponse, Status> {
        let (link_token, new_password) = (token.to_owned(), password.to_owned());
        let request =
            v1::CompletePasswordResetRequest { link_token, new_password, second_factor: None, validate_only: false };
        self.auth().complete_password_reset(request).await.map(Response::into_inner)
    }

    pub async fn cancel(&self, token: &str) -> Result<v1::CancelLinkResponse, Status> {
        let request = v1::CancelLinkRequest { cancel_token: token.to_owned() };
        self.auth().cancel_link(request).await.map(Response::into_inner)
    }

    pub async fn verify(&self, token: &str) -> Result<(), Status> {
        let request = v1::VerifyEmailRequest { link_token: token.to_owned() };
        self.auth().verify_email(request).await.map(|_| ())
    }

    pub async fn resend(&self, id: &str) -> Result<v1::Delivery, Status> {
        let request = v1::ResendDeliveryRequest { delivery_id: id.to_owned(), ..Default::default() };
        let answer = self.user_admin().resend_delivery(request).await?.into_inner();
        Ok(answer.delivery.expect("a delivery"))
    }

    /// Sends a link that confirms an address.
    pub async fn verification(&self, username: &str) -> Result<v1::Delivery, Status> {
        let request = v1::SendEmailVerificationRequest { user: Some(named(username)), ..Default::default() };
        let answer = self.user_admin().send_email_verification(request).await?.into_inner();
        Ok(answer.delivery.expect("a delivery"))
    }

    /// Sends a link by mail.
    pub async fn mailed(&self) -> v1::Delivery {
        self.reset_with(reset(None)).await.expect("a reset").delivery.expect("a delivery")
    }

    pub async fn sets_address(&self, address: &str) -> v1::UpdateUserResponse {
        let email = Some(address.to_owned());
        let request = v1::UpdateUserRequest { user: Some(named("bob")), email, ..Default::default() };
        self.update(request).await.expect("an update")
    }
}

pub fn dead<T: std::fmt::Debug>(answer: Result<T, Status>) {
    refused(answer, Code::Unauthenticated, "TICKET_INVALID");
}
