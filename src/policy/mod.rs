//! Policy: [`decide()`] is a pure function of the evidence, the entries, the rules and the time, and returns a trace of
//! its reasons. Only it creates a [`Permit`].

mod changes;
mod decide;
mod decision_id;
mod explain;
mod rulebook;
mod tokens;

pub use changes::HeldBack;
pub use changes::held_back;
pub use changes::is_affected;
pub use decide::Considered;
pub use decide::Decision;
pub use decide::Denial;
pub use decide::Grant;
pub use decide::OpenGrant;
pub use decide::Outcome;
pub use decide::Permit;
pub use decide::SetAside;
pub use decide::Trace;
pub use decide::Verdict;
pub use decide::decide;
pub use decide::redecide;
pub use decision_id::DecisionId;
pub use decision_id::NotADecisionId;
pub use explain::Explanation;
pub use explain::explain;
pub use rulebook::Rulebook;
pub use rulebook::Rules;
pub use tokens::permits_for_tokens;
