//! The query of a request.

use crate::{
    go_quote::{escaped, is_printable},
    http::status::{ApiError, ApiResult, go_number_error},
    validation::field_error::{FieldError, not_supported},
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
        self.first(name).filter(|value| !value.is_empty())
    }

    /// Returns the first value of a parameter, which may be empty.
    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns true if the parameter is given, even without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// Returns every value of a parameter, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// Returns the value of a flag, `None` without one. Like Kubernetes, reads everything but `false` and `0` as true,
    /// even an empty value.
    pub(crate) fn optional_flag(&self, name: &str) -> Option<bool> {
        self.first(name).map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// Returns the value of a flag.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.optional_flag(name) == Some(true)
    }

    /// Returns a number. A parameter without a value is an error, as in Kubernetes.
    pub(crate) fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        self.first(name)
            .map(|text| {
                text.parse().map_err(|error| {
                    let why = go_number_error(&error);
                    ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
                })
            })
            .transpose()
    }

    /// Returns true for a dry run.
    pub(crate) fn dry_run(&self) -> Result<bool, FieldError> {
        check_dry_run(&self.all("dryRun"))
    }

    /// Checks the name of a field manager (`ValidateFieldManager`).
    pub(crate) fn field_manager(&self) -> Result<Option<&str>, FieldError> {
        const MAX_BYTES: usize = 128;
        let Some(manager) = self.get("fieldManager") else { return Ok(None) };
        if manager.len() > MAX_BYTES {
            let message = format!("Too long: may not be more than {MAX_BYTES} bytes");
            let field = "fieldManager".into();
            return Err(FieldError { reason: "FieldValueTooLong", field, message });
        }
        if let Some((at, unprintable)) = manager.char_indices().find(|(_, c)| !is_printable(*c)) {
            let shown = escaped(manager);
            let message = format!(
                "Invalid value: \"{shown}\": invalid character U+{:04X} (at position {at})",
                u32::from(unprintable)
            );
            let field = "fieldManager".into();
            return Err(FieldError { reason: "FieldValueInvalid", field, message });
        }
        Ok(Some(manager))
    }

    /// Returns the handling of unknown fields.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, FieldError> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => {
                let known = ["", "Ignore", "Strict", "Warn"];
                Err(not_supported("fieldValidation", &other.into(), &known))
            }
        }
    }
}

/// Returns true if there is a dry run among the values of `dryRun`, of which only `All` is known.
pub(crate) fn check_dry_run(given: &[String]) -> Result<bool, FieldError> {
    if given.iter().all(|value| value == "All") {
        return Ok(!given.is_empty());
    }
    Err(not_supported("dryRun", &given.into(), &["All"]))
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

    #[test]
    fn option_that_is_no_number_is_refused_as_by_go() {
        for (given, expected) in [
            ("limit=5", Ok(Some(5))),
            ("limit=%2B2", Ok(Some(2))),
            ("limit=-1", Ok(Some(-1))),
            ("", Ok(None)),
            ("limit=", Err("\"\": invalid syntax")),
            ("limit=x", Err("\"x\": invalid syntax")),
            ("limit=1.5", Err("\"1.5\": invalid syntax")),
            ("limit=99999999999999999999", Err("\"99999999999999999999\": value out of range")),
        ] {
            let number = Query::parse(Some(given)).number("limit");
            let number = number.map_err(|error| error.to_string());
            let expected = expected.map_err(|why| format!("strconv.ParseInt: parsing {why}"));
            assert_eq!(number, expected, "{given}");
        }
    }

    #[test]
    fn options_of_writes_are_checked_as_in_kubernetes() {
        let refused = |query: &str| {
            let query = Query::parse(Some(query));
            let errors = [
                query.field_manager().err(),
                query.dry_run().err(),
                query.field_validation().err(),
            ];
            errors.into_iter().flatten().map(|error| error.message).collect::<Vec<_>>().join("; ")
        };
        for (query, expected) in [
            ("dryRun=All&dryRun=All&fieldManager=a%20b&fieldValidation=", ""),
            ("dryRun=", "Unsupported value: [\"\"]: supported values: \"All\""),
            (
                "dryRun=All&dryRun=x",
                "Unsupported value: [\"All\",\"x\"]: supported values: \"All\"",
            ),
            (
                "fieldManager=%01",
                "Invalid value: \"\\x01\": invalid character U+0001 (at position 0)",
            ),
            (
                "fieldManager=a%C2%A0",
                "Invalid value: \"a\\u00a0\": invalid character U+00A0 (at position 1)",
            ),
            (
                "fieldManager=%E2%80%8B",
                "Invalid value: \"\\u200b\": invalid character U+200B (at position 0)",
            ),
            (
                "fieldValidation=strict",
                "Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ),
        ] {
            assert_eq!(refused(query), expected, "{query}");
        }
    }
}
