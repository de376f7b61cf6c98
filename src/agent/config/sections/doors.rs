//! `[workload_api]`, `[admin]`, `[health]`, `[metrics]`: where the daemon listens. Never over a network, and never on an
//! abstract socket, which has no permissions.

use core::fmt;
use core::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::agent::config::accounts::AccountNames;
use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::reader::Text;
use crate::agent::config::sections::authority::is_plain_absolute;
use crate::evidence::AccountName;

/// The most bytes that the name of a Unix socket may have (SPEC: unix(7), `sun_path` with its final zero).
const MAX_SOCKET_NAME: usize = 107;

/// The workload socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    /// Its name.
    pub socket: PathBuf,
    /// Its mode bits: who may connect.
    pub mode: u32,
}

/// The admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its name.
    pub socket: PathBuf,
    /// The group that may use it beside root and the daemon's own user.
    pub group: Option<Arc<str>>,
}

/// Where metrics are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A loopback address and port.
    Loopback(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

pub(in crate::agent::config) fn workload_api(top: &mut Reader<'_, '_>) -> WorkloadApi {
    let mut table = top.table("workload_api", "[workload_api]");
    let socket = socket(&mut table, "/run/bonafide/workload.sock");
    let mode = table.string("mode").and_then(|text| {
        let mode = u32::from_str_radix(text.value, 8).ok().filter(|mode| mode & 0o600 == 0o600 && mode & !0o777 == 0);
        if mode.is_none() {
            let advice = "write an octal mode with read and write for the owner, for example \"0666\" or \"0660\"";
            table.problem(text.span.start, format!("mode is {}; {advice}", shown(text.value)));
        }
        mode
    });
    table.finish();
    WorkloadApi { socket, mode: mode.unwrap_or(0o666) }
}

pub(in crate::agent::config) fn admin(top: &mut Reader<'_, '_>, names: &mut AccountNames) -> Admin {
    let mut table = top.table("admin", "[admin]");
    let socket = socket(&mut table, "/run/bonafide-admin/admin.sock");
    let group = table.string("group").map(|text| {
        let group: Arc<str> = text.value.into();
        names.note(AccountName::Group(group.clone()), table.place_at(text.span.start));
        group
    });
    table.finish();
    Admin { socket, group }
}

pub(in crate::agent::config) fn health(top: &mut Reader<'_, '_>) -> Option<SocketAddr> {
    let mut table = top.table("health", "[health]");
    let address = required(&mut table, "listen").and_then(|text| loopback(&mut table, &text));
    table.finish();
    address
}

pub(in crate::agent::config) fn metrics(top: &mut Reader<'_, '_>) -> Option<Listen> {
    let mut table = top.table("metrics", "[metrics]");
    let listen = required(&mut table, "listen").and_then(|text| match text.value.strip_prefix("unix:") {
        Some(path) => socket_name(&mut table, "listen", &text, path).map(Listen::Unix),
        None => loopback(&mut table, &text).map(Listen::Loopback),
    });
    table.finish();
    listen
}

fn socket(table: &mut Reader<'_, '_>, default: &str) -> PathBuf {
    let found = table.string("socket").and_then(|text| socket_name(table, "socket", &text, text.value));
    found.unwrap_or_else(|| default.into())
}

fn required<'a>(table: &mut Reader<'a, '_>, key: &'static str) -> Option<Text<'a>> {
    if table.is_present() && table.place_of_key(key).is_none() {
        table.problem(table.place(), format!("this table has no {key}; write where to listen, or remove the table"));
    }
    table.string(key)
}

fn socket_name(table: &mut Reader<'_, '_>, key: &str, text: &Text<'_>, path: &str) -> Option<PathBuf> {
    let advice = if path.starts_with('@') || path.starts_with('\0') {
        "an abstract socket has no permissions; write an absolute path"
    } else if path.contains("://") {
        "it is the path of a Unix socket, and a network has no callers to attest; write an absolute path"
    } else if path.len() > MAX_SOCKET_NAME {
        "the kernel takes at most 107 bytes; write a shorter path"
    } else if !is_plain_absolute(path) || path.ends_with('/') {
        "write an absolute path without \"..\", for example \"/run/bonafide/workload.sock\""
    } else {
        return Some(path.into());
    };
    table.problem(text.span.start, format!("{key} is {}; {advice}", shown(text.value)));
    None
}

fn loopback(table: &mut Reader<'_, '_>, text: &Text<'_>) -> Option<SocketAddr> {
    let address = text.value.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
    if address.is_none() {
        let advice = "write a loopback address with its port, for example \"127.0.0.1:8090\"";
        table.problem(text.span.start, format!("listen is {}; {advice}", shown(text.value)));
    }
    address
}
