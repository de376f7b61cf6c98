//! The answers of the name service with their age. Pure: the service passes the answers and the time, which is a time since
//! any fixed moment.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::evidence::AccountName;
use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::evidence::Undecided;
use crate::evidence::WithheldBecause;
use crate::names::source::NameAnswer;

/// A name is asked again so long after the last question, so that every answer is at most 60 s old.
const CONFIRM_EVERY: Duration = Duration::from_secs(50);
/// A name that does not exist, or of which the service could not find out, is asked again so soon.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A name is pending for so long after it was first wanted, and undecided afterwards.
pub const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// For how long an answer counts.
const COUNTS_FOR: Duration = Duration::from_secs(300);
/// A name of the local database that is missing for less is being replaced, by an editor for example.
const REPLACED_WITHIN: Duration = Duration::from_millis(500);
/// A name of another service that is missing for less may be missing because the service restarts: some builds of its
/// NSS module then answer that there is no such user.
const SERVICE_RESTARTS_WITHIN: Duration = Duration::from_secs(10);

/// The names that are wanted, and what is known of each.
#[derive(Debug, Default)]
pub struct Book {
    names: BTreeMap<AccountName, Record>,
}

#[derive(Debug)]
struct Record {
    wanted: Duration,
    /// The last answer that counts.
    confirmed: Option<Confirmed>,
    /// Since when the answers are that a name does not exist which existed before.
    missing: Option<Duration>,
    /// When the question of the last answer was put, of whatever kind the answer was.
    answered: Option<Duration>,
    /// The last answer was that names like this cannot be read.
    is_unreadable: bool,
    /// Whether a question is under way.
    is_asked: bool,
    /// The databases changed while a question was under way.
    is_overtaken: bool,
    due: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Confirmed {
    /// The id, and whether the local database has it; `None` where there is no such name.
    id: Option<(u32, bool)>,
    /// When the question was put.
    at: Duration,
}

impl Confirmed {
    fn counts_at(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) < COUNTS_FOR
    }
}

