//! The only place where the end of a caller, or a limit, becomes a gRPC status. A caller learns "no" or "try again" and
//! a random id; the operator finds the reason under that id.

use tonic::Status;

use crate::entitlement::door::Ended;
use crate::entitlement::door::NotValidated;
use crate::fairness::OverBudget;
use crate::policy::DecisionId;

/// SPEC: Workload Endpoint §6; "no" drops what a client holds, "could not find out" lets it retry.
#[must_use]
pub fn ended(ended: Ended) -> Status {
    match ended {
        Ended::Denied(id) => Status::permission_denied(no_identity_issued(id)),
        Ended::Undecided(id) => Status::unavailable(no_identity_issued(id)),
        Ended::Stopping => Status::unavailable("the agent is stopping"),
    }
}

/// A token that was not verified. The standard names no code for it.
#[must_use]
pub fn not_validated(why: NotValidated) -> Status {
    match why {
        NotValidated::Invalid(why) => Status::invalid_argument(why),
        NotValidated::Ended(why) => ended(why),
    }
}

/// A limit that the caller has used up: overload, by the endpoint's standard, is `Unavailable`.
#[must_use]
pub fn over_budget(why: OverBudget) -> Status {
    Status::unavailable(why.to_string())
}

/// The request's message did not arrive, or its answer could not be made, in time.
#[must_use]
pub fn too_slow() -> Status {
    Status::unavailable("the request took too long")
}

fn no_identity_issued(id: DecisionId) -> String {
    format!("no identity issued ({id})")
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_completed_no_and_an_open_question_differ_in_their_code_alone() {
        let id = DecisionId([0x7f, 0x31, 0xc2, 0xa9, 0x0b, 0x4e]);
        let (denied, undecided) = (ended(Ended::Denied(id)), ended(Ended::Undecided(id)));
        assert_eq!(denied.message(), "no identity issued (d-7f31c2a90b4e)");
        assert_eq!(denied.message(), undecided.message());
        assert_eq!((denied.code(), undecided.code()), (Code::PermissionDenied, Code::Unavailable));
    }
}
