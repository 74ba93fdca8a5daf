//! Machine-readable error reasons: the `ErrorReason` of the contract, independent of the wire format.

use strum::{EnumString, IntoStaticStr, VariantArray};

/// Why a call failed. The entries of the same name in `proto/latchkey/v1/errors.proto` document each reason; a
/// test compares the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "documented in errors.proto, where callers read it")]
pub enum Reason {
    FieldInvalid,
    MessageMalformed,
    PageTokenInvalid,
    PageTokenMismatch,
    IdempotencyKeyReused,
    PasswordRejected,
    CredentialsMissing,
    CredentialsRejected,
    PasswordWrong,
    TokenInvalid,
    TokenExpired,
    SessionRevoked,
    RefreshReused,
    TicketInvalid,
    SecondFactorRequired,
    SecondFactorRejected,
    ReauthenticationRequired,
    TemporaryPasswordExpired,
    ScopeMissing,
    TargetOutranksCaller,
    SelfActionForbidden,
    UserRequired,
    ApiTokenForbidden,
    UserNotFound,
    SessionNotFound,
    ApiTokenNotFound,
    DeliveryNotFound,
    EventNotFound,
    UsernameTaken,
    UsernameReserved,
    EmailTaken,
    ExternalIdTaken,
    EtagMismatch,
    UserLocked,
    UserPending,
    UserIsService,
    LastAdministrator,
    PasswordTooYoung,
    SecondFactorMissing,
    SecondFactorMandatory,
    NoDeliveryAddress,
    DeliveryDisabled,
    DeliveryNotRepeatable,
    PasswordEnded,
    RateLimited,
    Throttled,
    HashingSaturated,
    RequestTooLarge,
    Overloaded,
    QueryTooBroad,
    ShuttingDown,
    StorageUnavailable,
    DeadlinePassed,
    RecordCorrupt,
    Internal,
    MethodUnavailable,
    CompressionUnsupported,
}

impl Reason {
    /// All reasons.
    pub const ALL: &[Reason] = Reason::VARIANTS;

    /// The name in `google.rpc.ErrorInfo.reason`, in the audit log and in metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Parses a name returned by [`Reason::as_str`].
    pub fn parse(text: &str) -> Option<Reason> {
        text.parse().ok()
    }
}
