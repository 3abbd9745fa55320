//! The one list of labs. The command line, its help, `labs list`, `labs explain`, the reports and
//! the suggestion for a mistyped name are all made from it: a lab is added by one file in `phases/`
//! and one line here.

use crate::claim::Claim;
use crate::context::Context;
use crate::phases;
use futures::future::BoxFuture;

/// A runnable phase of the article.
#[derive(Clone, Copy, Debug)]
pub struct Lab {
    /// What one types: `phase4`.
    pub name: &'static str,
    /// A few words for headings.
    pub title: &'static str,
    /// What happens in it, in a sentence or two.
    pub summary: &'static str,
    /// The article's own heading, and what has changed since it was written.
    pub article: &'static str,
    /// Every claim it judges, in the order of the article.
    pub claims: &'static [Claim],
    /// Plays the phase. It judges each of its claims once through the [`Context`]; an error means
    /// that the infrastructure failed, or that a claim's failure left nothing to go on with. A lab
    /// that builds on an earlier phase sets up what it needs and judges only its own claims.
    /// Its future may be dropped at any await.
    pub run: RunLab,
}

/// See [`Lab::run`].
pub type RunLab = for<'a> fn(&'a Context) -> BoxFuture<'a, anyhow::Result<()>>;

impl Lab {
    /// The claim of this lab with that id.
    pub fn claim(&self, id: &str) -> Option<&'static Claim> {
        self.claims.iter().find(|claim| claim.id == id)
    }
}

/// All labs, in the order of the article.
pub static LABS: &[Lab] = &[
    phases::phase0::LAB,
    phases::phase1::LAB,
    phases::phase2::LAB,
    phases::phase3::LAB,
    phases::phase4::LAB,
    phases::phase5::LAB,
];

/// The known word that `word` was probably meant to be: the one with the fewest letters to change,
/// add, drop or swap, if at most a third of them are wrong.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (wrong, candidate) = scored.min_by_key(|(wrong, _)| *wrong)?;
    let longest = word.chars().count().max(candidate.chars().count());
    (wrong * 3 <= longest.max(3)).then_some(candidate)
}

/// Optimal string alignment: Levenshtein, with two swapped neighbours counted as one mistake.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let cell = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = cell(&last, j) + usize::from(from != to);
            best = best.min(cell(&last, j + 1) + 1).min(cell(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                best = best.min(cell(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn distance_counts_mistakes() {
        for (a, b, wrong) in [
            ("", "", 0),
            ("", "abc", 3),
            ("phase4", "phase4", 0),
            ("phase4", "phase3", 1),
            ("pahse4", "phase4", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), wrong, "{a} {b}");
            assert_eq!(distance(b, a), wrong, "{b} {a}");
        }
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let names = || LABS.iter().map(|lab| lab.name);
        assert_eq!(nearest("phase9", names()), Some("phase0"));
        assert_eq!(nearest("pase4", names()), Some("phase4"));
        assert_eq!(nearest("canary", names()), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn names_and_claims_are_unique_and_told() {
        let claims = || LABS.iter().flat_map(|lab| lab.claims);
        let ids: BTreeSet<_> = claims().map(|claim| claim.id).collect();
        assert_eq!(ids.len(), claims().count());
        let names: BTreeSet<_> = LABS.iter().map(|lab| lab.name).collect();
        assert_eq!(names.len(), LABS.len());
        assert!(claims().all(|claim| claim.sentence.ends_with(['.', ')'])));
    }
}
