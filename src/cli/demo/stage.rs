//! The place where the demo happens: a folder for this user alone, which is gone when the demo is, and a daemon in it
//! that does not outlive the demo.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::geteuid;
use rustix::process::getppid;
use rustix::process::set_parent_process_death_signal;

use crate::agent;
use crate::agent::RunOptions;
use crate::cli::demo::failure::no_room;
use crate::cli::screen::Failure;

/// The configuration of the daemon, in the folder.
pub(super) const CONFIGURATION: &str = "bonafide.toml";

/// How the name of every demo's folder begins; it ends with six random characters.
const PREFIX: &str = "bonafide-demo-";

/// The longest name of a socket in the folder, after a slash, and the most that a whole name may have (SPEC: unix(7)).
const LONGEST_SOCKET: usize = "/admin/admin.sock".len();
const MAX_SOCKET_NAME: usize = 107;

/// A folder that is removed with everything in it.
pub(super) struct Folder {
    path: PathBuf,
    /// Held as long as the demo runs, so that the next one knows what has been left behind.
    _lock: OwnedFd,
}

impl Folder {
    /// A new folder below the directory for temporary files.
    ///
    /// RACE: it has its name only once it is locked, so another demo never takes it for one left behind.
    pub(super) fn new() -> Result<Self, Failure> {
        let temporary = std::env::temp_dir();
        let impossible = |error| no_room(format!("no folder can be made in {}", temporary.display()), error);
        // An entry by path wants the path without symlinks.
        let parent = fs::canonicalize(&temporary).map_err(impossible)?;
        if parent.as_os_str().len() + 1 + PREFIX.len() + 6 + LONGEST_SOCKET > MAX_SOCKET_NAME {
            let why = format!("the kernel takes names of sockets of at most {MAX_SOCKET_NAME} bytes");
            return Err(no_room(format!("the name of {} is too long", parent.display()), why));
        }
        let unlocked = nix::unistd::mkdtemp(&parent.join(format!(".{PREFIX}XXXXXX")));
        let unlocked = unlocked.map_err(|error| impossible(error.into()))?;
        let name = unlocked.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(name.trim_start_matches('.'));
        let locked = lock(&unlocked).and_then(|lock| fs::rename(&unlocked, &path).map(|()| lock));
        match locked {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(error) => {
                let _left_empty = fs::remove_dir(&unlocked);
                Err(impossible(error))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folders of demos that were killed together with their daemon, and names them.
    pub(super) fn remove_abandoned(&self) -> Vec<PathBuf> {
        let beside = self.path.parent().map(fs::read_dir).into_iter().flatten().flatten().filter_map(Result::ok);
        beside.map(|entry| entry.path()).filter(|path| remove_if_abandoned(path)).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _already_gone = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folder of a demo that runs no more; whether it did.
fn remove_if_abandoned(path: &Path) -> bool {
    let named_like_one = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    named_like_one && lock(path).is_ok() && fs::remove_dir_all(path).is_ok()
}

/// The lock on a demo's folder; an error while that demo runs.
///
/// SECURITY: anybody may make folders beside ours. What is no directory, or not of this user, is never touched.
fn lock(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    if rustix::fs::fstat(&directory)?.st_uid != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// The arguments of the daemon's process.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArguments {
    /// The demo's folder
    #[arg(long)]
    folder: PathBuf,
    /// The demo's process
    #[arg(long)]
    demo: i32,
}

/// Runs the daemon until it is told to stop, or the demo is gone; after a demo that was killed it cleans up.
pub(super) fn run(arguments: &DaemonArguments) -> ExitCode {
    let orphaned = || getppid().map(Pid::as_raw_pid) != Some(arguments.demo);
    // RACE: a demo that has gone before this line is noticed below; one that goes later sends the signal.
    let bound = set_parent_process_death_signal(Some(Signal::TERM));
    let ended = if bound.is_ok() && !orphaned() {
        agent::run(RunOptions { config: arguments.folder.join(CONFIGURATION), strict: false })
    } else {
        ExitCode::FAILURE
    };
    if orphaned() {
        remove_if_abandoned(&arguments.folder);
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_another_demo_has_locked_is_not_abandoned() {
        let (held, other) = (Folder::new().unwrap(), Folder::new().unwrap());
        assert!(!other.remove_abandoned().contains(&held.path));
        assert!(held.path.is_dir());
        let path = held.path.clone();
        drop(held);
        assert!(!path.exists());
    }
}
