//! Reads the configuration's files. Refuses a file that anybody but root and the daemon's user can write: its writer
//! decides who gets which identity. Of the meaning it knows `include` alone.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::agent::config::problem;
use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Problem;
use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::reader::Section;
use crate::agent::config::syntax;
use crate::trusted_path;
use crate::trusted_path::TrustedUser;
use crate::trusted_path::UntrustedPath;

/// The most bytes of all files together.
pub const MAX_BYTES: u64 = 8 << 20;

/// The most files that may be included.
const MAX_FILES: usize = 10_000;

/// The text of a configuration, as it was read: once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The main file first, then what it includes, in order.
    pub files: Vec<SourceFile>,
    /// The directories in which a file could appear, change or vanish.
    pub folders: Vec<PathBuf>,
}

/// The text of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
}

/// Reads the main file and everything that it includes, for a daemon that runs as `user`. What cannot be read is a problem
/// and left out.
pub fn read(main: &Path, user: TrustedUser) -> (Sources, Findings) {
    let (sources, findings) = Default::default();
    let mut reading = Reading { sources, findings, left: MAX_BYTES, user };
    reading.add(main);
    if let Some(text) = reading.sources.files.first().map(|source| source.text.clone()) {
        for file in included(main, &text, &mut reading) {
            reading.add(&file);
        }
    }
    (reading.sources, reading.findings)
}

struct Reading {
    sources: Sources,
    findings: Findings,
    left: u64,
    user: TrustedUser,
}

impl Reading {
    fn add(&mut self, file: &Path) {
        match read_one(file, &mut self.left, self.user) {
            Ok(text) => {
                self.watch(folder_of(file));
                self.sources.files.push(SourceFile { file: file.to_owned(), text });
            }
            Err(why) => self.findings.problem(Problem::of_file(file, why)),
        }
    }

    fn watch(&mut self, folder: &Path) {
        if !self.sources.folders.iter().any(|known| known == folder) {
            self.sources.folders.push(folder.to_owned());
        }
    }
}

/// The beginning of the main file, up to the size limit, without a check of its owner; empty where it cannot be read.
pub(in crate::agent) fn read_untrusted(main: &Path) -> String {
    // Without `O_NONBLOCK` a FIFO in the file's place would hold up the daemon.
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(main);
    let read = open().and_then(|file| {
        let mut bytes = Vec::new();
        if file.metadata()?.is_file() {
            file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    });
    String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
}

fn read_one(path: &Path, left: &mut u64, user: TrustedUser) -> Result<String, String> {
    let file = trusted_path::open_file(path, user).map_err(|why| match why {
        UntrustedPath::Unreachable { source, .. } => unreadable(&source),
        why => why.to_string(),
    })?;
    let bytes = read_at_most(file, *left).map_err(|error| unreadable(&error))?;
    let bytes = bytes
        .ok_or_else(|| format!("the configuration has more than {} MiB in all; make it shorter", MAX_BYTES >> 20))?;
    *left -= bytes.len() as u64;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("is not UTF-8 in line {line}; TOML is")
    })
}

fn unreadable(error: &io::Error) -> String {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "; write it, or give the name of one that is there",
        io::ErrorKind::PermissionDenied => "; let the user who runs this read it",
        _ => "",
    };
    format!("cannot be read: {error}{fix}")
}

fn read_at_most(file: File, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// The files that the main file includes, in order: pattern by pattern, by name within one.
fn included(main: &Path, text: &str, reading: &mut Reading) -> Vec<PathBuf> {
    let file = problem::File::new(main, text);
    let Some(tree) = syntax::parse(&file, &mut Findings::default()) else { return Vec::new() };
    let section = Section { file: &file, table: &tree, name: "", at: 0 };
    let patterns = Reader::new(Some(section), &mut Findings::default()).strings("include").unwrap_or_default();
    let mut files = Vec::new();
    for pattern in patterns {
        // The reader of the main file reports a wrong pattern.
        let Ok(split) = split_pattern(pattern.value) else { continue };
        match expand(folder_of(main), split, reading) {
            Ok(found) => files.extend(found),
            Err(why) => {
                let at = pattern.span.start;
                reading.findings.problem(file.problem(at, format!("include has {}; {why}", shown(pattern.value))));
            }
        }
        if files.len() > MAX_FILES {
            let problem = format!("it includes more than {MAX_FILES} files; put several entries into one");
            reading.findings.problem(file.problem(pattern.span.start, problem));
            return Vec::new();
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    files.retain(|file| seen.insert(file.clone()));
    files
}

/// Splits a pattern into the directory below the main file's and the names in it.
///
/// # Errors
/// What to write instead.
pub(in crate::agent::config) fn split_pattern(pattern: &str) -> Result<(&str, &str), &'static str> {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let inside = !pattern.starts_with('/') && pattern.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !inside || pattern.chars().any(char::is_control) {
        return Err("write a name below the directory of this file, for example \"entries.d/*.toml\"");
    }
    if folder.contains(['*', '?']) || pattern.contains(['[', ']', '{', '}']) {
        return Err("only * and ? are understood, and only in the last part");
    }
    // The watch on the folder finds new files by this suffix.
    if !name.ends_with(".toml") {
        return Err("write a name that ends in .toml");
    }
    Ok((folder, name))
}

fn expand(base: &Path, (folder, name): (&str, &str), reading: &mut Reading) -> Result<Vec<PathBuf>, String> {
    let folder = if folder.is_empty() { base.to_owned() } else { base.join(folder) };
    reading.watch(&folder);
    if !name.contains(['*', '?']) {
        return Ok(vec![folder.join(name)]);
    }
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{} cannot be read: {error}", folder.display())),
    };
    let mut names = Vec::new();
    for entry in entries.take(MAX_FILES * 2) {
        let entry = entry.map_err(|error| format!("{} cannot be read: {error}", folder.display()))?;
        let found = entry.file_name().into_string().unwrap_or_default();
        // Temporary files of editors, and names that are not UTF-8.
        let passed_over = found.is_empty() || found.starts_with('.') || found.ends_with('~');
        if !passed_over && matches(name.as_bytes(), found.as_bytes()) {
            names.push(found);
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether `*` (any bytes) and `?` (one byte) of the pattern can stand for the name's bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, n));
                p += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else { return false };
                last_star = Some((star, taken + 1));
                p = star + 1;
                n = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
