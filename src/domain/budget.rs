//! How many rows the failures of strangers may write: from one source, from the networks around it, and in all.
//!
//! Whatever exceeds a budget is counted, not recorded. So an attacker with many addresses cannot fill the disk.

use std::time::Duration;

use super::caller::Source;

/// Failures of all strangers that are recorded as events, in one window.
const EVENTS_IN_ALL: u32 = 20_000;

/// What the networks around a source may have recorded, in multiples of what the source may.
const WIDER: [u32; 3] = [1, 4, 16];

/// Failures of one /48 that count against their sources, in one window. 33 a second: about as many as two cores can hash, so
/// counting more would not slow down guessing.
const FAILURES_OF_A_NETWORK: u32 = 10_000;

/// The same for all sources together.
const FAILURES_IN_ALL: u32 = 100_000;

/// Requests for a link that one source may make, in one window ([`RESET_REQUESTS_WINDOW`]).
const RESET_REQUESTS: u32 = 10;

/// What the networks around a source may request, in multiples of what the source may. A provider may have a whole /16.
const WIDER_REQUESTS: [u32; 3] = [1, 16, 256];

/// Requests of all strangers: 28 a second, far fewer than are resolved.
const RESET_REQUESTS_IN_ALL: u32 = 100_000;

/// The window of requests for a link.
pub const RESET_REQUESTS_WINDOW: Duration = Duration::from_hours(1);

/// The first word in the names of budgets with that window.
pub const RESET_REQUESTS_NAME: &str = "resets";

/// A number of rows in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The name, such as `events 10.1.2.0/24`.
    pub name: String,
    /// The number of rows.
    pub rows: u32,
}

impl Budget {
    fn new(rows: u32, of_what: &str, of_whom: impl std::fmt::Display) -> Budget {
        Budget { name: format!("{of_what} {of_whom}"), rows }
    }

    /// Whose budget it is: a network, or `in all`.
    pub fn whose(&self) -> &str {
        self.name.split_once(' ').map_or(&self.name, |(_, whose)| whose)
    }

    /// The budgets of an event about a failure at this source, from the narrowest to the widest. `of_source` is the number of
    /// failures that block a source; 0 means that sources are not told apart.
    pub fn of_event(source: Source, of_source: u32) -> Vec<Budget> {
        let networks = source.networks().into_iter().zip(WIDER);
        let networks = networks.map(|(network, times)| Budget::new(of_source.saturating_mul(times), "events", network));
        let mut budgets: Vec<Budget> = networks.filter(|budget| budget.rows != 0).collect();
        budgets.push(Budget::new(EVENTS_IN_ALL, "events", "in all"));
        budgets
    }

    /// The budgets of a request for a link by this source, from the narrowest to the widest.
    pub fn of_reset_request(source: Source) -> Vec<Budget> {
        let networks = source.networks().into_iter().zip(WIDER_REQUESTS);
        let networks =
            networks.map(|(network, times)| Budget::new(RESET_REQUESTS * times, RESET_REQUESTS_NAME, network));
        let mut budgets: Vec<Budget> = networks.collect();
        budgets.push(Budget::new(RESET_REQUESTS_IN_ALL, RESET_REQUESTS_NAME, "in all"));
        budgets
    }

    /// The budgets of a failure that counts against this source, from the narrowest to the widest.
    pub fn of_failure(source: Source) -> Vec<Budget> {
        let [_, _, widest] = source.networks();
        vec![Budget::new(FAILURES_OF_A_NETWORK, "failures", widest), Budget::new(FAILURES_IN_ALL, "failures", "in all")]
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn events(address: &str, of_source: u32) -> Vec<(String, u32)> {
        let source = address.parse().map_or(Source::of(IpAddr::from([0; 4])), Source::of);
        Budget::of_event(source, of_source).into_iter().map(|budget| (budget.name, budget.rows)).collect()
    }

    fn named(name: &str, rows: u32) -> (String, u32) {
        (name.to_owned(), rows)
    }

    #[test]
    fn a_network_may_have_more_recorded_than_a_source_and_less_than_all_its_sources() {
        let by_default = [
            named("events 2001:db8:1:234::/64", 30),
            named("events 2001:db8:1:200::/56", 120),
            named("events 2001:db8:1::/48", 480),
            named("events in all", 20_000),
        ];
        assert_eq!(events("2001:db8:1:234::7", 30), by_default);
    }

    #[test]
    fn without_a_limit_by_source_only_the_sum_is_bounded() {
        assert_eq!(events("10.1.2.3", 0), [named("events in all", 20_000)]);
    }
}
