//! Faults on demand: places at which a test kills the server, makes a step fail, or holds it.
//!
//! The variable `FAILPOINTS` says what happens where, in the language of the crate [`fail`]:
//! `LockUser.commit=2*off->1*return(kill)` kills at the third commit of a lock. What can be returned is `kill` (SIGKILL,
//! as by `kill -9`), `error` (the database is away) and `wait PATH` (connect to this Unix socket, and go on when its
//! other end closes). CONTRIBUTING.md lists the places.
//!
//! A build without `debug_assertions` has none of this, whatever its features: no release can be made to fail.

/// A place for a fault. `failpoint!("store.user_save")` has a name of its own; `failpoint!(call, "commit")` is named
/// after the method that is called, such as `LockUser.commit`.
#[cfg(all(feature = "failpoints", debug_assertions))]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::enabled::reached($name).await?
    };
    ($call:expr, $step:literal) => {
        $crate::failpoint::enabled::reached(&$crate::failpoint::enabled::of_call(&$call, $step)).await?
    };
}

/// Nothing.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
macro_rules! failpoint {
    ($($place:tt)*) => {};
}

#[cfg(all(feature = "failpoints", debug_assertions))]
pub(crate) mod enabled {
    use rustix::process::{Signal, getpid, kill_process};

    use crate::domain::caller::Call;
    use crate::error::{Error, Outage, Result};

    /// Reads `FAILPOINTS`. Faults last as long as the answer.
    pub(crate) fn arm() -> fail::FailScenario<'static> {
        fail::FailScenario::setup()
    }

    /// The name of a step of a method.
    pub(crate) fn of_call(call: &Call, step: &str) -> String {
        let method = call.method.rsplit('/').next().unwrap_or_default();
        format!("{method}.{step}")
    }

    /// Does what `FAILPOINTS` says about this place.
    pub(crate) async fn reached(name: &str) -> Result<()> {
        let Some(action) = asked(name) else { return Ok(()) };
        let fault = |text: String| Error::Unavailable(Outage::Storage(text.into()));
        match action.split_once(' ') {
            None if action == "kill" => {
                kill_process(getpid(), Signal::KILL).map_err(|error| fault(error.to_string()))?;
                std::future::pending().await
            }
            None if action == "error" => Err(fault(format!("the failpoint {name}"))),
            Some(("wait", path)) => {
                // Nobody listens any more: the test has what it waited for.
                if let Ok(stream) = tokio::net::UnixStream::connect(path).await {
                    stream.readable().await.map_err(|error| fault(error.to_string()))?;
                }
                Ok(())
            }
            _ => Err(fault(format!("{name}: nobody knows what {action:?} means"))),
        }
    }

    fn asked(name: &str) -> Option<String> {
        fail::fail_point!(name, |action| action);
        None
    }
}
