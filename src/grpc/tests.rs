//! Checks that the messages of the contract do not print their secrets.

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage as _, Value};

use crate::proto::{DESCRIPTORS, v1};

const MARKER: &str = "correct horse battery staple";

fn is_redacted(field: &FieldDescriptor) -> bool {
    let options = field.options();
    let option = options.descriptor().get_field_by_name("debug_redact");
    option.is_some_and(|option| matches!(options.get_field(&option).as_ref(), Value::Bool(true)))
}

/// Returns the `Debug` output of a message of this type with one secret set.
fn printed<M: prost::Message + Default + std::fmt::Debug>(
    message: &MessageDescriptor,
    secret: &FieldDescriptor,
) -> Result<String, prost::DecodeError> {
    let mut filled = DynamicMessage::new(message.clone());
    filled.set_field(secret, Value::String(MARKER.to_owned()));
    filled.transcode_to::<M>().map(|typed| format!("{typed:?}"))
}

#[test]
fn no_message_prints_a_secret() -> Result<(), Box<dyn std::error::Error>> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let messages = pool.all_messages().filter(|message| message.package_name() == "latchkey.v1");
    let mut seen = 0;
    for message in messages {
        for secret in message.fields().filter(is_redacted) {
            macro_rules! printed_as {
                ($($name:ident)*) => {
                    match message.name() {
                        $(stringify!($name) => printed::<v1::$name>(&message, &secret)?,)*
                        name => return Err(format!("{name} has a secret; name it in this test").into()),
                    }
                };
            }
            let text = printed_as!(
                CancelLinkRequest ChangePasswordRequest CheckPasswordStrengthRequest CompletePasswordChangeRequest
                CompletePasswordResetRequest
                ConfirmTotpRequest ConfirmTotpResponse EnrollTotpRequest EnrollTotpResponse EnrollmentStep
                RegenerateRecoveryCodesResponse SecondFactorProof SecondFactorStep VerifySecondFactorRequest
                CreateApiTokenResponse CreateUserRequest CreateUserResponse InspectLinkRequest IntrospectTokenRequest PasswordChangeStep ReauthenticateRequest RefreshTokensRequest
                ResetPasswordResponse SetPassword SignInRequest TokenSet VerifyEmailRequest
            );
            assert!(text.contains("[redacted]") && !text.contains(MARKER), "{text}");
            seen += 1;
        }
    }
    assert!(seen > 0);
    Ok(())
}
