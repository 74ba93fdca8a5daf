//! A clock that tests can set.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use latchkey::clock::{Clock, SystemClock};
use latchkey::domain::time::Timestamp;

/// The machine's clock plus an offset.
#[derive(Default)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// Advances the clock.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).expect("a short time"), Ordering::SeqCst);
    }

    /// Sets the clock back, for tests that compare with the machine's clock.
    pub fn turn_back(&self, by: Duration) {
        self.0.fetch_sub(i64::try_from(by.as_micros()).expect("a short time"), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros() + self.0.load(Ordering::SeqCst))
    }
}
