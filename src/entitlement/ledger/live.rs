//! Every open stream: what it holds, by which decision, and how to wake it. Read by status, metrics and reload; written
//! by the streams themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::attestation::PinId;
use crate::authority::KeyId;
use crate::entitlement::liveness::CheckedProcess;
use crate::identity::SpiffeId;
use crate::policy::Trace;

/// How many streams are woken at once. Each decides again, and whoever connects meanwhile waits for these alone.
const WOKEN_AT_ONCE: usize = 16;

/// What one open stream looks like from outside.
#[derive(Debug, Clone)]
pub struct LiveStream {
    /// What its last decision was made on; `None` before the first.
    pub trace: Option<Arc<Trace>>,
    /// Whom it is about.
    pub(in crate::entitlement) process: Arc<CheckedProcess>,
    /// The identities it serves.
    pub identities: Vec<LiveSvid>,
    /// How many renewals in a row have failed.
    pub failures: u32,
    wake: Arc<Notify>,
}

/// One identity that a stream serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSvid {
    /// Whose.
    pub id: SpiffeId,
    /// The serial number.
    pub serial: String,
    /// The key of the authority that signed it.
    pub signed_by: Option<KeyId>,
    /// When it ends.
    pub not_after: SystemTime,
    /// When it is to be renewed.
    pub renew_at: SystemTime,
}

/// The open streams.
#[derive(Debug, Default)]
pub struct Live {
    streams: Mutex<BTreeMap<u64, LiveStream>>,
    next: AtomicU64,
}

impl Live {
    /// Adds a stream, which stays until the registration is dropped.
    #[must_use]
    pub(in crate::entitlement) fn register(self: &Arc<Self>, process: Arc<CheckedProcess>) -> StreamHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let wake = Arc::new(Notify::new());
        let stream = LiveStream { trace: None, process, identities: Vec::new(), failures: 0, wake: Arc::clone(&wake) };
        self.locked().insert(number, stream);
        StreamHandle { live: Arc::clone(self), number, wake }
    }

    /// Wakes every stream that `concerned` says is concerned, a few at a time, and says how many they are. Whoever holds
    /// nothing comes first, then whoever holds what ends first (SPEC: product contract §6, "in order of need").
    ///
    /// To find out may take long. It is asked of a copy, so that streams come and go meanwhile.
    pub fn wake(&self, mut concerned: impl FnMut(&LiveStream) -> bool) -> usize {
        let mut concerned: Vec<_> = self.snapshot().into_iter().filter(|stream| concerned(stream)).collect();
        concerned.sort_by_key(|stream| stream.identities.iter().map(|identity| identity.not_after).min());
        let woken: Vec<_> = concerned.into_iter().map(|stream| stream.wake).collect();
        let count = woken.len();
        match Handle::try_current() {
            Ok(runtime) if count > WOKEN_AT_ONCE => drop(runtime.spawn(wake_in_groups(woken))),
            _ => woken.iter().for_each(|stream| stream.notify_one()),
        }
        count
    }

    /// The open streams, in the order of their opening.
    #[must_use]
    pub fn snapshot(&self) -> Vec<LiveStream> {
        self.locked().values().cloned().collect()
    }

    /// Whether some stream of this process image serves `id` as its default identity.
    #[must_use]
    pub fn is_default(&self, process: PinId, id: &SpiffeId) -> bool {
        self.locked().values().any(|stream| {
            stream.process.pinned.id() == process && stream.identities.first().is_some_and(|default| default.id == *id)
        })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, LiveStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every other task that could go on does so between two groups.
async fn wake_in_groups(streams: Vec<Arc<Notify>>) {
    for group in streams.chunks(WOKEN_AT_ONCE) {
        group.iter().for_each(|stream| stream.notify_one());
        yield_now().await;
    }
}

/// A stream's own place among the open streams.
#[derive(Debug)]
pub struct StreamHandle {
    live: Arc<Live>,
    number: u64,
    wake: Arc<Notify>,
}

impl StreamHandle {
    /// Notes a decision of the stream.
    pub fn decided_on(&self, trace: Arc<Trace>) {
        if let Some(stream) = self.live.locked().get_mut(&self.number) {
            stream.trace = Some(trace);
        }
    }

    /// Writes down what the stream serves.
    pub fn serves(&self, identities: Vec<LiveSvid>, failures: u32) {
        if let Some(stream) = self.live.locked().get_mut(&self.number) {
            stream.identities = identities;
            stream.failures = failures;
        }
    }

    /// Waits to be woken. A wake-up that came before is not lost.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.live.locked().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::task::yield_now;

    use super::*;
    use crate::attestation::PinnedProcess;
    use crate::evidence::Principal;

    const STREAMS: usize = 100;

    fn example() -> Arc<CheckedProcess> {
        Arc::new(CheckedProcess::new(PinnedProcess::example(Principal { uid: 1000, cgroup: 7 })))
    }

    #[tokio::test]
    async fn whoever_holds_nothing_wakes_first_and_then_whoever_holds_what_ends_first() {
        let (live, order) = (Arc::new(Live::default()), Arc::new(Mutex::new(Vec::new())));
        let ends = |number: u64| (number * 37 % 100).checked_sub(20); // as good as random, and for some no SVID
        let streams: Vec<_> = (0..STREAMS as u64)
            .map(|number| {
                let (stream, order) = (live.register(example()), Arc::clone(&order));
                let svid = ends(number).map(|end| LiveSvid {
                    id: "spiffe://example.org/web".parse().unwrap(),
                    serial: number.to_string(),
                    signed_by: None,
                    not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(end),
                    renew_at: SystemTime::UNIX_EPOCH,
                });
                stream.serves(svid.into_iter().collect(), 0);
                tokio::spawn(async move {
                    stream.woken().await;
                    order.lock().unwrap().push(ends(number));
                })
            })
            .collect();
        yield_now().await;
        live.wake(|_| true);
        join_all(streams).await;
        assert!(order.lock().unwrap().is_sorted(), "{order:?}");
    }

    #[tokio::test]
    async fn all_streams_wake_and_another_task_runs_before_the_last_of_them() {
        let live = Arc::new(Live::default());
        let awake = Arc::new(AtomicUsize::new(0));
        let streams: Vec<_> = (0..STREAMS)
            .map(|_| {
                let (stream, awake) = (live.register(example()), Arc::clone(&awake));
                tokio::spawn(async move {
                    stream.woken().await;
                    awake.fetch_add(1, Ordering::Relaxed)
                })
            })
            .collect();
        yield_now().await;
        assert_eq!(live.wake(|_| true), STREAMS);
        let other = Arc::clone(&awake);
        let awake_before_it = tokio::spawn(async move { other.load(Ordering::Relaxed) }).await.unwrap();
        assert!(awake_before_it <= WOKEN_AT_ONCE, "{awake_before_it}");
        join_all(streams).await;
        assert_eq!(awake.load(Ordering::Relaxed), STREAMS);
    }
}
