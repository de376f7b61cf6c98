//! Notices that files may have changed: by inotify on their folders, and by looking every half second, which network file
//! systems and mounted secrets need anyway. Refuses to know what is in a file. The calls it makes are short, but may block
//! as long as the file system does.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::inotify;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::inotify::WatchFlags;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::sys::readable::readable;

/// How often files are looked at when nothing is heard of them.
const RESCAN: Duration = Duration::from_millis(500);
/// How long nothing may happen to a file before it is taken as settled.
const QUIET: Duration = Duration::from_millis(50);
/// After so many restless looks a change is told anyway.
const RESTLESS_LOOKS: u32 = 6;
/// A name that is missing for less is being replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);
/// How many events one look takes in: one who writes without pause beside our files must not keep us listening for ever.
const EVENTS_AT_ONCE: usize = 1024;

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// One file, there or not.
    File(PathBuf),
    /// Every file right in a folder whose name ends in `suffix`; names that begin with `.` or end in `~` are the
    /// half-made and the old versions of editors, and are left out.
    Folder {
        /// The folder, there or not.
        folder: PathBuf,
        /// For example `.toml`.
        suffix: String,
    },
}

/// A watch on files and drop-in folders.
///
/// RACE: make the watch first and read the files then: what changes in between is told, at the worst once too often.
#[derive(Debug)]
pub struct FileWatch {
    watched: Vec<Watched>,
    notifier: Option<Notifier>,
    seen: BTreeMap<PathBuf, Stamp>,
    missing: BTreeMap<PathBuf, Instant>,
    changed: BTreeSet<PathBuf>,
}

/// What differs when a file may differ. The time of the last status change is in it, so that a file which becomes readable
/// is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    status_changed: (i64, i64),
}

impl FileWatch {
    /// Begins to watch. Without a free inotify instance it only looks every half second.
    #[must_use]
    pub fn new(watched: Vec<Watched>) -> Self {
        Self::with(Notifier::new(), watched)
    }

    fn with(notifier: Option<Notifier>, watched: Vec<Watched>) -> Self {
        let mut watch =
            Self { watched, notifier, seen: BTreeMap::new(), missing: BTreeMap::new(), changed: BTreeSet::new() };
        watch.hear();
        watch.seen = watch.present();
        watch
    }

    /// Watches something else from now on. Files that were watched before and still are keep their state: what changed
    /// unseen is told; files that are new are taken as they are, so read them after this.
    pub fn watch_instead(&mut self, watched: Vec<Watched>) {
        self.watched = watched;
        self.hear();
        let present = self.present();
        let Self { watched, seen, missing, changed, .. } = self;
        let is_watched = |path: &Path| watched.iter().any(|watched| watched.covers(path));
        seen.retain(|path, _| is_watched(path));
        missing.retain(|path, _| is_watched(path));
        changed.retain(|path| is_watched(path));
        for (path, stamp) in present {
            seen.entry(path).or_insert(stamp);
        }
    }

