//! One version of a custom resource, parsed from its CustomResourceDefinition once and shared by
//! all requests: names, schema, printer columns and scale paths (`crdInfo` and `crdStorageMap` of
//! `k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_handler.go`).

use crate::{
    cel::types::Type,
    fields::{find_path, list, text},
    resources::table_columns::{self, Column},
    schema::{
        expression_types,
        structural::{self, Rules, Schema},
        tree::object_meta,
        types::Structure,
    },
    store,
    validation::{
        field_error::{FieldError, invalid, invalid_nested},
        names::dns_subdomain,
        object_meta,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::Digest;
use std::sync::OnceLock;

pub(crate) mod conditions;
pub(crate) mod json_path;
pub(crate) mod versions;
use json_path::Path;

/// See [`crate::resources::resource_type::ResourceType::custom`].
#[derive(Debug)]
pub struct CustomResource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    /// `com.example.v1.Canary`.
    pub(crate) schema_name: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) selectable: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) subresources: &'static [&'static str],
    pub(crate) resource: store::Resource,
    pub(crate) columns: Vec<PrinterColumn>,
    pub(crate) scale: Option<ScalePaths>,
    /// `storageVersionHash` of the version that objects are stored in: clients see it change in
    /// discovery.
    pub(crate) storage_hash: Option<String>,
    /// The warning of a deprecated version, which goes with every response.
    pub(crate) deprecation: Option<String>,
    /// The definition is being deleted, so no object may be created.
    pub(crate) terminating: bool,
    /// The schema in the OpenAPI v3 document.
    pub(crate) published: Value,
    pub(crate) schema: Schema,
    /// The rules of the schema, compiled when the first object is written.
    rules: OnceLock<Option<Rules>>,
    /// The schema has defaults, which objects that were stored before get when they are read.
    pub(crate) has_defaults: bool,
    pub(crate) structure: Structure,
    /// Ends when the resource is no longer served.
    pub(crate) served: tokio::sync::watch::Receiver<()>,
}

/// The paths of the `scale` subresource, as field names.
#[derive(Debug)]
pub(crate) struct ScalePaths {
    pub(crate) spec: Vec<String>,
    pub(crate) status: Vec<String>,
    pub(crate) selector: Option<Vec<String>>,
}

impl ScalePaths {
    fn parse(scale: &Value) -> Self {
        Self {
            spec: steps(text(scale, &["specReplicasPath"])),
            status: steps(text(scale, &["statusReplicasPath"])),
            selector: scale["labelSelectorPath"].as_str().map(steps),
        }
    }
}

/// One of `additionalPrinterColumns`.
#[derive(Debug)]
pub(crate) struct PrinterColumn {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) priority: i64,
    pub(crate) description: String,
    path: Path,
}

