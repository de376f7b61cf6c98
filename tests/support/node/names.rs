//! A name service that behaves: it has users and groups, changes them, hangs, fails, cannot be read, and comes back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use bonafide::evidence::AccountName;
use bonafide::names::NameAnswer;
use bonafide::names::NameReply;
use bonafide::names::NameSource;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::sleep;

/// The name service. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeNames {
    state: Arc<Mutex<State>>,
    /// A database changed.
    written: Arc<Notify>,
    /// A name is not hung any more.
    released: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    ids: BTreeMap<AccountName, NameAnswer>,
    /// Names of which nothing is said; `None` stands for all.
    hung: BTreeSet<Option<AccountName>>,
    is_down: bool,
    is_unreadable: bool,
    /// How long an answer takes.
    delay: Duration,
    asked: usize,
}

impl FakeNames {
    /// Writes `/etc/passwd`: these are the users of it from now on.
    pub(crate) fn write_passwd(&self, users: &[(&str, u32)]) {
        let mut state = self.state();
        state.ids.retain(|name, answer| {
            matches!(name, AccountName::Group(_)) || matches!(answer, NameAnswer::Id { in_file: false, .. })
        });
        let in_file = |id: u32| NameAnswer::Id { id, in_file: true };
        state.ids.extend(users.iter().map(|(name, uid)| (user(name), in_file(*uid))));
        drop(state);
        self.written.notify_one();
    }

    /// A service beside the file has this user from now on, or has him no more. No file changes.
    pub(crate) fn serve_user(&self, name: &str, uid: Option<u32>) {
        let mut state = self.state();
        match uid {
            Some(id) => drop(state.ids.insert(user(name), NameAnswer::Id { id, in_file: false })),
            None => drop(state.ids.remove(&user(name))),
        }
    }

    /// A service beside the file has this group from now on.
    pub(crate) fn serve_group(&self, name: &str, id: u32) {
        self.state().ids.insert(AccountName::Group(name.into()), NameAnswer::Id { id, in_file: false });
    }

    /// Nothing is said of this user from now on.
    pub(crate) fn hang_user(&self, name: &str) {
        self.state().hung.insert(Some(user(name)));
    }

    /// No question is answered from now on.
    pub(crate) fn hang(&self) {
        self.state().hung.insert(None);
    }

    /// Every question fails from now on.
    pub(crate) fn go_down(&self) {
        self.state().is_down = true;
    }

    /// An answer takes so long from now on.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// The daemon may not read the names of PID 1's root.
    pub(crate) fn close(&self) {
        self.state().is_unreadable = true;
    }

    /// Ends every fault. Questions that hung are answered.
    pub(crate) fn come_back(&self) {
        let mut state = self.state();
        (state.is_down, state.is_unreadable) = (false, false);
        state.hung.clear();
        drop(state);
        self.released.notify_waiters();
    }

    /// How many questions were put.
    pub(crate) fn asked(&self) -> usize {
        self.state().asked
    }

    /// `None` while the question hangs.
    fn answer(&self, name: &AccountName) -> Option<NameAnswer> {
        let state = self.state();
        if state.hung.contains(&None) || state.hung.contains(&Some(name.clone())) {
            return None;
        }
        Some(match () {
            () if state.is_unreadable => NameAnswer::NotReadable,
            () if state.is_down => NameAnswer::Failed,
            () => state.ids.get(name).copied().unwrap_or(NameAnswer::Absent),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl NameSource for FakeNames {
    fn ask(self: Arc<Self>, name: AccountName) -> BoxFuture<'static, NameReply> {
        async move {
            let put = Instant::now();
            self.state().asked += 1;
            let delay = self.state().delay;
            sleep(delay).await;
            loop {
                let released = self.released.notified();
                if let Some(answer) = self.answer(&name) {
                    return NameReply { answer, put };
                }
                released.await;
            }
        }
        .boxed()
    }

    fn subordinate_uids(self: Arc<Self>) -> BoxFuture<'static, Option<Vec<u8>>> {
        async { Some(Vec::new()) }.boxed()
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

fn user(name: &str) -> AccountName {
    AccountName::User(name.into())
}