    /// Waits until the content of watched files may have changed, and names them; a file that is gone is named, too.
    /// A file is named once its writer has closed or renamed it. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        let mut restless_looks = 0;
        loop {
            let restless = self.look();
            let settled = self.settled();
            if !settled.is_empty() && (!restless || restless_looks >= RESTLESS_LOOKS) {
                self.changed.retain(|path| !settled.contains(path));
                return settled;
            }
            if restless {
                restless_looks += 1;
            } else {
                restless_looks = 0;
                Notifier::heard(self.notifier.as_ref(), RESCAN).await;
            }
            sleep(QUIET).await;
        }
    }

    /// Changed files that nobody is writing.
    fn settled(&self) -> Vec<PathBuf> {
        let being_written = |path: &PathBuf| self.notifier.as_ref().is_some_and(|it| it.being_written.contains(path));
        self.changed.iter().filter(|path| !being_written(path)).cloned().collect()
    }

    /// Takes in what was heard and what is there; whether anything happened.
    fn look(&mut self) -> bool {
        let heard = self.hear();
        let present = self.present();
        let mut happened = heard;
        for path in self.seen.keys().filter(|path| !present.contains_key(*path)) {
            self.missing.entry(path.clone()).or_insert_with(Instant::now);
        }
        for (path, stamp) in present {
            self.missing.remove(&path);
            if self.seen.insert(path.clone(), stamp) != Some(stamp) {
                self.changed.insert(path);
                happened = true;
            }
        }
        let gone = self.missing.iter().filter(|(_, since)| since.elapsed() >= REPLACED_WITHIN);
        for path in gone.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.missing.remove(&path);
            self.seen.remove(&path);
            self.changed.insert(path);
            happened = true;
        }
        happened
    }

    fn present(&self) -> BTreeMap<PathBuf, Stamp> {
        let paths = self.watched.iter().flat_map(Watched::paths);
        paths.filter_map(|path| Stamp::of(&path).map(|stamp| (path, stamp))).collect()
    }

    /// Whether anything was heard of what is watched.
    fn hear(&mut self) -> bool {
        self.notifier.as_mut().is_some_and(|notifier| notifier.hear(&self.watched))
    }
}

impl Watched {
    fn folder(&self) -> &Path {
        match self {
            Self::File(path) => match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            },
            Self::Folder { folder, .. } => folder,
        }
    }

    fn covers(&self, path: &Path) -> bool {
        match self {
            Self::File(file) => file == path,
            Self::Folder { folder, suffix } => {
                path.parent() == Some(folder) && path.file_name().is_some_and(|name| is_drop_in(name, suffix))
            }
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => vec![path.clone()],
            Self::Folder { folder, suffix } => {
                let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
                let files = entries.filter(|entry| is_drop_in(&entry.file_name(), suffix));
                files.map(|entry| entry.path()).collect()
            }
        }
    }
}

/// Whether a file of this name in a drop-in folder counts.
#[must_use]
pub fn is_drop_in(name: &OsStr, suffix: &str) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b".") && !name.ends_with(b"~") && name.ends_with(suffix.as_bytes())
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let it = fs::metadata(path).ok()?;
        Some(Self {
            file: (it.dev(), it.ino()),
            size: it.size(),
            modified: (it.mtime(), it.mtime_nsec()),
            status_changed: (it.ctime(), it.ctime_nsec()),
        })
    }
}

/// What the kernel says about folders.
#[derive(Debug)]
struct Notifier {
    inotify: OwnedFd,
    folders: BTreeMap<PathBuf, i32>,
    /// Files that were written to and not closed since.
    being_written: BTreeSet<PathBuf>,
}

impl Notifier {
    const EVENTS: WatchFlags = WatchFlags::MODIFY
        .union(WatchFlags::CLOSE_WRITE)
        .union(WatchFlags::MOVED_FROM)
        .union(WatchFlags::MOVED_TO)
        .union(WatchFlags::CREATE)
        .union(WatchFlags::DELETE)
        .union(WatchFlags::ONLYDIR);

    fn new() -> Option<Self> {
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
        Some(Self { inotify, folders: BTreeMap::new(), being_written: BTreeSet::new() })
    }

    /// Waits until there is something to hear, at most for `longest`.
    async fn heard(notifier: Option<&Self>, longest: Duration) {
        let heard = async {
            match notifier {
                Some(notifier) if readable(notifier.inotify.as_fd()).await.is_ok() => {}
                _ => std::future::pending().await,
            }
        };
        let _ = tokio::time::timeout(longest, heard).await;
    }

