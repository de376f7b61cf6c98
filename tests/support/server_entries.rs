//! A source of entries beside the configuration: a server that registers them, changes them while the node runs, and may
//! go away.

use std::sync::Arc;
use std::time::Duration;

use bonafide::registration::Entry;
use bonafide::registration::EntrySet;
use bonafide::registration::EntrySource;
use bonafide::registration::entry::EntryOrder;
use bonafide::registration::entry::Origin;
use bonafide::registration::entry::Terms;
use tokio::sync::watch;

use crate::node::TRUST_DOMAIN;

/// The server's end.
pub(crate) struct Server(watch::Sender<Arc<EntrySet>>);

/// The node's end.
#[derive(Debug)]
pub(crate) struct ServerEntries(watch::Receiver<Arc<EntrySet>>);

/// A server that registers `entries`, and the source that a node follows.
pub(crate) fn server(entries: &[(&str, &[&str])]) -> (Server, Arc<dyn EntrySource>) {
    let (server, node) = watch::channel(Arc::new(set(entries)));
    (Server(server), Arc::new(ServerEntries(node)))
}

impl Server {
    /// Registers these entries, by path and selectors, in place of those before.
    pub(crate) fn register(&self, entries: &[(&str, &[&str])]) {
        self.0.send_replace(Arc::new(set(entries)));
    }
}

impl EntrySource for ServerEntries {
    fn name(&self) -> &str {
        "registry"
    }

    fn entries(&self) -> watch::Receiver<Arc<EntrySet>> {
        self.0.clone()
    }
}

fn set(entries: &[(&str, &[&str])]) -> EntrySet {
    let entries = (0..).zip(entries).map(|(place, (path, selectors))| Arc::new(entry(place, path, selectors)));
    EntrySet { entries: entries.collect(), ..EntrySet::default() }
}

/// Selectors are kept as the server wrote them, whether or not anything can prove them.
fn entry(place: u32, path: &str, selectors: &[&str]) -> Entry {
    let mut selectors: Vec<_> = selectors.iter().map(|text| (*text).to_owned().try_into().unwrap()).collect();
    selectors.sort();
    Entry {
        id: format!("spiffe://{TRUST_DOMAIN}{path}").parse().unwrap(),
        selectors,
        terms: Terms {
            x509_ttl: Duration::from_secs(3600),
            jwt_ttl: Duration::from_secs(300),
            dns: Vec::new(),
            subject: Default::default(),
            audiences: None,
        },
        federates_with: Vec::new(),
        hint: None,
        priority: 0,
        accept_weak: false,
        order: EntryOrder { source: 1, place },
        origin: Origin::Server { server: "registry".to_owned(), entry: format!("entry-{place}") },
    }
}
