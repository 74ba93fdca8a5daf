//! Times in the form that people use.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The current time and the time zone.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    now: Timestamp,
    zone: TimeZone,
}

impl Clock {
    /// The clock and the time zone of this machine, read once, so that one output has one "now".
    pub(crate) fn system() -> Clock {
        Clock { now: Timestamp::now(), zone: TimeZone::system() }
    }

    /// A clock that stands still.
    #[cfg(test)]
    pub(crate) fn new(now: Timestamp, zone: TimeZone) -> Clock {
        Clock { now, zone }
    }

    /// The instant that counts as now.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// The local time zone.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// `6 d ago`.
    pub(crate) fn ago(&self, then: Timestamp) -> String {
        match self.since(then) {
            0..5 => "just now".to_owned(),
            seconds => format!("{} ago", spaced(seconds)),
        }
    }

    /// `22 m`: the time since `then`.
    pub(crate) fn age(&self, then: Timestamp) -> String {
        spaced(self.since(then))
    }

    /// `22m`, or `just now`: the time since `then`, for narrow columns.
    pub(crate) fn compact(&self, then: Timestamp) -> String {
        match self.since(then) {
            0..5 => "just now".to_owned(),
            seconds => {
                let (number, unit) = short(seconds);
                format!("{number}{unit}")
            }
        }
    }

    /// `3 h left`, or `expired`. Rounds to the nearest minute, so that three hours granted a moment ago are shown as three.
    pub(crate) fn left(&self, end: Timestamp) -> String {
        match self.until(end) {
            0 => "expired".to_owned(),
            seconds @ MINUTE.. => format!("{} left", spaced(seconds + MINUTE / 2)),
            seconds => format!("{} left", spaced(seconds)),
        }
    }

    /// Whether `end` has passed.
    pub(crate) fn is_past(&self, end: Timestamp) -> bool {
        end <= self.now
    }

    /// `today 14:05`, `tomorrow 02:14`, `Mon 08:00`, `2026-12-01 08:00`.
    pub(crate) fn moment(&self, at: Timestamp) -> String {
        let local = at.to_zoned_datetime(self.zone.clone());
        let today = self.now.to_zoned_datetime(self.zone.clone()).date();
        let day = match days_between(today, local.date()) {
            _ if self.is_ambiguous(&local) => return self.full(at),
            -1 => "yesterday".to_owned(),
            0 => "today".to_owned(),
            1 => "tomorrow".to_owned(),
            2..=6 => local.strftime("%a").to_string(),
            _ => return self.full(at),
        };
        format!("{day} {}", local.strftime("%H:%M"))
    }

    /// `2026-11-25`.
    pub(crate) fn day(&self, at: Timestamp) -> String {
        at.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%d").to_string()
    }

    /// `2026-11-25 08:14`.
    pub(crate) fn full(&self, at: Timestamp) -> String {
        self.local(at, "%Y-%m-%d %H:%M")
    }

    /// `2026-11-25 08:14:05`.
    pub(crate) fn to_the_second(&self, at: Timestamp) -> String {
        self.local(at, "%Y-%m-%d %H:%M:%S")
    }

    /// A local time. It has its offset only when the clocks go back, since it comes twice then.
    fn local(&self, at: Timestamp, format: &str) -> String {
        let local = at.to_zoned_datetime(self.zone.clone());
        let offset = if self.is_ambiguous(&local) { "%:z" } else { "" };
        local.strftime(&format!("{format}{offset}")).to_string()
    }

    fn is_ambiguous(&self, local: &ZonedDateTime) -> bool {
        self.zone.to_ambiguous_timestamp(local.datetime()).is_ambiguous()
    }

    /// `2026-11-25 08:14, 2 h ago`.
    pub(crate) fn full_and_ago(&self, at: Timestamp) -> String {
        format!("{}, {}", self.full(at), self.ago(at))
    }

    fn since(&self, then: Timestamp) -> u64 {
        u64::try_from(self.now.as_second() - then.as_second()).unwrap_or(0)
    }

