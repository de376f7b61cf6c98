//! The system calls of the daemon for a token and for a first X509-SVID, counted by a tracer of each of its threads.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;

use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use futures_util::StreamExt as _;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::asking::asking;
use crate::daemon::Daemon;
use crate::requests::client;
use crate::transport::TIMEOUT;
use crate::transport::me;

const TOKENS: u64 = 320;
const IN_FLIGHT: usize = 16;
const FIRST_SVIDS: u64 = 20;

/// SPEC: product contract §9.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_takes_at_most_10_system_calls_where_8_are_promised() {
    let Some(daemon) = traceable("a_token_takes_at_most_10_system_calls_where_8_are_promised") else { return };
    let client = client(&daemon).await;
    let fetch = |_| {
        let mut client = client.clone();
        let request = JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: String::new() };
        async move { client.fetch_jwtsvid(asking(request)).await.unwrap() }
    };
    let tokens = || futures_util::stream::iter(0..TOKENS).map(fetch).buffer_unordered(IN_FLIGHT).count();
    tokens().await;
    let tracers = Tracers::attach(&daemon);
    tokens().await;
    tracers.assert_at_most(10, TOKENS, daemon);
}

/// SPEC: product contract §9. From accept until its SVID is recorded as ended.
#[test]
fn a_first_svid_takes_at_most_100_system_calls_where_50_are_promised() {
    let Some(daemon) = traceable("a_first_svid_takes_at_most_100_system_calls_where_50_are_promised") else { return };
    let ended = || daemon.log().matches(" ended issuance=").count();
    let fresh_process = || {
        let ended_before = ended();
        assert!(daemon.ask(&["fetch", "x509"]).status.success());
        let begun = Instant::now();
        while ended() == ended_before {
            assert!(begun.elapsed() < TIMEOUT, "the SVID of a process that is gone does not end");
        }
    };
    fresh_process();
    let tracers = Tracers::attach(&daemon);
    (0..FIRST_SVIDS).for_each(|_| fresh_process());
    tracers.assert_at_most(100, FIRST_SVIDS, daemon);
}

/// Where a daemon cannot be traced, prints the reason and returns `None`.
fn traceable(test: &str) -> Option<Daemon> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: {test}: needs root, which may trace a daemon that is closed to others");
        return None;
    }
    Some(Daemon::start(&format!("[svid]\nx509_ttl = \"30m\"\njwt_ttl = \"10m\"\n{}", me())))
}

/// A number of calls by the number of the system call.
type Counts = BTreeMap<i64, u64>;

/// A tracer for each thread of a daemon: only the thread that attaches may ask.
struct Tracers {
    threads: BTreeSet<i32>,
    counting: Arc<AtomicBool>,
    tracers: Vec<JoinHandle<Counts>>,
}

impl Tracers {
    /// Returns once each thread is traced.
    fn attach(daemon: &Daemon) -> Self {
        let (threads, counting) = (threads_of(daemon.pid()), Arc::new(AtomicBool::new(true)));
        let (attached, all_attached) = mpsc::channel();
        let tracer = |&thread: &i32| {
            let (counting, attached) = (Arc::clone(&counting), attached.clone());
            std::thread::spawn(move || {
                let thread = Pid::from_raw(thread);
                ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
                ptrace::interrupt(thread).unwrap();
                attached.send(()).unwrap();
                count(thread, &counting)
            })
        };
        let tracers: Vec<_> = threads.iter().map(tracer).collect();
        threads.iter().for_each(|_| all_attached.recv_timeout(TIMEOUT).expect("a thread that can be traced"));
        Self { threads, counting, tracers }
    }

    /// Kills the daemon: a running thread cannot be left.
    fn assert_at_most(self, most: u64, operations: u64, daemon: Daemon) {
        self.counting.store(false, Ordering::SeqCst);
        let new: Vec<_> = threads_of(daemon.pid()).difference(&self.threads).copied().collect();
        daemon.signal(Signal::SIGKILL);
        let mut counts = Counts::new();
        for (call, number) in self.tracers.into_iter().flat_map(|tracer| tracer.join().unwrap()) {
            // The standard library asserts before each close that the descriptor is open; a release does not.
            if call != libc::SYS_fcntl || !cfg!(debug_assertions) {
                *counts.entry(call).or_default() += number;
            }
        }
        drop(daemon);
        let table = table(&counts, operations);
        println!("{table}");
        assert!(new.is_empty(), "threads began that nobody traced: {new:?}");
        assert!(counts.values().sum::<u64>() <= most * operations, "more than {most} system calls each:\n{table}");
    }
}

fn threads_of(pid: u32) -> BTreeSet<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Counts the calls of one thread until it ends.
fn count(thread: Pid, counting: &AtomicBool) -> Counts {
    let mut counts = Counts::new();
    loop {
        let delivered = match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceSyscall(_)) => {
                let enters = ptrace::syscall_info(thread).is_ok_and(|stop| stop.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
                if enters && counting.load(Ordering::SeqCst) {
                    *counts.entry(number_of_call(thread)).or_default() += 1;
                }
                None
            }
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(WaitStatus::PtraceEvent(..)) => None,
            _ => return counts,
        };
        // A thread that was killed meanwhile is met by the next wait.
        let _ = ptrace::syscall(thread, delivered);
    }
}

/// SPEC: proc_pid_syscall(5), the first field.
fn number_of_call(thread: Pid) -> i64 {
    let text = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(-1)
}

/// The calls of one operation, the most frequent first.
fn table(counts: &Counts, operations: u64) -> String {
    let each = |number: u64| number as f64 / operations as f64;
    let mut lines: Vec<_> = counts.iter().map(|(call, number)| (*number, name(*call))).collect();
    lines.sort_by(|one, other| other.cmp(one));
    let mut table = format!("{:8.2} in all", each(counts.values().sum()));
    for (number, name) in lines {
        write!(table, "\n{:8.2} {name}", each(number)).unwrap();
    }
    table
}

macro_rules! names {
    ($($call:ident)*) => { &[$((libc::$call, stringify!($call))),*] };
}

const NAMES: &[(i64, &str)] = names!(
    SYS_accept4 SYS_bind SYS_brk SYS_clock_gettime SYS_clone SYS_clone3 SYS_close SYS_connect SYS_dup SYS_epoll_ctl
    SYS_epoll_pwait SYS_exit SYS_fcntl SYS_fdatasync SYS_fstat SYS_fstatfs SYS_fsync SYS_futex SYS_getdents64
    SYS_getpid SYS_getrandom SYS_getsockname SYS_getsockopt SYS_ioctl SYS_kill SYS_lseek SYS_madvise SYS_mmap
    SYS_mprotect SYS_munmap SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_ppoll
    SYS_pread64 SYS_pwrite64 SYS_read SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmsg SYS_rt_sigprocmask
    SYS_sched_yield SYS_sendmsg SYS_sendto SYS_setsockopt SYS_shutdown SYS_socket SYS_statx SYS_timerfd_settime
    SYS_write SYS_writev
);
/// Calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLDER_NAMES: &[(i64, &str)] = names!(SYS_epoll_wait SYS_open SYS_poll SYS_readlink SYS_stat);
#[cfg(not(target_arch = "x86_64"))]
const OLDER_NAMES: &[(i64, &str)] = &[];

fn name(call: i64) -> String {
    let known = NAMES.iter().chain(OLDER_NAMES).find(|(number, _)| *number == call);
    known.map_or_else(|| format!("number {call}"), |(_, name)| name.trim_start_matches("SYS_").to_owned())
}
