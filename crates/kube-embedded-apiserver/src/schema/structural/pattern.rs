//! The patterns of a schema. Kubernetes reads them as Go does, where `\d`, `\w`, `\s` and `\b` know
//! only ASCII and a bracket has no other brackets, nor operators, inside.

use regex::{Regex, RegexBuilder};
use std::fmt::{self, Display, Formatter};

/// How large a pattern may become in memory: a few repetitions of repetitions would be gigabytes.
const SIZE: usize = 1 << 20;

/// A pattern that shows as it was given.
#[derive(Debug)]
pub(crate) struct Pattern {
    given: String,
    regex: Regex,
}

impl Pattern {
    pub(crate) fn new(given: &str) -> Result<Self, regex::Error> {
        let regex = RegexBuilder::new(&in_ascii(given)).size_limit(SIZE).build()?;
        Ok(Self { given: given.to_owned(), regex })
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

/// What came before a character in a bracket.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// The bracket itself.
    Open,
    /// What a range may start with.
    One,
    /// The dash of a range.
    Dash,
    /// A class, or a range.
    Class,
}

/// The pattern with its Perl classes written out.
fn in_ascii(given: &str) -> String {
    let mut made = String::with_capacity(given.len());
    let mut bracket = None;
    let mut rest = given;
    while let Some(c) = rest.chars().next() {
        let at = rest;
        rest = &rest[c.len_utf8()..];
        let Some(before) = bracket else {
            match c {
                '\\' => {
                    let escaped = rest.chars().next();
                    rest = &rest[escaped.map_or(0, char::len_utf8)..];
                    match escaped {
                        Some('b') => made.push_str(r"(?-u:\b)"),
                        Some('B') => made.push_str(r"(?-u:\B)"),
                        Some(class) => match posix(class) {
                            Some(posix) => made.extend(["[", posix, "]"]),
                            None => made.extend(['\\', class]),
                        },
                        None => made.push(c),
                    }
                }
                '[' => {
                    made.push(c);
                    if let Some(after) = rest.strip_prefix('^') {
                        made.push('^');
                        rest = after;
                    }
                    bracket = Some(Before::Open);
                }
                _ => made.push(c),
            }
            continue;
        };
        // What ends a range is no start of another.
        let one = if before == Before::Dash { Before::Class } else { Before::One };
        bracket = Some(match c {
            ']' if before != Before::Open => {
                made.push(c);
                bracket = None;
                continue;
            }
            '\\' => {
                let escaped = rest.chars().next();
                rest = &rest[escaped.map_or(0, char::len_utf8)..];
                match escaped.and_then(posix) {
                    // A range to a class is refused, as it is.
                    Some(posix) if before != Before::Dash => {
                        made.push_str(posix);
                        Before::Class
                    }
                    _ => {
                        made.push(c);
                        made.extend(escaped);
                        one
                    }
                }
            }
            '[' => match at.find(":]").filter(|_| rest.starts_with(':')) {
                Some(end) => {
                    made.push_str(&at[..end + 2]);
                    rest = &at[end + 2..];
                    Before::Class
                }
                None => {
                    made.push_str(r"\[");
                    one
                }
            },
            '-' if before == Before::One => {
                made.push(c);
                Before::Dash
            }
            ']' | '&' | '~' | '-' => {
                made.extend(['\\', c]);
                one
            }
            _ => {
                made.push(c);
                one
            }
        });
    }
    made
}

/// What a Perl class is in a bracket. `\s` has no vertical tab, which `[:space:]` has.
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
    fn classes_are_ascii_and_text_is_not() {
        for (pattern, fits, others) in [
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
            let made = Pattern::new(pattern).unwrap();
            assert_eq!(made.to_string(), pattern);
            for text in fits {
                assert!(made.is_match(text), "{pattern} {text:?}");
            }
            for text in others {
                assert!(!made.is_match(text), "{pattern} {text:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_or_too_large_is_refused() {
        for pattern in [r"[a-\d]", "[a", "(", r"a\", "((a{1000}){1000}){1000}"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
