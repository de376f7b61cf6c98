//! The doors that are extras: health and metrics. One that cannot be bound degrades the node and costs no identity (SPEC:
//! product contract §7).

use std::net::SocketAddr;
use std::time::Duration;

use procfs::net::TcpState;
use procfs::process::FDTarget;
use procfs::process::Process;
use tokio::time::sleep;

use crate::agent::config::sections::doors::Listen;
use crate::endpoints::http::HttpListener;
use crate::endpoints::transport::listener::Listener;
use crate::readiness::Readiness;
use crate::readiness::Reason;
use crate::readiness::Severity;

/// How often a door that could not be bound is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The mode of the metrics socket: it tells nothing that a group of scrapers may not know.
pub(in crate::agent) const OWNER_AND_GROUP: u32 = 0o660;

/// A door that is bound, or that could not be bound yet.
pub(in crate::agent) struct ExtraDoor {
    name: &'static str,
    place: Listen,
    listener: Option<HttpListener>,
    /// Why it is not bound, as it was said last.
    said: String,
    reason: Reason,
}

impl ExtraDoor {
    /// Tries to bind a door.
    pub(in crate::agent) async fn open(name: &'static str, place: Listen, readiness: &Readiness) -> Self {
        let reason = readiness.register(name);
        let mut door = Self { name, place, listener: None, said: String::new(), reason };
        door.try_to_bind().await;
        door
    }

    /// The listener, as soon as the door can be bound.
    pub(in crate::agent) async fn bound(mut self) -> HttpListener {
        loop {
            if let Some(listener) = self.listener.take() {
                return listener;
            }
            sleep(TRY_AGAIN).await;
            self.try_to_bind().await;
        }
    }

    async fn try_to_bind(&mut self) {
        let why = match &self.place {
            Listen::Loopback(address) => match HttpListener::loopback(*address).await {
                Ok(listener) => return self.listener = Some(listener),
                Err(why) => why.to_string(),
            },
            Listen::Unix(path) => match Listener::bind(path, OWNER_AND_GROUP) {
                Ok(listener) => return self.listener = Some(HttpListener::Unix(listener)),
                Err(why) => why.to_string(),
            },
        };
        if self.said == why {
            return;
        }
        let holder = match self.place {
            Listen::Loopback(address) => holder(address).await.unwrap_or_default(),
            Listen::Unix(_) => String::new(),
        };
        let detail = format!(
            "the door for {} is closed: {} cannot be bound: {why}{holder}. Everything else works, and it is tried again \
             every {TRY_AGAIN:?}",
            self.name, self.place
        );
        tracing::warn!("{detail}");
        self.reason.block(Severity::Degraded, detail);
        self.said = why;
    }
}

/// Who listens on an address, as far as the kernel shows it: the process, or the user and how to find the process.
async fn holder(address: SocketAddr) -> Option<String> {
    let sockets = move || {
        let sockets = if address.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
        let is_here = |local: SocketAddr| {
            local.port() == address.port() && (local.ip() == address.ip() || local.ip().is_unspecified())
        };
        let mut listening = sockets.ok()?.into_iter().filter(|socket| socket.state == TcpState::Listen);
        listening.find(|socket| is_here(socket.local_address))
    };
    let look = move || sockets().map(|socket| (socket.uid, process_with(socket.inode)));
    let (uid, process) = tokio::task::spawn_blocking(look).await.ok()??;
    Some(match process {
        Some((pid, program)) => format!("; process {pid} ({program}), uid {uid}, listens there"),
        None => format!("; a process of uid {uid} listens there: sudo ss -ltnp 'sport = :{}'", address.port()),
    })
}

/// The process that holds a socket, among those whose descriptors the daemon may see.
fn process_with(socket: u64) -> Option<(i32, String)> {
    let holds = |process: &Process| {
        let mut descriptors = process.fd().ok()?.flatten();
        descriptors.find(|descriptor| descriptor.target == FDTarget::Socket(socket))
    };
    let process = procfs::process::all_processes().ok()?.flatten().find(|process| holds(process).is_some())?;
    Some((process.pid, process.stat().ok()?.comm))
}
