//! A clock that tests can turn.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use latchkey::clock::{Clock, SystemClock};
use latchkey::domain::time::Timestamp;

/// The clock of the machine, and what it was turned by.
#[derive(Default)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// Turns it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).expect("a short time"), Ordering::SeqCst);
    }

    /// Turns it back: for whoever compares with the clock of the machine.
    pub fn turn_back(&self, by: Duration) {
        self.0.fetch_sub(i64::try_from(by.as_micros()).expect("a short time"), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros() + self.0.load(Ordering::SeqCst))
    }
}
