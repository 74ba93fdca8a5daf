//! Findings about the second factor.

use super::{Code, Facts, Finding, Severity, counted};
use crate::domain::sign_in_ability::Remedy;
use crate::domain::time::Timestamp;
use crate::domain::user::User;

fn of_missing_factor(user: &User, now: Timestamp) -> Option<Finding> {
    let from = user.second_factor_from()?;
    let (severity, summary) = if from <= now {
        (Severity::Warning, "The policy asks for a second factor, which the next sign-in sets up.")
    } else {
        (Severity::Info, "The policy will ask for a second factor, and none is set up.")
    };
    let finding = Finding::new(Code::SecondFactorNotEnrolled, severity, summary);
    let finding = finding.helped("The user sets up an authenticator: `latchkey mfa enroll`.", None);
    Some(Finding { until: Some(from).filter(|from| *from > now), ..finding })
}

/// The findings about the second factor.
pub(super) fn of_second_factor(user: &User, facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let Some(factor) = &user.second_factor else { return of_missing_factor(user, now).into_iter().collect() };
    let mut findings = Vec::new();
    if let Some(until) = factor.refused_until(now) {
        let failures = counted(factor.failures, "wrong code");
        let summary = format!("Codes of the second factor are refused after {failures} in a row.");
        let finding = Finding::new(Code::SecondFactorRejectedLately, Severity::Blocking, summary);
        let finding = finding.helped("Wait, or unlock the account.", Some(Remedy::Unlock));
        findings.push(Finding { until: Some(until), ..finding });
    } else if let Some(wrong) = &facts.wrong_codes {
        let summary = format!("{} of the second factor in 24 hours.", counted(wrong.count, "wrong code"));
        let severity = if factor.failures > 0 { Severity::Warning } else { Severity::Info };
        let finding = Finding::new(Code::SecondFactorRejectedLately, severity, summary);
        let remedy = "If the user has lost the authenticator, use a recovery code, or remove the second factor.";
        let finding = finding.helped(remedy, Some(Remedy::ResetSecondFactor));
        findings.push(Finding { since: Some(wrong.last_at), ..finding });
    }
    if let Some((at, ahead)) = facts.wrong_codes.as_ref().and_then(|wrong| Some((wrong.last_at, wrong.clock_ahead?))) {
        let which = if ahead > 0 { "ahead" } else { "behind" };
        let summary = format!("The last wrong code is right for a clock that is {} s {which}.", ahead.unsigned_abs());
        let finding = Finding::new(Code::SecondFactorClockSkew, Severity::Warning, summary);
        let finding = finding.helped("Set the clock of the user's device: let it take the time of the network.", None);
        findings.push(Finding { since: Some(at), ..finding });
    }
    if factor.recovery_codes_left == 0 {
        let summary = "No recovery code is left. If the authenticator is lost, an operator must help.";
        let finding = Finding::new(Code::RecoveryCodesExhausted, Severity::Info, summary);
        findings.push(finding.helped("The user makes new ones: `latchkey mfa codes`.", None));
    }
    findings
}
