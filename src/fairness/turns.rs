//! Whose turn on the processor is next. The tasks of all principals run here, one turn each time; the principal that has
//! used the least processor time comes first, however many tasks it has.
//!
//! SECURITY: on the runtime's own queue a principal with a thousand ready tasks would have a thousand turns for one of
//! another's. Here it has as much time as the other, and the other waits for the end of one turn.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::evidence::Principal;
use crate::fairness::fair_queue::FairQueue;

/// How long turns follow one another before the runtime looks for events, the next connection among them, and how many.
const SLICE: Duration = Duration::from_micros(500);
const SLICE_TURNS: u32 = 64;

/// The tasks of all principals. Clones are the same.
#[derive(Clone, Default)]
pub struct Turns(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    ready: FairQueue<Arc<Task>>,
    tasks: HashMap<u64, Arc<Task>>,
    next: u64,
    /// The runners that wait for a task, by their numbers.
    idle: Vec<Option<Waker>>,
    runners: usize,
    /// The last runner has gone.
    closed: bool,
}

struct Task {
    shared: Weak<Shared>,
    number: u64,
    status: Mutex<Status>,
    future: Mutex<Option<BoxFuture<'static, ()>>>,
}

/// INVARIANT: a task is in a queue once, or in none; `queued` says that it is, or will be after its turn.
struct Status {
    principal: Principal,
    queued: bool,
    running: bool,
    /// Somebody wants it to end.
    cut: bool,
    ended: bool,
}

/// A task, for those who charge or end it. The default is one that has ended.
#[derive(Clone, Default)]
pub struct TaskHandle(Weak<Task>);

impl Turns {
    /// Adds the task that `task` makes, charged to `principal` at first.
    pub fn add<F>(&self, principal: Principal, task: impl FnOnce(TaskHandle) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut queues = self.0.queues();
        if queues.closed {
            return;
        }
        let number = queues.next;
        queues.next += 1;
        let added = Arc::new(Task {
            shared: Arc::downgrade(&self.0),
            number,
            status: Mutex::new(Status { principal, queued: false, running: false, cut: false, ended: false }),
            future: Mutex::new(None),
        });
        queues.ready.join(principal);
        queues.tasks.insert(number, Arc::clone(&added));
        drop(queues);
        let future = task(TaskHandle(Arc::downgrade(&added)));
        *added.future() = Some(Box::pin(future));
        added.wake();
    }

    /// Runs tasks on this thread until `stop` and the end of every task. Several may run at once. When the last one is
    /// dropped, the tasks are, too.
    pub async fn run(self, stop: CancellationToken) {
        let runner = Runner::new(Arc::clone(&self.0));
        let mut stopped = std::pin::pin!(stop.cancelled_owned());
        let mut stops = false;
        // The runtime's budget for one task would be that of all tasks here: each has its turn instead.
        tokio::task::unconstrained(poll_fn(|cx| {
            stops = stops || stopped.as_mut().poll(cx).is_ready();
            runner.poll_turns(cx, stops)
        }))
        .await;
    }

    /// How many tasks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.queues().tasks.len()
    }

    /// Whether there is no task.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("tasks", &self.len()).finish_non_exhaustive()
    }
}

impl TaskHandle {
    /// Charges the task to another principal from its next turn on.
    pub fn charge_to(&self, principal: Principal) {
        let Some(task) = self.0.upgrade() else { return };
        let Some(shared) = task.shared.upgrade() else { return };
        let mut status = task.status();
        if status.ended || status.principal == principal {
            return;
        }
        let before = std::mem::replace(&mut status.principal, principal);
        let mut queues = shared.queues();
        queues.ready.join(principal);
        queues.ready.leave(before);
        if status.queued && !status.running {
            queues.ready.remove(before, |ready| ready.number == task.number);
            queues.ready.push(principal, Arc::clone(&task));
        }
    }

    /// Ends the task: its future is dropped at once, or after the turn that it has on another thread.
    pub fn end(&self) {
        let Some(task) = self.0.upgrade() else { return };
        let Some(shared) = task.shared.upgrade() else { return };
        let mut status = task.status();
        if status.running {
            (status.cut, status.queued) = (true, true);
            return;
        }
        if std::mem::replace(&mut status.ended, true) {
            return;
        }
        let mut queues = shared.queues();
        queues.ready.remove(status.principal, |ready| ready.number == task.number);
        let idle = queues.remove(&task, status.principal);
        drop((queues, status));
        task.discard();
        idle.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskHandle(..)")
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Forgets a task that has ended. Returns the runners that may have waited for the end of the last one.
    fn remove(&mut self, task: &Task, principal: Principal) -> Vec<Waker> {
        self.tasks.remove(&task.number);
        self.ready.leave(principal);
        let was_last = self.tasks.is_empty();
        self.idle.iter_mut().filter_map(|idle| idle.take_if(|_| was_last)).collect()
    }
}

impl Task {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn future(&self) -> MutexGuard<'_, Option<BoxFuture<'static, ()>>> {
        self.future.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// RACE: a wake during the turn finds `running`; the end of the turn queues the task again.
    fn enqueue(self: &Arc<Self>, shared: &Shared) {
        let mut status = self.status();
        if status.ended || std::mem::replace(&mut status.queued, true) || status.running {
            return;
        }
        let mut queues = shared.queues();
        queues.ready.push(status.principal, Arc::clone(self));
        let waiting = queues.idle.iter_mut().find_map(Option::take);
        drop((queues, status));
        if let Some(runner) = waiting {
            runner.wake();
        }
    }

