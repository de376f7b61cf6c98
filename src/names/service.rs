//! The task that asks the name service, records its answers, and publishes what changes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio::time::timeout;

use crate::evidence::AccountName;
use crate::evidence::Accounts;
use crate::evidence::SubordinateUids;
use crate::names::book::Book;
use crate::names::book::FIRST_ANSWER_WITHIN;
use crate::names::source::NameReply;
use crate::names::source::NameSource;
use crate::names::subordinate::SubordinateRanges;

/// Answers are published together once no question is under way, or so long after the first of them.
const PUBLISH_WITHIN: Duration = Duration::from_millis(100);
/// `/etc/subuid` is read again after so long, whatever its watch says.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// How long the service sleeps where nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of the names that entries use. Names are asked while [`NameService::run`] runs.
#[derive(Debug)]
pub struct NameService {
    source: Arc<dyn NameSource>,
    book: Mutex<Book>,
    /// Wanted whatever the entries use.
    always: BTreeSet<AccountName>,
    begun: Instant,
    published: watch::Sender<Arc<Accounts>>,
    /// A name was added, or all are to be asked again.
    added: Notify,
    databases_changed: Notify,
    /// The same, for whoever follows `/etc/subuid`.
    ranges_changed: Notify,
    answered: watch::Sender<()>,
}

impl NameService {
    /// A service that asks `source`, also for the names in `always`.
    #[must_use]
    pub fn new(source: Arc<dyn NameSource>, always: BTreeSet<AccountName>) -> Self {
        let mut book = Book::default();
        book.want(&always, Duration::ZERO);
        let accounts = book.accounts(|_| true, Duration::ZERO);
        Self {
            source,
            book: Mutex::new(book),
            always,
            begun: Instant::now(),
            published: watch::Sender::new(Arc::new(accounts)),
            added: Notify::new(),
            databases_changed: Notify::new(),
            ranges_changed: Notify::new(),
            answered: watch::Sender::new(()),
        }
    }

    /// What counts now of all names, and every change of it.
    #[must_use]
    pub fn accounts(&self) -> watch::Receiver<Arc<Accounts>> {
        self.published.subscribe()
    }

    /// What counts now of these names. Those that were not wanted before are asked, and pending until then.
    #[must_use]
    pub fn accounts_of(&self, names: &BTreeSet<AccountName>) -> Accounts {
        let now = self.now();
        self.book().want(names, now);
        self.added.notify_one();
        self.publish();
        self.book().accounts(|name| names.contains(name), now)
    }

    /// Forgets every name but these.
    pub fn keep_only(&self, names: &BTreeSet<AccountName>) {
        self.book().keep_only(|name| names.contains(name) || self.always.contains(name));
        self.added.notify_one();
    }

    /// Asks every name now: the machine may have slept since the last answers.
    pub fn ask_again(&self) {
        self.book().ask_all(self.now());
        self.added.notify_one();
    }

    /// Asks these names now, and waits for the answers, at most 2 s.
    pub async fn settle(&self, names: &BTreeSet<AccountName>) {
        let mut answered = self.answered.subscribe();
        let since = self.now();
        {
            let mut book = self.book();
            book.want(names, since);
            book.ask_all(since);
        }
        self.added.notify_one();
        let all = answered.wait_for(|()| self.book().answered_since(names, since));
        let _in_time = timeout(FIRST_ANSWER_WITHIN, all).await;
    }

    /// Follows the local databases, so that a change of them is asked for at once. Never ends, and may block in a file
    /// system.
    pub async fn follow_databases(self: Arc<Self>) {
        let changed = Arc::new(Notify::new());
        let hand_on = async {
            loop {
                changed.notified().await;
                self.databases_changed.notify_one();
                self.ranges_changed.notify_one();
            }
        };
        tokio::select! {
            () = Arc::clone(&self.source).follow(Arc::clone(&changed)) => {}
            () = hand_on => {}
        }
    }

