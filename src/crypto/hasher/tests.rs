use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

type Outcome<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn job(answer: oneshot::Sender<Option<[u8; TAG_BYTES]>>) -> Option<Job> {
    let params = Params::new(64, 1, 1, Some(TAG_BYTES)).ok()?;
    let work = Work { params, salt: vec![7; SALT_BYTES] };
    Some(Job::Hash { password: PlainPassword::decoy(), work, kind: HashKind::Verify, answer })
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared { state: Mutex::new(Queues::default()), wake: Condvar::new() })
}

#[tokio::test]
async fn a_job_that_panics_is_answered_and_the_thread_goes_on() {
    static PANICKED: AtomicBool = AtomicBool::new(false);
    let shared = shared();
    let [first, second] = [(); 2].map(|()| {
        let (answer, computed) = oneshot::channel();
        shared.lock().sign_ins.extend(job(answer));
        computed
    });
    shared.lock().closed = true;
    let metrics = Metrics::new();
    serve(&shared, &metrics, |password, work, memory| {
        assert!(PANICKED.swap(true, Ordering::Relaxed), "hostile");
        compute(password, work, memory)
    });
    assert_eq!(first.await, Ok(None));
    assert!(second.await.is_ok_and(|tag| tag.is_some()), "the same thread hashes on");
    assert!(metrics.encode().contains("latchkey_hashes_in_flight 0"));
}

#[tokio::test]
async fn nothing_is_hashed_for_who_has_gone() {
    let shared = shared();
    let (answer, gone) = oneshot::channel();
    drop(gone);
    shared.lock().sign_ins.extend(job(answer));
    shared.lock().closed = true;
    let metrics = Metrics::new();
    serve(&shared, &metrics, |_, _, _| None);
    assert!(!metrics.encode().contains("kind=\"verify\"} 1"));
}

#[test]
fn a_stored_hash_that_cannot_be_verified_is_none() {
    let tag = "A".repeat(43);
    let salt = "c2FsdHNhbHRzYWx0c2FsdA";
    let hash = |params: &str, salt: &str| format!("$argon2id$v=19${params}${salt}${tag}");
    // The last three are the maxima that the configuration permits.
    for params in ["m=64,t=1,p=1", "m=131072,t=4,p=1", "m=52428,t=10,p=1", "m=65536,t=8,p=8"] {
        assert!(Stored::parse(&hash(params, salt)).is_some(), "{params}");
    }
    for (params, salt) in [
        ("m=64,t=1,p=1", "c2FsdA"),
        ("m=200000,t=1,p=1", salt),
        ("m=64,t=11,p=1", salt),
        ("m=64,t=1,p=9", salt),
        ("m=131072,t=10,p=1", salt),
    ] {
        assert!(Stored::parse(&hash(params, salt)).is_none(), "{params} {salt}");
    }
}

fn small_hasher(metrics: &Arc<Metrics>) -> Outcome<Hasher> {
    let settings = HasherSettings { memory_kib: 64, iterations: 1, parallelism: 1, threads: Some(1) };
    Ok(Hasher::start(settings, Environment::system(), Arc::clone(metrics))?)
}

fn plain(number: usize) -> Outcome<PlainPassword> {
    Ok(PlainPassword::parse(format!("c4nary number {number}"))?)
}

/// The hashes of `plain(0)` to `plain(9)`.
async fn ten_old(hasher: &Hasher, permit: &HashPermit) -> Outcome<Vec<StoredHash>> {
    let mut old = Vec::new();
    for number in 0..10 {
        old.push(hasher.hash(permit, plain(number)?).await?);
    }
    Ok(old)
}

fn verified(metrics: &Metrics) -> usize {
    let is_line = |line: &&str| line.starts_with("latchkey_hashes_total{kind=\"verify\"}");
    let count = metrics.encode().lines().find(is_line).and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.unwrap_or_default()
}

#[tokio::test]
async fn a_comparison_with_ten_old_waits_once_in_the_queue() -> Outcome {
    let metrics = Arc::new(Metrics::new());
    let hasher = small_hasher(&metrics)?;
    let permit = hasher.admit(Priority::SignIn)?;
    let old = ten_old(&hasher, &permit).await?;
    let (began, held) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let occupy = hasher.run(&permit, move || {
        let _ = began.send(());
        let _ = released.recv();
    });
    let next_in_line = async {
        let _ = hasher.hash(&permit, PlainPassword::decoy()).await;
        verified(&metrics)
    };
    let queued = async {
        let is_held = held.await.is_ok();
        let queued = hasher.shared.lock().sign_ins.len();
        (is_held && release.send(()).is_ok()).then_some(queued)
    };
    // The futures are first polled in this order.
    let compare = hasher.matches_any(&permit, plain(99)?, &old);
    let (_, found, verified_before, queued) = tokio::join!(occupy, compare, next_in_line, queued);
    assert_eq!((found?, queued), (false, Some(2)));
    assert_eq!(verified_before, 10, "the whole comparison comes before the next in line");
    Ok(())
}

#[tokio::test]
async fn a_comparison_ends_at_the_first_hash_that_matches() -> Outcome {
    let metrics = Arc::new(Metrics::new());
    let hasher = small_hasher(&metrics)?;
    let permit = hasher.admit(Priority::SignIn)?;
    let old = ten_old(&hasher, &permit).await?;
    assert!(hasher.matches_any(&permit, plain(3)?, &old).await?);
    assert_eq!(verified(&metrics), 4);
    assert!(hasher.matches_any(&permit, plain(9)?, &old).await?);
    assert!(!hasher.matches_any(&permit, plain(9)?, &[]).await?);
    Ok(())
}

/// The caller of `a_comparison_ends_when_its_caller_has_gone`. A function that hashes captures nothing.
static CALLER: Mutex<Option<oneshot::Receiver<Option<bool>>>> = Mutex::new(None);

#[tokio::test]
async fn a_comparison_ends_when_its_caller_has_gone() -> Outcome {
    let metrics = Arc::new(Metrics::new());
    let hasher = small_hasher(&metrics)?;
    let permit = hasher.admit(Priority::SignIn)?;
    let old = ten_old(&hasher, &permit).await?;
    let shared = shared();
    let (answer, compared) = oneshot::channel();
    let old = old.iter().filter_map(|hash| Stored::parse(hash.as_str())).collect();
    shared.lock().sign_ins.push_back(Job::Compare { password: plain(99)?, hashes: old, answer });
    shared.lock().closed = true;
    *CALLER.lock().unwrap_or_else(PoisonError::into_inner) = Some(compared);
    serve(&shared, &metrics, |password, work, memory| {
        drop(CALLER.lock().unwrap_or_else(PoisonError::into_inner).take());
        compute(password, work, memory)
    });
    assert_eq!(verified(&metrics), 1);
    Ok(())
}

#[tokio::test]
async fn a_comparison_that_panics_is_answered() -> Outcome {
    let metrics = Arc::new(Metrics::new());
    let hasher = small_hasher(&metrics)?;
    let permit = hasher.admit(Priority::SignIn)?;
    let old = ten_old(&hasher, &permit).await?;
    let shared = shared();
    let (answer, compared) = oneshot::channel();
    let old = old.iter().filter_map(|hash| Stored::parse(hash.as_str())).collect();
    shared.lock().sign_ins.push_back(Job::Compare { password: plain(0)?, hashes: old, answer });
    shared.lock().closed = true;
    serve(&shared, &metrics, |password, _, _| {
        assert!(password.is_empty(), "hostile");
        None
    });
    assert_eq!(compared.await, Ok(None));
    Ok(())
}
