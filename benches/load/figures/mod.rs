//! The subjects of measurement, and the daemons that each needs.

mod calls;
mod change;
mod first;
mod floods;
mod idle;
mod memory;
mod restart;
mod sides;

use crate::Load;
use crate::measure::report::Figure;
use crate::node::EntryChange;
use crate::node::Node;
use crate::node::Setup;
use crate::node::Target;
use crate::surroundings::Surroundings;

/// A subject of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    /// Connect to X509-SVID in one process, and further streams
    First,
    /// Connect to first X509-SVID, a fresh process each
    Fresh,
    /// FetchJWTSVID
    Tokens,
    /// ValidateJWTSVID
    Validate,
    /// An entry change reaches all streams
    Change,
    /// The processor time of 8,000 idle streams
    Idle,
    /// Memory: idle, under connections, and a minute after
    Memory,
    /// Start, and kill -9
    Restart,
    /// What hostile users can do to others; only when asked for, because it takes a quarter of an hour
    Floods,
}

impl Subject {
    pub(crate) const WITHOUT_FLOODS: [Self; 8] =
        [Self::First, Self::Fresh, Self::Tokens, Self::Validate, Self::Change, Self::Idle, Self::Memory, Self::Restart];

    /// Measures a temporary daemon.
    pub(crate) async fn of_our_own(self, load: &Load, surroundings: &Surroundings) -> Vec<Figure> {
        let setup = Setup::of(load.daemon.as_ref());
        match self {
            Self::Change => {
                let node = Node::start(&setup).await;
                let change = EntryChange::File(&node);
                change::measure(&node.target(), &change, surroundings, load.connections, load.rounds(5)).await
            }
            Self::Memory => {
                let mut figures =
                    vec![memory::idle(&setup, setup.entries, 15.0).await, memory::idle(&setup, 10_000, 30.0).await];
                let node = Node::start(&setup).await;
                figures.extend(memory::under_connections(&node.target(), surroundings, load.connections as u32).await);
                figures
            }
            Self::Restart => {
                let mut figures = restart::measure(&setup, 1_000, load.rounds(5)).await;
                figures.extend(restart::measure(&setup, 10_000, load.rounds(5)).await);
                figures
            }
            Self::Floods => floods::measure(&setup, surroundings, load).await,
            Self::First | Self::Fresh | Self::Tokens | Self::Validate | Self::Idle => {
                let node = Node::start(&setup).await;
                self.of_a_socket(&node.target(), load, surroundings).await
            }
        }
    }

    /// Measures a running server, as far as is possible from outside.
    pub(crate) async fn of_a_socket(self, target: &Target, load: &Load, surroundings: &Surroundings) -> Vec<Figure> {
        let rounds = load.rounds(5);
        match (self, &load.change) {
            (Self::First, _) => first::in_one_process(target, surroundings, rounds).await,
            (Self::Fresh, _) => first::in_fresh_processes(target, surroundings, rounds).await,
            (Self::Tokens, _) => calls::tokens(target, surroundings, rounds).await,
            (Self::Validate, _) => calls::validation(target, surroundings, rounds).await,
            (Self::Idle, _) => idle::streams(target, surroundings, rounds).await,
            (Self::Memory, _) => memory::under_connections(target, surroundings, load.connections as u32).await,
            (Self::Change, Some(program)) => {
                let change = EntryChange::Program(program.clone());
                change::measure(target, &change, surroundings, load.connections, rounds).await
            }
            // A daemon that others use is neither stopped nor flooded.
            (Self::Change, None) | (Self::Restart | Self::Floods, _) => Vec::new(),
        }
    }
}
