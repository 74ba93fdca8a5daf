//! The service `UserAdmin`: each method decodes the request, calls the use case and encodes the response.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::user::{effects, failure, lock, user};
use super::convert::{audit, deliveries, diagnosis, passwords, policy, second_factor, sessions, tokens, users};
use super::{decode, run};
use crate::app::App;
use crate::domain::caller::Caller;
use crate::domain::role::Role;
use crate::domain::sign_in_policy::SignInPolicy;
use crate::proto::v1;
use crate::proto::v1::user_admin_server::UserAdmin;

type Answer<T> = Result<Response<T>, Status>;

/// Implements `UserAdmin`.
pub(super) struct Service {
    app: Arc<App>,
}

impl Service {
    pub(super) fn new(app: Arc<App>) -> Service {
        Service { app }
    }
}

impl Service {
    /// The policy with the rules that are in force.
    fn told(&self, policy: &SignInPolicy) -> v1::SignInPolicy {
        let (passwords, throttle) = (policy.password_rules, policy.throttle);
        policy::policy(policy, self.app.rules_of(passwords), self.app.throttle_rules_of(throttle))
    }

    async fn impact(
        &self,
        caller: &Caller,
        policy: &SignInPolicy,
        is_wanted: bool,
    ) -> Result<Option<v1::PolicyImpact>, Status> {
        if !is_wanted {
            return Ok(None);
        }
        Ok(Some(policy::impact(self.app.policy_impact(caller, policy).await?)))
    }
}

#[tonic::async_trait]
impl UserAdmin for Service {
    async fn list_users(&self, request: Request<v1::ListUsersRequest>) -> Answer<v1::ListUsersResponse> {
        let (caller, query) = decode(request, users::list_users)?;
        let page = run(&self.app, |app| async move { app.list_users(&caller, query).await }).await?;
        Ok(Response::new(v1::ListUsersResponse {
            users: page.users.iter().map(|known| user(&self.app, known)).collect(),
            next_page_token: page.next_page_token,
            total_size: page.total.map(|total| i32::try_from(total.count).unwrap_or(i32::MAX)),
            total_is_at_least: page.total.is_some_and(|total| total.is_at_least),
        }))
    }

    async fn get_user(&self, request: Request<v1::GetUserRequest>) -> Answer<v1::GetUserResponse> {
        let (caller, whom) = decode(request, users::show_user)?;
        let (known, failures) = self.app.show_user(&caller, &whom).await?;
        let recent_failures = failures.iter().map(failure).collect();
        Ok(Response::new(v1::GetUserResponse { user: Some(user(&self.app, &known)), recent_failures }))
    }

    async fn create_user(&self, request: Request<v1::CreateUserRequest>) -> Answer<v1::CreateUserResponse> {
        let (caller, command) = decode(request, users::create_user)?;
        let created = run(&self.app, |app| async move { app.create_user(&caller, command).await }).await?;
        let password = created
            .temporary_password
            .map(|password| v1::create_user_response::Secret::TemporaryPassword(password.expose().to_owned()));
        let secret =
            created.link.map(|link| v1::create_user_response::Secret::InviteLink(link.to_string())).or(password);
        Ok(Response::new(v1::CreateUserResponse {
            user: Some(user(&self.app, &created.user)),
            delivery: created.delivery.as_ref().map(deliveries::delivery),
            secret,
            expire_time: created.expires_at.map(super::convert::stamp),
            replayed: created.replayed,
        }))
    }

    async fn update_user(&self, request: Request<v1::UpdateUserRequest>) -> Answer<v1::UpdateUserResponse> {
        let (caller, command) = decode(request, users::update_user)?;
        let (updated, done) = run(&self.app, |app| async move { app.update_user(&caller, command).await }).await?;
        let user = Some(user(&self.app, &updated));
        Ok(Response::new(v1::UpdateUserResponse { user, effects: Some(effects(&done)) }))
    }

