//! Returns free memory to the kernel. The allocator keeps pages that it once used, for a thousand closed connections or
//! the text of ten thousand entries. Knows how many connections are open, not whose.

use std::time::Duration;

use tokio::time::sleep;

use crate::fairness::Budgets;
use crate::sys::allocator;

const POLL: Duration = Duration::from_secs(1);
/// After so many closed connections it is worth the milliseconds that it costs.
const TRIM_AFTER: usize = 64;
/// After so many polls fewer closed connections are enough: a few can have had many and long messages.
const MAX_POLLS: u32 = 20;

/// Returns the memory of the start, then that of closed connections: soon after many have closed, later after any has.
/// Never ends.
pub(in crate::agent) async fn return_memory(budgets: Budgets) {
    let mut most_open = usize::MAX;
    let mut polls = 0;
    loop {
        sleep(POLL).await;
        polls += 1;
        let open = budgets.usage().connections;
        let gone = most_open.saturating_sub(open);
        if gone >= TRIM_AFTER || gone > 0 && polls >= MAX_POLLS {
            // A panic in the allocator's call changes nothing here.
            let _ = tokio::task::spawn_blocking(allocator::return_free_pages).await;
            (most_open, polls) = (open, 0);
        }
        most_open = most_open.max(open);
    }
}
