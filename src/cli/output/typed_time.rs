//! Times and lengths of time as people type them. All that this program prints can be read again.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::fmt::strtime;
use jiff::fmt::temporal::Pieces;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, ToSpan, ZonedDateTime};

use super::time::{Clock, with_offset};

const PAST_FORMS: &str = "give a time as 2h, \"3d ago\", 08:00, yesterday, \"yesterday 08:00\", monday, 2026-11-01, \
    \"2026-11-01 08:00\" or 2026-11-01T08:00:00+01:00";
const FUTURE_FORMS: &str = "give a time as 2h, 08:00, tomorrow, \"tomorrow 08:00\", monday, 2026-12-01, \
    \"2026-12-01 08:00\" or 2026-12-01T08:00:00+01:00";

/// On which side of now a time is meant to be. Decides what a length, a weekday and a time of day mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Past,
    Future,
}

impl Clock {
    /// Parses a future instant. A length counts from now; a weekday and a time of day mean the next one.
    pub(crate) fn parse_future(&self, text: &str) -> Result<Timestamp, String> {
        let at = self.read(text, Side::Future)?;
        if at > self.now() {
            return Ok(at);
        }
        Err(format!("{text:?} is in the past: it is {} now", self.full(self.now())))
    }

    /// Parses a past instant. A length counts back from now; a weekday and a time of day mean the last one.
    pub(crate) fn parse_past(&self, text: &str) -> Result<Timestamp, String> {
        let at = self.read(text, Side::Past)?;
        if at <= self.now() {
            return Ok(at);
        }
        Err(format!("{text:?} is in the future: it is {} now", self.full(self.now())))
    }

    fn read(&self, text: &str, side: Side) -> Result<Timestamp, String> {
        let typed = padded(without_age(text.trim()));
        let words = typed.to_lowercase();
        if matches!(words.as_str(), "now" | "just now") {
            return Ok(self.now());
        }
        // A time of day comes before a length: jiff would take 08:00:00 for a length too.
        let read = self.dated(&typed).or_else(|| self.spoken(&words, side)).or_else(|| self.away(&typed, side));
        let forms = if side == Side::Past { PAST_FORMS } else { FUTURE_FORMS };
        read.unwrap_or_else(|| Err(forms.to_owned()))
    }

    /// Reads a date, with or without a time and a zone. `None` if the text does not begin with a date.
    fn dated(&self, text: &str) -> Option<Result<Timestamp, String>> {
        // A space before the offset is common, as in the output of `date --rfc-3339`.
        let text = &text.replace(" +", "+");
        let pieces = Pieces::parse(text).ok()?;
        let (date, time) = (pieces.date(), pieces.time());
        let annotated = match pieces.to_time_zone() {
            Ok(annotated) => annotated,
            Err(fault) => return Some(Err(fault.to_string())),
        };
        Some(match (pieces.to_numeric_offset(), annotated) {
            (Some(_), Some(_)) => zoned(text),
            (Some(offset), None) => offset.to_timestamp(of(date, time)).map_err(|_| out_of_range(text)),
            (None, Some(zone)) => instant(&zone, date, time, text),
            (None, None) => instant(self.zone(), date, time, text),
        })
    }

    /// Reads a time of day, or a day in words with or without one. `None` if the text is neither.
    fn spoken(&self, text: &str, side: Side) -> Option<Result<Timestamp, String>> {
        let now = self.now().to_zoned_datetime(self.zone().clone()).datetime();
        let (today, tomorrow) = (now.date(), now.date().saturating_add(1.day()));
        let yesterday = today.saturating_sub(1.day());
        if let Some(time) = time_of_day(text) {
            let day = match side {
                Side::Future if time <= now.time() => tomorrow,
                Side::Past if time > now.time() => yesterday,
                Side::Future | Side::Past => today,
            };
            return Some(instant(self.zone(), day, Some(time), text));
        }
        let (word, time) = match text.split_once(' ') {
            Some((word, time)) => (word, Some(time_of_day(time.trim_start())?)),
            None => (text, None),
        };
        let day = match word {
            "yesterday" => yesterday,
            "today" => today,
            "tomorrow" => tomorrow,
            _ => nearest(now, weekday(word)?, time, side),
        };
        Some(instant(self.zone(), day, time, text))
    }

