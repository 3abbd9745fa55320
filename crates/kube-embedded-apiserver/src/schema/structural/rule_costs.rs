//! The limits to what the rules of a CustomResourceDefinition may cost, as estimated when it is
//! written (`StaticEstimatedCostLimit` and `StaticEstimatedCRDCostLimit` in
//! `pkg/apis/apiextensions/validation` of the apiextensions API server).

use crate::validation::field_error::{FieldError, forbidden};

/// The limit of one expression, times the values that it is evaluated on.
const PER_RULE: u64 = 10_000_000;
/// The limit of all expressions of a schema.
const PER_SCHEMA: u64 = 100_000_000;
/// How many of the most expensive rules are named when the schema exceeds its limit, and the cost
/// from which one may be.
const NAMED: usize = 4;
const NOTABLE: u64 = PER_SCHEMA / 100;

/// Adds up the costs of a schema.
pub(super) struct Costs {
    /// The schema was accepted before, maybe with another estimate: single rules stay accepted.
    unchanged: bool,
    total: u64,
    /// The most expensive first.
    notable: Vec<(u64, String)>,
}

impl Costs {
    pub(super) fn new(unchanged: bool) -> Self {
        Self { unchanged, total: 0, notable: Vec::new() }
    }

    /// Adds the cost of an expression, and returns an error if it alone is too high.
    pub(super) fn add(&mut self, what: &str, field: String, cost: u64) -> Option<FieldError> {
        self.total = self.total.saturating_add(cost);
        if cost >= NOTABLE {
            self.notable.push((cost, field.clone()));
            self.notable.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.notable.truncate(NAMED);
        }
        let what = format!("estimated {what} cost");
        (cost > PER_RULE && !self.unchanged)
            .then(|| forbidden(field, &exceeded(&what, cost, PER_RULE)))
    }

    /// Returns the errors of a schema at a path whose rules together cost too much.
    pub(super) fn total_errors(self, path: &str) -> Vec<FieldError> {
        if self.total <= PER_SCHEMA {
            return Vec::new();
        }
        let contributed = "contributed to estimated rule cost total exceeding cost limit for \
                           entire OpenAPIv3 schema";
        let mut errors: Vec<FieldError> =
            self.notable.into_iter().map(|(_, field)| forbidden(field, contributed)).collect();
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(forbidden(path, &exceeded(what, self.total, PER_SCHEMA)));
        errors
    }
}

/// Describes by how much a limit is exceeded.
#[allow(clippy::cast_precision_loss, reason = "shown with few digits")]
fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        // Without any limits in the schema, the number means nothing.
        _ if factor > 100.0 => "more than 100x".to_owned(),
        // Not 1.0x.
        _ if factor < 1.5 => format!("{factor:.6}x"),
        _ => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding \
         maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests;
