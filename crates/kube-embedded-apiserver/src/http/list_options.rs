//! `ListOptions` that choose the state of a list or a watch: resource version and how to match it.

use crate::{
    http::{
        query::Query,
        status::{ApiError, ApiResult},
    },
    validation::field_error::FieldError,
};

/// Returns the requested resource version, 0 for none.
pub(crate) fn resource_version(query: &Query) -> ApiResult<u64> {
    match query.get("resourceVersion") {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| ApiError::bad_resource_version(text)),
    }
}

/// Rejects options that contradict each other, all of them at once.
pub(crate) fn check(query: &Query, watch: bool) -> ApiResult<()> {
    let errors = if watch { watch_errors(query) } else { list_errors(query) };
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid_list_options(&errors)),
    }
}

const MATCH: &str = "resourceVersionMatch";

fn list_errors(query: &Query) -> Vec<FieldError> {
    let version = query.get("resourceVersion");
    let mut errors = Vec::new();
    if let Some(how) = query.get(MATCH) {
        let exact_zero = how == "Exact" && version == Some("0");
        errors.extend([
            forbidden_if(
                version.is_none(),
                MATCH,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            forbidden_if(query.get("continue").is_some(), MATCH, WITH_CONTINUE),
            unknown_match(how, &["Exact", "NotOlderThan", ""]),
            forbidden_if(
                exact_zero,
                MATCH,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
        ]);
    }
    let initial = query.get("sendInitialEvents").is_some();
    let why = "sendInitialEvents is forbidden for list";
    errors.push(forbidden_if(initial, "sendInitialEvents", why));
    errors.into_iter().flatten().collect()
}

fn watch_errors(query: &Query) -> Vec<FieldError> {
    let initial = query.get("sendInitialEvents").is_some();
    let how = query.get(MATCH);
    let mut errors = vec![forbidden_if(
        initial && how != Some("NotOlderThan"),
        MATCH,
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    )];
    if let Some(how) = how {
        errors.extend([
            forbidden_if(
                !initial,
                MATCH,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
            unknown_match(how, &["NotOlderThan"]),
            forbidden_if(query.get("continue").is_some(), MATCH, WITH_CONTINUE),
        ]);
    }
    errors.into_iter().flatten().collect()
}

const WITH_CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";

fn forbidden_if(wrong: bool, field: &str, why: &str) -> Option<FieldError> {
    wrong.then(|| FieldError {
        reason: "FieldValueForbidden",
        field: field.into(),
        message: format!("Forbidden: {why}"),
    })
}

fn unknown_match(given: &str, known: &[&str]) -> Option<FieldError> {
    let quoted: Vec<String> = known.iter().map(|known| format!("{known:?}")).collect();
    (!known.contains(&given)).then(|| FieldError {
        reason: "FieldValueNotSupported",
        field: MATCH.into(),
        message: format!("Unsupported value: {given:?}: supported values: {}", quoted.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_options_are_rejected() {
        for (query, watch, expected) in [
            ("resourceVersion=5&resourceVersionMatch=Exact", false, ""),
            ("resourceVersion=0&resourceVersionMatch=NotOlderThan", false, ""),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, ""),
            ("resourceVersionMatch=Exact", false, "unless resourceVersion is provided"),
            ("resourceVersion=5&resourceVersionMatch=Exact&continue=x", false, "when continue is"),
            ("resourceVersion=0&resourceVersionMatch=Exact", false, "is forbidden for resourceVer"),
            ("resourceVersion=5&resourceVersionMatch=No", false, "supported values: \"Exact\", "),
            ("resourceVersion=5&resourceVersionMatch=Exact", true, "is forbidden for watch unless"),
            ("sendInitialEvents=true", false, "sendInitialEvents is forbidden for list"),
            ("sendInitialEvents=true", true, "requires setting resourceVersionMatch"),
        ] {
            let message = match check(&Query::parse(Some(query)), watch) {
                Ok(()) => String::new(),
                Err(error) => error.to_value()["message"].to_string().replace("\\\"", "\""),
            };
            assert!(
                message.contains(expected) && message.is_empty() == expected.is_empty(),
                "{query}: {message}"
            );
        }
    }
}
