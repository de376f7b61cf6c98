//! Keeps foreign bundles as their files say: reads all of them once, then each again when it changes.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::federation::BundleProblem;
use crate::federation::FederationSettings;
use crate::federation::foreign_bundles::Relationship;
use crate::federation::read_bundle_file;
use crate::file_watch::FileWatch;
use crate::file_watch::Watched;
use crate::identity::bundle::Bundles;
use crate::readiness::Readiness;
use crate::readiness::Reason;
use crate::readiness::Severity;

/// The bundles of foreign trust domains, published as one map. A trust domain without a usable bundle is not in it.
#[derive(Debug)]
pub struct ForeignBundles {
    relationships: Vec<Relationship>,
    files: FileWatch,
    published: watch::Sender<Arc<Bundles>>,
    reason: Reason,
}

impl ForeignBundles {
    /// Reads every file once. A bad one stands in nobody's way: it is said in `readiness` and in the log.
    #[must_use]
    pub fn load(settings: &[FederationSettings], readiness: Readiness) -> Self {
        let files = FileWatch::new(Vec::new());
        let published = watch::Sender::new(Arc::default());
        let reason = readiness.register("federation");
        let mut bundles = Self { relationships: Vec::new(), files, published, reason };
        bundles.follow(settings);
        bundles
    }

    /// The bundles now, and a wait for their change. Nobody is woken by a file that says what it said before.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        self.published.subscribe()
    }

    /// What is wrong with files now, in the order of the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<&BundleProblem> {
        self.relationships.iter().filter_map(|relationship| relationship.problem.as_ref()).collect()
    }

    /// Reads each file again when it changes, and follows `settings`, until `stop`.
    pub async fn watch_files(
        mut self,
        mut settings: watch::Receiver<Arc<[FederationSettings]>>,
        stop: CancellationToken,
    ) {
        // What was set between `load` and now counts, too.
        settings.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = settings.changed() => {
                    let settings = Arc::clone(&settings.borrow_and_update());
                    self.follow(&settings);
                }
                changed = self.files.changed(), if !self.relationships.is_empty() => self.read_again(&changed),
            }
        }
    }

    /// Keeps what stays, drops what is gone and reads what is new.
    fn follow(&mut self, settings: &[FederationSettings]) {
        self.files.watch_instead(settings.iter().map(|one| Watched::File(one.bundle_file.clone())).collect());
        let mut before = std::mem::take(&mut self.relationships);
        for settings in settings {
            let known = before.iter().position(|one| one.settings.trust_domain == settings.trust_domain);
            let mut relationship =
                known.map_or_else(|| Relationship::new(settings.clone()), |place| before.swap_remove(place));
            if known.is_none() || relationship.settings != *settings {
                relationship.settings = settings.clone();
                read(&mut relationship);
            }
            self.relationships.push(relationship);
        }
        self.publish();
    }

    fn read_again(&mut self, changed: &[PathBuf]) {
        self.relationships.iter_mut().filter(|one| changed.contains(&one.settings.bundle_file)).for_each(read);
        self.publish();
    }

    fn publish(&self) {
        let usable = self.relationships.iter().filter_map(|one| {
            let bundle = one.bundle.clone()?;
            Some((bundle.trust_domain.clone(), bundle))
        });
        let bundles: Bundles = usable.collect();
        self.published.send_if_modified(|published| {
            let changed = **published != bundles;
            if changed {
                *published = Arc::new(bundles);
            }
            changed
        });
        let problems: Vec<_> = self.problems().into_iter().map(ToString::to_string).collect();
        if problems.is_empty() {
            self.reason.clear();
        } else {
            self.reason.block(Severity::Degraded, problems.join("\n"));
        }
    }
}

