//! The texts of `labs list` and `labs explain`.

use crate::claim::Claim;
use crate::lab::Lab;
use crate::phases;
use crate::step::Target;

/// Formats all labs and their claims.
pub(super) fn as_text() -> String {
    let labs = phases::ALL
        .iter()
        .map(|lab| format!("{}  {}\n{}", lab.name, lab.title, claims(lab.claims)));
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
pub(super) fn explanation(lab: &Lab, target: Target<'_>) -> String {
    let Lab { name, title, summary, article, .. } = lab;
    let claims = claims(lab.claims);
    let steps = lab.steps.iter().enumerate();
    let steps: String =
        steps.map(|(index, step)| format!("\n{}. {}", index + 1, step.text(target))).collect();
    format!(
        "{name}: {title}\n\n{summary}\n\nIn the article: {article}\n\nClaims\n{claims}\nSteps\n{steps}"
    )
}

fn claims(claims: &[Claim]) -> String {
    claims.iter().map(|claim| format!("  {:<28}{}\n", claim.id, claim.sentence)).collect()
}
