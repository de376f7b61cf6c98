//! The name service of this machine: the local databases of PID 1's root, and NSS where the daemon has that root, too.
//!
//! SECURITY: a daemon in a container has a root of its own, with users of its own. Asking its NSS would give the names of
//! the image to the processes of the host. There only the host's databases count, and only where its `nsswitch.conf` asks
//! them before every other service.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nix::unistd::Group;
use nix::unistd::User;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::evidence::AccountName;
use crate::file_watch::FileWatch;
use crate::file_watch::Watched;
use crate::names::askers::Askers;
use crate::names::root;
use crate::names::root::FIRST_ROOT;
use crate::names::root::HostDatabases;
use crate::names::root::NoDatabases;
use crate::names::root::RootOf;
use crate::names::source::NameAnswer;
use crate::names::source::NameReply;
use crate::names::source::NameSource;

/// The most threads that read the local databases.
const FILE_READERS: usize = 2;
/// The most threads that may hang in NSS.
const NSS_ASKERS: usize = 16;
/// NSS is asked again for a name after so long without an answer.
const HUNG_AFTER: Duration = Duration::from_secs(60);

/// The name service of PID 1's root.
#[derive(Debug)]
pub struct SystemNames {
    databases: HostDatabases,
    /// Whether PID 1's root has to be read; otherwise the daemon's own counts.
    of_first_process: bool,
    /// Threads of their own, so that a service that hangs delays no name of the local databases.
    readers: Askers,
    askers: Askers,
}

impl SystemNames {
    /// The names of PID 1's root.
    #[must_use]
    pub fn of_first_process() -> Self {
        Self {
            databases: HostDatabases::default(),
            of_first_process: true,
            readers: Askers::new(FILE_READERS),
            askers: Askers::new(NSS_ASKERS),
        }
    }

    /// The names of the own root, by which no process is selected.
    #[must_use]
    pub fn of_own_root() -> Self {
        Self { of_first_process: false, ..Self::of_first_process() }
    }

    fn root(&self) -> Result<RootOf, NoDatabases> {
        if self.of_first_process { root::find() } else { Ok(RootOf::Daemon) }
    }

    /// The answer of the local databases; `None` where NSS has to be asked. SPEC: nsswitch.conf(5): a name of the first
    /// service has its id whatever the others would say.
    fn answer_of_databases(&self, name: &AccountName) -> Option<NameAnswer> {
        let read = self.root().and_then(|root| Ok((root, self.databases.read(root)?)));
        let (root, databases) = match read {
            Ok(read) => read,
            Err(NoDatabases::NotReadable) => return Some(NameAnswer::NotReadable),
            Err(NoDatabases::Failed) => return Some(NameAnswer::Failed),
        };
        let local = databases.id_of(name).filter(|_| databases.come_first(name));
        match (root, local) {
            (_, Some(id)) => Some(NameAnswer::Id { id, in_file: true }),
            (RootOf::Daemon, None) => None,
            (RootOf::FirstProcess, None) if databases.come_first(name) => Some(NameAnswer::Absent),
            (RootOf::FirstProcess, None) => Some(NameAnswer::NotReadable),
        }
    }
}

impl NameSource for SystemNames {
    fn ask(self: Arc<Self>, name: AccountName) -> BoxFuture<'static, NameReply> {
        async move {
            let (source, wanted) = (Arc::clone(&self), name.clone());
            let local = self.readers.run(move || (Instant::now(), source.answer_of_databases(&wanted)));
            match local.await {
                (put, Some(answer)) => NameReply { answer, put },
                (_, None) => {
                    let ask = move || NameReply { put: Instant::now(), answer: ask_nss(&name) };
                    self.askers.run_again(ask, HUNG_AFTER).await
                }
            }
        }
        .boxed()
    }

    fn subordinate_uids(self: Arc<Self>) -> BoxFuture<'static, Option<Vec<u8>>> {
        async move {
            let source = Arc::clone(&self);
            // Where PID 1's root cannot be read, the daemon's own is the reference: it limits, and gives nobody anything.
            let root = move || match source.root() {
                Err(NoDatabases::NotReadable) => Ok(RootOf::Daemon),
                root => root,
            };
            self.readers.run(move || root().and_then(root::subordinate_uids).ok()).await
        }
        .boxed()
    }

    fn follow(self: Arc<Self>, changed: Arc<Notify>) -> BoxFuture<'static, ()> {
        async move {
            let etc = match self.root() {
                Ok(RootOf::FirstProcess) => Path::new(FIRST_ROOT).join("etc"),
                _ => "/etc".into(),
            };
            let files = root::FILES.into_iter().chain([root::SUBORDINATE_UIDS]);
            let mut watch = FileWatch::polling(files.map(|file| Watched::File(etc.join(file))).collect());
            loop {
                watch.changed().await;
                changed.notify_one();
            }
        }
        .boxed()
    }
}

/// Whether the daemon's own name service is that of PID 1's root. May block in a file system.
#[must_use]
pub fn has_names_of_first_process() -> bool {
    root::find() == Ok(RootOf::Daemon)
}

/// Asks NSS. May block for ever.
///
/// An error is a service that is down, and never "there is no such name": glibc returns success without an entry for that.
fn ask_nss(name: &AccountName) -> NameAnswer {
    let id = match name {
        AccountName::User(name) => User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())),
        AccountName::Group(name) => Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())),
    };
    match id {
        Ok(Some(id)) => NameAnswer::Id { id, in_file: false },
        Ok(None) => NameAnswer::Absent,
        Err(_) => NameAnswer::Failed,
    }
}