    fn until(&self, end: Timestamp) -> u64 {
        u64::try_from(end.as_second() - self.now.as_second()).unwrap_or(0)
    }
}

fn days_between(from: Date, to: Date) -> i64 {
    (to.duration_since(from).as_secs()) / i64::try_from(DAY).unwrap_or(i64::MAX)
}

/// `2026-11-25 08:14+01:00`: a local time with its offset, and the seconds if there are any.
pub(super) fn with_offset(local: &ZonedDateTime) -> String {
    let format = if local.second() == 0 { "%Y-%m-%d %H:%M%:z" } else { "%Y-%m-%d %H:%M:%S%:z" };
    local.strftime(format).to_string()
}

/// `3 h`: a length of time in its largest whole unit.
pub(crate) fn length(duration: Duration) -> String {
    spaced(duration.as_secs())
}

fn spaced(seconds: u64) -> String {
    let (number, unit) = short(seconds);
    format!("{number} {unit}")
}

/// The largest unit that is precise enough, rounded down. 47 hours are not "1 d", and 59 days are not "1 mo".
fn short(seconds: u64) -> (u64, &'static str) {
    let days = seconds / DAY;
    match seconds {
        0..MINUTE => (seconds, "s"),
        MINUTE..HOUR => (seconds / MINUTE, "m"),
        _ if days < 2 => (seconds / HOUR, "h"),
        _ if days < 60 => (days, "d"),
        _ if days < 365 => (days / 30, "mo"),
        _ => (days / 365, "y"),
    }
}

/// Converts a protobuf timestamp. Returns `None` if it is unset or out of range.
pub(crate) fn instant(stamp: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    stamp.and_then(|stamp| Timestamp::new(stamp.seconds, stamp.nanos).ok())
}

/// Converts an instant to a protobuf timestamp.
pub(crate) fn stamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// Wednesday, 08:13 in a zone one hour east of Greenwich.
    fn clock() -> Result<Clock, jiff::Error> {
        Ok(Clock { now: "2026-11-25T07:13:00Z".parse()?, zone: TimeZone::fixed(jiff::tz::offset(1)) })
    }

    #[test]
    fn lengths_are_short() {
        let cases = [
            (59, "59 s"),
            (22 * 60 + 5, "22 m"),
            (3 * 3600, "3 h"),
            (47 * HOUR, "47 h"),
            (6 * DAY, "6 d"),
            (61 * DAY, "2 mo"),
            (366 * DAY, "1 y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(spaced(seconds), text);
        }
    }

    #[test]
    fn times_are_relative_to_now() -> Outcome {
        let clock = clock()?;
        assert_eq!(clock.ago("2026-11-25T07:12:58Z".parse()?), "just now");
        assert_eq!(clock.ago("2026-11-19T07:00:00Z".parse()?), "6 d ago");
        assert_eq!(clock.compact("2026-11-25T06:51:00Z".parse()?), "22m");
        assert_eq!(clock.compact("2026-11-25T07:12:58Z".parse()?), "just now");
        assert_eq!(clock.compact("2026-11-25T07:12:55Z".parse()?), "5s");
        assert_eq!(clock.left("2026-11-25T10:14:00Z".parse()?), "3 h left");
        assert_eq!(clock.left("2026-11-25T10:12:58Z".parse()?), "3 h left");
        assert_eq!(clock.left("2026-11-25T07:12:59Z".parse()?), "expired");
        Ok(())
    }

    #[test]
    fn moments_are_told_as_people_do() -> Outcome {
        let clock = clock()?;
        let cases = [
            ("2026-11-25T13:05:00Z", "today 14:05"),
            ("2026-11-25T23:30:00Z", "tomorrow 00:30"),
            ("2026-11-24T20:00:00Z", "yesterday 21:00"),
            ("2026-11-30T07:00:00Z", "Mon 08:00"),
            ("2026-12-02T07:00:00Z", "2026-12-02 08:00"),
            ("2026-11-20T07:00:00Z", "2026-11-20 08:00"),
        ];
        for (at, text) in cases {
            assert_eq!(clock.moment(at.parse()?), text);
        }
        Ok(())
    }
}
