//! `labs room`: the progress of participants side by side, for a teacher. Participants opt in by address and token.
//!
//! There are no accounts: one token lets participants report, another lets the teacher's page read. Reports are small,
//! their number is limited, and nothing of them is executed, stored or sent on.

mod progress;
mod server;

pub(crate) use progress::Progress;
pub(crate) use server::serve;
