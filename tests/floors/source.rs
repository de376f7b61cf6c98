//! What a file of `src` names, read from its tokens: paths, re-exports, public types. Items under `#[cfg(test)]` are left
//! out wherever in the file they are.

use std::collections::BTreeMap;
use std::fs;
use std::iter::Peekable;
use std::path::Path;

use proc_macro2::Delimiter;
use proc_macro2::TokenStream;
use proc_macro2::TokenTree;
use proc_macro2::token_stream::IntoIter;

/// A path of the language, a segment each.
pub(crate) type Segments = Vec<String>;

/// One file. Paths of the crate begin after `crate`.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Its name relative to `src`.
    pub(crate) file: String,
    /// The path of its module.
    pub(crate) module: Segments,
    /// What its code names of the crate, imports included and re-exports not.
    pub(crate) uses: Vec<Segments>,
    /// What its code names of other crates.
    pub(crate) external: Vec<Segments>,
    /// What it re-exports of the crate, by the path under which it does.
    pub(crate) re_exports: BTreeMap<Segments, Segments>,
    /// What its doc comments name of the crate.
    pub(crate) documented: Vec<Segments>,
    /// The names of its public types.
    pub(crate) types: Vec<String>,
}

/// What has been read of a file before its own children and imports are known.
#[derive(Default)]
struct Raw {
    paths: Vec<Segments>,
    imports: BTreeMap<String, Segments>,
    re_exports: Vec<(Segments, Segments)>,
    children: Vec<String>,
}

impl Source {
    /// Every file of `src` but `lib.rs` and `main.rs`.
    pub(crate) fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        walk(&root, &root, &mut found);
        found.retain(|source| source.file != "lib.rs" && source.file != "main.rs");
        assert!(found.len() > 100, "the walk found only {} files", found.len());
        found
    }

    /// Reads a file's text.
    pub(crate) fn read(file: &str, text: &str) -> Self {
        let name = file.trim_end_matches(".rs").trim_end_matches("/mod");
        let module: Segments = name.split('/').map(str::to_owned).collect();
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut source = Self { file: file.to_owned(), module: module.clone(), ..Self::default() };
        let mut raw = Raw::default();
        source.read_tokens(tokens, &module, &mut raw);
        source.resolve(raw);
        source
    }

    /// The room of the house that this file belongs to.
    pub(crate) fn room(&self) -> &str {
        &self.module[0]
    }

    /// The rooms of the house that this file names anywhere.
    pub(crate) fn rooms_named(&self) -> impl Iterator<Item = &str> {
        let named = self.uses.iter().chain(self.re_exports.values()).chain(&self.documented);
        named.filter_map(|path| path.first()).map(String::as_str)
    }

    fn read_tokens(&mut self, tokens: TokenStream, module: &[String], raw: &mut Raw) {
        let mut tokens = tokens.into_iter().peekable();
        let mut public = false;
        while let Some(token) = tokens.next() {
            let was_public = std::mem::take(&mut public);
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    tokens.next_if(|next| is_punct(next, '!'));
                    let Some(TokenTree::Group(attribute)) = tokens.next() else { continue };
                    if attribute.stream().to_string().replace(' ', "") == "cfg(test)" {
                        skip_item(&mut tokens);
                    } else {
                        self.read_tokens(attribute.stream(), module, raw);
                    }
                }
                TokenTree::Punct(_) => {}
                TokenTree::Group(group) => self.read_tokens(group.stream(), module, raw),
                TokenTree::Literal(literal) => self.read_documentation(&literal.to_string()),
                TokenTree::Ident(ident) => match ident.to_string().as_str() {
                    "pub" => {
                        tokens.next_if(is_restriction);
                        public = true;
                    }
                    "unsafe" => public = was_public,
                    "struct" | "enum" | "trait" | "union" | "type" if was_public => {
                        self.types.extend(tokens.next().map(|name| name.to_string()));
                    }
                    "mod" => {
                        let name = tokens.next().map(|name| name.to_string()).unwrap_or_default();
                        match tokens.next() {
                            Some(TokenTree::Group(body)) => {
                                let inner: Segments = module.iter().cloned().chain([name]).collect();
                                self.read_tokens(body.stream(), &inner, raw);
                            }
                            _ => raw.children.push(name),
                        }
                    }
                    "use" => read_use(&mut tokens, Vec::new(), module, was_public, raw),
                    first => raw.paths.extend(read_path(first, &mut tokens, module)),
                },
            }
        }
    }

    /// Paths in doc comments, which are literals among the tokens.
    fn read_documentation(&mut self, text: &str) {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        for rest in text.split("crate::").skip(1) {
            let path = rest.split(|c: char| !is_word(c)).next().unwrap_or_default();
            self.documented.push(path.split("::").map(str::to_owned).collect());
        }
    }

    fn resolve(&mut self, raw: Raw) {
        let module = self.module.clone();
        let resolve = |path: Segments| match path.first() {
            Some(first) if first == "crate" => Ok(path[1..].to_vec()),
            Some(first) if raw.children.contains(first) => Ok(module.iter().cloned().chain(path).collect()),
            Some(first) if raw.imports.get(first).is_some_and(|import| import[0] == "crate") => {
                Ok(raw.imports[first][1..].iter().chain(&path[1..]).cloned().collect())
            }
            _ => Err(path),
        };
        let imports = raw.imports.values().filter(|import| import.len() > 1).cloned();
        for path in raw.paths.into_iter().chain(imports) {
            match resolve(path) {
                Ok(path) => self.uses.push(path),
                Err(path) => self.external.push(path),
            }
        }
        for (name, path) in raw.re_exports {
            if let Ok(path) = resolve(path) {
                self.re_exports.insert(name, path);
            }
        }
    }
}

