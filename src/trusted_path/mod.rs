//! Opens a path that nobody but root and one user can change, name by name from the root, and judges every directory and
//! every link on the way. Does not know what the path is for.
//!
//! SECURITY: whoever can rename a directory on the way, or chose where a link leads, decides what the path opens.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;

/// As many links as the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

const STICKY: u32 = 0o1000;

/// The user, beside root, who may own and write what is on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedUser {
    /// The user.
    pub uid: u32,
    /// The group whose members are that user alone, so that it may write what the user owns.
    pub gid: u32,
}

impl TrustedUser {
    /// The user of this process.
    #[must_use]
    pub fn own() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// What is asked of the directories and links on the way, and of a file at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// Root or the user owns it, and nobody else can write it. In a sticky directory others cannot replace what is there.
    Content,
    /// As `Content`, without the user's group, and the last directory is not even sticky: in a sticky one others can take
    /// a name that is free.
    Name,
    /// Root or the user owns the links and the last directory. Others may write there.
    Owner,
}

/// A name on the way, as a message shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The path that was asked for.
    Itself(PathBuf),
    /// A directory on the way.
    Directory(PathBuf),
    /// A link on the way.
    Link(PathBuf),
}

/// Why a path is not opened.
#[derive(Debug, thiserror::Error)]
pub enum UntrustedPath {
    /// It belongs to neither root nor the user.
    #[error("{part} belongs to uid {owner}, and has to belong to root or to uid {user}; run: chown -h {user} {}", .part.path().display())]
    ForeignOwner {
        /// What.
        part: Part,
        /// Whose it is.
        owner: u32,
        /// Whose it could be.
        user: u32,
    },
    /// Others can write it.
    #[error("{part} can be written by {writers} (mode {mode:04o}); run: chmod {remedy} {}", .part.path().display())]
    WritableByOthers {
        /// What.
        part: Part,
        /// By whom.
        writers: &'static str,
        /// Its mode.
        mode: u32,
        /// What chmod has to be told.
        remedy: &'static str,
    },
    /// Something on the way is no directory.
    #[error("{part} is not a directory; put one in its place")]
    NotADirectory {
        /// What.
        part: Part,
    },
    /// There is a directory, a pipe or a device at the end.
    #[error("it is not a regular file; put one in its place")]
    NotAFile,
    /// The links lead to each other.
    #[error("{part} is one of more than 40 links; name the file itself")]
    TooManyLinks {
        /// The last that was followed.
        part: Part,
    },
    /// The system does not open it.
    #[error("{part} cannot be read: {source}")]
    Unreachable {
        /// What.
        part: Part,
        /// Why.
        source: io::Error,
    },
}

/// Opens a regular file for reading.
///
/// # Errors
/// [`UntrustedPath`], when anybody but root and `user` could have changed what it reads.
pub fn open_file(path: &Path, user: TrustedUser) -> Result<File, UntrustedPath> {
    let walk = Walk { user, demand: Demand::Content, makes_missing: false };
    let End::File { directory, name, at } = walk.end_of(path)? else { return Err(UntrustedPath::NotAFile) };
    // Without `O_NONBLOCK` a FIFO in the file's place would hold up the caller.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let part = || part(path, &at, Part::Directory);
    let file = rustix::fs::openat(&directory, &name, flags, Mode::empty()).map_err(unreachable(&part))?;
    // SECURITY: owner and mode are those of the open file. The name could refer to another file by now.
    let stat = rustix::fs::fstat(&file).map_err(unreachable(&part))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(UntrustedPath::NotAFile);
    }
    walk.judge(&stat, part, false)?;
    Ok(File::from(file))
}

/// Opens the directory (`O_PATH`) for a socket, whose name nobody but root and `user` may take. Directories that are missing
/// are made with mode 0755 if `makes_missing`.
///
/// # Errors
/// [`UntrustedPath`]
pub fn open_directory_of_socket(path: &Path, user: TrustedUser, makes_missing: bool) -> Result<OwnedFd, UntrustedPath> {
    Walk { user, demand: Demand::Name, makes_missing }.directory(path)
}

/// Opens a directory (`O_PATH`) for files that `user` is about to write there. Others may write there, too, but chose
/// neither the directory nor a link that leads to it.
///
/// # Errors
/// [`UntrustedPath`]
pub fn open_directory_to_write(path: &Path, user: TrustedUser) -> Result<OwnedFd, UntrustedPath> {
    Walk { user, demand: Demand::Owner, makes_missing: false }.directory(path)
}

