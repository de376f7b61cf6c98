//! What a hostile client does: each flood in a process of its own, against the daemon of this benchmark alone. A flood
//! ends with its standard input, and at the latest after a minute.

mod connecting;
mod held;
mod local_http;
mod processes;
mod requests;
mod streams;
mod unfinished;

use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::Load;
pub(crate) use crate::floods::local_http::probe;
use crate::http2;

const LONGEST_LIFE: Duration = Duration::from_secs(60);

/// A flood by a process without an entry, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flood {
    /// The yardstick: a process that computes, and asks nothing
    Spin,
    /// Connects and closes
    ConnectAndClose,
    /// Connects and sends nothing, 9,000 times
    HalfOpen,
    /// Connects and sends HTTP/2's preface alone, 9,000 times
    PrefaceAlone,
    /// A hundred requests on each of 164 connections, without the last byte of each
    WithoutTheLastByte,
    /// A hundred requests at once on each of a hundred connections
    HundredRequests,
    /// Fifty connections that have tokens without `kid` validated
    TokensWithoutKid,
    /// Two connections of a process with 8,000 threads
    Threads,
    /// 9,000 streams of a process with an entry, which reads none
    Streams,
    /// A thousand connections with a health Watch each
    Watches,
    /// Refusals of processes with 9,000 supplementary groups
    Groups,
    /// Requests for `/ready` that do not end; the victim asks for it
    Ready,
    /// Requests that are reset at once
    RapidReset,
}

impl Flood {
    pub(crate) const ALL: [Self; 13] = [
        Self::Spin,
        Self::ConnectAndClose,
        Self::HalfOpen,
        Self::PrefaceAlone,
        Self::WithoutTheLastByte,
        Self::HundredRequests,
        Self::TokensWithoutKid,
        Self::Threads,
        Self::Streams,
        Self::Watches,
        Self::Groups,
        Self::Ready,
        Self::RapidReset,
    ];

    pub(crate) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).expect("no flood is hidden").get_name().to_owned()
    }

    /// The number of supplementary groups of its process.
    pub(crate) fn groups(self) -> u32 {
        if self == Self::Groups { 9_000 } else { 0 }
    }

    /// Does it, until the process is killed.
    pub(crate) async fn run(self, socket: &Path, load: &Load) -> ! {
        let site = Site { socket: socket.to_owned(), ready: load.ready };
        std::thread::spawn(end_with_the_input);
        if self == Self::Threads {
            processes::start_threads(load.threads);
        }
        println!("begun");
        match self {
            Self::Spin => processes::spin(),
            Self::ConnectAndClose => connecting::connect_and_close(&site),
            Self::HalfOpen => held::hold(&site, 9_000, &[], 1),
            Self::PrefaceAlone => held::hold(&site, 9_000, http2::PREFACE, 1),
            Self::WithoutTheLastByte => unfinished::withhold(&site).await,
            Self::HundredRequests => requests::hammer(&site, 100, &requests::svid),
            Self::TokensWithoutKid => requests::hammer(&site, 50, &requests::token_without_kid),
            Self::Threads => requests::hammer(&site, 2, &requests::svid),
            Self::Streams => held::hold(&site, 90, &streams::hundred_streams(), streams::AT_ONCE.into()),
            Self::Watches => held::hold(&site, 1_000, &streams::watch(), 1),
            Self::Groups => processes::be_refused_and_start_again(&site),
            Self::Ready => local_http::hold(&site),
            Self::RapidReset => requests::reset_rapidly(&site),
        }
    }
}

/// What is flooded.
struct Site {
    socket: PathBuf,
    ready: Option<SocketAddr>,
}

static DONE: AtomicU64 = AtomicU64::new(0);

/// Counts what a flood does: connections or requests.
fn count(done: u64) {
    DONE.fetch_add(done, Ordering::Relaxed);
}

fn end_with_the_input() {
    std::thread::spawn(|| {
        std::thread::sleep(LONGEST_LIFE);
        nix::sys::signal::raise(Signal::SIGKILL)
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let _ = writeln!(std::io::stdout(), "{}", DONE.load(Ordering::Relaxed));
    let _ = nix::sys::signal::raise(Signal::SIGKILL);
}
