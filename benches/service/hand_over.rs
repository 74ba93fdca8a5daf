//! What P6 can be held against besides: threads that hand work to each other while others hash, and nothing of ours
//! between them. What they wait for a core, a lock waits too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::measure::cores;
use crate::sign_in::{default_params, hash_until};

/// There and back, one after the other: about what a lock has of statements, and its flush.
const HAND_OVERS: usize = 12;
/// What the other thread does with each: about a statement.
const WORK: Duration = Duration::from_micros(40);
/// As the hashing threads of the server have it.
const NICE: i32 = 19;

/// How long all of them take, so often a second, in milliseconds, shortest first.
#[expect(clippy::disallowed_methods, reason = "to keep the pace, with no runtime between the threads")]
pub(crate) fn latencies(per_second: u32, time: Duration) -> Outcome<Vec<f64>> {
    let pause = Duration::from_secs(1) / per_second;
    let (ask, asked) = channel();
    let (answer, answered) = channel();
    let other = thread::spawn(move || {
        for () in asked {
            let began = Instant::now();
            while began.elapsed() < WORK {}
            if answer.send(()).is_err() {
                break;
            }
        }
    });
    let (began, mut due, mut took) = (Instant::now(), Duration::ZERO, Vec::new());
    while due < time {
        thread::sleep(due.saturating_sub(began.elapsed()));
        let woken = Instant::now();
        for _ in 0..HAND_OVERS {
            ask.send(())?;
            answered.recv()?;
        }
        took.push(woken.elapsed().as_secs_f64() * 1000.0);
        due += pause;
    }
    drop(ask);
    other.join().map_err(|_| "the other thread panicked")?;
    took.sort_unstable_by(f64::total_cmp);
    Ok(took)
}

/// The same while every core hashes, at the lowest priority.
pub(crate) fn latencies_beside_hashing(per_second: u32, time: Duration) -> Outcome<Vec<f64>> {
    let (params, stop) = (default_params()?, AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE)?;
                hash_until(&params, || stop.load(Ordering::Relaxed));
                rustix::io::Result::Ok(())
            });
        }
        let took = latencies(per_second, time);
        stop.store(true, Ordering::Relaxed);
        took
    })
}
