//! `customresourcedefinitions` (`pkg/apis/apiextensions/{v1,validation}` of the apiextensions API
//! server). The versions that a definition makes are served from [`crate::resources::crd`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::{
    fields::{default, default_empty, each, list, object, text},
    resources::{
        crd::{
            conditions::{condition, set_condition},
            json_path::Path,
        },
        deletion::Deletion,
        resource_type::{CLIENT_METADATA, ResourceType},
    },
    schema::structural::schema_errors,
    validation::{
        field_error::{
            FieldError, IMMUTABLE, duplicate, forbidden, invalid, invalid_nested, invalid_shown,
            not_supported, required,
        },
        names::{dns_1035_label, dns_subdomain},
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules =
    Rules { standard_finalizers: false, update: &[Part::Changes], ..Rules::of(dns_subdomain) };

pub(crate) const RESOURCE: ResourceType<'static> = ResourceType {
    requires_version: true,
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &["status"],
    generation: true,
    defaults,
    prepare_create,
    prepare_update: |new, _| add_stored_version(new),
    validate,
    deletion: &Deletion { begin: begin_deletion, ..Deletion::IMMEDIATE },
    defines_resources: true,
    status_leaves: CLIENT_METADATA,
    ..ResourceType::of::<CustomResourceDefinition>(
        "customresourcedefinition",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    )
};

/// Keeps a definition until its objects are deleted.
pub(crate) const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The annotation with the link to the API review of a group of Kubernetes.
const APPROVAL: &str = "api-approved.kubernetes.io";

/// Adds the finalizer and the condition by which the objects of a definition are deleted before it.
fn begin_deletion(definition: &mut Value) {
    let finalizers = &mut definition["metadata"]["finalizers"];
    if !finalizers.is_array() {
        *finalizers = json!([]);
    }
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|known| known == CLEANUP_FINALIZER)
    {
        finalizers.push(CLEANUP_FINALIZER.into());
    }
    set_condition(
        definition,
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
}

/// Stands for `SetDefaults_CustomResourceDefinitionSpec`: names that follow from the kind.
fn defaults(definition: &mut Value) {
    let Some(spec) = object(definition, "spec") else { return };
    if let Some(names) = object(spec, "names") {
        let kind = text(names, &["kind"]).to_owned();
        if !kind.is_empty() {
            default_empty(names, "singular", kind.to_lowercase());
            default_empty(names, "listKind", format!("{kind}List"));
        }
    }
    if let Some(conversion) = object(spec, "conversion") {
        default_empty(conversion, "strategy", "None");
    }
    for version in each(spec, "versions") {
        default(version, "served", false);
        default(version, "storage", false);
    }
}

/// Starts with an empty status; the names are accepted afterwards, if no other definition has them.
fn prepare_create(definition: &mut Value) {
    definition["status"] = json!({
        "conditions": null,
        "acceptedNames": { "plural": "", "kind": "" },
        "storedVersions": [],
    });
    add_stored_version(definition);
}

/// Adds the storage version to `status.storedVersions`: the versions in which objects may be
/// stored. Only a client that has migrated them removes versions.
fn add_stored_version(definition: &mut Value) {
    let versions = list(definition, &["spec", "versions"]);
    let storage = versions.iter().find(|version| version["storage"] == true);
    let Some(name) = storage.map(|version| version["name"].clone()) else { return };
    let Some(status) = object(definition, "status") else { return };
    if !status["storedVersions"].is_array() {
        status["storedVersions"] = json!([]);
    }
    if let Some(stored) = status["storedVersions"].as_array_mut()
        && !stored.contains(&name)
    {
        stored.push(name);
    }
}

/// Stands for `ValidateCustomResourceDefinition` and its update.
fn validate(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &definition["spec"];
    let mut errors = object_meta::validate(definition, old, &METADATA);
    let (group, plural) = (text(spec, &["group"]), text(spec, &["names", "plural"]));
    let name = text(definition, &["metadata", "name"]);
    if old.is_none() && name != format!("{plural}.{group}") && !name.is_empty() {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(invalid("metadata.name", &name.into(), detail));
    }
    errors.extend(validate_group(group));
    const SCOPES: &[&str] = &["Cluster", "Namespaced"];
    match text(spec, &["scope"]) {
        "" => errors.push(required("spec.scope", "")),
        scope if !SCOPES.contains(&scope) => {
            errors.push(not_supported("spec.scope", &scope.into(), SCOPES));
        }
        _ => {}
    }
    errors.extend(versions(spec, old));
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(spec, &["names", field]).is_empty() {
            errors.push(required(format!("spec.names.{field}"), ""));
        }
    }
    errors.extend(names(&spec["names"], "spec.names"));
    errors.extend(shared(spec, old));
    errors.extend(conversion(&spec["conversion"]));
    if let Some(old) = old {
        errors.extend(validate_update(spec, old));
    }
    errors.extend(stored_versions(definition));
    if old.is_none() {
        errors.extend(validate_approval(definition, group));
    }
    if spec["preserveUnknownFields"] == true {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.push(invalid("spec.preserveUnknownFields", &true.into(), detail));
    }
    errors
}

