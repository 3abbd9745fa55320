//! `--ui`: a page that shows a run live, served on loopback. The page only reads; it is made of events, as
//! every report.

mod board;
mod server;

pub(crate) use server::Server;
