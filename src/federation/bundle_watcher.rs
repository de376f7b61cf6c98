//! Publishes the foreign bundles: reads every file at the start, and each again when it changes.

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
use crate::trusted_path::TrustedUser;

/// The bundles of foreign trust domains, published as one map. A trust domain without a usable bundle is left out.
#[derive(Debug)]
pub struct ForeignBundles {
    relationships: Vec<Relationship>,
    files: FileWatch,
    published: watch::Sender<Arc<Bundles>>,
    reason: Reason,
}

impl ForeignBundles {
    /// Reads every file once. An unusable file does not affect the others: it is reported in `readiness` and in the
    /// log.
    #[must_use]
    pub fn load(settings: &[FederationSettings], readiness: Readiness) -> Self {
        let files = FileWatch::new(Vec::new());
        let published = watch::Sender::new(Arc::default());
        let reason = readiness.register("federation");
        let mut bundles = Self { relationships: Vec::new(), files, published, reason };
        bundles.apply(settings);
        bundles
    }

    /// The current bundles and their changes. A file that is read again without a change wakes no receiver.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        self.published.subscribe()
    }

    /// The current problems of the files, in the order of the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<&BundleProblem> {
        self.relationships.iter().filter_map(|relationship| relationship.problem.as_ref()).collect()
    }

    /// Reads each file again when it changes, and applies each change of `settings`, until `stop`.
    pub async fn watch_files(
        mut self,
        mut settings: watch::Receiver<Arc<[FederationSettings]>>,
        stop: CancellationToken,
    ) {
        // The settings may have changed between `load` and now.
        settings.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = settings.changed() => {
                    let settings = Arc::clone(&settings.borrow_and_update());
                    self.apply(&settings);
                }
                changed = self.files.changed(), if !self.relationships.is_empty() => self.read_again(&changed),
            }
        }
    }

    /// Keeps unchanged relationships, drops removed ones, and reads the files of new or changed ones.
    fn apply(&mut self, settings: &[FederationSettings]) {
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

/// Reads the file of a relationship. Logs problems, ignored parts and bundles only where they are new.
fn read(relationship: &mut Relationship) {
    let before = (relationship.bundle.clone(), relationship.problem.clone(), relationship.ignored.clone());
    relationship.update(read_bundle_file(&relationship.settings, TrustedUser::own()));
    let FederationSettings { trust_domain, bundle_file } = &relationship.settings;
    let file = bundle_file.display();
    match &relationship.problem {
        Some(problem) if before.1.as_ref() != Some(problem) => tracing::warn!("{problem}"),
        _ => {}
    }
    for ignored in relationship.ignored.iter().filter(|new| new.why.is_a_fault() && !before.2.contains(new)) {
        tracing::warn!(%trust_domain, %file, "part of the bundle ignored: {ignored}");
    }
    if let Some(bundle) = relationship.bundle.as_ref().filter(|bundle| before.0.as_ref() != Some(bundle)) {
        let (roots, keys) = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        tracing::info!(%trust_domain, %file, roots, keys, sequence = bundle.sequence, "bundle loaded");
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

    /// A task that watches the bundle files of a folder.
    struct WatchedFolder {
        folder: TempDir,
        readiness: Readiness,
        bundles: watch::Receiver<Arc<Bundles>>,
        settings: watch::Sender<Arc<[FederationSettings]>>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    impl WatchedFolder {
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
            let (settings, applied) = watch::channel(settings);
            let stop = CancellationToken::new();
            let task = tokio::spawn(foreign.watch_files(applied, stop.clone()));
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
            let reported = reasons.wait_for(|reasons| match text {
                Some(text) => reasons.iter().any(|reason| reason.detail.contains(text)),
                None => reasons.is_empty(),
            });
            timeout(Duration::from_secs(5), reported).await.expect("reported within five seconds").unwrap();
        }
    }

    fn settings_of(folder: &TempDir, name: &str) -> FederationSettings {
        FederationSettings { trust_domain: name.parse().unwrap(), bundle_file: folder.path().join(name) }
    }

    fn bundle(sequence: u64) -> String {
        format!(r#"{{"keys":[],"spiffe_sequence":{sequence}}}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn an_unusable_file_at_the_start_is_loaded_once_it_is_fixed() {
        let mut watched = WatchedFolder::start(&[("good.test", &bundle(1)), ("bad.test", "{")]);
        assert_eq!((watched.sequence("good.test"), watched.sequence("bad.test")), (Some(1), None));
        assert!(watched.readiness.is_ready());
        watched.problems_contain(Some("bad.test")).await;
        watched.replace("bad.test", &bundle(2));
        watched.changed().await;
        assert_eq!((watched.sequence("good.test"), watched.sequence("bad.test")), (Some(1), Some(2)));
        watched.problems_contain(None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_replaced_or_rewritten_is_published_within_a_second() {
        let mut watched = WatchedFolder::start(&[("partner.test", &bundle(1))]);
        let begun = Instant::now();
        watched.replace("partner.test", &bundle(2));
        watched.changed().await;
        assert_eq!(watched.sequence("partner.test"), Some(2));
        fs::write(watched.folder.path().join("partner.test"), bundle(3)).unwrap();
        watched.changed().await;
        assert_eq!(watched.sequence("partner.test"), Some(3));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_usable_bundle_stays_when_its_file_is_invalid_old_or_removed() {
        let watched = WatchedFolder::start(&[("partner.test", &bundle(7))]);
        let path = watched.folder.path().join("partner.test");
        for (damage, problem) in [
            (&(|| watched.replace("partner.test", "{\"keys\":")) as &dyn Fn(), "not JSON"),
            (&|| watched.replace("partner.test", &bundle(6)), "spiffe_sequence is 6"),
            (&|| fs::remove_file(&path).unwrap(), "cannot be read"),
        ] {
            damage();
            watched.problems_contain(Some(problem)).await;
            assert_eq!(watched.sequence("partner.test"), Some(7), "{problem}");
        }
        watched.replace("partner.test", &bundle(7));
        watched.problems_contain(None).await;
        assert!(!watched.bundles.has_changed().unwrap(), "no receiver was woken");
    }

    #[tokio::test(start_paused = true)]
    async fn relationships_are_added_and_removed_with_the_settings() {
        let mut watched = WatchedFolder::start(&[("a.test", &bundle(1)), ("b.test", "bad")]);
        fs::write(watched.folder.path().join("c.test"), bundle(3)).unwrap();
        watched.settings.send_replace(["a.test", "c.test"].map(|name| settings_of(&watched.folder, name)).into());
        watched.changed().await;
        assert_eq!((watched.sequence("a.test"), watched.sequence("c.test")), (Some(1), Some(3)));
        watched.problems_contain(None).await;
        watched.replace("c.test", &bundle(4));
        watched.changed().await;
        assert_eq!(watched.sequence("c.test"), Some(4));
        watched.settings.send_replace([settings_of(&watched.folder, "c.test")].into());
        watched.changed().await;
        assert_eq!((watched.sequence("a.test"), watched.sequence("c.test")), (None, Some(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_ends_when_it_is_stopped() {
        let watched = WatchedFolder::start(&[]);
        watched.stop.cancel();
        timeout(Duration::from_secs(1), watched.task).await.expect("it ends").unwrap();
    }
}
