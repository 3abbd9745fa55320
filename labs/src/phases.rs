//! The phases of the article, one file each. [`ALL`] drives the command line, its help and
//! suggestions, `labs list` and `labs explain`, the reports and the CI matrix: a phase is added by its
//! file and one line here.

use crate::lab::Lab;

mod gateway;
pub mod phase0;
pub mod phase1;
pub mod phase2;
pub mod phase3;
pub mod phase4;
pub mod phase5;
pub mod phase6;
pub mod phase7;

/// All labs, in the order of the article, and what comes after it.
pub static ALL: &[Lab] = &[
    phase0::LAB,
    phase1::LAB,
    phase2::LAB,
    phase3::LAB,
    phase4::LAB,
    phase5::LAB,
    phase6::LAB,
    phase7::LAB,
];

/// Returns the lab of that name.
pub fn find(name: &str) -> Option<&'static Lab> {
    ALL.iter().find(|lab| lab.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn lab_names_and_claim_ids_are_unique() {
        let claims = || ALL.iter().flat_map(|lab| lab.claims);
        let ids: BTreeSet<_> = claims().map(|claim| claim.id).collect();
        assert_eq!(ids.len(), claims().count());
        let names: BTreeSet<_> = ALL.iter().map(|lab| lab.name).collect();
        assert_eq!(names.len(), ALL.len());
        let listed = lab_environment::PHASES;
        assert!(ALL.iter().map(|lab| lab.name).eq(listed), "xtask knows {listed:?}");
        assert!(claims().all(|claim| claim.sentence.ends_with(['.', ')'])));
    }
}
