//! A server as a separate process, and connections to it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::Outcome;
use crate::database::Place;

/// The server that `cargo bench` has built, with the release profile.
pub(crate) const LATCHKEYD: &str = env!("CARGO_BIN_EXE_latchkeyd");

/// Limit of the time that a server takes to start.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running server. Dropping it kills the process.
pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
    socket: PathBuf,
}

impl Server {
    /// Starts a server and waits for SERVING.
    pub(crate) async fn start(program: &Path, place: &Place) -> Outcome<Server> {
        Server::start_with(program, place, &[]).await
    }

    /// The same with more arguments.
    pub(crate) async fn start_with(program: &Path, place: &Place, more: &[String]) -> Outcome<Server> {
        let server = Server::start_polling(program, place, more, Duration::from_millis(10)).await?;
        // The network listener opens before the local socket.
        server.wait_until_serving().await?;
        Ok(server)
    }

    /// Starts a server and waits until it accepts connections, trying again after each `pause`.
    pub(crate) async fn start_polling(
        program: &Path,
        place: &Place,
        more: &[String],
        pause: Duration,
    ) -> Outcome<Server> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(program);
        command.env_clear().args([
            "serve",
            "--http-listen",
            "off",
            "--pages-listen",
            "off",
            "--listen",
            &address.to_string(),
        ]);
        command.args(more).arg("--data-dir").arg(&place.data_dir);
        command.arg("--seal-key-file").arg(place.data_dir.join("seal.key"));
        if let Some(url) = &place.url {
            command.args(["--database-url", url.expose_secret()]);
        }
        let log = std::fs::File::create(place.data_dir.join("server.log"))?;
        command.stdout(Stdio::null()).stderr(log);
        let mut server = Server { process: command.spawn()?, address, socket: place.data_dir.join("latchkey.sock") };
        let began = std::time::Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = server.process.try_wait()? {
                let log = std::fs::read_to_string(place.data_dir.join("server.log"))?;
                return Err(format!("the server ended with {status}: {log}").into());
            }
            if began.elapsed() > START_DEADLINE {
                return Err("the server does not take calls".into());
            }
            tokio::time::sleep(pause).await;
        }
        Ok(server)
    }

    /// The address of the gRPC listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server reports SERVING.
    pub(crate) async fn wait_until_serving(&self) -> Outcome<()> {
        let mut health = HealthClient::new(self.connect().await?);
        while health.check(HealthCheckRequest::default()).await?.into_inner().status() != ServingStatus::Serving {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// A figure of `/proc/PID/status`, converted from KiB to MiB.
    pub(crate) fn memory_mib(&self, figure: &str) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')?.strip_suffix(" kB"));
        Ok(line.ok_or("an unknown form of /proc/PID/status")?.trim().parse::<f64>()? / 1024.0)
    }

    /// Resets the peak of memory to the current value: proc(5), `clear_refs`.
    pub(crate) fn forget_peak(&self) -> Outcome<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")?)
    }

    /// The URL of the gRPC listener.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connects over TCP.
    pub(crate) async fn connect(&self) -> Outcome<Channel> {
        Ok(Endpoint::from_shared(self.url())?.tcp_nodelay(true).connect().await?)
    }

    /// Connects over the local socket, whose caller has every scope.
    pub(crate) async fn connect_locally(&self) -> Outcome<Channel> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        Ok(Endpoint::from_static("http://local").connect_with_connector(connect).await?)
    }

    /// Processor time of the server so far, in seconds.
    pub(crate) fn processor_time(&self) -> Outcome<f64> {
        processor_time(&self.process.id().to_string())
    }

    /// Processor time of its hashing threads, in seconds.
    pub(crate) fn hashing_time(&self) -> Outcome<f64> {
        let process = self.process.id();
        let mut total = 0.0;
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?.file_name();
            let task = format!("{process}/task/{}", thread.to_string_lossy());
            if std::fs::read_to_string(format!("/proc/{task}/comm"))?.starts_with("argon2-") {
                total += processor_time(&task)?;
            }
        }
        Ok(total)
    }

    /// Stops the server gracefully.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        while self.process.try_wait()?.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already; then this fails, and that is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processor time of a process or thread, user and system, in seconds: proc(5), `stat`, fields 14 and 15 in ticks of 10 ms.
pub(crate) fn processor_time(process: &str) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is a name in parentheses, which may have spaces in it.
    let (_, fields) = stat.rsplit_once(") ").ok_or("an unknown form of /proc/PID/stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}
