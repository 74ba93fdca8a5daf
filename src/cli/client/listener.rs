//! Connections without TLS to a port of this host that the user did not name, with a check of who listens there.
//!
//! Any user of this host may listen on a free port, and would read passwords and tokens. Linux says which user does. Elsewhere,
//! or for a port that another network namespace serves, nothing is known and nothing is refused.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::Uri;

use super::local::service_users;

/// The state `TCP_LISTEN` in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// Another user listens on the port.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server was not named, and uid {uid} listens there, which is neither root, nor you (uid {own}), nor a service"
)]
pub(crate) struct Foreign {
    uid: u32,
    own: u32,
}

/// Connects, and checks who listens there before anything is sent.
pub(crate) async fn connect(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    let (own_end, server) = (stream.local_addr()?, stream.peer_addr()?);
    let own = rustix::process::geteuid().as_raw();
    let trusted: Vec<u32> = [0, own].into_iter().chain(service_users()).collect();
    let mut table = String::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Only Linux has these files, and IPv6 may be off.
        let _ = write!(table, "{}", tokio::fs::read_to_string(file).await.unwrap_or_default());
    }
    match users(&table, server, own_end).find(|uid| !trusted.contains(uid)) {
        Some(uid) => Err(io::Error::new(io::ErrorKind::PermissionDenied, Foreign { uid, own })),
        None => Ok(TokioIo::new(stream)),
    }
}

/// The users who listen at `server`, or have accepted the connection from `own_end`: one who listened may have stopped since.
fn users(table: &str, server: SocketAddr, own_end: SocketAddr) -> impl Iterator<Item = u32> {
    let of_line = move |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote, state) = (address(words.next()?)?, address(words.next()?)?, words.next()?);
        let uid = words.nth(3)?.parse().ok()?;
        let at_server =
            local.port() == server.port() && (local.ip().is_unspecified() || local.ip() == server.ip().to_canonical());
        let is_accepted = remote.port() == own_end.port() && remote.ip() == own_end.ip().to_canonical();
        (at_server && (state == LISTENS || is_accepted)).then_some(uid)
    };
    table.lines().filter_map(of_line).collect::<Vec<_>>().into_iter()
}

/// Parses `0100007F:C383`: words of an address in the byte order of the machine, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (number, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(number)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    /// What Linux shows for a server at 127.0.0.1:50051, one at [::]:50052, and a connection to the first.
    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:C383 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 1 1 0 100 0 0 10 0
   1: 0100007F:C383 0100007F:9C40 01 00000000:00000000 00:00000000 00000000   997        0 2 1 0 20 4 30 10 -1
   2: 0100007F:9C40 0100007F:C383 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:C384 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000   996        0 4 1 0 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:C384 0000000000000000FFFF00000100007F:9C41 01 00000000:00000000 00:00000000 00000000   995        0 5 1 0 20 4 30 10 -1
";

    fn at(server: &str, own_end: &str) -> Vec<u32> {
        let parsed = |text: &str| text.parse().unwrap_or_else(|_| SocketAddr::new(Ipv4Addr::BROADCAST.into(), 0));
        users(TABLE, parsed(server), parsed(own_end)).collect()
    }

    #[test]
    fn the_users_who_listen_or_have_accepted_the_connection_are_found() {
        assert_eq!(at("127.0.0.1:50051", "127.0.0.1:40000"), [998, 997]);
        assert_eq!(at("127.0.0.1:50051", "127.0.0.1:40009"), [998]);
        assert_eq!(at("127.0.0.1:50052", "127.0.0.1:40001"), [996, 995]);
        assert_eq!(at("[::1]:50052", "[::1]:40001"), [996]);
        assert_eq!(at("127.0.0.2:50051", "127.0.0.1:40009"), [0_u32; 0]);
        assert_eq!(at("127.0.0.1:50053", "127.0.0.1:40000"), [0_u32; 0]);
    }

    #[test]
    fn lines_of_another_form_are_left_out() {
        for line in
            ["", "sl", "0: x y 0A", "0: 0100007F:C383", "0: 01:C383 00:0000 0A 0 0 0 998", "0: é0100007:C383 1 1"]
        {
            let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 50051);
            assert_eq!(users(line, any, any).next(), None, "{line}");
        }
    }
}
