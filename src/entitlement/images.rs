//! The process images that have a connection, or had one within the last minute. All connections of an image share one
//! handle of the process, one liveness check and one SVID per entry (SPEC: product contract §6).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::attestation::PinId;
use crate::attestation::PinnedProcess;
use crate::entitlement::liveness::CheckedProcess;
use crate::evidence::Principal;
use crate::issuance::EntriesInForce;

/// How long an image is kept after its last connection: a client that reconnects gets the SVID that it had.
const KEPT: Duration = Duration::from_secs(60);
/// An image holds two descriptors. For each so many that the daemon may open, one image is kept that has no connection.
const DESCRIPTORS_PER_IDLE: u64 = 40;
/// One principal has at most this share of the images that are kept without a connection.
const SHARE_OF_ONE: usize = 8;

/// The process images.
///
/// INVARIANT: at most one per live image, so that no image has two keys for one entry. Two connections that come at once
/// find each other, because the lock is held over the comparison, which takes some microseconds.
#[derive(Debug)]
pub(in crate::entitlement) struct Images {
    kept: Mutex<Kept>,
    most_idle: usize,
}

#[derive(Debug, Default)]
struct Kept {
    by_pid: HashMap<u32, Vec<Image>>,
    /// Those without a connection, the longest idle first.
    idle: BTreeMap<(Instant, PinId), (u32, Principal)>,
}

#[derive(Debug)]
struct Image {
    process: Arc<CheckedProcess>,
    connections: usize,
    /// Since when it has no connection.
    idle_since: Option<Instant>,
}

/// A connection's hold on its image.
#[derive(Debug)]
pub(in crate::entitlement) struct HeldImage {
    images: Arc<Images>,
    process: Arc<CheckedProcess>,
}

impl Images {
    /// Keeps as many images without a connection as this number of descriptors allows.
    pub(in crate::entitlement) fn for_descriptors(descriptors: u64) -> Self {
        let most_idle = usize::try_from(descriptors / DESCRIPTORS_PER_IDLE).unwrap_or(usize::MAX);
        Self { kept: Mutex::default(), most_idle }
    }

    /// The image that this process is of, which may be known already.
    pub(in crate::entitlement) fn of(self: &Arc<Self>, pinned: PinnedProcess) -> HeldImage {
        let pid = pinned.process().peer().pid;
        let mut kept = self.kept();
        let Kept { by_pid, idle } = &mut *kept;
        let known = by_pid.entry(pid).or_default();
        let process = match known.iter_mut().find(|image| image.process.pinned.is_pinned_again(&pinned)) {
            Some(image) => {
                image.connections += 1;
                if let Some(since) = image.idle_since.take() {
                    idle.remove(&(since, image.process.pinned.id()));
                }
                Arc::clone(&image.process)
            }
            None => {
                // What had this number and has no connection was an earlier image of this process, or of one that exited.
                known.retain(|image| match image.idle_since {
                    Some(since) => idle.remove(&(since, image.process.pinned.id())).is_none(),
                    None => true,
                });
                let process = Arc::new(CheckedProcess::new(pinned));
                known.push(Image { process: Arc::clone(&process), connections: 1, idle_since: None });
                process
            }
        };
        drop(kept);
        HeldImage { images: Arc::clone(self), process }
    }

    /// The handle that the connections of this image share, with all that was proven of it; else this one.
    pub(in crate::entitlement) fn shared(&self, pinned: PinnedProcess) -> PinnedProcess {
        let kept = self.kept();
        let mut known = kept.by_pid.get(&pinned.process().peer().pid).into_iter().flatten();
        let shared = known.find(|image| image.process.pinned.is_pinned_again(&pinned));
        shared.map_or(pinned, |image| image.process.pinned.clone())
    }

    /// Drops the SVIDs of other entries.
    pub(in crate::entitlement) fn retain(&self, in_force: &EntriesInForce) {
        self.processes().iter().for_each(|process| process.svids.retain(in_force));
    }

    /// Drops the images that had no connection for a minute or run no more, and SVIDs that have ended.
    pub(in crate::entitlement) fn sweep(&self, now: SystemTime) {
        for process in self.processes() {
            process.svids.drop_ended(now);
            let (id, pid) = (process.pinned.id(), process.pinned.process().peer().pid);
            let Some(since) = self.kept().image(pid, id).and_then(|image| image.idle_since) else { continue };
            // RACE: the kernel is asked without the lock, for every accept waits for that. Whoever connects meanwhile ends
            // the time without a connection, and then nothing is dropped.
            if since.elapsed() >= KEPT || process.pinned.is_same_image().is_err() {
                self.kept().drop_idle(since, id, pid);
            }
        }
    }

    fn processes(&self) -> Vec<Arc<CheckedProcess>> {
        self.kept().by_pid.values().flatten().map(|image| Arc::clone(&image.process)).collect()
    }

    /// One connection of an image less. What runs no more, or exceeds a limit, is not kept.
    fn leave(&self, process: &CheckedProcess) {
        let (id, pid) = (process.pinned.id(), process.pinned.process().peer().pid);
        let (principal, now) = (process.pinned.principal(), Instant::now());
        // The kernel is asked without the lock, for every accept waits for that, and only about the last connection. Where
        // another one turns out to be the last, the sweep asks.
        let is_last = self.kept().image(pid, id).is_some_and(|image| image.connections == 1);
        let runs = !is_last || process.pinned.is_same_image().is_ok();
        let mut kept = self.kept();
        let Some(image) = kept.image(pid, id) else { return };
        image.connections = image.connections.saturating_sub(1);
        if image.connections > 0 {
            return;
        }
        image.idle_since = Some(now);
        kept.idle.insert((now, id), (pid, principal));
        if !runs {
            return kept.drop_idle(now, id, pid);
        }
        let of_it = |kept: &Kept| kept.idle.values().filter(|(_, of)| *of == principal).count();
        let too_many = of_it(&kept) > (self.most_idle / SHARE_OF_ONE).max(1);
        let excess = kept.idle.iter().find(|(_, (_, of))| !too_many || *of == principal);
        if let Some((&(since, id), &(pid, _))) = excess
            && (too_many || kept.idle.len() > self.most_idle)
        {
            kept.drop_idle(since, id, pid);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn image(&mut self, pid: u32, id: PinId) -> Option<&mut Image> {
        self.by_pid.get_mut(&pid)?.iter_mut().find(|image| image.process.pinned.id() == id)
    }

    /// Drops an image that has had no connection since then.
    fn drop_idle(&mut self, since: Instant, id: PinId, pid: u32) {
        if self.idle.remove(&(since, id)).is_none() {
            return; // it has one again
        }
        if let Some(known) = self.by_pid.get_mut(&pid) {
            known.retain(|image| image.process.pinned.id() != id);
            if known.is_empty() {
                self.by_pid.remove(&pid);
            }
        }
    }
}

impl HeldImage {
    /// The process, for who keeps this hold meanwhile.
    pub(in crate::entitlement) fn process(&self) -> &Arc<CheckedProcess> {
        &self.process
    }
}

impl Deref for HeldImage {
    type Target = CheckedProcess;

    fn deref(&self) -> &CheckedProcess {
        &self.process
    }
}

impl Drop for HeldImage {
    fn drop(&mut self) {
        self.images.leave(&self.process);
    }
}
