//! CustomResourceDefinitions at work: which names they get, what is served because of them, and the
//! end of their objects. All of it happens before the request that causes it is answered.

use crate::{
    api::Inner,
    fields::copy_field,
    http::{
        output::now,
        path::{FieldValidation, Target},
        status::{ApiError, ApiResult},
    },
    resources::{
        crd::CustomResource,
        registry::{self, ResourceRegistry},
        resource_type::ResourceType,
    },
    store::Object,
    verbs::{
        delete,
        write::{self, Options},
    },
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::watch;

const GROUP: &str = "apiextensions.k8s.io";
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Who writes the status of a definition.
const MANAGER: &str = "kube-apiserver";

/// The custom resources of a cluster.
#[derive(Default)]
pub(crate) struct CrdRegistry {
    served: RwLock<Arc<ResourceRegistry>>,
    /// By uid and version; dropped when a version is served no longer, which ends its watches. Held
    /// while definitions are worked on.
    alive: Mutex<HashMap<(String, String), watch::Sender<()>>>,
}

impl CrdRegistry {
    /// What is served now.
    pub(crate) fn served(&self) -> Arc<ResourceRegistry> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether a kind is that of the definitions.
pub(crate) fn is_definition(resource: &ResourceType) -> bool {
    resource.group == GROUP && resource.kind == "CustomResourceDefinition"
}

/// Marks a definition as one whose objects have to go first.
pub(crate) fn begin_deletion(definition: &mut Value) {
    if definition["metadata"].get("deletionTimestamp").is_some() {
        return;
    }
    let finalizers = &mut definition["metadata"]["finalizers"];
    if !finalizers.is_array() {
        *finalizers = json!([]);
    }
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|known| known == CLEANUP)
    {
        finalizers.push(CLEANUP.into());
    }
    set_condition(
        definition,
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
}

/// Brings everything into line with the definitions as they are now.
pub(crate) fn reconcile_definitions(inner: &Inner) -> ApiResult<()> {
    let Some(resource) = registry::find(GROUP, "v1", "customresourcedefinitions") else {
        return Ok(());
    };
    let mut alive = inner.crds.alive.lock().unwrap_or_else(PoisonError::into_inner);
    accept_names(inner, resource)?;
    publish(inner, resource, &mut alive);
    let mut gone = false;
    for definition in definitions(inner, resource) {
        gone |= finish(inner, resource, &definition)?;
    }
    if gone {
        // Names are free again, and somebody may have waited for them.
        accept_names(inner, resource)?;
        publish(inner, resource, &mut alive);
    }
    Ok(())
}

fn definitions(inner: &Inner, resource: &ResourceType) -> Vec<Arc<Object>> {
    inner.store.list(resource.storage_resource(), None, None).objects
}

/// Gives definitions the names that they ask for, unless others have them.
fn accept_names(inner: &Inner, resource: &ResourceType<'static>) -> ApiResult<()> {
    let mut names: Vec<_> = definitions(inner, resource);
    // First come, first served.
    names.sort_by_key(|definition| creation(&definition.value));
    for definition in names {
        let name = &definition.key.name;
        update_status(inner, resource, name, |current| {
            let others: Vec<Value> = definitions(inner, resource)
                .iter()
                .filter(|other| other.key.name != *name)
                .map(|other| {
                    // All that matters, and no schemas.
                    let names = &other.value["status"]["acceptedNames"];
                    let group = &other.value["spec"]["group"];
                    json!({ "spec": { "group": group }, "status": { "acceptedNames": names } })
                })
                .collect();
            let mut new = current.clone();
            with_names(&mut new, &others);
            new
        })?;
    }
    Ok(())
}

fn creation(definition: &Value) -> (String, u64) {
    let metadata = &definition["metadata"];
    let version = metadata["resourceVersion"].as_str().and_then(|v| v.parse().ok());
    let at = metadata["creationTimestamp"].as_str().unwrap_or_default();
    (at.to_owned(), version.unwrap_or(0))
}

/// The status of a definition beside others: the names that are free, and what follows.
fn with_names(definition: &mut Value, others: &[Value]) {
    let wanted = definition["spec"]["names"].clone();
    let accepted = definition["status"]["acceptedNames"].clone();
    let same_group = others
        .iter()
        .filter(|other| other["spec"]["group"] == definition["spec"]["group"])
        .map(|other| &other["status"]["acceptedNames"]);
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for names in same_group {
        let text = |field: &str| names[field].as_str().map(str::to_owned);
        resources.extend([text("plural"), text("singular")].into_iter().flatten());
        let short = names["shortNames"].as_array().into_iter().flatten();
        resources.extend(short.filter_map(Value::as_str).map(str::to_owned));
        kinds.extend([text("kind"), text("listKind")].into_iter().flatten());
    }
    let mut new = if accepted.is_object() { accepted.clone() } else { json!({}) };
    let mut conflict = None;
    for (field, taken, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("shortNames", &resources, "ShortNamesConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let names = match &wanted[field] {
            Value::Array(names) => names.clone(),
            Value::Null => Vec::new(),
            name => vec![name.clone()],
        };
        let in_use: Vec<String> = names
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| wanted[field] != accepted[field] && taken.contains(*name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        if in_use.is_empty() {
            copy_field(&mut new, &wanted, field);
        } else {
            let message = match in_use.as_slice() {
                [one] => one.clone(),
                all => format!("[{}]", all.join(", ")),
            };
            conflict = Some((reason, message));
        }
    }
    copy_field(&mut new, &wanted, "categories");
    definition["status"]["acceptedNames"] = new;
    let established = condition(definition, "Established") == Some("True");
    match &conflict {
        Some((reason, message)) => {
            set_condition(definition, "NamesAccepted", "False", reason, message);
            if !established {
                let why = "not all names are accepted";
                set_condition(definition, "Established", "False", "NotAccepted", why);
            }
        }
        None => {
            set_condition(definition, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            if !established {
                let why = "the initial names have been accepted";
                set_condition(definition, "Established", "True", "InitialNamesAccepted", why);
            }
        }
    }
    approve(definition);
}

/// Groups of Kubernetes itself need somebody's word, and the status repeats it.
fn approve(definition: &mut Value) {
    let approved = definition["metadata"]["annotations"]["api-approved.kubernetes.io"].as_str();
    let Some(approved) = approved.map(str::to_owned) else { return };
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    if group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io") {
        let (reason, message) = match approved.starts_with("unapproved") {
            true => ("UnapprovedAnnotation", format!("not approved: {approved:?}")),
            false => ("ApprovedAnnotation", format!("approved in {approved}")),
        };
        let status = if approved.starts_with("unapproved") { "False" } else { "True" };
        let what = "KubernetesAPIApprovalPolicyConformant";
        set_condition(definition, what, status, reason, &message);
    }
}

fn condition<'a>(definition: &'a Value, what: &str) -> Option<&'a str> {
    let conditions = definition["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == what)?["status"].as_str()
}

fn set_condition(definition: &mut Value, what: &str, status: &str, reason: &str, message: &str) {
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    let mut new = json!({
        "type": what,
        "status": status,
        "lastTransitionTime": now(),
        "reason": reason,
        "message": message,
    });
    match conditions.iter_mut().find(|condition| condition["type"] == what) {
        Some(old) => {
            if old["status"] == new["status"] {
                copy_field(&mut new, old, "lastTransitionTime");
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

fn update_status(
    inner: &Inner,
    resource: &ResourceType<'static>,
    name: &str,
    mut make: impl FnMut(&Value) -> Value,
) -> ApiResult<()> {
    let target = Target {
        resource: *resource,
        namespace: String::new(),
        name: name.to_owned(),
        subresource: "status".to_owned(),
    };
    let options = Options {
        dry_run: false,
        validation: FieldValidation::Ignore,
        manager: MANAGER.to_owned(),
    };
    match write::guaranteed_update(inner, &target, &options, true, |old| Ok(make(old))) {
        Err(error) if error.code() != http::StatusCode::NOT_FOUND => Err(error),
        _ => Ok(()),
    }
}

/// Makes what is served what the definitions say.
fn publish(
    inner: &Inner,
    resource: &ResourceType,
    alive: &mut HashMap<(String, String), watch::Sender<()>>,
) {
    let before = std::mem::take(alive);
    let mut crd = Vec::new();
    for definition in definitions(inner, resource) {
        let definition = &definition.value;
        if condition(definition, "Established") != Some("True") {
            continue;
        }
        let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
        let mut versions: Vec<&Value> =
            versions.filter(|version| version["served"] == true).collect();
        versions.sort_by_cached_key(|version| precedence(version["name"].as_str().unwrap_or("")));
        for version in versions {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let key = (text(&definition["metadata"]["uid"]), text(&version["name"]));
            let sender = before.get(&key).cloned().unwrap_or_else(|| watch::Sender::new(()));
            crd.push(Arc::new(CustomResource::new(definition, version, sender.subscribe())));
            alive.insert(key, sender);
        }
    }
    *inner.crds.served.write().unwrap_or_else(PoisonError::into_inner) =
        Arc::new(ResourceRegistry::new(crd));
}

/// Versions in the order in which Kubernetes prefers them: `v2`, `v1`, `v1beta2`, `v1alpha1`, others.
pub(crate) fn precedence(version: &str) -> (u8, std::cmp::Reverse<(u64, u64)>, String) {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    let parsed = version.strip_prefix('v').and_then(|rest| {
        for (class, word) in [(1, "beta"), (2, "alpha")] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((class, number(major)?, number(minor)?));
            }
        }
        Some((0, number(rest)?, 0))
    });
    match parsed {
        Some((class, major, minor)) => (class, std::cmp::Reverse((major, minor)), String::new()),
        None => (3, std::cmp::Reverse((0, 0)), version.to_owned()),
    }
}

/// Deletes the objects of a definition that is on its way out, and lets it go after them. Whether it
/// is gone.
fn finish(inner: &Inner, resource: &ResourceType<'static>, definition: &Object) -> ApiResult<bool> {
    let value = &definition.value;
    let finalizers = value["metadata"]["finalizers"].as_array();
    let waits = finalizers.into_iter().flatten().any(|finalizer| finalizer == CLEANUP);
    if value["metadata"].get("deletionTimestamp").is_none() || !waits {
        return Ok(false);
    }
    let versions = value["spec"]["versions"].as_array().into_iter().flatten();
    if condition(value, "Established") == Some("True")
        && let Some(version) = versions.into_iter().find(|version| version["storage"] == true)
    {
        let (_alive, served) = watch::channel(());
        let crd = Arc::new(CustomResource::new(value, version, served));
        let left = drain(inner, &crd.as_resource_type())?;
        if left {
            return Ok(false);
        }
    }
    let target = Target {
        resource: *resource,
        namespace: String::new(),
        name: definition.key.name.clone(),
        subresource: String::new(),
    };
    let options = Options {
        dry_run: false,
        validation: FieldValidation::Ignore,
        manager: MANAGER.to_owned(),
    };
    let written = write::guaranteed_update(inner, &target, &options, true, |old| {
        let mut new = old.clone();
        if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != CLEANUP);
        }
        Ok(new)
    });
    match written {
        Err(error) if error.code() != http::StatusCode::NOT_FOUND => Err(error),
        _ => Ok(true),
    }
}

/// Deletes all objects of a kind; whether some are still there, held by finalizers.
fn drain(inner: &Inner, resource: &ResourceType) -> ApiResult<bool> {
    let mut left = false;
    for object in inner.store.list(resource.storage_resource(), None, None).objects {
        if object.value["metadata"].get("deletionTimestamp").is_some() {
            left = true;
            continue;
        }
        let target = Target {
            resource: *resource,
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            subresource: String::new(),
        };
        match delete::delete_object(inner, &target, &delete::Options::default()) {
            Ok(delete::Deleted::Gone(_)) => {}
            Ok(_) => left = true,
            Err(error) if error.code() == http::StatusCode::NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

/// An object of a custom resource that is on its way out is not made any more.
pub(crate) fn check_accepts_create(resource: &ResourceType) -> ApiResult<()> {
    match resource.crd {
        Some(crd) if crd.terminating => Err(ApiError::method_not_allowed_because(
            "create not allowed while custom resource definition is terminating",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(group: &str, plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({
            "metadata": { "name": format!("{plural}.{group}") },
            "spec": { "group": group, "names": {
                "plural": plural,
                "singular": kind.to_lowercase(),
                "kind": kind,
                "listKind": format!("{kind}List"),
                "shortNames": short,
            } },
        })
    }

    #[test]
    fn names_are_given_once_a_group() {
        let mut first = definition("a.example", "things", "Thing", &["t"]);
        with_names(&mut first, &[]);
        assert_eq!(condition(&first, "Established"), Some("True"));
        for (other, reason) in [
            (definition("b.example", "things", "Thing", &["t"]), "NoConflicts"),
            (definition("a.example", "others", "Other", &[]), "NoConflicts"),
            (definition("a.example", "others", "Other", &["t"]), "ShortNamesConflict"),
            (definition("a.example", "others", "Thing", &[]), "ListKindConflict"),
            (definition("a.example", "t", "Other", &[]), "PluralConflict"),
        ] {
            let mut other = other;
            with_names(&mut other, std::slice::from_ref(&first));
            assert_eq!(other["status"]["conditions"][0]["reason"], reason, "{other}");
            let expected = if reason == "NoConflicts" { "True" } else { "False" };
            assert_eq!(condition(&other, "Established"), Some(expected), "{other}");
        }
    }

    #[test]
    fn versions_are_preferred_as_in_kubernetes() {
        let mut versions =
            ["foo1", "v1alpha1", "v10", "v2", "v1beta2", "v11beta2", "v3beta1", "v1"];
        versions.sort_by_cached_key(|version| precedence(version));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v1beta2", "v1alpha1", "foo1"]
        );
    }
}
