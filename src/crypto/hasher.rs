//! Password hashing with Argon2id on dedicated threads.
//!
//! Hashing dominates the cost of the service, so:
//! - Each thread reuses memory that it has touched before. Page faults would otherwise cost a third of a hash.
//! - Operators have a queue of their own, so that sign-ins that saturate every core do not delay them.
//! - A job needs a [`HashPermit`], of which each queue has a fixed number.
//! - A job belongs to the hasher and not to the request: a client that disconnects does not free its slot before its hash is
//!   done.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
use crate::environment::Environment;
use crate::error::{Error, Limit, Result};
use crate::metrics::{HashKind, HashQueue, Metrics};
use crate::priority::lower_priority;

/// Length of a salt in bytes (RFC 9106, 3.1).
const SALT_BYTES: usize = 16;
/// Length of a hash in bytes.
const TAG_BYTES: usize = 32;
/// Stored hashes that cost more than these bounds are refused, so that a hostile row cannot exhaust memory or time.
const MAX_MEMORY_KIB: u32 = 131_072;
const MAX_ITERATIONS: u32 = 10;
const MAX_PARALLELISM: u32 = 8;
const MAX_WORK: u64 = 524_288;
/// A thread that has been idle for this long wipes its memory.
const IDLE_BEFORE_WIPE: Duration = Duration::from_secs(1);
/// Upper bound of the slots in a queue, however fast hashing is: each queued job costs memory.
const MAX_QUEUE_SLOTS: usize = 4096;

/// Cost of new hashes, and the number of threads.
#[derive(Debug, Clone, Copy)]
pub struct HasherSettings {
    /// Memory of a hash in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes (degree of parallelism).
    pub parallelism: u32,
    /// Number of hashing threads. `None` means one per available core.
    pub threads: Option<usize>,
}

/// The queue that a hashing job joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Work of operators. Served first, but alternates with sign-ins while both queues have jobs.
    Operator,
    /// Sign-ins.
    SignIn,
}

impl Priority {
    /// The label of the queue in the metrics.
    fn queue(self) -> HashQueue {
        match self {
            Priority::Operator => HashQueue::Operator,
            Priority::SignIn => HashQueue::SignIn,
        }
    }
}

/// The permit to have one job at a time hashed or waiting in a queue.
#[derive(Debug)]
pub struct HashPermit {
    queue: Priority,
    _permit: OwnedSemaphorePermit,
}

/// Creates and verifies password hashes on a fixed pool of threads.
///
/// Jobs wait in two queues, one for each [`Priority`]. Each queue has as many permits as there are threads and jobs that they
/// hash in about a second; further callers are refused with [`Limit::Hashing`]. Dropping the hasher joins the threads.
pub struct Hasher {
    shared: Arc<Shared>,
    operators: Arc<Semaphore>,
    sign_ins: Arc<Semaphore>,
    capacity: usize,
    threads: Vec<JoinHandle<()>>,
    params: Params,
    /// Hash of an unknown password. It is verified where there is no stored hash, so that an unknown username costs as much as
    /// a wrong password.
    dummy: String,
    environment: Environment,
    metrics: Arc<Metrics>,
}

struct Shared {
    state: Mutex<Queues>,
    wake: Condvar,
}

#[derive(Default)]
struct Queues {
    operators: VecDeque<Job>,
    sign_ins: VecDeque<Job>,
    /// Whether the last job was an operator's. Lets the queues alternate while both have jobs.
    served_operator: bool,
    closed: bool,
}

enum Job {
    /// A hash.
    Hash { password: PlainPassword, work: Work, kind: HashKind, answer: oneshot::Sender<Option<[u8; TAG_BYTES]>> },
    /// Verifications of one password, one after the other. The answer is whether a hash matches.
    Compare { password: PlainPassword, hashes: Vec<Stored>, answer: oneshot::Sender<Option<bool>> },
    /// Other work for one of these threads.
    Call(Box<dyn FnOnce() + Send>),
}

/// The input of one Argon2id computation, without the password.
struct Work {
    params: Params,
    salt: Vec<u8>,
}

