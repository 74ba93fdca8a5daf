//! Those who use a server while a test attacks it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{Harness, PASSWORD};

impl Harness {
    /// Runs an attack. Until it ends, and five times at least, the owner of an account signs in from a familiar place, an
    /// operator locks and unlocks a user, and a load balancer asks for health: each call must succeed. Returns what the attack
    /// returns, and the number of rounds. Each round hashes one password, and the first needs three more.
    pub async fn serves_others_during<T>(&self, attack: impl Future<Output = T>) -> (T, u64) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (owner, victim) = (format!("owner-{number}"), format!("victim-{number}"));
        self.create(&owner, &[], PASSWORD).await;
        self.create(&victim, &[], PASSWORD).await;
        let (operator, home) = (self.operator().await, self.stranger_at("127.0.0.200").await);
        home.tokens(&owner, PASSWORD).await.expect("a place that is familiar from now on");
        let mut health = HealthClient::new(home.channel());
        let done = AtomicBool::new(false);
        let attack = async {
            let answer = attack.await;
            done.store(true, Ordering::Relaxed);
            answer
        };
        let others = async {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds < 5 {
                home.tokens(&owner, PASSWORD).await.expect("the owner signs in");
                operator.lock(&victim).await.expect("a lock");
                operator.unlock(&victim).await.expect("an unlock");
                let answer = health.check(HealthCheckRequest::default()).await.expect("an answer to the load balancer");
                assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
                rounds += 1;
            }
            rounds
        };
        tokio::join!(attack, others)
    }
}
