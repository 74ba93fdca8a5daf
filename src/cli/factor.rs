//! Codes of the second factor: asking for one, and calls that need one.

use secrecy::ExposeSecret;

use super::client::call::Call;
use super::error::{Error, Exit};
use super::output::text::{Text, Tone};
use super::setting::Cli;
use crate::proto::v1::second_factor_proof::Code;
use crate::proto::v1::{
    ChangePasswordRequest, CompletePasswordResetRequest, DisableTotpRequest, EnrollTotpRequest,
    RegenerateRecoveryCodesRequest, SecondFactorProof,
};

/// The number of codes that are asked for before a command ends. A ticket of the server has as many tries.
pub(crate) const TRIES: usize = 5;

/// The question for a code.
pub(crate) const QUESTION: &str = "Code of your authenticator, or a recovery code";

/// The symbols of a recovery code, without hyphens.
const RECOVERY_SYMBOLS: usize = 16;

/// Where codes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    /// They are asked for.
    Asked,
    /// The next line of standard input.
    Stdin,
}

impl Codes {
    /// Standard input if an option says so.
    pub(crate) fn of(from_stdin: bool) -> Codes {
        if from_stdin { Codes::Stdin } else { Codes::Asked }
    }
}

/// A request with a code of the caller's second factor.
pub(crate) trait TakesCode: Call {
    /// The same request with a code.
    #[must_use]
    fn proved_by(self, proof: SecondFactorProof) -> Self;
}

macro_rules! takes_code {
    ($($request:ident)*) => {
        $(impl TakesCode for $request {
            fn proved_by(mut self, proof: SecondFactorProof) -> Self {
                self.second_factor = Some(proof);
                self
            }
        })*
    };
}

takes_code!(
    ChangePasswordRequest CompletePasswordResetRequest DisableTotpRequest EnrollTotpRequest
    RegenerateRecoveryCodesRequest
);

impl Cli {
    /// Makes a call. If the server wants a code for it, gets one and makes the same call again.
    pub(crate) async fn call_with_code<C: TakesCode>(&self, request: C, codes: Codes) -> Result<C::Answer, Error> {
        match self.call(request.clone()).await {
            Err(error) if wants_code(&error) => {
                let again = async |proof| self.call(request.clone().proved_by(proof)).await;
                self.prove(codes, again).await
            }
            outcome => outcome,
        }
    }

    /// Gets a code and tries it. While the code is wrong, asks for another one.
    pub(crate) async fn prove<T>(
        &self,
        codes: Codes,
        attempt: impl AsyncFn(SecondFactorProof) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 1..TRIES {
            match attempt(self.code(codes)?).await {
                Err(error) if error.reason() == "SECOND_FACTOR_REJECTED" && codes == Codes::Asked => {
                    let wrong = "The code is wrong, or was used before. Wait for the next one:";
                    self.screen.note(Text::toned(Tone::Warn, wrong));
                }
                outcome => return outcome,
            }
        }
        attempt(self.code(codes)?).await
    }

    fn code(&self, codes: Codes) -> Result<SecondFactorProof, Error> {
        Ok(proof(&self.secret_code(codes, QUESTION)?))
    }

    /// Gets a code as it was typed, without the spaces around it.
    pub(crate) fn secret_code(&self, codes: Codes, question: &str) -> Result<String, Error> {
        if codes == Codes::Stdin {
            return Ok(self.read_required_secret("the code of the second factor")?.expose_secret().trim().to_owned());
        }
        for _ in 0..TRIES {
            let typed = self.ask_unseen(question, "the code").map_err(|error| error.hint("use --code-stdin"))?;
            let typed = typed.expose_secret().trim();
            if !typed.is_empty() {
                return Ok(typed.to_owned());
            }
        }
        Err(Error::stopped(Exit::Stopped, "no code was typed"))
    }
}

/// Returns whether a call failed for want of a code.
fn wants_code(error: &Error) -> bool {
    let is_required = matches!(error, Error::Refused(refusal) if refusal.has_violation("second_factor", "REQUIRED"));
    is_required || error.reason() == "SECOND_FACTOR_REQUIRED"
}

/// A code as a message. What does not look like a recovery code is sent as a code of the authenticator.
fn proof(typed: &str) -> SecondFactorProof {
    let plain = digits(typed);
    let is_recovery = plain.len() == RECOVERY_SYMBOLS && plain.bytes().all(|symbol| symbol.is_ascii_alphanumeric());
    let code = if is_recovery { Code::RecoveryCode(plain) } else { Code::Totp(plain) };
    SecondFactorProof { code: Some(code) }
}

/// A code without spaces and hyphens, with which authenticators and paper group it.
pub(crate) fn digits(typed: &str) -> String {
    typed.chars().filter(|symbol| !matches!(symbol, ' ' | '-')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_code_is_told_from_six_digits_by_its_form() {
        let totp = |typed: &str| proof(typed).code == Some(Code::Totp(typed.replace(' ', "")));
        assert!(totp("123456") && totp("123 456") && totp("12345") && totp("hello") && totp("é"));
        for typed in ["0123-4567-zzzf-vz7v", "0123 4567 ZZZF VZ7V", "0123456789012345"] {
            assert!(matches!(proof(typed).code, Some(Code::RecoveryCode(_))), "{typed}");
        }
    }
}
