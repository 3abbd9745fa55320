//! Deletion: at once, after a grace period, or when finalizers are gone.

use crate::{
    api::Inner,
    crd,
    http::{
        body::Body,
        decode, output,
        path::{Query, Target},
        status::{self, ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    store::{Object, WriteError},
    verbs::{
        metadata, read,
        write::{self, with_revision},
    },
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a client says about a deletion, in the body or in the query.
#[derive(Clone, Default)]
pub(crate) struct Options {
    grace: Option<i64>,
    propagation: Option<Propagation>,
    /// The older way to say it; changes the code of the answer, too.
    orphan: Option<bool>,
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Options {
    pub(crate) fn parse(query: &Query, headers: &HeaderMap, body: &Bytes) -> ApiResult<Self> {
        let mut options = Self {
            grace: query.number("gracePeriodSeconds")?,
            orphan: query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
            propagation: query.get("propagationPolicy").map(propagation).transpose()?,
            dry_run: query.dry_run("DeleteOptions")?,
            ..Self::default()
        };
        if !body.is_empty() {
            options.read(&decode::any(headers, body)?)?;
        }
        Ok(options)
    }

    /// Takes over what a `DeleteOptions` object says.
    pub(crate) fn read(&mut self, given: &Value) -> ApiResult<()> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.grace = given["gracePeriodSeconds"].as_i64().or(self.grace);
        self.orphan = given["orphanDependents"].as_bool().or(self.orphan);
        if let Some(policy) = given["propagationPolicy"].as_str() {
            self.propagation = Some(propagation(policy)?);
        }
        self.uid = text(&given["preconditions"]["uid"]);
        self.resource_version = text(&given["preconditions"]["resourceVersion"]);
        self.dry_run |= given["dryRun"].as_array().is_some_and(|all| !all.is_empty());
        Ok(())
    }
}

fn propagation(text: &str) -> ApiResult<Propagation> {
    match text {
        "Orphan" => Ok(Propagation::Orphan),
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        other => Err(ApiError::invalid_options(
            "DeleteOptions",
            crate::validation::field_error::FieldError {
                reason: "FieldValueInvalid",
                field: "propagationPolicy".into(),
                message: format!(
                    "Invalid value: {other:?}: valid values are \"Foreground\", \"Background\", \
                     \"Orphan\" or nil"
                ),
            },
        )),
    }
}

/// What a deletion came to.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// It is on its way out.
    Terminating(Arc<Object>),
    /// It would be on its way out (dry run).
    WouldGo(Value),
}

/// `DELETE` of an object.
pub(crate) fn delete(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    let options = Options::parse(query, headers, body)?;
    let form = output::negotiate(headers, query.get("includeObject"))?;
    let resource = &target.resource;
    let deleted = delete_object(inner, target, &options)?;
    let waits = matches!(deleted, Deleted::Terminating(_));
    let code =
        if waits && options.orphan == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
    let bytes = match deleted {
        Deleted::Terminating(object) => output::object(resource, form, &object),
        Deleted::WouldGo(object) => output::value(resource, form, &output::view(resource, &object)),
        Deleted::Gone(object) if returns_deleted(resource) => {
            output::value(resource, form, &output::view(resource, &object))
        }
        Deleted::Gone(object) => {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            Bytes::from(status::deleted(resource, &target.name, uid).to_string())
        }
    };
    Ok(warned(resource, &options, output::respond(code, "application/json", bytes)))
}

/// Says so where dependents stay because nobody said what shall become of them.
fn warned(
    resource: &ResourceType,
    options: &Options,
    mut response: Response<Body>,
) -> Response<Body> {
    if orphans_by_default(resource) && options.propagation.is_none() && options.orphan.is_none() {
        let warning = HeaderValue::from_static(
            "299 - \"child pods are preserved by default when jobs are deleted; set \
             propagationPolicy=Background to remove them or set propagationPolicy=Orphan to \
             suppress this warning\"",
        );
        response.headers_mut().append(header::WARNING, warning);
    }
    response
}

/// Jobs are older than the rule that dependents go along.
fn orphans_by_default(resource: &ResourceType) -> bool {
    (resource.group, resource.kind) == ("batch", "Job")
}

/// Kinds whose deletion answers with the object as it was last.
fn returns_deleted(resource: &ResourceType) -> bool {
    resource.group.is_empty() && matches!(resource.kind, "Pod" | "Service" | "ServiceAccount")
}

/// `DELETE` of a collection: what the selectors choose of it.
pub(crate) fn delete_collection(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    let options = Options::parse(query, headers, body)?;
    let form = output::negotiate(headers, query.get("includeObject"))?;
    let resource = &target.resource;
    let selector = read::selector(target, query)?;
    let page = inner.store.list(resource.storage_resource(), read::namespace(target), None);
    let chosen: Vec<_> =
        page.objects.iter().filter(|object| read::matches(resource, &selector, object)).collect();
    for object in &chosen {
        let one = Target {
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            ..target.clone()
        };
        match delete_object(inner, &one, &options) {
            Err(error) if error.code() != StatusCode::NOT_FOUND => return Err(error),
            _ => {}
        }
    }
    let objects: Vec<&Object> = chosen.into_iter().map(|object| &**object).collect();
    let meta = json!({ "resourceVersion": page.revision.to_string() });
    let bytes = output::list(resource, form, &objects, meta);
    Ok(warned(resource, &options, output::respond(StatusCode::OK, "application/json", bytes)))
}

/// Deletes one object as the options say.
pub(crate) fn delete_object(
    inner: &Inner,
    target: &Target,
    options: &Options,
) -> ApiResult<Deleted> {
    let (resource, name) = (&target.resource, &target.name);
    loop {
        let stored = read::find(inner, target)?;
        check_preconditions(resource, name, &stored.value, options)?;
        if resource.kind == "Namespace"
            && resource.group.is_empty()
            && matches!(&**name, "default" | "kube-system" | "kube-public")
        {
            return Err(ApiError::forbidden(resource, name, "this namespace may not be deleted"));
        }
        let mut new = stored.value.clone();
        if crd::is_definition(resource) {
            crd::begin_deletion(&mut new);
        }
        set_finalizers(resource, &mut new, options);
        match grace_period(resource, &new, options) {
            _ if resource.kind == "Namespace" && resource.group.is_empty() => {
                if new["metadata"].get("deletionTimestamp").is_none() {
                    write::mark_namespace_deleted(&mut new);
                }
            }
            grace => set_deletion_deadline(&mut new, grace),
        }
        if metadata::is_finished(resource, &new) {
            if options.dry_run {
                return Ok(Deleted::Gone(new));
            }
            // Watchers see the last state that was, not one that nobody saw.
            let mut last = stored.value.clone();
            if resource.kind == "Pod" {
                last = new;
            }
            let removed = inner
                .store
                .remove(&stored.key, stored.revision, |revision| with_revision(last, revision));
            match removed {
                Ok(object) => return Ok(Deleted::Gone(object.value.clone())),
                Err(WriteError::Missing) => return Err(ApiError::not_found(resource, name)),
                Err(_) => continue,
            }
        }
        if new == stored.value {
            return Ok(Deleted::Terminating(stored));
        }
        metadata::count_deletion(resource, &mut new, &stored.value);
        if options.dry_run {
            return Ok(Deleted::WouldGo(new));
        }
        let replaced = inner
            .store
            .replace(&stored.key, stored.revision, |revision| with_revision(new, revision));
        match replaced {
            Ok(object) => return Ok(Deleted::Terminating(object)),
            Err(WriteError::Missing) => return Err(ApiError::not_found(resource, name)),
            Err(_) => {}
        }
    }
}

fn check_preconditions(
    resource: &ResourceType,
    name: &str,
    object: &Value,
    options: &Options,
) -> ApiResult<()> {
    let there = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != there("uid")) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The \
             object might have been deleted and then recreated",
            there("uid")
        );
        return Err(ApiError::precondition(resource, name, &why));
    }
    let version = options.resource_version.as_deref();
    if let Some(version) = version.filter(|version| *version != there("resourceVersion")) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the \
             ResourceVersion in record ({}). The object might have been modified",
            there("resourceVersion")
        );
        return Err(ApiError::precondition(resource, name, &why));
    }
    Ok(())
}

