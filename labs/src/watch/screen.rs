//! The output of `labs watch`: lines that stay, and on a terminal one below them that is redrawn.

use crate::names::in_terms_of_program;
use crate::wrap::{columns, wrap_lines};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{IsTerminal as _, Write as _};

/// What a line about a claim or a fault begins with.
const MARKS: [char; 3] = ['✓', '✗', '!'];

/// Standard output.
pub(super) struct Screen {
    /// Whether a line can be redrawn.
    live: bool,
    drawn: bool,
    /// The line at the end: what there is in the namespace, or a question.
    line: String,
}

impl Screen {
    pub(super) fn open() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = std::io::stdout().is_terminal() && !dumb;
        Self { live, drawn: false, line: String::new() }
    }

    /// Returns true if this is a pipe whose reader has exited.
    pub(super) fn is_closed(&self) -> bool {
        let out = std::io::stdout();
        let mut pipe = [PollFd::new(&out, PollFlags::empty())];
        let polled = poll(&mut pipe, Some(&Timespec::default())).is_ok();
        polled && pipe.iter().any(|pipe| pipe.revents().contains(PollFlags::ERR))
    }

    /// Prints lines that stay, each wrapped by itself.
    pub(super) fn say(&mut self, text: &str) {
        let text = &*in_terms_of_program(text);
        let width = columns();
        let hang = |line: &str| if line.starts_with(MARKS) { 2 } else { 0 };
        let lines = text.split('\n').map(|line| wrap_lines(line, hang(line), width));
        let text = lines.collect::<Vec<_>>().join("\n");
        let erase = if std::mem::take(&mut self.drawn) { "\r\x1b[K" } else { "" };
        self.write(&format!("{erase}{text}\n"));
        self.redraw();
    }

    /// Replaces the line at the end. Where it cannot be redrawn, it is printed.
    pub(super) fn show(&mut self, line: String) {
        if line == self.line {
            return;
        }
        self.line = line;
        match self.live {
            true => self.redraw(),
            false => self.write(&format!("· {}\n", self.line)),
        }
    }

    fn redraw(&mut self) {
        if self.live && !self.line.is_empty() {
            // With wrapping off, a line longer than the terminal is cut instead of scrolling.
            self.write(&format!("\r\x1b[?7l\x1b[K{}\x1b[?7h", self.line));
            self.drawn = true;
        }
    }

    /// A closed pipe is no failure.
    fn write(&self, text: &str) {
        let mut out = std::io::stdout();
        _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.drawn {
            self.write("\n");
        }
    }
}
