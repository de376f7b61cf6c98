//! Looks up the users and groups of a configuration: when it is loaded, each name once, on a thread of its own with a
//! time limit. A name service may be slow or hang, and no connection may wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use nix::unistd::Group;
use nix::unistd::User;

use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Place;
use crate::agent::config::problem::Problem;
use crate::agent::config::workload::AccountNames;
use crate::evidence::Accounts;
use crate::time::duration::exact;

/// Finds the ids of `names`. What cannot be found is a problem at the name's place.
pub(in crate::agent::config) fn look_up(names: &AccountNames, within: Duration, findings: &mut Findings) -> Accounts {
    let users = names.users.iter().map(|(name, place)| ("user", "passwd", name, place));
    let groups = names.groups.iter().map(|(name, place)| ("group", "group", name, place));
    let mut all = users.chain(groups);
    let Some(last) = all.clone().last() else { return Accounts::default() };
    let (send, answer) = mpsc::channel();
    let (asked, answered) = (names.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&answered);
    // A name service that hangs keeps this thread; it holds nothing, and dies with the process.
    let started = std::thread::Builder::new().name("names".to_owned()).spawn(move || send.send(ask(&asked, &counted)));
    if let Ok(Ok((accounts, problems))) = started.map(|_| answer.recv_timeout(within)) {
        problems.into_iter().for_each(|problem| findings.problem(problem));
        return accounts;
    }
    let (kind, database, name, place) = all.nth(answered.load(Ordering::Relaxed)).unwrap_or(last);
    findings.problem(place.problem(format!(
        "the system did not say within {} who its users and groups are, and still has to say it of {kind} {name:?}; try \
         getent {database} {name}, or name ids with unix:uid or unix:gid",
        exact(within)
    )));
    Accounts::default()
}

fn ask(names: &AccountNames, answered: &AtomicUsize) -> (Accounts, Vec<Problem>) {
    let mut problems = Vec::new();
    let user = |name: &str| User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()));
    let group = |name: &str| Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()));
    let mut ids = |kind, names, ask: &dyn Fn(&str) -> nix::Result<Option<u32>>| {
        ids(
            kind,
            names,
            |name| {
                let id = ask(name);
                answered.fetch_add(1, Ordering::Relaxed);
                id
            },
            &mut problems,
        )
    };
    let users = ids("user", &names.users, &user);
    let groups = ids("group", &names.groups, &group);
    (Accounts { users, groups }, problems)
}

fn ids(
    kind: &str,
    names: &BTreeMap<Arc<str>, Place>,
    ask: impl Fn(&str) -> nix::Result<Option<u32>>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<u32, Vec<Arc<str>>> {
    let mut found: BTreeMap<u32, Vec<Arc<str>>> = BTreeMap::new();
    for (name, place) in names {
        match ask(name) {
            Ok(Some(id)) => found.entry(id).or_default().push(Arc::clone(name)),
            Ok(None) => {
                problems.push(
                    place.problem(format!("there is no {kind} {name:?} on this machine; create it, or write another")),
                );
            }
            Err(error) => problems.push(place.problem(format!("{kind} {name:?} could not be looked up: {error}"))),
        }
    }
    found
}
