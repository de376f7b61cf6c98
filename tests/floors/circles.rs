//! Circles among files: files of which each uses the other, directly or through others.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::source::Segments;
use crate::source::Source;

type Uses<'s> = BTreeMap<&'s str, BTreeSet<&'s str>>;

/// The circles among `sources`, each sorted.
pub(crate) fn circles(sources: &[Source]) -> BTreeSet<Vec<&str>> {
    let uses = uses(sources);
    let reached: BTreeMap<_, _> = uses.keys().map(|file| (*file, reached_from(file, &uses))).collect();
    let circle_of = |file: &str| {
        let others = reached[file].iter().copied();
        others.filter(|other| reached[other].contains(file)).collect::<Vec<_>>()
    };
    uses.keys().map(|file| circle_of(file)).filter(|circle| circle.len() > 1).collect()
}

/// Which other files each file uses.
pub(crate) fn uses(sources: &[Source]) -> Uses<'_> {
    let files: BTreeMap<&[String], &str> =
        sources.iter().map(|source| (&*source.module, source.file.as_str())).collect();
    let re_exports: BTreeMap<_, _> = sources.iter().flat_map(|source| &source.re_exports).collect();
    let defining = |path: &Segments| {
        let path = through(path, &re_exports);
        (1..=path.len()).rev().find_map(|length| files.get(&path[..length]).copied())
    };
    let used = |source: &Source| {
        let files: BTreeSet<_> = source.uses.iter().filter_map(&defining).collect();
        files.into_iter().filter(|file| **file != source.file).collect()
    };
    sources.iter().map(|source| (source.file.as_str(), used(source))).collect()
}

/// The path of the thing itself, where `path` names a re-export of it.
fn through(path: &Segments, re_exports: &BTreeMap<&Segments, &Segments>) -> Segments {
    let mut path = path.clone();
    for _ in 0..8 {
        let re_exported = (1..=path.len()).rev().find_map(|length| {
            let target = re_exports.get(&path[..length].to_vec())?;
            Some(target.iter().chain(&path[length..]).cloned().collect())
        });
        match re_exported {
            Some(target) => path = target,
            None => break,
        }
    }
    path
}

fn reached_from<'s>(file: &'s str, uses: &Uses<'s>) -> BTreeSet<&'s str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![file];
    while let Some(file) = next.pop() {
        next.extend(uses[file].iter().filter(|used| reached.insert(**used)));
    }
    reached
}
