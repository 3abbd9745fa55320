//! `ListOptions` of a list, a watch, or the deletion of a collection.

use crate::{
    http::{
        query::Query,
        selector::Selector,
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    validation::field_error::FieldError,
};

/// The options, apart from the resource version, which is looked at last.
pub(crate) struct ListOptions {
    pub(crate) selector: Selector,
    pub(crate) limit: Option<i64>,
    pub(crate) timeout_seconds: Option<i64>,
}

impl ListOptions {
    /// Parses the options, and rejects those that contradict each other, all of them at once.
    pub(crate) fn parse(resource: &ResourceType, query: &Query, watch: bool) -> ApiResult<Self> {
        let timeout_seconds = query.number("timeoutSeconds")?;
        let limit = query.number("limit")?;
        let (labels, fields) = (query.get("labelSelector"), query.get("fieldSelector"));
        let selector = Selector::parse(resource, labels, fields)?;
        let errors = if watch { watch_errors(query) } else { list_errors(query) };
        if !errors.is_empty() {
            return Err(ApiError::invalid_options("ListOptions", &errors));
        }
        Ok(Self { selector, limit, timeout_seconds })
    }
}

/// Returns the resource version of a list, 0 for none.
pub(crate) fn list_version(query: &Query) -> ApiResult<u64> {
    let Some(text) = query.get("resourceVersion") else { return Ok(0) };
    text.parse().map_err(|error| ApiError::bad_list_version(text, &error))
}

/// Returns the resource version of a watch, 0 for none.
pub(crate) fn watch_version(query: &Query) -> ApiResult<u64> {
    let Some(text) = query.get("resourceVersion") else { return Ok(0) };
    text.parse().map_err(|error| ApiError::bad_watch_version(text, &error))
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
    let initial = query.has("sendInitialEvents");
    let why = "sendInitialEvents is forbidden for list";
    errors.push(forbidden_if(initial, "sendInitialEvents", why));
    errors.into_iter().flatten().collect()
}

fn watch_errors(query: &Query) -> Vec<FieldError> {
    let initial = query.has("sendInitialEvents");
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
        let pods = crate::resources::registry::find("", "v1", "pods").unwrap();
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
            ("sendInitialEvents=", false, "sendInitialEvents is forbidden for list"),
            ("limit=x&timeoutSeconds=y", false, "parsing \"y\": invalid syntax"),
            ("limit=x&labelSelector=!!", true, "parsing \"x\": invalid syntax"),
            ("labelSelector=!!&fieldSelector=a", false, "found '!', expected: identifier"),
            ("fieldSelector=a&sendInitialEvents=", false, "invalid selector: 'a'"),
            ("sendInitialEvents=true", true, "requires setting resourceVersionMatch"),
        ] {
            let message = match ListOptions::parse(pods, &Query::parse(Some(query)), watch) {
                Ok(_) => String::new(),
                Err(error) => error.to_value()["message"].to_string().replace("\\\"", "\""),
            };
            assert!(
                message.contains(expected) && message.is_empty() == expected.is_empty(),
                "{query}: {message}"
            );
        }
    }
}
