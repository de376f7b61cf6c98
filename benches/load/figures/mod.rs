//! The subjects of measurement, and the daemons that each needs.

mod change;
mod first;
mod memory;
mod restart;
mod tokens;

use crate::Load;
use crate::child::EmptyServer;
use crate::measure::report::Figure;
use crate::node::EntryChange;
use crate::node::Node;
use crate::node::Target;

/// A subject of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    /// Connect to first X509-SVID, in one process
    First,
    /// The same with a fresh process each, and its processor time
    Fresh,
    /// FetchJWTSVID
    Tokens,
    /// An entry change reaches all streams
    Change,
    /// Memory: idle, under connections, and a minute after
    Memory,
    /// Start, and kill -9
    Restart,
}

impl Subject {
    pub(crate) const ALL: [Self; 6] =
        [Self::First, Self::Fresh, Self::Tokens, Self::Change, Self::Memory, Self::Restart];

    /// Measures a temporary daemon.
    pub(crate) async fn of_our_own(self, load: &Load) -> Vec<Figure> {
        match self {
            Self::Change => {
                let node = Node::start(FEW).await;
                change::measure(&node.target(), &EntryChange::File(&node), load.connections, load.rounds).await
            }
            Self::Memory => {
                let mut figures = vec![memory::idle(FEW, 15.0).await, memory::idle(10_000, 30.0).await];
                let node = Node::start(FEW).await;
                figures.extend(memory::under_connections(&node.target(), load.connections).await);
                figures
            }
            Self::Restart => {
                let mut figures = restart::measure(1_000, load.rounds).await;
                figures.extend(restart::measure(10_000, load.rounds).await);
                figures
            }
            Self::First | Self::Fresh | Self::Tokens => {
                let node = Node::start(FEW).await;
                self.of_a_socket(&node.target(), load).await
            }
        }
    }

    /// Measures a running server, as far as is possible from outside.
    pub(crate) async fn of_a_socket(self, target: &Target, load: &Load) -> Vec<Figure> {
        let (empty, _) = EmptyServer::start().await;
        match (self, &load.change) {
            (Self::First, _) => first::in_one_process(target, &empty, load.rounds).await,
            (Self::Fresh, _) => first::in_fresh_processes(target, &empty, load.rounds).await,
            (Self::Tokens, _) => tokens::measure(target, &empty, load.rounds).await,
            (Self::Memory, _) => memory::under_connections(target, load.connections).await,
            (Self::Change, Some(program)) => {
                let change = EntryChange::Program(program.clone());
                change::measure(target, &change, load.connections, load.rounds).await
            }
            (Self::Change, None) | (Self::Restart, _) => Vec::new(),
        }
    }
}

/// The number of entries of a daemon where it is not the subject.
const FEW: u32 = 10;