impl Book {
    /// Adds the names that are not in the book yet. They are due at once.
    pub fn want<'n>(&mut self, names: impl IntoIterator<Item = &'n AccountName>, now: Duration) {
        for name in names {
            if !self.names.contains_key(name) {
                self.names.insert(name.clone(), Record::new(now));
            }
        }
    }

    /// Forgets every other name.
    pub fn keep_only(&mut self, is_wanted: impl Fn(&AccountName) -> bool) {
        self.names.retain(|name, _| is_wanted(name));
    }

    /// Makes every name due, because the databases have changed or an operator wants to know.
    pub fn ask_all(&mut self, now: Duration) {
        for record in self.names.values_mut() {
            record.is_overtaken = record.is_asked;
            record.due = now;
        }
    }

    /// The names to ask now; each counts as asked. A name with a question under way is not asked again. First come names
    /// that the local database had, then those that any service had: these are answered soonest.
    pub fn take_due(&mut self, now: Duration) -> Vec<AccountName> {
        let mut due: Vec<_> =
            self.names.iter_mut().filter(|(_, record)| !record.is_asked && record.due <= now).collect();
        due.sort_by_key(|(_, record)| match record.confirmed.and_then(|confirmed| confirmed.id) {
            Some((_, true)) => 0,
            Some((_, false)) => 1,
            None => 2,
        });
        due.iter_mut().for_each(|(_, record)| record.is_asked = true);
        due.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Records the answer to a question that was put at `put`.
    pub fn record(&mut self, name: &AccountName, answer: NameAnswer, put: Duration, now: Duration) {
        let Some(record) = self.names.get_mut(name) else { return };
        record.is_asked = false;
        record.answered = Some(put);
        match answer {
            NameAnswer::Id { id, in_file } => record.found((id, in_file), put),
            NameAnswer::Absent => record.not_found(put),
            NameAnswer::Failed | NameAnswer::NotReadable => record.due = put + ASK_AGAIN,
        }
        if answer != NameAnswer::Failed {
            record.is_unreadable = answer == NameAnswer::NotReadable;
        }
        if std::mem::take(&mut record.is_overtaken) {
            record.due = now;
        }
    }

    /// Whether each of these names was answered by a question that was put at `since` or later.
    pub fn answered_since<'n>(&self, names: impl IntoIterator<Item = &'n AccountName>, since: Duration) -> bool {
        names.into_iter().filter_map(|name| self.names.get(name)).all(|record| record.answered >= Some(since))
    }

    /// The time of the next question, or at which a name becomes open or undecided by its age alone; after `now`.
    #[must_use]
    pub fn next_event(&self, now: Duration) -> Option<Duration> {
        let of_record = |record: &Record| {
            let due = (!record.is_asked).then_some(record.due);
            let ages = match record.confirmed {
                Some(confirmed) => confirmed.at + COUNTS_FOR,
                None => record.wanted + FIRST_ANSWER_WITHIN,
            };
            [due, (ages > now).then_some(ages)].into_iter().flatten().min()
        };
        self.names.values().filter_map(of_record).min()
    }

    /// What counts of the names for which `is_wanted` holds. Where one cannot be read, none counts: it is not known whose
    /// names the others are.
    #[must_use]
    pub fn accounts(&self, is_wanted: impl Fn(&AccountName) -> bool, now: Duration) -> Accounts {
        let wanted = || self.names.iter().filter(|(name, _)| is_wanted(name));
        if wanted().any(|(_, record)| record.is_unreadable) {
            return Accounts::withheld(WithheldBecause::NamesNotReadable);
        }
        let mut accounts = Accounts::default();
        for (name, record) in wanted() {
            match record.confirmed.filter(|confirmed| confirmed.counts_at(now)) {
                Some(Confirmed { id: Some((id, _)), .. }) => accounts.prove(name, id),
                Some(Confirmed { id: None, .. }) => {}
                None => accounts.leave_open(name.clone(), record.answer_to_come(now)),
            }
        }
        accounts
    }

    /// All names in the book.
    #[must_use]
    pub fn wanted(&self) -> BTreeSet<AccountName> {
        self.names.keys().cloned().collect()
    }
}

impl Record {
    fn new(now: Duration) -> Self {
        Self {
            wanted: now,
            confirmed: None,
            missing: None,
            answered: None,
            is_unreadable: false,
            is_asked: false,
            is_overtaken: false,
            due: now,
        }
    }

    fn found(&mut self, id: (u32, bool), put: Duration) {
        self.confirmed = Some(Confirmed { id: Some(id), at: put });
        self.missing = None;
        self.due = put + CONFIRM_EVERY;
    }

    fn not_found(&mut self, put: Duration) {
        let missing = *self.missing.get_or_insert(put);
        let doubted_for = match self.confirmed.and_then(|confirmed| confirmed.id) {
            None => Duration::ZERO,
            Some((_, true)) => REPLACED_WITHIN,
            Some((_, false)) => SERVICE_RESTARTS_WITHIN,
        };
        if put.saturating_sub(missing) >= doubted_for {
            self.confirmed = Some(Confirmed { id: None, at: put });
            self.due = put + ASK_AGAIN;
        } else {
            self.due = (missing + doubted_for).min(put + ASK_AGAIN);
        }
    }

