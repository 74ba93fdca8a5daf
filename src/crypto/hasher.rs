//! Argon2id on threads of its own.
//!
//! Hashing is what the service spends its time on, so three things matter: that each thread works in memory that it
//! has touched before (page faults cost a third of a hash otherwise), that sign-ins which saturate every core do not
//! keep operators waiting, and that the queue is bounded. A job belongs to the hasher and not to the request: a client
//! that hangs up frees no place before its hash is done.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, MIN_SALT_LEN, Params, Version};
use password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use zeroize::Zeroize;

use crate::domain::password::PlainPassword;
use crate::domain::password_hash::{HashMethod, PasswordHash as StoredHash};
use crate::effects::Effects;
use crate::error::{Error, Limit, Result};
use crate::metrics::{HashKind, Lane, Metrics};

/// Bytes of salt (RFC 9106, 3.1).
const SALT_BYTES: usize = 16;
/// Bytes of a hash.
const TAG_BYTES: usize = 32;
/// Stored hashes that cost more are refused, so that a hostile row cannot exhaust memory or time.
const MAX_MEMORY_KIB: u32 = 131_072;
const MAX_ITERATIONS: u32 = 10;
const MAX_PARALLELISM: u32 = 8;
const MAX_WORK: u64 = 524_288;
/// A thread that has had nothing to do for this long wipes its memory.
const IDLE_BEFORE_WIPE: Duration = Duration::from_secs(1);
/// The most places in a queue, however fast hashing is: what waits costs memory.
const MAX_PLACES: usize = 4096;
/// How far the threads step back, as `nice` counts: all the way. What hashes takes a hundred times as long as anything
/// that could wait behind it (measured: ADR 0020).
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

/// How costly new hashes are, and on how many threads.
#[derive(Debug, Clone, Copy)]
pub struct HasherSettings {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
    /// Threads. None: as many as there are cores to use.
    pub threads: Option<usize>,
}

/// The queue that a job joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Served first while both queues have jobs, but not only.
    Operator,
    /// Everything that signs somebody in.
    SignIn,
}

impl Priority {
    /// The label of the queue in the metrics.
    fn lane(self) -> Lane {
        match self {
            Priority::Operator => Lane::Operator,
            Priority::SignIn => Lane::SignIn,
        }
    }
}

/// Checks and makes password hashes.
pub struct Hasher {
    shared: Arc<Shared>,
    /// One for each sign-in that may hash now.
    sign_ins: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
    params: Params,
    /// What is verified where there is no hash, so that an unknown name costs what a wrong password does.
    dummy: String,
    effects: Effects,
    metrics: Arc<Metrics>,
}

struct Shared {
    state: Mutex<Queues>,
    wake: Condvar,
    places: AtomicUsize,
}

#[derive(Default)]
struct Queues {
    operators: VecDeque<Job>,
    sign_ins: VecDeque<Job>,
    /// Alternates while both wait: operators first, but not only.
    served_operator: bool,
    closed: bool,
}

struct Job {
    password: PlainPassword,
    work: Work,
    kind: HashKind,
    answer: oneshot::Sender<Option<[u8; TAG_BYTES]>>,
}

/// One computation.
struct Work {
    params: Params,
    salt: Vec<u8>,
}

