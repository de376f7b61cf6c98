//! inotify watches on folders: whether anything happened to watched files, and which of them are open for writing.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::inotify;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::inotify::WatchFlags;

use crate::file_watch::watched::Watched;
use crate::sys::readable::readable;

/// How many events one poll reads: a process that writes without pause beside the watched files must not keep it from
/// ending.
pub(super) const MAX_EVENTS_PER_POLL: usize = 1024;

const EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ONLYDIR);

/// An inotify instance (SPEC: inotify(7)).
#[derive(Debug)]
pub(super) struct Inotify {
    instance: OwnedFd,
    watch_descriptors: BTreeMap<PathBuf, i32>,
    being_written: BTreeSet<PathBuf>,
}

impl Inotify {
    /// `None` where the user has no instance left (`fs.inotify.max_user_instances`).
    pub(super) fn new() -> Option<Self> {
        let instance = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
        Some(Self { instance, watch_descriptors: BTreeMap::new(), being_written: BTreeSet::new() })
    }

    /// Files that were written to and not closed since.
    pub(super) fn being_written(&self) -> &BTreeSet<PathBuf> {
        &self.being_written
    }

    /// Waits for an event. Never returns where the instance cannot be waited for.
    pub(super) async fn readable(&self) {
        if readable(self.instance.as_fd()).await.is_err() {
            std::future::pending().await
        }
    }

    /// Reads the events that have come, and returns whether any concerned a `watched` file. An event that has been read
    /// from the kernel is handled; the others wait for the next poll.
    pub(super) fn drain_events(&mut self, watched: &[Watched]) -> bool {
        self.rewatch(&watched.iter().map(Watched::folder).collect());
        let (mut concerned, mut drained) = (false, 0);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.instance, &mut buffer);
        while drained < MAX_EVENTS_PER_POLL || !events.is_buffer_empty() {
            let Ok(event) = events.next() else { break };
            drained += 1;
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.being_written.clear();
            }
            let Some(name) = event.file_name() else { continue };
            let folders = self.watch_descriptors.iter().filter(|(_, descriptor)| **descriptor == event.wd());
            let paths = folders.map(|(folder, _)| folder.join(OsStr::from_bytes(name.to_bytes())));
            for path in paths.filter(|path| watched.iter().any(|watched| watched.covers(path))) {
                if event.events().contains(ReadFlags::MODIFY) {
                    self.being_written.insert(path);
                } else if !event.events().contains(ReadFlags::CREATE) {
                    self.being_written.remove(&path);
                }
                concerned = true;
            }
        }
        concerned
    }

    /// Adds a watch on each folder that exists, at every poll: a folder may have been replaced by another of its name,
    /// and for one that is watched already the kernel returns the same descriptor.
    fn rewatch(&mut self, folders: &BTreeSet<&Path>) {
        let before = std::mem::take(&mut self.watch_descriptors);
        for folder in folders {
            if let Ok(descriptor) = inotify::add_watch(&self.instance, *folder, EVENTS) {
                self.watch_descriptors.insert(folder.to_path_buf(), descriptor);
            }
        }
        for (folder, descriptor) in before {
            if self.watch_descriptors.get(&folder) != Some(&descriptor) {
                self.being_written.retain(|path| path.parent() != Some(&folder));
            }
            if !self.watch_descriptors.values().any(|kept| *kept == descriptor) {
                let _already_gone = inotify::remove_watch(&self.instance, descriptor);
            }
        }
    }

    /// How many bytes of events are not drained.
    #[cfg(test)]
    pub(super) fn pending_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.instance).unwrap()
    }
}