    /// What an open name waits for.
    fn answer_to_come(&self, now: Duration) -> Answer {
        let is_new = self.answered.is_none() && now.saturating_sub(self.wanted) < FIRST_ANSWER_WITHIN;
        if is_new { Answer::Pending } else { Answer::Undecided(Undecided::NameService) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_FILE: NameAnswer = NameAnswer::Id { id: 1000, in_file: true };
    const ELSEWHERE: NameAnswer = NameAnswer::Id { id: 1000, in_file: false };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn user(name: &str) -> AccountName {
        AccountName::User(name.into())
    }

    /// A book with these users, asked at 0 s.
    fn asked(names: &[&str]) -> Book {
        let mut book = Book::default();
        book.want(&names.iter().map(|name| user(name)).collect::<Vec<_>>(), Duration::ZERO);
        assert_eq!(book.take_due(Duration::ZERO).len(), names.len());
        book
    }

    fn all(book: &Book, now: Duration) -> Accounts {
        book.accounts(|_| true, now)
    }

    /// The answer to a question that is put and answered at `at`.
    fn ask(book: &mut Book, name: &str, answer: NameAnswer, at: Duration) {
        book.ask_all(at);
        book.take_due(at);
        book.record(&user(name), answer, at, at);
    }

    #[test]
    fn a_name_is_pending_for_two_seconds_and_then_undecided() {
        let book = asked(&["alice"]);
        assert_eq!(all(&book, seconds(1)).answer(), Some(Answer::Pending));
        assert_eq!(book.next_event(seconds(1)), Some(FIRST_ANSWER_WITHIN));
        assert_eq!(all(&book, seconds(2)).answer(), Some(Answer::Undecided(Undecided::NameService)));
        assert_eq!(book.next_event(seconds(2)), None, "its question is under way");
    }

    #[test]
    fn a_confirmed_name_is_asked_again_within_a_minute() {
        let mut book = asked(&["alice"]);
        book.record(&user("alice"), IN_FILE, Duration::ZERO, seconds(1));
        assert_eq!(all(&book, seconds(1)).id_of(&user("alice")), Some(1000));
        let again = book.next_event(seconds(1)).unwrap();
        assert!(again < seconds(60));
        assert_eq!(book.take_due(again), [user("alice")]);
        assert_eq!(book.take_due(again), [], "one question at a time");
    }

    #[test]
    fn a_name_that_does_not_exist_is_absent_and_asked_again_soon() {
        let mut book = asked(&["alice"]);
        book.record(&user("alice"), NameAnswer::Absent, Duration::ZERO, Duration::ZERO);
        assert_eq!(all(&book, seconds(1)), Accounts::default());
        assert_eq!(book.next_event(seconds(1)), Some(ASK_AGAIN));
    }

    #[test]
    fn a_name_is_open_five_minutes_after_the_question_of_its_last_answer_and_no_other_name_is() {
        let mut book = asked(&["alice", "bob"]);
        book.record(&user("alice"), IN_FILE, Duration::ZERO, seconds(40));
        book.record(&user("bob"), NameAnswer::Id { id: 2000, in_file: true }, seconds(60), seconds(60));
        let late = seconds(300);
        assert_eq!(book.take_due(seconds(299)).len(), 2);
        assert_eq!(all(&book, late - Duration::from_nanos(1)).answer(), None);
        assert_eq!(book.next_event(seconds(299)), Some(late));
        let accounts = all(&book, late);
        assert_eq!(accounts.open(), &BTreeSet::from([user("alice")]));
        assert_eq!(accounts.answer(), Some(Answer::Undecided(Undecided::NameService)));
        assert_eq!(accounts.user_names(2000), ["bob".into()]);
        book.record(&user("alice"), IN_FILE, seconds(299), seconds(301));
        assert_eq!(all(&book, seconds(301)).answer(), None, "it has come back");
    }

    #[test]
    fn a_failed_question_confirms_nothing_and_is_put_again() {
        let mut book = asked(&["alice"]);
        book.record(&user("alice"), NameAnswer::Failed, Duration::ZERO, seconds(1));
        assert_eq!(all(&book, seconds(1)).answer(), Some(Answer::Undecided(Undecided::NameService)));
        assert_eq!(book.take_due(ASK_AGAIN), [user("alice")]);
        book.record(&user("alice"), IN_FILE, ASK_AGAIN, ASK_AGAIN);
        ask(&mut book, "alice", NameAnswer::Failed, seconds(100));
        assert_eq!(all(&book, seconds(100)).id_of(&user("alice")), Some(1000), "the last answer counts for 5 minutes");
    }

    #[test]
    fn an_id_that_changes_hands_counts_at_once() {
        let mut book = asked(&["alice", "bob"]);
        book.record(&user("alice"), IN_FILE, Duration::ZERO, Duration::ZERO);
        ask(&mut book, "alice", NameAnswer::Id { id: 1001, in_file: true }, seconds(1));
        ask(&mut book, "bob", IN_FILE, seconds(1));
        let accounts = all(&book, seconds(1));
        assert_eq!(
            (accounts.user_names(1000), accounts.user_names(1001)),
            (&["bob".into()][..], &["alice".into()][..])
        );
    }

    #[test]
    fn a_name_is_gone_after_half_a_second_without_it_in_the_file_and_ten_without_it_elsewhere() {
        for (found, gone_after) in [(IN_FILE, REPLACED_WITHIN), (ELSEWHERE, SERVICE_RESTARTS_WITHIN)] {
            let mut book = asked(&["alice"]);
            book.record(&user("alice"), found, Duration::ZERO, Duration::ZERO);
            let begun = seconds(20);
            ask(&mut book, "alice", NameAnswer::Absent, begun);
            let mut now = begun;
            while all(&book, now).id_of(&user("alice")).is_some() {
                assert!(now < begun + gone_after);
                now = book.next_event(now).unwrap();
                assert_eq!(book.take_due(now), [user("alice")]);
                book.record(&user("alice"), NameAnswer::Absent, now, now);
            }
            assert_eq!(now, begun + gone_after);
            ask(&mut book, "alice", found, seconds(40));
            ask(&mut book, "alice", NameAnswer::Absent, seconds(50));
            assert_eq!(all(&book, seconds(50)).id_of(&user("alice")), Some(1000), "it is doubted anew");
        }
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_is_asked_for_again() {
        let mut book = asked(&["alice"]);
        book.ask_all(seconds(1));
        assert_eq!(book.take_due(seconds(1)), [], "its question is under way");
        book.record(&user("alice"), IN_FILE, Duration::ZERO, seconds(2));
        assert!(!book.answered_since([&user("alice")], seconds(1)));
        assert_eq!(book.take_due(seconds(2)), [user("alice")]);
        book.record(&user("alice"), IN_FILE, seconds(2), seconds(2));
        assert!(book.answered_since([&user("alice")], seconds(1)));
        assert_eq!(book.take_due(seconds(3)), []);
    }

    #[test]
    fn names_that_cannot_be_read_are_withheld_and_never_open() {
        let mut book = asked(&["alice", "bob"]);
        book.record(&user("alice"), NameAnswer::NotReadable, Duration::ZERO, Duration::ZERO);
        let accounts = all(&book, seconds(400));
        assert_eq!((accounts.answer(), accounts.withheld_because()), (None, Some(WithheldBecause::NamesNotReadable)));
        book.record(&user("bob"), ELSEWHERE, seconds(400), seconds(400));
        assert!(all(&book, seconds(400)).withheld_because().is_some(), "alice is not read yet");
        ask(&mut book, "alice", NameAnswer::Absent, seconds(401));
        assert_eq!(all(&book, seconds(401)).id_of(&user("bob")), Some(1000));
    }

    #[test]
    fn names_in_the_file_are_asked_first() {
        let mut book = asked(&["a", "b", "c"]);
        book.record(&user("a"), NameAnswer::Absent, Duration::ZERO, Duration::ZERO);
        book.record(&user("b"), ELSEWHERE, Duration::ZERO, Duration::ZERO);
        book.record(&user("c"), IN_FILE, Duration::ZERO, Duration::ZERO);
        assert_eq!(book.take_due(seconds(60)), [user("c"), user("b"), user("a")]);
    }

    #[test]
    fn a_name_that_is_not_wanted_any_more_is_forgotten_with_its_answer() {
        let mut book = asked(&["alice", "bob"]);
        book.keep_only(|name| *name == user("bob"));
        book.record(&user("alice"), IN_FILE, Duration::ZERO, Duration::ZERO);
        assert_eq!(book.wanted(), BTreeSet::from([user("bob")]));
        assert_eq!(all(&book, Duration::ZERO).id_of(&user("alice")), None);
    }
}