    /// Reads a length before or after now: `2h`, `3 d ago`, `in 2 h`, `3 h left`. `None` if the text is no length.
    fn away(&self, text: &str, side: Side) -> Option<Result<Timestamp, String>> {
        let ahead = text.strip_prefix("in ").or_else(|| text.strip_suffix(" left"));
        let length = signed_length(ahead.unwrap_or(text))?;
        let back = ahead.is_none() && side == Side::Past && length.is_positive();
        let at = if back { self.now().checked_sub(length) } else { self.now().checked_add(length) };
        Some(at.map_err(|_| out_of_range(text)))
    }
}

/// Parses a length of time, as this program prints it: `2h`, `1h 30m`, `3 d`. As there, a month has 30 days and a year
/// 365.
pub(crate) fn read_length(text: &str) -> Option<Duration> {
    signed_length(text.trim()).and_then(|length| Duration::try_from(length).ok())
}

fn signed_length(text: &str) -> Option<SignedDuration> {
    let span: Span = Some(text).filter(|text| !text.contains(':'))?.parse().ok()?;
    let days = 365 * i64::from(span.get_years()) + 30 * i64::from(span.get_months());
    let rest = span.years(0).months(0).to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    rest.checked_add(SignedDuration::from_hours(24 * days))
}

/// The text without the age that `users show` prints after a time: `2026-11-25 08:14, 2 h ago`.
fn without_age(text: &str) -> &str {
    match text.split_once(", ") {
        Some((time, _)) if Pieces::parse(time).is_ok() => time,
        _ => text,
    }
}

/// `8:00` as `08:00`.
fn padded(text: &str) -> String {
    let hour = text.split(':').next().unwrap_or_default();
    let mut symbols = hour.chars().rev();
    let lonely = symbols.next().is_some_and(|digit| digit.is_ascii_digit())
        && symbols.next().is_none_or(|before| matches!(before, ' ' | 'T' | 't'));
    let before = hour.len().saturating_sub(1);
    match text.split_at_checked(before) {
        Some((before, rest)) if lonely && rest.contains(':') => format!("{before}0{rest}"),
        _ => text.to_owned(),
    }
}

/// `08:00`, `08:00:05.5`. jiff's own parser of a `Time` also takes a date with a time, and drops the date.
fn time_of_day(text: &str) -> Option<Time> {
    let clock = text.contains(':') && text.chars().all(|symbol| symbol.is_ascii_digit() || ":.".contains(symbol));
    if clock { text.parse().ok() } else { None }
}

/// `mon`, `monday`.
fn weekday(text: &str) -> Option<Weekday> {
    let named = ["%A", "%a"].iter().find_map(|format| strtime::parse(format, text).ok());
    named.and_then(|parsed| parsed.weekday())
}

/// The day of the last or the next such weekday and time.
fn nearest(now: DateTime, weekday: Weekday, time: Option<Time>, side: Side) -> Date {
    let today = now.date();
    match side {
        Side::Future => {
            let day = today.saturating_add(i64::from(today.weekday().until(weekday)).days());
            if of(day, time) > now { day } else { day.saturating_add(7.days()) }
        }
        Side::Past => {
            let day = today.saturating_sub(i64::from(today.weekday().since(weekday)).days());
            if of(day, time) <= now { day } else { day.saturating_sub(7.days()) }
        }
    }
}

fn of(date: Date, time: Option<Time>) -> DateTime {
    date.to_datetime(time.unwrap_or_else(Time::midnight))
}