/// How one path is walked.
#[derive(Clone, Copy)]
struct Walk {
    user: TrustedUser,
    demand: Demand,
    makes_missing: bool,
}

/// A directory that was opened, with its name without links.
struct Step {
    directory: OwnedFd,
    at: PathBuf,
}

/// What a path leads to.
enum End {
    Directory(Step),
    File { directory: OwnedFd, name: OsString, at: PathBuf },
}

impl Walk {
    fn directory(self, path: &Path) -> Result<OwnedFd, UntrustedPath> {
        match self.end_of(path)? {
            End::Directory(step) => Ok(step.directory),
            End::File { at, .. } => Err(UntrustedPath::NotADirectory { part: part(path, &at, Part::Directory) }),
        }
    }

    fn end_of(self, path: &Path) -> Result<End, UntrustedPath> {
        let absolute = std::path::absolute(path)
            .map_err(|source| UntrustedPath::Unreachable { part: Part::Itself(path.to_owned()), source })?;
        let mut left = names(&absolute);
        let mut links = 0;
        let mut above = vec![self.root(path)?];
        while let (Some(name), Some(step)) = (left.pop_front(), above.last()) {
            if name == ".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let at = step.at.join(&name);
            let part = |kind: fn(PathBuf) -> Part| part(path, &at, kind);
            let there = self.open(&step.directory, &name).map_err(unreachable(&|| part(Part::Directory)))?;
            let stat = rustix::fs::fstat(&there).map_err(unreachable(&|| part(Part::Directory)))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    let part = || part(Part::Link);
                    if links > MAX_LINKS {
                        return Err(UntrustedPath::TooManyLinks { part: part() });
                    }
                    self.judge_owner(&stat, part)?;
                    let target = rustix::fs::readlinkat(&there, "", Vec::new()).map_err(unreachable(&part))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        above.truncate(1);
                    }
                    names(&target).into_iter().rev().for_each(|name| left.push_front(name));
                }
                FileType::Directory => {
                    if self.demand != Demand::Owner {
                        self.judge(&stat, || part(Part::Directory), false)?;
                    }
                    above.push(Step { directory: there, at });
                }
                _ if left.is_empty() => {
                    return Ok(End::File { directory: above.swap_remove(above.len() - 1).directory, name, at });
                }
                _ => return Err(UntrustedPath::NotADirectory { part: part(Part::Directory) }),
            }
        }
        let end = above.swap_remove(above.len() - 1);
        let part = || part(path, &end.at, Part::Directory);
        self.judge(&rustix::fs::fstat(&end.directory).map_err(unreachable(&part))?, part, true)?;
        Ok(End::Directory(end))
    }

    fn root(self, path: &Path) -> Result<Step, UntrustedPath> {
        let at = PathBuf::from("/");
        let part = || part(path, Path::new("/"), Part::Directory);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&at, flags, Mode::empty()).map_err(unreachable(&part))?;
        if self.demand != Demand::Owner {
            self.judge(&rustix::fs::fstat(&directory).map_err(unreachable(&part))?, part, false)?;
        }
        Ok(Step { directory, at })
    }

    fn open(self, above: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
        let open = || rustix::fs::openat(above, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match open() {
            Err(Errno::NOENT) if self.makes_missing => {
                make_directory(above, name)?;
                open()
            }
            opened => opened,
        }
    }

    fn judge_owner(self, stat: &Stat, part: impl Fn() -> Part) -> Result<(), UntrustedPath> {
        if stat.st_uid == 0 || stat.st_uid == self.user.uid {
            Ok(())
        } else {
            Err(UntrustedPath::ForeignOwner { part: part(), owner: stat.st_uid, user: self.user.uid })
        }
    }

    /// SECURITY: the group root is trusted with nothing, because processes of many containers run with it. An access list
    /// shows as the mode of the group.
    fn judge(self, stat: &Stat, part: impl Fn() -> Part, is_last: bool) -> Result<(), UntrustedPath> {
        self.judge_owner(stat, &part)?;
        let is_sticky = FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_mode & STICKY != 0;
        let of_user_alone = (stat.st_uid, stat.st_gid) == (self.user.uid, self.user.gid);
        let tolerates_sticky = self.demand == Demand::Content || !is_last;
        let (writers, remedy) = match stat.st_mode {
            _ if self.demand == Demand::Owner || is_sticky && tolerates_sticky => return Ok(()),
            mode if mode & 0o002 != 0 => ("everybody", "o-w"),
            mode if mode & 0o020 != 0 && !(of_user_alone && self.demand == Demand::Content) => ("its group", "g-w"),
            _ => return Ok(()),
        };
        Err(UntrustedPath::WritableByOthers { part: part(), writers, mode: stat.st_mode & 0o7777, remedy })
    }
}

