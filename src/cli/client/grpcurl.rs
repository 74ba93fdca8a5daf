//! `--show-grpcurl`: prints a call as a grpcurl command instead of making it.
//!
//! Secrets become placeholders, and the token comes from the environment, to keep both out of the shell's history.

use super::call::{Call, Method, redact};
use super::target::Target;
use super::tls::Trust;
use crate::cli::error::Error;
use crate::cli::output::json;
use crate::cli::output::words::shell_word;

/// The call as a grpcurl command.
pub(crate) fn show<C: Call>(target: &Target, trust: &Trust, has_token: bool, request: &C) -> Result<String, Error> {
    let method = Method::of::<C>()?;
    let mut message = method.request(request)?;
    redact(&mut message);
    let body = json::pretty(&message)?;
    Ok(command(target, trust, has_token && method.wants_identity(&message), method.name(), &body))
}

fn command(target: &Target, trust: &Trust, token: bool, method: &str, body: &str) -> String {
    let mut words = vec!["grpcurl".to_owned()];
    match target {
        Target::Tls(_) => words
            .extend(trust.grpcurl().map(|(flag, path)| format!("{flag} {}", shell_word(&path.display().to_string())))),
        Target::Tcp(_) | Target::Socket(..) => words.push("-plaintext".to_owned()),
    }
    if token {
        words.push("-expand-headers -H 'authorization: Bearer ${LATCHKEY_TOKEN}'".to_owned());
    }
    if body != "{}" {
        words.push("-d @".to_owned());
    }
    match target {
        Target::Tcp(_) | Target::Tls(_) => words.push(shell_word(&target.place())),
        Target::Socket(..) => words.push(format!("-unix {}", shell_word(&target.place()))),
    }
    words.push(method.to_owned());
    let line = words.join(" ");
    if body == "{}" { line } else { format!("{line} <<'EOF'\n{body}\nEOF") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::target::ChosenBy;

    #[test]
    fn a_call_over_the_network_takes_its_token_from_the_environment() -> Result<(), Error> {
        let target = Target::parse("127.0.0.1:50051")?;
        let text = command(&target, &Trust::default(), true, "latchkey.v1.UserAdmin/GetUser", "{\n  \"user\": {}\n}");
        assert_eq!(
            text,
            "grpcurl -plaintext -expand-headers -H 'authorization: Bearer ${LATCHKEY_TOKEN}' -d @ 127.0.0.1:50051 \
             latchkey.v1.UserAdmin/GetUser <<'EOF'\n{\n  \"user\": {}\n}\nEOF"
        );
        Ok(())
    }

    #[test]
    fn a_call_over_tls_names_the_ca() -> Result<(), Error> {
        let target = Target::parse("https://id.example.org:50051")?;
        let trust = Trust::of_ca(Some("/etc/ca.pem".into()));
        let text = command(&target, &trust, false, "latchkey.v1.Auth/WhoAmI", "{}");
        assert_eq!(text, "grpcurl -cacert /etc/ca.pem id.example.org:50051 latchkey.v1.Auth/WhoAmI");
        Ok(())
    }

    #[test]
    fn an_address_is_one_word_of_the_shell() -> Result<(), Error> {
        for (server, word) in [("$(id):1", "'$(id):1'"), ("a;b:1", "'a;b:1'"), ("[::1]:1", "'[::1]:1'")] {
            let target = Target::parse(&format!("http://{server}"))?;
            let text = command(&target, &Trust::default(), false, "latchkey.v1.Auth/WhoAmI", "{}");
            assert_eq!(text, format!("grpcurl -plaintext {word} latchkey.v1.Auth/WhoAmI"));
        }
        Ok(())
    }

    #[test]
    fn an_empty_call_through_the_socket_is_one_line() {
        let target = Target::Socket("/run/l k.sock".into(), ChosenBy::User);
        let text = command(&target, &Trust::default(), false, "latchkey.v1.Auth/WhoAmI", "{}");
        assert_eq!(text, "grpcurl -plaintext -unix '/run/l k.sock' latchkey.v1.Auth/WhoAmI");
    }
}
