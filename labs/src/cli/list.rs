//! The texts of `labs list` and `labs explain`.

use crate::claim::Claim;
use crate::lab::Lab;
use crate::phases;
use crate::step::Target;
use crate::wrap::{wrap, wrap_lines};

/// From this width on, a claim's sentence is next to its name; below that, under it.
const SIDE_BY_SIDE: usize = 100;
/// The columns before a sentence in each of the two forms.
const BESIDE: usize = 30;
const UNDER: usize = 6;

/// Formats all labs and their claims.
pub(super) fn as_text(width: Option<usize>) -> String {
    let labs = phases::ALL
        .iter()
        .map(|lab| format!("{}  {}\n{}", lab.name, lab.title, claims(lab.claims, width)));
    labs.collect()
}

/// Formats all labs and their claims as JSON.
pub(super) fn as_json() -> String {
    let labs = phases::ALL.iter().map(|lab| {
        serde_json::json!({
            "name": lab.name, "title": lab.title, "summary": lab.summary,
            "article": lab.article, "claims": lab.claims,
        })
    });
    serde_json::Value::from(labs.collect::<Vec<_>>()).to_string()
}

/// Formats everything about one lab.
pub(super) fn explanation(lab: &Lab, target: Target<'_>, width: Option<usize>) -> String {
    let Lab { name, title, summary, article, .. } = lab;
    let claims = claims(lab.claims, width);
    let steps = lab.steps.iter().enumerate();
    let steps: String =
        steps.map(|(index, step)| format!("\n{}. {}", index + 1, step.text(target))).collect();
    let head = format!("{name}: {title}\n\n{summary}\n\nIn the article: {article}");
    let (head, steps) = (wrap_lines(&head, 0, width), wrap_lines(&steps, 2, width));
    format!("{head}\n\nClaims\n{claims}\nSteps\n{steps}")
}

fn claims(claims: &[Claim], width: Option<usize>) -> String {
    let claim = |Claim { id, sentence, .. }: &Claim| match width {
        Some(..SIDE_BY_SIDE) => {
            format!("  {id}\n{:UNDER$}{}\n", "", wrap(sentence, UNDER, UNDER, width))
        }
        _ => format!("  {id:<28}{}\n", wrap(sentence, BESIDE, BESIDE, width)),
    };
    claims.iter().map(claim).collect()
}
