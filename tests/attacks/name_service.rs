//! The users of the machine change, come late, and their service hangs: the shipped daemon beside a service of the name
//! service switch, and on databases that are written meanwhile.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::node::HONEST;
use crate::node::Node;
use crate::node::PYTHON;
use crate::principals::MOST;
use crate::principals::release;

/// An entry of each of these users.
fn named(users: &[&str]) -> String {
    let table = |user: &&str| format!("[[workload]]\nid = \"/{user}\"\nselectors = [\"unix:user:{user}\"]\n");
    users.iter().map(table).collect()
}

/// A machine of its own users: a PID namespace whose PID 1, the daemon, has these databases. Beside `/etc/passwd` it asks
/// a service that was built for it.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = TempDir::with_prefix("bonafide-").unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let machine = Self { folder };
        machine.write_passwd(&[]);
        machine.write_users(&[]);
        fs::write(machine.path("nsswitch.conf"), "passwd: files bonafidetest\ngroup: files\n").unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/nss_table.c");
        let folder = format!("-DFOLDER=\"{}\"", machine.folder.path().display());
        let library = machine.path("libnss_bonafidetest.so.2");
        let built = Command::new("cc").args(["-shared", "-fPIC", &folder, "-o"]).arg(library).arg(source).status();
        assert!(built.unwrap().success());
        machine
    }

    /// A launcher of this shell command on this machine. Its `/etc` is a copy, so that databases can be replaced in it.
    fn launcher(&self, command: &str) -> Vec<String> {
        let etc = self.path("etc");
        fs::create_dir_all(&etc).unwrap();
        let folder = self.folder.path().display();
        let prepare = format!(
            "cp -a /etc/. {etc} && cp {folder}/passwd {folder}/nsswitch.conf {etc} && mount --bind {etc} /etc && {command}",
            etc = etc.display()
        );
        let library_path = format!("LD_LIBRARY_PATH={folder}");
        let words =
            ["env", &library_path, "unshare", "-mpf", "--kill-child", "--mount-proc", "sh", "-c", &prepare, "sh"];
        words.map(str::to_owned).to_vec()
    }

    /// A node on this machine, whose PID 1 the daemon is.
    fn start(&self, test: &str, tables: &str) -> Option<OnMachine> {
        self.start_by(test, "exec \"$@\"", tables)
    }

    /// A node on this machine, started by this shell command of PID 1.
    fn start_by(&self, test: &str, command: &str, tables: &str) -> Option<OnMachine> {
        let launcher = self.launcher(command);
        let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
        let libraries = self.folder.path().to_owned();
        Some(OnMachine { node: Node::start_behind(test, &launcher, tables)?, libraries })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces `/etc/passwd`, as useradd and userdel do.
    fn write_passwd(&self, users: &[(&str, u32)]) {
        let line = |(user, uid): &(&str, u32)| format!("{user}:x:{uid}:{uid}::/:/bin/sh\n");
        let text = "root:x:0:0::/:/bin/sh\n".to_owned() + &users.iter().map(line).collect::<String>();
        self.replace("passwd", &text);
        if self.path("etc").exists() {
            self.replace("etc/passwd", &text);
        }
    }

    /// The users of the service from now on.
    fn write_users(&self, users: &[(&str, u32)]) {
        self.replace("users", &users.iter().map(|(user, uid)| format!("{user} {uid}\n")).collect::<String>());
    }

    fn replace(&self, name: &str, text: &str) {
        fs::write(self.path("next"), text).unwrap();
        fs::rename(self.path("next"), self.path(name)).unwrap();
    }

    /// Every question to the service hangs from now on.
    fn hang(&self) {
        mkfifo(&self.path("hang"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    }

    /// The service answers again, the questions that hang among others.
    fn come_back(&self) {
        fs::rename(self.path("hang"), self.path("hung")).unwrap();
        // Opening waits for a reader, of whom there may be none any more.
        let writer = Command::new("timeout").args(["5", "sh", "-c", ": > \"$0\""]).arg(self.path("hung")).status();
        assert!(writer.unwrap().success(), "no question hung");
    }
}

struct OnMachine {
    node: Node,
    libraries: PathBuf,
}

impl OnMachine {
    /// The beginning of a command on this machine.
    fn inside(&self) -> [String; 5] {
        let children = format!("/proc/{pid}/task/{pid}/children", pid = self.node.daemon.pid());
        let first = fs::read_to_string(children).unwrap();
        ["nsenter", "-t", first.trim(), "-p", "-m"].map(str::to_owned)
    }

    /// What an honest process of this user gets.
    fn gets(&self, uid: u32) -> String {
        let command = [&self.inside()[..], &[PYTHON.to_owned()]].concat();
        self.node.gets_by(&command, &format!("become({uid}); {HONEST}"))
    }

    /// What `config check` prints here of the daemon's configuration, which it accepts.
    fn config_check(&self) -> String {
        let [nsenter, arguments @ ..] = self.inside();
        let library_path = format!("LD_LIBRARY_PATH={}", self.libraries.display());
        let mut check = Command::new(nsenter);
        check.args(arguments).args(["env", &library_path, env!("CARGO_BIN_EXE_bonafide"), "config", "check"]);
        let output = check.arg(self.node.daemon.configuration()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn comes_to_get(&self, uid: u32, what: &str) {
        eventually(&format!("{uid} gets {what}"), || self.gets(uid) == what);
    }

    /// Runs an operator's command on this machine.
    fn ask(&self, arguments: &[&str]) -> Output {
        let [nsenter, inside @ ..] = self.inside();
        let socket = self.node.daemon.admin_socket();
        let mut command = Command::new(nsenter);
        command.args(inside).arg(env!("CARGO_BIN_EXE_bonafide")).args(arguments).arg("--admin-socket").arg(socket);
        command.output().unwrap()
    }

    fn reload(&self) -> Output {
        self.ask(&["reload"])
    }

    /// The warnings and reasons on the screen of `status`, in one line.
    fn notes(&self) -> String {
        let status = self.ask(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        format!("{} {} {}", status["state"], status["notes"], status["reasons"])
    }
}

/// Asks again and again; each question takes a process of its own.
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not in time: {what}");
    }
}

/// Defence: `names::book` takes the newest answer. If an answer counts for ever, the new owner of the uid gets the
/// identity.
#[test]
fn attack_35_a_uid_that_changes_hands_gives_its_new_owner_nothing() {
    let machine = Machine::new();
    machine.write_passwd(&[("alice", 41005)]);
    let Some(mut on) = machine.start("attack_35", &named(&["alice"])) else { return };
    assert_eq!(on.gets(41005), "identity");
    machine.write_passwd(&[("bob", 41005), ("alice", 41006)]);
    on.comes_to_get(41005, "nothing");
    on.comes_to_get(41006, "identity");
    on.node.daemon.kill();
    machine.write_passwd(&[("bob", 41006), ("alice", 41005)]);
    on.node.daemon.restart();
    assert_eq!((on.gets(41006), on.gets(41005)), ("nothing".to_owned(), "identity".to_owned()));
}

/// A user as `DynamicUser=` makes it: a service has it while the unit runs, and no file ever does.
#[test]
fn a_user_that_a_service_makes_late_gets_the_identity_without_a_reload() {
    let machine = Machine::new();
    let Some(on) = machine.start("a_late_user", &named(&["dynamic"])) else { return };
    assert_eq!((on.gets(61184), on.gets(41000)), ("nothing".to_owned(), "identity".to_owned()));
    assert!(on.notes().contains("there is no user \\\"dynamic\\\" on this machine"), "{}", on.notes());
    machine.write_users(&[("dynamic", 61184)]);
    on.comes_to_get(61184, "identity");
    machine.write_users(&[("dynamic", 61185)]);
    assert!(on.reload().status.success());
    on.comes_to_get(61184, "nothing");
    assert_eq!(on.gets(61185), "identity");
}

#[test]
fn a_name_service_that_hangs_at_boot_delays_no_start_and_nobody_of_another_name() {
    let machine = Machine::new();
    machine.write_passwd(&[("local", 41005)]);
    machine.write_users(&[("remote", 41006)]);
    machine.hang();
    let begun = Instant::now();
    let Some(on) = machine.start("a_hanging_service", &named(&["local", "remote"])) else { return };
    assert!(begun.elapsed() < Duration::from_secs(20), "the start took {:?}", begun.elapsed());
    for (uid, what) in [(41000, "identity"), (41005, "identity"), (41006, "nothing")] {
        assert_eq!(on.gets(uid), what, "{uid}");
    }
    eventually("a note", || on.notes().contains("the name service does not say who user \\\"remote\\\" is"));
    let checked = on.config_check();
    assert!(checked.contains("warning: the name service does not say who user \"remote\" is"), "{checked}");
    let reload = on.reload();
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!(on.gets(41005), "identity");
    machine.come_back();
    on.comes_to_get(41006, "identity");
    eventually("no note any more", || !on.notes().contains("the name service"));
}

#[test]
fn a_deleted_user_loses_its_identity_and_blocks_no_reload() {
    let machine = Machine::new();
    machine.write_passwd(&[("alice", 41005), ("bob", 41006)]);
    let Some(on) = machine.start("a_deleted_user", &named(&["alice", "bob"])) else { return };
    assert_eq!((on.gets(41005), on.gets(41006)), ("identity".to_owned(), "identity".to_owned()));
    machine.write_passwd(&[("bob", 41006)]);
    on.comes_to_get(41005, "nothing");
    let file = on.node.daemon.configuration();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("selectors = [\"unix:user:bob\"]", "selectors = [\"unix:uid:41007\"]")).unwrap();
    let reload = on.reload();
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!((on.gets(41006), on.gets(41007)), ("nothing".to_owned(), "identity".to_owned()));
    let warned = String::from_utf8(reload.stdout).unwrap().replace("\n    ", " ");
    assert!(warned.contains("warning: there is no user \"alice\" on this machine"), "{warned}");
}

/// A service that is not available says nothing about its users; an error of it is no "no such user".
#[test]
fn a_service_that_goes_down_ends_no_identity() {
    let machine = Machine::new();
    machine.write_users(&[("remote", 41006)]);
    let Some(on) = machine.start("a_service_down", &named(&["remote", "missing"])) else { return };
    on.comes_to_get(41006, "identity");
    File::create(machine.path("down")).unwrap();
    assert!(on.reload().status.success());
    assert_eq!(on.gets(41006), "identity");
    fs::remove_file(machine.path("down")).unwrap();
    machine.write_users(&[]);
    on.comes_to_get(41006, "nothing");
}

/// Defence: `names::root::find` compares the daemon's databases with PID 1's. Without it, the users of the daemon's own
/// mount namespace count for processes of the host.
#[test]
fn attack_35_users_of_the_daemons_own_root_are_not_those_of_pid_1() {
    let machine = Machine::new();
    machine.write_passwd(&[("alice", 41005)]);
    let own = machine.path("own");
    fs::write(&own, "root:x:0:0::/:/bin/sh\nalice:x:41006:41006::/:/bin/sh\nintruder:x:41005:41005::/:/bin/sh\n")
        .unwrap();
    // PID 1 stays a shell beside the daemon, which has a mount namespace of its own.
    let daemon = format!("unshare -m sh -c 'mount --bind {} /etc/passwd && exec \"$@\"' sh", own.display());
    let tables = named(&["alice", "intruder"]);
    let Some(on) = machine.start_by("attack_35_roots", &format!("{daemon} \"$@\" & wait"), &tables) else { return };
    assert_eq!((on.gets(41005), on.gets(41006)), ("identity".to_owned(), "nothing".to_owned()));
    assert!(on.notes().contains("there is no user \\\"intruder\\\" on this machine"), "{}", on.notes());
    machine.write_passwd(&[("alice", 41007)]);
    on.comes_to_get(41007, "identity");
    on.comes_to_get(41005, "nothing");
}

/// The daemon has fewer capabilities than PID 1, and the caller fewer than the daemon. Defence: `names::root::find`.
/// Without it, the daemon believes the names of its own root.
#[test]
fn attack_35_names_that_the_daemon_cannot_read_are_withheld() {
    let without = ["setpriv", "--bounding-set", "-sys_ptrace,-chown"];
    let Some(node) = Node::start_behind("attack_35_withheld", &without, &named(&["root"])) else { return };
    let with_less = ["setpriv", "--bounding-set", "-all,+setuid,+setgid", PYTHON];
    assert_eq!(node.gets_by(&with_less, HONEST), "identity", "by its uid");
    eventually("a warning", || node.daemon.log().contains("the daemon cannot read the names of PID 1's root"));
}

/// Defence: `names::subordinate` gives the range to whoever has the name now. If it is read once, the uid of the range is
/// kept out by the connections of somebody who has no range any more.
#[test]
fn attack_153_a_range_of_etc_subuid_counts_for_whoever_has_its_name_now() {
    const TEST: &str = "attack_153_a_range_of_etc_subuid_counts_for_whoever_has_its_name_now";
    let machine = Machine::new();
    machine.write_passwd(&[("zoe", 41_002)]);
    let tables = format!(
        "[[workload]]\nid = \"/hers\"\nselectors = [\"unix:uid:500001\"]\n[limits]\nconnections_per_caller = {MOST}\n"
    );
    let with_ranges = "printf 'zoe:500000:65536\\n' > /etc/subuid && exec \"$@\"";
    let Some(on) = machine.start_by(TEST, with_ranges, &tables) else { return };
    on.comes_to_get(500_001, "identity");
    let command = [&on.inside()[..], &[PYTHON.to_owned()]].concat();
    let holder = on.node.holder(&command, "become(41002)");
    on.comes_to_get(500_001, "nothing");
    machine.write_passwd(&[("zoe", 41_003)]);
    on.comes_to_get(500_001, "identity");
    release(holder);
}
