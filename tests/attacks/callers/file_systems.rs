//! Attacks by the file system of the caller's executable: one that shows other bytes than it runs, one that hangs, and
//! one with files too large to hash.

use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::executables::tamper;
use crate::node::HONEST;
use crate::node::Node;
use crate::node::PYTHON;

const LYING_FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/callers/lying_files.py");

/// A node with hash entries for uids 41005 and 41007, and an entry for uid 41006 by a path in `TRUSTED-2`. The daemon
/// has its own mount namespace, so that its mounts end with it.
fn node_with_mounts(test: &str) -> Option<Node> {
    let tables = "[[workload]]\nid = \"/bytes\"\nselectors = [\"unix:uid:41005\", \"unix:sha256:DIGEST\"]\n\
                  [[workload]]\nid = \"/mounted\"\nselectors = [\"unix:uid:41006\", \"unix:path:TRUSTED-2/program\"]\n\
                  [[workload]]\nid = \"/more\"\nselectors = [\"unix:uid:41007\", \"unix:sha256:DIGEST\"]\n";
    Node::start_behind(test, &["unshare", "-m"], tables)
}

/// A command that runs a tampered copy of the trusted program from a FUSE file system, mounted at `TRUSTED-number` in
/// the daemon's mount namespace. The file system shows the daemon the genuine program.
fn from_lying_files(node: &Node, how: &str, number: u32) -> Vec<String> {
    let tampered = node.trusted.with_file_name("tampered");
    if !tampered.exists() {
        fs::copy(&node.trusted, &tampered).unwrap();
        tamper(&tampered);
    }
    let folder = node.trusted.with_file_name(format!("trusted-{number}"));
    fs::create_dir(&folder).unwrap();
    let daemon = node.daemon.pid().to_string();
    let paths = [&folder, &node.trusted, &tampered].map(|path| path.display().to_string());
    let command = ["nsenter", "-t", &daemon, "-m", PYTHON, LYING_FILES, how, &daemon];
    command.into_iter().map(str::to_owned).chain(paths).collect()
}

/// Defence: `host::facts::hash_withheld` checks the type of the file system. If FUSE counts as local, the attacker gets
/// the identity.
#[test]
fn attack_28_a_program_on_a_lying_fuse_file_system_has_no_hash() {
    let Some(node) = node_with_mounts("attack_28_lies") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity");
    let lie = "assert open('/proc/self/exe', 'rb').read() != open(TRUSTED, 'rb').read()";
    let lies = |number| from_lying_files(&node, "lies", number);
    assert_eq!(node.gets_by(&lies(0), &format!("{lie}; become(41004); {HONEST}")), "nothing");
    assert_eq!(node.withheld_from(&lies(1), 41004, "UnixSha256"), "foreign_file_system");
}

/// Defences: `lookups::run` hashes on a thread of its own and within `lookups::LIMIT`. On a runtime thread, or without
/// the limit, the attackers' requests are never answered.
#[test]
fn attack_28_a_hanging_file_system_delays_no_other_caller() {
    let Some(node) = node_with_mounts("attack_28_hangs") else { return };
    let node = &node;
    std::thread::scope(|threads| {
        let attacks = [(0, 41004), (1, 41004), (2, 41006), (3, 41007)].map(|(number, uid)| {
            let command = from_lying_files(node, "hangs", number);
            threads.spawn(move || node.gets_by(&command, &format!("become({uid}); {HONEST}")))
        });
        let mut asked = 0;
        while asked < 3 || attacks.iter().any(|attack| !attack.is_finished()) {
            let new = node.trusted.with_file_name(format!("new-{asked}"));
            fs::copy(&node.trusted, &new).unwrap();
            for (program, uid) in [(Path::new(PYTHON), 41000), (&node.trusted, 41001), (&new, 41005)] {
                assert_eq!(node.honest_gets(program, uid), "identity", "{uid}");
            }
            asked += 1;
        }
        for attack in attacks {
            assert_eq!(attack.join().unwrap(), "nothing");
        }
    });
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity", "after the hanging file system is unmounted");
}