/// The garbage collector reads from a finalizer what shall become of dependents.
fn set_finalizers(resource: &ResourceType, object: &mut Value, options: &Options) {
    const ORPHAN: &str = "orphan";
    const FOREGROUND: &str = "foregroundDeletion";
    let said = object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| {
        finalizers.iter().any(|known| known == ORPHAN || known == FOREGROUND)
    });
    let wanted = match (options.propagation, options.orphan) {
        (Some(Propagation::Orphan), _) | (None, Some(true)) => Some(ORPHAN),
        (Some(Propagation::Foreground), _) => Some(FOREGROUND),
        (Some(Propagation::Background), _) | (None, Some(false)) => None,
        (None, None) if orphans_by_default(resource) && !said => Some(ORPHAN),
        (None, None) => return,
    };
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    let mut finalizers = match metadata.remove("finalizers") {
        Some(Value::Array(finalizers)) => finalizers,
        _ => Vec::new(),
    };
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    finalizers.extend(wanted.map(Value::from));
    if !finalizers.is_empty() {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}

/// Only pods that a kubelet has to stop get time to end.
fn grace_period(resource: &ResourceType, object: &Value, options: &Options) -> i64 {
    let is_pod = resource.kind == "Pod" && resource.group.is_empty();
    let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let over = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !is_pod || unscheduled || over {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    match options.grace.unwrap_or(own) {
        negative if negative < 0 => 1,
        grace => grace,
    }
}

/// Sets the end of an object; one that has an end already may only get an earlier one.
fn set_deletion_deadline(object: &mut Value, grace: i64) {
    let metadata = &object["metadata"];
    let ends = metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null());
    let before = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if !ends || grace < before {
        write::mark_deleted(object, grace);
    }
}
