//! The calls that this client makes.
//!
//! The build ties each request of the contract to its method. Everything else (whether a call may be repeated, whether it
//! carries a token, its JSON) is read from the descriptors, so it cannot differ from the contract.

use std::borrow::Cow;

use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor, Value};
use tonic::codegen::http::uri::PathAndQuery;
use tonic_health::pb as health;

use crate::cli::contract::{POOL, dynamic};
use crate::cli::error::Error;
use crate::cli::user_ref;
use crate::proto::v1::{self, UserRef};

/// A request of a unary method.
pub(crate) trait Call: prost::Message + Clone + Default + 'static {
    /// The response of the method.
    type Answer: prost::Message + Default + 'static;
    /// The name of the method: `package.Service/Method`.
    const METHOD: &'static str;
}

include!(concat!(env!("OUT_DIR"), "/latchkey.v1.calls.rs"));

impl Call for health::HealthCheckRequest {
    type Answer = health::HealthCheckResponse;
    const METHOD: &'static str = "grpc.health.v1.Health/Check";
}

/// A method of the contract.
#[derive(Debug)]
pub(crate) struct Method {
    descriptor: MethodDescriptor,
    name: &'static str,
}

impl Method {
    /// The method of a request.
    pub(crate) fn of<C: Call>() -> Result<Method, Error> {
        let found = C::METHOD.split_once('/').and_then(|(service, method)| {
            let service = POOL.get_service_by_name(service)?;
            service.methods().find(|candidate| candidate.name() == method)
        });
        let descriptor = found.ok_or_else(|| Error::unexpected(format!("{} is not in the contract", C::METHOD)))?;
        Ok(Method { descriptor, name: C::METHOD })
    }

    /// `package.Service/Method`.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The path of the method in HTTP.
    pub(crate) fn path(&self) -> Result<PathAndQuery, Error> {
        PathAndQuery::try_from(format!("/{}", self.name)).map_err(|fault| Error::unexpected(fault.to_string()))
    }

    /// Converts a request to a reflected message.
    pub(crate) fn request<C: Call>(&self, request: &C) -> Result<DynamicMessage, Error> {
        dynamic(self.descriptor.input(), request)
    }

    /// The descriptor of the response.
    pub(crate) fn answer(&self) -> MessageDescriptor {
        self.descriptor.output()
    }

    /// Returns whether `request` may be sent again after its answer was lost: the method is idempotent, or the request carries
    /// an idempotency key.
    pub(crate) fn repeats_safely(&self, request: &DynamicMessage) -> bool {
        // google.protobuf.MethodOptions.IdempotencyLevel: NO_SIDE_EFFECTS = 1, IDEMPOTENT = 2.
        let level =
            self.descriptor.options().get_field_by_name("idempotency_level").and_then(|level| level.as_enum_number());
        let keyed = request.get_field_by_name("idempotency_key").is_some_and(|key| key.as_str() != Some(""));
        matches!(level, Some(1 | 2)) || keyed
    }

    /// Returns whether the method changes nothing.
    pub(crate) fn is_read_only(&self) -> bool {
        let level =
            self.descriptor.options().get_field_by_name("idempotency_level").and_then(|level| level.as_enum_number());
        level == Some(1)
    }

    /// The scopes that `request` needs: that of the method and those of its fields.
    pub(crate) fn scopes(&self, request: &DynamicMessage) -> Vec<String> {
        let own = self.access().and_then(|rule| rule.get_field_by_name("scope")?.as_str().map(str::to_owned));
        let Some(needs) = POOL.get_extension_by_name("latchkey.v1.needs") else { return own.into_iter().collect() };
        let input = self.descriptor.input();
        let of_fields = input
            .fields()
            .filter(|field| request.has_field(field))
            .filter_map(|field| field.options().get_extension(&needs).as_str().map(str::to_owned));
        own.into_iter().chain(of_fields).filter(|scope| !scope.is_empty()).collect()
    }

