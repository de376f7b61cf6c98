//! Reports the names of users and groups that do not exist, or that the name service does not know about.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::agent::config::accounts::warnings;
use crate::agent::reload::Reloader;
use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::names::NameService;
use crate::readiness::Reason;
use crate::readiness::Severity;

/// Logs each name of the configuration that is missing, once, and gives a reason while the name service does not answer.
/// Never ends.
pub(in crate::agent) async fn watch_names(names: Arc<NameService>, reloader: Arc<Reloader>, reason: Reason) {
    let mut published = names.accounts();
    let mut logged = BTreeSet::new();
    loop {
        let accounts = published.borrow_and_update().clone();
        // The first answers come within seconds; nothing is missing before.
        if accounts.answer() != Some(Answer::Pending) {
            let missing: BTreeSet<_> = warnings(&reloader.active().config.names, &accounts).into_iter().collect();
            missing.difference(&logged).for_each(|warning| tracing::warn!("{}", warning.warning()));
            logged = missing;
            match unconfirmed(&accounts) {
                Some(detail) => {
                    reason.block(Severity::Degraded, detail);
                }
                None => reason.clear(),
            }
        }
        if published.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What the name service does not answer, why that matters, and what to type.
fn unconfirmed(accounts: &Accounts) -> Option<String> {
    let first = accounts.open().first()?;
    let more = match accounts.open().len() {
        1 => String::new(),
        names => format!(" and {} more", names - 1),
    };
    Some(format!(
        "the name service does not say who {first}{more} is, or last said it over 5 minutes ago; entries by such names \
         give nobody anything new until it does; type: getent {} {}",
        first.database(),
        first.text()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::AccountName;
    use crate::evidence::Undecided;

    #[test]
    fn the_reason_names_one_name_and_counts_the_others() {
        let mut accounts = Accounts::example(&[(1, "bob")], &[]);
        assert_eq!(unconfirmed(&accounts), None);
        let undecided = Answer::Undecided(Undecided::NameService);
        accounts.leave_open(AccountName::User("zoe".into()), undecided);
        accounts.leave_open(AccountName::Group("web".into()), undecided);
        let said = unconfirmed(&accounts).unwrap();
        assert!(said.starts_with("the name service does not say who user \"zoe\" and 1 more is"), "{said}");
        assert!(said.ends_with("type: getent passwd zoe"), "{said}");
    }
}
