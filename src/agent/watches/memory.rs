//! Gives memory back that nobody needs any more. The allocator keeps what it once had: the pages of a thousand
//! connections that have gone, and of the text of ten thousand entries. Knows how many connections are open, not whose.

use std::time::Duration;

use tokio::time::sleep;

use crate::endpoints::transport::budgets::Budgets;
use crate::sys::allocator;

const POLL: Duration = Duration::from_secs(1);
/// So many are worth the milliseconds that it costs.
const TRIM_AFTER: usize = 64;
/// What fewer leave behind waits this long for more: a few can have had many and long messages.
const MAX_POLLS: u32 = 20;

/// Gives back what starting took, and then what connections took: soon when many have gone, and in a while when any
/// have. Never ends.
pub(in crate::agent) async fn give_back(budgets: Budgets) {
    let mut most_open = usize::MAX;
    let mut polls = 0;
    loop {
        sleep(POLL).await;
        polls += 1;
        let open = budgets.usage().connections;
        let gone = most_open.saturating_sub(open);
        if gone >= TRIM_AFTER || gone > 0 && polls >= MAX_POLLS {
            // A panic in there could only be the allocator's; there is nothing to do about it.
            let _ = tokio::task::spawn_blocking(allocator::return_free_pages).await;
            (most_open, polls) = (open, 0);
        }
        most_open = most_open.max(open);
    }
}
