//! Parses text into a tree in which every key and value has its place. Knows syntax alone.

use toml::de::DeTable;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use crate::agent::config::problem::File;
use crate::agent::config::problem::Findings;

/// How deep brackets may nest, checked before the parser sees the text. The parser allows 80 brackets and keys of 80 parts:
/// multiplied, they make a tree that overflows the 2 MiB stack of the thread that reloads.
const MAX_DEPTH: usize = 32;

/// Parses one file. Every syntax error becomes a problem; a file with any has no tree.
pub(in crate::agent::config) fn parse<'a>(file: &File<'a>, findings: &mut Findings) -> Option<DeTable<'a>> {
    if let Some(at) = first_too_deep(file.text) {
        findings.problem(file.problem(at, format!("brackets nest deeper than {MAX_DEPTH}; write it flat")));
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(file.text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        let fix = if error.message() == "duplicate key" { "; keep one of them" } else { "" };
        findings.problem(file.problem(at, format!("this is not TOML: {}{fix}", error.message())));
    }
    errors.is_empty().then(|| table.into_inner())
}

/// The offset of the first bracket that is nested too deep.
fn first_too_deep(text: &str) -> Option<usize> {
    let mut depth: usize = 0;
    Source::new(text).lex().find_map(|token| {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth > MAX_DEPTH).then(|| token.span().start())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        let file = File::new(Path::new("b.toml"), text);
        assert_eq!(parse(&file, &mut findings).is_some(), findings.problems.is_empty());
        findings.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn brackets_nest_to_32_and_no_deeper() {
        let nested = |depth| format!("a = {}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(problems(&nested(32)).is_empty());
        assert_eq!(problems(&nested(33)), ["b.toml:1:37: brackets nest deeper than 32; write it flat"]);
        assert_eq!(problems(&nested(1_000_000)).len(), 1);
        assert_eq!(problems(&"a = {".repeat(33)).len(), 1);
    }

    #[test]
    fn the_deepest_tree_that_is_accepted_fits_the_stack_of_a_thread() {
        let keys = vec!["a"; 79].join(".");
        let text = format!("[{keys}]\n{}{keys} = 1{}", format!("{keys} = {{").repeat(MAX_DEPTH), "}".repeat(MAX_DEPTH));
        let parsed = std::thread::Builder::new().stack_size(2 << 20).spawn(move || problems(&text));
        assert!(parsed.unwrap().join().unwrap().is_empty());
    }

    #[test]
    fn brackets_in_strings_and_comments_are_not_nesting() {
        let many = "[".repeat(50);
        for text in [
            format!("# {many}\n"),
            format!("a = \"\\\"{many}\"\n"),
            format!("a = '{many}\\'\n"),
            format!("a = \"\"\"\n{many}\"\n\"\"\"\n"),
            format!("a = '''\n{many}'\n'''\n"),
        ] {
            assert!(problems(&text).is_empty(), "{text}");
        }
    }

    #[test]
    fn every_syntax_error_is_named_with_its_place() {
        let found = problems("a = 1\na = 2\nb = \nc = 5m\n");
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("b.toml:2:1: this is not TOML: duplicate key"), "{found:?}");
    }

    #[test]
    fn dotted_keys_nested_without_end_are_refused_and_do_not_exhaust_the_stack() {
        let key = vec!["a"; 100_000].join(".");
        assert_eq!(problems(&format!("{key} = 1\n")).len(), 1);
        assert_eq!(problems(&format!("[{key}]\n")).len(), 1);
    }
}