    /// One turn. Returns whether the task has ended.
    fn turn(self: &Arc<Self>) -> bool {
        let mut status = self.status();
        (status.queued, status.running) = (false, true);
        let is_cut = status.cut;
        drop(status);
        let mut future = self.future();
        let has_ended = match future.as_mut() {
            Some(running) if !is_cut => {
                let waker = Waker::from(Arc::clone(self));
                let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut Context::from_waker(&waker))));
                polled.map_or_else(|panic| report(&*panic), |polled| polled.is_ready())
            }
            _ => true,
        };
        drop(future);
        if has_ended {
            self.discard();
        }
        has_ended
    }

    /// Drops the future: what it holds is given back.
    fn discard(&self) {
        let ended = self.future().take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(ended))) {
            report(&*panic);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.shared.upgrade() {
            self.enqueue(&shared);
        }
    }
}

/// A panic ends its own task and nothing else.
fn report(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<&str>().copied();
    let what = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(what, "a connection's task panicked; this is a bug of the daemon");
    true
}

/// One thread that runs tasks.
struct Runner {
    shared: Arc<Shared>,
    number: usize,
}

impl Runner {
    fn new(shared: Arc<Shared>) -> Self {
        let mut queues = shared.queues();
        let number = queues.idle.len();
        queues.idle.push(None);
        queues.runners += 1;
        drop(queues);
        Self { shared, number }
    }

