//! How long events are kept, and when older ones are deleted.

use std::time::Duration;

use super::time::Timestamp;

/// How far a deletion may reach beyond the one before without a warning. If it reaches further, the database is from before
/// there was a retention, the retention was shortened, or a clock is wrong: then it waits as long.
pub const NOTICE: Duration = Duration::from_hours(7 * 24);

/// Events that are kept equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptClass {
    /// What operators and the server did.
    Operators,
    /// Sign-ins, failures at an account, and refusals of known callers.
    SignIns,
    /// Failures of callers who are unknown, at no account: unknown names, dead tokens.
    Strangers,
}

impl KeptClass {
    /// All classes.
    pub const ALL: [KeptClass; 3] = [KeptClass::Operators, KeptClass::SignIns, KeptClass::Strangers];

    /// The name of the setting.
    pub fn setting(self) -> &'static str {
        match self {
            KeptClass::Operators => "audit.retention.operators",
            KeptClass::SignIns => "audit.retention.sign_ins",
            KeptClass::Strangers => "audit.retention.strangers",
        }
    }
}

/// How long events are kept. Zero keeps them for ever.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// What operators and the server did.
    pub operators: Duration,
    /// Sign-ins, failures at an account, and refusals of known callers.
    pub sign_ins: Duration,
    /// Failures of callers who are unknown, at no account.
    pub strangers: Duration,
}

impl Retention {
    /// How long events of a class are kept. `None` keeps them for ever.
    pub fn of(&self, class: KeptClass) -> Option<Duration> {
        let kept = match class {
            KeptClass::Operators => self.operators,
            KeptClass::SignIns => self.sign_ins,
            KeptClass::Strangers => self.strangers,
        };
        (!kept.is_zero()).then_some(kept)
    }
}

/// What is remembered of the deletion of a class of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// The class.
    pub class: KeptClass,
    /// Older events were looked for up to then.
    pub swept_until: Timestamp,
    /// Until when a deletion waits that reaches much further.
    pub waits_until: Option<Timestamp>,
    /// The class is complete since then. `None` if nothing was deleted.
    pub complete_since: Option<Timestamp>,
}

/// What to do with the old events of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// There are none: remember that.
    Nothing(Horizon),
    /// Remember and announce that their deletion waits.
    Announce(Horizon),
    /// Their deletion waits still.
    Wait,
    /// Remember that they are deleted, and delete them.
    Delete(Horizon),
}

impl Sweep {
    /// Decides what to do with the events from before `cut`. `before` is what is remembered of the class.
    pub fn of(class: KeptClass, before: Option<Horizon>, cut: Timestamp, has_older: bool, now: Timestamp) -> Sweep {
        let complete_since = before.and_then(|before| before.complete_since);
        let done = Horizon { class, swept_until: cut, waits_until: None, complete_since };
        if !has_older {
            return Sweep::Nothing(done);
        }
        let swept_until = before.map_or(Timestamp::from_micros(0), |before| before.swept_until);
        let waits_until = before.and_then(|before| before.waits_until);
        let latest = now.saturating_add(NOTICE);
        let is_near = cut <= swept_until.saturating_add(NOTICE);
        if is_near || waits_until.is_some_and(|until| until <= now) {
            return Sweep::Delete(Horizon { complete_since: complete_since.max(Some(cut)), ..done });
        }
        match waits_until {
            // A clock was wrong if it waits longer than any announcement says.
            Some(until) if until <= latest => Sweep::Wait,
            _ => Sweep::Announce(Horizon { swept_until, waits_until: Some(latest), ..done }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3_600_000_000;

    fn day(number: i64) -> Timestamp {
        Timestamp::from_micros(number * DAY)
    }

    /// Sweeps events that are kept for 30 days, on a given day.
    fn sweep(before: Option<Horizon>, today: i64, has_older: bool) -> Sweep {
        Sweep::of(KeptClass::Strangers, before, day(today - 30), has_older, day(today))
    }

    fn horizon(swept_until: i64, waits_until: Option<i64>, complete_since: Option<i64>) -> Horizon {
        Horizon {
            class: KeptClass::Strangers,
            swept_until: day(swept_until),
            waits_until: waits_until.map(day),
            complete_since: complete_since.map(day),
        }
    }

    #[test]
    fn the_first_deletion_on_an_old_database_waits_a_week() {
        let announced = horizon(0, Some(1_007), None);
        assert_eq!(sweep(None, 1_000, true), Sweep::Announce(announced));
        assert_eq!(sweep(Some(announced), 1_006, true), Sweep::Wait);
        assert_eq!(sweep(Some(announced), 1_007, true), Sweep::Delete(horizon(977, None, Some(977))));
    }

    #[test]
    fn a_new_database_deletes_from_day_to_day() {
        let known = horizon(970, None, None);
        assert_eq!(sweep(None, 1_000, false), Sweep::Nothing(known));
        assert_eq!(sweep(Some(known), 1_001, true), Sweep::Delete(horizon(971, None, Some(971))));
    }

    #[test]
    fn a_clock_that_jumps_ahead_deletes_nothing_before_a_week() {
        let known = horizon(970, None, Some(970));
        let announced = horizon(970, Some(1_407), Some(970));
        assert_eq!(sweep(Some(known), 1_400, true), Sweep::Announce(announced));
        assert_eq!(sweep(Some(announced), 1_001, true), Sweep::Delete(horizon(971, None, Some(971))), "set right");
        assert_eq!(
            sweep(Some(horizon(0, Some(9_999), None)), 1_000, true),
            Sweep::Announce(horizon(0, Some(1_007), None))
        );
    }

    #[test]
    fn what_was_deleted_stays_known_when_more_is_kept() {
        let known = horizon(970, None, Some(970));
        let longer = Sweep::of(KeptClass::Strangers, Some(known), day(600), false, day(1_000));
        assert_eq!(longer, Sweep::Nothing(horizon(600, None, Some(970))));
    }
}
