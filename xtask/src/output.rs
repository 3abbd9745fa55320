//! Writing to standard output and standard error without a panic, which would skip the cleanup.

use crate::project::Installation;
use anyhow::{Context, Result};
use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};

/// Writes a line to standard output and returns an error if it cannot be written.
macro_rules! outln {
    ($($argument:tt)*) => { $crate::output::print(&format!("{}\n", format_args!($($argument)*))) };
}

/// Writes a line to standard error, if it can be written.
macro_rules! errln {
    ($($argument:tt)*) => { $crate::output::report(format_args!($($argument)*)) };
}

pub(crate) use {errln, outln};

/// Writes to standard output. A closed pipe is no failure: its reader has seen enough. A full disk is one:
/// scripts read what is written here.
pub(crate) fn print(text: &str) -> Result<()> {
    write_all(&mut io::stdout().lock(), in_terms_of_program(text).as_bytes())
}

fn write_all(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("failed to write to standard output"),
    }
}

/// Writes a line to standard error. There is nowhere to report a failure to.
pub(crate) fn report(line: std::fmt::Arguments) {
    let line = line.to_string();
    let _ = writeln!(io::stderr(), "{}", in_terms_of_program(&line));
}

/// Names the program that the user typed. Every text names `cargo xtask`, which is the program here unless this
/// is an installation.
pub(crate) fn in_terms_of_program(text: &str) -> Cow<'_, str> {
    match Installation::selected() {
        Some(Installation { program, .. }) => text.replace("cargo xtask", program).into(),
        None => text.into(),
    }
}

/// Wraps a text at spaces to lines of `width` columns. A longer word has a line of its own, and so has a
/// command in backquotes, which can then be copied.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut is_command = false;
    let words = text.split(|c| {
        is_command ^= c == '`';
        c == ' ' && !is_command
    });
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// The columns of output that is wrapped: those of a plain terminal, so that it can also be pasted.
pub(crate) const COLUMNS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_closed_pipe_is_no_error() {
        assert!(write_all(&mut Failing(ErrorKind::BrokenPipe), b"x").is_ok());
        let error = write_all(&mut Failing(ErrorKind::StorageFull), b"x").unwrap_err();
        assert!(error.to_string().contains("failed to write to standard output"));
    }

    #[test]
    fn text_is_wrapped_at_spaces_and_nothing_is_cut() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a https://very.long/word b", 8), ["a", "https://very.long/word", "b"]);
        assert_eq!(wrap("do `sudo x y z` or not", 8), ["do", "`sudo x y z`", "or not"]);
        assert_eq!(wrap("", 8), [""]);
    }
}
