//! Shortcuts for common calls, which hide the types of the transport.

use latchkey::proto::v1;
use tonic::{Response, Status};

use super::actors::{Client, named};

type Answer<T> = Result<T, Status>;

impl Client {
    pub async fn get(&self, username: &str) -> Answer<v1::User> {
        let request = v1::GetUserRequest { user: Some(named(username)) };
        let answer = self.user_admin().get_user(request).await?.into_inner();
        Ok(answer.user.expect("a user"))
    }

    pub async fn list(&self, request: v1::ListUsersRequest) -> Answer<v1::ListUsersResponse> {
        self.user_admin().list_users(request).await.map(Response::into_inner)
    }

    pub async fn create(&self, request: v1::CreateUserRequest) -> Answer<v1::CreateUserResponse> {
        self.user_admin().create_user(request).await.map(Response::into_inner)
    }

    pub async fn update(&self, request: v1::UpdateUserRequest) -> Answer<v1::UpdateUserResponse> {
        self.user_admin().update_user(request).await.map(Response::into_inner)
    }

    pub async fn delete(&self, username: &str, etag: &str) -> Answer<v1::DeleteUserResponse> {
        let request =
            v1::DeleteUserRequest { user: Some(named(username)), etag: etag.to_owned(), ..Default::default() };
        self.user_admin().delete_user(request).await.map(Response::into_inner)
    }

    pub async fn reset_with(&self, request: v1::ResetPasswordRequest) -> Answer<v1::ResetPasswordResponse> {
        self.user_admin().reset_password(request).await.map(Response::into_inner)
    }

    pub async fn change_policy(&self, policy: v1::SignInPolicy) -> Answer<v1::SignInPolicy> {
        let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
        let answer = self.user_admin().update_sign_in_policy(request).await?.into_inner();
        Ok(answer.policy.expect("a policy"))
    }

    pub async fn require_change(&self, username: &str) -> Answer<v1::RequirePasswordChangeResponse> {
        let request = v1::RequirePasswordChangeRequest { user: Some(named(username)), ..Default::default() };
        self.user_admin().require_password_change(request).await.map(Response::into_inner)
    }

    pub async fn waive_change(&self, username: &str) -> Answer<v1::WaivePasswordChangeResponse> {
        let request = v1::WaivePasswordChangeRequest { user: Some(named(username)), ..Default::default() };
        self.user_admin().waive_password_change(request).await.map(Response::into_inner)
    }

    /// Completes a password-change step with a new password.
    pub async fn complete(&self, ticket: &str, new_password: &str) -> Answer<v1::CompletePasswordChangeResponse> {
        let request = v1::CompletePasswordChangeRequest {
            ticket: ticket.to_owned(),
            new_password: new_password.to_owned(),
            validate_only: false,
        };
        self.auth().complete_password_change(request).await.map(Response::into_inner)
    }

    pub async fn change_password(&self, current: &str, new_password: &str) -> Answer<v1::ChangePasswordResponse> {
        let request = v1::ChangePasswordRequest {
            current_password: current.to_owned(),
            new_password: new_password.to_owned(),
            second_factor: None,
            validate_only: false,
        };
        self.auth().change_password(request).await.map(Response::into_inner)
    }

    /// Proves the password again in the session, and returns the new tokens.
    pub async fn reauthenticate(&self, password: &str) -> Answer<v1::TokenSet> {
        let request = v1::ReauthenticateRequest { password: password.to_owned(), second_factor: None };
        let answer = self.auth().reauthenticate(request).await?.into_inner();
        Ok(answer.tokens.expect("tokens"))
    }

    pub async fn who_am_i(&self) -> Answer<v1::WhoAmIResponse> {
        self.auth().who_am_i(v1::WhoAmIRequest {}).await.map(Response::into_inner)
    }

    /// All sessions of a user, including ended ones, newest first.
    pub async fn sessions_of(&self, username: &str) -> Vec<v1::Session> {
        let request = v1::ListUserSessionsRequest {
            user: Some(named(username)),
            include_ended: true,
            page_size: 500,
            ..Default::default()
        };
        let answer = self.user_admin().list_user_sessions(request).await.expect("sessions");
        answer.into_inner().sessions
    }
}

/// A response that shows a generated password once.
pub trait Shown {
    fn shown(&self) -> &str;
}

impl Shown for v1::ResetPasswordResponse {
    fn shown(&self) -> &str {
        match &self.secret {
            Some(v1::reset_password_response::Secret::TemporaryPassword(password)) => password,
            other => panic!("no password: {}", other.is_some()),
        }
    }
}

impl Shown for v1::CreateUserResponse {
    fn shown(&self) -> &str {
        match &self.secret {
            Some(v1::create_user_response::Secret::TemporaryPassword(password)) => password,
            other => panic!("no password: {}", other.is_some()),
        }
    }
}

/// The tokens of a completed sign-in.
pub fn tokens_of(progress: Option<v1::SignInProgress>) -> v1::TokenSet {
    match progress.and_then(|progress| progress.step) {
        Some(v1::sign_in_progress::Step::Tokens(tokens)) => tokens,
        other => panic!("not the end of the sign-in: {other:?}"),
    }
}

/// `TYPE OUTCOME actor>target`, followed by the reason if there is one.
pub fn told(event: &v1::Event) -> String {
    let plain = |name: &str, prefix: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
    let kind = plain(event.r#type().as_str_name(), "EVENT_TYPE_");
    let outcome = plain(event.outcome().as_str_name(), "EVENT_OUTCOME_");
    let reason = plain(event.reason().as_str_name(), "ERROR_REASON_");
    let reason = if reason == "UNSPECIFIED" { String::new() } else { format!(" {reason}") };
    let actor = event.actor.as_ref().map(|actor| actor.name.as_str()).unwrap_or_default();
    format!("{kind} {outcome}{reason} {actor}>{}", event.target_username)
}
