//! The query of a request.

use crate::{
    http::status::{ApiError, ApiResult},
    validation::field_error::FieldError,
};

/// A request's query.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        // kube sends queries that start with `?&`; the parser skips empty pairs.
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// Returns the first value of a parameter, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| &**value)
            .filter(|value| !value.is_empty())
    }

    /// Returns every value of a parameter, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// Returns the value of a flag. Like Kubernetes, reads everything but `false` and `0` as true, even an empty value.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .is_some_and(|(_, value)| !matches!(&**value, "0" | "false" | "False" | "FALSE"))
    }

    /// Returns a number.
    pub(crate) fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ))
                })
            })
            .transpose()
    }

    /// Returns true for a dry run. `options` is the kind that the error names.
    pub(crate) fn dry_run(&self, options: &str) -> ApiResult<bool> {
        let given: Vec<&str> =
            self.0.iter().filter(|(name, _)| name == "dryRun").map(|(_, value)| &**value).collect();
        if given.iter().all(|value| *value == "All") {
            return Ok(!given.is_empty());
        }
        Err(ApiError::invalid_options(
            options,
            FieldError {
                reason: "FieldValueNotSupported",
                field: "dryRun".into(),
                message: format!("Unsupported value: {given:?}: supported values: \"All\""),
            },
        ))
    }

    /// Checks the name of a field manager (`ValidateFieldManager`). `options` is the kind that the error names.
    pub(crate) fn field_manager(&self, options: &str) -> ApiResult<Option<&str>> {
        const MAX_BYTES: usize = 128;
        let Some(manager) = self.get("fieldManager") else { return Ok(None) };
        let refuse = |reason, message| {
            let field = "fieldManager".into();
            Err(ApiError::invalid_options(options, FieldError { reason, field, message }))
        };
        if manager.len() > MAX_BYTES {
            let message = format!("Too long: may not be more than {MAX_BYTES} bytes");
            return refuse("FieldValueTooLong", message);
        }
        if let Some((at, unprintable)) = manager.char_indices().find(|(_, c)| c.is_control()) {
            let shown: String = manager.chars().map(go_escaped).collect();
            return refuse(
                "FieldValueInvalid",
                format!(
                    "Invalid value: \"{shown}\": invalid character U+{:04X} (at position {at})",
                    u32::from(unprintable)
                ),
            );
        }
        Ok(Some(manager))
    }

    /// Checks that only apply patches are forced.
    pub(crate) fn check_not_forced(&self) -> ApiResult<()> {
        if !self.0.iter().any(|(name, _)| name == "force") {
            return Ok(());
        }
        Err(ApiError::invalid_options(
            "PatchOptions",
            FieldError {
                reason: "FieldValueForbidden",
                field: "force".into(),
                message: "Forbidden: may not be specified for non-apply patch".into(),
            },
        ))
    }

    /// Returns the handling of unknown fields. `options` is the kind that the error names.
    pub(crate) fn field_validation(&self, options: &str) -> ApiResult<FieldValidation> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(ApiError::invalid_options(
                options,
                FieldError {
                    reason: "FieldValueNotSupported",
                    field: "fieldValidation".into(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \
                         \"Strict\", \"Warn\""
                    ),
                },
            )),
        }
    }
}

/// A character as Go quotes it.
fn go_escaped(c: char) -> String {
    match c {
        '\n' | '\r' | '\t' | '"' | '\\' => c.escape_default().collect(),
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    }
}

/// The handling of fields that the type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_may_start_with_ampersand() {
        let query = Query::parse(Some("&watch=true&labelSelector=a%3Db,c+in+(d)&x=&watched=0"));
        assert!(query.flag("watch") && !query.flag("watched") && !query.flag("absent"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(query.get("x"), None);
    }
}
