//! Gives memory back that nobody needs any more. The allocator keeps what it once had: the pages of a thousand
//! connections that have gone, and of the text of ten thousand entries. Knows how many connections are open, not whose.

use std::time::Duration;

use tokio::time::sleep;

use crate::endpoints::transport::budgets::Budgets;
use crate::sys::allocator;

const LOOK: Duration = Duration::from_secs(1);
/// Fewer connections leave behind less than it costs to look for it.
const MANY: usize = 64;

/// Gives back what starting took, and then what connections took, whenever many of them have gone. Never ends.
pub(in crate::agent) async fn give_back(budgets: Budgets) {
    let mut most_open = usize::MAX;
    loop {
        sleep(LOOK).await;
        let open = budgets.usage().connections;
        if most_open.saturating_sub(open) >= MANY {
            // A panic in there could only be the allocator's; there is nothing to do about it.
            let _ = tokio::task::spawn_blocking(allocator::return_free_pages).await;
            most_open = open;
        }
        most_open = most_open.max(open);
    }
}
