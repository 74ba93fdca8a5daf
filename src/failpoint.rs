//! Failpoints: places at which a test kills the server, makes a step fail, or blocks it.
//!
//! The environment variable `FAILPOINTS` configures them in the language of the crate [`fail`]:
//! `LockUser.commit=2*off->1*return(kill)` kills the server at the third commit of a lock. The return values are `kill`
//! (SIGKILL, as by `kill -9`), `error` (the database is unavailable) and `wait PATH` (connect to this Unix socket, and
//! continue when the other end closes). CONTRIBUTING.md lists the places.
//!
//! A build without `debug_assertions` has no failpoints, whatever its features, so no release can be made to fail.

/// Marks a failpoint. `failpoint!("store.user_save")` has a fixed name; `failpoint!(call, "commit")` is named after the
/// called method, such as `LockUser.commit`.
#[cfg(all(feature = "failpoints", debug_assertions))]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::enabled::reached($name).await?
    };
    ($call:expr, $step:literal) => {
        $crate::failpoint::enabled::reached(&$crate::failpoint::enabled::of_call(&$call, $step)).await?
    };
}

/// Expands to nothing.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
macro_rules! failpoint {
    ($($place:tt)*) => {};
}

#[cfg(all(feature = "failpoints", debug_assertions))]
pub(crate) mod enabled {
    use rustix::process::{Signal, getpid, kill_process};

    use crate::domain::caller::Call;
    use crate::error::{Error, Outage, Result};

    /// Reads `FAILPOINTS`. The failpoints are active until the returned value is dropped.
    pub(crate) fn arm() -> fail::FailScenario<'static> {
        fail::FailScenario::setup()
    }

    /// Name of a failpoint in a method.
    pub(crate) fn of_call(call: &Call, step: &str) -> String {
        let method = call.method.rsplit('/').next().unwrap_or_default();
        format!("{method}.{step}")
    }

    /// Runs the action that `FAILPOINTS` configures for this place.
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
                // If the connection fails, the test no longer waits, so the server continues.
                if let Ok(stream) = tokio::net::UnixStream::connect(path).await {
                    stream.readable().await.map_err(|error| fault(error.to_string()))?;
                }
                Ok(())
            }
            _ => Err(fault(format!("{name}: unknown action {action:?}"))),
        }
    }

    fn asked(name: &str) -> Option<String> {
        fail::fail_point!(name, |action| action);
        None
    }
}
