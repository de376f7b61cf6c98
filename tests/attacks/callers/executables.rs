//! Attacks by the caller's executable: files that are not what their paths say, or not any more.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::fs::StatVfsMountFlags;

use crate::daemon::Daemon;
use crate::node::HONEST;
use crate::node::Node;
use crate::node::PYTHON;
use crate::process_identity::swap;
use crate::surroundings::Group;
use crate::surroundings::unified;
use crate::transport::refuses;

/// A process of uid 41001 connects, sends its request, and execs the trusted program before the daemon accepts. The
/// file's mode changes its uid or gid.
fn becomes_with(node: &Node, mode: u32) -> String {
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    fs::set_permissions(&node.trusted, fs::Permissions::from_mode(mode)).unwrap();
    node.gets("asks_and_becomes(TRUSTED, 41001)")
}

/// A node on whose file system set-user-ID programs work.
fn with_set_user_id(test: &str) -> Option<Node> {
    let node = Node::start(test)?;
    if rustix::fs::statvfs(&node.trusted).unwrap().f_flag.contains(StatVfsMountFlags::NOSUID) {
        eprintln!("skipped: {test}: the mount ignores set-user-ID, needs TMPDIR without nosuid");
        return None;
    }
    Some(node)
}

/// Defences: `pinned::pidfd_facts` and `pinned::agree`. If both return early, the attacker gets the identity; if only
/// the first does, nothing.
#[test]
fn attack_8_an_exec_of_a_setuid_program_gives_neither_its_path_nor_uid() {
    let Some(node) = with_set_user_id("attack_8") else { return };
    assert_eq!(becomes_with(&node, 0o4755), "nothing");
}

/// Defences and results as above.
#[test]
fn attack_9_an_exec_of_a_setgid_program_gives_neither_its_path_nor_gid() {
    let Some(node) = with_set_user_id("attack_9") else { return };
    chown(&node.trusted, None, Some(41042)).unwrap();
    assert_eq!(becomes_with(&node, 0o2755), "nothing");
}

/// Defence: `PinnedProcess::runs_still`; uid and gids do not change here. If it returns early, the attacker gets the
/// identity.
#[test]
fn attack_9_an_exec_of_a_file_with_capabilities_does_not_give_its_path() {
    let Some(node) = Node::start("attack_9_capabilities") else { return };
    let file_capability =
        "os.setxattr(TRUSTED, 'security.capability', struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0))";
    assert_eq!(node.gets(&format!("{file_capability}; print('set')")), "set");
    let capable = "assert 'CapEff:\\t0000000000000400' in open('/proc/self/status').read()";
    let user = ["setpriv", "--reuid", "41001", "--regid", "41001", "--clear-groups"];
    let trusted = node.trusted.display().to_string();
    let honest = [&user[..], &[&trusted]].concat();
    assert_eq!(node.gets_by(&honest, &format!("{capable}; {HONEST}")), "identity");
    assert_eq!(node.gets(&swap(41001)), "nothing");
}

/// Defence: `host::facts::path` compares the link count and the inode. If it returns early, the deleted program gets
/// the identity of its look-alike.
#[test]
fn attack_23_a_deleted_program_and_its_look_alike_do_not_have_its_path() {
    let table = "[[workload]]\nid = \"/odd\"\nselectors = [\"unix:uid:41005\", \"unix:path:TRUSTED (deleted)\"]\n";
    let Some(node) = Node::start_behind("attack_23", &[], table) else { return };
    let look_alike = node.trusted.with_file_name("trusted (deleted)");
    fs::copy(&node.trusted, &look_alike).unwrap();
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    assert_eq!(node.honest_gets(&look_alike, 41005), "identity", "a file whose name ends in (deleted)");
    assert_eq!(node.honest_gets(&look_alike, 41001), "nothing");
    for uid in [41001, 41005] {
        let replaced = format!(
            "program = open(TRUSTED, 'rb').read(); os.unlink(TRUSTED)\n\
             new = os.open(TRUSTED, os.O_CREAT | os.O_WRONLY, 0o755); os.write(new, program); os.close(new)\n\
             assert os.readlink('/proc/self/exe') == TRUSTED + ' (deleted)'; become({uid}); {HONEST}"
        );
        assert_eq!(node.gets_as(&node.trusted, &replaced), "nothing", "{uid}");
    }
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
}