    async fn delete_user(&self, request: Request<v1::DeleteUserRequest>) -> Answer<v1::DeleteUserResponse> {
        let (caller, command) = decode(request, users::delete_user)?;
        let (deleted, done) = run(&self.app, |app| async move { app.delete_user(&caller, command).await }).await?;
        let user = deleted.as_ref().map(|known| user(&self.app, known));
        Ok(Response::new(v1::DeleteUserResponse { user, effects: Some(effects(&done)) }))
    }

    async fn lock_user(&self, request: Request<v1::LockUserRequest>) -> Answer<v1::LockUserResponse> {
        let now = self.app.environment.now();
        let (caller, command) = decode(request, |message| users::lock_user(message, now))?;
        let (locked, earlier, done) =
            run(&self.app, |app| async move { app.lock_user(&caller, command).await }).await?;
        let user = Some(user(&self.app, &locked));
        Ok(Response::new(v1::LockUserResponse {
            user,
            effects: Some(effects(&done)),
            earlier_lock: earlier.as_ref().map(lock),
        }))
    }

    async fn unlock_user(&self, request: Request<v1::UnlockUserRequest>) -> Answer<v1::UnlockUserResponse> {
        let (caller, command) = decode(request, users::unlock_user)?;
        let (unlocked, lifted, done) =
            run(&self.app, |app| async move { app.unlock_user(&caller, command).await }).await?;
        let user = Some(user(&self.app, &unlocked));
        Ok(Response::new(v1::UnlockUserResponse {
            user,
            effects: Some(effects(&done)),
            lifted_lock: lifted.as_ref().map(lock),
        }))
    }

    async fn reset_password(&self, request: Request<v1::ResetPasswordRequest>) -> Answer<v1::ResetPasswordResponse> {
        let (caller, command) = decode(request, passwords::reset_password)?;
        let reset = run(&self.app, |app| async move { app.reset_password(&caller, command).await }).await?;
        let password = reset
            .temporary_password
            .map(|password| v1::reset_password_response::Secret::TemporaryPassword(password.expose().to_owned()));
        let secret =
            reset.link.map(|link| v1::reset_password_response::Secret::ResetLink(link.to_string())).or(password);
        Ok(Response::new(v1::ResetPasswordResponse {
            user: Some(user(&self.app, &reset.user)),
            delivery: reset.delivery.as_ref().map(deliveries::delivery),
            secret,
            expire_time: reset.expires_at.map(super::convert::stamp),
            effects: Some(effects(&reset.effects)),
            remaining: reset.remaining.into_iter().map(diagnosis::finding).collect(),
            replayed: reset.replayed,
            lifted_lock: reset.lifted_lock.as_ref().map(lock),
        }))
    }

    async fn require_password_change(
        &self,
        request: Request<v1::RequirePasswordChangeRequest>,
    ) -> Answer<v1::RequirePasswordChangeResponse> {
        let (caller, command) = decode(request, passwords::require_change)?;
        let (known, done, changed) =
            run(&self.app, |app| async move { app.require_password_change(&caller, command).await }).await?;
        let user = Some(user(&self.app, &known));
        Ok(Response::new(v1::RequirePasswordChangeResponse { user, effects: Some(effects(&done)), changed }))
    }

    async fn waive_password_change(
        &self,
        request: Request<v1::WaivePasswordChangeRequest>,
    ) -> Answer<v1::WaivePasswordChangeResponse> {
        let (caller, command) = decode(request, passwords::waive_change)?;
        let (known, changed) =
            run(&self.app, |app| async move { app.waive_password_change(&caller, command).await }).await?;
        Ok(Response::new(v1::WaivePasswordChangeResponse { user: Some(user(&self.app, &known)), changed }))
    }

