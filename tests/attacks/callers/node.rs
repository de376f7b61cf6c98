//! A daemon with callers of several users, and entries for some of their programs.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use crate::daemon::Daemon;
use crate::levels;

pub(crate) const PYTHON: &str = "/usr/bin/python3";
const PEER: &str = include_str!("peer.py");

/// The script of every honest caller.
pub(crate) const HONEST: &str = "s = connect(); say(s, HELLO + request()); answer(s)";

/// A daemon with entries for uid 41000 and for root on the host. Uids 41001 and 41003 need the path of `trusted`, where
/// 41003 has `accept_weak`; uid 41004 needs its SHA-256.
pub(crate) struct Node {
    pub(crate) daemon: Daemon,
    /// A program that root owns.
    pub(crate) trusted: PathBuf,
}

impl Node {
    /// Where this cannot be tested, prints the reason and returns `None`.
    pub(crate) fn start(test: &str) -> Option<Self> {
        Self::start_behind(test, &[], "")
    }

    /// As [`Node::start`], with a launcher of the daemon and more tables. In these, `TRUSTED` is replaced by the path
    /// and `DIGEST` by the hash.
    pub(crate) fn start_behind(test: &str, launcher: &[&str], tables: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !PathBuf::from(PYTHON).exists() {
            eprintln!("skipped: {test}: needs root and {PYTHON}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("bonafide-").tempdir().unwrap().keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let trusted = folder.join("trusted");
        fs::copy(fs::canonicalize(PYTHON).unwrap(), &trusted).unwrap();
        let tables = format!(
            "[[workload]]\nid = \"/victim\"\nselectors = [\"unix:uid:41000\"]\n\
             [[workload]]\nid = \"/root\"\nselectors = [\"unix:uid:0\", \"host:true\"]\n\
             [[workload]]\nid = \"/trusted\"\nselectors = [\"unix:uid:41001\", \"unix:path:TRUSTED\"]\n\
             [[workload]]\nid = \"/hashed\"\nselectors = [\"unix:uid:41004\", \"unix:sha256:DIGEST\"]\n{tables}"
        );
        // Below Linux 6.5 paths and hashes count only for entries with `accept_weak`.
        let tables = if levels::pins() || levels::OLDER.iter().any(|level| launcher.contains(level)) {
            tables
        } else {
            tables.replace("[[workload]]\n", "[[workload]]\naccept_weak = true\n")
        };
        let tables = format!(
            "{tables}[[workload]]\nid = \"/weak\"\nselectors = [\"unix:uid:41003\", \"unix:path:TRUSTED\"]\n\
             accept_weak = true\n"
        );
        let tables = tables.replace("TRUSTED", &trusted.display().to_string()).replace("DIGEST", &sha256(&trusted));
        let daemon = Daemon::start_behind(launcher, &tables);
        fs::set_permissions(daemon.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { daemon, trusted })
    }

    /// The kernel's level, as `status` shows it.
    pub(crate) fn level(&self) -> String {
        let status = self.daemon.ask(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        status["level"].as_str().unwrap().to_owned()
    }

    /// The outcome for a process that runs this script.
    pub(crate) fn gets(&self, script: &str) -> String {
        self.gets_as(PYTHON, script)
    }

    /// The outcome for a process of `program` that runs this script.
    pub(crate) fn gets_as(&self, program: impl AsRef<Path>, script: &str) -> String {
        self.gets_by(&[&program.as_ref().display().to_string()], script)
    }

    /// The outcome for an honest caller of this user that runs `program`.
    pub(crate) fn honest_gets(&self, program: impl AsRef<Path>, uid: u32) -> String {
        self.gets_as(program, &format!("become({uid}); {HONEST}"))
    }

    /// The outcome for the trusted program in its own mount namespace, after the shell command `prepare`.
    pub(crate) fn gets_in(&self, prepare: &str, script: &str) -> String {
        self.gets_by(
            &[
                "unshare",
                "-m",
                "sh",
                "-c",
                &format!("{prepare}; exec \"$@\""),
                "sh",
                &self.trusted.display().to_string(),
            ],
            script,
        )
    }

    /// The outcome for a process that this command starts: "identity" or "nothing".
    pub(crate) fn gets_by(&self, command: &[impl AsRef<OsStr>], script: &str) -> String {
        let run = self.caller(command, script).stdin(Stdio::null()).output().unwrap();
        let printed = String::from_utf8(run.stdout).unwrap().trim().to_owned();
        assert!(!printed.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
        printed
    }

    /// What a process that this command starts prints, or its errors where it prints nothing.
    pub(crate) fn command_prints(&self, command: &[impl AsRef<OsStr>], script: &str) -> Result<String, String> {
        let run = self.caller(command, script).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let printed = text(&run.stdout);
        if printed.is_empty() { Err(text(&run.stderr)) } else { Ok(printed) }
    }

    /// The reason that `explain` shows for a withheld fact of this kind, for a process of this user and command.
    pub(crate) fn withheld_from(&self, command: &[impl AsRef<OsStr>], uid: u32, kind: &str) -> String {
        let waits = format!("become({uid}); print('.', flush=True); sys.stdin.read()");
        let mut waiting = self.caller(command, &waits).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let is_there = waiting.stdout.as_mut().unwrap().read_exact(&mut [0]);
        let explained = self.daemon.ask(&["explain", &waiting.id().to_string(), "-o", "json"]);
        drop(waiting.stdin.take());
        waiting.wait().unwrap();
        is_there.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&explained.stdout).unwrap();
        let withheld = report["evidence"]["withheld"].as_array().unwrap();
        let because = withheld.iter().find(|one| one["kind"] == kind).map(|one| one["because"].as_str().unwrap());
        because.unwrap_or("not withheld").to_owned()
    }

    /// A process that this command starts and that runs this script.
    pub(crate) fn caller(&self, command: &[impl AsRef<OsStr>], script: &str) -> Command {
        let mut caller = Command::new(&command[0]);
        caller
            .args(&command[1..])
            .args(["-c", &format!("{PEER}\nTRUSTED = {:?}\n{script}", self.trusted.display().to_string())])
            .arg(self.daemon.socket())
            .arg(self.daemon.pid().to_string());
        caller
    }

    /// While the daemon is stopped, a process connects, sends a request, leaves the connection to a child and exits.
    /// `wait` is the call by which its parent waits for the exit, before it continues the daemon.
    pub(crate) fn dead_at_the_accept(&self, wait: &str) -> String {
        format!(
            "stop()\nmiddle = os.fork()\n\
             if middle == 0:\n become(41000); s = connect(); say(s, HELLO + request())\n \
             if os.fork() == 0: answer(s)\n os._exit(0)\n\
             {wait}\ngo_on()"
        )
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.trusted.parent().map(fs::remove_dir_all);
    }
}

/// The digest that sha256sum(1) prints.
pub(crate) fn sha256(file: &Path) -> String {
    let sum = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(sum.stdout).unwrap()[..64].to_owned()
}
