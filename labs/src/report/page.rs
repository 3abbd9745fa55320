//! `--ui`: the report as a live page.

use super::reporter::Reporter;
use crate::event::Stamped;
use crate::ui::Server;
use std::io;

/// Shows events on the page.
pub(super) struct Page(pub(super) Server);

impl Reporter for Page {
    fn event(&mut self, stamped: &Stamped) {
        self.0.event(stamped);
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.finish();
        Ok(())
    }
}
