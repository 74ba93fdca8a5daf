//! All Prometheus metrics, in one struct.
//!
//! | metric | labels | what |
//! | --- | --- | --- |
//! | `latchkey_rpc_total` | `method`, `code`, `reason` | finished calls |
//! | `latchkey_rpc_duration_seconds` | `method` | how long they took |
//! | `latchkey_calls_in_flight` | `lane` | calls in progress |
//! | `latchkey_calls_limit` | `lane` | how many calls a lane admits |
//! | `latchkey_calls_refused_total` | `lane` | calls refused because their lane was full |
//! | `latchkey_hash_queue_length` | `lane` | passwords waiting to be hashed |
//! | `latchkey_hashes_in_flight` | | passwords being hashed |
//! | `latchkey_hashes_total` | `kind` | passwords hashed |
//! | `latchkey_hashing_seconds` | | how long one took, without the time in the queue |
//! | `latchkey_sign_ins_total` | `outcome` | finished sign-ins |
//! | `latchkey_throttled_total` | | throttled sign-ins |
//! | `latchkey_user_locks_total` | `cause` | accounts locked |
//! | `latchkey_password_resets_total` | | passwords reset by operators |
//! | `latchkey_page_requests_total` | `page`, `status` | finished requests of the pages, by HTTP status |
//! | `latchkey_deliveries_total` | `kind`, `outcome` | messages that have their last state |
//! | `latchkey_outbox_messages` | `kind` | messages that wait |
//! | `latchkey_outbox_oldest_seconds` | | how long the oldest of them has waited that was not tried yet, or that the relay failed |
//! | `latchkey_connections` | `listener` | open connections |
//! | `latchkey_connections_refused_total` | `listener`, `cause` | connections refused or closed, by the limit |
//! | `latchkey_requests_reset_total` | `listener` | requests reset because they are not valid HTTP/2, before they are calls |
//! | `latchkey_breach_list_keys` | | leaked passwords in the list |
//! | `latchkey_breach_list_reloads_total` | `outcome` | new lists of leaked passwords, taken or refused |
//! | `latchkey_tls_reloads_total` | `outcome` | reloads of changed TLS files |
//! | `latchkey_log_lines_dropped_total` | | log lines dropped because the log was not read fast enough |
//! | `latchkey_tls_certificate_not_after_seconds` | | when the TLS certificate expires, in seconds since 1970 |
//!
//! All label values come from closed sets: no user's name, address or id, and no text chosen by a client.

mod labels;

use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use strum::VariantArray as _;

pub use self::labels::{CallLane, HashKind, HashQueue, Listener, Refused, Reload, SignInOutcome};
use self::labels::{
    CallLaneLabel, CauseLabel, DeliveryKindLabel, DeliveryLabels, HashQueueLabel, KindLabel, ListenerLabel,
    MethodLabel, OutcomeLabel, PageLabels, RefusedLabels, ReloadLabel, RpcLabels,
};
use crate::domain::delivery::{DeliveryKind, DeliveryState};
use crate::domain::lockout::LockCause;
use crate::telemetry;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds: reads take a millisecond, a hash 15 to 100 ms, and clients give up after about ten seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Collector for log lines dropped because the log was not read fast enough.
#[derive(Debug)]
struct DroppedLines;

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let lines = ConstCounter::new(telemetry::dropped_lines());
        let help = "Log lines dropped because the log was not read fast enough";
        lines.encode(encoder.encode_descriptor("log_lines_dropped", help, None, lines.metric_type())?)
    }
}