/// Defence: `agent::node::on_a_thread_of_its_own`. On a runtime thread, no caller is answered while the read hangs.
#[test]
fn a_bundle_file_on_a_hanging_file_system_delays_no_caller() {
    let table = "[[federation]]\ntrust_domain = \"partner.example\"\nbundle_file = \"TRUSTED-0/program\"\n";
    let Some(node) = Node::start_behind("a_bundle_file_that_hangs", &["unshare", "-m"], table) else { return };
    let hanging = from_lying_files(&node, "hangs", 0);
    let enough = node.trusted.with_file_name("enough");
    let waits = format!(
        "import time\nfor _ in range(300):\n if os.path.exists({enough:?}): break\n time.sleep(.1)\nprint('unmounted')"
    );
    std::thread::scope(|threads| {
        let mounted = threads.spawn(|| node.gets_by(&hanging, &waits));
        let begun = Instant::now();
        let mut answers = Vec::new();
        while begun.elapsed() < Duration::from_secs(2) {
            answers.push(node.honest_gets(PYTHON, 41000));
        }
        fs::write(enough, "").unwrap();
        assert_eq!(mounted.join().unwrap(), "unmounted");
        assert!(answers.len() > 3 && answers.iter().all(|answer| answer == "identity"), "{answers:?}");
    });
}

/// Defence: `hashing::Shared::spend`. If it returns early, 1,376 MiB are read.
#[test]
fn attack_30_hundreds_of_megabytes_to_hash_delay_no_other_caller() {
    let Some(node) = Node::start("attack_30") else { return };
    if libc::major(fs::metadata(&node.trusted).unwrap().dev()) == 0 {
        return eprintln!("skipped: attack_30: the hash of a file on tmpfs is not cached, needs TMPDIR on a disk");
    }
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity");
    let programs: Vec<_> = (0..16).map(|number| node.trusted.with_file_name(format!("huge-{number}"))).collect();
    for program in &programs {
        fs::copy(&node.trusted, program).unwrap();
        File::options().write(true).open(program).unwrap().set_len(100 << 20).unwrap();
    }
    let read_so_far = || {
        let io = fs::read_to_string(format!("/proc/{}/io", node.daemon.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let before = read_so_far();
    let all_fail = |programs: &[PathBuf]| {
        for program in programs {
            assert_eq!(node.honest_gets(program, 41004), "nothing");
        }
    };
    std::thread::scope(|threads| {
        let (some, others) = programs.split_at(8);
        let all_fail = &all_fail;
        let attacks = [some, others].map(|programs| threads.spawn(move || all_fail(programs)));
        let mut asked = 0;
        while asked < 5 || attacks.iter().any(|attack| !attack.is_finished()) {
            assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
            asked += 1;
        }
        attacks.into_iter().for_each(|attack| attack.join().unwrap());
    });
    let read = read_so_far() - before;
    assert!(read < 1100 << 20, "{} MiB were read for one caller in a minute", read >> 20);
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity", "a cached hash was charged to the budget");
}

/// Defence: `host::facts::hash_withheld_by_metadata`. If it returns early, the daemon reads the program until the time
/// limit, and the hash is not withheld.
#[test]
fn attack_30_a_program_above_the_size_limit_is_not_read() {
    let Some(node) = Node::start("attack_30_size") else { return };
    let program = node.trusted.with_file_name("larger");
    fs::copy(&node.trusted, &program).unwrap();
    let grow = |size: u64| File::options().write(true).open(&program).unwrap().set_len(size).unwrap();
    let withheld = || node.withheld_from(&[&program], 41004, "UnixSha256");
    grow(600 << 20);
    assert_eq!(node.honest_gets(&program, 41004), "nothing");
    assert_eq!(withheld(), "too_large");
    grow(fs::metadata(&node.trusted).unwrap().len());
    assert_eq!(node.honest_gets(&program, 41004), "identity");
    assert_eq!(withheld(), "not withheld");
}

/// Defence: `host::facts::hash_withheld`. If it returns early, or if overlay counts as local, the attacker gets an
/// identity.
#[test]
fn a_program_whose_overlay_layer_changes_after_the_exec_has_no_hash() {
    let Some(node) = Node::start("a_program_whose_overlay_layer_changes") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity");
    let folder = node.trusted.parent().unwrap().join("overlay");
    for layer in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(folder.join(layer)).unwrap();
    }
    let upper = folder.join("upper/program");
    fs::copy(&node.trusted, &upper).unwrap();
    tamper(&upper);
    let overlay = format!(
        "cd {} && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && shift && \
         set -- merged/program \"$@\"",
        folder.display()
    );
    let swap = format!(
        "assert '/merged/' in os.readlink('/proc/self/exe')\nwith open({:?}, 'r+b') as upper:\n \
         upper.seek(-1, 2); last = upper.read(1)[0]; upper.seek(-1, 2); upper.write(bytes([last ^ 255]))\n\
         assert open('/proc/self/exe', 'rb').read() == open(TRUSTED, 'rb').read(); become(41004); {HONEST}",
        upper.display().to_string()
    );
    assert_eq!(node.gets_in(&overlay, &swap), "nothing");
}
