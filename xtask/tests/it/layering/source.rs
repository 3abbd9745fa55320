//! A crate's files and what they import from each other, by `use` declarations and by paths in code. Test
//! modules do not count.

use super::graph::Edge;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A path from the crate's root: `["cluster", "store", "ClusterStore"]`.
type ItemPath = Vec<String>;

/// The files of a crate by module path.
pub(crate) struct Crate {
    modules: BTreeMap<ItemPath, Module>,
}

/// One file.
struct Module {
    file: String,
    /// Its code without comments, string literals and test modules.
    code: String,
    imports: Vec<Import>,
    /// Child modules that are declared here.
    children: BTreeSet<String>,
}

/// One name that a `use` declaration brings into scope.
struct Import {
    name: String,
    path: Vec<String>,
    is_public: bool,
}

impl Crate {
    /// Reads the files below `src`.
    pub(crate) fn read(member: &Path) -> Self {
        let source = member.join("src");
        let (mut files, mut modules) = (Vec::new(), BTreeMap::new());
        list(&source, &mut files);
        let has_library = source.join("lib.rs").exists();
        let mut tests = BTreeSet::new();
        for path in files {
            let file = path.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
            // A binary next to a library uses it and is not used by it.
            if file.starts_with("bin/") || (has_library && file == "main.rs") {
                continue;
            }
            let module_path = module_path(&file);
            let text = fs::read_to_string(&path).unwrap();
            let (code, test_modules) = strip_tests(&strip_literals(&text));
            tests.extend(test_modules.into_iter().map(|name| child(&module_path, &name)));
            modules.insert(module_path, Module::parse(file, code));
        }
        modules.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        Self { modules }
    }

    /// Returns which file uses which item of which other file.
    pub(crate) fn edges(&self) -> Vec<Edge> {
        let mut edges = BTreeSet::new();
        for (at, module) in &self.modules {
            for path in module.used_paths(at) {
                let Some((target, item)) = self.resolve(path, 0) else { continue };
                if target.file != module.file {
                    let (from, to) = (module.file.clone(), target.file.clone());
                    edges.insert(Edge { from, to, item });
                }
            }
        }
        // One item is enough to explain an edge.
        let mut edges: Vec<Edge> = edges.into_iter().collect();
        edges.dedup_by(|a, b| a.from == b.from && a.to == b.to);
        edges
    }

    /// Finds the file that defines an item, through re-exports; `None` for modules and other crates.
    fn resolve(&self, path: ItemPath, depth: usize) -> Option<(&Module, String)> {
        let length = (0..=path.len()).rev().find(|n| self.modules.contains_key(&path[..*n]))?;
        let at = &path[..length];
        let module = &self.modules[at];
        let item = path.get(length)?;
        let public = module.imports.iter().filter(|import| import.is_public);
        for import in public {
            let matches = import.name == *item || (import.name == "*" && !module.defines(item));
            if let Some(mut target) = module.absolute(at, &import.path)
                && matches
                && depth < 8
            {
                if import.name == "*" {
                    target.push(item.clone());
                }
                target.extend(path.iter().skip(length + 1).cloned());
                if let Some(found) = self.resolve(target, depth + 1)
                    && (import.name != "*" || found.0.defines(&found.1))
                {
                    return Some(found);
                }
            }
        }
        Some((module, item.clone()))
    }
}

impl Module {
    fn parse(file: String, code: String) -> Self {
        let mut module = Self { file, code, imports: Vec::new(), children: BTreeSet::new() };
        let mut rest = String::new();
        for statement in split_keeping_braces(&module.code.clone()) {
            match statement {
                Statement::Use { tree, is_public } => {
                    parse_use(&tree, &mut Vec::new(), is_public, &mut module.imports);
                }
                Statement::Mod(name) => drop(module.children.insert(name)),
                Statement::Other(text) => rest.push_str(&text),
            }
        }
        module.code = rest;
        module
    }

    /// Returns true if an item of that name is defined here.
    fn defines(&self, name: &str) -> bool {
        let keywords = ["fn", "struct", "enum", "trait", "const", "static", "type", "union"];
        let words: Vec<&str> = words(&self.code).collect();
        words.windows(2).any(|pair| keywords.contains(&pair[0]) && pair[1] == name)
    }

