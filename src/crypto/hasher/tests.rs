use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

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