/// Defence: `host::facts::not_on_the_host`; device, inode, path and mount namespace are the genuine ones. If it returns
/// early, the attacker gets the identity.
#[test]
fn attack_26_a_rewritten_exe_link_proves_neither_path_nor_hash() {
    if !cfg!(target_arch = "x86_64") {
        return eprintln!("skipped: attack_26: has machine code for x86_64 only");
    }
    let Some(node) = Node::start("attack_26") else { return };
    let trusted = node.trusted.display().to_string();
    for uid in ["41001", "41004"] {
        let become_user = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"];
        let honest = [&become_user[..], &[&trusted]].concat();
        assert_eq!(node.gets_by(&honest, HONEST), "identity", "{uid}");
        let lie = [&become_user[..], &["unshare", "-Ur", PYTHON]].concat();
        let rewritten = format!("claim_to_run(TRUSTED); assert os.readlink('/proc/self/exe') == TRUSTED; {HONEST}");
        assert_eq!(node.gets_by(&lie, &rewritten), "nothing", "{uid}");
    }
}

/// Defences: `host::facts::path`, and `host::facts::hash_withheld`, because the caller owns its executable. If both
/// return early, the attacker gets an identity.
#[test]
fn attack_27_a_program_without_a_file_has_neither_path_nor_hash() {
    let Some(node) = Node::start("attack_27") else { return };
    for uid in [41001, 41004] {
        assert_eq!(node.honest_gets(&node.trusted, uid), "identity", "{uid}");
        let anonymous = format!(
            "if len(sys.argv) > 3: {HONEST}\nelse:\n become({uid}); memory = os.memfd_create(TRUSTED)\n \
             os.write(memory, open(TRUSTED, 'rb').read())\n \
             os.execv(f'/proc/self/fd/{{memory}}', ['python3', '-c', sys.orig_argv[2], *sys.argv[1:], 'again'])"
        );
        assert_eq!(node.gets(&anonymous), "nothing", "{uid}");
    }
}

/// Changes the program's last byte, which no run of it reads, and restores its modification time.
pub(crate) fn tamper(program: &Path) {
    let file = File::options().read(true).write(true).open(program).unwrap();
    let before = file.metadata().unwrap();
    let mut last = [0];
    file.read_exact_at(&mut last, before.len() - 1).unwrap();
    file.write_all_at(&[!last[0]], before.len() - 1).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(file.metadata().unwrap().mtime_nsec(), before.mtime_nsec());
}

/// Defence: `hashing::version_of`. If it lacks the change time, the rewritten program still gets an identity.
#[test]
fn attack_29_a_remembered_hash_does_not_outlive_the_bytes() {
    let Some(node) = Node::start("attack_29") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity");
    tamper(&node.trusted);
    assert_eq!(node.honest_gets(&node.trusted, 41004), "nothing", "rewritten in place, with the old time");
    tamper(&node.trusted);
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity");
    let other = node.trusted.with_file_name("other");
    fs::copy(&node.trusted, &other).unwrap();
    let times = File::open(&node.trusted).unwrap().metadata().unwrap().modified().unwrap();
    File::options().write(true).open(&other).unwrap().set_modified(times).unwrap();
    tamper(&other);
    fs::rename(&other, &node.trusted).unwrap();
    assert_eq!(node.honest_gets(&node.trusted, 41004), "nothing", "another file of the same size and time");
}

/// Defence: `host::facts::path`. If it takes a closed directory for an empty one, `explain` shows another reason. The
/// daemon of this test runs as uid 0 without `CAP_DAC_OVERRIDE` and `CAP_DAC_READ_SEARCH`.
#[test]
fn a_path_in_a_directory_closed_to_the_daemon_is_withheld() {
    let test = "a_path_in_a_directory_closed_to_the_daemon_is_withheld";
    let table =
        "[[workload]]\nid = \"/closed\"\nselectors = [\"unix:uid:41005\", \"unix:path:TRUSTED-home/program\"]\n";
    let launcher = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    let Some(node) = Node::start_behind(test, &launcher, table) else { return };
    let home = node.trusted.with_file_name("trusted-home");
    let program = home.join("program");
    fs::create_dir(&home).unwrap();
    fs::copy(&node.trusted, &program).unwrap();
    assert_eq!(node.honest_gets(&program, 41005), "identity");
    let withheld = || node.withheld_from(&[&program.display().to_string()], 41005, "UnixPath");
    assert_eq!(withheld(), "not withheld");
    chown(&home, Some(41005), None).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(node.honest_gets(&program, 41005), "nothing");
    assert_eq!(withheld(), "path_not_searchable");
}

