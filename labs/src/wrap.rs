//! Text for the width of a terminal.

use std::io::{self, IsTerminal as _};

/// Wraps by words, after a first line that already has `used` columns; continued lines begin with `indent`
/// spaces. Nothing is cut: a word that is longer than a line stays whole. Without a width, one line.
pub(crate) fn wrap(text: &str, used: usize, indent: usize, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let (mut wrapped, mut column, mut first) = (String::new(), used, true);
    for word in text.split(' ') {
        let length = word.chars().count();
        if !first && column + 1 + length > width {
            wrapped.push('\n');
            wrapped.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if !first {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
        first = false;
    }
    wrapped
}

/// Wraps each line by itself, and continues it `hang` columns deeper than it begins. Commands (`$ …`) stay whole, so
/// that they can be copied.
pub(crate) fn wrap_lines(text: &str, hang: usize, width: Option<usize>) -> String {
    let lines = text.split('\n').map(|line| {
        let start = line.trim_start();
        let indent = line.chars().count() - start.chars().count();
        if start.starts_with("$ ") {
            return line.to_owned();
        }
        format!(
            "{}{}",
            &line[..line.len() - start.len()],
            wrap(start, indent, indent + hang, width)
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The width of standard output now; `None` if it is no terminal.
pub(crate) fn columns() -> Option<usize> {
    let out = io::stdout();
    let size = out.is_terminal().then(|| terminal_size::terminal_size_of(out)).flatten();
    size.map(|(width, _)| width.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_and_never_cut() {
        let text = "one two three four-and-a-long-word five";
        assert_eq!(wrap(text, 0, 2, None), text);
        let wrapped = wrap(text, 4, 2, Some(12));
        assert_eq!(wrapped, "one two\n  three\n  four-and-a-long-word\n  five");
        assert_eq!(wrapped.split_whitespace().collect::<Vec<_>>().join(" "), text);
    }

    #[test]
    fn lines_keep_their_indent_and_commands_stay_whole() {
        let text = "a b c d\n  e f g h\n\n  $ one two three";
        let wrapped = "a b c\n  d\n  e f\n    g\n    h\n\n  $ one two three";
        assert_eq!(wrap_lines(text, 2, Some(5)), wrapped);
        assert_eq!(wrap_lines(text, 2, None), text);
    }
}