    async fn diagnose_sign_in(
        &self,
        request: Request<v1::DiagnoseSignInRequest>,
    ) -> Answer<v1::DiagnoseSignInResponse> {
        let (caller, command) = decode(request, diagnosis::diagnose_sign_in)?;
        let found = run(&self.app, |app| async move { app.diagnose_sign_in(&caller, command).await }).await?;
        Ok(Response::new(v1::DiagnoseSignInResponse {
            verdict: diagnosis::verdict(found.verdict).into(),
            user: found.user.as_ref().map(|known| user(&self.app, known)),
            findings: found.findings.into_iter().map(diagnosis::finding).collect(),
            attempts: found.attempts.into_iter().map(audit::event).collect(),
            deliveries: found.deliveries.iter().map(deliveries::delivery).collect(),
            similar_usernames: found.similar_usernames,
            evaluate_time: Some(super::convert::stamp(found.at)),
        }))
    }

    async fn list_user_sessions(
        &self,
        request: Request<v1::ListUserSessionsRequest>,
    ) -> Answer<v1::ListUserSessionsResponse> {
        let (caller, (whose, include_ended, page)) = decode(request, sessions::list_user_sessions)?;
        let asking = caller.clone();
        let list = |app: Arc<App>| async move { app.list_user_sessions(&asking, &whose, include_ended, page).await };
        let page = run(&self.app, list).await?;
        Ok(Response::new(v1::ListUserSessionsResponse {
            sessions: page.sessions.iter().map(|known| sessions::session(known, &caller)).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn revoke_user_sessions(
        &self,
        request: Request<v1::RevokeUserSessionsRequest>,
    ) -> Answer<v1::RevokeUserSessionsResponse> {
        let (caller, command) = decode(request, sessions::revoke_user_sessions)?;
        let done = run(&self.app, |app| async move { app.revoke_user_sessions(&caller, command).await }).await?;
        Ok(Response::new(v1::RevokeUserSessionsResponse { effects: Some(effects(&done)) }))
    }

    async fn reset_second_factor(
        &self,
        request: Request<v1::ResetSecondFactorRequest>,
    ) -> Answer<v1::ResetSecondFactorResponse> {
        let (caller, command) = decode(request, second_factor::reset)?;
        let (known, done) =
            run(&self.app, |app| async move { app.reset_second_factor(&caller, command).await }).await?;
        let user = Some(user(&self.app, &known));
        Ok(Response::new(v1::ResetSecondFactorResponse { user, effects: Some(effects(&done)) }))
    }

    async fn create_api_token(
        &self,
        request: Request<v1::CreateApiTokenRequest>,
    ) -> Answer<v1::CreateApiTokenResponse> {
        let (caller, command) = decode(request, tokens::create_api_token)?;
        let (token, secret) = run(&self.app, |app| async move { app.create_api_token(&caller, command).await }).await?;
        let api_token = Some(tokens::api_token(&token));
        Ok(Response::new(v1::CreateApiTokenResponse { api_token, secret: secret.expose().to_string() }))
    }

    async fn list_api_tokens(&self, request: Request<v1::ListApiTokensRequest>) -> Answer<v1::ListApiTokensResponse> {
        let (caller, (whose, page)) = decode(request, tokens::list_api_tokens)?;
        let list = |app: Arc<App>| async move { app.list_api_tokens(&caller, whose.as_ref(), page).await };
        let page = run(&self.app, list).await?;
        Ok(Response::new(v1::ListApiTokensResponse {
            api_tokens: page.tokens.iter().map(tokens::api_token).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn revoke_api_token(
        &self,
        request: Request<v1::RevokeApiTokenRequest>,
    ) -> Answer<v1::RevokeApiTokenResponse> {
        let (caller, command) = decode(request, tokens::revoke_api_token)?;
        let (token, changed) =
            run(&self.app, |app| async move { app.revoke_api_token(&caller, command).await }).await?;
        Ok(Response::new(v1::RevokeApiTokenResponse { api_token: Some(tokens::api_token(&token)), changed }))
    }

    async fn send_email_verification(
        &self,
        request: Request<v1::SendEmailVerificationRequest>,
    ) -> Answer<v1::SendEmailVerificationResponse> {
        let (caller, command) = decode(request, deliveries::send_verification)?;
        let sent = run(&self.app, |app| async move { app.send_email_verification(&caller, command).await }).await?;
        let delivery = Some(deliveries::delivery(&sent.delivery));
        Ok(Response::new(v1::SendEmailVerificationResponse { delivery, replayed: sent.replayed }))
    }

    async fn get_delivery(&self, request: Request<v1::GetDeliveryRequest>) -> Answer<v1::GetDeliveryResponse> {
        let (caller, id) = decode(request, deliveries::show_delivery)?;
        let known = self.app.show_delivery(&caller, id).await?;
        Ok(Response::new(v1::GetDeliveryResponse { delivery: Some(deliveries::delivery(&known)) }))
    }

    async fn list_deliveries(&self, request: Request<v1::ListDeliveriesRequest>) -> Answer<v1::ListDeliveriesResponse> {
        let (caller, query) = decode(request, deliveries::list_deliveries)?;
        let page = run(&self.app, |app| async move { app.list_deliveries(&caller, query).await }).await?;
        Ok(Response::new(v1::ListDeliveriesResponse {
            deliveries: page.deliveries.iter().map(deliveries::delivery).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn resend_delivery(&self, request: Request<v1::ResendDeliveryRequest>) -> Answer<v1::ResendDeliveryResponse> {
        let (caller, command) = decode(request, deliveries::resend_delivery)?;
        let sent = run(&self.app, |app| async move { app.resend_delivery(&caller, command).await }).await?;
        let delivery = Some(deliveries::delivery(&sent.delivery));
        Ok(Response::new(v1::ResendDeliveryResponse { delivery, replayed: sent.replayed }))
    }

    async fn cancel_delivery(&self, request: Request<v1::CancelDeliveryRequest>) -> Answer<v1::CancelDeliveryResponse> {
        let (caller, command) = decode(request, deliveries::cancel_delivery)?;
        let known = run(&self.app, |app| async move { app.cancel_delivery(&caller, command).await }).await?;
        Ok(Response::new(v1::CancelDeliveryResponse { delivery: Some(deliveries::delivery(&known)) }))
    }

    async fn get_mail_status(&self, request: Request<v1::GetMailStatusRequest>) -> Answer<v1::GetMailStatusResponse> {
        let (caller, ()) = decode(request, |_| Ok(()))?;
        Ok(Response::new(deliveries::mail_status(self.app.mail_queue(&caller).await?)))
    }

    async fn list_roles(&self, request: Request<v1::ListRolesRequest>) -> Answer<v1::ListRolesResponse> {
        // Roles are the same for every caller, so there is no use case. Decoding checks that there is a caller.
        decode(request, |_| Ok(()))?;
        let role = |role: &Role| v1::Role {
            name: role.to_string(),
            description: role.description().to_owned(),
            scopes: super::convert::names(role.scopes()),
        };
        Ok(Response::new(v1::ListRolesResponse { roles: Role::ALL.iter().map(role).collect() }))
    }

    async fn get_sign_in_policy(
        &self,
        request: Request<v1::GetSignInPolicyRequest>,
    ) -> Answer<v1::GetSignInPolicyResponse> {
        let (caller, include_impact) = decode(request, |message| Ok(message.include_impact))?;
        let policy = self.app.sign_in_policy().await?;
        let impact = self.impact(&caller, &policy, include_impact).await?;
        Ok(Response::new(v1::GetSignInPolicyResponse {
            policy: Some(self.told(&policy)),
            impact,
            breach_list: self.app.breach_list_in_use().map(policy::breach_list),
        }))
    }

    async fn update_sign_in_policy(
        &self,
        request: Request<v1::UpdateSignInPolicyRequest>,
    ) -> Answer<v1::UpdateSignInPolicyResponse> {
        let (caller, (command, include_impact)) = decode(request, |message| {
            let include_impact = message.include_impact;
            Ok((policy::update_policy(message)?, include_impact))
        })?;
        let asking = caller.clone();
        let (policy, changed) =
            run(&self.app, |app| async move { app.update_sign_in_policy(&caller, command).await }).await?;
        let impact = self.impact(&asking, &policy, include_impact).await?;
        Ok(Response::new(v1::UpdateSignInPolicyResponse { policy: Some(self.told(&policy)), impact, changed }))
    }
}