    /// Publishes whose the ranges of `/etc/subuid` are, and every change of it: of the file, or of the uid that a user has.
    /// Never ends. Its users are asked for in a book of their own, so that no entry waits for them.
    pub async fn follow_subordinate_uids(&self, publish: impl Fn(SubordinateUids)) {
        let owners = Self::new(Arc::clone(&self.source), BTreeSet::new());
        tokio::select! {
            biased;
            () = owners.run() => {}
            () = self.publish_ranges(&owners, publish) => {}
        }
    }

    async fn publish_ranges(&self, owners: &Self, publish: impl Fn(SubordinateUids)) {
        let (mut accounts, mut known) = (owners.accounts(), BTreeMap::new());
        let mut ranges = SubordinateRanges::default();
        loop {
            // A file that cannot be read is taken to say what it said last.
            if let Some(text) = Arc::clone(&self.source).subordinate_uids().await {
                let read = SubordinateRanges::parse(&text);
                if read != ranges {
                    read.warning().inspect(|warning| tracing::warn!("{warning}"));
                    ranges = read;
                }
            }
            let names = ranges.names();
            owners.keep_only(&names);
            accounts.mark_unchanged();
            publish(ranges.owned_by(&owners.accounts_of(&names), &mut known));
            let read_again = sleep_until(Instant::now() + READ_AGAIN);
            tokio::pin!(read_again);
            loop {
                tokio::select! {
                    biased;
                    () = self.ranges_changed.notified() => {
                        owners.ask_again();
                        break;
                    }
                    () = &mut read_again => break,
                    Ok(()) = accounts.changed() => {}
                }
                let now = accounts.borrow_and_update().clone();
                publish(ranges.owned_by(&now, &mut known));
            }
        }
    }

    /// Asks, records and publishes. Never ends. A question that hangs delays no other one.
    pub async fn run(&self) {
        let mut questions = FuturesUnordered::new();
        loop {
            let (due, next) = {
                let now = self.now();
                let mut book = self.book();
                (book.take_due(now), book.next_event(now))
            };
            questions.extend(due.into_iter().map(|name| self.ask(name)));
            let next = self.begun + next.unwrap_or(NOTHING_DUE + self.begun.elapsed());
            tokio::select! {
                biased;
                Some((name, reply)) = questions.next() => {
                    self.record(&name, reply);
                    self.record_further(&mut questions).await;
                    self.answered.send_replace(());
                }
                () = self.databases_changed.notified() => self.book().ask_all(self.now()),
                () = self.added.notified() => {}
                () = sleep_until(next) => {}
            }
            self.publish();
        }
    }

    /// Records answers that come close together, so that they are published as one change.
    async fn record_further(&self, questions: &mut FuturesUnordered<impl Future<Output = (AccountName, NameReply)>>) {
        let all = async {
            while let Some((name, reply)) = questions.next().await {
                self.record(&name, reply);
            }
        };
        let _some_hang = timeout(PUBLISH_WITHIN, all).await;
    }

    async fn ask(&self, name: AccountName) -> (AccountName, NameReply) {
        let reply = Arc::clone(&self.source).ask(name.clone()).await;
        (name, reply)
    }

    fn record(&self, name: &AccountName, reply: NameReply) {
        let put = reply.put.saturating_duration_since(self.begun);
        self.book().record(name, reply.answer, put, self.now());
    }