    /// Turns until no task is ready, or a slice is over. Ready when none is left and none will come.
    fn poll_turns(&self, cx: &mut Context<'_>, stops: bool) -> Poll<()> {
        let begin = Instant::now();
        let (mut before, mut turns) = (begin, 0);
        loop {
            let mut queues = self.shared.queues();
            let Some((principal, task)) = queues.ready.next() else {
                if stops && queues.tasks.is_empty() {
                    return Poll::Ready(());
                }
                if let Some(place) = queues.idle.get_mut(self.number) {
                    *place = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            drop(queues);
            let has_ended = task.turn();
            let now = Instant::now();
            self.end_turn(principal, &task, has_ended, now - before);
            (before, turns) = (now, turns + 1);
            if now - begin >= SLICE || turns >= SLICE_TURNS {
                // It wakes this task after the runtime has looked for events.
                let mut other_tasks_and_events = std::pin::pin!(tokio::task::yield_now());
                return other_tasks_and_events.as_mut().poll(cx);
            }
        }
    }

    fn end_turn(&self, principal: Principal, task: &Arc<Task>, has_ended: bool, time: Duration) {
        let mut status = task.status();
        status.running = false;
        status.ended |= has_ended;
        let mut queues = self.shared.queues();
        queues.ready.charge(principal, time);
        if has_ended {
            let idle = queues.remove(task, status.principal);
            drop((queues, status));
            idle.into_iter().for_each(Waker::wake);
        } else if status.queued {
            queues.ready.push(status.principal, Arc::clone(task));
        }
    }
}

impl Drop for Runner {
    /// The last runner takes the tasks with it: nothing would run them or drop them any more.
    fn drop(&mut self) {
        let mut queues = self.shared.queues();
        queues.runners -= 1;
        if let Some(place) = queues.idle.get_mut(self.number) {
            *place = None;
        }
        if queues.runners > 0 {
            return;
        }
        queues.closed = true;
        let tasks = std::mem::take(&mut queues.tasks);
        queues.ready = FairQueue::default();
        drop(queues);
        for task in tasks.into_values() {
            task.status().cut = true;
            task.turn();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    use futures_util::future::FutureExt as _;
    use futures_util::future::pending;
    use tokio::task::yield_now;

    use super::*;

    fn principal(uid: u32) -> Principal {
        Principal { uid, cgroup: 0 }
    }

    /// Runs what is ready, and no runtime's other tasks.
    fn run_ready(turns: &Turns) {
        let runner = Runner::new(Arc::clone(&turns.0));
        while runner.poll_turns(&mut Context::from_waker(Waker::noop()), false).is_pending()
            && !turns.0.queues().ready.is_empty()
        {}
        std::mem::forget(runner); // dropped, it would take the tasks along
    }

    fn done(turns: &Turns, principal: Principal, count: usize, order: &Arc<Mutex<Vec<u32>>>) {
        for _ in 0..count {
            let order = Arc::clone(order);
            turns.add(principal, |_| async move { order.lock().unwrap().push(principal.uid) });
        }
    }

    #[test]
    fn a_thousand_ready_tasks_of_one_principal_delay_another_by_one_turn() {
        let (turns, order) = (Turns::default(), Arc::default());
        done(&turns, principal(1), 1000, &order);
        done(&turns, principal(2), 2, &order);
        run_ready(&turns);
        let order = order.lock().unwrap();
        let of_the_other: Vec<_> = order.iter().enumerate().filter(|(_, uid)| **uid == 2).map(|(at, _)| at).collect();
        assert_eq!(order.len(), 1002);
        assert!(of_the_other[0] <= 1 && of_the_other[1] <= 3, "{of_the_other:?}");
    }

    #[tokio::test]
    async fn a_wake_during_a_turn_is_another_turn() {
        let (turns, stop) = (Turns::default(), CancellationToken::new());
        turns.add(principal(1), |_| async {
            for _ in 0..100 {
                yield_now().await;
                let mut woken = false;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut woken, true) { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
        });
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), turns.run(stop)).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_task_and_no_other() {
        let (turns, order, stop) = (Turns::default(), Arc::default(), CancellationToken::new());
        turns.add(principal(1), |_| async { panic!("a bug") });
        done(&turns, principal(1), 1, &order);
        stop.cancel();
        turns.clone().run(stop).await;
        assert_eq!((order.lock().unwrap().len(), turns.len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_run_goes_on_until_the_stop_and_the_end_of_every_task() {
        let (turns, stop) = (Turns::default(), CancellationToken::new());
        let run = tokio::spawn(turns.clone().run(stop.clone()));
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        turns.add(principal(1), |_| receive.map(drop));
        yield_now().await;
        stop.cancel();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!run.is_finished());
        send.send(()).unwrap();
        run.await.unwrap();
        assert!(turns.is_empty());
    }

    #[tokio::test]
    async fn a_task_that_is_ended_is_dropped_and_so_is_every_task_with_the_last_runner() {
        let (turns, alive) = (Turns::default(), Arc::new(()));
        let mut handles = Vec::new();
        for _ in 0..3 {
            let alive = Arc::clone(&alive);
            turns.add(principal(1), |handle| {
                handles.push(handle);
                async move {
                    let _alive = alive;
                    pending::<()>().await;
                }
            });
        }
        let mut run = Box::pin(turns.clone().run(CancellationToken::new()));
        let mut second = Box::pin(turns.clone().run(CancellationToken::new()));
        assert!((&mut run).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        assert_eq!(Arc::strong_count(&alive), 4);
        handles[0].end();
        assert_eq!(Arc::strong_count(&alive), 3);
        assert!((&mut run).now_or_never().is_none());
        drop(run);
        assert_eq!(Arc::strong_count(&alive), 3, "the other runner has them");
        drop(second);
        assert_eq!(Arc::strong_count(&alive), 1);
        turns.add(principal(1), |_| async move { drop(alive) });
        assert!(turns.is_empty(), "a task that nothing would run is not kept");
    }

    #[test]
    fn a_task_has_its_next_turn_as_one_of_the_principal_that_it_is_charged_to() {
        let (turns, order) = (Turns::default(), Arc::default());
        let mut moved = None;
        turns.add(principal(1), |handle| {
            moved = Some(handle);
            let order: Arc<Mutex<Vec<u32>>> = Arc::clone(&order);
            async move { order.lock().unwrap().push(9) }
        });
        done(&turns, principal(1), 1, &order);
        moved.unwrap().charge_to(principal(2));
        let ready = |uid| turns.0.queues().ready.ready_of(principal(uid));
        assert_eq!((ready(1), ready(2)), (1, 1));
        run_ready(&turns);
        assert_eq!(order.lock().unwrap().len(), 2);
        let members = |uid| turns.0.queues().ready.members_of(principal(uid));
        assert_eq!((members(1), members(2)), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn no_wake_is_lost_between_threads() {
        let (turns, stop, done) = (Turns::default(), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let runs: Vec<_> = (0..2).map(|_| tokio::spawn(turns.clone().run(stop.clone()))).collect();
        for number in 0..200_u32 {
            let (done, (send, mut receive)) = (Arc::clone(&done), tokio::sync::mpsc::channel::<u32>(1));
            turns.add(principal(number % 5), |handle| async move {
                while let Some(uid) = receive.recv().await {
                    handle.charge_to(principal(uid));
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
            tokio::spawn(async move {
                for uid in 0..50 {
                    send.send(uid % 7).await.unwrap();
                }
            });
        }
        stop.cancel();
        for run in runs {
            tokio::time::timeout(Duration::from_secs(60), run).await.unwrap().unwrap();
        }
        assert_eq!(done.load(Ordering::Relaxed), 200);
    }
}
