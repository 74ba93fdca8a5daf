//! Times, durations and other words of mails.

use std::time::Duration;

use jiff::tz::Offset;

use crate::domain::language::Language;
use crate::domain::time::Timestamp;

/// Months in English.
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Months in German.
const MONATE: [&str; 12] = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
];

impl Language {
    /// A time, such as `29 November 2026, 14:05 UTC`.
    pub(super) fn time(self, at: Timestamp) -> String {
        let Ok(instant) = jiff::Timestamp::from_second(at.as_unix_seconds()) else { return at.to_string() };
        let time = Offset::UTC.to_datetime(instant);
        let month = usize::from(time.month().unsigned_abs()).saturating_sub(1);
        let (months, separator) = match self {
            Language::English => (MONTHS, " "),
            Language::German => (MONATE, ". "),
        };
        let (month, year) = (months.get(month).copied().unwrap_or_default(), time.year());
        format!("{}{separator}{month} {year}, {:02}:{:02} UTC", time.day(), time.hour(), time.minute())
    }

    /// A duration in one unit, such as `24 hours`: rounded to the minute, since a message is made a moment after what it tells
    /// of, and from there on rounded down.
    pub(super) fn duration(self, duration: Duration) -> String {
        let minutes = ((duration.as_secs() + 30) / 60).max(1);
        let (hours, days) = (minutes / 60, minutes / (24 * 60));
        let [minute, hour, day] = match self {
            Language::English => [("minute", "minutes"), ("hour", "hours"), ("day", "days")],
            Language::German => [("Minute", "Minuten"), ("Stunde", "Stunden"), ("Tag", "Tage")],
        };
        let (count, (one, many)) = match () {
            () if days >= 2 => (days, day),
            () if hours >= 2 || minutes == 60 => (hours, hour),
            () => (minutes, minute),
        };
        format!("{count} {}", if count == 1 { one } else { many })
    }

    /// The words before the name of an operator, and before an IP address.
    pub(super) fn by_and_from(self) -> (&'static str, &'static str) {
        match self {
            Language::English => ("by", "from"),
            Language::German => ("von", "von"),
        }
    }

    /// An operator without a name, after the word for "by".
    pub(super) fn an_administrator(self) -> &'static str {
        match self {
            Language::English => "an administrator",
            Language::German => "der Administration",
        }
    }

    /// The contact if none is configured.
    pub(super) fn your_administrator(self) -> &'static str {
        match self {
            Language::English => "your administrator",
            Language::German => "Ihre Administration",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn times_are_written_as_people_of_the_language_write_them() {
        let at = Timestamp::from_micros(1_795_961_100_000_000);
        assert_eq!(Language::English.time(at), "29 November 2026, 14:05 UTC");
        assert_eq!(Language::German.time(at), "29. November 2026, 14:05 UTC");
        assert_eq!(Language::German.time(Timestamp::from_micros(0)), "1. Januar 1970, 00:00 UTC");
        assert!(!Language::English.time(Timestamp::from_micros(i64::MAX)).is_empty());
    }

    #[test]
    fn durations_have_one_unit() {
        let minutes = |count| Duration::from_mins(count);
        for (duration, english, german) in [
            (Duration::ZERO, "1 minute", "1 Minute"),
            (minutes(30), "30 minutes", "30 Minuten"),
            (minutes(60), "1 hour", "1 Stunde"),
            (minutes(90), "90 minutes", "90 Minuten"),
            (minutes(150), "2 hours", "2 Stunden"),
            (DAY, "24 hours", "24 Stunden"),
            (3 * DAY, "3 days", "3 Tage"),
            (Duration::from_millis(4 * 3_600_000 - 40), "4 hours", "4 Stunden"),
            (Duration::from_millis(24 * 3_600_000 - 40), "24 hours", "24 Stunden"),
            (minutes(239), "3 hours", "3 Stunden"),
        ] {
            assert_eq!(Language::English.duration(duration), english);
            assert_eq!(Language::German.duration(duration), german);
        }
    }
}
