//! The interface of a report.

use crate::event::Stamped;

/// Turns events into a report.
pub(super) trait Reporter {
    /// Handles one event.
    fn event(&mut self, stamped: &Stamped);

    /// Called about ten times a second while there are no events.
    fn tick(&mut self) {}
}
