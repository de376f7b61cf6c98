//! Reads the files of a configuration again when they change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::agent::config::files;
use crate::agent::reload::ReloadTrigger;
use crate::agent::reload::Reloader;
use crate::agent::reload::active::ActiveConfig;
use crate::endpoints::admin::reports::ReloadState;
use crate::file_watch::FileWatch;
use crate::file_watch::Watched;
use crate::trusted_path::TrustedUser;

/// How often refused files are read again: the cause may be the mode of a directory or a lack of descriptors, which no
/// watch on a file notices.
const READ_AGAIN: Duration = Duration::from_secs(2);

/// Reads the files again whenever they change, until `stop`.
pub(in crate::agent) async fn follow_files(reloader: Arc<Reloader>, stop: CancellationToken) {
    let mut watch = FileWatch::new(watched(reloader.file(), &reloader.active()));
    loop {
        if !missed_a_change(&reloader).await {
            let refused = matches!(reloader.active().state, ReloadState::LastGood | ReloadState::AwaitsRestart);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = watch.changed() => {}
                () = sleep(READ_AGAIN), if refused => continue,
            }
        }
        reloader.reload(ReloadTrigger::SeenOnDisk).await;
        watch.watch_instead(watched(reloader.file(), &reloader.active()));
    }
}

/// RACE: the files to watch are known after they have been read, so neither sees a change in between. A reading that failed
/// as a whole is not repeated at once.
async fn missed_a_change(reloader: &Reloader) -> bool {
    let active = reloader.active();
    let main = reloader.file().to_owned();
    let read = active.state == ReloadState::Current || active.refused.is_some();
    read && tokio::task::spawn_blocking(move || files::read(&main, TrustedUser::own()).0)
        .await
        .is_ok_and(|sources| sources != *active.on_disk())
}

/// The main file and everything that it includes now, whether or not that was accepted: a file is fixed where it is.
fn watched(main: &Path, active: &ActiveConfig) -> Vec<Watched> {
    let files = active.on_disk().files.iter().map(|source| Watched::File(source.file.clone()));
    let folders = active.on_disk().folders.iter();
    let folders = folders.map(|folder| Watched::Folder { folder: folder.clone(), suffix: ".toml".to_owned() });
    files.chain([Watched::File(main.to_owned())]).chain(folders).collect()
}