/// The instant of a local time, or the two readings of one that a change of the clocks makes ambiguous or skips. A date
/// without a time is the start of the day.
fn instant(zone: &TimeZone, date: Date, time: Option<Time>, text: &str) -> Result<Timestamp, String> {
    let local = of(date, time);
    let possible = zone.to_ambiguous_timestamp(local);
    if time.is_none() {
        return possible.compatible().map_err(|_| out_of_range(text));
    }
    let readings = |before: Offset, after: Offset| -> Result<String, String> {
        let reading = |offset: Offset| {
            offset
                .to_timestamp(local)
                .map(|at| with_offset(&at.to_zoned_datetime(zone.clone())))
                .map_err(|_| out_of_range(text))
        };
        Ok(format!("\"{}\" or \"{}\"", reading(before)?, reading(after)?))
    };
    match possible.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).map_err(|_| out_of_range(text)),
        AmbiguousOffset::Fold { before, after } => {
            Err(format!("{text:?} comes twice, since the clocks go back then: write {}", readings(before, after)?))
        }
        AmbiguousOffset::Gap { before, after } => Err(format!(
            "{text:?} does not exist, since the clocks go forward then: write {}",
            readings(before, after)?
        )),
    }
}

/// A time with both an offset and a named zone, which must agree.
fn zoned(text: &str) -> Result<Timestamp, String> {
    let read = text.parse::<ZonedDateTime>().map(|at| at.timestamp());
    read.map_err(|_| format!("{text:?}: the zone has another offset then; leave one of them out"))
}