    /// Returns the path from the crate's root; `None` for another crate.
    fn absolute(&self, at: &[String], path: &[String]) -> Option<ItemPath> {
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => at.to_vec(),
            "super" => at.split_last()?.1.to_vec(),
            name if self.children.contains(name) => child(at, name),
            _ => return None,
        };
        for part in rest {
            match part.as_str() {
                "super" => drop(base.pop()),
                "self" => {}
                part => base.push(part.to_owned()),
            }
        }
        Some(base)
    }

    /// Returns the paths of all items that are used here. A re-export alone is no use.
    fn used_paths(&self, at: &[String]) -> Vec<ItemPath> {
        let used: BTreeSet<&str> = words(&self.code).collect();
        let mut paths = Vec::new();
        let mut names: BTreeMap<&str, ItemPath> = BTreeMap::new();
        for import in &self.imports {
            let Some(path) = self.absolute(at, &import.path) else { continue };
            names.insert(&import.name, path.clone());
            if import.name == "*" && !import.is_public {
                paths.push([path, vec!["*".into()]].concat());
            } else if used.contains(&*import.name) {
                paths.push(path);
            }
        }
        for path in inline_paths(&self.code) {
            let (first, rest) = path.split_first().unwrap();
            match names.get(&**first) {
                Some(base) => paths.push([base.clone(), rest.to_vec()].concat()),
                None => paths.extend(self.absolute(at, &path)),
            }
        }
        paths
    }
}

enum Statement {
    Use { tree: String, is_public: bool },
    Mod(String),
    Other(String),
}

/// Splits code into `use` declarations, `mod` declarations and the rest.
fn split_keeping_braces(code: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut rest = code;
    let mut other = String::new();
    while let Some(at) = next_keyword(rest) {
        let (before, from) = rest.split_at(at);
        let Some(end) = from.find(';') else { break };
        let (statement, after) = from.split_at(end + 1);
        let body = statement.trim_end_matches(';');
        let visibility = before.trim_end();
        let is_public = visibility.ends_with("pub")
            || (visibility.ends_with(')')
                && visibility
                    .rfind("pub(")
                    .is_some_and(|at| !visibility[at..].contains(['{', ';'])));
        if let Some(tree) = body.strip_prefix("use ") {
            other.push_str(before);
            statements.push(Statement::Use { tree: tree.into(), is_public });
            rest = after;
        } else if let Some(name) = body.strip_prefix("mod ").map(str::trim)
            && name.chars().all(|c| c.is_alphanumeric() || c == '_')
        {
            other.push_str(before);
            statements.push(Statement::Mod(name.into()));
            rest = after;
        } else {
            // An inline module.
            other.push_str(before);
            other.push_str(&from[..4]);
            rest = &from[4..];
        }
    }
    other.push_str(rest);
    statements.push(Statement::Other(other));
    statements
}

fn next_keyword(code: &str) -> Option<usize> {
    let is_start = |at: usize| {
        !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_#.".contains(c))
    };
    let find =
        |keyword: &str| code.match_indices(keyword).map(|(at, _)| at).find(|at| is_start(*at));
    [find("use "), find("mod ")].into_iter().flatten().min()
}

/// Expands a use tree: `a::{b, c::{self, d as e}}`.
fn parse_use(tree: &str, prefix: &mut Vec<String>, is_public: bool, imports: &mut Vec<Import>) {
    let tree = tree.trim();
    let (path, group) = match tree.find('{') {
        Some(at) => (&tree[..at], Some(tree[at + 1..].trim_end().trim_end_matches('}'))),
        None => (tree, None),
    };
    let depth = prefix.len();
    let (path, alias) = path.split_once(" as ").map_or((path, None), |(p, a)| (p, Some(a.trim())));
    let parts = path.split("::").map(str::trim).filter(|part| !part.is_empty());
    prefix.extend(parts.map(str::to_owned));
    match group {
        Some(group) => {
            for tree in split_top_level(group) {
                parse_use(tree, prefix, is_public, imports);
            }
        }
        None => {
            let mut path = prefix.clone();
            if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                path.pop();
            }
            let last = path.last().cloned().unwrap_or_default();
            let name = alias.map_or(last, str::to_owned);
            if name == "*" {
                path.pop();
            }
            imports.push(Import { name, path, is_public });
        }
    }
    prefix.truncate(depth);
}

fn split_top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts.into_iter().filter(|part| !part.trim().is_empty()).collect()
}

