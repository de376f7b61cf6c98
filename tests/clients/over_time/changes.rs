//! Clients in four languages on a machine that changes under them: their programs are upgraded, their groups and the name
//! of their user change.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::conversation::Conversation;
use crate::conversation::Program;
use crate::daemon::Daemon;
use crate::tools::entry;
use crate::tools::skipped;
use crate::tools::succeeded;

/// The user of all clients but [`KEEPER`], which has the other one.
const USER: u32 = 41_005;
const OTHER_USER: u32 = 41_006;
/// The supplementary group of all clients.
const GROUP: u32 = 41_050;
/// A client that keeps or gets an identity where the others lose theirs.
const KEEPER: &str = "/second-rust-client";
/// The answers before a change: a client then has its SVID, and a connection.
const BEFORE: usize = 20;
/// At 100 ms each, these take longer than two lives of an SVID, which are 10 s each.
const REQUESTS: usize = 240;
/// These take longer than two renewals of an SVID, which come after half of its life.
const REQUESTS_OF_KEEPER: usize = 160;

/// Programs in a folder that everyone can enter and only root can change.
struct Machine {
    folder: TempDir,
    server: Program,
    clients: Vec<Program>,
}

impl Machine {
    /// A machine with two clients in Rust and one in each other language. Where there can be none, prints the reason and
    /// returns `None`.
    fn new(test: &str) -> Option<Self> {
        const OVERLAY: i64 = 0x794C_7630;
        let folder = TempDir::with_prefix("bonafide-").unwrap();
        if !rustix::process::geteuid().is_root() || rustix::fs::statfs(folder.path()).unwrap().f_type == OVERLAY {
            skipped(test, "needs root, and TMPDIR on a file system that is no overlay");
            return None;
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/changing_workload.c");
        let library = folder.path().join("changing_workload.so");
        succeeded(&Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).output().unwrap());
        let mut machine = Self { folder, server: Program::rust_server(), clients: Vec::new() };
        let rust = ["/rust-client", "/second-rust-client"].map(Program::rust_client);
        machine.clients = rust.into_iter().chain(Program::others(test)).map(|client| machine.install(client)).collect();
        Some(machine)
    }

    /// A copy of the program on this machine, which runs as its user with [`GROUP`], and can read every file.
    fn install(&self, mut program: Program) -> Program {
        let home = self.folder.path().join(&program.id[1..]);
        let original = fs::canonicalize(&program.path).unwrap();
        fs::create_dir_all(home.join("bin")).unwrap();
        let path = home.join("bin").join(original.file_name().unwrap());
        fs::copy(&original, &path).unwrap();
        // The launcher of Java looks for its libraries beside itself.
        symlink(original.parent().unwrap().with_file_name("lib"), home.join("lib")).unwrap();
        let [user, group] = [user_of(&program), GROUP].map(|id| id.to_string());
        let capabilities = "+dac_read_search,+setgid";
        let become_user = ["setpriv", "--pdeathsig", "KILL", "--reuid", &user, "--regid", &user, "--groups", &group];
        let keep = ["--inh-caps", capabilities, "--ambient-caps", capabilities, "env"];
        program.launcher = become_user.iter().chain(&keep).map(OsString::from).collect();
        let library = self.folder.path().join("changing_workload.so").display().to_string();
        mkfifo(&self.pipe(&program), Mode::from_bits_truncate(0o644)).unwrap();
        program.launcher.push(format!("LD_PRELOAD={library}").into());
        program.launcher.push(format!("CHANGES={}", self.pipe(&program).display()).into());
        if program.id == "/python" {
            let packages = Command::new(&program.path).args(["-c", PACKAGES]).output().unwrap();
            program.launcher.push(format!("PYTHONPATH={}", succeeded(&packages)).into());
        }
        program.path = path;
        program
    }

    fn pipe(&self, client: &Program) -> PathBuf {
        self.folder.path().join(&client.id[1..]).join("changes")
    }

    /// Changes a client that runs, as the preloaded library says.
    fn change(&self, client: &Program, what: u8) {
        let pipe = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(self.pipe(client));
        pipe.unwrap().write_all(&[what]).unwrap();
    }

    /// A daemon with an entry by the path of each program. Those of the clients have these selectors, too.
    fn start(&self, launcher: &[&str], selectors: impl Fn(&Program) -> Vec<String>) -> Daemon {
        let mut entries = entry(self.server.id, &self.server.path);
        for client in &self.clients {
            let path = format!("unix:path:{}", client.path.display());
            let selectors = [selectors(client), vec![path]].concat();
            entries += &format!("[[workload]]\nid = {:?}\nselectors = {selectors:?}\naccept_weak = true\n", client.id);
        }
        let node = Daemon::start_behind(launcher, &entries);
        fs::set_permissions(node.folder(), Permissions::from_mode(0o755)).unwrap();
        node
    }

    /// The conversation of each client, which this command begins.
    fn talk(&self, node: &Daemon, launcher: &[&str]) -> Vec<Conversation> {
        let behind = |program: &Program| {
            let mut behind = program.clone();
            behind.launcher.splice(..0, launcher.iter().map(OsString::from));
            behind
        };
        let begin = |client: &Program| {
            let requests = if client.id == KEEPER { REQUESTS_OF_KEEPER } else { REQUESTS };
            Conversation::begin(node, &behind(&self.server), &behind(client), requests)
        };
        self.clients.iter().map(begin).collect()
    }