    /// The same request with `validate_only`. `None` if the method has no dry run.
    pub(crate) fn dry_run<C: Call>(&self, request: &C) -> Result<Option<C>, Error> {
        let mut dry = self.request(request)?;
        let Some(field) = self.descriptor.input().get_field_by_name("validate_only") else { return Ok(None) };
        dry.set_field(&field, Value::Bool(true));
        dry.transcode_to::<C>().map(Some).map_err(|fault| Error::unexpected(fault.to_string()))
    }

    /// Returns whether the request could have a code of a second factor, and has none.
    pub(crate) fn lacks_code<C: Call>(&self, request: &C) -> Result<bool, Error> {
        let Some(field) = self.descriptor.input().get_field_by_name("second_factor") else { return Ok(false) };
        Ok(!self.request(request)?.has_field(&field))
    }

    /// Returns whether `request` needs the caller's token. Those of methods for `CALLER_ANYONE` or `CALLER_TICKET`, those with a
    /// ticket for `CALLER_SELF_OR_TICKET`, and the health check do not.
    pub(crate) fn wants_identity(&self, request: &DynamicMessage) -> bool {
        let Some(rule) = self.access() else { return false };
        let caller = rule.get_field_by_name("caller").and_then(|caller| caller.as_enum_number());
        let has_ticket = || request.get_field_by_name("ticket").is_some_and(|ticket| ticket.as_str() != Some(""));
        match caller {
            Some(1 | 2) => false,
            Some(4) => !has_ticket(),
            _ => true,
        }
    }

    /// Returns whether a successful call of this method proves that the caller has the scope.
    pub(crate) fn proves(&self, scope: &str) -> bool {
        let needed = self.access().and_then(|rule| rule.get_field_by_name("scope").map(Cow::into_owned));
        needed.is_some_and(|needed| needed.as_str() == Some(scope))
    }

    /// The access rule of the method. `None` if it has none.
    fn access(&self) -> Option<DynamicMessage> {
        let access = POOL.get_extension_by_name("latchkey.v1.access")?;
        let options = self.descriptor.options();
        if !options.has_extension(&access) {
            return None;
        }
        options.get_extension(&access).as_message().cloned()
    }
}

