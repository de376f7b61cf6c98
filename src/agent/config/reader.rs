//! Reads one table key by key, as typed values. Notes every problem with its place and goes on; an unknown key is a
//! problem, too.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use crate::agent::config::duration;
use crate::agent::config::problem::File;
use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Place;
use crate::agent::config::problem::shown;
use crate::time::duration::exact;

/// A table of a file, with the name it has in messages and its own place.
#[derive(Clone, Copy)]
pub(in crate::agent::config) struct Section<'a> {
    pub(in crate::agent::config) file: &'a File<'a>,
    pub(in crate::agent::config) table: &'a DeTable<'a>,
    /// For example `[svid]`; empty for the top of a file.
    pub(in crate::agent::config) name: &'a str,
    pub(in crate::agent::config) at: usize,
}

/// One reading of a table. `finish` must be called: it reports unknown keys.
#[must_use]
pub(in crate::agent::config) struct Reader<'a, 'f> {
    section: Option<Section<'a>>,
    findings: &'f mut Findings,
    known: BTreeSet<&'static str>,
}

/// A string of a file.
#[derive(Clone)]
pub(in crate::agent::config) struct Text<'a> {
    pub(in crate::agent::config) value: &'a str,
    pub(in crate::agent::config) span: Range<usize>,
    /// As it is written in the file, with its quotes.
    pub(in crate::agent::config) written: &'a str,
    /// Offsets in the value are offsets in the file from here, unless the value was written with escapes.
    content: Option<usize>,
}

impl Text<'_> {
    /// The place of a byte of the value; the place of the value where it was written with escapes.
    pub(in crate::agent::config) fn place_of(&self, byte: usize) -> usize {
        self.content.map_or(self.span.start, |start| start + byte)
    }
}

impl<'a, 'f> Reader<'a, 'f> {
    /// Reads `section`; one that is absent has no keys.
    pub(in crate::agent::config) fn new(section: Option<Section<'a>>, findings: &'f mut Findings) -> Self {
        Self { section, findings, known: BTreeSet::new() }
    }

