//! The claims that a run judges: all of its labs, or some of them and what these need.

use crate::claim::Claim;
use std::collections::BTreeSet;

/// The claims to judge; by default all.
#[derive(Clone, Debug, Default)]
pub struct Selection(Option<BTreeSet<&'static str>>);

impl Selection {
    /// The claims with these ids, and all claims that they need.
    pub fn of(
        claims: impl Iterator<Item = &'static Claim> + Clone,
        ids: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let (mut open, mut selected): (Vec<_>, _) = (ids.into_iter().collect(), BTreeSet::new());
        while let Some(id) = open.pop() {
            if selected.insert(id) {
                let mut claims = claims.clone().filter(|claim| claim.id == id);
                open.extend(claims.next().into_iter().flat_map(|claim| claim.needs));
            }
        }
        Self(Some(selected))
    }

    /// Returns true unless all claims are selected.
    pub(crate) fn is_partial(&self) -> bool {
        self.0.is_some()
    }

    /// Returns true if the claim of that id is selected.
    pub(crate) fn includes(&self, id: &str) -> bool {
        self.0.as_ref().is_none_or(|selected| selected.contains(id))
    }

    /// Returns those of these claims that are selected, in their order.
    pub(crate) fn of_lab(&self, claims: &'static [Claim]) -> impl Iterator<Item = &'static Claim> {
        claims.iter().filter(|claim| self.includes(claim.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases;

    #[test]
    fn claim_is_selected_with_all_that_it_needs() {
        let ids = |ids: &[&'static str]| -> Vec<_> {
            let claims = phases::ALL.iter().flat_map(|lab| lab.claims);
            let selection = Selection::of(claims, ids.iter().copied());
            let selected = phases::ALL.iter().flat_map(|lab| selection.of_lab(lab.claims));
            selected.map(|claim| claim.id).collect()
        };
        assert_eq!(ids(&["app-static"]), ["app-static"]);
        assert_eq!(
            ids(&["quarter-to-canary"]),
            [
                "canary-differs-by-env",
                "canary-joins-untouched",
                "quarter-to-canary",
                "sessions-flip"
            ]
        );
        assert_eq!(ids(&["image-small", "scales"]), ["image-small", "rollout-completes", "scales"]);
        assert!(ids(&[]).is_empty());
        let all = Selection::default();
        assert!(all.includes("scales") && !all.is_partial());
        assert!(phases::ALL.iter().all(|lab| all.of_lab(lab.claims).count() == lab.claims.len()));
    }
}
