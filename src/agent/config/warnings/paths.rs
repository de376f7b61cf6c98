//! Warns of paths of programs that no process can have on this machine. Asked by `config check` alone: a file system
//! that hangs must not hold up a start or a reload.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::agent::config::files::Sources;
use crate::agent::config::problem::File;
use crate::agent::config::problem::Findings;
use crate::agent::config::problem::MAX_FINDINGS;
use crate::agent::config::problem::Place;
use crate::agent::config::problem::Problem;
use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::reader::Section;
use crate::agent::config::syntax;
use crate::evidence::Selector;

/// How long the file systems may take for all paths.
const WITHIN: Duration = Duration::from_secs(5);

/// Looks at every `unix:path:` of the files, and warns of those that are not the path that the kernel will show.
#[must_use]
pub fn of_paths(sources: &Sources) -> Vec<Problem> {
    let paths = written_paths(sources);
    let Some(first) = paths.values().flatten().next().cloned() else { return Vec::new() };
    let (send, answers) = mpsc::channel();
    let asked: Vec<_> = paths.keys().cloned().collect();
    // A file system that hangs keeps this thread; it holds nothing, and dies with the process.
    let started = std::thread::Builder::new().name("paths".to_owned()).spawn(move || {
        let found = asked.into_iter().filter_map(|path| Some((mismatch(Path::new(&*path))?, path))).collect::<Vec<_>>();
        send.send(found)
    });
    let Some(found) = started.ok().and_then(|_| answers.recv_timeout(WITHIN).ok()) else {
        let text =
            format!("the paths of programs were not looked at: the file system did not answer within {WITHIN:?}");
        return vec![first.problem(text)];
    };
    let places = |path: &Arc<str>| paths.get(path).into_iter().flatten();
    let warnings = found.iter().flat_map(|(advice, path)| {
        let selector = Selector::UnixPath(Arc::clone(path)).to_string();
        places(path).map(move |place| place.problem(format!("selector {} {advice}", shown(&selector))))
    });
    let mut warnings: Vec<_> = warnings.take(MAX_FINDINGS).collect();
    warnings.sort();
    warnings
}

/// Every path that an entry names, with its places.
fn written_paths(sources: &Sources) -> BTreeMap<Arc<str>, Vec<Place>> {
    let mut paths: BTreeMap<Arc<str>, Vec<Place>> = BTreeMap::new();
    for source in &sources.files {
        let file = File::new(&source.file, &source.text);
        // What is wrong with the file was reported when it was read.
        let mut reported = Findings::default();
        let Some(tree) = syntax::parse(&file, &mut reported) else { continue };
        let top = Section { file: &file, table: &tree, name: "", at: 0 };
        for entry in Reader::new(Some(top), &mut reported).sections("workload", "[[workload]]") {
            let mut entry = Reader::new(Some(entry), &mut reported);
            for text in entry.strings("selectors").unwrap_or_default() {
                let path = text.value.parse().ok().and_then(|selector| match selector {
                    Selector::UnixPath(path) => Some(path),
                    _ => None,
                });
                if let Some((path, place)) = path.zip(entry.place_at(text.span.start)) {
                    paths.entry(path).or_default().push(place);
                }
            }
        }
    }
    paths
}

/// Why no process has this path, and what to write instead.
fn mismatch(path: &Path) -> Option<String> {
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Some(
                "matches nothing on this machine: there is no such file; install it, or write its path".to_owned(),
            );
        }
        Err(_) => return None,
    };
    if !fs::metadata(&real).ok()?.is_file() {
        return Some("matches nothing: it is not a file; write the path of a program".to_owned());
    }
    (real != path).then(|| {
        let real = Selector::UnixPath(real.to_string_lossy().into()).to_string();
        format!("matches nothing: its path leads through a link, and the kernel shows the real one; write {real:?}")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::agent::config::files::SourceFile;

    #[test]
    fn a_path_that_no_process_can_have_is_warned_of_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/program"), "").unwrap();
        symlink("real", root.join("linked")).unwrap();
        symlink("real/program", root.join("program")).unwrap();
        let paths = ["real/program", "linked/program", "program", "none", "real/program/x", "real"];
        let selectors: Vec<_> = paths.map(|path| format!("  \"unix:path:{}/{path}\",\n", root.display())).into();
        let text = format!("[[workload]]\nselectors = [\n{}]\n", selectors.concat());
        let sources = Sources { files: vec![SourceFile { file: "b.toml".into(), text }], folders: Vec::new() };
        let warnings: Vec<_> =
            of_paths(&sources).iter().map(|warning| warning.warning().replace(root.to_str().unwrap(), "")).collect();
        let through = "matches nothing: its path leads through a link, and the kernel shows the real one; write \
                       \"unix:path:/real/program\"";
        let missing = "matches nothing on this machine: there is no such file; install it, or write its path";
        assert_eq!(
            warnings,
            [
                format!("b.toml:4:3: warning: selector \"unix:path:/linked/program\" {through}"),
                format!("b.toml:5:3: warning: selector \"unix:path:/program\" {through}"),
                format!("b.toml:6:3: warning: selector \"unix:path:/none\" {missing}"),
                format!("b.toml:7:3: warning: selector \"unix:path:/real/program/x\" {missing}"),
                "b.toml:8:3: warning: selector \"unix:path:/real\" matches nothing: it is not a file; write the path of a program".to_owned(),
            ]
        );
    }
}