    pub(in crate::agent::config) fn string(&mut self, key: &'static str) -> Option<Text<'a>> {
        let value = self.value(key)?;
        self.as_text(key, value)
    }

    pub(in crate::agent::config) fn strings(&mut self, key: &'static str) -> Option<Vec<Text<'a>>> {
        let value = self.value(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings, for example [\"a\", \"b\"]");
            return None;
        };
        let texts: Vec<_> = items.iter().map(|item| self.as_text(key, item)).collect();
        texts.into_iter().collect()
    }

    pub(in crate::agent::config) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        boolean
    }

    pub(in crate::agent::config) fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.value(key)?;
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, &wanted());
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            self.problem(value.span().start, format!("{key} is {integer}; write {}", wanted()));
        }
        number
    }

    /// A duration within bounds, and its place.
    pub(in crate::agent::config) fn duration(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<(Duration, usize)> {
        let text = self.string(key)?;
        let at = text.span.start;
        let advice = match duration::parse(text.value) {
            None => "write days, hours, minutes and seconds, for example \"90s\", \"1h30m\" or \"7d\"".to_owned(),
            Some(length) if length < *bounds.start() => format!("must be at least {}", exact(*bounds.start())),
            Some(length) if length > *bounds.end() => format!("must be at most {}", exact(*bounds.end())),
            Some(length) => return Some((length, at)),
        };
        self.problem(at, format!("{key} is {}; {advice}", shown(text.value)));
        None
    }

    /// A value that parses itself; its error says what to write.
    pub(in crate::agent::config) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
    ) -> Option<(T, Text<'a>)> {
        let text = self.string(key)?;
        match text.value.parse() {
            Ok(value) => Some((value, text)),
            Err(error) => {
                self.problem(text.span.start, format!("{key} is {}: {error}", shown(text.value)));
                None
            }
        }
    }

    /// One word of a few. `later` are words of the contract that this version does not know.
    pub(in crate::agent::config) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        later: &[&str],
    ) -> Option<T> {
        let text = self.string(key)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(*meaning);
        }
        let choice = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        let why = if later.contains(&text.value) { ", which this version does not have yet" } else { "" };
        self.problem(text.span.start, format!("{key} is {}{why}; write {choice}", shown(text.value)));
        None
    }

    /// Begins to read a table of its own, present or not.
    pub(in crate::agent::config) fn table<'r>(&'r mut self, key: &'static str, name: &'a str) -> Reader<'a, 'r> {
        let section = self.value(key).zip(self.section).and_then(|(value, section)| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.wrong_type(key, value, &format!("a table, {name}"));
            }
            Some(Section { file: section.file, table: table?, name, at: value.span().start })
        });
        Reader::new(section, self.findings)
    }

    /// The tables of a `[[list]]`.
    pub(in crate::agent::config) fn sections(&mut self, key: &'static str, name: &'a str) -> Vec<Section<'a>> {
        let (Some(value), Some(section)) = (self.value(key), self.section) else { return Vec::new() };
        let tables: Option<Vec<_>> = value.get_ref().as_array().and_then(|items| {
            let section_of = |item: &'a Spanned<DeValue<'a>>| {
                Some(Section { file: section.file, table: item.get_ref().as_table()?, name, at: item.span().start })
            };
            items.iter().map(section_of).collect()
        });
        if tables.is_none() {
            self.wrong_type(key, value, &format!("tables, {name}"));
        }
        tables.unwrap_or_default()
    }

    /// A key of the contract that this version does not have.
    pub(in crate::agent::config) fn not_built_yet(&mut self, key: &'static str, what: &str) {
        if let Some(at) = self.place_of_key(key) {
            self.known.insert(key);
            self.problem(at, format!("{what} is not in this version yet; remove it"));
        }
    }

    /// A key that is known, and not here.
    pub(in crate::agent::config) fn belongs_elsewhere(&mut self, key: &'static str, place: &str) {
        if let Some(at) = self.place_of_key(key) {
            self.known.insert(key);
            self.problem(at, format!("{key} belongs in {place}; move it there"));
        }
    }

    /// Whether the table is there at all.
    pub(in crate::agent::config) fn is_present(&self) -> bool {
        self.section.is_some()
    }

    /// Where a key stands, if it does.
    pub(in crate::agent::config) fn place_of_key(&self, key: &str) -> Option<usize> {
        Some(self.section?.table.get_key_value(key)?.0.span().start)
    }

    /// Where the table itself stands.
    pub(in crate::agent::config) fn place(&self) -> usize {
        self.section.map_or(0, |section| section.at)
    }

    /// An offset as a place for a later message.
    pub(in crate::agent::config) fn place_at(&self, at: usize) -> Option<Place> {
        let file = self.section?.file;
        Some(Place { file: file.path.to_owned(), position: file.position(at) })
    }

    /// The line of the table, from 1.
    pub(in crate::agent::config) fn line(&self) -> u32 {
        self.section.map_or(0, |section| section.file.line(section.at))
    }

    /// The file that the table is in.
    pub(in crate::agent::config) fn file(&self) -> Option<&'a File<'a>> {
        self.section.map(|section| section.file)
    }

    pub(in crate::agent::config) fn problem(&mut self, at: usize, text: impl Into<String>) {
        if let Some(section) = self.section {
            self.findings.problem(section.file.problem(at, text));
        }
    }

    pub(in crate::agent::config) fn warn(&mut self, at: usize, text: impl Into<String>) {
        if let Some(section) = self.section {
            self.findings.warn(section.file.problem(at, text));
        }
    }

    /// Reports the keys that were not read.
    pub(in crate::agent::config) fn finish(mut self) {
        let Some(section) = self.section else { return };
        let unknown: Vec<_> = section.table.keys().filter(|key| !self.known.contains(&**key.get_ref())).collect();
        for key in unknown {
            let place = if section.name.is_empty() { String::new() } else { format!(" in {}", section.name) };
            let advice = match nearest(key.get_ref(), &self.known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known are {}", self.known.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.problem(key.span().start, format!("unknown key {}{place}; {advice}", shown(key.get_ref())));
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.insert(key);
        self.section?.table.get(key)
    }

    fn as_text(&mut self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<Text<'a>> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a string, in quotes");
            return None;
        };
        let written = self.section.and_then(|section| section.file.text.get(value.span())).unwrap_or_default();
        let plain = written.len() == text.len() + 2 && written.get(1..=text.len()) == Some(text);
        Some(Text { value: text, span: value.span(), written, content: plain.then_some(value.span().start + 1) })
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.problem(value.span().start, format!("{key} is of type {found}; write {wanted}"));
    }
}

/// The known word that was probably meant.
fn nearest<'k>(word: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    let distance = |known: &str| strsim::damerau_levenshtein(word, known);
    let (far, near) = known.iter().map(|known| (distance(known), *known)).min()?;
    (word.len() <= 64 && far <= (near.len() / 3).max(1)).then_some(near)
}
