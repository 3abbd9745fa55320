//! The texts of `labs list` and `labs explain`.

use crate::claim::Claim;
use crate::lab::Lab;
use crate::phases;

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
pub(super) fn explanation(lab: &Lab) -> String {
    let Lab { name, title, summary, article, .. } = lab;
    let claims = claims(lab.claims);
    format!("{name}: {title}\n\n{summary}\n\nIn the article: {article}\n\nClaims\n{claims}")
}

fn claims(claims: &[Claim]) -> String {
    claims.iter().map(|claim| format!("  {:<28}{}\n", claim.id, claim.sentence)).collect()
}
