//! P10, P11: memory at rest and with every slot for sign-ins taken, and the time from start to SERVING.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use latchkey::proto::v1::SignInRequest;
use latchkey::proto::v1::auth_client::AuthClient;
use tonic::Code;

use crate::database::Filled;
use crate::measure::{Goal, Row, cores};
use crate::server::{LATCHKEYD, Server};
use crate::sign_in::{able, access_token};
use crate::{Outcome, tell};

/// Connections of the flood, with a hundred concurrent calls each.
const CONNECTIONS: usize = 40;
/// The fewest refusals that prove that the lane was full.
const REFUSED: usize = 1000;
/// Limit of memory at rest, without the memory for hashing, in MiB.
const AT_REST_MIB: f64 = 32.0;
/// Limit of the memory that waiting and refused calls add, in MiB.
const WAITING_MIB: f64 = 64.0;
/// Limit of the time from start to SERVING, in milliseconds.
const START_MS: f64 = 100.0;

/// Measures P10.
pub(crate) async fn memory(rounds: u32, filled: &Filled) -> Outcome<Vec<Row>> {
    let argon2 = latchkey::config::Argon2::default();
    let hashing = f64::from(argon2.memory_kib) / 1024.0 * f64::from(u32::try_from(cores())?);
    let (mut at_rest, mut waiting) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let server = Server::start(Path::new(LATCHKEYD), &filled.place()).await?;
        // Every hashing thread must have allocated its memory.
        let mut auth = AuthClient::new(server.connect().await?);
        for n in 0..4 * cores() as u64 {
            access_token(&mut auth, filled.seed.username(able(&filled.seed, n))).await?;
        }
        let rest = server.memory_mib("VmRSS")?;
        server.forget_peak()?;
        let refused = flood(&server, filled).await?;
        if refused < REFUSED {
            return Err(format!("{refused} sign-ins were refused: the lane was not full").into());
        }
        let peak = server.memory_mib("VmHWM")?;
        tell(&format!("round {round}: {rest:.1} MiB at rest, {peak:.1} MiB with {refused} refused\n"));
        at_rest.push((rest - hashing, AT_REST_MIB));
        waiting.push((peak - rest, WAITING_MIB));
        server.stop().await?;
    }
    Ok(vec![
        Row::of("P10", "at rest, beside hashing memory : 32 MiB", "MiB", &at_rest, Some(Goal::AtMost(1.0))),
        Row::of("P10", "sign-ins waiting and refused : 64 MiB", "MiB", &waiting, Some(Goal::AtMost(1.0))),
    ])
}

/// Signs in on every stream of many connections. Returns how many calls were refused because the lane was full.
async fn flood(server: &Server, filled: &Filled) -> Outcome<usize> {
    let mut calls = Vec::new();
    for connection in 0..CONNECTIONS {
        let auth = AuthClient::new(server.connect().await?);
        for stream in 0..100 {
            let login = filled.seed.username(able(&filled.seed, (connection * 100 + stream) as u64));
            let password = crate::seed::PASSWORD.to_owned();
            let mut auth = auth.clone();
            calls.push(async move {
                let request = SignInRequest { login, password, ..SignInRequest::default() };
                auth.sign_in(request).await.is_err_and(|status| status.code() == Code::ResourceExhausted)
            });
        }
    }
    Ok(join_all(calls).await.into_iter().filter(|refused| *refused).count())
}

/// Measures P11: the time from the start of the process to the first SERVING.
pub(crate) async fn start(rounds: u32, filled: &Filled) -> Outcome<Vec<Row>> {
    let mut took = Vec::new();
    for _ in 0..rounds {
        took.push((start_once(filled).await?, START_MS));
    }
    Ok(vec![Row::of("P11", "start to SERVING : 100 ms", "ms", &took, Some(Goal::AtMost(1.0)))])
}

/// Starts a server and stops it again. Returns the time until SERVING, in milliseconds.
pub(crate) async fn start_once(filled: &Filled) -> Outcome<f64> {
    let began = Instant::now();
    let server = Server::start_polling(Path::new(LATCHKEYD), &filled.place(), &[], Duration::from_millis(1)).await?;
    server.wait_until_serving().await?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    server.stop().await?;
    Ok(took)
}