fn validate_group(group: &str) -> Option<FieldError> {
    if group.is_empty() {
        return Some(required("spec.group", ""));
    }
    let details = dns_subdomain(group);
    if !details.is_empty() {
        return Some(invalid("spec.group", &group.into(), &details.join(",")));
    }
    // Names without a dot are for groups of Kubernetes.
    let detail = "should be a domain with at least one dot";
    (!group.contains('.')).then(|| invalid("spec.group", &group.into(), detail))
}

/// Validates that an update keeps what identifies stored objects. Once the definition is
/// established, clients know its kind and scope, too.
fn validate_update(spec: &Value, old: &Value) -> Vec<FieldError> {
    let mut immutable = vec!["group", "names.plural"];
    if condition(old, "Established") == Some("True") {
        immutable.extend(["scope", "names.kind"]);
    }
    let mut errors = Vec::new();
    for field in immutable {
        let path: Vec<&str> = field.split('.').collect();
        let (new, old) = (text(spec, &path), text(&old["spec"], &path));
        if new != old {
            errors.push(invalid(format!("spec.{field}"), &new.into(), IMMUTABLE));
        }
    }
    errors
}

/// New definitions in the groups of Kubernetes need an approval (KEP 2337).
fn validate_approval(definition: &Value, group: &str) -> Option<FieldError> {
    let annotation = text(&definition["metadata"]["annotations"], &[APPROVAL]);
    let is_within = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    let is_protected = is_within("k8s.io") || is_within("kubernetes.io");
    let detail = format!(
        "protected groups must have approval annotation {APPROVAL:?}, see \
         https://github.com/kubernetes/enhancements/pull/1111"
    );
    (is_protected && annotation.is_empty())
        .then(|| required(format!("metadata.annotations[{APPROVAL}]"), &detail))
}

/// Validates the versions. Missing schemas come first, as in Kubernetes' list of errors.
fn versions(spec: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let all = &spec["versions"];
    let versions = list(spec, &["versions"]);
    let mut errors = Vec::new();
    for (at, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            errors.push(required(format!("spec.versions[{at}].schema.openAPIV3Schema"), ""));
        }
    }
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let details = dns_1035_label(text(version, &["name"]));
        if !details.is_empty() {
            errors.push(invalid(format!("{path}.name"), &version["name"], &details.join(",")));
        }
        if version["deprecated"] != true && version["deprecationWarning"].is_string() {
            let detail = "can only be set for deprecated versions";
            let path = format!("{path}.deprecationWarning");
            errors.push(invalid(path, &version["deprecationWarning"], detail));
        }
        let place =
            |field: &str, _: &str| (!is_shared(versions, field)).then(|| format!("{path}.{field}"));
        errors.extend(served(version, old, place));
        errors.extend(selectable(version, &path));
    }
    let names = || versions.iter().map(|version| text(version, &["name"]));
    if names().enumerate().any(|(at, name)| names().take(at).any(|before| before == name)) {
        let shown = shown_versions(all);
        errors.push(invalid_shown("spec.versions", &shown, "must contain unique version names"));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(invalid_shown("spec.versions", &shown_versions(all), detail));
    }
    // The first version was a field of its own once.
    if let Some(name) =
        versions.first().map(|version| text(version, &["name"])).filter(|n| !n.is_empty())
    {
        let details = dns_1035_label(name);
        if !details.is_empty() {
            errors.push(invalid("spec.version", &name.into(), &details.join(",")));
        }
    }
    errors
}

/// Validates what all versions have alike, once: where the API's first version had it.
fn shared(spec: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let versions = list(spec, &["versions"]);
    let Some(version) = versions.first() else { return Vec::new() };
    served(version, old, |field, shared| {
        is_shared(versions, field).then(|| format!("spec.{shared}"))
    })
}

