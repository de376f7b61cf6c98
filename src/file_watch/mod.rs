//! Notices that files may have changed: by inotify on their folders, and by polling them every half second, which network
//! file systems and mounted secrets need anyway. Refuses to know what is in a file. Its system calls are short, but block
//! as long as the file system does.

mod debounce;
mod inotify;
mod watched;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::file_watch::debounce::Debouncer;
use crate::file_watch::debounce::Poll;
use crate::file_watch::debounce::Snapshot;
use crate::file_watch::debounce::Stamp;
use crate::file_watch::inotify::Inotify;

pub use watched::Watched;

/// How often files are polled while inotify reports nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long nothing may happen to a file before it counts as settled.
const QUIET: Duration = Duration::from_millis(50);

/// A watch on files and drop-in folders.
///
/// RACE: make the watch first and read the files then: a change in between is reported, at the worst once too often.
#[derive(Debug)]
pub struct FileWatch {
    watched: Vec<Watched>,
    inotify: Option<Inotify>,
    debouncer: Debouncer,
    begun: Instant,
}

impl FileWatch {
    /// Begins to watch. Without a free inotify instance it only polls.
    #[must_use]
    pub fn new(watched: Vec<Watched>) -> Self {
        Self::with(inotify_for(&watched), watched)
    }

    /// Begins to watch by polling alone. Of a process that was killed the kernel frees one inotify instance after the other,
    /// in some 5 ms each, and the next daemon waits for the last of them.
    #[must_use]
    pub fn polling(watched: Vec<Watched>) -> Self {
        Self::with(None, watched)
    }

    fn with(mut inotify: Option<Inotify>, watched: Vec<Watched>) -> Self {
        drain_events(inotify.as_mut(), &watched);
        let debouncer = Debouncer::new(snapshot(&watched));
        Self { watched, inotify, debouncer, begun: Instant::now() }
    }

    /// Watches other files from now on. Files that are watched before and after keep their state, so a change of them is
    /// still reported. Files that are new are taken as they are: read them after this.
    pub fn watch_instead(&mut self, watched: Vec<Watched>) {
        self.inotify = self.inotify.take().or_else(|| inotify_for(&watched));
        drain_events(self.inotify.as_mut(), &watched);
        let is_watched = |path: &Path| watched.iter().any(|watched| watched.covers(path));
        self.debouncer.watch_instead(is_watched, snapshot(&watched));
        self.watched = watched;
    }

    /// Waits until the content of watched files may have changed, and names them, those that are gone included. A file is
    /// named once its writer has closed or renamed it. Cancel safe.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            match self.poll() {
                Poll::Changed(paths) => return paths,
                Poll::Unsettled => {}
                Poll::Idle => self.event_or_interval().await,
            }
            sleep(QUIET).await;
        }
    }

    fn poll(&mut self) -> Poll {
        let events = drain_events(self.inotify.as_mut(), &self.watched);
        let none = BTreeSet::new();
        let being_written = self.inotify.as_ref().map_or(&none, Inotify::being_written);
        self.debouncer.poll(snapshot(&self.watched), events, being_written, self.begun.elapsed())
    }

    async fn event_or_interval(&self) {
        match &self.inotify {
            Some(inotify) => drop(timeout(POLL_INTERVAL, inotify.readable()).await),
            None => sleep(POLL_INTERVAL).await,
        }
    }
}

fn inotify_for(watched: &[Watched]) -> Option<Inotify> {
    if watched.is_empty() { None } else { Inotify::new() }
}

fn drain_events(inotify: Option<&mut Inotify>, watched: &[Watched]) -> bool {
    inotify.is_some_and(|inotify| inotify.drain_events(watched))
}

fn snapshot(watched: &[Watched]) -> Snapshot {
    watched.iter().flat_map(paths).filter_map(|path| stamp(&path).map(|stamp| (path, stamp))).collect()
}

