//! Where the file is that a caller runs: file systems that show other bytes than they run, that never answer, or that hold
//! more than anyone wants to read.

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

/// A node on which uids 41005 and 41007 may have an identity by the bytes of their program, and uid 41006 by a path in `TRUSTED-2`. Its
/// daemon has a mount namespace of its own, so that what is mounted there goes away with it.
fn node_with_mounts(test: &str) -> Option<Node> {
    let tables = "[[workload]]\nid = \"/bytes\"\nselectors = [\"unix:uid:41005\", \"unix:sha256:DIGEST\"]\n\
                  [[workload]]\nid = \"/mounted\"\nselectors = [\"unix:uid:41006\", \"unix:path:TRUSTED-2/program\"]\n\
                  [[workload]]\nid = \"/more\"\nselectors = [\"unix:uid:41007\", \"unix:sha256:DIGEST\"]\n";
    Node::start_behind(test, &["unshare", "-m"], tables)
}

/// A command that runs a tampered copy of the trusted program, from the FUSE file system of this number in the daemon's mount
/// namespace, which shows the daemon the genuine one.
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

/// Defence: `host::facts::hash_withheld`, by the file system's type. With FUSE among the local ones, the liar gets the
/// identity.
#[test]
fn attack_28_a_file_system_that_shows_other_bytes_than_it_runs_has_no_hash() {
    let Some(node) = node_with_mounts("attack_28_lies") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity");
    let lie = "assert open('/proc/self/exe', 'rb').read() != open(TRUSTED, 'rb').read()";
    let lies = |number| from_lying_files(&node, "lies", number);
    assert_eq!(node.gets_by(&lies(0), &format!("{lie}; become(41004); {HONEST}")), "nothing");
    assert_eq!(node.withheld_from(&lies(1), 41004, "UnixSha256"), "foreign_file_system");
}

/// Defences: `Hashing::on_a_thread`, and the time limits of `Hashing::digest` and `Hashing::look_up`. On the thread that serves,
/// or without the limits, the attackers' own requests are never answered.
#[test]
fn attack_28_file_systems_that_never_answer_hold_up_nobody_else() {
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
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity", "once its file system has gone");
}

/// Defence: `agent::daemon::on_a_thread_of_its_own`. On a thread that serves, nobody is answered while the file is looked at.
#[test]
fn a_bundle_file_on_a_file_system_that_never_answers_holds_up_nobody() {
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

/// Defence: `Hashing::spend`. With it returning early, 1,376 MiB are read.
#[test]
fn attack_30_hundreds_of_megabytes_to_hash_hold_up_nobody_else() {
    let Some(node) = Node::start("attack_30") else { return };
    if libc::major(fs::metadata(&node.trusted).unwrap().dev()) == 0 {
        return eprintln!("skipped: attack_30: of what lies in memory no hash is remembered, needs TMPDIR on a disk");
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
    assert_eq!(node.honest_gets(&node.trusted, 41004), "identity", "what is remembered costs nothing");
}

/// Defence: `host::facts::hash_withheld_by_metadata`. With it returning early, the program is read for as long as the time limit
/// allows, and the hash is not withheld.
#[test]
fn attack_30_a_program_beyond_the_size_limit_is_not_read_at_all() {
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

/// Defence: `host::facts::hash_withheld`. With it returning early, or with overlay among the local file systems, the liar gets an identity.
#[test]
fn a_layer_of_an_overlay_that_is_changed_after_the_exec_has_no_hash() {
    let Some(node) = Node::start("a_layer_of_an_overlay") else { return };
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
