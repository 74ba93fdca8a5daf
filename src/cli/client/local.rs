//! The local socket that no flag and no variable names: where it is looked for, and which one is taken.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::target::{ChosenBy, Target, absolute};

/// The name of latchkeyd's socket in its data directory.
pub(crate) const SOCKET_NAME: &str = "latchkey.sock";
/// The default data directory.
const DEFAULT_DATA_DIR: &str = "latchkey-data";
/// The directories of a service, in the order in which they are looked at.
const SYSTEM_DIRS: [&str; 2] = ["/run/latchkey", "/var/lib/latchkey"];

/// A socket that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    path: PathBuf,
    chosen_by: ChosenBy,
    /// Whether this process may use it, and its owner is trusted.
    usable: bool,
}

impl From<Found> for Target {
    fn from(found: Found) -> Target {
        Target::Socket(found.path, found.chosen_by)
    }
}

/// The socket for `--local`: the first that this process may use, else the first there is, for its error to be reported.
pub(crate) fn found() -> Option<Found> {
    taken(&all()).cloned()
}

/// Of several sockets, one that a dead server left behind does not hide that of another server.
fn taken(all: &[Found]) -> Option<&Found> {
    let mut usable = all.iter().filter(|found| found.usable);
    let is_alone = all.len() == 1;
    let first = usable.clone().next();
    usable.find(|found| is_alone || UnixStream::connect(&found.path).is_ok()).or(first).or(all.first())
}

/// The socket without `--local`: one that this process may use, or the one in the current directory.
pub(crate) fn usable() -> Option<Found> {
    found().filter(|found| found.usable || found.chosen_by == ChosenBy::Default)
}

/// The socket in the default data directory, whether or not it exists.
pub(crate) fn default_socket() -> Target {
    Target::Socket(absolute(&default_path()), ChosenBy::Default)
}

/// Why `target` was taken, if it was found and is not the only one.
pub(crate) fn choice(target: &Target) -> Option<String> {
    let Target::Socket(path, ChosenBy::Default | ChosenBy::System) = target else { return None };
    explained(path, &all())
}

fn explained(taken: &Path, all: &[Found]) -> Option<String> {
    let others: Vec<String> =
        all.iter().filter(|found| found.path != taken).map(|found| found.path.display().to_string()).collect();
    if others.is_empty() {
        return None;
    }
    let taken = all.iter().find(|found| found.path == taken)?;
    let why = match (taken.chosen_by, all.iter().filter(|found| found.usable).count()) {
        (_, 1) => "the only one that you may use",
        (ChosenBy::Default, _) => "it is in the current directory",
        _ => "the first of the usual places with a server",
    };
    Some(format!(
        "using the socket {} ({why}); there is also {}: --socket PATH chooses another",
        taken.path.display(),
        others.join(" and ")
    ))
}

fn all() -> Vec<Found> {
    let system = SYSTEM_DIRS.map(|directory| Path::new(directory).join(SOCKET_NAME));
    sockets(&absolute(&default_path()), &system, rustix::process::geteuid().as_raw())
}

fn sockets(here: &Path, system: &[PathBuf], own: u32) -> Vec<Found> {
    let here = here.exists().then(|| {
        let owner = fs::metadata(here).map(|file| file.uid());
        Found { path: here.to_owned(), chosen_by: ChosenBy::Default, usable: owner.is_ok_and(|owner| owner == own) }
    });
    let is_socket = |path: &&PathBuf| fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let system = system.iter().filter(is_socket).map(|path| Found {
        path: path.clone(),
        chosen_by: ChosenBy::System,
        usable: fs::metadata(path).is_ok_and(|file| own == 0 || file.uid() == own) && is_of_the_service(path),
    });
    here.into_iter().chain(system).collect()
}

/// Returns whether the socket belongs to root or to the owner of its directory, into which no other user may write. Only root
/// can create that directory, so its owner is the user of the service.
pub(crate) fn is_of_the_service(path: &Path) -> bool {
    let (Ok(file), Some(Ok(directory))) = (fs::metadata(path), path.parent().map(fs::metadata)) else { return false };
    let is_private = directory.mode() & 0o022 == 0;
    is_private && (file.uid() == 0 || file.uid() == directory.uid())
}