/// Defences: `/proc/PID/exe` is the loader, so even if `host::facts::path` returns early the caller gets nothing.
/// `config::workload::warn_of_interpreters` warns the author of an entry for the loader itself.
#[test]
fn attack_31_a_loader_does_not_get_the_path_of_the_program_it_loads() {
    let Some(node) = Node::start("attack_31") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    let loader = "/lib64/ld-linux-x86-64.so.2";
    if !Path::new(loader).exists() {
        return eprintln!("skipped: attack_31: needs {loader}");
    }
    let loaded = node.gets_by(&[loader, &node.trusted.display().to_string()], &format!("become(41001); {HONEST}"));
    assert_eq!(loaded, "nothing");
}

/// The counterpart of attack 23: who ran the program before it was replaced keeps its path. If `PathSource::ask` forgets
/// earlier proofs, the second connection gets nothing.
#[test]
fn a_package_upgrade_takes_nothing_from_a_running_program_and_status_names_it() {
    let Some(node) = Node::start("a_package_upgrade") else { return };
    let trusted = node.trusted.display().to_string();
    let connects_twice = "s = connect(); say(s, HELLO + request()); answer(s); sys.stdin.readline()\n\
                          t = connect(); say(t, HELLO + request()); answer(t); sys.stdin.read()";
    let mut caller = node.caller(&as_user(41001, &[&trusted]), connects_twice);
    let mut running = caller.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = BufReader::new(running.stdout.take().unwrap()).lines();
    let mut next_answer = || answers.next().unwrap().unwrap();
    assert_eq!(next_answer(), "identity");
    let status = |arguments: &[&str]| String::from_utf8(node.daemon.ask(arguments).stdout).unwrap();
    let replaced = || {
        let status: serde_json::Value = serde_json::from_str(&status(&["status", "-o", "json"])).unwrap();
        status["replaced"].as_array().unwrap().clone()
    };
    assert_eq!(replaced(), [0; 0]);
    let new = node.trusted.with_extension("new");
    fs::copy(PYTHON, &new).unwrap();
    fs::rename(&new, &node.trusted).unwrap();
    let named = replaced();
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!((&named[0]["pid"], &named[0]["program"]), (&running.id().into(), &trusted.as_str().into()));
    let screen = status(&["status"]).split_whitespace().collect::<Vec<_>>().join(" ");
    let advice = "runs a replaced file: restart it, or it has no identity after bonafide's next restart";
    assert!(screen.contains(advice), "{screen}");
    running.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(next_answer(), "identity", "on a new connection");
    drop(running.stdin.take());
    running.wait().unwrap();
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity", "a process of the next version");
}

/// Users whose entries have a path, a path with `accept_weak`, and a hash.
const BY_PATH_OR_HASH: [u32; 3] = [41001, 41003, 41004];
/// A user whom an entry for a unit and the path names, and one whom no entry names.
const OTHERS: [u32; 2] = [41006, 41002];
const OF_A_UNIT: &str = "[[workload]]\nid = \"/unit\"\nselectors = [\"systemd:id:trusted.service\", \"unix:uid:41006\", \
                         \"unix:path:TRUSTED\"]\n";

/// Runs a command as this user.
fn as_user(uid: u32, command: &[&str]) -> Vec<String> {
    let uid = uid.to_string();
    let become_user = ["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"];
    become_user.iter().chain(command).map(|word| (*word).to_owned()).collect()
}

/// A program of other bytes than the trusted one.
fn attacker(node: &Node) -> PathBuf {
    let program = node.trusted.with_file_name("attacker");
    if !program.exists() {
        fs::copy(&node.trusted, &program).unwrap();
        tamper(&program);
    }
    program
}

/// Asserts that processes of these users get the program's identity by this attack, and of others nothing.
fn assert_worth(node: &Node, attack: impl Fn(u32) -> String) {
    for uid in BY_PATH_OR_HASH {
        assert_eq!(node.honest_gets(attacker(node), uid), "nothing", "another program of {uid}");
        assert_eq!(attack(uid), "identity", "a limit: the same user {uid}");
    }
    for uid in OTHERS {
        assert_eq!(attack(uid), "nothing", "another user, or a process outside the unit: {uid}");
    }
}