/// Validates the schema, the subresources and the columns of a version that have a place: one of the version, or one of
/// all.
fn served(
    version: &Value,
    old: Option<&Value>,
    place: impl Fn(&str, &str) -> Option<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let schema = &version["schema"]["openAPIV3Schema"];
    if let Some(path) = place("schema", "validation").filter(|_| schema.is_object()) {
        let has_status = version["subresources"]["status"].is_object();
        let path = format!("{path}.openAPIV3Schema");
        let unchanged = old_schema(old, version) == Some(schema);
        errors.extend(schema_errors(schema, &path, has_status, unchanged));
    }
    if let Some(path) = place("subresources", "subresources") {
        errors.extend(scale(&version["subresources"]["scale"], &path));
    }
    if let Some(path) = place("additionalPrinterColumns", "additionalPrinterColumns") {
        for (at, column) in list(version, &["additionalPrinterColumns"]).iter().enumerate() {
            errors.extend(column_errors(column, &format!("{path}[{at}]")));
        }
    }
    errors
}

/// Versions as errors show them. One alone has only names of its own, since the rest is not in it in kube-apiserver's own
/// version.
fn shown_versions(versions: &Value) -> String {
    let [version] = list(versions, &[]) else { return versions.to_string() };
    let flag = |field: &str| version[field] == true;
    format!(
        "[{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\
         \"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null}}]",
        Value::from(text(version, &["name"])),
        flag("served"),
        flag("storage"),
        flag("deprecated"),
        version["deprecationWarning"],
    )
}

/// Returns the schema that a version had before an update.
fn old_schema<'o>(old: Option<&'o Value>, version: &Value) -> Option<&'o Value> {
    let versions = list(old?, &["spec", "versions"]);
    let before = versions.iter().find(|before| before["name"] == version["name"])?;
    Some(&before["schema"]["openAPIV3Schema"])
}

/// Returns true if all versions have the same in a field.
fn is_shared(versions: &[Value], field: &str) -> bool {
    versions.windows(2).all(|pair| pair[0][field] == pair[1][field])
}

/// Validates the paths of the `scale` subresource, which is below `path`.
fn scale(scale: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !scale.is_object() {
        return errors;
    }
    for (field, part, is_required) in [
        ("specReplicasPath", ".spec", true),
        ("statusReplicasPath", ".status", true),
        ("labelSelectorPath", ".status", false),
    ] {
        let given = text(scale, &[field]);
        let at = format!("{path}.scale.{field}");
        if given.is_empty() {
            if is_required {
                errors.push(required(at, ""));
            }
        } else if !given.starts_with('.') {
            errors.push(invalid(at, &given.into(), NO_DOT));
        } else if given.contains('[') || Path::parse(given).is_none() {
            let detail = "should be a simple json path";
            errors.push(invalid(at, &given.into(), detail));
        } else if !given.starts_with(&format!("{part}."))
            && (field != "labelSelectorPath" || !given.starts_with(".spec."))
        {
            let detail = match field {
                "labelSelectorPath" => "should be a json path under either .spec or .status",
                _ if part == ".spec" => "should be a json path under .spec",
                _ => "should be a json path under .status",
            };
            errors.push(invalid(at, &given.into(), detail));
        }
    }
    errors
}

/// What is wrong with a path that has no dot.
const NO_DOT: &str = "must be a simple json path starting with .";

/// Validates a printer column.
fn column_errors(column: &Value, path: &str) -> Vec<FieldError> {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] =
        &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    let mut errors = Vec::new();
    if text(column, &["name"]).is_empty() {
        errors.push(required(format!("{path}.name"), ""));
    }
    let types = format!("must be one of {}", TYPES.join(","));
    match text(column, &["type"]) {
        "" => errors.push(required(format!("{path}.type"), &types)),
        other if !TYPES.contains(&other) => {
            errors.push(invalid(format!("{path}.type"), &other.into(), &types));
        }
        _ => {}
    }
    let format = text(column, &["format"]);
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        errors.push(invalid(format!("{path}.format"), &format.into(), &detail));
    }
    match text(column, &["jsonPath"]) {
        "" => errors.push(required(format!("{path}.JSONPath"), "")),
        given if !given.starts_with('.') => {
            errors.push(invalid(format!("{path}.JSONPath"), &given.into(), NO_DOT));
        }
        given if Path::parse(given).is_none() => {
            // Not Kubernetes' words, because the subset is smaller than Kubernetes'.
            let detail = "is an invalid jsonPath: only names, indices, [*] and [?(@.name==value)] \
                          after a leading dot are understood";
            errors.push(invalid(format!("{path}.JSONPath"), &given.into(), detail));
        }
        _ => {}
    }
    errors
}