/// The users of services on this host: the owners of the directories that only root can create.
pub(crate) fn service_users() -> Vec<u32> {
    let private = |directory: &str| fs::metadata(directory).ok().filter(|found| found.mode() & 0o022 == 0);
    SYSTEM_DIRS.iter().filter_map(|directory| private(directory)).map(|found| found.uid()).collect()
}

fn default_path() -> PathBuf {
    Path::new(DEFAULT_DATA_DIR).join(SOCKET_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::net::UnixListener;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// A directory with a socket in it.
    fn socket(root: &Path, name: &str) -> std::io::Result<(PathBuf, UnixListener)> {
        let directory = root.join(name);
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let path = directory.join(SOCKET_NAME);
        let listener = UnixListener::bind(&path)?;
        Ok((path, listener))
    }

    #[test]
    fn the_sockets_of_a_service_are_found_and_the_choice_is_explained() -> Outcome {
        let root = tempfile::tempdir()?;
        let own = rustix::process::geteuid().as_raw();
        let nowhere = root.path().join("nowhere");
        let (run, _first) = socket(root.path(), "run")?;
        let only = sockets(&nowhere, &[run.clone(), nowhere.clone()], own);
        assert_eq!(only, [Found { path: run.clone(), chosen_by: ChosenBy::System, usable: true }]);
        assert_eq!(explained(&run, &only), None);
        let (lib, _second) = socket(root.path(), "lib")?;
        let (here, _third) = socket(root.path(), "here")?;
        let all = sockets(&here, &[run.clone(), lib.clone()], own);
        assert_eq!(all.iter().map(|found| &found.path).collect::<Vec<_>>(), [&here, &run, &lib]);
        assert_eq!(taken(&all).map(|found| &found.path), Some(&here));
        let told = explained(&here, &all).unwrap_or_default();
        assert!(told.contains("in the current directory") && told.contains("run") && told.contains("lib"), "{told}");
        Ok(())
    }

    #[test]
    fn a_socket_without_a_server_does_not_hide_another() -> Outcome {
        let root = tempfile::tempdir()?;
        let own = rustix::process::geteuid().as_raw();
        let (run, dead) = socket(root.path(), "run")?;
        drop(dead);
        let nowhere = root.path().join("nowhere");
        let all = sockets(&nowhere, std::slice::from_ref(&run), own);
        assert_eq!(taken(&all).map(|found| &found.path), Some(&run), "its error is reported");
        let (lib, _listener) = socket(root.path(), "lib")?;
        let all = sockets(&nowhere, &[run, lib.clone()], own);
        assert_eq!(taken(&all).map(|found| &found.path), Some(&lib));
        Ok(())
    }

    #[test]
    fn a_socket_in_a_directory_that_others_may_write_to_is_not_the_services() -> Outcome {
        let root = tempfile::tempdir()?;
        let (path, _listener) = socket(root.path(), "run")?;
        assert!(is_of_the_service(&path));
        fs::set_permissions(root.path().join("run"), fs::Permissions::from_mode(0o777))?;
        assert!(!is_of_the_service(&path));
        Ok(())
    }

    #[test]
    fn root_uses_the_socket_of_the_services_user_and_not_that_of_a_stranger() -> Outcome {
        let root = tempfile::tempdir()?;
        let (path, _listener) = socket(root.path(), "run")?;
        if chown(&path, Some(998), None).is_err() {
            return Ok(()); // Only root can give a socket away.
        }
        assert!(!is_of_the_service(&path), "the directory is root's");
        chown(root.path().join("run"), Some(998), None)?;
        assert!(is_of_the_service(&path));
        let usable = |own: u32| sockets(&root.path().join("none"), std::slice::from_ref(&path), own).pop();
        assert_eq!(usable(0).map(|found| found.usable), Some(true));
        assert_eq!(usable(998).map(|found| found.usable), Some(true));
        assert_eq!(usable(1000).map(|found| found.usable), Some(false));
        Ok(())
    }
}