fn out_of_range(text: &str) -> String {
    format!("{text:?} is out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// Wednesday, 08:13 in Berlin, one hour east of Greenwich.
    fn clock() -> Result<Clock, jiff::Error> {
        Ok(Clock::new("2026-11-25T07:13:00Z".parse()?, TimeZone::get("Europe/Berlin")?))
    }

    /// All zones, with the instants around each change of the clocks in five years with changes of rules.
    fn zones() -> Result<Vec<(TimeZone, Vec<Timestamp>)>, jiff::Error> {
        let (from, to): (Timestamp, Timestamp) = ("2014-06-01T00:00:00Z".parse()?, "2019-06-01T00:00:00Z".parse()?);
        let mut zones = Vec::new();
        for name in jiff::tz::db().available() {
            let Ok(zone) = TimeZone::get(name.as_str()) else { continue };
            let changes: Vec<Timestamp> =
                zone.following(from).map(|change| change.timestamp()).take_while(|at| *at < to).collect();
            let around = changes.iter().chain([&from]).flat_map(|change| {
                let second = change.as_second();
                [-3601, -3600, -1800, -1, 0, 59, 1800, 3599, 3600].map(|step| second + step)
            });
            let around: Result<Vec<_>, _> = around.map(Timestamp::from_second).collect();
            zones.push((zone, around?));
        }
        Ok(zones)
    }

    #[test]
    fn what_is_printed_is_read_as_the_same_instant_in_every_zone() -> Outcome {
        let zones = zones()?;
        assert!(zones.len() > 400, "{} zones", zones.len());
        for (zone, instants) in zones {
            for at in instants {
                let minute = Timestamp::from_second(at.as_second().div_euclid(60) * 60)?;
                let week = SignedDuration::from_hours(24 * 7);
                for now in
                    [minute - week, minute - SignedDuration::from_hours(40), minute - SignedDuration::from_mins(1)]
                {
                    let clock = Clock::new(now, zone.clone());
                    let printed = clock.moment(at);
                    assert_eq!(clock.parse_future(&printed), Ok(minute), "{printed} in {zone:?} at {now}");
                }
                for now in [at, at + SignedDuration::from_hours(20)] {
                    let clock = Clock::new(now, zone.clone());
                    let printed = clock.to_the_second(at);
                    assert_eq!(clock.parse_past(&printed), Ok(at), "{printed} in {zone:?} at {now}");
                    for printed in [clock.moment(at), clock.full(at), clock.full_and_ago(at)] {
                        assert_eq!(clock.parse_past(&printed), Ok(minute), "{printed} in {zone:?} at {now}");
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_printed_age_is_read_to_its_own_precision() -> Outcome {
        let clock = clock()?;
        for seconds in [5_i64, 59, 60, 3599, 7200, 169_000, 172_800, 5_000_000, 40_000_000, 100_000_000] {
            let step = SignedDuration::from_secs(seconds);
            let (past, future) = (clock.now() - step, clock.now() + step);
            let read = clock.parse_past(&clock.ago(past))?;
            assert_eq!(clock.ago(read), clock.ago(past));
            assert_eq!(clock.parse_past(&clock.compact(past))?, read);
            assert_eq!(clock.left(clock.parse_future(&clock.left(future))?), clock.left(future));
        }
        assert_eq!(clock.parse_past(&clock.ago(clock.now()))?, clock.now());
        assert_eq!(clock.parse_past(&clock.compact(clock.now()))?, clock.now());
        Ok(())
    }

    #[test]
    fn a_date_with_a_time_is_that_date_and_that_time() -> Outcome {
        let clock = clock()?;
        for (text, at) in [
            ("2030-12-31 08:00", "2030-12-31T07:00:00Z"),
            ("2030-12-31T08:00", "2030-12-31T07:00:00Z"),
            ("2030-12-31 8:00", "2030-12-31T07:00:00Z"),
            ("2030-12-31t08:00:05", "2030-12-31T07:00:05Z"),
            ("2030-12-31 08:00:05.25", "2030-12-31T07:00:05.25Z"),
            ("2030-07-01 08:00", "2030-07-01T06:00:00Z"),
            ("2030-12-31T08:00Z", "2030-12-31T08:00:00Z"),
            ("2030-12-31 08:00z", "2030-12-31T08:00:00Z"),
            ("2030-12-31T08:00-05:00", "2030-12-31T13:00:00Z"),
            ("2030-12-31 08:00+0530", "2030-12-31T02:30:00Z"),
            ("2030-12-31 08:00 +05:30", "2030-12-31T02:30:00Z"),
            ("2030-12-31 08:00[America/New_York]", "2030-12-31T13:00:00Z"),
            ("2030-12-31T08:00-05:00[America/New_York]", "2030-12-31T13:00:00Z"),
            ("2030-12-31", "2030-12-30T23:00:00Z"),
        ] {
            assert_eq!(clock.parse_future(text)?, at.parse()?, "{text}");
            let later = Clock::new("2040-01-01T00:00:00Z".parse()?, clock.zone().clone());
            assert_eq!(later.parse_past(text)?, at.parse()?, "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_future_time_is_the_next_and_a_past_time_the_last() -> Outcome {
        let clock = clock()?;
        for (text, at) in [
            ("18:00", "2026-11-25T17:00:00Z"),
            ("08:00", "2026-11-26T07:00:00Z"),
            ("8:00", "2026-11-26T07:00:00Z"),
            ("today 18:00", "2026-11-25T17:00:00Z"),
            ("tomorrow 08:30", "2026-11-26T07:30:00Z"),
            ("Tomorrow", "2026-11-25T23:00:00Z"),
            ("fri", "2026-11-26T23:00:00Z"),
            ("wednesday", "2026-12-01T23:00:00Z"),
            ("Wed 09:00", "2026-11-25T08:00:00Z"),
            ("2h", "2026-11-25T09:13:00Z"),
            ("in 2 h", "2026-11-25T09:13:00Z"),
            ("1d 30m", "2026-11-26T07:43:00Z"),
        ] {
            assert_eq!(clock.parse_future(text)?, at.parse()?, "{text}");
        }
        for (text, at) in [
            ("07:00", "2026-11-25T06:00:00Z"),
            ("18:00", "2026-11-24T17:00:00Z"),
            ("today", "2026-11-24T23:00:00Z"),
            ("yesterday", "2026-11-23T23:00:00Z"),
            ("yesterday 14:02", "2026-11-24T13:02:00Z"),
            ("Monday", "2026-11-22T23:00:00Z"),
            ("wed", "2026-11-24T23:00:00Z"),
            ("Wed 09:00", "2026-11-18T08:00:00Z"),
            ("2h", "2026-11-25T05:13:00Z"),
            ("3d ago", "2026-11-22T07:13:00Z"),
            ("1 y", "2025-11-25T07:13:00Z"),
        ] {
            assert_eq!(clock.parse_past(text)?, at.parse()?, "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_time_on_the_wrong_side_of_now_is_refused() -> Outcome {
        let clock = clock()?;
        for text in ["2020-01-01 23:50", "2026-11-25 08:13", "today 08:00", "yesterday", "2h ago", "now", "-2h"] {
            let fault = clock.parse_future(text).err();
            assert_eq!(fault, Some(format!("{text:?} is in the past: it is 2026-11-25 08:13 now")));
        }
        for text in ["2030-01-01", "tomorrow", "today 09:00", "in 2h"] {
            let fault = clock.parse_past(text).err();
            assert_eq!(fault, Some(format!("{text:?} is in the future: it is 2026-11-25 08:13 now")));
        }
        Ok(())
    }

    #[test]
    fn a_local_time_at_a_change_of_the_clocks_is_told_with_both_readings() -> Outcome {
        let clock = clock()?;
        assert_eq!(
            clock.parse_future("2027-10-31 02:30"),
            Err(
                "\"2027-10-31 02:30\" comes twice, since the clocks go back then: write \"2027-10-31 02:30+02:00\" or \
                 \"2027-10-31 02:30+01:00\""
                    .to_owned()
            )
        );
        assert_eq!(
            clock.parse_future("2027-03-28T02:30:05"),
            Err("\"2027-03-28T02:30:05\" does not exist, since the clocks go forward then: write \
                 \"2027-03-28 03:30:05+02:00\" or \"2027-03-28 01:30:05+01:00\""
                .to_owned())
        );
        for (text, at) in [
            ("2027-10-31 02:30+02:00", "2027-10-31T00:30:00Z"),
            ("2027-10-31 02:30+01:00[Europe/Berlin]", "2027-10-31T01:30:00Z"),
            ("2027-03-28 03:30+02:00", "2027-03-28T01:30:00Z"),
        ] {
            assert_eq!(clock.parse_future(text)?, at.parse()?, "{text}");
        }
        let contradiction = clock.parse_future("2027-03-28 03:30+05:00[Europe/Berlin]");
        assert!(contradiction.as_ref().is_err_and(|fault| fault.contains("another offset")), "{contradiction:?}");
        let unknown = clock.parse_future("2027-03-28 03:30[Europe/Nowhere]");
        assert!(unknown.as_ref().is_err_and(|fault| fault.contains("Europe/Nowhere")), "{unknown:?}");
        // In Cairo this day begins at 01:00.
        let cairo = Clock::new(clock.now(), TimeZone::get("Africa/Cairo")?);
        assert_eq!(cairo.parse_future("2027-04-30")?, "2027-04-29T22:00:00Z".parse()?);
        Ok(())
    }

    #[test]
    fn what_is_no_time_is_answered_with_the_forms() -> Outcome {
        let clock = clock()?;
        for text in
            ["", "soon", "8", "2M", "2026-13-01", "2026-02-30 08:00", "08:00 tomorrow", "monday soon", "25:00", "mo"]
        {
            assert_eq!(clock.parse_future(text), Err(FUTURE_FORMS.to_owned()), "{text}");
            assert_eq!(clock.parse_past(text), Err(PAST_FORMS.to_owned()), "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_length_is_read_as_it_is_printed() {
        let hours = |hours: u64| Some(Duration::from_hours(hours));
        for (text, length) in [
            ("2h", hours(2)),
            ("90 m", Some(Duration::from_mins(90))),
            ("1h 30m", Some(Duration::from_mins(90))),
            ("7d", hours(7 * 24)),
            ("2 weeks", hours(14 * 24)),
            ("2 mo", hours(60 * 24)),
            ("1 y", hours(365 * 24)),
            ("-2h", None),
            ("2h ago", None),
            ("2M", None),
            ("08:00", None),
            ("90", None),
        ] {
            assert_eq!(read_length(text), length, "{text}");
        }
    }
}
