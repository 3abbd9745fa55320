//! The patterns of schemas and of CEL expressions. Kubernetes matches them with Go's `regexp`, in which `\d`, `\w`, `\s`
//! and `\b` are ASCII only and brackets have neither nested brackets nor set operators. Rust's
//! `regex` differs in both, so patterns are rewritten.

use regex::{Regex, RegexBuilder};
use std::fmt::{self, Display, Formatter};

/// The limit to the memory of a compiled pattern: nested repetitions would take gigabytes.
const SIZE: usize = 1 << 20;

/// A compiled pattern that displays as it was given.
#[derive(Debug)]
pub(crate) struct Pattern {
    given: String,
    regex: Regex,
}

impl Pattern {
    pub(crate) fn new(given: &str) -> Result<Self, regex::Error> {
        let regex = RegexBuilder::new(&Translation::of(given)).size_limit(SIZE).build()?;
        Ok(Self { given: given.to_owned(), regex })
    }

    /// The parts of a text that match, from left to right.
    pub(crate) fn matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.regex.find_iter(text).map(|found| found.as_str())
    }

    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

/// The element before a character in a bracket.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// The opening bracket.
    Open,
    /// A character that may start a range.
    Char,
    /// The dash of a range.
    Dash,
    /// A class or a complete range.
    Class,
}

/// A pattern of Go while it is translated to one of the `regex` crate.
struct Translation<'a> {
    rest: &'a str,
    translated: String,
    /// Set within a bracket.
    bracket: Option<Before>,
}

impl<'a> Translation<'a> {
    /// Translates a pattern.
    fn of(given: &'a str) -> String {
        let translated = String::with_capacity(given.len());
        let mut translation = Self { rest: given, translated, bracket: None };
        while let Some(c) = translation.next() {
            match translation.bracket {
                None => translation.outside(c),
                Some(before) => translation.bracket = translation.inside(c, before),
            }
        }
        translation.translated
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Translates a character outside of brackets.
    fn outside(&mut self, c: char) {
        match c {
            '\\' => match self.next() {
                Some('b') => self.translated.push_str(r"(?-u:\b)"),
                Some('B') => self.translated.push_str(r"(?-u:\B)"),
                Some(escaped) => match posix(escaped) {
                    Some(class) => self.translated.extend(["[", class, "]"]),
                    None => self.translated.extend(['\\', escaped]),
                },
                None => self.translated.push(c),
            },
            '[' => {
                self.translated.push(c);
                if let Some(after) = self.rest.strip_prefix('^') {
                    self.translated.push('^');
                    self.rest = after;
                }
                self.bracket = Some(Before::Open);
            }
            _ => self.translated.push(c),
        }
    }

    /// Translates a character within a bracket, and returns what is then before the next; `None` at
    /// its end.
    fn inside(&mut self, c: char, before: Before) -> Option<Before> {
        // The end of a range cannot start another.
        let single = if before == Before::Dash { Before::Class } else { Before::Char };
        Some(match c {
            // As the first character, a closing bracket is literal.
            ']' if before != Before::Open => {
                self.translated.push(c);
                return None;
            }
            '\\' => {
                let escaped = self.next();
                match escaped.and_then(posix) {
                    Some(class) if before != Before::Dash => {
                        self.translated.push_str(class);
                        Before::Class
                    }
                    // A range that ends in a class is left as it is, so that it is rejected.
                    _ => {
                        self.translated.push(c);
                        self.translated.extend(escaped);
                        single
                    }
                }
            }
            '[' => match self.rest.find(":]").filter(|_| self.rest.starts_with(':')) {
                Some(end) => {
                    self.translated.push('[');
                    self.translated.push_str(&self.rest[..end + 2]);
                    self.rest = &self.rest[end + 2..];
                    Before::Class
                }
                None => {
                    self.translated.push_str(r"\[");
                    single
                }
            },
            '-' if before == Before::Char => {
                self.translated.push(c);
                Before::Dash
            }
            ']' | '&' | '~' | '-' => {
                self.translated.extend(['\\', c]);
                single
            }
            _ => {
                self.translated.push(c);
                single
            }
        })
    }
}

/// Returns the contents of a bracket for a Perl class. `\s` has no vertical tab, which `[:space:]`
/// has.
fn posix(class: char) -> Option<&'static str> {
    Some(match class {
        'd' => "[:digit:]",
        'D' => "[:^digit:]",
        'w' => "[:word:]",
        'W' => "[:^word:]",
        's' => r"\t\n\f\r\x20",
        'S' => r"[^\t\n\f\r\x20]",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_classes_match_ascii_and_literals_match_unicode() {
        for (pattern, matching, others) in [
            (r"^\d+$", vec!["12"], vec!["٣", "a", ""]),
            (r"^\D$", vec!["a", "٣", "ä"], vec!["1"]),
            (r"^[\w-]+$", vec!["a-b_1"], vec!["ä", "a.b"]),
            (r"^[\w-.]+$", vec!["a-b.c"], vec!["a/b"]),
            (r"^[^\w]$", vec!["ä", "-"], vec!["a"]),
            (r"^[\W\d]$", vec!["ä", "1"], vec!["a"]),
            (r"^\s$", vec![" ", "\t"], vec!["\u{a0}", "\u{b}"]),
            (r"^[\S]$", vec!["\u{a0}", "ä"], vec![" "]),
            (r"^\S$", vec!["\u{a0}", "a"], vec![" "]),
            (r"^.$", vec!["ä", "a"], vec!["ab"]),
            (r"\bn", vec!["n", "än"], vec!["an"]),
            (r"^ä\B", vec!["ä", "ä."], vec!["äa"]),
            (r"^[[:alpha:]]\\d$", vec!["a\\d"], vec!["a1"]),
            (r"^[]a]$", vec!["]", "a"], vec!["b"]),
            (r"^[[a&&b]$", vec!["[", "a", "&"], vec!["c"]),
            (r"^[a-c-e]$", vec!["b", "-", "e"], vec!["d"]),
            (r"^[-a]$", vec!["-", "a"], vec!["b"]),
            (r"^[a\-]$", vec!["-", "a"], vec!["b"]),
            (r"^\p{Lu}[\p{Ll}]$", vec!["Ää"], vec!["ää"]),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", vec!["a-1"], vec!["A", "a-"]),
            (r"^.{1,1000}$", vec!["ä"], vec![""]),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert_eq!(compiled.to_string(), pattern);
            for text in matching {
                assert!(compiled.is_match(text), "{pattern} {text:?}");
            }
            for text in others {
                assert!(!compiled.is_match(text), "{pattern} {text:?}");
            }
        }
    }

    #[test]
    fn invalid_or_oversized_pattern_is_rejected() {
        for pattern in [r"[a-\d]", "[a", "(", r"a\", "((a{1000}){1000}){1000}"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
