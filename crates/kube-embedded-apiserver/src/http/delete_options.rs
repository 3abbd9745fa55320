//! `DeleteOptions`: those in the body if there is one, otherwise those of the query.

use crate::{
    fields::strings,
    http::{
        decode,
        query::{Query, check_dry_run},
        request::Request,
        status::{ApiError, ApiResult},
    },
    resources::deletion::Propagation,
    schema::{object_schema::ObjectSchema, tree::structure},
    validation::field_error::{FieldError, invalid, not_supported},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::DeleteOptions as Schema, schemars::SchemaGenerator,
};
use serde_json::Value;

/// How to delete an object.
#[derive(Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    /// Deprecated `orphanDependents`; also changes the response code.
    pub(crate) orphan: Option<bool>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// The options of a `DELETE`. A body replaces the query, even if it is empty but for its braces.
    pub(crate) fn parse(request: &Request) -> ApiResult<Self> {
        if request.body.is_empty() {
            return Self::from_query(&request.query);
        }
        let given = decode::any(request)?;
        let named = given["kind"].as_str().unwrap_or("DeleteOptions");
        if !matches!(named, "" | "DeleteOptions") {
            let version = given["apiVersion"].as_str().unwrap_or_default();
            return Err(ApiError::bad_request(format!(
                "no kind {named:?} is registered for version {version:?} in scheme \
                 \"pkg/runtime/scheme.go:111\""
            )));
        }
        Self::from_object(&given)
    }

    fn from_query(query: &Query) -> ApiResult<Self> {
        let propagation = query
            .has("propagationPolicy")
            .then(|| query.get("propagationPolicy").unwrap_or_default().to_owned());
        Self {
            grace: query.number("gracePeriodSeconds")?,
            orphan: query.optional_flag("orphanDependents"),
            uid: query.get("uid").map(str::to_owned),
            resource_version: query.get("resourceVersion").map(str::to_owned),
            ..Self::default()
        }
        .checked(propagation.as_deref(), &query.all("dryRun"))
    }

    /// The options of a `DeleteOptions` object.
    pub(crate) fn from_object(given: &Value) -> ApiResult<Self> {
        let structure = structure(SCHEMA, |generator: &mut SchemaGenerator| {
            generator.subschema_for::<Schema>();
        });
        ObjectSchema::Typed(structure).check_types(given).map_err(ApiError::bad_request)?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            grace: given["gracePeriodSeconds"].as_i64(),
            orphan: given["orphanDependents"].as_bool(),
            uid: text(&given["preconditions"]["uid"]),
            resource_version: text(&given["preconditions"]["resourceVersion"]),
            ..Self::default()
        }
        .checked(given["propagationPolicy"].as_str(), &strings(&given["dryRun"]))
    }

    /// Adds what has to be checked (`ValidateDeleteOptions`).
    fn checked(mut self, propagation: Option<&str>, dry_run: &[String]) -> ApiResult<Self> {
        const FIELD: &str = "propagationPolicy";
        let mut errors: Vec<FieldError> = Vec::new();
        if let Some(policy) = propagation {
            self.propagation = match policy {
                "Foreground" => Some(Propagation::Foreground),
                "Background" => Some(Propagation::Background),
                "Orphan" => Some(Propagation::Orphan),
                _ => None,
            };
            if self.orphan.is_some() {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(invalid(FIELD, &policy.into(), why));
            } else if self.propagation.is_none() {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(not_supported(FIELD, &policy.into(), &known));
            }
        }
        match check_dry_run(dry_run) {
            Ok(dry_run) => self.dry_run = dry_run,
            Err(error) => errors.push(error),
        }
        match errors.is_empty() {
            true => Ok(self),
            false => Err(ApiError::invalid_options("DeleteOptions", &errors)),
        }
    }

    /// Returns the options for an object that was changed by this request, after its preconditions held.
    pub(crate) fn without_resource_version(self) -> Self {
        Self { resource_version: None, ..self }
    }
}

const SCHEMA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_checked_as_in_kubernetes() {
        let unknown = "Unsupported value: \"x\": supported values";
        for (given, expected) in [
            (json!({ "gracePeriodSeconds": 0, "propagationPolicy": "Orphan" }), ""),
            (json!({ "nope": 1, "dryRun": [] }), ""),
            (
                json!({ "gracePeriodSeconds": "x" }),
                "json: cannot unmarshal string into Go struct field \
                 DeleteOptions.gracePeriodSeconds of type int64",
            ),
            (
                json!({ "preconditions": { "uid": 5 } }),
                "json: cannot unmarshal number into Go struct field \
                 Preconditions.preconditions.uid of type types.UID",
            ),
            (
                json!({ "dryRun": "All" }),
                "json: cannot unmarshal string into Go struct field DeleteOptions.dryRun of type \
                 []string",
            ),
            (
                json!({ "propagationPolicy": "x", "dryRun": ["x"] }),
                &format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: [propagationPolicy: {unknown}: \
                     \"Foreground\", \"Background\", \"Orphan\", \"nil\", dryRun: Unsupported \
                     value: [\"x\"]: supported values: \"All\"]"
                ),
            ),
            (
                json!({ "propagationPolicy": "Orphan", "orphanDependents": true }),
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \
                 \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
            ),
        ] {
            let error = DeleteOptions::from_object(&given).err().map(|error| error.to_string());
            assert_eq!(error.unwrap_or_default(), expected, "{given}");
        }
        let options = DeleteOptions::from_query(&Query::parse(Some("uid=u&orphanDependents=")));
        let options = options.unwrap();
        assert_eq!((options.uid.as_deref(), options.orphan), (Some("u"), Some(true)));
        let empty = DeleteOptions::from_query(&Query::parse(Some("propagationPolicy=")));
        assert!(empty.err().unwrap().to_string().contains("Unsupported value: \"\""));
    }
}
