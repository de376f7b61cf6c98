//! A small file system on the data directory of a daemon, which a test fills up and empties.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// A tmpfs of 64 KiB mounted on a directory, unmounted on drop.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one over a directory, and copies the authority's state into it; `None` without root or mount(8).
    pub(crate) fn over(directory: &Path) -> Option<Self> {
        let file = directory.join("authority.state");
        let state = fs::read(&file).ok();
        if !mount(&["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"], directory) {
            return None;
        }
        let mounted = Self(directory.to_owned());
        if let Some(state) = state {
            fs::write(&file, state).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        Some(mounted)
    }

    /// Takes all the room that there is.
    pub(crate) fn fill(&self) {
        let _filled_up = fs::write(self.filler(), vec![0; 1 << 20]);
    }

    /// Gives the room back.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Takes no writes from now on.
    pub(crate) fn make_read_only(&self) {
        assert!(mount(&["-o", "remount,ro"], &self.0));
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    Command::new("mount").args(options).arg(at).output().is_ok_and(|output| output.status.success())
}
