//! The processor time and the memory of a process, from `/proc`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A process that is measured.
pub(crate) struct Meter {
    directory: PathBuf,
}

impl Meter {
    pub(crate) fn of(pid: u32) -> Self {
        Self { directory: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// The processor time of all live threads in nanoseconds (SPEC: proc_pid_schedstat(5), first field); the ticks of
    /// `stat` are too coarse. The time of a thread that ends is lost, so the callers measure short spans of steady
    /// load.
    pub(crate) fn processor_time(&self) -> Duration {
        let threads = fs::read_dir(self.directory.join("task")).expect("the measured process is gone");
        let nanos = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> f64 {
        self.memory("VmRSS:").expect("the measured process is gone")
    }

    /// The most resident memory in KiB that there was, or `None` if the process is gone.
    pub(crate) fn peak_kib(&self) -> Option<f64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, which: &str) -> Option<f64> {
        let status = fs::read_to_string(self.directory.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(which))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }
}
