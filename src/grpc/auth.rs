//! The service `Auth`: each method decodes the request, calls the use case and encodes the response.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{auth, code, deliveries, passwords, policy, second_factor, sessions, tokens};
use super::{admitted, decode, run};
use crate::app::App;
use crate::proto::v1;
use crate::proto::v1::auth_server::Auth;

type Answer<T> = Result<Response<T>, Status>;

/// Implements `Auth`.
pub(super) struct Service {
    app: Arc<App>,
}

impl Service {
    pub(super) fn new(app: Arc<App>) -> Service {
        Service { app }
    }
}

#[tonic::async_trait]
impl Auth for Service {
    async fn sign_in(&self, request: Request<v1::SignInRequest>) -> Answer<v1::SignInResponse> {
        let (caller, message) = admitted(request)?;
        let command = auth::sign_in(message, &caller)?;
        let progress = run(&self.app, |app| async move { app.sign_in(&caller, command).await }).await?;
        Ok(Response::new(v1::SignInResponse { progress: Some(auth::progress(&progress)) }))
    }

    async fn verify_second_factor(
        &self,
        request: Request<v1::VerifySecondFactorRequest>,
    ) -> Answer<v1::VerifySecondFactorResponse> {
        let (caller, command) = decode(request, second_factor::verify)?;
        let verified = run(&self.app, |app| async move { app.verify_second_factor(&caller, command).await }).await?;
        Ok(Response::new(v1::VerifySecondFactorResponse {
            progress: Some(auth::progress(&verified.progress)),
            recovery_codes_left: verified.recovery_codes_left.map(super::convert::count),
        }))
    }

    async fn complete_password_change(
        &self,
        request: Request<v1::CompletePasswordChangeRequest>,
    ) -> Answer<v1::CompletePasswordChangeResponse> {
        let (caller, command) = decode(request, passwords::complete_change)?;
        let (progress, revoked) =
            run(&self.app, |app| async move { app.complete_password_change(&caller, command).await }).await?;
        Ok(Response::new(v1::CompletePasswordChangeResponse {
            progress: progress.as_ref().map(auth::progress),
            sessions_revoked: super::convert::count(revoked),
        }))
    }

    async fn request_password_reset(
        &self,
        request: Request<v1::RequestPasswordResetRequest>,
    ) -> Answer<v1::RequestPasswordResetResponse> {
        let (caller, command) = decode(request, auth::request_reset)?;
        let requested = run(&self.app, |app| async move { app.request_password_reset(&caller, command).await }).await?;
        Ok(Response::new(auth::reset_requested(requested)))
    }

    async fn get_password_rules(
        &self,
        request: Request<v1::GetPasswordRulesRequest>,
    ) -> Answer<v1::GetPasswordRulesResponse> {
        decode(request, |_| Ok(()))?;
        let rules = auth::rules(self.app.password_rules().await?);
        Ok(Response::new(v1::GetPasswordRulesResponse { rules: Some(rules) }))
    }

    async fn check_password_strength(
        &self,
        request: Request<v1::CheckPasswordStrengthRequest>,
    ) -> Answer<v1::CheckPasswordStrengthResponse> {
        let (caller, (command, language)) = decode(request, policy::check_strength)?;
        let judged = run(&self.app, |app| async move { app.check_password_strength(&caller, command).await }).await?;
        Ok(Response::new(policy::strength(&judged, language)))
    }

    async fn inspect_link(&self, request: Request<v1::InspectLinkRequest>) -> Answer<v1::InspectLinkResponse> {
        let (caller, link) = decode(request, deliveries::inspect_link)?;
        let view = run(&self.app, |app| async move { app.inspect_link(&caller, link).await }).await?;
        let rules =
            if view.purpose.sets_password() { Some(auth::rules(self.app.password_rules().await?)) } else { None };
        Ok(Response::new(v1::InspectLinkResponse {
            kind: deliveries::link_kind(view.purpose).into(),
            username: view.username,
            rules,
            second_factor_methods: code::methods(&view.second_factors),
            expire_time: Some(super::convert::stamp(view.expires_at)),
        }))
    }

    async fn complete_password_reset(
        &self,
        request: Request<v1::CompletePasswordResetRequest>,
    ) -> Answer<v1::CompletePasswordResetResponse> {
        let (caller, command) = decode(request, deliveries::complete_reset)?;
        let revoked = run(&self.app, |app| async move { app.complete_password_reset(&caller, command).await }).await?;
        let sessions_revoked = super::convert::count(revoked);
        Ok(Response::new(v1::CompletePasswordResetResponse { sessions_revoked }))
    }

    async fn verify_email(&self, request: Request<v1::VerifyEmailRequest>) -> Answer<v1::VerifyEmailResponse> {
        let (caller, link) = decode(request, deliveries::verify_email)?;
        run(&self.app, |app| async move { app.verify_email(&caller, link).await }).await?;
        Ok(Response::new(v1::VerifyEmailResponse {}))
    }

    async fn cancel_link(&self, request: Request<v1::CancelLinkRequest>) -> Answer<v1::CancelLinkResponse> {
        let (caller, link) = decode(request, deliveries::cancel_link)?;
        let used_at = run(&self.app, |app| async move { app.cancel_link(&caller, link).await }).await?;
        Ok(Response::new(v1::CancelLinkResponse { used_time: used_at.map(super::convert::stamp) }))
    }