/// Validates `selectableFields`.
fn selectable(version: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let fields = list(version, &["selectableFields"]);
    for (at, field) in fields.iter().enumerate() {
        let path = format!("{path}.selectableFields[{at}].jsonPath");
        let given = text(field, &["jsonPath"]);
        let mut schema = &version["schema"]["openAPIV3Schema"];
        for step in given.split('.').skip(1) {
            schema = &schema["properties"][step];
        }
        if given.is_empty() {
            errors.push(required(path, ""));
        } else if given.starts_with(".metadata") {
            let detail = "must not point to fields in metadata";
            errors.push(invalid(path, &given.into(), detail));
        } else if schema.is_null() || !given.starts_with('.') {
            let detail = "is an invalid path: does not refer to a valid field";
            errors.push(invalid(path, &given.into(), detail));
        } else if !matches!(schema["type"].as_str(), Some("string" | "boolean" | "integer")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string \
                          fields and strings with formats are allowed.";
            errors.push(invalid(path, &given.into(), detail));
        } else if fields.iter().take(at).any(|before| before == field) {
            errors.push(duplicate(path, Value::from(given)));
        }
    }
    errors
}

/// Validates names: they become parts of URLs and, in lower case, arguments of kubectl.
fn names(names: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, mixed) in
        [("plural", false), ("singular", false), ("kind", true), ("listKind", true)]
    {
        let given = text(names, &[field]);
        let details =
            if mixed { dns_1035_label(&given.to_lowercase()) } else { dns_1035_label(given) };
        if given.is_empty() || details.is_empty() {
            continue;
        }
        let detail = match mixed {
            true => {
                format!("may have mixed case, but should otherwise match: {}", details.join(","))
            }
            false => details.join(","),
        };
        errors.push(invalid(format!("{path}.{field}"), &given.into(), &detail));
    }
    for field in ["shortNames", "categories"] {
        for (at, name) in list(names, &[field]).iter().enumerate() {
            let details = dns_1035_label(name.as_str().unwrap_or_default());
            if !details.is_empty() {
                errors.push(invalid(format!("{path}.{field}[{at}]"), name, &details.join(",")));
            }
        }
    }
    let kind = text(names, &["kind"]);
    if !kind.is_empty() && names["kind"] == names["listKind"] {
        let detail = "kind and listKind may not be the same";
        errors.push(invalid(format!("{path}.listKind"), &kind.into(), detail));
    }
    errors
}

/// Validates the conversion between versions. Webhooks are rejected: the server would have to call
/// into the cluster.
fn conversion(conversion: &Value) -> Vec<FieldError> {
    match text(conversion, &["strategy"]) {
        "None" => {
            let webhook = !conversion["webhook"].is_null();
            let detail = "should not be set when strategy is not set to Webhook";
            webhook.then(|| forbidden("spec.conversion.webhookClientConfig", detail))
        }
        "" => Some(required("spec.conversion.strategy", "")),
        "Webhook" => Some(forbidden(
            "spec.conversion.strategy",
            "this server calls no webhooks: serve all versions with strategy None, which changes \
             nothing but apiVersion",
        )),
        other => {
            let known = &["None", "Webhook"];
            Some(not_supported("spec.conversion.strategy", &other.into(), known))
        }
    }
    .into_iter()
    .collect()
}

/// Validates that no version is removed in which objects may still be stored.
fn stored_versions(definition: &Value) -> Vec<FieldError> {
    let path = "status.storedVersions";
    let stored = list(definition, &["status", "storedVersions"]);
    let versions = list(definition, &["spec", "versions"]);
    let mut errors = Vec::new();
    if stored.is_empty() {
        errors.push(invalid_nested(path, &Value::Null, "must have at least one stored version"));
        return errors;
    }
    for (at, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let shown = name.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {shown} was previously a storage version, and must \
                 remain in spec.versions until a storage migration ensures no data remains \
                 persisted in {shown} and removes {shown} from status.storedVersions"
            );
            errors.push(invalid(format!("{path}[{at}]"), name, &detail));
        }
    }
    errors
}
