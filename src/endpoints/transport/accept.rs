//! The accept loop of one door: whoever is over budget is refused by its uid alone, everyone else gets a task of its own,
//! and when the daemon stops every task is waited for.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::endpoints::transport::acceptor::AcceptedConnection;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::acceptor::IncomingConnection;
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::budgets::ConnectionCharge;
use crate::endpoints::transport::connection;
use crate::endpoints::transport::wire::Wire;
use crate::entitlement::door::Connections;
use crate::entitlement::door::SecretGate;

/// How long the loop rests when the kernel cannot give a connection: it never spins.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What the connections of a door are served with.
#[derive(Debug, Clone)]
pub struct Transport {
    /// Admits accepted processes.
    pub connections: Arc<dyn Connections>,
    /// The services behind the door.
    pub routes: Routes,
    /// The accounts of the door.
    pub budgets: Budgets,
    /// Stops it: nothing new is accepted, streams end, what has not ended at the drain limit is cut.
    pub stop: CancellationToken,
}

/// Serves a door until it is stopped and every connection has ended.
pub async fn serve(mut door: impl Acceptor, transport: Transport) {
    let mut connections = JoinSet::new();
    let mut starving = false;
    loop {
        tokio::select! {
            biased;
            () = transport.stop.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            arrived = door.next() => match arrived {
                Ok(arrival) => {
                    starving = false;
                    admit(arrival, &transport, &mut connections);
                }
                Err(error) => {
                    if !std::mem::replace(&mut starving, true) {
                        tracing::warn!(%error, "connections cannot be accepted; LimitNOFILE= may be too low");
                    }
                    rest(&transport.stop).await;
                }
            },
        }
    }
    drop(door); // the name goes first, so that nobody comes in any more
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// SECURITY: the listen queue is shared by all users, so whoever has no budget left costs one system call here. The
/// process is pinned before the loop goes on: the longer that waits, the more can happen to its number where the kernel
/// gives no better handle. Everything else is the connection's own task.
fn admit(arrival: Box<dyn IncomingConnection>, transport: &Transport, connections: &mut JoinSet<()>) {
    let Ok(uid) = arrival.uid() else { return };
    let charge = match transport.budgets.connection(uid) {
        Ok(charge) => charge,
        Err(why) => return tracing::debug!(uid, %why, "connection refused"),
    };
    match arrival.identify() {
        Ok(identified) => {
            connections.spawn(converse(identified, charge, transport.clone()));
        }
        Err(why) => tracing::debug!(uid, %why, "connection refused"),
    }
}

async fn converse(identified: AcceptedConnection, mut charge: ConnectionCharge, transport: Transport) {
    let AcceptedConnection { stream, process } = identified;
    let Ok(connection) = transport.connections.admit(process) else { return };
    let principal = connection.principal();
    if let Err(why) = charge.charge_to(principal) {
        return tracing::debug!(?principal, %why, "connection refused");
    }
    let gate = Arc::new(SecretGate::new(connection));
    let wire = Wire::new(stream, gate.clone());
    connection::serve(wire, gate, transport.routes, transport.budgets, transport.stop).await;
    drop(charge);
}

async fn rest(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(ACCEPT_RETRY) => {}
    }
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