/// The names of a path in order, `..` among them.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

fn make_directory(above: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdirat(&above, name, mode) {
        Ok(()) => rustix::fs::chmodat(&above, name, mode, AtFlags::empty()), // whatever the umask took away
        Err(Errno::EXIST) => Ok(()), // another process made it; it is judged like any other
        Err(errno) => Err(errno),
    }
}

fn part(asked: &Path, at: &Path, kind: fn(PathBuf) -> Part) -> Part {
    if asked == at { Part::Itself(at.to_owned()) } else { kind(at.to_owned()) }
}

fn unreachable(part: &dyn Fn() -> Part) -> impl Fn(Errno) -> UntrustedPath {
    move |errno| UntrustedPath::Unreachable { part: part(), source: errno.into() }
}

impl Part {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Itself(path) | Self::Directory(path) | Self::Link(path) => path,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself(_) => f.write_str("it"),
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Link(path) => write!(f, "the link {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::Permissions;
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::lchown;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    const STRANGER: u32 = 62_000;

    struct Tree(TempDir);

    impl Tree {
        /// `file` with these bytes in `folder`, and `link` beside the folder, which leads to the folder.
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir(tree.at("folder")).unwrap();
            fs::write(tree.at("folder/file"), "content").unwrap();
            tree.chmod("folder", 0o755);
            tree.chmod("folder/file", 0o644);
            symlink("folder", tree.at("link")).unwrap();
            tree
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn chmod(&self, name: &str, mode: u32) {
            fs::set_permissions(self.at(name), Permissions::from_mode(mode)).unwrap();
        }

        fn read(&self, name: &str) -> Result<String, String> {
            let mut file = open_file(&self.at(name), TrustedUser::own()).map_err(|why| self.shown(&why))?;
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            Ok(text)
        }

        /// An error without the name of the temporary directory.
        fn shown(&self, why: &UntrustedPath) -> String {
            why.to_string().replace(&format!("{}/", self.0.path().display()), "")
        }

        /// Whether the folder may hold a socket.
        fn holds_a_socket(&self, name: &str) -> Result<(), String> {
            let opened = open_directory_of_socket(&self.at(name), TrustedUser::own(), false);
            opened.map(drop).map_err(|why| self.shown(&why))
        }

        /// Gives a file away; says so where this process may not.
        fn give_away(&self, test: &str, name: &str) -> bool {
            let given = lchown(self.at(name), Some(STRANGER), Some(STRANGER)).is_ok();
            if !given {
                eprintln!("skipped: {test}: only root can give a file away");
            }
            given
        }
    }

    #[test]
    fn a_file_is_read_through_links_of_root_or_the_user() {
        let tree = Tree::new();
        symlink("../link/file", tree.at("folder/again")).unwrap();
        symlink(tree.at("folder/again"), tree.at("absolute")).unwrap();
        for name in ["folder/file", "link/file", "link/../folder/file", "folder/again", "absolute"] {
            assert_eq!(tree.read(name).as_deref(), Ok("content"), "{name}");
        }
    }

    #[test]
    fn a_link_of_a_stranger_is_refused_wherever_it_leads() {
        let tree = Tree::new();
        symlink("folder/file", tree.at("last")).unwrap();
        for (link, path) in [("link", "link/file"), ("last", "last")] {
            if !tree.give_away("a_link_of_a_stranger_is_refused_wherever_it_leads", link) {
                return;
            }
            let why = tree.read(path).unwrap_err();
            assert!(why.contains("belongs to uid 62000, and has to belong to root or to uid"), "{why}");
        }
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused_before_and_behind_a_link() {
        let tree = Tree::new();
        fs::create_dir(tree.at("folder/below")).unwrap();
        fs::write(tree.at("folder/below/file"), "content").unwrap();
        tree.chmod("folder", 0o777);
        for path in ["folder/file", "link/file", "folder/below/file", "link/below/file"] {
            let why = tree.read(path).unwrap_err();
            assert_eq!(why, "folder can be written by everybody (mode 0777); run: chmod o-w folder", "{path}");
        }
        tree.chmod("folder", 0o1777);
        assert!(tree.read("link/file").is_ok(), "in a sticky directory nobody replaces the files of others");
    }

    #[test]
    fn a_file_that_others_can_write_or_own_is_refused() {
        let tree = Tree::new();
        tree.chmod("folder/file", 0o666);
        assert_eq!(
            tree.read("folder/file").unwrap_err(),
            "it can be written by everybody (mode 0666); run: chmod o-w folder/file"
        );
        tree.chmod("folder/file", 0o664);
        assert!(tree.read("folder/file").is_ok(), "the private group of its user");
        let own = TrustedUser { gid: 1 + TrustedUser::own().gid, ..TrustedUser::own() };
        let why = open_file(&tree.at("folder/file"), own).unwrap_err();
        assert!(why.to_string().contains("can be written by its group (mode 0664)"), "{why}");
        tree.chmod("folder/file", 0o644);
        if tree.give_away("a_file_that_others_can_write_or_own_is_refused", "folder/file") {
            assert!(tree.read("folder/file").unwrap_err().starts_with("it belongs to uid 62000"));
            let stranger = TrustedUser { uid: STRANGER, gid: STRANGER };
            assert!(open_file(&tree.at("folder/file"), stranger).is_ok(), "it is that user's own");
        }
    }

    #[test]
    fn whatever_is_no_file_is_refused_without_waiting_for_it() {
        let tree = Tree::new();
        nix::unistd::mkfifo(&tree.at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        symlink("loop", tree.at("loop")).unwrap();
        for (path, expected) in [
            ("fifo", "not a regular file"),
            ("folder", "not a regular file"),
            ("folder/file/x", "folder/file is not a directory"),
            ("loop", "it is one of more than 40 links"),
            ("none", "it cannot be read: No such file"),
            ("none/file", "none cannot be read: No such file"),
        ] {
            let why = tree.read(path).unwrap_err();
            assert!(why.contains(expected), "{path}: {why}");
        }
    }

    #[test]
    fn a_socket_needs_a_directory_where_nobody_else_can_take_its_name() {
        let tree = Tree::new();
        for name in ["folder", "link", "folder/../link"] {
            assert_eq!(tree.holds_a_socket(name), Ok(()), "{name}");
        }
        fs::create_dir(tree.at("folder/below")).unwrap();
        for (mode, writers) in [(0o775, "its group"), (0o777, "everybody"), (0o1777, "everybody")] {
            tree.chmod("folder", mode);
            let why = tree.holds_a_socket("link").unwrap_err();
            assert!(why.contains(&format!("can be written by {writers} (mode {mode:04o})")), "{why}");
            assert_eq!(tree.holds_a_socket("folder/below").is_ok(), mode == 0o1777, "{mode:o}");
        }
        assert!(tree.holds_a_socket("folder/file").unwrap_err().contains("is not a directory"));
    }

    #[test]
    fn missing_directories_are_made_only_where_that_was_asked_for() {
        let tree = Tree::new();
        let made = |makes| open_directory_of_socket(&tree.at("link/a/b"), TrustedUser::own(), makes);
        assert!(matches!(made(false), Err(UntrustedPath::Unreachable { .. })));
        made(true).unwrap();
        assert_eq!(tree.at("folder/a/b").metadata().unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn files_are_written_to_no_directory_that_a_stranger_owns_or_leads_to() {
        const TEST: &str = "files_are_written_to_no_directory_that_a_stranger_owns_or_leads_to";
        let tree = Tree::new();
        let writes = |name: &str| open_directory_to_write(&tree.at(name), TrustedUser::own()).map(drop);
        tree.chmod("folder", 0o777);
        assert!(writes("folder").is_ok(), "the volume of a pod");
        assert!(tree.give_away(TEST, "link") == writes("link").is_err());
        assert!(tree.give_away(TEST, "folder") == writes("folder").is_err());
    }
}
