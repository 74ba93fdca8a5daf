//! Machine-readable error reasons: the `ErrorReason` of the contract, independent of the wire format.

macro_rules! reasons {
    ($($variant:ident = $text:literal,)*) => {
        /// Why a call failed. The entries of the same name in `proto/latchkey/v1/errors.proto` document each reason; a
        /// test compares the two lists.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "documented in errors.proto, where callers read it")]
        pub enum Reason { $($variant,)* }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// The name in `google.rpc.ErrorInfo.reason`, in the audit log and in metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $text,)* }
            }

            /// Parses a name returned by [`Reason::as_str`].
            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    FieldInvalid = "FIELD_INVALID",
    MessageMalformed = "MESSAGE_MALFORMED",
    PageTokenInvalid = "PAGE_TOKEN_INVALID",
    PageTokenMismatch = "PAGE_TOKEN_MISMATCH",
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED",
    PasswordRejected = "PASSWORD_REJECTED",
    CredentialsMissing = "CREDENTIALS_MISSING",
    CredentialsRejected = "CREDENTIALS_REJECTED",
    PasswordWrong = "PASSWORD_WRONG",
    TokenInvalid = "TOKEN_INVALID",
    TokenExpired = "TOKEN_EXPIRED",
    SessionRevoked = "SESSION_REVOKED",
    RefreshReused = "REFRESH_REUSED",
    TicketInvalid = "TICKET_INVALID",
    ReauthenticationRequired = "REAUTHENTICATION_REQUIRED",
    TemporaryPasswordExpired = "TEMPORARY_PASSWORD_EXPIRED",
    ScopeMissing = "SCOPE_MISSING",
    TargetOutranksCaller = "TARGET_OUTRANKS_CALLER",
    SelfActionForbidden = "SELF_ACTION_FORBIDDEN",
    UserRequired = "USER_REQUIRED",
    ApiTokenForbidden = "API_TOKEN_FORBIDDEN",
    UserNotFound = "USER_NOT_FOUND",
    SessionNotFound = "SESSION_NOT_FOUND",
    ApiTokenNotFound = "API_TOKEN_NOT_FOUND",
    EventNotFound = "EVENT_NOT_FOUND",
    UsernameTaken = "USERNAME_TAKEN",
    UsernameReserved = "USERNAME_RESERVED",
    EmailTaken = "EMAIL_TAKEN",
    ExternalIdTaken = "EXTERNAL_ID_TAKEN",
    EtagMismatch = "ETAG_MISMATCH",
    UserLocked = "USER_LOCKED",
    UserPending = "USER_PENDING",
    UserIsService = "USER_IS_SERVICE",
    LastAdministrator = "LAST_ADMINISTRATOR",
    RateLimited = "RATE_LIMITED",
    Throttled = "THROTTLED",
    HashingSaturated = "HASHING_SATURATED",
    RequestTooLarge = "REQUEST_TOO_LARGE",
    Overloaded = "OVERLOADED",
    ShuttingDown = "SHUTTING_DOWN",
    StorageUnavailable = "STORAGE_UNAVAILABLE",
    DeadlinePassed = "DEADLINE_PASSED",
    RecordCorrupt = "RECORD_CORRUPT",
    Internal = "INTERNAL",
    MethodUnavailable = "METHOD_UNAVAILABLE",
}
