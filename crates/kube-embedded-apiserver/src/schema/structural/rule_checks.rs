//! Validation of `x-kubernetes-validations` in a CustomResourceDefinition: a rule that does not
//! compile, or may cost too much, is refused with it.

use crate::{
    schema::structural::{
        expressions::{Place, each_node},
        given_rule::{GivenRule, path_steps},
        rule_costs::Costs,
        schema::{Additional, Schema},
        sizes::declare_sizes,
    },
    validation::field_error::{FieldError, invalid, not_supported, required},
};
use serde_json::Value;

/// What `reason` may be.
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Returns the errors in the form of the rules of a node.
pub(super) fn form_errors(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let has_newline = |text: &str| text.contains(['\n', '\r']);
    for (n, given) in GivenRule::parse(&schema["x-kubernetes-validations"]).iter().enumerate() {
        let at = |field: &str| format!("{path}.x-kubernetes-validations[{n}].{field}");
        let (rule, message) = (given.rule.trim(), given.message.trim());
        let text = |text: &str| Value::from(text);
        if rule.is_empty() {
            errors.push(required(at("rule"), "rule is not specified"));
        } else if !given.message.is_empty() && message.is_empty() {
            let detail = "must be non-empty if specified";
            errors.push(invalid(at("message"), &text(&given.message), detail));
        } else if has_newline(message) {
            let detail = "must not contain line breaks";
            errors.push(invalid(at("message"), &text(&given.message), detail));
        } else if has_newline(rule) && message.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(required(at("message"), detail));
        }
        if !given.message_expression.is_empty() && given.message_expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(required(at("messageExpression"), detail));
        }
        if let Some(reason) = given.reason.as_deref().filter(|known| !REASONS.contains(known)) {
            errors.push(not_supported(at("reason"), &text(reason), REASONS));
        }
        let field = &given.field_path;
        if !field.is_empty() && field.trim().is_empty() {
            let detail = "must be non-empty if specified";
            errors.push(invalid(at("fieldPath"), &text(field), detail));
        }
        if has_newline(field) {
            let detail = "must not contain line breaks";
            errors.push(invalid(at("fieldPath"), &text(field), detail));
        }
        if !field.is_empty() && !leads_to_field(schema, field) {
            errors.push(invalid(at("fieldPath"), &text(field), "must be a valid path"));
        }
    }
    errors
}

/// Returns true if a path, such as `.spec['a-b']`, leads to a field of the schema.
fn leads_to_field(schema: &Value, path: &str) -> bool {
    let Ok(steps) = path_steps(path) else { return false };
    let mut schema = schema;
    for (name, _) in steps {
        schema = match schema["properties"].is_object() {
            true => &schema["properties"][name],
            false => &schema["additionalProperties"],
        };
        if !schema.is_object() {
            return false;
        }
    }
    true
}

/// Returns the errors of compiling the rules of a schema that is valid otherwise, and of those
/// that may cost too much. In a schema that is `unchanged`, a single rule may.
pub(super) fn compile_errors(schema: &Schema, path: &str, unchanged: bool) -> Vec<FieldError> {
    let mut costs = Costs::new(unchanged);
    let mut errors = Vec::new();
    each_node(schema, path, &mut |place| {
        for (n, given) in place.schema.rules.iter().enumerate() {
            errors.extend(rule_errors(place, n, given, &mut costs));
        }
    });
    errors.extend(unseen_errors(schema, path));
    errors.extend(costs.total_errors(path));
    errors
}

/// Returns the errors of a rule of a node.
fn rule_errors(place: &Place, n: usize, given: &GivenRule, costs: &mut Costs) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| format!("{}.x-kubernetes-validations[{n}].{field}", place.path);
    let failed = |field: &str, why: &str| FieldError {
        reason: "FieldValueInvalid",
        field: at(field),
        message: format!("Invalid value: {}: {why}", shown(given)),
    };
    let program = match given.compile(place.kind) {
        Ok(program) => program,
        Err(why) => {
            errors.push(failed("rule", &why));
            errors.extend(unused_option(given, false, at("optionalOldSelf")));
            return errors;
        }
    };
    let sizes = declare_sizes(place.schema, place.root);
    if let Some(sizes) = &sizes {
        let once = program.estimate(&given.variables(place.kind), &sizes.sizes).max;
        let count = place.count.unwrap_or_else(|| sizes.count_in_request());
        errors.extend(costs.add("rule", at("rule"), once.saturating_mul(count)));
    }
    match (given.compile_message(place.kind), &sizes) {
        (Err(why), _) => errors.push(failed("messageExpression", &why)),
        (Ok(Some(message)), Some(sizes)) => {
            let once = message.estimate(&given.variables(place.kind), &sizes.sizes).max;
            errors.extend(costs.add("messageExpression", at("messageExpression"), once));
        }
        _ => {}
    }
    if let (true, Some(lost)) = (program.uses("oldSelf"), place.uncorrelatable) {
        let detail = format!(
            "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
        );
        errors.push(invalid(at("rule"), &given.rule.as_str().into(), &detail));
    }
    errors.extend(unused_option(given, program.uses("oldSelf"), at("optionalOldSelf")));
    errors
}

/// `optionalOldSelf` of a rule that does not look at the old state.
fn unused_option(given: &GivenRule, uses_old: bool, field: String) -> Option<FieldError> {
    let detail = "may not be set if oldSelf is not used in rule";
    let optional = given.optional_old_self.filter(|_| !uses_old)?;
    Some(invalid(field, &optional.into(), detail))
}

/// Rules on what expressions do not see, of which Kubernetes does not run any either.
fn unseen_errors(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut seen = Vec::new();
    each_node(schema, path, &mut |place| seen.push(place.path.to_owned()));
    let mut errors = Vec::new();
    for_all(schema, path, &mut |node, path| {
        if !node.rules.is_empty() && !seen.iter().any(|known| known == path) {
            let what = "failed to construct type information for x-kubernetes-validations rules: \
                        unable to convert structural schema to CEL declarations";
            errors.push(FieldError {
                reason: "InternalError",
                field: format!("{path}.x-kubernetes-validations"),
                message: format!("Internal error: internal error: {what}"),
            });
        }
    });
    errors
}

fn for_all(schema: &Schema, path: &str, visit: &mut impl FnMut(&Schema, &str)) {
    visit(schema, path);
    for (name, below) in &schema.properties {
        for_all(below, &format!("{path}.properties[{name}]"), visit);
    }
    if let Additional::Like(below) = &schema.additional {
        for_all(below, &format!("{path}.additionalProperties"), visit);
    }
    if let Some(below) = &schema.items {
        for_all(below, &format!("{path}.items"), visit);
    }
}

/// A rule as messages show it: Go's names, and Go's escapes.
fn shown(given: &GivenRule) -> String {
    let text = |text: &str| {
        let escapes = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026")];
        let text = Value::from(text).to_string();
        escapes.iter().fold(text, |text, (c, escape)| text.replace(*c, escape))
    };
    let GivenRule { rule, message, message_expression, field_path, .. } = given;
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\
         \"OptionalOldSelf\":{}}}",
        text(rule),
        text(message),
        text(message_expression),
        given.reason.as_deref().map_or("null".to_owned(), text),
        text(field_path),
        given.optional_old_self.map_or("null".to_owned(), |set| set.to_string()),
    )
}