/// No defence: the exe link is that of the memory, whoever of its processes rewrote it. The user and the unit, which an
/// entry has beside the path, are facts about the process that asks.
#[test]
fn attack_149_a_child_that_shares_memory_gives_the_program_of_the_same_user_and_nothing_of_others() {
    let Some(node) = with_machine_code("attack_149") else { return };
    let program = attacker(&node).display().to_string();
    let command = |uid| as_user(uid, &[&program]);
    if node.gets_by(&command(41001), "print(claim_by_child(TRUSTED))") != "0" {
        return eprintln!("skipped: attack_149: this machine lets users make no user namespaces");
    }
    let rewritten = format!(
        "own = lambda: os.stat('/proc/self/ns/user').st_ino; before = own(); assert claim_by_child(TRUSTED) == 0\n\
         assert os.readlink('/proc/self/exe') == TRUSTED and own() == before; {HONEST}"
    );
    assert_worth(&node, |uid| node.gets_by(&command(uid), &rewritten));
}

/// Defence: the limit of user namespaces, which a namespace sets for those below it.
#[test]
fn attack_149_fails_where_users_may_make_no_user_namespaces() {
    let Some(node) = with_machine_code("attack_149_off") else { return };
    let within = |limit: &str| {
        let limited = format!("{limit} exec \"$@\"");
        let command = as_user(41001, &["unshare", "-Ur", "sh", "-c", &limited, "sh", PYTHON]);
        node.command_prints(&command, "print(claim_by_child(TRUSTED), os.readlink('/proc/self/exe') == TRUSTED)")
    };
    if within("").as_deref() != Ok("0 True") {
        return eprintln!("skipped: attack_149_off: this machine lets users make no user namespaces");
    }
    let none = within("echo 0 >/proc/sys/user/max_user_namespaces;");
    assert_eq!(none, Ok(format!("{} False", libc::ENOSPC)));
}

/// No defence: the image at the time of connect(2) is known to nobody (attack 7). The daemon is stopped here, as a user does
/// to it with many requests of its own; then it succeeds at every try.
#[test]
fn attack_155_an_exec_before_the_accept_gives_the_program_of_the_same_user_and_nothing_of_others() {
    let Some(node) = Node::start_behind("attack_155", &[], OF_A_UNIT) else { return };
    assert_worth(&node, |uid| node.gets_as(attacker(&node), &format!("asks_and_becomes(TRUSTED, {uid})")));
}

fn with_machine_code(test: &str) -> Option<Node> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("skipped: {test}: has machine code for x86_64 only");
        return None;
    }
    if !Path::new("/proc/sys/user/max_user_namespaces").exists() {
        eprintln!("skipped: {test}: this kernel has no user namespaces");
        return None;
    }
    Node::start_behind(test, &[], OF_A_UNIT)
}

/// Defences: `EvidenceSet::prove` and `Selector::path` withhold a value with U+FFFD; `Selector::from_str` refuses one. If all
/// return early, both programs get the identity, and so do processes of both cgroups.
#[test]
fn attack_163_names_that_differ_only_in_bytes_that_are_no_utf8_give_nothing() {
    let Some(node) = Node::start("attack_163") else { return };
    for selector in
        ["unix:path:/usr/bin/web\u{fffd}", "cgroup:/web\u{fffd}", "unix:user:web\u{fffd}", "unix:user:we\\nb"]
    {
        let table = format!("[[workload]]\nid = \"/odd\"\nselectors = [\"unix:uid:41005\", \"{selector}\"]\n");
        refuses(&Daemon::end_behind(&[], &table), "a fact with it is always withheld");
    }
    for byte in [0xfe, 0xff] {
        let odd = |path: &Path| {
            let mut bytes = path.as_os_str().as_bytes().to_owned();
            bytes.push(byte);
            PathBuf::from(OsString::from_vec(bytes))
        };
        let program = odd(&node.trusted);
        fs::copy(&node.trusted, &program).unwrap();
        assert_eq!(node.withheld_from(&[&program], 41001, "UnixPath"), "not_printable");
        let group = Group::make(&odd(unified().join(format!("bonafide-{}", std::process::id())).as_path()), "");
        let enter = [OsString::from("sh"), "-c".into(), "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"".into()];
        let command = [&enter[..], &[group.path().into(), PYTHON.into()]].concat();
        assert_eq!(node.withheld_from(&command, 41000, "Cgroup"), "not_printable");
    }
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
}
