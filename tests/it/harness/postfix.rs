//! A real Postfix, which takes mail over STARTTLS and delivers it to Maildir folders, and a reader of those folders.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::certificates::Authority;
use super::smtp::HOST;
use super::{Harness, eventually, log};

/// The domains for which Postfix takes mail, and its one mailbox.
const DOMAINS: &str = "example.com, xn--bcher-kva.example";
pub const MAILBOX: &str = "grace@xn--bcher-kva.example";

/// The system user that owns the mailboxes. Postfix delivers to none that root owns.
const OWNER: u32 = 65_534;

/// Everything that a relay needs, and nothing that sends mail on.
const SERVICES: &str = "\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n - 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

/// Prints every mail of a Maildir as JSON, as Python's mail library understands it.
const READER: &str = r#"
import email.policy, html.parser, json, mailbox, re, sys

class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []
    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name == "href"]

def read(file):
    mail = email.message_from_binary_file(file, policy=email.policy.default)
    defects = [repr(defect) for part in mail.walk() for defect in part.defects]
    defects += [repr(defect) for value in mail.values() for defect in value.defects]
    text, html = (mail.get_body([kind]).get_content() for kind in ("plain", "html"))
    links = Links()
    links.feed(html)
    return {
        "defects": defects,
        "headers": [[name, str(value)] for name, value in mail.items()],
        "types": [part.get_content_type() for part in mail.walk()],
        "text": text,
        "html": html,
        "text_links": re.findall(r"^https?://\S+$", text, re.MULTILINE),
        "html_links": links.found,
    }

json.dump(list(mailbox.Maildir(sys.argv[1], factory=read, create=False)), sys.stdout)
"#;

/// A mail as another implementation reads it.
#[derive(Debug, serde::Deserialize)]
pub struct Parsed {
    /// What is not as the standards say.
    pub defects: Vec<String>,
    /// The headers, decoded.
    pub headers: Vec<(String, String)>,
    /// The media types of the parts, outermost first.
    pub types: Vec<String>,
    pub text: String,
    pub html: String,
    /// The links that stand alone on a line of the text.
    pub text_links: Vec<String>,
    /// The links of the HTML.
    pub html_links: Vec<String>,
}

impl Parsed {
    /// The value of a header that is there once.
    pub fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.iter().filter(|(found, _)| found == name).collect();
        let [(_, value)] = values.as_slice() else { panic!("not one {name}: {:#?}", self.headers) };
        value
    }

    /// The link to this page, which must be the same in text and HTML, where a button has it too.
    pub fn link(&self, page: &str) -> &str {
        let wanted = format!("/{page}?token=");
        let mut of_html: Vec<_> = self.html_links.iter().filter(|link| link.contains(&wanted)).collect();
        of_html.dedup();
        let of_text: Vec<_> = self.text_links.iter().filter(|link| link.contains(&wanted)).collect();
        assert_eq!(of_text, of_html, "{self:#?}");
        let [link] = of_text.as_slice() else { panic!("not one link to {page}: {self:#?}") };
        link
    }
}

/// A running Postfix with files, queue and port of its own. It ends when dropped.
pub struct Postfix {
    dir: TempDir,
    port: u16,
}

