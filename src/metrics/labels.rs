//! The labels of the metrics, and their values.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// Declares the values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }

        impl $name {
            /// All values.
            #[allow(dead_code, reason = "not every label is looked through")]
            pub(super) const ALL: &[$name] = &[$($name::$variant,)*];

            /// The value as exposed in the metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

label! {
    /// A queue for hashing.
    HashQueue {
        /// Sign-ins.
        SignIn = "sign_in",
        /// Operators.
        Operator = "operator",
    }
}

label! {
    /// A lane: a group of calls with a common concurrency limit.
    CallLane {
        /// Calls that verify a user's password.
        SignIns = "sign_ins",
        /// Calls by services that check tokens, and by users about their own sessions.
        Introspection = "introspection",
        /// Calls by operators, which require a scope.
        Operators = "operators",
        /// Calls that read lists.
        Lists = "lists",
        /// Calls that read the contract by reflection.
        Reflection = "reflection",
        /// Streams that watch health.
        Watches = "watches",
        /// Requests of the pages.
        Pages = "pages",
    }
}

label! {
    /// Purpose of a hash computation.
    HashKind {
        /// Comparing with the stored hash.
        Verify = "verify",
        /// Storing a new password.
        Set = "set",
        /// A dummy, so that an unknown name takes as much time as a known one.
        Dummy = "dummy",
    }
}

label! {
    /// Outcome of a sign-in.
    SignInOutcome {
        /// Tokens were issued.
        SignedIn = "signed_in",
        /// A password change is required first.
        PasswordChange = "password_change",
        /// A second factor must be set up first.
        Enrollment = "enrollment",
        /// A code is needed.
        SecondFactor = "second_factor",
        /// A code was wrong.
        SecondFactorRejected = "second_factor_rejected",
        /// The sign-in was refused.
        Rejected = "rejected",
    }
}

label! {
    /// Where connections are accepted.
    Listener {
        /// gRPC over the network.
        Grpc = "grpc",
        /// gRPC through the local socket.
        Local = "local",
        /// Metrics, probes and keys over HTTP.
        Http = "http",
        /// The pages for users.
        Pages = "pages",
    }
}

label! {
    /// Why a connection was refused or closed.
    Refused {
        /// The maximum of open connections is reached.
        Max = "max",
        /// The maximum of open connections for this peer is reached.
        MaxPerPeer = "max_per_peer",
        /// The TLS handshake failed.
        Handshake = "handshake",
        /// The client did not start in time.
        Silent = "silent",
        /// The client sent too many frames without requests.
        Flood = "flood",
        /// The client did not read an answer in time.
        Unread = "unread",
    }
}

label! {
    /// Outcome of a reload of changed files.
    Reload {
        /// The new files are in use.
        Taken = "taken",
        /// The new files are not usable; the old ones stay in use.
        Refused = "refused",
    }
}

impl Refused {
    /// Name for the log: the configuration key, if there is one.
    pub fn limit(self) -> &'static str {
        match self {
            Refused::Max => "connections.max",
            Refused::MaxPerPeer => "connections.max_per_peer",
            Refused::Handshake => "a TLS handshake",
            Refused::Silent => "connections.start_timeout",
            Refused::Flood => "a flood of frames",
            Refused::Unread => "connections.read_timeout",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RpcLabels {
    pub(super) method: String,
    pub(super) code: &'static str,
    pub(super) reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MethodLabel {
    pub(super) method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HashQueueLabel {
    pub(super) lane: HashQueue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLaneLabel {
    pub(super) lane: CallLane,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabel {
    pub(super) kind: HashKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) outcome: SignInOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CauseLabel {
    pub(super) cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PageLabels {
    pub(super) page: &'static str,
    pub(super) status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DeliveryLabels {
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DeliveryKindLabel {
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ListenerLabel {
    pub(super) listener: Listener,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusedLabels {
    pub(super) listener: Listener,
    pub(super) cause: Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReloadLabel {
    pub(super) outcome: Reload,
}