/// Every metric of the server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    rpcs: Family<RpcLabels, Counter>,
    rpc_seconds: Family<MethodLabel, Histogram, fn() -> Histogram>,
    calls_limit: Family<CallLaneLabel, Gauge>,
    calls_in_flight: Family<CallLaneLabel, Gauge>,
    calls_refused: Family<CallLaneLabel, Counter>,
    hash_queue: Family<HashQueueLabel, Gauge>,
    hashes_in_flight: Gauge,
    hashes: Family<KindLabel, Counter>,
    hashing_seconds: Histogram,
    sign_ins: Family<OutcomeLabel, Counter>,
    throttled: Counter,
    locks: Family<CauseLabel, Counter>,
    resets: Counter,
    pages: Family<PageLabels, Counter>,
    deliveries: Family<DeliveryLabels, Counter>,
    outbox: Family<DeliveryKindLabel, Gauge>,
    outbox_oldest: Gauge,
    connections: Family<ListenerLabel, Gauge>,
    refused: Family<RefusedLabels, Counter>,
    requests_reset: Family<ListenerLabel, Counter>,
    breach_list_keys: Gauge,
    breach_list_reloads: Family<ReloadLabel, Counter>,
    reloads: Family<ReloadLabel, Counter>,
    certificate_ends: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Creates all metrics at zero.
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Registry::with_prefix("latchkey"),
            rpcs: Family::default(),
            rpc_seconds: Family::new_with_constructor(seconds),
            calls_limit: Family::default(),
            calls_in_flight: Family::default(),
            calls_refused: Family::default(),
            hash_queue: Family::default(),
            hashes_in_flight: Gauge::default(),
            hashes: Family::default(),
            hashing_seconds: seconds(),
            sign_ins: Family::default(),
            throttled: Counter::default(),
            locks: Family::default(),
            resets: Counter::default(),
            pages: Family::default(),
            deliveries: Family::default(),
            outbox: Family::default(),
            outbox_oldest: Gauge::default(),
            connections: Family::default(),
            refused: Family::default(),
            requests_reset: Family::default(),
            breach_list_keys: Gauge::default(),
            breach_list_reloads: Family::default(),
            reloads: Family::default(),
            certificate_ends: Gauge::default(),
        };
        // Create the series at zero: `rate` misses the first event of a series that begins with it, so an alert on the
        // first lock would not fire.
        for lane in CallLane::ALL {
            drop(metrics.calls_refused.get_or_create(&CallLaneLabel { lane: *lane }));
        }
        for cause in LockCause::ALL {
            drop(metrics.locks.get_or_create(&CauseLabel { cause: cause.as_str() }));
        }
        for outcome in SignInOutcome::ALL {
            drop(metrics.sign_ins.get_or_create(&OutcomeLabel { outcome: *outcome }));
        }
        for outcome in Reload::ALL {
            drop(metrics.breach_list_reloads.get_or_create(&ReloadLabel { outcome: *outcome }));
        }
        for kind in DeliveryKind::VARIANTS {
            for state in DeliveryState::VARIANTS.iter().filter(|state| state.is_last()) {
                let labels = DeliveryLabels { kind: kind.as_str(), outcome: state.as_str() };
                drop(metrics.deliveries.get_or_create(&labels));
            }
        }
        metrics.registered()
    }

    /// Registers the metrics. The registry adds the prefix `latchkey_`, and `_total` to the names of counters.
    fn registered(mut self) -> Metrics {
        let registry = &mut self.registry;
        registry.register("rpc", "Finished calls", self.rpcs.clone());
        registry.register("rpc_duration_seconds", "How long calls took", self.rpc_seconds.clone());
        registry.register_collector(Box::new(DroppedLines));
        registry.register("calls_in_flight", "Calls in progress", self.calls_in_flight.clone());
        registry.register("calls_limit", "How many calls a lane admits", self.calls_limit.clone());
        registry.register("calls_refused", "Calls refused because their lane was full", self.calls_refused.clone());
        registry.register("deliveries", "Messages that have their last state", self.deliveries.clone());
        registry.register("outbox_messages", "Messages that wait", self.outbox.clone());
        registry.register(
            "outbox_oldest_seconds",
            "How long the oldest message has waited that was not tried yet, or that the relay failed",
            self.outbox_oldest.clone(),
        );
        registry.register("hashes_in_flight", "Passwords being hashed", self.hashes_in_flight.clone());
        registry.register("hash_queue_length", "Passwords waiting to be hashed", self.hash_queue.clone());
        registry.register("hashes", "Passwords hashed", self.hashes.clone());
        registry.register("hashing_seconds", "How long hashing a password took", self.hashing_seconds.clone());
        registry.register("sign_ins", "Finished sign-ins", self.sign_ins.clone());
        registry.register("throttled", "Throttled sign-ins", self.throttled.clone());
        registry.register("user_locks", "Accounts locked", self.locks.clone());
        registry.register("password_resets", "Passwords reset by operators", self.resets.clone());
        registry.register("page_requests", "Finished requests of the pages", self.pages.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("connections_refused", "Connections refused or closed", self.refused.clone());
        registry.register("requests_reset", "Requests reset as invalid HTTP/2", self.requests_reset.clone());
        registry.register("breach_list_keys", "Leaked passwords in the list", self.breach_list_keys.clone());
        registry.register("breach_list_reloads", "New lists of leaked passwords", self.breach_list_reloads.clone());
        registry.register("tls_reloads", "Reloads of changed TLS files", self.reloads.clone());
        registry.register(
            "tls_certificate_not_after_seconds",
            "When the TLS certificate expires, in seconds since 1970; 0 without TLS",
            self.certificate_ends.clone(),
        );
        self
    }

    /// Counts a finished call. `method` is one of the contract's, or `unknown`.
    pub fn rpc(&self, method: &str, code: &'static str, reason: &str, took: Duration) {
        let labels = RpcLabels { method: method.to_owned(), code, reason: reason.to_owned() };
        self.rpcs.get_or_create(&labels).inc();
        self.rpc_seconds.get_or_create(&MethodLabel { method: method.to_owned() }).observe(took.as_secs_f64());
    }

    /// Sets how many calls a lane admits.
    pub fn calls_limit(&self, lane: CallLane, bound: usize) {
        self.calls_limit.get_or_create(&CallLaneLabel { lane }).set(i64::try_from(bound).unwrap_or(i64::MAX));
    }

    /// Records that a call has entered its lane.
    pub fn call_entered(&self, lane: CallLane) {
        self.calls_in_flight.get_or_create(&CallLaneLabel { lane }).inc();
    }

    /// Records that a call has left its lane.
    pub fn call_left(&self, lane: CallLane) {
        self.calls_in_flight.get_or_create(&CallLaneLabel { lane }).dec();
    }

    /// Counts a call refused because its lane was full.
    pub fn call_refused(&self, lane: CallLane) {
        self.calls_refused.get_or_create(&CallLaneLabel { lane }).inc();
    }

    /// Counts a list that waited in vain for its turn.
    pub fn list_refused(&self) {
        self.call_refused(CallLane::Lists);
    }

    /// Sets the current length of a hashing queue.
    pub fn hash_queue(&self, lane: HashQueue, length: usize) {
        self.hash_queue.get_or_create(&HashQueueLabel { lane }).set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Records the start of a hash computation; [`Metrics::hashed`] records its end.
    pub fn hashing_began(&self) {
        self.hashes_in_flight.inc();
    }

    /// Records a finished hash computation.
    pub fn hashed(&self, kind: HashKind, took: Duration) {
        self.hashes_in_flight.dec();
        self.hashes.get_or_create(&KindLabel { kind }).inc();
        self.hashing_seconds.observe(took.as_secs_f64());
    }

    /// A sign-in led to tokens.
    pub fn sign_in_succeeded(&self) {
        self.sign_in_ended(SignInOutcome::SignedIn);
    }

    /// A sign-in led to the step of choosing a new password.
    pub fn sign_in_needs_password_change(&self) {
        self.sign_in_ended(SignInOutcome::PasswordChange);
    }

    /// A sign-in led to the step of setting up a second factor.
    pub fn sign_in_needs_enrollment(&self) {
        self.sign_in_ended(SignInOutcome::Enrollment);
    }

    /// A sign-in led to the step of the second factor.
    pub fn sign_in_needs_second_factor(&self) {
        self.sign_in_ended(SignInOutcome::SecondFactor);
    }

    /// A code of a second factor was wrong.
    pub fn second_factor_rejected(&self) {
        self.sign_in_ended(SignInOutcome::SecondFactorRejected);
    }

    /// A sign-in was rejected.
    pub fn sign_in_rejected(&self) {
        self.sign_in_ended(SignInOutcome::Rejected);
    }

    fn sign_in_ended(&self, outcome: SignInOutcome) {
        self.sign_ins.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a throttled sign-in.
    pub fn throttled(&self) {
        self.throttled.inc();
    }

    /// Counts a locked account.
    pub fn user_locked(&self, cause: LockCause) {
        self.locks.get_or_create(&CauseLabel { cause: cause.as_str() }).inc();
    }

    /// Counts a message that has its last state.
    pub fn delivery_ended(&self, kind: DeliveryKind, state: DeliveryState) {
        self.deliveries.get_or_create(&DeliveryLabels { kind: kind.as_str(), outcome: state.as_str() }).inc();
    }

    /// Sets the length of the outbox, and how long the oldest message has waited that is held up by us or by the relay.
    pub fn outbox(&self, waiting: &[(DeliveryKind, u64)], held_up: Duration) {
        for (kind, messages) in waiting {
            let gauge = self.outbox.get_or_create(&DeliveryKindLabel { kind: kind.as_str() });
            gauge.set(i64::try_from(*messages).unwrap_or(i64::MAX));
        }
        self.outbox_oldest.set(i64::try_from(held_up.as_secs()).unwrap_or(i64::MAX));
    }

    /// Counts a password reset by an operator.
    pub fn password_reset(&self) {
        self.resets.inc();
    }

    /// Counts a finished request of the pages.
    pub fn page(&self, page: &'static str, status: u16) {
        self.pages.get_or_create(&PageLabels { page, status }).inc();
    }

    /// Sets the number of open connections.
    pub fn connections(&self, listener: Listener, open: u32) {
        self.connections.get_or_create(&ListenerLabel { listener }).set(i64::from(open));
    }

    /// Counts a connection that was refused or closed.
    pub fn connection_refused(&self, listener: Listener, cause: Refused) {
        self.refused.get_or_create(&RefusedLabels { listener, cause }).inc();
    }

    /// Counts requests that were reset because they are not valid HTTP/2.
    pub fn requests_reset(&self, listener: Listener, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.requests_reset.get_or_create(&ListenerLabel { listener }).inc_by(count);
    }

    /// Sets how many leaked passwords the list in use has.
    pub fn breach_list_used(&self, keys: u64) {
        self.breach_list_keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// Counts a new list that is in use.
    pub fn breach_list_taken(&self) {
        self.breach_list_reloads.get_or_create(&ReloadLabel { outcome: Reload::Taken }).inc();
    }

    /// Counts a new list that is not usable.
    pub fn breach_list_refused(&self) {
        self.breach_list_reloads.get_or_create(&ReloadLabel { outcome: Reload::Refused }).inc();
    }

    /// Counts a reload of changed TLS files.
    pub fn tls_reloaded(&self, outcome: Reload) {
        self.reloads.get_or_create(&ReloadLabel { outcome }).inc();
    }

    /// Sets when the TLS certificate expires, in seconds since 1970.
    pub fn certificate_ends(&self, not_after: u64) {
        self.certificate_ends.set(i64::try_from(not_after).unwrap_or(i64::MAX));
    }

    /// Encodes all metrics in the text format of `OpenMetrics`.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_above_names_what_is_encoded() {
        let metrics = Metrics::new();
        metrics.rpc("latchkey.v1.Auth/SignIn", "UNAUTHENTICATED", "CREDENTIALS_REJECTED", Duration::from_millis(20));
        metrics.call_entered(CallLane::Operators);
        metrics.call_entered(CallLane::Operators);
        metrics.call_left(CallLane::Operators);
        metrics.call_refused(CallLane::SignIns);
        metrics.hash_queue(HashQueue::SignIn, 3);
        metrics.hashing_began();
        metrics.hashing_began();
        metrics.hashed(HashKind::Dummy, Duration::from_millis(15));
        metrics.sign_in_rejected();
        metrics.throttled();
        metrics.user_locked(LockCause::Operator);
        metrics.password_reset();
        metrics.page("reset", 422);
        metrics.connections(Listener::Grpc, 2);
        metrics.connection_refused(Listener::Grpc, Refused::MaxPerPeer);
        metrics.requests_reset(Listener::Grpc, 2);
        metrics.tls_reloaded(Reload::Refused);
        metrics.certificate_ends(1_800_000_000);

        let text = metrics.encode();
        for line in [
            "latchkey_rpc_total{method=\"latchkey.v1.Auth/SignIn\",code=\"UNAUTHENTICATED\",\
             reason=\"CREDENTIALS_REJECTED\"} 1",
            "latchkey_rpc_duration_seconds_bucket{le=\"0.025\",method=\"latchkey.v1.Auth/SignIn\"} 1",
            "latchkey_calls_in_flight{lane=\"operators\"} 1",
            "latchkey_calls_refused_total{lane=\"sign_ins\"} 1",
            "latchkey_hash_queue_length{lane=\"sign_in\"} 3",
            "latchkey_hashes_in_flight 1",
            "latchkey_hashes_total{kind=\"dummy\"} 1",
            "latchkey_hashing_seconds_count 1",
            "latchkey_sign_ins_total{outcome=\"rejected\"} 1",
            "latchkey_throttled_total 1",
            "latchkey_user_locks_total{cause=\"OPERATOR\"} 1",
            "latchkey_password_resets_total 1",
            "latchkey_page_requests_total{page=\"reset\",status=\"422\"} 1",
            "latchkey_connections{listener=\"grpc\"} 2",
            "latchkey_connections_refused_total{listener=\"grpc\",cause=\"max_per_peer\"} 1",
            "latchkey_requests_reset_total{listener=\"grpc\"} 2",
            "latchkey_tls_reloads_total{outcome=\"refused\"} 1",
            "latchkey_tls_certificate_not_after_seconds 1800000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
