//! Requests and messages of the diagnosis of a sign-in.

use std::net::IpAddr;

use super::user::remedy_method;
use super::{Wrong, bounded, finish, stamp, user_ref};
use crate::app::DiagnoseSignIn;
use crate::domain::diagnosis::{Finding, Severity, Verdict};
use crate::domain::violation::Violations;
use crate::error::Result;
use crate::proto::v1;

/// The maximum length of an address, in bytes: that of an IPv6 address with an IPv4 address at its end.
const MAX_ADDRESS_BYTES: usize = 45;

/// How many attempts are returned by default, and at most.
const DEFAULT_ATTEMPTS: usize = 10;
const MAX_ATTEMPTS: usize = 100;

pub(in crate::grpc) fn diagnose_sign_in(message: v1::DiagnoseSignInRequest) -> Result<DiagnoseSignIn> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let address = address(&mut faults, message.client_address);
    let attempts = usize::try_from(message.max_attempts).map_err(|_| Wrong::PageSize);
    let attempts = faults.check("max_attempts", attempts).map(|number| match number {
        0 => DEFAULT_ATTEMPTS,
        number => number.min(MAX_ATTEMPTS),
    });
    finish(faults, || Some(DiagnoseSignIn { user: user?, client_address: address?, max_attempts: attempts? }))
}

/// Reads an optional address; empty means unset.
fn address(faults: &mut Violations, text: String) -> Option<Option<IpAddr>> {
    let text = bounded(faults, "client_address", text, MAX_ADDRESS_BYTES)?;
    if text.is_empty() {
        return Some(None);
    }
    let parsed = text.parse::<IpAddr>().map_err(|_| Wrong::Address);
    faults.check("client_address", parsed).map(|address| Some(address.to_canonical()))
}

/// Converts a verdict.
pub(in crate::grpc) fn verdict(verdict: Verdict) -> v1::SignInVerdict {
    match verdict {
        Verdict::Can => v1::SignInVerdict::Can,
        Verdict::CanAfterSteps => v1::SignInVerdict::CanAfterSteps,
        Verdict::NotYet => v1::SignInVerdict::NotYet,
        Verdict::Cannot => v1::SignInVerdict::Cannot,
        Verdict::NoSuchUser => v1::SignInVerdict::NoSuchUser,
    }
}

/// Converts a finding to a message.
pub(in crate::grpc) fn finding(finding: Finding) -> v1::SignInFinding {
    use v1::sign_in_finding::{Code, Severity as Level};
    // The domain and the contract use the same names; a test compares them.
    let name: &str = finding.code.into();
    let level = match finding.severity {
        Severity::Info => Level::Info,
        Severity::Warning => Level::Warning,
        Severity::Blocking => Level::Blocking,
    };
    v1::SignInFinding {
        code: Code::from_str_name(&format!("CODE_{name}")).unwrap_or_default().into(),
        severity: level.into(),
        summary: finding.summary,
        remedy: finding.remedy,
        remedy_method: finding.method.map(remedy_method).unwrap_or_default().to_owned(),
        since_time: finding.since.map(stamp),
        until_time: finding.until.map(stamp),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strum::VariantArray;

    use super::*;
    use crate::domain::diagnosis::Code;

    #[test]
    fn every_finding_has_its_code_in_the_contract() {
        let of_domain: BTreeSet<String> =
            Code::VARIANTS.iter().map(|code| format!("CODE_{}", <&str>::from(*code))).collect();
        let numbers = 1..100;
        let of_contract = numbers.filter_map(|number| v1::sign_in_finding::Code::try_from(number).ok());
        let of_contract: BTreeSet<String> = of_contract.map(|code| code.as_str_name().to_owned()).collect();
        assert_eq!(of_domain, of_contract);
    }
}