/// Reads the file of a relationship, and logs what is new in the outcome.
fn read(relationship: &mut Relationship) {
    let before = (relationship.bundle.clone(), relationship.problem.clone(), relationship.ignored.clone());
    relationship.take(read_bundle_file(&relationship.settings));
    let FederationSettings { trust_domain, bundle_file } = &relationship.settings;
    let file = bundle_file.display();
    match &relationship.problem {
        Some(problem) if before.1.as_ref() != Some(problem) => tracing::warn!("{problem}"),
        _ => {}
    }
    for ignored in relationship.ignored.iter().filter(|new| new.why.is_a_fault() && !before.2.contains(new)) {
        tracing::warn!(%trust_domain, %file, "a part of the bundle is not in use: {ignored}");
    }
    if let Some(bundle) = relationship.bundle.as_ref().filter(|bundle| before.0.as_ref() != Some(bundle)) {
        let (roots, keys) = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        tracing::info!(%trust_domain, %file, roots, keys, sequence = bundle.sequence, "bundle in use");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;
    use tokio::time::timeout;

    use super::*;

    /// A node that federates with what is in its folder, and the task that watches it.
    struct Node {
        folder: TempDir,
        readiness: Readiness,
        bundles: watch::Receiver<Arc<Bundles>>,
        settings: watch::Sender<Arc<[FederationSettings]>>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    impl Node {
        fn start(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(folder.path().join(name), text).unwrap();
            }
            let readiness = Readiness::default();
            let settings: Arc<[FederationSettings]> =
                files.iter().map(|(name, _)| settings_of(&folder, name)).collect();
            let foreign = ForeignBundles::load(&settings, readiness.clone());
            let bundles = foreign.bundles();
            let (settings, follow) = watch::channel(settings);
            let stop = CancellationToken::new();
            let task = tokio::spawn(foreign.watch_files(follow, stop.clone()));
            Self { folder, readiness, bundles, settings, stop, task }
        }

        fn replace(&self, name: &str, text: &str) {
            let new = self.folder.path().join(".new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.folder.path().join(name)).unwrap();
        }

        fn sequence(&self, name: &str) -> Option<u64> {
            self.bundles.borrow().get(name).and_then(|bundle| bundle.sequence)
        }

        /// Waits for new bundles, at most a second.
        async fn changed(&mut self) {
            timeout(Duration::from_secs(1), self.bundles.changed()).await.expect("within a second").unwrap();
        }

        /// Waits until the problems contain `text`, or until there are none.
        async fn problems_contain(&self, text: Option<&str>) {
            let mut reasons = self.readiness.watch();
            let said = reasons.wait_for(|reasons| match text {
                Some(text) => reasons.iter().any(|reason| reason.detail.contains(text)),
                None => reasons.is_empty(),
            });
            timeout(Duration::from_secs(5), said).await.expect("it is said").unwrap();
        }
    }

    fn settings_of(folder: &TempDir, name: &str) -> FederationSettings {
        FederationSettings { trust_domain: name.parse().unwrap(), bundle_file: folder.path().join(name) }
    }

    fn bundle(sequence: u64) -> String {
        format!(r#"{{"keys":[],"spiffe_sequence":{sequence}}}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_file_at_the_start_stands_in_nobodys_way_and_is_taken_once_it_is_right() {
        let mut node = Node::start(&[("good.test", &bundle(1)), ("bad.test", "{")]);
        assert_eq!((node.sequence("good.test"), node.sequence("bad.test")), (Some(1), None));
        assert!(node.readiness.is_ready());
        node.problems_contain(Some("bad.test")).await;
        node.replace("bad.test", &bundle(2));
        node.changed().await;
        assert_eq!((node.sequence("good.test"), node.sequence("bad.test")), (Some(1), Some(2)));
        node.problems_contain(None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_served_within_a_second_and_written_in_place_or_replaced() {
        let mut node = Node::start(&[("partner.test", &bundle(1))]);
        let begun = Instant::now();
        node.replace("partner.test", &bundle(2));
        node.changed().await;
        assert_eq!(node.sequence("partner.test"), Some(2));
        fs::write(node.folder.path().join("partner.test"), bundle(3)).unwrap();
        node.changed().await;
        assert_eq!(node.sequence("partner.test"), Some(3));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_bundle_is_kept_when_its_file_goes_bad_old_or_away() {
        let node = Node::start(&[("partner.test", &bundle(7))]);
        let path = node.folder.path().join("partner.test");
        for (spoil, said) in [
            (&(|| node.replace("partner.test", "{\"keys\":")) as &dyn Fn(), "not JSON"),
            (&|| node.replace("partner.test", &bundle(6)), "spiffe_sequence is 6"),
            (&|| fs::remove_file(&path).unwrap(), "cannot be read"),
        ] {
            spoil();
            node.problems_contain(Some(said)).await;
            assert_eq!(node.sequence("partner.test"), Some(7), "{said}");
        }
        node.replace("partner.test", &bundle(7));
        node.problems_contain(None).await;
        assert!(!node.bundles.has_changed().unwrap(), "nobody was woken by any of it");
    }

    #[tokio::test(start_paused = true)]
    async fn relationships_come_and_go_with_the_settings() {
        let mut node = Node::start(&[("a.test", &bundle(1)), ("b.test", "bad")]);
        fs::write(node.folder.path().join("c.test"), bundle(3)).unwrap();
        node.settings.send_replace(["a.test", "c.test"].map(|name| settings_of(&node.folder, name)).into());
        node.changed().await;
        assert_eq!((node.sequence("a.test"), node.sequence("c.test")), (Some(1), Some(3)));
        node.problems_contain(None).await;
        node.replace("c.test", &bundle(4));
        node.changed().await;
        assert_eq!(node.sequence("c.test"), Some(4));
        node.settings.send_replace([settings_of(&node.folder, "c.test")].into());
        node.changed().await;
        assert_eq!((node.sequence("a.test"), node.sequence("c.test")), (None, Some(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_ends_when_it_is_told_to() {
        let node = Node::start(&[]);
        node.stop.cancel();
        timeout(Duration::from_secs(1), node.task).await.expect("it ends").unwrap();
    }
}
