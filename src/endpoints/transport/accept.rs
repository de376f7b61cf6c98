//! The accept loop, one for all doors: each connection gets a task of its own, the loop rests when the kernel cannot give
//! one, and a panic is reported. [`serve`] adds what a door for workloads needs: budgets, a pinned process, a drain.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::attestation::kernel::Process;
use crate::endpoints::transport::acceptor::AcceptedConnection;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::acceptor::IncomingConnection;
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::budgets::ConnectionCharge;
use crate::endpoints::transport::writer_check::CheckedStream;
use crate::entitlement::door::Connection;
use crate::entitlement::door::Ended;

/// How long the loop rests when the kernel cannot give a connection: it never spins.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Accepts, and runs in `running` what `admit` makes of each connection, at most `at_most` at once. Runs until it is
/// dropped; the connections in `running` outlive it.
pub(in crate::endpoints) async fn accept<A, C>(
    acceptor: &mut A,
    running: &mut JoinSet<()>,
    at_most: usize,
    admit: impl Fn(A::Incoming) -> Option<C>,
) where
    A: Acceptor,
    C: Future<Output = ()> + Send + 'static,
{
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            Some(ended) = running.join_next() => report(ended),
            arrived = acceptor.next(), if running.len() < at_most => match arrived {
                Ok(incoming) => {
                    failing = false;
                    if let Some(connection) = admit(incoming) {
                        running.spawn(connection);
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "connections cannot be accepted; LimitNOFILE= may be too low");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
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
    let mut running = JoinSet::new();
    let admit = |incoming| {
        let (accepted, charge) = admit(incoming, &budgets)?;
        Some(converse(accepted, charge, budgets.clone(), stop.clone(), protocol.clone()))
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accept(&mut acceptor, &mut running, usize::MAX, admit) => {}
    }
    drop(acceptor); // the name goes first, so that no client connects any more
    while let Some(ended) = running.join_next().await {
        report(ended);
    }
}

/// SECURITY: the listen queue is shared by all users, so a user without budget costs one system call here. The process is
/// pinned before the loop goes on: the longer that waits, the more can happen to its number where the kernel gives no
/// better handle. Everything else is the connection's own task.
fn admit(incoming: impl IncomingConnection, budgets: &Budgets) -> Option<(AcceptedConnection, ConnectionCharge)> {
    let uid = incoming.uid().ok()?;
    let refused = |why: &dyn fmt::Display| tracing::debug!(uid, %why, "connection refused");
    let charge = budgets.connection(uid).inspect_err(|why| refused(why)).ok()?;
    let accepted = incoming.identify().inspect_err(|why| refused(why)).ok()?;
    Some((accepted, charge))
}

async fn converse<P: Protocol>(
    accepted: AcceptedConnection,
    mut charge: ConnectionCharge,
    budgets: Budgets,
    stop: CancellationToken,
    protocol: P,
) {
    let Ok(connection) = protocol.admit(accepted.process) else { return };
    let principal = connection.principal();
    if let Err(why) = charge.charge_to(principal) {
        return tracing::debug!(?principal, %why, "connection refused");
    }
    let stream = CheckedStream::new(accepted.stream, Arc::clone(&connection));
    protocol.converse(AdmittedConnection { stream, connection, budgets, stop }).await;
    drop(charge);
}

/// A panic ends its own connection and nothing else.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        tracing::error!(what = panic_text(&*panic), "a connection's task panicked; this is a bug of the daemon");
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::sync::Semaphore;
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

    /// Accepts for a second. Returns how many connections were admitted, and how many still run.
    async fn accepted(
        incoming: impl IntoIterator<Item = io::Result<u32>>,
        at_most: usize,
        may_end: usize,
    ) -> (usize, usize) {
        let (send, receive) = mpsc::unbounded_channel();
        incoming.into_iter().for_each(|number| send.send(number).unwrap());
        let (may_end, admitted) = (Arc::new(Semaphore::new(may_end)), std::cell::Cell::new(0));
        let mut running = JoinSet::new();
        let admit = |number| {
            admitted.set(admitted.get() + 1);
            let may_end = Arc::clone(&may_end);
            Some(async move {
                assert_ne!(number, 13, "a bug");
                may_end.acquire().await.unwrap().forget();
            })
        };
        let mut acceptor = Numbers(receive);
        let accepting = accept(&mut acceptor, &mut running, at_most, admit);
        assert!(tokio::time::timeout(Duration::from_secs(1), accepting).await.is_err(), "it ends by itself");
        (admitted.get(), running.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_over_the_limit_waits_until_another_ends() {
        assert_eq!(accepted((0..5).map(Ok), 2, 0).await, (2, 2));
        assert_eq!(accepted((0..5).map(Ok), 2, 1).await, (3, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_a_failed_accept_end_no_other_connection() {
        let failed = || Err(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(accepted([Ok(1), Ok(13), failed(), Ok(2)], 9, 0).await, (3, 2));
    }
}
