//! Times in the form that people use.

use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

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

    /// The instant that counts as now.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// `6 d ago`.
    pub(crate) fn ago(&self, then: Timestamp) -> String {
        match self.since(then) {
            0..5 => "just now".to_owned(),
            seconds => format!("{} ago", spaced(seconds)),
        }
    }

    /// `22m`: the time since `then`, for narrow columns.
    pub(crate) fn compact(&self, then: Timestamp) -> String {
        match short(self.since(then)) {
            (0..5, "s") => "now".to_owned(),
            (number, unit) => format!("{number}{unit}"),
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

    /// `today 14:05`, `tomorrow 02:14`, `Mon 08:00`, `2026-12-01`.
    pub(crate) fn moment(&self, at: Timestamp) -> String {
        let at = at.to_zoned_datetime(self.zone.clone());
        let today = self.now.to_zoned_datetime(self.zone.clone()).date();
        let days = days_between(today, at.date());
        let time = at.strftime("%H:%M");
        match days {
            -1 => format!("yesterday {time}"),
            0 => format!("today {time}"),
            1 => format!("tomorrow {time}"),
            2..=6 => at.strftime("%a %H:%M").to_string(),
            _ => at.strftime("%Y-%m-%d").to_string(),
        }
    }

    /// `2026-11-25 08:14`.
    pub(crate) fn full(&self, at: Timestamp) -> String {
        at.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// `2026-11-25 08:14:05`.
    pub(crate) fn to_the_second(&self, at: Timestamp) -> String {
        at.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// `2026-11-25 08:14, 2 h ago`.
    pub(crate) fn full_and_ago(&self, at: Timestamp) -> String {
        format!("{}, {}", self.full(at), self.ago(at))
    }

    /// Parses a future instant: RFC 3339, a date (its local midnight), `HH:MM` (today or tomorrow), `tomorrow` or
    /// `tomorrow HH:MM`.
    pub(crate) fn parse_future(&self, text: &str) -> Result<Timestamp, String> {
        let at = self.parse(text)?;
        if at <= self.now {
            return Err(format!("{text:?} is in the past: it is {} now", self.full(self.now)));
        }
        Ok(at)
    }

    /// Parses a past instant: a duration before now (`2h`), RFC 3339, a date, or `HH:MM` of today.
    pub(crate) fn parse_past(&self, text: &str) -> Result<Timestamp, String> {
        if let Ok(duration) = humantime::parse_duration(text) {
            let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
            let past = Timestamp::from_second(self.now.as_second().saturating_sub(seconds));
            return past.map_err(|_| format!("{text:?} is too long ago"));
        }
        if let Ok(time) = text.parse::<Time>() {
            let today = self.now.to_zoned_datetime(self.zone.clone()).date();
            return self.at(today, time, text);
        }
        self.parse(text)
    }

    fn parse(&self, text: &str) -> Result<Timestamp, String> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(at);
        }
        if let Ok(date) = text.parse::<Date>()
            && text.len() == 10
        {
            return self.at(date, Time::midnight(), text);
        }
        let today = self.now.to_zoned_datetime(self.zone.clone()).date();
        let tomorrow = today.saturating_add(1.day());
        if let Some(rest) = text.strip_prefix("tomorrow") {
            let time = if rest.is_empty() { Ok(Time::midnight()) } else { rest.trim().parse::<Time>() };
            if let Ok(time) = time {
                return self.at(tomorrow, time, text);
            }
        }
        if let Ok(time) = text.parse::<Time>() {
            let at = self.at(today, time, text)?;
            return if at > self.now { Ok(at) } else { self.at(tomorrow, time, text) };
        }
        Err("give a time as 2026-12-01, 08:00, \"tomorrow 08:00\" or 2026-12-01T08:00:00+01:00".to_owned())
    }

    fn at(&self, date: Date, time: Time, text: &str) -> Result<Timestamp, String> {
        self.zone.to_timestamp(date.to_datetime(time)).map_err(|_| format!("{text:?} is out of range"))
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
        assert_eq!(clock.compact("2026-11-25T07:12:58Z".parse()?), "now");
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
            ("2026-12-02T07:00:00Z", "2026-12-02"),
            ("2026-11-20T07:00:00Z", "2026-11-20"),
        ];
        for (at, text) in cases {
            assert_eq!(clock.moment(at.parse()?), text);
        }
        Ok(())
    }

    #[test]
    fn a_time_to_come_is_read_in_five_ways() -> Outcome {
        let clock = clock()?;
        let cases = [
            ("2026-12-01T08:00:00+01:00", "2026-12-01T07:00:00Z"),
            ("2026-12-01", "2026-11-30T23:00:00Z"),
            ("18:00", "2026-11-25T17:00:00Z"),
            ("08:00", "2026-11-26T07:00:00Z"),
            ("tomorrow 08:30", "2026-11-26T07:30:00Z"),
            ("tomorrow", "2026-11-25T23:00:00Z"),
        ];
        for (text, at) in cases {
            assert_eq!(clock.parse_future(text)?, at.parse()?, "{text}");
        }
        assert!(clock.parse_future("2026-11-24").is_err_and(|fault| fault.contains("is in the past")));
        assert!(clock.parse_future("soon").is_err());
        Ok(())
    }

    #[test]
    fn a_time_that_was_is_read_in_three_ways() -> Outcome {
        let clock = clock()?;
        for (text, at) in
            [("2h", "2026-11-25T05:13:00Z"), ("07:00", "2026-11-25T06:00:00Z"), ("2026-11-01", "2026-10-31T23:00:00Z")]
        {
            assert_eq!(clock.parse_past(text)?, at.parse()?, "{text}");
        }
        Ok(())
    }
}