    /// Reads what has happened, and says whether any of it happened to what is `watched`. What has been read from the
    /// kernel is taken in whole; the rest waits for the next look.
    fn hear(&mut self, watched: &[Watched]) -> bool {
        self.attend(&watched.iter().map(Watched::folder).collect());
        let (mut heard, mut taken_in) = (false, 0);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        while taken_in < EVENTS_AT_ONCE || !events.is_buffer_empty() {
            let Ok(event) = events.next() else { break };
            taken_in += 1;
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.being_written.clear();
            }
            let Some(name) = event.file_name() else { continue };
            let in_folders = self.folders.iter().filter(|(_, watch)| **watch == event.wd());
            let paths = in_folders.map(|(folder, _)| folder.join(OsStr::from_bytes(name.to_bytes())));
            for path in paths.filter(|path| watched.iter().any(|watched| watched.covers(path))) {
                if event.events().contains(ReadFlags::MODIFY) {
                    self.being_written.insert(path);
                } else if !event.events().contains(ReadFlags::CREATE) {
                    self.being_written.remove(&path);
                }
                heard = true;
            }
        }
        heard
    }

    /// Watches each folder that is there. Asked for every time: a folder may have been replaced by another of its name,
    /// and for one that is watched already the kernel answers with the same number.
    fn attend(&mut self, folders: &BTreeSet<&Path>) {
        let before = std::mem::take(&mut self.folders);
        for folder in folders {
            if let Ok(watch) = inotify::add_watch(&self.inotify, *folder, Self::EVENTS) {
                self.folders.insert(folder.to_path_buf(), watch);
            }
        }
        for (folder, watch) in before {
            if self.folders.get(&folder) != Some(&watch) {
                self.being_written.retain(|path| path.parent() != Some(&folder));
            }
            if !self.folders.values().any(|kept| *kept == watch) {
                let _ = inotify::remove_watch(&self.inotify, watch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    /// A folder with `a.toml` in it, and a watch on `a.toml` and on the drop-ins of `entries.d`.
    struct Room {
        folder: TempDir,
        watch: FileWatch,
    }

    impl Room {
        fn with(notifier: Option<Notifier>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.toml"), "1").unwrap();
            fs::create_dir(folder.path().join("entries.d")).unwrap();
            let watched = vec![
                Watched::File(folder.path().join("a.toml")),
                Watched::Folder { folder: folder.path().join("entries.d"), suffix: ".toml".into() },
            ];
            Self { watch: FileWatch::with(notifier, watched), folder }
        }

        fn new() -> Self {
            Self::with(Notifier::new())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn replace(&self, name: &str, text: &str) {
            fs::write(self.path(".new"), text).unwrap();
            fs::rename(self.path(".new"), self.path(name)).unwrap();
        }

        /// The next files told of, by their names in the room.
        async fn told(&mut self) -> Vec<String> {
            let changed = timeout(Duration::from_secs(20), self.watch.changed()).await.expect("a change is told");
            let name = |path: &PathBuf| path.strip_prefix(self.folder.path()).unwrap().display().to_string();
            changed.iter().map(name).collect()
        }

        async fn nothing_is_told_for(&mut self, time: Duration) -> bool {
            timeout(time, self.watch.changed()).await.is_err()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_written_a_replaced_and_a_new_file_are_told_within_half_a_second() {
        for notifier in [Notifier::new, || None] {
            let mut room = Room::with(notifier());
            let begun = Instant::now();
            fs::write(room.path("a.toml"), "22").unwrap();
            assert_eq!(room.told().await, ["a.toml"]);
            room.replace("a.toml", "33");
            assert_eq!(room.told().await, ["a.toml"]);
            room.replace("entries.d/x.toml", "1");
            assert_eq!(room.told().await, ["entries.d/x.toml"]);
            assert!(begun.elapsed() < 3 * (RESCAN + 3 * QUIET), "{:?}", begun.elapsed());
            assert!(room.nothing_is_told_for(Duration::from_secs(60)).await, "nothing is told twice");
        }
    }

    #[tokio::test]
    async fn inotify_is_heard_before_the_next_look() {
        let mut room = Room::new();
        let begun = Instant::now();
        let (told, ()) = tokio::join!(timeout(Duration::from_secs(20), room.watch.changed()), async {
            fs::write(room.folder.path().join("entries.d/x.toml"), "1").unwrap();
        });
        assert_eq!(told.unwrap().len(), 1);
        assert!(begun.elapsed() < RESCAN, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_told_of_only_when_its_writer_has_closed_it() {
        let mut room = Room::new();
        let mut writer = File::create(room.path("a.toml")).unwrap();
        writer.write_all(b"half").unwrap();
        assert!(room.nothing_is_told_for(Duration::from_secs(60)).await);
        fs::write(room.path("entries.d/x.toml"), "1").unwrap();
        assert_eq!(room.told().await, ["entries.d/x.toml"], "others are told of meanwhile");
        writer.write_all(b"whole").unwrap();
        drop(writer);
        assert_eq!(room.told().await, ["a.toml"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_without_pause_beside_the_files_keeps_no_look_from_ending() {
        let mut room = Room::new();
        let [mut one, mut other] = ["one", "other"].map(|name| File::create(room.path(name)).unwrap());
        for _ in 0..2 * EVENTS_AT_ONCE {
            one.write_all(b"x").unwrap(); // in turns, for equal events in a row become one
            other.write_all(b"x").unwrap();
        }
        assert!(!room.watch.look(), "nothing happened to what is watched");
        let waiting = |room: &Room| rustix::io::ioctl_fionread(&room.watch.notifier.as_ref().unwrap().inotify).unwrap();
        assert!(waiting(&room) > 0, "the rest waits for the next look");
        fs::write(room.path("a.toml"), "22").unwrap();
        assert_eq!(room.told().await, ["a.toml"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_missing_for_under_a_second_is_being_replaced() {
        let mut room = Room::new();
        fs::rename(room.path("a.toml"), room.path("kept")).unwrap();
        assert!(room.nothing_is_told_for(Duration::from_millis(900)).await);
        fs::write(room.path("a.toml"), "2").unwrap();
        assert_eq!(room.told().await, ["a.toml"]);
        assert!(room.nothing_is_told_for(Duration::from_secs(60)).await, "its absence is forgotten");
        fs::remove_file(room.path("a.toml")).unwrap();
        assert_eq!(room.told().await, ["a.toml"], "what stays away is told");
        fs::write(room.path("a.toml"), "3").unwrap();
        assert_eq!(room.told().await, ["a.toml"], "and what comes back");
    }

    #[tokio::test(start_paused = true)]
    async fn names_of_editors_and_other_suffixes_are_left_out() {
        let mut room = Room::new();
        for name in [".x.toml", "x.toml~", ".x.toml.swp", "README", "toml", "x.toml.dpkg-new"] {
            fs::write(room.path("entries.d").join(name), "1").unwrap();
        }
        assert!(room.nothing_is_told_for(Duration::from_secs(60)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_reached_by_links_is_told_of_when_a_link_is_swapped() {
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
        assert!(room.nothing_is_told_for(Duration::from_secs(5)).await);
        fs::create_dir(room.path("entries.d")).unwrap();
        fs::write(room.path("entries.d/x.toml"), "1").unwrap();
        assert_eq!(room.told().await, ["entries.d/x.toml"]);
        fs::rename(room.path("entries.d"), room.path("old")).unwrap();
        fs::create_dir(room.path("entries.d")).unwrap();
        fs::write(room.path("entries.d/x.toml"), "2").unwrap();
        assert_eq!(room.told().await, ["entries.d/x.toml"]);
        fs::write(room.path("old/x.toml"), "3").unwrap();
        assert!(room.nothing_is_told_for(Duration::from_secs(60)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_turns_elsewhere_keeps_what_it_knew() {
        let mut room = Room::new();
        let (kept, new) = (room.path("a.toml"), room.path("b.toml"));
        fs::write(&new, "1").unwrap();
        fs::write(&kept, "changed unseen").unwrap();
        fs::write(room.path("entries.d/x.toml"), "1").unwrap();
        room.watch.watch_instead(vec![Watched::File(kept), Watched::File(new.clone())]);
        assert_eq!(room.told().await, ["a.toml"]);
        fs::write(new, "2").unwrap();
        assert_eq!(room.told().await, ["b.toml"]);
    }
}
