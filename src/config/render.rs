//! The configuration as text: the values in effect, and the manual.

use std::fmt::Write;

use super::Config;
use super::database::{DataPath, DatabaseUrl};
use super::key::{Allowed, Key};
use super::keys::{self, Organisation, Root, Support};

impl Config {
    /// Every key with its value and the origin of it, as TOML that can be read again. Passwords are masked.
    pub fn print(&self) -> String {
        let mut text = String::from("# The configuration in effect. The comment after each value is its origin.\n");
        for ((doc, keys), values) in keys::SECTIONS.iter().zip(self.written()) {
            let section = section_of(keys);
            let _ = write!(text, "\n# {}\n", doc.trim());
            if !section.is_empty() {
                let _ = writeln!(text, "[{section}]");
            }
            for (key, value) in keys.iter().zip(values) {
                let name = key.name.rsplit('.').next().unwrap_or(key.name);
                let value = toml_value(&key.allowed, &value);
                let _ = writeln!(text, "# {}", key.doc.trim());
                let _ = writeln!(text, "{name} = {value} # {}", self.origin(key.name));
            }
        }
        text
    }

    /// The names of the keys whose values differ in `other`.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
        let pairs = self.written().into_iter().flatten().zip(other.written().into_iter().flatten());
        let differing = keys::all().zip(pairs).filter(|(_, (own, others))| own != others);
        differing.map(|(key, _)| key.name).collect()
    }

    /// The values of every section, in the order of its keys.
    fn written(&self) -> [Vec<String>; keys::SECTIONS.len()] {
        let database_url = match &self.database_file {
            Some(path) => DatabaseUrl::InFile(path.clone()),
            None => DatabaseUrl::Named(self.database.clone()),
        };
        let root = Root {
            data_dir: self.data_dir.clone(),
            listen: self.listen,
            http_listen: self.http_listen,
            insecure_plaintext: self.insecure_plaintext,
            database_url,
            socket: DataPath::At(self.socket.clone()),
            seal_key_file: DataPath::At(self.seal_key_file.clone()),
            issuer: self.issuer.clone(),
            reflection: self.reflection,
        };
        [
            root.write(),
            self.tls.write(),
            self.connections.write(),
            self.lists.write(),
            self.log.write(),
            self.argon2.write(),
            self.throttle.write(),
            self.password.write(),
            self.temporary_password.write(),
            self.session.write(),
            self.token.write(),
            self.mail.keys().write(),
            self.mail.smtp.write(),
            self.pages.write(),
            self.links.write(),
            Organisation { name: self.organisation.clone() }.write(),
            Support { contact: self.support.clone() }.write(),
            self.retention.write(),
        ]
    }
}

/// The section of these keys; empty for keys without a section.
fn section_of(keys: &[Key]) -> &'static str {
    keys.first().and_then(|key| key.name.rsplit_once('.')).map_or("", |(section, _)| section)
}

/// A value in TOML syntax.
fn toml_value(allowed: &Allowed, value: &str) -> String {
    if allowed.toml_type() != "string" {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for letter in value.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from `src/config/keys.rs`; a test compares the two. -->

`latchkeyd` runs without any configuration. Each of these sources of a value overrides those before it:

1. the default, which every key has;
2. a TOML file, named by `--config FILE` or the variable `LATCHKEY_CONFIG`; there is no default file;
3. an environment variable: `LATCHKEY_` and the key in capitals, with `_` for `.`, such as `LATCHKEY_SESSION_IDLE` for
   `session.idle`;
4. a flag: `--set KEY=VALUE` sets any key, and some keys have a flag of their own.

An unknown key is an error, in the file and in variables that begin with `LATCHKEY_`, except for those of the client:
`LATCHKEY_SERVER`, `LATCHKEY_TOKEN` and `LATCHKEY_TLS_CA`. A removed key is ignored, with a warning at the start.

`latchkeyd config check` reports all problems at once, each with its origin, and starts nothing. It reads the files for TLS, mail
and the logo, too, so run it as the user of the server. `latchkeyd config print` shows every value in effect and its origin, with
passwords masked.

A duration is a number with a unit, such as `90s`, `15m`, `24h` or `7d`; in TOML it is a string. Relative paths start at the
working directory, also in the file. `<data_dir>` stands for the value of `data_dir`.

Example:

```toml
";

/// The configuration of a small installation. A test parses it.
pub(super) const EXAMPLE: &str = "\
data_dir = \"/var/lib/latchkey\"
database_url = \"file:/run/secrets/latchkey-database-url\"
issuer = \"https://id.example.org\"
reflection = \"authenticated\"

[log]
format = \"json\"

[session]
idle = \"30m\"
absolute = \"10h\"
";

/// The manual of all keys: the text of `docs/config.md`.
pub fn reference() -> String {
    let mut text = format!("{INTRODUCTION}{EXAMPLE}```\n");
    for (doc, keys) in &keys::SECTIONS {
        let section = section_of(keys);
        if section.is_empty() {
            let _ = write!(text, "\n## Without a section\n\n{}\n", doc.trim());
        } else {
            let _ = write!(text, "\n## `[{section}]`\n\n{}\n", doc.trim());
        }
        for key in *keys {
            text.push_str(&entry(key));
        }
    }
    text.push_str(BETWEEN_KEYS);
    text
}

/// The entry of one key in the manual.
fn entry(key: &Key) -> String {
    let flag = key.flag().map_or(String::new(), |flag| format!(", `{flag}`"));
    format!(
        "\n### `{}`\n\n{}\n\n- Default: `{}`\n- Must be {}: {}.\n- `{}`{flag}\n",
        key.name,
        key.doc.trim(),
        (key.default)(),
        key.allowed.describe(),
        key.why,
        key.variable(),
    )
}

const BETWEEN_KEYS: &str = "
## Rules between keys

- `listen`, `http_listen` and `pages.listen` must differ. Unless all are loopback addresses, set `tls.cert` and `tls.key`, or
  `insecure_plaintext`.
- If `pages.listen` is no loopback address, set `pages.public_url` or `links.url`.
- Set `tls.cert` and `tls.key` together, and `tls.client_ca` only with them.
- `argon2.memory_kib` and `argon2.iterations` must be at least those of a pair from the OWASP Password Storage Cheat Sheet:
  47104 with 1, 19456 with 2, 12288 with 3, 9216 with 4, 7168 with 5. Only `argon2.allow_weak` lifts this. Their product must
  be at most 524288, and the memory at least 8 KiB for each lane.
- `throttle.initial` must be at most `throttle.max`, and that at most `throttle.failure_memory`.
- `throttle.threshold` must be less than `throttle.lockout_threshold`, unless that is 0.
- `session.idle` must be at most `session.absolute`, and `session.admin_idle` at most `session.admin_absolute`.
- `mail.transport = smtp` needs `mail.smtp.url` and `mail.from`. Set `mail.smtp.password_file` if and only if `mail.smtp.url`
  names a user.
- `audit.retention.*` must be `0s` or at least `1d`.
";
