//! The places of a door of the operator: a newcomer gets one, and where none is left, somebody leaves for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio_util::sync::CancellationToken;

/// Connections of one door.
const MOST: usize = 64;

/// Who holds the places of one door. Clones are the same places.
///
/// SECURITY: a request that is never finished holds its place until a newcomer needs it: the oldest leaves. Where the users
/// are known, it is one of whoever holds most, so nobody keeps out a user who holds fewer.
#[derive(Debug, Clone, Default)]
pub(in crate::endpoints) struct Places(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    taken: u64,
    /// By number, so the oldest is the first.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    uid: Option<u32>,
    is_reading: bool,
    leaves: CancellationToken,
}

/// A place; free again when dropped.
#[derive(Debug)]
#[must_use]
pub(in crate::endpoints) struct HeldPlace {
    places: Places,
    number: u64,
    leaves: CancellationToken,
}

impl Places {
    /// A place for a connection of this user, who may be unknown. `None` when the door is full, and all who could leave for
    /// it are answered just now.
    pub(in crate::endpoints) fn take(&self, uid: Option<u32>) -> Option<HeldPlace> {
        let mut held = self.held();
        if held.connections.len() >= MOST {
            let leaving = held.who_leaves_for(uid)?;
            held.connections.remove(&leaving)?.leaves.cancel();
        }
        held.taken += 1;
        let (number, leaves) = (held.taken, CancellationToken::new());
        held.connections.insert(number, Connection { uid, is_reading: true, leaves: leaves.clone() });
        Some(HeldPlace { places: self.clone(), number, leaves })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The connection that leaves for one of this user: of whoever would hold most, the oldest whose request is unfinished.
    /// Where all of them are being answered, the newest of another user.
    fn who_leaves_for(&self, uid: Option<u32>) -> Option<u64> {
        let mut counts = BTreeMap::from([(uid, 1)]);
        self.connections.values().for_each(|connection| *counts.entry(connection.uid).or_default() += 1);
        let (most, _) = counts.into_iter().max_by_key(|(holder, count)| (*count, *holder == uid))?;
        let mut of_most = self.connections.iter().filter(|(_, connection)| connection.uid == most);
        let reading = of_most.clone().find(|(_, connection)| connection.is_reading);
        let leaving = reading.or_else(|| of_most.next_back().filter(|_| most != uid));
        leaving.map(|(number, _)| *number)
    }
}

impl HeldPlace {
    /// The request has arrived whole.
    pub(in crate::endpoints) fn request_arrived(&self) {
        if let Some(connection) = self.places.held().connections.get_mut(&self.number) {
            connection.is_reading = false;
        }
    }

    /// Waits until a newcomer has the place.
    pub(in crate::endpoints) async fn lost(&self) {
        self.leaves.cancelled().await;
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        self.places.held().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(places: &Places, uid: Option<u32>) -> Vec<HeldPlace> {
        (0..MOST).filter_map(|_| places.take(uid)).collect()
    }

    fn left(held: &[HeldPlace]) -> Vec<usize> {
        (0..held.len()).filter(|at| held[*at].leaves.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_unfinished_request_leaves_for_a_newcomer() {
        let places = Places::default();
        let held = full(&places, None);
        held[0].request_arrived();
        let newcomers: Vec<_> = (0..3).map(|_| places.take(None).unwrap()).collect();
        assert_eq!(left(&held), [1, 2, 3]);
        assert!(left(&newcomers).is_empty());
    }

    #[test]
    fn who_is_being_answered_stays_and_the_newcomer_is_turned_away() {
        let places = Places::default();
        let mut held = full(&places, None);
        held.iter().for_each(HeldPlace::request_arrived);
        assert!(places.take(None).is_none() && left(&held).is_empty());
        held.pop();
        assert!(places.take(None).is_some());
    }

    #[test]
    fn whoever_holds_most_leaves_for_another_user_even_while_being_answered() {
        let places = Places::default();
        let root: Vec<_> = (0..3).map(|_| places.take(Some(0)).unwrap()).collect();
        let member: Vec<_> = (3..MOST).map(|_| places.take(Some(1000)).unwrap()).collect();
        let another = places.take(Some(0)).unwrap();
        assert_eq!((left(&root), left(&member)), (vec![], vec![0]));
        member.iter().for_each(HeldPlace::request_arrived);
        let one_more = places.take(Some(0)).unwrap();
        assert_eq!((left(&root), left(&member)), (vec![], vec![0, member.len() - 1]));
        assert!(places.take(Some(1000)).is_none(), "a user of many places took one of a user of few");
        drop((another, one_more));
    }

    proptest! {
        #[test]
        fn a_user_who_holds_fewer_than_any_other_is_never_turned_away(
            steps in prop::collection::vec((0_u32..4, 0_u8..4), 0..400),
        ) {
            let places = Places::default();
            let mut held: Vec<(u32, HeldPlace)> = Vec::new();
            for (uid, step) in steps {
                held.retain(|(_, place)| !place.leaves.is_cancelled());
                let count = |uid: u32| held.iter().filter(|(holder, _)| *holder == uid).count();
                let is_poorest = (0..4).all(|other| other == uid || count(other) > count(uid));
                match (step, places.take(Some(uid))) {
                    (0, place) => drop(place),
                    (1, Some(place)) => { place.request_arrived(); held.push((uid, place)); }
                    (_, Some(place)) => held.push((uid, place)),
                    (_, None) => prop_assert!(!is_poorest),
                }
                prop_assert!(places.held().connections.len() <= MOST);
            }
            drop(held);
            prop_assert!(places.held().connections.is_empty());
        }
    }
}
