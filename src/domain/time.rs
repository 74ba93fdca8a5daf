//! Instants in whole microseconds, which both databases store exactly.

use std::fmt;
use std::time::Duration;

/// Microseconds in a second.
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Clock difference above which a warning is due. NTP stays far below it.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Largest plausible clock error. A stored time that is later than a rule and this margin allow was written with a
/// wrong clock.
pub const MAX_CLOCK_ERROR: Duration = Duration::from_hours(24);

/// An instant in microseconds since the Unix epoch. Arithmetic saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates an instant from microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down, as in the claims of a JWT (RFC 7519, 2).
    pub const fn as_unix_seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// Adds a duration. Fractions of a microsecond are dropped.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(micros(duration)))
    }

    /// Subtracts a duration. Fractions of a microsecond are dropped.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(micros(duration)))
    }

    /// Time elapsed since `earlier`, or zero if `earlier` is later.
    pub fn duration_since(self, earlier: Timestamp) -> Duration {
        if self <= earlier { Duration::ZERO } else { Duration::from_micros(self.0.abs_diff(earlier.0)) }
    }
}

/// Writes a length of time as a whole number of the largest unit that fits, up to hours: `90m`, `24h`.
pub fn written(length: Duration) -> String {
    let seconds = length.as_secs();
    if length.subsec_nanos() > 0 {
        humantime::format_duration(length).to_string()
    } else if seconds == 0 || !seconds.is_multiple_of(60) {
        format!("{seconds}s")
    } else if !seconds.is_multiple_of(3600) {
        format!("{}m", seconds / 60)
    } else {
        format!("{}h", seconds / 3600)
    }
}

/// Writes a length of time in days if it has no part of a day: `90 days`, not `2160h`.
pub fn in_words(length: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match length.as_secs() {
        DAY => "1 day".to_owned(),
        seconds if seconds > 0 && seconds.is_multiple_of(DAY) => format!("{} days", seconds / DAY),
        _ => written(length),
    }
}

/// Converts to microseconds; saturates.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC, to the second: `2026-11-25T08:12:33Z`. Years beyond 9999 show as the last representable second.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.as_unix_seconds();
        let nearest = if seconds < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX }.as_second();
        let named = jiff::Timestamp::from_second(seconds).or_else(|_| jiff::Timestamp::from_second(nearest));
        named.map_err(|_| fmt::Error)?.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_rfc_3339_to_the_second() {
        assert_eq!(Timestamp::from_micros(1_795_594_353_999_999).to_string(), "2026-11-25T08:12:33Z");
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn the_ends_of_the_range_still_have_a_text() {
        assert!(Timestamp::from_micros(i64::MAX).to_string().starts_with("9999-12-"));
        assert!(Timestamp::from_micros(i64::MIN).to_string().starts_with("-009999-01-"));
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let end = Timestamp::from_micros(i64::MAX);
        assert_eq!(end.saturating_add(Duration::from_secs(1)), end);
        assert_eq!(Timestamp::from_micros(5).saturating_add(Duration::MAX), end);
        let start = Timestamp::from_micros(i64::MIN);
        assert_eq!(start.saturating_sub(Duration::from_secs(1)), start);
        assert_eq!(end.duration_since(start), Duration::from_micros(u64::MAX));
    }

    #[test]
    fn nothing_is_earlier_than_itself() {
        let noon = Timestamp::from_micros(1_000_000);
        let later = noon.saturating_add(Duration::from_millis(1500));
        assert_eq!(later.as_micros(), 2_500_000);
        assert_eq!(later.as_unix_seconds(), 2);
        assert_eq!(later.duration_since(noon), Duration::from_millis(1500));
        assert_eq!(noon.duration_since(later), Duration::ZERO);
        assert_eq!(noon.duration_since(noon), Duration::ZERO);
    }
}