fn paths(watched: &Watched) -> Vec<PathBuf> {
    match watched {
        Watched::File(path) => vec![path.clone()],
        Watched::Folder { folder, .. } => {
            let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
            entries.map(|entry| entry.path()).filter(|path| watched.covers(path)).collect()
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let it = fs::metadata(path).ok()?;
    Some(Stamp {
        file: (it.dev(), it.ino()),
        size: it.size(),
        modified: (it.mtime(), it.mtime_nsec()),
        status_changed: (it.ctime(), it.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::file_watch::inotify::MAX_EVENTS_PER_POLL;
    use tempfile::TempDir;

    /// A folder with `a.toml` in it, and a watch on `a.toml` and on the drop-ins of `entries.d`.
    struct Room {
        folder: TempDir,
        watch: FileWatch,
    }

    impl Room {
        fn with(inotify: Option<Inotify>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.toml"), "1").unwrap();
            fs::create_dir(folder.path().join("entries.d")).unwrap();
            let watched = vec![
                Watched::File(folder.path().join("a.toml")),
                Watched::Folder { folder: folder.path().join("entries.d"), suffix: ".toml".into() },
            ];
            Self { watch: FileWatch::with(inotify, watched), folder }
        }

        fn new() -> Self {
            Self::with(Inotify::new())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn replace(&self, name: &str, text: &str) {
            fs::write(self.path(".new"), text).unwrap();
            fs::rename(self.path(".new"), self.path(name)).unwrap();
        }

        /// The next files reported, by their names in the room.
        async fn reported(&mut self) -> Vec<String> {
            let changed = timeout(Duration::from_secs(20), self.watch.changed()).await.expect("a change is reported");
            let name = |path: &PathBuf| path.strip_prefix(self.folder.path()).unwrap().display().to_string();
            changed.iter().map(name).collect()
        }

        async fn nothing_is_reported_for(&mut self, time: Duration) -> bool {
            timeout(time, self.watch.changed()).await.is_err()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_written_a_replaced_and_a_new_file_are_reported_in_half_a_second() {
        for inotify in [Inotify::new, || None] {
            let mut room = Room::with(inotify());
            let begun = Instant::now();
            fs::write(room.path("a.toml"), "22").unwrap();
            assert_eq!(room.reported().await, ["a.toml"]);
            room.replace("a.toml", "33");
            assert_eq!(room.reported().await, ["a.toml"]);
            room.replace("entries.d/x.toml", "1");
            assert_eq!(room.reported().await, ["entries.d/x.toml"]);
            assert!(begun.elapsed() < 3 * (POLL_INTERVAL + 3 * QUIET), "{:?}", begun.elapsed());
            assert!(room.nothing_is_reported_for(Duration::from_secs(60)).await, "nothing is reported twice");
        }
    }

    #[tokio::test]
    async fn an_event_is_handled_before_the_next_interval() {
        let mut room = Room::new();
        let begun = Instant::now();
        let (reported, ()) = tokio::join!(timeout(Duration::from_secs(20), room.watch.changed()), async {
            fs::write(room.folder.path().join("entries.d/x.toml"), "1").unwrap();
        });
        assert_eq!(reported.unwrap().len(), 1);
        assert!(begun.elapsed() < POLL_INTERVAL, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_reported_only_when_its_writer_has_closed_it() {
        let mut room = Room::new();
        let mut writer = File::create(room.path("a.toml")).unwrap();
        writer.write_all(b"half").unwrap();
        assert!(room.nothing_is_reported_for(Duration::from_secs(60)).await);
        fs::write(room.path("entries.d/x.toml"), "1").unwrap();
        assert_eq!(room.reported().await, ["entries.d/x.toml"], "others are reported meanwhile");
        writer.write_all(b"whole").unwrap();
        drop(writer);
        assert_eq!(room.reported().await, ["a.toml"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_ends_while_another_process_writes_beside_the_files() {
        let mut room = Room::new();
        let [mut one, mut other] = ["one", "other"].map(|name| File::create(room.path(name)).unwrap());
        for _ in 0..2 * MAX_EVENTS_PER_POLL {
            one.write_all(b"x").unwrap(); // in turns, for equal events in a row become one
            other.write_all(b"x").unwrap();
        }
        assert_eq!(room.watch.poll(), Poll::Idle, "nothing happened to what is watched");
        assert!(room.watch.inotify.as_ref().unwrap().pending_bytes() > 0, "the rest waits for the next poll");
        fs::write(room.path("a.toml"), "22").unwrap();
        assert_eq!(room.reported().await, ["a.toml"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_missing_for_under_a_second_is_being_replaced() {
        let mut room = Room::new();
        fs::rename(room.path("a.toml"), room.path("kept")).unwrap();
        assert!(room.nothing_is_reported_for(Duration::from_millis(900)).await);
        fs::write(room.path("a.toml"), "2").unwrap();
        assert_eq!(room.reported().await, ["a.toml"]);
        assert!(room.nothing_is_reported_for(Duration::from_secs(60)).await, "its absence is forgotten");
        fs::remove_file(room.path("a.toml")).unwrap();
        assert_eq!(room.reported().await, ["a.toml"], "what stays away is reported");
        fs::write(room.path("a.toml"), "3").unwrap();
        assert_eq!(room.reported().await, ["a.toml"], "and what comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn temporary_and_backup_files_and_other_suffixes_are_ignored() {
        let mut room = Room::new();
        for name in [".x.toml", "x.toml~", ".x.toml.swp", "README", "toml", "x.toml.dpkg-new"] {
            fs::write(room.path("entries.d").join(name), "1").unwrap();
        }
        assert!(room.nothing_is_reported_for(Duration::from_secs(60)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_reached_by_symlinks_is_reported_when_a_symlink_is_swapped() {
        let room = tempfile::tempdir().unwrap();
        let path = |name: &str| room.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("bundle.json"), version).unwrap();
        }
        std::os::unix::fs::symlink("v1", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/bundle.json", path("bundle.json")).unwrap();
        let mut watch = FileWatch::new(vec![Watched::File(path("bundle.json"))]);
        std::os::unix::fs::symlink("v2", path("..tmp")).unwrap();
        fs::rename(path("..tmp"), path("..data")).unwrap();
        assert_eq!(watch.changed().await, [path("bundle.json")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_may_come_later_and_be_replaced() {
        let mut room = Room::new();
        fs::remove_dir(room.path("entries.d")).unwrap();
        assert!(room.nothing_is_reported_for(Duration::from_secs(5)).await);
        fs::create_dir(room.path("entries.d")).unwrap();
        fs::write(room.path("entries.d/x.toml"), "1").unwrap();
        assert_eq!(room.reported().await, ["entries.d/x.toml"]);
        fs::rename(room.path("entries.d"), room.path("old")).unwrap();
        fs::create_dir(room.path("entries.d")).unwrap();
        fs::write(room.path("entries.d/x.toml"), "2").unwrap();
        assert_eq!(room.reported().await, ["entries.d/x.toml"]);
        fs::write(room.path("old/x.toml"), "3").unwrap();
        assert!(room.nothing_is_reported_for(Duration::from_secs(60)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_on_other_files_keeps_the_state_of_those_it_had() {
        let mut room = Room::new();
        let (kept, new) = (room.path("a.toml"), room.path("b.toml"));
        fs::write(&new, "1").unwrap();
        fs::write(&kept, "changed unseen").unwrap();
        fs::write(room.path("entries.d/x.toml"), "1").unwrap();
        room.watch.watch_instead(vec![Watched::File(kept), Watched::File(new.clone())]);
        assert_eq!(room.reported().await, ["a.toml"]);
        fs::write(new, "2").unwrap();
        assert_eq!(room.reported().await, ["b.toml"]);
    }
}
