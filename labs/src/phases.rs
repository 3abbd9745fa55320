//! One file a phase of the article. What phases share lives beside this module, not in it.

pub mod phase0;
pub mod phase1;
pub mod phase2;
pub mod phase3;
pub mod phase4;
pub mod phase5;