    /// Asserts that within 10 s all clients but the keeper lose their identity, and that the keeper then has one.
    fn assert_all_but_the_keeper_lose(&self, node: &Daemon, conversations: Vec<Conversation>) {
        let begun = Instant::now();
        let (losers, mut keepers): (Vec<_>, Vec<_>) =
            self.clients.iter().zip(conversations).partition(|(client, _)| client.id != KEEPER);
        let answered: Vec<_> = keepers.iter_mut().map(|(_, keeper)| keeper.answered()).collect();
        while let Some((client, _)) = losers.iter().find(|(client, _)| ended(node, client, "denied") == 0) {
            assert!(begun.elapsed() < Duration::from_secs(11), "{} has its identity after 11 s", client.id);
            // Each question takes a process of its own.
            node.ask(&["healthcheck"]);
        }
        losers.into_iter().for_each(|(_, loser)| loser.end_early());
        keepers.into_iter().zip(answered).for_each(|((_, keeper), answered)| keeper.end(answered, 1));
    }
}

fn user_of(client: &Program) -> u32 {
    if client.id == KEEPER { OTHER_USER } else { USER }
}

fn uid(client: &Program) -> String {
    format!("unix:uid:{}", user_of(client))
}

/// How often an SVID of this client has ended for this reason.
fn ended(node: &Daemon, client: &Program, reason: &str) -> usize {
    let [client, reason] = [format!("spiffe_id={} ", client.spiffe_id()), format!("reason={reason}")];
    let is_such = |line: &&str| line.contains(" ended ") && line.contains(&client) && line.ends_with(&reason);
    node.log().lines().filter(is_such).count()
}

/// Prints the folder with the packages of a Python environment.
const PACKAGES: &str = "import sysconfig; print(sysconfig.get_path('purelib'), end='')";

/// Replaces the program by a newer one, as a package manager does.
fn upgrade(program: &Path) {
    let new = program.with_extension("new");
    fs::copy(program, &new).unwrap();
    File::options().append(true).open(&new).unwrap().write_all(b"the next version").unwrap();
    fs::rename(new, program).unwrap();
}

#[test]
fn an_upgrade_takes_no_identity_from_running_clients_and_their_new_connections() {
    let test = "an_upgrade_takes_no_identity_from_running_clients_and_their_new_connections";
    let Some(machine) = Machine::new(test) else { return };
    let node = machine.start(&[], |client| vec![uid(client)]);
    let mut conversations = machine.talk(&node, &[]);
    conversations.iter_mut().for_each(|conversation| conversation.read_answers(BEFORE));
    let mut before = Vec::new();
    for (client, conversation) in machine.clients.iter().zip(&mut conversations) {
        upgrade(&client.path);
        let runs = fs::read_link(format!("/proc/{}/exe", conversation.pid())).unwrap();
        assert_eq!(runs.display().to_string(), format!("{} (deleted)", client.path.display()));
        before.push((conversation.answered(), ended(&node, client, "closed")));
        machine.change(client, b'c');
    }
    for ((client, mut conversation), (answered, closed)) in machine.clients.iter().zip(conversations).zip(before) {
        conversation.read_answers(answered + 50);
        assert!(ended(&node, client, "closed") > closed, "{} has its first connection", client.id);
        conversation.end(answered, 1);
    }
}

#[test]
fn a_client_that_gives_up_its_group_loses_the_identity_that_needs_it_and_no_other() {
    let test = "a_client_that_gives_up_its_group_loses_the_identity_that_needs_it_and_no_other";
    let Some(machine) = Machine::new(test) else { return };
    let group = |client: &Program| (client.id != KEEPER).then(|| format!("unix:supplementary_gid:{GROUP}"));
    let node = machine.start(&[], |client| [uid(client)].into_iter().chain(group(client)).collect());
    let mut conversations = machine.talk(&node, &[]);
    conversations.iter_mut().for_each(|conversation| conversation.read_answers(BEFORE));
    machine.clients.iter().for_each(|client| machine.change(client, b'g'));
    machine.assert_all_but_the_keeper_lose(&node, conversations);
}

#[test]
fn a_user_name_that_moves_takes_the_identity_from_its_old_user_and_gives_it_to_the_new_one() {
    let test = "a_user_name_that_moves_takes_the_identity_from_its_old_user_and_gives_it_to_the_new_one";
    let Some(mut machine) = Machine::new(test) else { return };
    // The daemon is PID 1 of a namespace, and has a copy of /etc.
    let etc = machine.folder.path().join("etc");
    succeeded(&Command::new("cp").args(["-a", "/etc"]).arg(&etc).output().unwrap());
    let move_name = |uid: u32| {
        let new = etc.join("passwd.new");
        fs::write(&new, format!("root:x:0:0::/:/bin/sh\nweb:x:{uid}:{uid}::/:/bin/sh\n")).unwrap();
        fs::rename(new, etc.join("passwd")).unwrap();
    };
    move_name(USER);
    let own_etc = format!("mount --bind {} /etc && exec \"$@\"", etc.display());
    let launcher = ["unshare", "-mpf", "--kill-child", "--mount-proc", "sh", "-c", &own_etc, "sh"];
    let node = machine.start(&launcher, |_| vec!["unix:user:web".to_owned()]);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children", pid = node.pid())).unwrap();
    machine.server.launcher = ["setpriv", "--pdeathsig", "KILL"].map(OsString::from).to_vec();
    let mut conversations = machine.talk(&node, &["nsenter", "-t", children.trim(), "-p", "-m"]);
    for (client, conversation) in machine.clients.iter().zip(&mut conversations) {
        conversation.read_answers(if client.id == KEEPER { 0 } else { BEFORE });
        assert_eq!(conversation.answered() == 0, client.id == KEEPER, "{}", client.id);
    }
    move_name(OTHER_USER);
    machine.assert_all_but_the_keeper_lose(&node, conversations);
}
