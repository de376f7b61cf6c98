//! The daemon and its two limits, each with a client process of its own.

use crate::caller::Caller;
use crate::caller::Order;
use crate::caller::Times;
use crate::limit::LimitServer;
use crate::limit::Work;
use crate::measure::report::micros;
use crate::meters::Meter;
use crate::node::Target;
use crate::surroundings::Surroundings;

/// One server and its client.
pub(super) struct Side {
    caller: Caller,
    meter: Meter,
}

/// What calls cost, in microseconds: the server's processor time for each, and what the client waited.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) processor: f64,
    pub(super) times: Times,
}

impl Side {
    pub(super) async fn costs(&mut self, order: Order, count: u32, pace: u32) -> Cost {
        let before = self.meter.processor_time();
        let times = self.caller.told(order, count, pace).await;
        Cost { processor: micros(self.meter.processor_time().saturating_sub(before)) / f64::from(count), times }
    }
}

/// The daemon, and the same answers by a bare server with and without the cryptography.
pub(super) struct Sides {
    pub(super) ours: Side,
    pub(super) limit: Side,
    pub(super) empty: Side,
    _servers: [LimitServer; 2],
}

impl Sides {
    pub(super) async fn of(target: &Target, surroundings: &Surroundings) -> Self {
        let (limit, _) = LimitServer::start(Work::Cryptography, &target.socket).await;
        let (empty, _) = LimitServer::start(Work::Nothing, &target.socket).await;
        let guise = surroundings.client();
        let side = |socket, pid| Side { caller: Caller::start(socket, &guise), meter: Meter::of(pid) };
        Self {
            ours: side(&target.socket, target.pid),
            limit: side(&limit.socket, limit.pid()),
            empty: side(&empty.socket, empty.pid()),
            _servers: [limit, empty],
        }
    }

    /// One after the other: ours, the limit, the empty limit.
    pub(super) async fn cost(&mut self, order: Order, count: u32, pace: u32) -> [Cost; 3] {
        [
            self.ours.costs(order, count, pace).await,
            self.limit.costs(order, count, pace).await,
            self.empty.costs(order, count, pace).await,
        ]
    }
}
