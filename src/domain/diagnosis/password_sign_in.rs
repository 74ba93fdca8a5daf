//! Findings about sign-ins with a password.

use std::net::IpAddr;

use super::mail::{of_newest_message, of_outage, of_password_mail, of_refused_notice};
use super::second_factor::of_second_factor;
use super::{Code, Facts, Finding, Readiness, Severity, SourceBlock, WrongPasswords, counted, has_unusable_hash};
use crate::domain::lockout::Throttle;
use crate::domain::sign_in_ability::Remedy;
use crate::domain::time::Timestamp;
use crate::domain::user::User;

/// The findings about sign-ins with a password.
pub(super) fn of_person(user: &User, facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = of_server(facts.readiness).into_iter().collect();
    if has_unusable_hash(user, facts) {
        let summary =
            "The stored password hash has a format that this server cannot verify, so every password is rejected.";
        let finding = Finding::new(Code::HashUnsupported, Severity::Blocking, summary);
        findings.push(finding.helped("Reset the password.", Some(Remedy::ResetPassword)));
    }
    findings.extend(facts.blocks.iter().map(|(address, block)| of_block(*address, block, facts.place.is_some())));
    findings.extend([false, true].into_iter().filter_map(|is_familiar| of_throttle(user, facts, is_familiar, now)));
    if let Some(until) = facts.sign_ins_limited_until {
        let summary = "The user has signed in too often with the right password. Further sign-ins are RATE_LIMITED.";
        let finding = Finding::new(Code::SignInsLimited, Severity::Blocking, summary);
        let finding = finding.helped("Keep the session and refresh its tokens, or use an API token.", None);
        findings.push(Finding { until: Some(until), ..finding });
    }
    findings.extend(facts.wrong_passwords.as_ref().map(|wrong| of_wrong_passwords(wrong, user)));
    findings.extend(of_second_factor(user, facts, now));
    let of_mail = of_newest_message(user, &facts.deliveries, now);
    let is_told = of_mail.is_some() || of_password_mail(user, &facts.deliveries, now).is_some();
    let of_notice = of_refused_notice(user, &facts.deliveries).filter(|_| !is_told);
    findings.extend(of_mail.or(of_notice));
    findings.extend(facts.mail_failure.as_deref().map(of_outage));
    findings
}

fn of_server(readiness: Readiness) -> Option<Finding> {
    let (summary, remedy) = match readiness {
        Readiness::Ready => return None,
        Readiness::Saturated => ("The hashing queue is full, so sign-ins are HASHING_SATURATED.", "Try again."),
        Readiness::ReadOnly => (
            "The database accepts no changes, so no user can sign in.",
            "Free the disk, or let the database accept changes.",
        ),
    };
    Some(Finding::new(Code::ServerNotReady, Severity::Blocking, summary).helped(remedy, None))
}

/// `is_place` is whether a sign-in from there is judged.
fn of_block(address: IpAddr, block: &SourceBlock, is_place: bool) -> Finding {
    let failures = counted(block.failures, "failed sign-in");
    let names = counted(block.names, "name");
    let summary =
        format!("{address} is blocked after {failures} under {names}. All sign-ins from there are RATE_LIMITED.");
    let severity = if is_place { Severity::Blocking } else { Severity::Warning };
    let finding = Finding::new(Code::ThrottledSource, severity, summary);
    let finding = finding.helped("Wait, or sign in from another network.", None);
    Finding { since: block.since, until: Some(block.until), ..finding }
}

fn of_throttle(user: &User, facts: &Facts, is_familiar: bool, now: Timestamp) -> Option<Finding> {
    let of_places = facts.throttles.iter().filter(|throttle| throttle.is_familiar == is_familiar);
    let throttle = Throttle::over(of_places).filter(|throttle| throttle.until.is_none_or(|until| until > now))?;
    let here = facts.place.filter(|place| place.is_familiar == is_familiar);
    let places = match (here, is_familiar) {
        (Some(place), true) => format!("{}, where {},", place.address, made_familiar(user)),
        (Some(place), false) => format!("{}, where the user has not signed in before,", place.address),
        (None, true) => format!("places where {}", made_familiar(user)),
        (None, false) => "places where the user has not signed in before".to_owned(),
    };
    let what = if throttle.until.is_some() { "throttled" } else { "refused" };
    let failures = counted(throttle.failures, "wrong password");
    let summary = format!("Sign-ins from {places} are {what} after {failures}.");
    let remedy = match (is_familiar, throttle.until) {
        (false, Some(_)) if user.last_sign_in_at.is_none() => "Wait, or unlock the account.",
        (false, None) if user.last_sign_in_at.is_none() => "Unlock the account.",
        (false, Some(_)) => "Wait, sign in from a place where the user has signed in before, or unlock the account.",
        (false, None) => "Sign in from a place where the user has signed in before, or unlock the account.",
        (true, _) => "Wait, or unlock the account.",
    };
    let severity = if facts.place.is_none() || here.is_some() { Severity::Blocking } else { Severity::Info };
    let finding = Finding::new(Code::ThrottledAccount, severity, summary).helped(remedy, Some(Remedy::Unlock));
    Some(Finding { until: throttle.until, ..finding })
}

/// What made places familiar: a sign-in, or a link by which the user set the password.
pub(super) fn made_familiar(user: &User) -> &'static str {
    if user.last_sign_in_at.is_some() { "the user has signed in before" } else { "the user has set the password" }
}

fn of_wrong_passwords(wrong: &WrongPasswords, user: &User) -> Finding {
    let from = if wrong.last_from.is_empty() { String::new() } else { format!(", the last from {}", wrong.last_from) };
    let summary = format!("{} in 24 hours{from}.", counted(wrong.count, "wrong password"));
    // A sign-in, or another password since, has answered them.
    let answers = [user.last_sign_in_at, user.password.as_ref().map(|password| password.changed_at)];
    let are_the_last = answers.into_iter().flatten().all(|at| at < wrong.last_at);
    let severity = if are_the_last { Severity::Warning } else { Severity::Info };
    let finding = Finding::new(Code::WrongPasswordLately, severity, summary);
    let finding = finding.helped("If the user has forgotten the password, reset it.", Some(Remedy::ResetPassword));
    Finding { since: Some(wrong.last_at), ..finding }
}
