//! Random sequences of everything that bears on a sign-in, against a small model: no sequence leads around a step that is open, and
//! the server answers each call as the model does.

mod reference;
mod server;

use proptest::test_runner::Config;
use proptest_state_machine::prop_state_machine;

use self::server::Server;
use crate::harness::rounds;

fn config() -> Config {
    let cases = u32::try_from(rounds(24)).unwrap_or(u32::MAX);
    Config { cases, max_shrink_iters: 400, failure_persistence: None, ..Config::default() }
}

prop_state_machine! {
    #![proptest_config(config())]
    #[test]
    fn sec_038_no_sequence_of_calls_leads_around_an_open_step(sequential 20..60 => Server);
}
