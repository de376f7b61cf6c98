//! The accept loop, one for all doors, which rests when the kernel cannot give a connection. [`serve`] adds what a door for
//! workloads needs: rates and budgets, a pinned process, its turns, a drain.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::endpoints::transport::acceptor::AcceptedConnection;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::acceptor::IncomingConnection;
use crate::endpoints::transport::writer_check::CheckedStream;
use crate::entitlement::door::Connection;
use crate::entitlement::door::Ended;
use crate::evidence::Principal;
use crate::evidence::Undecided;
use crate::fairness::Budgets;
use crate::fairness::OverBudget;
use crate::fairness::TaskHandle;
use crate::fairness::budgets::ConnectionCharge;
use crate::fairness::connects::Connects;

/// How long the loop rests when the kernel cannot give a connection: it never spins.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// So many connects are taken before anything else has its turn: faster than a process can connect, turns included.
const AT_ONCE: u32 = 256;

/// Accepts, and hands each connection to `admit`; rests when the kernel has no descriptor for one. Does nothing else, so
/// that the listen queue, which all users share, stays short. Runs until it is dropped.
pub(in crate::endpoints) async fn accept<A: Acceptor>(
    acceptor: &mut A,
    mut admit: impl FnMut(A::Incoming) -> Result<(), Undecided>,
) {
    let (mut failing, mut taken) = (false, 0);
    loop {
        let admitted = match acceptor.next().await {
            Ok(incoming) => admit(incoming).map_err(|why| why.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match admitted {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error, "connections cannot be accepted; LimitNOFILE= may be too low");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
        taken += 1;
        if taken % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// What is spoken on the connections of a door, and as what a process is admitted to it.
pub trait Protocol: Clone + Send + 'static {
    /// What an admitted process becomes.
    type Connection: Connection + ?Sized;

    /// Admits an accepted process, before a byte of it is read.
    ///
    /// # Errors
    /// [`Ended`]: the connection is closed without a byte.
    fn admit(&self, process: Arc<dyn Process>) -> Result<Arc<Self::Connection>, Ended>;

    /// Speaks on one connection until it ends.
    fn converse(self, admitted: AdmittedConnection<Self::Connection>) -> impl Future<Output = ()> + Send;
}

/// A connection that is charged to its principal.
pub struct AdmittedConnection<C: ?Sized> {
    /// Its bytes.
    pub stream: CheckedStream<C>,
    /// Who speaks on it.
    pub connection: Arc<C>,
    /// The accounts of the door.
    pub budgets: Budgets,
    /// The door stops: streams end, and what has not ended at the drain limit is cut.
    pub stop: CancellationToken,
}

/// Serves a door until `stop` and the end of every connection.
pub async fn serve<A>(mut acceptor: A, budgets: Budgets, stop: CancellationToken, protocol: impl Protocol)
where
    A: Acceptor<Incoming: IncomingConnection>,
{
    let turns = budgets.turns().clone().run(stop.clone());
    let accepting = async {
        let mut arrivals = Arrivals { connects: Connects::new(budgets.connect_rate()), budgets: budgets.clone() };
        let admit = |incoming| {
            if let Some(arrived) = arrivals.admit(incoming)? {
                let (budgets, stop, protocol) = (budgets.clone(), stop.clone(), protocol.clone());
                let turns = budgets.turns().clone();
                turns.add(arrived.principal, |task| converse(arrived, task, budgets, stop, protocol));
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = accept(&mut acceptor, admit) => {}
        }
        drop(acceptor); // the name goes first, so that no client connects any more
    };
    futures_util::future::join(accepting, turns).await;
}

/// What the accept loop knows of those who connect.
struct Arrivals {
    connects: Connects,
    budgets: Budgets,
}

/// A connection that is charged.
struct Arrived {
    accepted: AcceptedConnection,
    charge: ConnectionCharge,
    /// Whom it is charged to: the principal of another process with this uid in this cgroup, or the uid.
    principal: Principal,
    uid: u32,
    cgroup: Option<u64>,
}

/// Why a connection is closed without a byte.
#[derive(Debug, thiserror::Error)]
enum NotAdmitted {
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl Arrivals {
    /// Takes in a connection, or closes it.
    ///
    /// # Errors
    /// [`Undecided::OutOfDescriptors`]: the next one would have none either.
    fn admit(&mut self, incoming: impl IncomingConnection) -> Result<Option<Arrived>, Undecided> {
        let Ok(uid) = incoming.uid() else { return Ok(None) };
        match self.charge(uid, incoming) {
            Ok(arrived) => Ok(Some(arrived)),
            Err(NotAdmitted::Unanswered(Unanswered::Undecided(why @ Undecided::OutOfDescriptors))) => Err(why),
            Err(why) => {
                tracing::debug!(uid, %why, "connection refused");
                Ok(None)
            }
        }
    }

    /// SECURITY: the listen queue is shared by all users, so a connect beyond its rate costs a few system calls here. The
    /// process is pinned before the loop goes on: the longer that waits, the more can happen to its number where the kernel
    /// gives no better handle. Everything else is done in turns, those of root in a container apart from those of root.
    fn charge(&mut self, uid: u32, incoming: impl IncomingConnection) -> Result<Arrived, NotAdmitted> {
        let (rate, now) = (self.budgets.connect_rate(), Instant::now());
        if self.connects.rate() != rate {
            self.connects = Connects::new(rate);
        }
        let is_within = self.connects.admits(uid, now);
        if !is_within && self.budgets.is_alone(uid) && !self.connects.looks_at_one_more(now) {
            return Err(self.budgets.refuse_rate().into());
        }
        let accepted = incoming.identify()?;
        // A process that has exited is refused in its turn, with a record.
        let cgroup = accepted.process.pidfd_facts().ok().flatten().map(|facts| facts.cgroup);
        let known = cgroup.and_then(|cgroup| self.budgets.known_principal(uid, cgroup));
        if !is_within && !self.connects.admits_principal(known.map(|(principal, _)| principal), now) {
            return Err(self.budgets.refuse_rate().into());
        }
        let principal = known.filter(|(_, is_recent)| *is_recent).map_or(Principal::of_uid(uid), |(known, _)| known);
        let charge = self.budgets.connection(principal)?;
        Ok(Arrived { accepted, charge, principal, uid, cgroup })
    }
}

/// A connection's task. It is charged to its principal before a byte of it is read.
async fn converse<P: Protocol>(
    arrived: Arrived,
    task: TaskHandle,
    budgets: Budgets,
    stop: CancellationToken,
    protocol: P,
) {
    let Arrived { accepted, mut charge, principal: believed, uid, cgroup } = arrived;
    charge.ends(&task);
    let Ok(connection) = protocol.admit(accepted.process) else { return };
    let principal = connection.principal();
    if let Some(cgroup) = cgroup.filter(|_| principal != believed) {
        budgets.remember(uid, cgroup, principal);
    }
    if let Err(why) = charge.charge_to(principal, &task) {
        return tracing::debug!(?principal, %why, "connection refused");
    }
    let stream = CheckedStream::new(accepted.stream, Arc::clone(&connection));
    protocol.converse(AdmittedConnection { stream, connection, budgets, stop }).await;
    drop(charge);
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::sync::mpsc;

    use super::*;

    struct Numbers(mpsc::UnboundedReceiver<io::Result<u32>>);

    impl Acceptor for Numbers {
        type Incoming = u32;

        async fn next(&mut self) -> io::Result<u32> {
            match self.0.recv().await {
                Some(number) => number,
                None => std::future::pending().await,
            }
        }
    }

    /// Accepts for a second. Returns what was admitted, and how often the loop rested.
    async fn accepted(incoming: impl IntoIterator<Item = io::Result<u32>>) -> (Vec<u32>, u32) {
        let (send, receive) = mpsc::unbounded_channel();
        incoming.into_iter().for_each(|number| send.send(number).unwrap());
        let (mut admitted, mut rested, mut last) = (Vec::new(), 0, Instant::now());
        let admit = |number| {
            rested += u32::from(last.elapsed() >= ACCEPT_RETRY);
            last = Instant::now();
            admitted.push(number);
            if number == 13 { Err(Undecided::OutOfDescriptors) } else { Ok(()) }
        };
        let mut acceptor = Numbers(receive);
        let accepting = accept(&mut acceptor, admit);
        assert!(tokio::time::timeout(Duration::from_secs(1), accepting).await.is_err(), "it ends by itself");
        (admitted, rested)
    }

    #[tokio::test(start_paused = true)]
    async fn the_loop_rests_where_there_is_no_descriptor_for_a_connection_or_its_process() {
        let failed = || Err(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(accepted([Ok(1), Ok(2), Ok(3)]).await, (vec![1, 2, 3], 0));
        assert_eq!(accepted([Ok(1), failed(), Ok(2)]).await, (vec![1, 2], 1));
        assert_eq!(accepted([Ok(1), Ok(13), Ok(2), Ok(13), Ok(3)]).await, (vec![1, 13, 2, 13, 3], 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_queue_of_connects_leaves_a_turn_to_others() {
        let others = std::cell::Cell::new(0);
        let (send, receive) = mpsc::unbounded_channel();
        (0..1000).for_each(|number| send.send(Ok(number)).unwrap());
        let (mut acceptor, mut seen) = (Numbers(receive), Vec::new());
        let admit = |_| {
            seen.push(others.get());
            Ok(())
        };
        let others_turns = async {
            for turn in 1..=100 {
                others.set(turn);
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = accept(&mut acceptor, admit) => {}
            () = others_turns => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        assert_eq!(seen.len(), 1000);
        assert!(seen.last().unwrap() >= &3, "{:?}", seen.last());
    }
}