impl Hasher {
    /// Starts the threads, and hashes once to see how many places a second's work is.
    pub fn start(settings: HasherSettings, effects: Effects, metrics: Arc<Metrics>) -> Result<Hasher> {
        let params = Params::new(settings.memory_kib, settings.iterations, settings.parallelism, Some(TAG_BYTES))
            .map_err(|error| Error::internal(error.to_string()))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = settings.threads.unwrap_or(cores).max(1);
        let shared = Arc::new(Shared {
            state: Mutex::new(Queues::default()),
            wake: Condvar::new(),
            places: AtomicUsize::new(MAX_PLACES),
        });
        let sign_ins = Arc::new(Semaphore::new(threads));
        let mut hasher =
            Hasher { shared, sign_ins, threads: Vec::new(), params, dummy: String::new(), effects, metrics };
        hasher.calibrate(threads)?;
        hasher.sign_ins.add_permits(hasher.places());
        for number in 0..threads {
            let shared = Arc::clone(&hasher.shared);
            let metrics = Arc::clone(&hasher.metrics);
            let thread = std::thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || {
                    step_back();
                    serve(&shared, &metrics, compute);
                })
                .map_err(Error::internal)?;
            hasher.threads.push(thread);
        }
        Ok(hasher)
    }

    /// Takes the time of a hash, and makes the dummy. The second of two counts: the first one touches its memory. Time of
    /// this thread alone: at the start others have work too.
    fn calibrate(&mut self, threads: usize) -> Result<()> {
        let mut work = Work { params: self.params.clone(), salt: vec![0; SALT_BYTES] };
        let mut memory = Vec::new();
        compute(&[], &work, &mut memory);
        let began = thread_time();
        let tag = compute(&[], &work, &mut memory);
        let took = thread_time().saturating_sub(began).max(Duration::from_micros(1));
        let places = (threads as u128 * 1_000_000 / took.as_micros()).clamp(threads as u128, MAX_PLACES as u128);
        self.shared.places.store(usize::try_from(places).unwrap_or(MAX_PLACES), Ordering::Relaxed);
        tag.ok_or_else(|| Error::internal("argon2 failed on its own parameters"))?;
        // The hash of no password that anybody knows.
        work.salt = self.effects.bytes::<SALT_BYTES>().to_vec();
        self.dummy = phc(&work, &self.effects.bytes::<TAG_BYTES>())?;
        // Hashes that are made and never accepted would lock everybody out.
        let is_accepted = Stored::parse(&self.dummy).is_some();
        if is_accepted { Ok(()) } else { Err(Error::internal("the parameters of argon2 are beyond what is accepted")) }
    }

    /// Whether `password` is what `hash` was made of. Without a hash, or with one that cannot be verified, the same
    /// work is done and the answer is no.
    pub async fn verify(&self, priority: Priority, password: PlainPassword, hash: Option<&StoredHash>) -> Result<bool> {
        let stored = hash.and_then(|hash| Stored::parse(hash.as_str()));
        let is_real = stored.is_some();
        let Some(Stored { work, tag }) = stored.or_else(|| Stored::parse(&self.dummy)) else {
            return Err(Error::internal("the dummy hash cannot be read"));
        };
        let kind = if is_real { HashKind::Verify } else { HashKind::Dummy };
        let computed = self.compute(priority, kind, password, work).await?;
        Ok(is_real && bool::from(computed.ct_eq(&tag)))
    }

    /// Hashes a new password.
    pub async fn hash(&self, priority: Priority, password: PlainPassword) -> Result<StoredHash> {
        let salt = self.effects.bytes::<SALT_BYTES>().to_vec();
        let work = Work { params: self.params.clone(), salt: salt.clone() };
        let tag = self.compute(priority, HashKind::Set, password, work).await?;
        Ok(StoredHash::new(phc(&Work { params: self.params.clone(), salt }, &tag)?))
    }

    /// A hash of no password.
    pub fn dummy(&self) -> StoredHash {
        StoredHash::new(self.dummy.clone())
    }

    /// Refuses a sign-in that would be refused anyway, before anything is read for it.
    pub fn check_room(&self) -> Result<()> {
        if self.sign_ins.available_permits() > 0 { Ok(()) } else { Err(self.saturated()) }
    }

    /// Lets a sign-in in that is going to hash, before anything is written for it: as many as there is room for in the
    /// queue and on the threads. Without this a thousand at once would all write, and most of them for nothing.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.sign_ins).try_acquire_owned().map_err(|_| self.saturated())
    }

    fn saturated(&self) -> Error {
        Error::Exhausted { limit: Limit::Hashing, retry_after: self.effects.retry_soon() }
    }

    /// How many jobs a queue has room for: what the threads hash in about a second.
    pub fn places(&self) -> usize {
        self.shared.places.load(Ordering::Relaxed)
    }

    /// Whether a method is weaker than, or not of, today's settings.
    pub fn is_outdated(&self, method: &HashMethod) -> bool {
        let params = PasswordHash::new(method.as_str()).ok().and_then(|hash| accepted_params(&hash));
        params.is_none_or(|then| {
            let now = &self.params;
            then.m_cost() < now.m_cost() || then.t_cost() < now.t_cost() || then.p_cost() < now.p_cost()
        })
    }

    /// Tells the metrics how many jobs wait.
    pub fn report_queues(&self) {
        let queues = self.shared.lock();
        let (operators, sign_ins) = (queues.operators.len(), queues.sign_ins.len());
        drop(queues);
        self.metrics.hash_queue(Priority::Operator.lane(), operators);
        self.metrics.hash_queue(Priority::SignIn.lane(), sign_ins);
    }

    #[cfg(not(feature = "naive-hasher"))]
    async fn compute(
        &self,
        priority: Priority,
        kind: HashKind,
        password: PlainPassword,
        work: Work,
    ) -> Result<[u8; TAG_BYTES]> {
        let (answer, computed) = oneshot::channel();
        self.enqueue(priority, Job { password, work, kind, answer })?;
        computed.await.ok().flatten().ok_or_else(|| Error::internal("hashing failed"))
    }

    #[cfg(feature = "naive-hasher")]
    #[expect(clippy::disallowed_methods, reason = "what everybody writes: the benchmark measures against it")]
    async fn compute(
        &self,
        _: Priority,
        kind: HashKind,
        password: PlainPassword,
        work: Work,
    ) -> Result<[u8; TAG_BYTES]> {
        let metrics = Arc::clone(&self.metrics);
        let computed = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            metrics.hashing_began();
            let mut tag = [0; TAG_BYTES];
            let done = argon2_of(&work).hash_password_into(password.expose().as_bytes(), &work.salt, &mut tag);
            metrics.hashed(kind, began.elapsed());
            done.ok().map(|()| tag)
        });
        computed.await.ok().flatten().ok_or_else(|| Error::internal("hashing failed"))
    }

    #[cfg_attr(feature = "naive-hasher", expect(dead_code, reason = "only the real hasher queues"))]
    fn enqueue(&self, priority: Priority, job: Job) -> Result<()> {
        let mut queues = self.shared.lock();
        let queue = queues.of(priority);
        if queue.len() >= self.places() {
            drop(queues);
            return Err(self.saturated());
        }
        queue.push_back(job);
        drop(queues);
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to give back.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Nothing under this lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; wipes `memory` when there has been none for a while. None: the hasher is closed.
    fn next(&self, memory: &mut Vec<Block>) -> Option<Job> {
        let mut queues = self.lock();
        let mut wiped = memory.is_empty();
        loop {
            if let Some(job) = queues.pop() {
                return Some(job);
            }
            if queues.closed {
                return None;
            }
            if wiped {
                queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (back, timeout) =
                self.wake.wait_timeout(queues, IDLE_BEFORE_WIPE).unwrap_or_else(PoisonError::into_inner);
            queues = back;
            if timeout.timed_out() && queues.is_empty() {
                drop(queues);
                memory.zeroize();
                wiped = true;
                queues = self.lock();
            }
        }
    }
}

impl Queues {
    fn of(&mut self, priority: Priority) -> &mut VecDeque<Job> {
        match priority {
            Priority::Operator => &mut self.operators,
            Priority::SignIn => &mut self.sign_ins,
        }
    }

    fn is_empty(&self) -> bool {
        self.operators.is_empty() && self.sign_ins.is_empty()
    }

    fn pop(&mut self) -> Option<Job> {
        let operator_next = self.sign_ins.is_empty() || !self.served_operator;
        let job = if operator_next { self.operators.pop_front() } else { None };
        self.served_operator = job.is_some();
        job.or_else(|| self.sign_ins.pop_front())
    }
}

/// Lets everything else that the service does go first: the others need little, and at once. Where the system has no
/// such thing for a thread, or does not let us, hashing competes as an equal.
#[cfg(target_os = "linux")]
fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "hashing keeps the priority of the others");
    }
}

