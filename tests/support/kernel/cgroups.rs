//! The cgroups of a machine, and how their paths look from where the daemon is.

use std::fmt::Write as _;

use crate::kernel::process::Running;

/// The hierarchies of cgroup v1, as a machine has them that mounts some of both versions.
const V1: [&str; 9] = ["name=systemd", "pids", "blkio", "freezer", "devices", "memory", "cpuset", "cpuacct", "cpu"];

/// The unified hierarchy, and the root of the daemon's cgroup namespace in it.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// Groups by id, which are given out in the order in which they are first asked for.
    known: Vec<String>,
    /// Names on the way to the root of the daemon's namespace: none where it is the host's.
    start: Vec<String>,
}

impl Cgroups {
    pub(super) fn seen_from(cgroup: &str) -> Self {
        Self { known: Vec::new(), start: names(cgroup).map(str::to_owned).collect() }
    }

    pub(super) fn id(&mut self, path: &str) -> u64 {
        let known = self.known.iter().position(|known| known == path);
        let at = known.unwrap_or_else(|| {
            self.known.push(path.to_owned());
            self.known.len() - 1
        });
        100 + at as u64
    }

    /// `/proc/PID/cgroup` as the daemon reads it. In the hierarchies of cgroup v1 the daemon is at the root.
    pub(super) fn lines(&self, process: &Running) -> String {
        let mut lines = String::new();
        if let Some(path) = &process.v1_cgroup {
            for (number, hierarchy) in (1..=V1.len()).rev().zip(V1) {
                writeln!(lines, "{number}:{hierarchy}:{path}").unwrap();
            }
        }
        writeln!(lines, "0::{}", self.shown(&process.cgroup)).unwrap();
        lines
    }

    /// SPEC: cgroup_namespaces(7): a path is shown from the root of the reader's namespace, with `..` for what is not below
    /// it.
    fn shown(&self, path: &str) -> String {
        let path: Vec<&str> = names(path).collect();
        let common = self.start.iter().zip(&path).take_while(|(start, name)| start == *name).count();
        let up = std::iter::repeat_n("..", self.start.len() - common);
        let shown: Vec<&str> = up.chain(path[common..].iter().copied()).collect();
        format!("/{}", shown.join("/"))
    }

    /// What the daemon makes of a path: it counts from a namespace of the daemon's own only where it leads to the group
    /// with the id that the kernel gives for the caller.
    pub(super) fn anchored(&mut self, shown: &str, id: Option<u64>) -> Option<String> {
        let path = self.absolute(shown)?;
        let proven = self.start.is_empty() || id == Some(self.id(&path));
        proven.then_some(path)
    }

    /// The group that root's part of the hierarchy ends with on the way to this one; here all groups are root's.
    pub(super) fn charged(&mut self, shown: &str) -> u64 {
        self.absolute(shown).map_or(0, |path| self.id(&path))
    }

    fn absolute(&self, shown: &str) -> Option<String> {
        if self.start.is_empty() {
            return Some(shown.to_owned());
        }
        let mut path: Vec<&str> = self.start.iter().map(String::as_str).collect();
        for name in names(shown) {
            match name {
                ".." => drop(path.pop()?),
                name => path.push(name),
            }
        }
        Some(format!("/{}", path.join("/")))
    }
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}