/// The user that a request is about, as a USER argument: from its field `user`, `login` or `username`, or from the filter of
/// events.
pub(crate) fn subject(request: &DynamicMessage) -> Option<String> {
    let text =
        |name: &str| request.get_field_by_name(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let Some(user) = request.get_field_by_name("user") else {
        return text("login").or_else(|| text("username")).or_else(|| of_filter(request));
    };
    let reference = user.as_message()?.transcode_to::<UserRef>().ok()?;
    user_ref::text(&reference)
}

/// The first user in the filter of a request for events.
fn of_filter(request: &DynamicMessage) -> Option<String> {
    let filter = request.get_field_by_name("filter")?;
    let first = |name: &str| {
        let names = filter.as_message()?.get_field_by_name(name)?;
        names.as_list()?.first()?.as_str().map(str::to_owned)
    };
    first("targets").or_else(|| first("actors"))
}

/// Replaces every secret in a message by a placeholder. The contract marks secrets with `debug_redact`.
pub(crate) fn redact(message: &mut DynamicMessage) {
    let mut secrets = Vec::new();
    for (field, value) in message.fields_mut() {
        let options = field.options();
        let secret = options.get_field_by_name("debug_redact").is_some_and(|mark| mark.as_bool() == Some(true));
        match value {
            Value::Message(inner) => redact(inner),
            Value::String(_) if secret => secrets.push(field),
            _ => {}
        }
    }
    for field in secrets {
        let placeholder = format!("<{}>", field.name());
        message.set_field(&field, Value::String(placeholder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{
        EnrollTotpRequest, GetUserRequest, ListEventsRequest, ListUsersRequest, LockUserRequest, RefreshTokensRequest,
        ResetPasswordRequest, SetPassword, SignInRequest, WhoAmIRequest, reset_password_request,
    };
    use tonic_health::pb::HealthCheckRequest;

    #[test]
    fn every_call_is_in_the_contract() -> Result<(), Error> {
        Method::of::<ListUsersRequest>()?;
        Method::of::<SignInRequest>()?;
        Method::of::<ListEventsRequest>()?;
        Method::of::<HealthCheckRequest>()?;
        Ok(())
    }

    #[test]
    fn only_what_is_safe_is_repeated() -> Result<(), Error> {
        let reset = Method::of::<ResetPasswordRequest>()?;
        let plain = ResetPasswordRequest::default();
        assert!(!reset.repeats_safely(&reset.request(&plain)?));
        let keyed = ResetPasswordRequest { idempotency_key: "6f1d2c1e".to_owned(), ..plain };
        assert!(reset.repeats_safely(&reset.request(&keyed)?));
        let lock = Method::of::<LockUserRequest>()?;
        assert!(lock.repeats_safely(&lock.request(&LockUserRequest::default())?));
        let sign_in = Method::of::<SignInRequest>()?;
        assert!(!sign_in.repeats_safely(&sign_in.request(&SignInRequest::default())?));
        Ok(())
    }

    #[test]
    fn no_token_goes_where_none_is_looked_at() -> Result<(), Error> {
        fn wants<C: Call>(request: &C) -> Result<bool, Error> {
            let method = Method::of::<C>()?;
            Ok(method.wants_identity(&method.request(request)?))
        }
        assert!(!wants(&SignInRequest::default())?);
        assert!(!wants(&RefreshTokensRequest::default())?);
        assert!(!wants(&HealthCheckRequest::default())?);
        assert!(wants(&WhoAmIRequest::default())?);
        assert!(wants(&LockUserRequest::default())?);
        assert!(wants(&EnrollTotpRequest::default())?);
        assert!(!wants(&EnrollTotpRequest { ticket: "lkt_".to_owned(), ..Default::default() })?);
        Ok(())
    }

    #[test]
    fn a_call_that_was_permitted_proves_the_scope_that_it_needs() -> Result<(), Error> {
        assert!(Method::of::<GetUserRequest>()?.proves("users.read"));
        assert!(!Method::of::<LockUserRequest>()?.proves("users.read"));
        assert!(!Method::of::<WhoAmIRequest>()?.proves("users.read"));
        Ok(())
    }

    #[test]
    fn the_scopes_of_a_request_are_known_before_it_is_sent() -> Result<(), Error> {
        let reset = Method::of::<ResetPasswordRequest>()?;
        let set = reset_password_request::Method::SetPassword(SetPassword::default());
        let request = ResetPasswordRequest { method: Some(set), unlock: true, ..ResetPasswordRequest::default() };
        assert_eq!(reset.scopes(&reset.request(&request)?), ["users.reset", "users.reset.secrets", "users.lock"]);
        assert_eq!(reset.dry_run(&request)?.map(|dry| dry.validate_only), Some(true));
        let lock = Method::of::<LockUserRequest>()?;
        assert_eq!(lock.scopes(&lock.request(&LockUserRequest::default())?), ["users.lock"]);
        assert_eq!(lock.dry_run(&LockUserRequest::default())?, None);
        Ok(())
    }

    #[test]
    fn secrets_become_placeholders() -> Result<(), Error> {
        let set = SetPassword { password: "correct horse".to_owned() };
        let request = ResetPasswordRequest {
            method: Some(reset_password_request::Method::SetPassword(set)),
            ..ResetPasswordRequest::default()
        };
        let mut message = Method::of::<ResetPasswordRequest>()?.request(&request)?;
        redact(&mut message);
        let text = crate::cli::output::json::line(&message)?;
        assert_eq!(text, r#"{"setPassword":{"password":"<password>"}}"#);
        Ok(())
    }
}
