//! What is wrong with a configuration, and where: one line per problem, `file:line:column: what is wrong; what to
//! write`.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

/// The most problems, and the most warnings, that are listed; the rest are counted.
pub const MAX_FINDINGS: usize = 200;

/// A place in a file, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

/// A place in one of several files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub position: Position,
}

/// One thing that is wrong, or that looks wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in the file; `None` when it is about the file as a whole.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// What is wrong, and what to write.
    pub text: String,
}

/// Everything that was found in a configuration that cannot be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Findings {
    /// Errors, by file and place.
    pub problems: Vec<Problem>,
    /// Warnings.
    pub warnings: Vec<Problem>,
    /// How many problems there are beyond those listed.
    pub more: usize,
}

impl Problem {
    /// A problem of a file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), position: None, text: text.into() }
    }
}

impl Problem {
    /// The line of a warning, which stands beside lines of problems.
    #[must_use]
    pub fn warning(&self) -> String {
        let warning = Self { text: format!("warning: {}", self.text), ..self.clone() };
        warning.to_string()
    }
}

impl Place {
    pub(in crate::agent::config) fn problem(&self, text: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), position: Some(self.position), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.text)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\n… and {} more", self.more)?;
        }
        Ok(())
    }
}

impl Findings {
    pub(in crate::agent::config) fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_FINDINGS {
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }

    pub(in crate::agent::config) fn merge(&mut self, other: Self) {
        self.more += other.more;
        other.problems.into_iter().for_each(|problem| self.problem(problem));
        other.warnings.into_iter().for_each(|warning| self.warn(warning));
        self.sort();
    }

    pub(in crate::agent::config) fn sort(&mut self) {
        self.problems.sort();
        self.warnings.sort();
    }

    pub(in crate::agent::config) fn warn(&mut self, warning: Problem) {
        if self.warnings.len() < MAX_FINDINGS {
            self.warnings.push(warning);
        }
    }
}

/// The text of one file with its lines found once, so that a hundred thousand entries can be placed.
#[derive(Debug)]
pub(in crate::agent::config) struct File<'a> {
    pub(in crate::agent::config) path: &'a Path,
    pub(in crate::agent::config) text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> File<'a> {
    pub(in crate::agent::config) fn new(path: &'a Path, text: &'a str) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { path, text, line_starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The line of a byte offset, from 1.
    pub(in crate::agent::config) fn line(&self, at: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|start| *start <= at)).unwrap_or(u32::MAX)
    }

    /// The place of a byte offset.
    pub(in crate::agent::config) fn position(&self, at: usize) -> Position {
        let line = self.line(at);
        let start = self.line_starts.get(line as usize - 1).copied().unwrap_or_default();
        let before = self.text.get(start..at).unwrap_or_default();
        Position { line, column: u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX) }
    }

    pub(in crate::agent::config) fn problem(&self, at: usize, text: impl Into<String>) -> Problem {
        Problem { file: self.path.to_owned(), position: Some(self.position(at)), text: text.into() }
    }
}

/// A value of the file in quotes, as a message shows it: without control characters, and not endless.
pub(in crate::agent::config) fn shown(value: &str) -> String {
    match value.char_indices().nth(100) {
        Some((end, _)) => format!("{:?}…", value.get(..end).unwrap_or_default()),
        None => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        let file = File::new(Path::new("b.toml"), "a = 1\r\nü = \"x\"\n");
        assert_eq!(file.position(0), Position { line: 1, column: 1 });
        assert_eq!(file.position(9), Position { line: 2, column: 2 });
        assert_eq!(file.problem(12, "no").to_string(), "b.toml:2:5: no");
    }
}
