//! Token buckets: limits on what may happen how often.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A token bucket. It refills with time, up to its capacity.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    tokens: f64,
    capacity: f64,
    per_second: f64,
    refilled_at: Instant,
}

impl TokenBucket {
    /// A full bucket that gains `per_second` tokens in a second.
    pub fn full(capacity: f64, per_second: f64, now: Instant) -> TokenBucket {
        TokenBucket { tokens: capacity, capacity, per_second, refilled_at: now }
    }

    /// Adds tokens.
    pub fn add(&mut self, tokens: f64) {
        self.tokens = self.capacity.min(self.tokens + tokens);
    }

    /// Takes tokens, even if there are too few.
    pub fn take(&mut self, tokens: f64, now: Instant) {
        self.refill(now);
        self.tokens -= tokens;
    }

    /// Takes a token if there is one. Otherwise returns how long it takes until there is.
    pub fn try_take(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // Limits are far below the number for which this would be no duration.
        Err(Duration::try_from_secs_f64((1.0 - self.tokens) / self.per_second).unwrap_or(Duration::MAX))
    }

    /// Returns how long it takes until there is a token. `None` if there is one.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let taken = self.try_take(now);
        if taken.is_ok() {
            self.tokens += 1.0;
        }
        taken.err()
    }

    /// Returns whether more tokens were taken than there were.
    pub fn is_overdrawn(&self) -> bool {
        self.tokens < 0.0
    }

    /// Returns whether less than half of the capacity is left.
    pub fn is_below_half(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens < self.capacity / 2.0
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.capacity
    }

    fn refill(&mut self, now: Instant) {
        self.add(now.saturating_duration_since(self.refilled_at).as_secs_f64() * self.per_second);
        self.refilled_at = now;
    }
}

/// Most keys of [`TokenBuckets`] that have a bucket of their own: about a megabyte.
const MAX_KEYS: usize = 8192;

/// Time between two searches for full buckets: one takes some tenths of a millisecond.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// Token buckets of one kind, one for each key. A full bucket takes no memory. Beyond a number of keys, further ones share a
/// bucket.
#[derive(Debug)]
pub struct TokenBuckets<K> {
    capacity: f64,
    per_second: f64,
    by_key: HashMap<K, TokenBucket>,
    shared: TokenBucket,
    /// When full buckets are removed next.
    prune_at: Instant,
}

impl<K: Eq + Hash> TokenBuckets<K> {
    /// Buckets that are full.
    pub fn full(capacity: f64, per_second: f64, now: Instant) -> TokenBuckets<K> {
        let shared = TokenBucket::full(capacity, per_second, now);
        TokenBuckets { capacity, per_second, by_key: HashMap::new(), shared, prune_at: now }
    }

    /// Takes a token of this key, as [`TokenBucket::try_take`].
    pub fn try_take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        if let Some(bucket) = self.by_key.get_mut(&key) {
            return bucket.try_take(now);
        }
        if now >= self.prune_at {
            self.by_key.retain(|_, bucket| !bucket.is_full(now));
            self.prune_at = now + PRUNE_EVERY;
        }
        if self.by_key.len() >= MAX_KEYS {
            return self.shared.try_take(now);
        }
        let mut bucket = TokenBucket::full(self.capacity, self.per_second, now);
        let taken = bucket.try_take(now);
        self.by_key.insert(key, bucket);
        taken
    }

    /// Returns how long this key waits for a token, as [`TokenBucket::wait`]. Makes no bucket.
    pub fn wait(&mut self, key: &K, now: Instant) -> Option<Duration> {
        let is_full = self.by_key.len() >= MAX_KEYS;
        match self.by_key.get_mut(key) {
            Some(bucket) => bucket.wait(now),
            None if is_full => self.shared.wait(now),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_what_it_gains() {
        let now = Instant::now();
        let mut bucket = TokenBucket::full(3.0, 0.5, now);
        assert!((0..3).all(|_| bucket.try_take(now).is_ok()));
        assert_eq!(bucket.wait(now), Some(Duration::from_secs(2)));
        assert_eq!(bucket.try_take(now), Err(Duration::from_secs(2)));
        let later = now + Duration::from_secs(4);
        assert!((0..9).all(|_| bucket.wait(later).is_none()), "to ask takes none");
        assert!((0..2).all(|_| bucket.try_take(later).is_ok()));
        assert!(bucket.try_take(later).is_err());
        assert!(
            (0..3).all(|_| bucket.try_take(later + Duration::from_hours(1)).is_ok()),
            "it holds no more than three"
        );
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own_and_memory_is_bounded() {
        let now = Instant::now();
        let mut buckets = TokenBuckets::full(2.0, 1.0, now);
        assert!(buckets.try_take(1, now).is_ok() && buckets.try_take(1, now).is_ok());
        assert!(buckets.try_take(1, now).is_err() && buckets.try_take(2, now).is_ok());

        for key in 0..100_000_i32 {
            let _ = buckets.try_take(key, now);
        }
        assert_eq!(buckets.by_key.len(), MAX_KEYS);
        assert!(buckets.try_take(-1, now).is_err(), "further keys share a bucket");
        let later = now + Duration::from_hours(1);
        assert!(buckets.try_take(-1, later).is_ok());
        assert_eq!(buckets.by_key.len(), 1, "full buckets are forgotten");
    }
}