impl Postfix {
    /// Starts Postfix. Returns `None` without root, which its `master` needs, and without the programs: says so, and fails with
    /// `TEST_REQUIRE_ALL` if only they are missing.
    pub fn start() -> Option<Postfix> {
        if !rustix::process::getuid().is_root() {
            eprintln!("skipped: only root can start Postfix");
            return None;
        }
        for (program, arguments) in [("postconf", ["-d", "mail_version"].as_slice()), ("python3", &["--version"])] {
            let is_there = run(Command::new(program).args(arguments)).is_some();
            assert!(is_there || std::env::var("TEST_REQUIRE_ALL").is_err(), "TEST_REQUIRE_ALL: {program} is missing");
            if !is_there {
                eprintln!("skipped: there is no {program} here");
                return None;
            }
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let postfix = Postfix { dir: tempfile::tempdir().expect("a directory"), port: port.expect("a port").port() };
        postfix.write_configuration();
        assert!(postfix.control("start"), "Postfix does not start: {}", postfix.log());
        Some(postfix)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_configuration(&self) {
        use std::os::unix::fs::{PermissionsExt as _, chown};

        let here = self.dir.path();
        // Its processes run as other users than root.
        std::fs::set_permissions(here, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        for name in ["etc", "queue", "data", "boxes"] {
            std::fs::create_dir(self.path(name)).expect("a folder");
        }
        chown(self.path("boxes"), Some(OWNER), Some(OWNER)).expect("an owner");
        let owned = run(Command::new("chown").arg("postfix").arg(self.path("data")));
        owned.expect("the package has made the user postfix");
        let authority = Authority::new("the CA of Postfix");
        authority.write(&self.ca());
        authority.issue(&[HOST], &self.path("etc/relay.pem"), &self.path("etc/relay.key"));
        let here = here.display();
        let main = format!(
            "compatibility_level = 3.6
            queue_directory = {here}/queue
            data_directory = {here}/data
            maillog_file = {here}/log
            maillog_file_prefixes = {here}
            inet_interfaces = 127.0.0.1
            inet_protocols = ipv4
            myhostname = relay.example.org
            mydestination =
            local_recipient_maps =
            alias_maps =
            default_transport = error:this relay sends nothing on
            virtual_mailbox_domains = {DOMAINS}
            virtual_mailbox_maps = inline:{{ {MAILBOX}=grace/ }}
            virtual_mailbox_base = {here}/boxes
            virtual_uid_maps = static:{OWNER}
            virtual_gid_maps = static:{OWNER}
            smtpd_tls_security_level = encrypt
            smtpd_tls_cert_file = {here}/etc/relay.pem
            smtpd_tls_key_file = {here}/etc/relay.key
            "
        );
        // An indented line would continue the one before.
        std::fs::write(self.path("etc/main.cf"), main.replace("\n            ", "\n")).expect("a file");
        let services = format!("127.0.0.1:{} inet n - n - - smtpd\n{SERVICES}", self.port);
        std::fs::write(self.path("etc/master.cf"), services).expect("a file");
    }

    /// Runs `postfix`. Returns whether it succeeds.
    fn control(&self, command: &str) -> bool {
        let mut postfix = Command::new("postfix");
        postfix.arg("-c").arg(self.path("etc")).arg(command).stdin(Stdio::null());
        // A pipe would stay open as long as the processes that it starts.
        postfix.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// The certificate of the CA that signed the certificate of Postfix.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A server whose mail goes to this Postfix over STARTTLS.
    pub async fn harness(&self) -> Harness {
        let url = format!("smtp://{HOST}:{}", self.port);
        Harness::with(|config| {
            config.mail.transport = latchkey::config::Transport::Smtp;
            config.mail.smtp.url = Some(url.parse().expect("a URL"));
            config.mail.smtp.ca = Some(self.ca());
            config.mail.from = "Bücher & Söhne <id@example.org>".parse().expect("a sender");
            "Bücher & Söhne".clone_into(&mut config.organisation);
        })
        .await
    }

    /// The log of Postfix.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the mailbox has this many mails, and returns them.
    pub async fn mails(&self, count: usize) -> Vec<Parsed> {
        let mailbox = self.path("boxes/grace");
        eventually("mail in the mailbox", || async { Some(parsed(&mailbox)).filter(|mails| mails.len() >= count) })
            .await
    }
}

/// The mails of a Maildir. One that is not there yet is empty.
fn parsed(mailbox: &Path) -> Vec<Parsed> {
    if !mailbox.join("cur").exists() {
        return Vec::new();
    }
    let json = run(Command::new("python3").args(["-c", READER]).arg(mailbox)).expect("Python reads the mails");
    serde_json::from_str(&json).expect("JSON")
}

/// The standard output of a command; `None` if it is missing or fails.
fn run(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // Waits until its processes have ended, also after a panic.
        let is_stopped = self.control("stop");
        if !std::thread::panicking() {
            assert!(is_stopped, "Postfix did not stop");
            log::assert_harmless(self.log().lines());
        }
    }
}