impl CustomResource {
    /// Parses one version of a definition. `served` ends when it is no longer served.
    pub(crate) fn new(
        definition: &Value,
        version: &Value,
        served: tokio::sync::watch::Receiver<()>,
    ) -> Self {
        let spec = &definition["spec"];
        let names = &definition["status"]["acceptedNames"];
        let name = |field: &str| text(names, &[field]).to_owned();
        let texts = |field: &str| -> Vec<String> {
            list(names, &[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let group = text(spec, &["group"]).to_owned();
        let version_name = text(version, &["name"]).to_owned();
        let openapi = &version["schema"]["openAPIV3Schema"];
        let schema = Schema::parse(openapi);
        let scale = &version["subresources"]["scale"];
        let has_status = version["subresources"]["status"].is_object();
        let (kind, plural) = (name("kind"), name("plural"));
        // As a Java package: the parts of the group in reverse.
        let domain: Vec<&str> = group.rsplit('.').collect();
        let schema_name = format!("{}.{version_name}.{kind}", domain.join("."));
        let selectable = list(version, &["selectableFields"]).iter();
        Self {
            published: published(openapi, &group, &version_name, &kind),
            structure: structural::structure(&schema),
            has_defaults: schema.has_defaults(),
            resource: store::Resource::named(&group, &plural),
            list_kind: name("listKind"),
            singular: name("singular"),
            short_names: texts("shortNames"),
            categories: texts("categories"),
            selectable: selectable
                .map(|field| text(field, &["jsonPath"]).trim_start_matches('.').to_owned())
                .collect(),
            namespaced: spec["scope"] == "Namespaced",
            subresources: match (has_status, scale.is_object()) {
                (true, true) => &["status", "scale"],
                (true, false) => &["status"],
                (false, true) => &["scale"],
                (false, false) => &[],
            },
            columns: columns(version),
            scale: scale.is_object().then(|| ScalePaths::parse(scale)),
            storage_hash: (version["storage"] == true)
                .then(|| storage_hash(&group, &version_name, &kind)),
            deprecation: (version["deprecated"] == true).then(|| {
                let given = version["deprecationWarning"].as_str().map(str::to_owned);
                given.unwrap_or_else(|| format!("{group}/{version_name} {kind} is deprecated"))
            }),
            terminating: definition["metadata"].get("deletionTimestamp").is_some(),
            group,
            version: version_name,
            kind,
            plural,
            schema_name,
            schema,
            rules: OnceLock::new(),
            served,
        }
    }

    /// Returns the type of the objects in expressions of policies, which see all of `metadata`; `None` if the schema
    /// says nothing of them.
    pub(crate) fn expression_type(&self) -> Option<Type> {
        let mut declared = structural::declare(&self.schema, true, &self.kind)?;
        declared.set_field("metadata", expression_types::declare(object_meta(), "metadata"));
        Some(declared)
    }

    /// Sets the defaults of the schema.
    pub(crate) fn apply_defaults(&self, object: &mut Value) {
        self.schema.apply_defaults(object);
    }

    /// Removes nulls that count as absent.
    pub(crate) fn prune_nulls(&self, object: &mut Value) {
        self.schema.prune_nulls(object);
    }

    /// Returns all errors of an object (new, old on update), and adds warnings of the rules that
    /// unchanged parts of it break.
    pub(crate) fn errors(
        &self,
        new: &Value,
        old: Option<&Value>,
        subresource: &str,
        warnings: &mut Vec<String>,
    ) -> Vec<FieldError> {
        let rules = object_meta::Rules {
            standard_finalizers: false,
            ..object_meta::Rules::of(dns_subdomain)
        };
        let mut errors = object_meta::validate(new, old, &rules);
        let expected = format!("{}/{}", self.group, self.version);
        for (field, expected) in [("kind", &self.kind), ("apiVersion", &expected)] {
            if new[field] != **expected {
                errors.push(invalid(field, &new[field], &format!("must be {expected}")));
            }
        }
        let validate = match subresource {
            "status" => structural::validate_status,
            _ => structural::validate,
        };
        errors.extend(validate(&self.schema, new, old));
        errors.extend(self.scale_errors(new));
        if let Some(rules) = self.rules.get_or_init(|| Rules::of(&self.schema, true)) {
            if errors.iter().any(blocks_rules) {
                let detail = "some validation rules were not checked because the object was \
                              invalid; correct the existing errors to complete validation";
                errors.push(invalid_nested("<nil>", &Value::Null, detail));
            } else {
                let outcome = rules.evaluate(new, old);
                errors.extend(outcome.errors);
                warnings.extend(outcome.warnings);
            }
        }
        errors
    }

    /// Validates the numbers that the `scale` subresource shows, which a schema need not restrict.
    fn scale_errors(&self, object: &Value) -> Vec<FieldError> {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut errors = Vec::new();
        for path in [&scale.spec, &scale.status] {
            let Some(value) = find_path(object, path).filter(|value| !value.is_null()) else {
                continue;
            };
            let field = format!(".{}", path.join("."));
            match value.as_i64() {
                Some(number) if number < 0 => {
                    errors.push(invalid(field, value, "should be a non-negative integer"));
                }
                // `Scale` has 32-bit numbers.
                Some(number) if number > i64::from(i32::MAX) => {
                    let detail = format!("should be less than or equal to {}", i32::MAX);
                    errors.push(invalid(field, value, &detail));
                }
                _ => {}
            }
        }
        errors
    }
}

impl PrinterColumn {
    /// Returns the cell of an object in the Table that `kubectl get` shows.
    pub(crate) fn cell(&self, object: &Value, now: jiff::Timestamp) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first() else { return Value::Null };
        match (&*self.kind, first) {
            ("string", _) => {
                let all: Vec<String> = found
                    .iter()
                    .map(|value| match value {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    })
                    .collect();
                all.join(" ").into()
            }
            ("integer", Value::Number(number)) => match number.as_f64() {
                #[allow(clippy::cast_possible_truncation, reason = "for display")]
                Some(float) if number.as_i64().is_none() => (float as i64).into(),
                _ => (*first).clone(),
            },
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
            ("date", Value::String(at)) => match at.parse::<jiff::Timestamp>() {
                Ok(_) => table_columns::since(at, now).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

/// Returns true for errors after which rules would be evaluated on values of unexpected types.
fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.reason,
        "FieldValueNotSupported"
            | "FieldValueRequired"
            | "FieldValueTooLong"
            | "FieldValueTooMany"
            | "FieldValueTypeInvalid"
    )
}

/// Returns the hash of a storage version (`discovery.StorageVersionHash`).
pub(crate) fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = sha2::Sha256::digest(format!("{group}/{version}/{kind}").as_bytes());
    BASE64_STANDARD.encode(hash.get(..8).unwrap_or_default())
}

/// Splits a simple path, such as `.spec.replicas`, into field names.
fn steps(path: &str) -> Vec<String> {
    path.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect()
}

/// The columns of `additionalPrinterColumns`; without any, the age alone.
fn columns(version: &Value) -> Vec<PrinterColumn> {
    let given = list(version, &["additionalPrinterColumns"]);
    if given.is_empty() {
        let Column { description, .. } = table_columns::AGE;
        return vec![PrinterColumn {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            priority: 0,
            description: description.into(),
            path: Path::parse(".metadata.creationTimestamp").unwrap_or_default(),
        }];
    }
    given
        .iter()
        .map(|column| {
            let path = text(column, &["jsonPath"]);
            let description = match text(column, &["description"]) {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                given => given.to_owned(),
            };
            PrinterColumn {
                name: text(column, &["name"]).to_owned(),
                kind: text(column, &["type"]).to_owned(),
                format: text(column, &["format"]).to_owned(),
                priority: column["priority"].as_i64().unwrap_or(0),
                description,
                path: Path::parse(path).unwrap_or_default(),
            }
        })
        .collect()
}

/// Returns the schema as clients get it: with the fields that every object has.
fn published(schema: &Value, group: &str, version: &str, kind: &str) -> Value {
    let mut schema = if schema.is_object() { schema.clone() } else { json!({ "type": "object" }) };
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({
        "type": "string",
        "description": "APIVersion defines the versioned schema of this representation of an \
                        object. Servers should convert recognized schemas to the latest internal \
                        value, and may reject unrecognized values. More info: \
                        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    });
    schema["properties"]["kind"] = json!({
        "type": "string",
        "description": "Kind is a string value representing the REST resource this object \
                        represents. Servers may infer this from the endpoint the client submits \
                        requests to. Cannot be updated. In CamelCase. More info: \
                        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    });
    schema["properties"]["metadata"] = json!({
        "description": "Standard object's metadata. More info: \
                        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "allOf": [{
            "$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        }],
    });
    schema["x-kubernetes-group-version-kind"] =
        json!([{ "group": group, "version": version, "kind": kind }]);
    schema
}
