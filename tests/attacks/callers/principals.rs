//! Attacks by one user as many: the uids of a user namespace, and those of a range of `/etc/subuid`.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::process::Child;
use std::process::Stdio;

use tokio::time::Instant;

use crate::node::HONEST;
use crate::node::Node;
use crate::node::PYTHON;
use crate::transport::TIMEOUT;

/// How many connections one principal may have here.
pub(crate) const MOST: usize = 4;

/// Mounts ranges over `/etc/subuid`, for the daemon alone.
const WITH_RANGES: [&str; 6] = [
    "unshare",
    "-m",
    "sh",
    "-c",
    "for file do :; done; ranges=${file%/*}/subuid; printf '41000:500000:65536\\n41003:600000:65536\\n' > \"$ranges\"
     mount --bind \"$ranges\" /etc/subuid && exec \"$@\"",
    "sh",
];

/// Enters a user namespace within one of its own.
const NESTED: &str = "for id in (os.geteuid(), 0):\n libc.prctl(4, 1, 0, 0, 0); assert libc.unshare(0x10000000) == 0\n \
                      open('/proc/self/setgroups', 'w').write('deny')\n \
                      for name in 'ug': open(f'/proc/self/{name}id_map', 'w').write(f'0 {id} 1')";

impl Node {
    /// A process of this command that this script makes a user, and that holds as many connections as one principal may have.
    pub(crate) fn holder(&self, command: &[impl AsRef<OsStr>], becomes: &str) -> Child {
        let holds = format!(
            "{becomes}\nheld = [connect() for _ in range({MOST})]\nfor s in held: say(s, HELLO + request())\n\
             for s in held: answered(s)\nprint('.', flush=True); sys.stdin.read()"
        );
        let mut holder = self.caller(command, &holds).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        holder
    }
}

pub(crate) fn release(mut holder: Child) {
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

/// Defence: `host::principal::principal`. If it charges the uid of the socket, each of these gets the identity while the
/// share of their user is used up.
#[test]
fn attack_153_the_uids_of_one_user_share_one_budget_and_take_nothing_from_another() {
    const TEST: &str = "attack_153_the_uids_of_one_user_share_one_budget_and_take_nothing_from_another";
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if most.trim() == "0" || !fs::exists("/etc/subuid").unwrap() {
        return eprintln!("skipped: {TEST}: needs user namespaces and a file /etc/subuid");
    }
    let ids = [41_002, 500_001, 500_002, 600_001];
    let entries = ids.map(|uid| format!("[[workload]]\nid = \"/{uid}\"\nselectors = [\"unix:uid:{uid}\"]\n")).concat();
    let tables = format!("{entries}[limits]\nconnections_per_caller = {MOST}\n");
    let Some(node) = Node::start_behind(TEST, &WITH_RANGES, &tables) else { return };
    let alices = [
        "become(41000)".to_owned(),
        "become(500001)".to_owned(),
        "become(500002)".to_owned(),
        format!("become(41000)\n{NESTED}"),
    ];
    let gets = |becomes: &str| node.gets(&format!("{becomes}\n{HONEST}"));
    for held in &alices {
        alices.iter().for_each(|one| assert_eq!(gets(one), "identity", "{one}"));
        let holder = node.holder(&[PYTHON], held);
        alices.iter().for_each(|one| assert_eq!(gets(one), "nothing", "{one} while {held}"));
        for other in ["become(41002)", "become(600001)", ""] {
            assert_eq!(gets(other), "identity", "{other} while {held}");
        }
        release(holder);
        let begun = Instant::now();
        while gets(held) != "identity" {
            assert!(begun.elapsed() < TIMEOUT, "{held} is kept out by connections that are closed");
        }
    }
}
