//! The task that asks the name service, records its answers, and publishes what changes.

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
use crate::names::book::Book;
use crate::names::book::FIRST_ANSWER_WITHIN;
use crate::names::source::NameReply;
use crate::names::source::NameSource;

/// Answers are published together once no question is under way, or so long after the first of them.
const PUBLISH_WITHIN: Duration = Duration::from_millis(100);
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
    databases_changed: Arc<Notify>,
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
            databases_changed: Arc::default(),
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
        Arc::clone(&self.source).follow(Arc::clone(&self.databases_changed)).await;
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