    async fn change_password(&self, request: Request<v1::ChangePasswordRequest>) -> Answer<v1::ChangePasswordResponse> {
        let (caller, command) = decode(request, passwords::change_password)?;
        let revoked = run(&self.app, |app| async move { app.change_password(&caller, command).await }).await?;
        Ok(Response::new(v1::ChangePasswordResponse { sessions_revoked: super::convert::count(revoked) }))
    }

    async fn enroll_totp(&self, request: Request<v1::EnrollTotpRequest>) -> Answer<v1::EnrollTotpResponse> {
        let (caller, message) = admitted(request)?;
        let command = second_factor::enroll(message, &caller)?;
        let enrollment = run(&self.app, |app| async move { app.enroll_totp(&caller, command).await }).await?;
        Ok(Response::new(second_factor::enrolled(&enrollment)))
    }

    async fn confirm_totp(&self, request: Request<v1::ConfirmTotpRequest>) -> Answer<v1::ConfirmTotpResponse> {
        let (caller, command) = decode(request, second_factor::confirm)?;
        let confirmed = run(&self.app, |app| async move { app.confirm_totp(&caller, command).await }).await?;
        Ok(Response::new(second_factor::confirmed(&confirmed, self.app.environment.now())))
    }

    async fn disable_totp(&self, request: Request<v1::DisableTotpRequest>) -> Answer<v1::DisableTotpResponse> {
        let (caller, command) = decode(request, second_factor::disable)?;
        let revoked = run(&self.app, |app| async move { app.disable_totp(&caller, command).await }).await?;
        Ok(Response::new(v1::DisableTotpResponse { sessions_revoked: super::convert::count(revoked) }))
    }

    async fn regenerate_recovery_codes(
        &self,
        request: Request<v1::RegenerateRecoveryCodesRequest>,
    ) -> Answer<v1::RegenerateRecoveryCodesResponse> {
        let (caller, command) = decode(request, second_factor::regenerate)?;
        let (codes, revoked) =
            run(&self.app, |app| async move { app.regenerate_recovery_codes(&caller, command).await }).await?;
        Ok(Response::new(v1::RegenerateRecoveryCodesResponse {
            recovery_codes: second_factor::texts(&codes),
            sessions_revoked: super::convert::count(revoked),
        }))
    }

    async fn reauthenticate(&self, request: Request<v1::ReauthenticateRequest>) -> Answer<v1::ReauthenticateResponse> {
        let (caller, command) = decode(request, passwords::reauthenticate)?;
        let tokens = run(&self.app, |app| async move { app.reauthenticate(&caller, command).await }).await?;
        Ok(Response::new(v1::ReauthenticateResponse { tokens: Some(auth::tokens(&tokens)) }))
    }

    async fn refresh_tokens(&self, request: Request<v1::RefreshTokensRequest>) -> Answer<v1::RefreshTokensResponse> {
        let (caller, command) = decode(request, auth::refresh_tokens)?;
        let tokens = run(&self.app, |app| async move { app.refresh_tokens(&caller, command).await }).await?;
        Ok(Response::new(v1::RefreshTokensResponse { tokens: Some(auth::tokens(&tokens)) }))
    }

    async fn list_sessions(&self, request: Request<v1::ListSessionsRequest>) -> Answer<v1::ListSessionsResponse> {
        let (caller, page) = decode(request, sessions::list_sessions)?;
        let asking = caller.clone();
        let page = run(&self.app, |app| async move { app.list_sessions(&asking, page).await }).await?;
        Ok(Response::new(v1::ListSessionsResponse {
            sessions: page.sessions.iter().map(|known| sessions::session(known, &caller)).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn revoke_session(&self, request: Request<v1::RevokeSessionRequest>) -> Answer<v1::RevokeSessionResponse> {
        let (caller, target) = decode(request, sessions::revoke_session)?;
        let revoked = run(&self.app, |app| async move { app.revoke_session(&caller, target).await }).await?;
        Ok(Response::new(v1::RevokeSessionResponse { sessions_revoked: super::convert::count(revoked) }))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Answer<v1::WhoAmIResponse> {
        let (caller, ()) = decode(request, |_| Ok(()))?;
        let identity = self.app.who_am_i(&caller).await?;
        Ok(Response::new(auth::identity(&self.app, &caller, &identity)))
    }

    async fn get_signing_keys(
        &self,
        request: Request<v1::GetSigningKeysRequest>,
    ) -> Answer<v1::GetSigningKeysResponse> {
        let (_, known_etag) = decode(request, tokens::signing_keys)?;
        Ok(Response::new(tokens::keys(self.app.signing_keys(), &known_etag)))
    }

    async fn introspect_token(
        &self,
        request: Request<v1::IntrospectTokenRequest>,
    ) -> Answer<v1::IntrospectTokenResponse> {
        let (caller, (token, audience)) = decode(request, tokens::introspect)?;
        let known = self.app.introspect_token(&caller, &token, audience.as_ref()).await?;
        Ok(Response::new(tokens::introspection(known)))
    }
}