fn walk(folder: &Path, root: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root).unwrap().to_str().unwrap();
            found.push(Source::read(file, &fs::read_to_string(&path).unwrap()));
        }
    }
}

type Tokens = Peekable<IntoIter>;

fn is_punct(token: &TokenTree, expected: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == expected)
}

/// The `(crate)`, `(super)`, `(self)` or `(in path)` of a visibility.
fn is_restriction(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else { return false };
    let first = group.stream().into_iter().next().map(|first| first.to_string()).unwrap_or_default();
    group.delimiter() == Delimiter::Parenthesis && ["crate", "super", "self", "in"].contains(&first.as_str())
}

/// Skips the rest of an item: its other attributes, and all to its body or its semicolon.
fn skip_item(tokens: &mut Tokens) {
    while let Some(token) = tokens.next() {
        match token {
            token if is_punct(&token, '#') => drop(tokens.next()),
            token if is_punct(&token, ';') => return,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            _ => {}
        }
    }
}

/// Whether `::` comes next; it is consumed.
fn eat_separator(tokens: &mut Tokens) -> bool {
    let first = tokens.next_if(|next| is_punct(next, ':'));
    first.is_some() && tokens.next_if(|next| is_punct(next, ':')).is_some()
}

/// `self` and `super` as paths from `crate`.
fn anchored(first: &str, module: &[String]) -> Segments {
    let parent = &module[..module.len().saturating_sub(usize::from(first == "super"))];
    match first {
        "self" | "super" => ["crate".to_owned()].into_iter().chain(parent.iter().cloned()).collect(),
        _ => vec![first.to_owned()],
    }
}

/// A path in an expression or a type; `None` for a single word.
fn read_path(first: &str, tokens: &mut Tokens, module: &[String]) -> Option<Segments> {
    let mut path = anchored(first, module);
    while eat_separator(tokens) {
        match tokens.next_if(|next| matches!(next, TokenTree::Ident(_))) {
            Some(segment) => path.push(segment.to_string()),
            None => break,
        }
    }
    (path.len() > 1).then_some(path)
}

/// The tree of a `use`.
fn read_use(tokens: &mut Tokens, mut path: Segments, module: &[String], public: bool, raw: &mut Raw) {
    let mut alias = None;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word) if word == "as" => alias = tokens.next().map(|alias| alias.to_string()),
            TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
            TokenTree::Ident(word) if path.is_empty() => path = anchored(&word.to_string(), module),
            TokenTree::Ident(word) => path.push(word.to_string()),
            TokenTree::Group(group) => {
                let mut inner = group.stream().into_iter().peekable();
                while inner.peek().is_some() {
                    read_use(&mut inner, path.clone(), module, public, raw);
                }
                return;
            }
            end if is_punct(&end, ';') || is_punct(&end, ',') => break,
            _ => {}
        }
    }
    let Some(name) = alias.or_else(|| path.last().cloned()) else { return };
    if public {
        raw.re_exports.push((module.iter().cloned().chain([name]).collect(), path));
    } else {
        raw.imports.insert(if name == "_" { path.join("::") } else { name }, path);
    }
}
