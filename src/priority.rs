//! The priority of a thread.

/// The maximum. A hash or a list takes a hundred times as long as anything that could wait behind it (measured: ADR 0020).
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

/// Lowers the priority of this thread below everything else that the service does, which needs little time but promptly. The
/// thread competes as an equal where the system has no priority for a thread, or does not permit it.
#[cfg(target_os = "linux")]
pub(crate) fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "the nice value of a thread could not be raised");
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lower_priority() {}