#[cfg(not(target_os = "linux"))]
fn step_back() {}

/// The processor time that this thread has had.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

type Compute = fn(&[u8], &Work, &mut Vec<Block>) -> Option<[u8; TAG_BYTES]>;

/// What a thread does.
fn serve(shared: &Shared, metrics: &Metrics, compute: Compute) {
    let mut memory = Vec::new();
    while let Some(job) = shared.next(&mut memory) {
        // Nobody waits any more: then nobody needs it.
        if job.answer.is_closed() {
            continue;
        }
        let began = Instant::now();
        metrics.hashing_began();
        // A job that panics must not take the thread with it: with the last one gone, nobody could sign in any more.
        let done = AssertUnwindSafe(|| compute(job.password.expose().as_bytes(), &job.work, &mut memory));
        let tag = catch_unwind(done).unwrap_or_default();
        metrics.hashed(job.kind, began.elapsed());
        let _ = job.answer.send(tag);
    }
}

/// Hashes in `memory`, which grows to what the largest job needs and is kept.
fn compute(password: &[u8], work: &Work, memory: &mut Vec<Block>) -> Option<[u8; TAG_BYTES]> {
    let blocks = work.params.block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let mut tag = [0; TAG_BYTES];
    argon2_of(work).hash_password_into_with_memory(password, &work.salt, &mut tag, memory.get_mut(..blocks)?).ok()?;
    Some(tag)
}