/// Returns all paths of at least two parts.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        let from = &rest[start..];
        let end = from.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(from.len());
        path.push(from[..end].to_owned());
        rest = &from[end..];
        match rest.strip_prefix("::") {
            Some(after) if after.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                rest = after
            }
            _ => {
                let whole = std::mem::take(&mut path);
                paths.extend((whole.len() > 1).then_some(whole));
            }
        }
    }
    paths
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Replaces comments and literals, so that what remains is code.
fn strip_literals(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let (mut code, mut i) = (String::new(), 0);
    let at = |i: usize| bytes.get(i).copied().unwrap_or('\0');
    while i < bytes.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < bytes.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                while i < bytes.len() && (at(i), at(i + 1)) != ('*', '/') {
                    i += 1;
                }
                i += 2;
            }
            ('r', '"' | '#') if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                let hashes = (i + 1..).take_while(|i| at(*i) == '#').count();
                if at(i + 1 + hashes) != '"' {
                    // A raw identifier.
                    code.push('r');
                    i += 1;
                    continue;
                }
                i += 2 + hashes;
                while i < bytes.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                    i += 1;
                }
                i += 1 + hashes;
                code.push_str("\"\"");
            }
            ('"', _) => {
                i += 1;
                while i < bytes.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                code.push_str("\"\"");
            }
            ('\'', '\\') => {
                i += 3;
                while i < bytes.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (c, _) => {
                code.push(c);
                i += 1;
            }
        }
    }
    code
}

/// Removes items under `#[cfg(test)]`; returns the names of test modules in other files, too.
fn strip_tests(code: &str) -> (String, Vec<String>) {
    const TEST: &str = "#[cfg(test)]";
    let (mut kept, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = rest.find(TEST) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + TEST.len()..];
        let end = item.find(['{', ';']).unwrap_or(item.len());
        if let Some((_, name)) = item[..end].split_once("mod ") {
            modules.push(name.trim().to_owned());
        }
        rest = match item[end..].starts_with('{') {
            true => &item[end + block(&item[end..])..],
            false => item.get(end + 1..).unwrap_or_default(),
        };
    }
    kept.push_str(rest);
    (kept, modules)
}

/// Returns the length of the block that the text begins with.
fn block(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

fn module_path(file: &str) -> ItemPath {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    match path {
        "lib" | "main" => Vec::new(),
        path => path.split('/').map(Into::into).collect(),
    }
}

fn child(path: &[String], name: &str) -> ItemPath {
    path.iter().cloned().chain([name.to_owned()]).collect()
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        let modules = files.iter().map(|(file, text)| {
            let (code, _) = strip_tests(&strip_literals(text));
            (module_path(file), Module::parse((*file).into(), code))
        });
        let edges = Crate { modules: modules.collect() }.edges();
        edges.iter().map(|edge| format!("{} {} {}", edge.from, edge.to, edge.item)).collect()
    }

    #[test]
    fn imports_and_inline_paths_are_edges() {
        let found = edges(&[
            ("main.rs", "mod a; mod b; fn main() { a::run() }"),
            ("a.rs", "use crate::b::{self, c::{D, E as F}}; fn run(d: D, f: F) { b::x() }"),
            ("b.rs", "pub(crate) mod c; pub(crate) fn x() { super::a::run(c::y()) }"),
            ("b/c.rs", "pub(crate) struct D; // crate::a::run\nconst S: &str = \"crate::a::run\";"),
        ]);
        let expected =
            ["a.rs b.rs x", "a.rs b/c.rs D", "b.rs a.rs run", "b.rs b/c.rs y", "main.rs a.rs run"];
        assert_eq!(found, expected);
    }

    #[test]
    fn reexports_lead_to_the_definition_and_are_no_use() {
        let found = edges(&[
            ("lib.rs", "mod a; mod user;"),
            ("a.rs", "mod leaf; pub(crate) use leaf::Leaf; pub(crate) struct Own;"),
            ("a/leaf.rs", "use super::Own; pub(crate) struct Leaf(Own);"),
            ("user.rs", "use crate::a::{Leaf, Own}; fn f(l: Leaf, o: Own) {}"),
        ]);
        assert_eq!(found, ["a/leaf.rs a.rs Own", "user.rs a.rs Own", "user.rs a/leaf.rs Leaf"]);
    }

    #[test]
    fn tests_and_other_crates_are_no_edges() {
        let found = edges(&[
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "use std::fs; fn a() { fs::read(); } #[cfg(test)] mod tests { use crate::b::B; fn t(b: B) {} }",
            ),
            (
                "b.rs",
                "use anyhow::Result; pub(crate) struct B<'a>(&'a str, char); const C: char = '{';",
            ),
        ]);
        assert_eq!(found, [""; 0]);
    }
}
