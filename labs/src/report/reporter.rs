//! The interface of a report, and its output.

use crate::event::Stamped;
use std::io::{self, Write};

/// Turns events into a report.
pub(super) trait Reporter {
    /// Handles one event.
    fn event(&mut self, stamped: &Stamped);

    /// Called about ten times a second while there are no events.
    fn tick(&mut self) {}

    /// Called after the last event.
    ///
    /// # Errors
    /// If something could not be written.
    fn finish(&mut self) -> io::Result<()>;
}

/// A writer that keeps its first error, so that neither a full disk nor a reader that has left keeps a run
/// from cleaning up.
pub(super) struct Output<W> {
    pub(super) writer: W,
    error: Option<io::Error>,
}

impl<W: Write> Output<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, error: None }
    }

    /// Writes and flushes.
    pub(super) fn write(&mut self, text: &[u8]) {
        if self.error.is_none() {
            self.error = self.writer.write_all(text).and_then(|()| self.writer.flush()).err();
        }
    }

    /// Returns the first error. A closed pipe, as with `head`, is none.
    pub(super) fn result(&mut self) -> io::Result<()> {
        match self.error.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_disk_is_an_error_and_a_closed_pipe_is_not() {
        for (kind, fails) in
            [(io::ErrorKind::StorageFull, true), (io::ErrorKind::BrokenPipe, false)]
        {
            let mut output = Output::new(Failing(kind));
            output.write(b"a");
            output.write(b"b");
            assert_eq!(output.result().is_err(), fails, "{kind}");
        }
    }
}