fn argon2_of(work: &Work) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, work.params.clone())
}

/// The PHC string of a hash.
fn phc(work: &Work, tag: &[u8]) -> Result<String> {
    let unlikely = |error: password_hash::phc::Error| Error::internal(error.to_string());
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&work.params).map_err(|error| Error::internal(error.to_string()))?,
        salt: Some(Salt::new(&work.salt).map_err(unlikely)?),
        hash: Some(Output::new(tag).map_err(unlikely)?),
    };
    Ok(hash.to_string())
}

/// A stored hash, taken apart.
struct Stored {
    work: Work,
    tag: [u8; TAG_BYTES],
}

impl Stored {
    /// Reads a PHC string; none if it is not Argon2id of version 0x13 or costs more than the bounds.
    fn parse(text: &str) -> Option<Stored> {
        let hash = PasswordHash::new(text).ok()?;
        let params = accepted_params(&hash)?;
        let tag = hash.hash?.as_bytes().try_into().ok()?;
        let salt = hash.salt?.to_vec();
        (salt.len() >= MIN_SALT_LEN).then_some(Stored { work: Work { params, salt }, tag })
    }
}

/// The cost of a hash. Returns `None` unless it is Argon2id of version 0x13 and within the bounds.
fn accepted_params(hash: &PasswordHash) -> Option<Params> {
    if hash.algorithm != Algorithm::Argon2id.ident() || hash.version != Some(Version::V0x13.into()) {
        return None;
    }
    let params = Params::try_from(hash).ok()?;
    let within = params.m_cost() <= MAX_MEMORY_KIB
        && params.t_cost() <= MAX_ITERATIONS
        && params.p_cost() <= MAX_PARALLELISM
        && u64::from(params.m_cost()) * u64::from(params.t_cost()) <= MAX_WORK;
    within.then_some(params)
}

#[cfg(test)]
mod tests;
