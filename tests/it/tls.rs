//! TLS, with certificates generated for the test.

use std::path::PathBuf;
use std::sync::Arc;

use latchkey::config::Config;
use latchkey::proto::v1;
use latchkey::proto::v1::auth_client::AuthClient;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::harness::certificates::Authority;
use crate::harness::daemon::Daemon;
use crate::harness::transcript::{Ran, Shell};
use crate::harness::{Harness, PASSWORD, eventually};

/// The files of a test, and the CA that issues them.
struct Files {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    /// Creates a CA, and a server certificate for the name and address of this machine.
    fn new() -> Files {
        let files = Files { dir: tempfile::tempdir().expect("a directory"), authority: Authority::new("a CA") };
        files.authority.write(&files.path("ca.pem"));
        files.issue(&["localhost", "127.0.0.1"]);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn issue(&self, names: &[&str]) {
        self.authority.issue(names, &self.path("cert.pem"), &self.path("key.pem"));
    }

    fn configure(&self, config: &mut Config) {
        config.tls.cert = Some(self.path("cert.pem"));
        config.tls.key = Some(self.path("key.pem"));
    }

    async fn harness(&self) -> Harness {
        Harness::with(|config| self.configure(config)).await
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).expect("a CA")).expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

async fn shake_hands(address: &str, client: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(client).connect(ServerName::try_from("localhost").expect("a name"), stream).await
}

async fn channel(address: String, client: Arc<ClientConfig>) -> Channel {
    let connect = tower::service_fn(move |_| {
        let (address, client) = (address.clone(), Arc::clone(&client));
        async move { shake_hands(&address, client).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await.expect("a connection")
}

async fn calls(channel: &Channel) -> bool {
    AuthClient::new(channel.clone()).get_signing_keys(v1::GetSigningKeysRequest::default()).await.is_ok()
}

/// The certificate that the server presents.
async fn shown(h: &Harness, files: &Files) -> Vec<u8> {
    let stream = shake_hands(&h.address(), files.client()).await.expect("a handshake");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

fn written(files: &Files) -> Vec<u8> {
    CertificateDer::from_pem_file(files.path("cert.pem")).expect("a certificate").to_vec()
}

/// The output of `latchkeyd`, which does not start with these files.
fn refusal(files: &Files, more: &[&str]) -> Ran {
    let (cert, key) = (files.text("cert.pem"), files.text("key.pem"));
    let args = ["serve", "--listen", "127.0.0.1:0", "--http-listen", "off", "--tls-cert", &cert, "--tls-key", &key];
    Shell::default().feed("latchkeyd", &[args.as_slice(), more].concat(), "")
}

#[tokio::test]
async fn the_pages_use_tls_on_loopback_too_and_ask_for_no_client_certificate() {
    let files = Files::new();
    let h = Harness::with(|config| {
        files.configure(config);
        config.tls.client_ca = Some(files.path("ca.pem"));
    })
    .await;
    let mut browser = (*files.client()).clone();
    browser.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = shake_hands(&h.pages_address(), Arc::new(browser)).await.expect("a handshake");
    let request = b"GET /forgot HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("a request");
    let mut answer = String::new();
    // The server may end without a `close_notify`.
    let _ = stream.read_to_string(&mut answer).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("<form method=\"post\" action=\"forgot\""),
        "{answer}"
    );
    let mut plain = TcpStream::connect(h.pages_address()).await.expect("a connection");
    plain.write_all(request).await.expect("a request");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "nothing is served in the clear: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_works_over_tls_and_not_in_plain_text() {
    let files = Files::new();
    let h = files.harness().await;
    let shell = Shell::default();
    if !shell.has("grpcurl") {
        return;
    }
    let (address, ca) = (h.address().replace("127.0.0.1", "localhost"), files.text("ca.pem"));
    let method = "latchkey.v1.Auth/GetSigningKeys";
    let good = shell.feed("grpcurl", &["-cacert", &ca, &address, method], "");
    assert!(good.code == 0 && good.stdout.contains("EdDSA"), "{good:?}");
    let plain = shell.feed("grpcurl", &["-connect-timeout", "5", "-plaintext", &address, method], "");
    assert_ne!(plain.code, 0, "{plain:?}");
    let untrusting = shell.feed("grpcurl", &["-connect-timeout", "5", &address, method], "");
    assert!(untrusting.code != 0 && untrusting.stderr.contains("certificate"), "{untrusting:?}");
}

#[tokio::test]
async fn versions_before_tls_1_2_are_refused() {
    let files = Files::new();
    let h = files.harness().await;
    // RFC 4346: a ClientHello of TLS 1.1, with TLS_RSA_WITH_AES_128_CBC_SHA and RSA signatures of SHA-256.
    let body = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0], &[0, 8, 0, 13, 0, 4, 0, 2, 4, 1]].concat();
    let length = u8::try_from(body.len()).expect("a short message");
    let handshake = [&[1, 0, 0, length][..], &body].concat();
    let mut stream = TcpStream::connect(h.address()).await.expect("a connection");
    stream.write_all(&[&[22, 3, 1, 0, length + 4][..], &handshake].concat()).await.expect("a record");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    // An alert (21) that is fatal (2): protocol_version (70).
    assert!(answer.first() == Some(&21) && answer.ends_with(&[2, 70]), "{answer:?}");
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_cut_off() {
    let files = Files::new();
    let h = Harness::with(|config| {
        files.configure(config);
        config.connections.start_timeout = std::time::Duration::from_secs(1);
    })
    .await;
    let mut stream = TcpStream::connect(h.address()).await.expect("a connection");
    stream.write_all(&[22, 3, 1, 2, 0]).await.expect("the head of a record");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    // And a client that sends nothing after the handshake.
    let mut stream = shake_hands(&h.address(), files.client()).await.expect("a handshake");
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(h.metric("latchkey_connections_refused_total").await, 2);
    assert!(calls(&channel(h.address(), files.client()).await).await);
}

#[tokio::test]
async fn a_client_without_http2_is_told_in_the_handshake() {
    let files = Files::new();
    let h = files.harness().await;
    let mut client = (*files.client()).clone();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refused = shake_hands(&h.address(), Arc::new(client)).await.expect_err("a refusal");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_clients_with_a_certificate_of_the_ca_are_let_in() {
    let files = Files::new();
    let stranger = Authority::new("another CA");
    files.authority.issue(&["client"], &files.path("client.pem"), &files.path("client.key"));
    stranger.issue(&["client"], &files.path("stranger.pem"), &files.path("stranger.key"));
    let h = Harness::with(|config| {
        files.configure(config);
        config.tls.client_ca = Some(files.path("ca.pem"));
    })
    .await;
    let server = format!("https://{}", h.address());
    let shell = Shell::default();
    let status = |more: &[&str]| {
        let args = ["status", "--server", &server, "--tls-ca", &files.text("ca.pem")];
        shell.feed("latchkey", &[args.as_slice(), more].concat(), "")
    };
    let with = |name: &str| {
        let (certificate, key) = (files.text(&format!("{name}.pem")), files.text(&format!("{name}.key")));
        status(&["--tls-cert", &certificate, "--tls-key", &key])
    };
    let good = with("client");
    assert!(good.code == 0 && good.stdout.contains("serving"), "{good:?}");
    let none = status(&[]);
    assert!(none.code == 3 && none.stderr.contains("--tls-cert FILE"), "{none:?}");
    let other = with("stranger");
    assert!(other.code == 3 && other.stderr.contains("--tls-cert FILE"), "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_taken_up_without_a_failed_call_and_a_bad_one_is_not() {
    let files = Files::new();
    let h = files.harness().await;
    let resident = channel(h.address(), files.client()).await;
    let first = written(&files);
    assert_eq!(shown(&h, &files).await, first);

    files.issue(&["localhost"]);
    let second = written(&files);
    assert_ne!(first, second);
    eventually("the new certificate", || async {
        assert!(calls(&resident).await, "a connection from before");
        assert!(calls(&channel(h.address(), files.client()).await).await, "a new connection");
        (shown(&h, &files).await == second).then_some(())
    })
    .await;

    // Only the certificate is replaced, so the key does not match.
    let aside = files.path("aside");
    files.authority.issue(&["localhost"], &files.path("cert.pem"), &aside);
    let third = written(&files);
    let refused = r#"latchkey_tls_reloads_total{outcome="refused"} 1"#;
    eventually("a refusal", || async { h.http("/metrics").await.body.contains(refused).then_some(()) }).await;
    assert_eq!(shown(&h, &files).await, second);
    assert!(calls(&resident).await);
    // Then its key is replaced.
    std::fs::rename(&aside, files.path("key.pem")).expect("a file");
    eventually("the third certificate", || async { (shown(&h, &files).await == third).then_some(()) }).await;
    assert!(calls(&resident).await && h.metric("latchkey_tls_certificate_not_after_seconds").await > 0);
}

#[test]
fn files_that_cannot_be_used_are_told_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let spoil = |name: &str, text: &str| {
        files.issue(&["localhost"]);
        std::fs::write(files.path(name), text).expect("a file");
        refusal(&files, &[])
    };
    let told = |ran: &Ran, text: &str| assert!(ran.code == 1 && ran.stderr.contains(text), "{text}: {ran:?}");
    told(&spoil("cert.pem", "c4nary"), "there is no certificate in");
    told(&spoil("cert.pem", "-----BEGIN CERTIFICATE-----\nc4nary\n"), "cert.pem is not usable: ");
    told(&spoil("key.pem", "c4nary"), "there is no key in");
    let key = std::fs::read_to_string(files.path("key.pem")).expect("a key");
    told(&spoil("key.pem", &format!("-----BEGIN PRIVATE KEY-----\n{key}")), "key.pem");
    files.issue(&["localhost"]);
    files.authority.issue(&["localhost"], &files.path("cert.pem"), &files.path("aside"));
    told(&refusal(&files, &[]), "does not belong to the certificate");
    files.issue(&["localhost"]);
    std::fs::set_permissions(files.path("key.pem"), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    told(&refusal(&files, &[]), "can be read by other users (mode 0644); run: chmod o= ");
    files.issue(&["localhost"]);
    told(&refusal(&files, &["--tls-client-ca", "none.pem"]), "cannot read none.pem: No such file");
    told(&refusal(&files, &["--tls-client-ca", &files.text("key.pem")]), "there is no certificate in");
    std::fs::remove_file(files.path("cert.pem")).expect("a file");
    told(&refusal(&files, &[]), "cert.pem: No such file");
}

#[test]
fn an_expired_certificate_is_warned_of() {
    let files = Files::new();
    files.authority.issue_with(
        &["localhost", "127.0.0.1"],
        &files.path("cert.pem"),
        &files.path("key.pem"),
        |params| {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        },
    );
    let shell = Shell::default();
    let daemon = Daemon::start(&shell, &["--tls-cert", &files.text("cert.pem"), "--tls-key", &files.text("key.pem")]);
    assert!(daemon.started.iter().any(|line| line.contains("has expired")), "{:#?}", daemon.started);
    assert!(daemon.started.iter().any(|line| line.contains("serving, with TLS")), "{:#?}", daemon.started);
    let server = format!("https://{}", daemon.address);
    let told = shell.latchkey(&["status", "--server", &server, "--tls-ca", &files.text("ca.pem")]);
    assert!(told.code == 3 && told.stderr.contains("its certificate has expired"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_what_is_wrong_with_tls() {
    let files = Files::new();
    files.issue(&["localhost", "id.example.org"]);
    let h = files.harness().await;
    let plain = Harness::start().await;
    let shell = Shell::default();
    let ca = files.text("ca.pem");
    let told = |args: &[&str], code: i32, text: &str, hint: &str| {
        let ran = shell.latchkey(&[&["status"], args].concat());
        assert!(ran.code == code && ran.stderr.contains(text) && ran.stderr.contains(hint), "{args:?}: {ran:?}");
    };
    let named = format!("https://{}", h.address().replace("127.0.0.1", "localhost"));
    shell.latchkey(&["status", "--server", &named, "--tls-ca", &ca]).good();
    let address = format!("https://{}", h.address());
    told(&["--server", &address, "--tls-ca", &ca], 3, "its certificate is for another name", "by a name in its");
    Authority::new("another CA").write(&files.path("other.pem"));
    let other = files.text("other.pem");
    told(&["--server", &named, "--tls-ca", &other], 3, "signed by a CA that is not trusted here", "`--tls-ca FILE`");
    let key = files.text("key.pem");
    told(&["--server", &named, "--tls-ca", &key], 2, "there is no certificate in it", "PEM");
    told(&["--server", &named, "--tls-ca", "none.pem"], 2, "none.pem: I/O error", "PEM");
    let no_tls = format!("https://{}", plain.address());
    told(&["--server", &no_tls, "--tls-ca", &ca], 3, "does not speak TLS", &format!("http://{}", plain.address()));
    let plaintext = format!("http://{}", h.address());
    told(&["--server", &plaintext], 3, "the server speaks TLS", &format!("--server https://{}", h.address()));
    told(&["--server", &plaintext], 3, "the server speaks TLS", "`--tls-ca FILE`");
    told(&["--server", &plain.address(), "--tls-ca", &ca], 3, "does not speak TLS", "leave out the --tls-… flags");
    // As `openssl req -x509` makes it by default.
    files.authority.issue_with(&["localhost"], &files.path("cert.pem"), &files.path("key.pem"), |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let unfit = files.harness().await;
    let unfit = format!("https://{}", unfit.address().replace("127.0.0.1", "localhost"));
    told(&["--server", &unfit, "--tls-ca", &ca], 3, "a CA's, not a server's", "basicConstraints=critical,CA:FALSE");
    // Nothing is sent to another host in plain text. The address is reserved for documentation (RFC 5737).
    told(&["--server", "http://192.0.2.1:50051"], 2, "others may listen on the way", "use https://192.0.2.1:50051");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_login_remembers_the_ca_and_the_server_sees_the_peer() {
    let files = Files::new();
    let h = files.harness().await;
    h.create("ada", &["admin"], PASSWORD).await;
    let shell = Shell::default();
    let server = format!("https://{}", h.address());
    let login = ["login", "ada", "--password-stdin", "--server", &server, "--tls-ca", &files.text("ca.pem")];
    shell.feed("latchkey", &login, &format!("{PASSWORD}\n")).good();
    assert!(shell.latchkey(&["whoami"]).good().contains("ada"));
    let call = shell.latchkey(&["whoami", "--show-grpcurl"]).good();
    assert!(call.contains(&format!("-cacert {}", files.text("ca.pem"))) && !call.contains("-plaintext"), "{call}");
    let events = h.operator().await.events().await;
    let sign_in = events.iter().find(|event| format!("{event:?}").contains("127.0.0.1"));
    assert!(sign_in.is_some(), "{events:#?}");
}

/// A server that keeps what it gets, by connection, and answers as HTTP/2 without TLS does.
struct Eavesdropper {
    address: String,
    connections: Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
}

impl Eavesdropper {
    async fn start() -> Eavesdropper {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let connections = Arc::new(std::sync::Mutex::new(Vec::new()));
        let all = Arc::clone(&connections);
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                all.lock().expect("the bytes").push(Vec::new());
                let all = Arc::clone(&all);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    // It answers only what it has kept: a client that reads the answer may end at once.
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        all.lock().expect("the bytes")[number].extend_from_slice(&buffer[..read]);
                        // RFC 9113, section 6.5: an empty SETTINGS frame.
                        let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                    }
                });
            }
        });
        Eavesdropper { address, connections }
    }

    /// What was heard on each connection so far. The end of one may still be on its way after its client has ended.
    fn heard(&self) -> Vec<Vec<u8>> {
        self.connections.lock().expect("the bytes").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_and_no_token_goes_in_the_clear_where_tls_is_asked_for() {
    let files = Files::new();
    files.authority.issue(&["client"], &files.path("client.pem"), &files.path("client.key"));
    let server = Eavesdropper::start().await;
    let (ca, address) = (files.text("ca.pem"), server.address.as_str());
    let (certificate, key) = (files.text("client.pem"), files.text("client.key"));
    let mut known = 0;
    let mut only_tls = |ran: &Ran, what: &str| {
        assert!(ran.code == 3 && ran.stderr.contains("does not speak TLS"), "{what}: {ran:?}");
        let heard = server.heard();
        assert!(heard.len() > known, "{what}: {heard:?}");
        for heard in &heard[known..] {
            // RFC 8446, section 5.1: the record of a handshake begins with 22, 3.
            assert!(heard.starts_with(&[22, 3]), "{what}: {heard:?}");
            assert!(!String::from_utf8_lossy(heard).contains("c4nary"), "{what}");
        }
        known = heard.len();
    };
    let login = ["login", "ada", "--password-stdin", "--server", address];
    let shell = Shell::default();
    only_tls(&shell.feed("latchkey", &[&login[..], &["--tls-ca", &ca]].concat(), PASSWORD), "--tls-ca");
    let own = ["--tls-cert", &certificate, "--tls-key", &key];
    only_tls(&shell.feed("latchkey", &[&login[..], &own].concat(), PASSWORD), "--tls-cert");
    let mut shell = Shell::default();
    shell.set("LATCHKEY_TLS_CA", &ca);
    only_tls(&shell.feed("latchkey", &login, PASSWORD), "LATCHKEY_TLS_CA");
    shell.set("LATCHKEY_TOKEN", "lka_c4nary");
    only_tls(&shell.latchkey(&["whoami", "--server", address]), "a token");

    // An earlier version stored such a login without TLS.
    let shell = Shell::default();
    let directory = shell.path("state/latchkey");
    std::fs::create_dir_all(&directory).expect("a directory");
    let stored = serde_json::json!({
        "server": format!("http://{address}"), "trust": {"tls_ca": ca}, "username": "ada", "session_id": "x",
        "access_token": "c4nary", "access_expire_second": i64::MAX, "refresh_token": "c4nary",
    });
    std::fs::write(directory.join("login.json"), stored.to_string()).expect("a file");
    shell.bash("chmod 600 state/latchkey/login.json");
    let ran = shell.latchkey(&["whoami"]);
    assert!(ran.code == 2 && ran.stderr.contains("sign in again with `latchkey login`"), "{ran:?}");
    let heard = server.heard();
    assert_eq!(heard.len(), known, "nothing was sent");
    assert!(!heard.iter().any(|heard| String::from_utf8_lossy(heard).contains("c4nary")), "{heard:?}");
}

#[test]
fn flags_that_contradict_each_other_are_refused_before_anything_is_sent() {
    let shell = Shell::default();
    let refused = |args: &[&str], text: &str| {
        let ran = shell.latchkey(&[&["status"], args].concat());
        assert!(ran.code == 2 && ran.stderr.contains(text) && ran.stdout.is_empty(), "{args:?}: {ran:?}");
    };
    refused(&["--server", "http://localhost:1", "--tls-ca", "ca.pem"], "http://localhost:1 is without TLS");
    refused(&["--socket", "x.sock", "--tls-ca", "ca.pem"], "the local socket has no TLS");
    refused(&["--local", "--tls-ca", "ca.pem"], "the local socket has no TLS");
    refused(&["--server", "unix:/x.sock", "--tls-ca", "ca.pem"], "the local socket has no TLS");
    refused(&["--server", "https://localhost:1", "--insecure-plaintext"], "--insecure-plaintext is for http://");
    refused(&["--local", "--insecure-plaintext"], "--insecure-plaintext is for http://");
    refused(&["--server", "localhost:1", "--tls-cert", "own.pem"], "--tls-key <FILE>");
}