    fn publish(&self) {
        let accounts = self.book().accounts(|_| true, self.now());
        self.published.send_if_modified(|published| {
            let is_new = **published != accounts;
            if is_new {
                *published = Arc::new(accounts);
            }
            is_new
        });
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `source` says of these names within 2 s.
pub async fn look_up(source: Arc<dyn NameSource>, names: &BTreeSet<AccountName>) -> Accounts {
    let service = NameService::new(source, BTreeSet::new());
    tokio::select! {
        biased;
        () = service.settle(names) => {}
        () = service.run() => {}
    }
    service.accounts_of(names)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tokio::sync::mpsc;

    use super::*;
    use crate::names::source::NameAnswer;

    /// A machine with one user, who may hang, and one `/etc/subuid`.
    #[derive(Debug, Default)]
    struct Machine {
        text: Mutex<&'static [u8]>,
        /// `None` while the name service does not answer.
        answer: Mutex<Option<NameAnswer>>,
        written: Notify,
    }

    impl Machine {
        fn write(&self, text: &'static [u8], answer: Option<NameAnswer>) {
            *self.text.lock().unwrap() = text;
            *self.answer.lock().unwrap() = answer;
            self.written.notify_one();
        }
    }

    impl NameSource for Machine {
        fn ask(self: Arc<Self>, _: AccountName) -> BoxFuture<'static, NameReply> {
            async move {
                let put = Instant::now();
                let Some(answer) = *self.answer.lock().unwrap() else { return std::future::pending().await };
                NameReply { answer, put }
            }
            .boxed()
        }

        fn subordinate_uids(self: Arc<Self>) -> BoxFuture<'static, Option<Vec<u8>>> {
            async move { Some(self.text.lock().unwrap().to_vec()) }.boxed()
        }

        fn follow(self: Arc<Self>, changed: Arc<Notify>) -> BoxFuture<'static, ()> {
            async move {
                loop {
                    self.written.notified().await;
                    changed.notify_one();
                }
            }
            .boxed()
        }
    }

    const fn is(id: u32) -> Option<NameAnswer> {
        Some(NameAnswer::Id { id, in_file: true })
    }

    /// Follows the ranges, and waits until the uid 100007 counts for another one than before.
    struct Charged(mpsc::UnboundedReceiver<Option<u32>>, Option<Option<u32>>);

    impl Charged {
        fn on(machine: &Arc<Machine>) -> (Self, Arc<NameService>) {
            let (send, published) = mpsc::unbounded_channel();
            let names = Arc::new(NameService::new(machine.clone(), BTreeSet::new()));
            tokio::spawn(Arc::clone(&names).follow_databases());
            let follows = Arc::clone(&names);
            let publish = move |ranges: SubordinateUids| send.send(ranges.charged(100_007)).unwrap();
            tokio::spawn(async move { follows.follow_subordinate_uids(publish).await });
            (Self(published, None), names)
        }

        async fn next(&mut self) -> Option<u32> {
            loop {
                let now = timeout(Duration::from_secs(100), self.0.recv()).await.unwrap().unwrap();
                if self.1.replace(now) != Some(now) {
                    return now;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ranges_follow_the_file_and_the_uid_of_their_user() {
        let machine = Arc::new(Machine::default());
        machine.write(b"alice:100000:65536\n", is(1000));
        let (mut charged, _names) = Charged::on(&machine);
        assert_eq!(charged.next().await, None, "nobody was asked yet");
        assert_eq!(charged.next().await, Some(1000));
        machine.write(b"alice:100000:65536\n", is(1007));
        assert_eq!(charged.next().await, Some(1007));
        machine.write(b"", is(1007));
        assert_eq!(charged.next().await, Some(100_007));
        machine.write(b"1009:100000:65536\n", None);
        assert_eq!(charged.next().await, Some(1009));
    }

    #[tokio::test(start_paused = true)]
    async fn ranges_stay_with_their_user_while_the_name_service_hangs_and_no_entry_waits_for_it() {
        let machine = Arc::new(Machine::default());
        machine.write(b"alice:100000:65536\n", is(1000));
        let (mut charged, names) = Charged::on(&machine);
        assert_eq!((charged.next().await, charged.next().await), (None, Some(1000)));
        machine.write(b"alice:100000:65537\n", None);
        let hour =
            timeout(Duration::from_secs(3600), async { while charged.0.recv().await == Some(Some(1000)) {} }).await;
        assert!(hour.is_err(), "the uid is charged to another one");
        assert!(names.accounts().borrow().open().is_empty());
    }
}