impl Hasher {
    /// Starts the threads, and times a hash to choose the number of queue slots: about a second's work.
    pub fn start(settings: HasherSettings, environment: Environment, metrics: Arc<Metrics>) -> Result<Hasher> {
        let params = Params::new(settings.memory_kib, settings.iterations, settings.parallelism, Some(TAG_BYTES))
            .map_err(|error| Error::internal(error.to_string()))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = settings.threads.unwrap_or(cores).max(1);
        let shared = Arc::new(Shared { state: Mutex::new(Queues::default()), wake: Condvar::new() });
        let (slots, dummy) = calibrate(&params, threads, &environment)?;
        let capacity = threads + slots;
        let permits = || Arc::new(Semaphore::new(capacity));
        let (operators, sign_ins) = (permits(), permits());
        let mut hasher =
            Hasher { shared, operators, sign_ins, capacity, threads: Vec::new(), params, dummy, environment, metrics };
        for number in 0..threads {
            let shared = Arc::clone(&hasher.shared);
            let metrics = Arc::clone(&hasher.metrics);
            let thread = std::thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || {
                    lower_priority();
                    serve(&shared, &metrics, compute);
                })
                .map_err(Error::internal)?;
            hasher.threads.push(thread);
        }
        Ok(hasher)
    }

    /// Returns whether `password` matches `hash`.
    ///
    /// Without a hash, or with one that cannot be verified, does the same work on a dummy hash and returns `false`.
    pub async fn verify(
        &self,
        permit: &HashPermit,
        password: PlainPassword,
        hash: Option<&StoredHash>,
    ) -> Result<bool> {
        let stored = hash.and_then(|hash| Stored::parse(hash.as_str()));
        let is_real = stored.is_some();
        let Some(Stored { work, tag }) = stored.or_else(|| Stored::parse(&self.dummy)) else {
            return Err(Error::internal("the dummy hash cannot be read"));
        };
        let kind = if is_real { HashKind::Verify } else { HashKind::Dummy };
        let computed = self.compute(permit, kind, password, work).await?;
        Ok(is_real && bool::from(computed.ct_eq(&tag)))
    }

    /// Returns whether `password` matches any of `hashes`. All are one job: a user with a long history waits once in the queue.
    /// A hash that cannot be verified matches nothing.
    pub async fn matches_any(
        &self,
        permit: &HashPermit,
        password: PlainPassword,
        hashes: &[StoredHash],
    ) -> Result<bool> {
        let hashes: Vec<Stored> = hashes.iter().filter_map(|hash| Stored::parse(hash.as_str())).collect();
        if hashes.is_empty() {
            return Ok(false);
        }
        let (answer, compared) = oneshot::channel();
        self.enqueue(permit, Job::Compare { password, hashes, answer });
        compared.await.ok().flatten().ok_or_else(|| Error::internal("hashing failed"))
    }

    /// Hashes a new password with a random salt and the current parameters.
    pub async fn hash(&self, permit: &HashPermit, password: PlainPassword) -> Result<StoredHash> {
        let salt = self.environment.bytes::<SALT_BYTES>().to_vec();
        let work = Work { params: self.params.clone(), salt: salt.clone() };
        let tag = self.compute(permit, HashKind::Set, password, work).await?;
        Ok(StoredHash::new(phc(&Work { params: self.params.clone(), salt }, &tag)?))
    }

    /// Runs work on one of the threads that takes too long for a thread of the runtime.
    pub async fn run<T: Send + 'static>(
        &self,
        permit: &HashPermit,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, done) = oneshot::channel();
        let call = move || {
            // If the caller has gone, the result is not needed.
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        };
        self.enqueue(permit, Job::Call(Box::new(call)));
        done.await.map_err(|_| Error::internal("the work of a hashing thread failed"))
    }

    /// Fails if [`Hasher::admit`] would refuse now. Called before anything is read for a call that hashes.
    pub fn check_room(&self, queue: Priority) -> Result<()> {
        if self.permits(queue).available_permits() > 0 { Ok(()) } else { Err(self.saturated()) }
    }

    /// Takes a permit to hash, before anything is written for the call. Fails if all are in use. Without this, a thousand
    /// concurrent sign-ins would all write, and most of them in vain.
    pub fn admit(&self, queue: Priority) -> Result<HashPermit> {
        let permit = Arc::clone(self.permits(queue)).try_acquire_owned().map_err(|_| self.saturated())?;
        Ok(HashPermit { queue, _permit: permit })
    }

    fn permits(&self, queue: Priority) -> &Arc<Semaphore> {
        match queue {
            Priority::Operator => &self.operators,
            Priority::SignIn => &self.sign_ins,
        }
    }

    fn saturated(&self) -> Error {
        Error::Exhausted { limit: Limit::Hashing, retry_after: self.environment.retry_soon() }
    }

    /// Returns the number of permits of each queue: the threads, and what they hash in about a second.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns whether hashes of `method` can be verified.
    pub fn accepts(&self, method: &HashMethod) -> bool {
        params_of(method).is_some()
    }

    /// Returns whether `method` is weaker than the current parameters, or is not an accepted Argon2id method.
    pub fn is_outdated(&self, method: &HashMethod) -> bool {
        params_of(method).is_none_or(|then| {
            let now = &self.params;
            then.m_cost() < now.m_cost() || then.t_cost() < now.t_cost() || then.p_cost() < now.p_cost()
        })
    }

    /// Reports the length of the queues to the metrics.
    pub fn report_queues(&self) {
        let queues = self.shared.lock();
        let (operators, sign_ins) = (queues.operators.len(), queues.sign_ins.len());
        drop(queues);
        self.metrics.hash_queue(Priority::Operator.queue(), operators);
        self.metrics.hash_queue(Priority::SignIn.queue(), sign_ins);
    }

    #[cfg(not(feature = "naive-hasher"))]
    async fn compute(
        &self,
        permit: &HashPermit,
        kind: HashKind,
        password: PlainPassword,
        work: Work,
    ) -> Result<[u8; TAG_BYTES]> {
        let (answer, computed) = oneshot::channel();
        self.enqueue(permit, Job::Hash { password, work, kind, answer });
        computed.await.ok().flatten().ok_or_else(|| Error::internal("hashing failed"))
    }

    #[cfg(feature = "naive-hasher")]
    #[expect(clippy::disallowed_methods, reason = "what everybody writes: the benchmark measures against it")]
    async fn compute(
        &self,
        _: &HashPermit,
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

    fn enqueue(&self, permit: &HashPermit, job: Job) {
        self.shared.lock().of(permit.queue).push_back(job);
        self.shared.wake.notify_one();
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to clean up.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Nothing under this lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job, and wipes `memory` after [`IDLE_BEFORE_WIPE`] without one. Returns `None` if the hasher is closed.
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

/// Returns the processor time that this thread has used.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Times a hash, and returns the number of queue slots and the dummy hash. The second of two hashes counts: the first one
/// touches the memory. Only processor time of this thread is measured, because other work competes for the cores at the
/// start.
fn calibrate(params: &Params, threads: usize, environment: &Environment) -> Result<(usize, String)> {
    let mut work = Work { params: params.clone(), salt: vec![0; SALT_BYTES] };
    let mut memory = Vec::new();
    compute(&[], &work, &mut memory);
    let began = thread_time();
    let tag = compute(&[], &work, &mut memory);
    let took = thread_time().saturating_sub(began).max(Duration::from_micros(1));
    let slots = (threads as u128 * 1_000_000 / took.as_micros()).clamp(threads as u128, MAX_QUEUE_SLOTS as u128);
    tag.ok_or_else(|| Error::internal("argon2 failed on its own parameters"))?;
    // A random tag in place of a computed one: no known password has this hash.
    work.salt = environment.bytes::<SALT_BYTES>().to_vec();
    let dummy = phc(&work, &environment.bytes::<TAG_BYTES>())?;
    // Hashes that are made but never accepted would lock every user out.
    let is_accepted = Stored::parse(&dummy).is_some();
    if !is_accepted {
        return Err(Error::internal("the parameters of argon2 are beyond what is accepted"));
    }
    Ok((usize::try_from(slots).unwrap_or(MAX_QUEUE_SLOTS), dummy))
}

type Compute = fn(&[u8], &Work, &mut Vec<Block>) -> Option<[u8; TAG_BYTES]>;

/// Runs jobs until the hasher is closed.
fn serve(shared: &Shared, metrics: &Metrics, compute: Compute) {
    let mut memory = Vec::new();
    while let Some(job) = shared.next(&mut memory) {
        // If the caller has gone, the result is not needed.
        match job {
            Job::Hash { answer, .. } if answer.is_closed() => {}
            Job::Hash { password, work, kind, answer } => {
                let _ = answer.send(timed(metrics, kind, || compute(password.expose().as_bytes(), &work, &mut memory)));
            }
            Job::Compare { password, hashes, answer } => {
                let matches = |Stored { work, tag }: &Stored| {
                    let hash = || compute(password.expose().as_bytes(), work, &mut memory);
                    timed(metrics, HashKind::Verify, hash).map(|computed| bool::from(computed.ct_eq(tag)))
                };
                let found = any(hashes.iter().take_while(|_| !answer.is_closed()).map(matches));
                let _ = answer.send(found);
            }
            Job::Call(call) => {
                // The caller learns of a panic, since there is no answer.
                let _ = catch_unwind(AssertUnwindSafe(call));
            }
        }
    }
}

/// Returns whether one is true. Stops at the first that is, or that failed.
fn any(mut found: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    found.find(|found| *found != Some(false)).unwrap_or(Some(false))
}

/// Runs one computation for the metrics. One that panics must not end the thread: without any thread, all sign-ins would fail.
fn timed(
    metrics: &Metrics,
    kind: HashKind,
    compute: impl FnOnce() -> Option<[u8; TAG_BYTES]>,
) -> Option<[u8; TAG_BYTES]> {
    let began = Instant::now();
    metrics.hashing_began();
    let tag = catch_unwind(AssertUnwindSafe(compute)).unwrap_or_default();
    metrics.hashed(kind, began.elapsed());
    tag
}

/// Hashes in `memory`, which grows to the size that the largest job needs and is reused.
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

/// Formats a hash as a PHC string.
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

/// A parsed stored hash.
struct Stored {
    work: Work,
    tag: [u8; TAG_BYTES],
}

impl Stored {
    /// Parses a PHC string. Returns `None` unless it is Argon2id of version 0x13 and within the bounds.
    fn parse(text: &str) -> Option<Stored> {
        let hash = PasswordHash::new(text).ok()?;
        let params = accepted_params(&hash)?;
        let tag = hash.hash?.as_bytes().try_into().ok()?;
        let salt = hash.salt?.to_vec();
        (salt.len() >= MIN_SALT_LEN).then_some(Stored { work: Work { params, salt }, tag })
    }
}

fn params_of(method: &HashMethod) -> Option<Params> {
    PasswordHash::new(method.as_str()).ok().and_then(|hash| accepted_params(&hash))
}

/// Returns the parameters of a hash, or `None` unless it is Argon2id of version 0x13 and within the bounds.
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
