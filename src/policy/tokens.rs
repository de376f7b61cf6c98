//! The permits that a request for JWT-SVIDs may use.

use crate::identity::SpiffeId;
use crate::policy::decide::Denial;
use crate::policy::decide::Permit;

/// Keeps the permits for `id`, or for every SPIFFE ID without one, whose entry allows all of `audiences`.
///
/// # Errors
/// [`Denial::NotThatId`] when no permit is for `id`; [`Denial::Audience`] when no entry of a permit for it allows every
/// audience.
pub fn permits_for_tokens(
    mut permits: Vec<Permit>,
    id: Option<&SpiffeId>,
    audiences: &[String],
) -> Result<Vec<Permit>, Denial> {
    permits.retain(|permit| id.is_none_or(|id| permit.grant().id == *id));
    if permits.is_empty() {
        return Err(Denial::NotThatId);
    }
    let mut refused = None;
    permits.retain(|permit| match unlisted(permit, audiences) {
        Some(audience) => {
            refused.get_or_insert_with(|| audience.to_owned());
            false
        }
        None => true,
    });
    match refused {
        Some(audience) if permits.is_empty() => Err(Denial::Audience { audience }),
        _ => Ok(permits),
    }
}

/// The first audience that the permit's entry does not list.
fn unlisted<'a>(permit: &Permit, audiences: &'a [String]) -> Option<&'a str> {
    let listed = permit.grant().entry.terms.audiences.as_ref()?;
    audiences.iter().find(|audience| !listed.contains(audience)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::attestation::Attested;
    use crate::evidence::EvidenceSet;
    use crate::evidence::Grade;
    use crate::evidence::Level;
    use crate::evidence::Source;
    use crate::policy::decide::decide;
    use crate::policy::decision_id::DecisionId;
    use crate::policy::rulebook::Rulebook;
    use crate::registration::Entry;

    /// Permits for `/open` (any audience) and `/ledger` (only the audience `ledger`).
    fn permits() -> Vec<Permit> {
        let mut entries =
            vec![Entry::example(0, "/open", &["unix:uid:1"]), Entry::example(1, "/ledger", &["unix:uid:1"])];
        entries[1].terms.audiences = Some(vec!["ledger".to_owned()]);
        let mut evidence = EvidenceSet::default();
        evidence.prove("unix:uid:1".parse().unwrap(), Grade::Kernel, Source::Credentials);
        let caller = Attested::example(Level::Full, evidence);
        decide(&caller, &Rulebook::example(entries), DecisionId([0; 6]), SystemTime::UNIX_EPOCH).outcome.into_permits()
    }

    fn asked(id: Option<&str>, audiences: &[&str]) -> Result<Vec<String>, Denial> {
        let id = id.map(|id| id.parse().unwrap());
        let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let permits = permits_for_tokens(permits(), id.as_ref(), &audiences)?;
        Ok(permits.iter().map(|permit| permit.grant().id.path().to_owned()).collect())
    }

    #[test]
    fn an_entry_allows_the_audiences_that_it_lists_and_without_a_list_any() {
        assert_eq!(asked(None, &["ledger"]).unwrap(), ["/open", "/ledger"]);
        assert_eq!(asked(None, &["mail"]).unwrap(), ["/open"]);
        assert_eq!(asked(None, &["ledger", "mail"]).unwrap(), ["/open"]);
    }

    #[test]
    fn the_denial_names_an_audience_that_the_requested_entry_does_not_list() {
        let denied = asked(Some("spiffe://example.org/ledger"), &["ledger", "mail"]);
        assert_eq!(denied, Err(Denial::Audience { audience: "mail".to_owned() }));
        assert_eq!(asked(Some("spiffe://example.org/ledger"), &["ledger"]).unwrap(), ["/ledger"]);
    }

    #[test]
    fn a_request_for_an_identity_without_a_permit_is_denied() {
        assert_eq!(asked(Some("spiffe://example.org/admin"), &["ledger"]), Err(Denial::NotThatId));
    }
}
