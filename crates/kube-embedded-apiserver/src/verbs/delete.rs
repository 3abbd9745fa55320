//! `delete` and `deletecollection`: at once, after a grace period, or when finalizers are removed.

use crate::{
    admission::policies::{
        self,
        attributes::{Attributes, Operation, options_of},
    },
    http::{
        body::{Body, respond},
        delete_options::DeleteOptions,
        encode,
        list_options::ListOptions,
        negotiation::go_type,
        path::Target,
        request::Request,
        status::{self, ApiError, ApiResult},
    },
    metadata,
    resources::{
        deletion::{Deletion, Propagation},
        resource_type::ResourceType,
    },
    scope,
    state::ServerState,
    store::Object,
    verbs::{
        guaranteed_update::{Change, Outcome, guaranteed_update},
        pipeline::with_warnings,
    },
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// The finalizers from which the garbage collector reads what becomes of dependents.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Returns the `DeleteOptions` that policies see.
fn shown(options: &DeleteOptions) -> Value {
    let mut shown = options_of("DeleteOptions", options.dry_run);
    if let Some(grace) = options.grace {
        shown["gracePeriodSeconds"] = grace.into();
    }
    if let Some(propagation) = options.propagation {
        shown["propagationPolicy"] = format!("{propagation:?}").into();
    }
    shown
}

/// The result of a deletion.
pub(crate) enum Deleted {
    /// The object was removed; this was its last state.
    Removed(Value),
    /// The object waits for its grace period or for finalizers.
    Terminating(Arc<Object>),
    /// It would be terminating (dry run).
    WouldTerminate(Value),
}

/// `DELETE` of an object.
pub(crate) fn delete(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::parse(request)?;
    let form = request.form()?;
    let target = &request.target;
    let resource = &target.resource;
    let mut warnings = Vec::new();
    let deleted = delete_object(state, target, &options, &mut |old| {
        warnings = review(state, request, target, &options, old)?;
        Ok(())
    })?;
    let code = match deleted {
        Deleted::Terminating(_) if options.orphan == Some(false) => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    let bytes = match deleted {
        Deleted::Removed(object) if !resource.deletion.returns_object => {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            Bytes::from(status::deleted(resource, &target.name, uid).to_string())
        }
        Deleted::Terminating(object) => {
            form.check_object(&go_type(resource))?;
            encode::object(resource, form, &object)
        }
        Deleted::Removed(object) | Deleted::WouldTerminate(object) => {
            form.check_object(&go_type(resource))?;
            encode::value(resource, form, &encode::view(resource, &object))
        }
    };
    let response = with_warnings(respond(code, "application/json", bytes), warnings);
    Ok(with_propagation_warning(resource.deletion, &options, response))
}

/// Reviews a deletion by the policies of the cluster.
fn review(
    state: &ServerState,
    request: &Request,
    target: &Target<'_>,
    options: &DeleteOptions,
    old: &Value,
) -> ApiResult<Vec<String>> {
    if !policies::are_in_force(state) {
        return Ok(Vec::new());
    }
    let view = (!target.resource.is_storage_version()).then(|| encode::view(&target.resource, old));
    let attributes = Attributes {
        // That of the request: a deletion of a collection has none.
        name: &request.target.name,
        dry_run: options.dry_run,
        options: shown(options),
        old: Some(view.as_ref().unwrap_or(old)),
        ..Attributes::new(target, Operation::Delete, request.user)
    };
    policies::review(state, &attributes)
}

/// Warns clients that leave the propagation to a default which is not background.
fn with_propagation_warning(
    deletion: &Deletion,
    options: &DeleteOptions,
    mut response: Response<Body>,
) -> Response<Body> {
    if let Some(warning) = deletion.default_propagation_warning
        && options.propagation.is_none()
        && options.orphan.is_none()
        && let Ok(warning) = HeaderValue::from_str(&format!("299 - {warning:?}"))
    {
        response.headers_mut().append(header::WARNING, warning);
    }
    response
}

/// `DELETE` of the objects of a collection that the selectors choose.
pub(crate) fn delete_collection(
    state: &ServerState,
    request: &Request,
) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::parse(request)?;
    let form = request.form()?;
    let target = &request.target;
    let resource = &target.resource;
    let selector = ListOptions::parse(resource, &request.query, false)?.selector;
    let page = state.store.list(resource.storage_resource(), scope::namespace(target), None);
    let mut chosen: Vec<&Object> = page.objects.iter().map(|object| &**object).collect();
    chosen.retain(|object| scope::matches(resource, &selector, object));
    let mut warnings = Vec::new();
    for object in &chosen {
        let one = Target {
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            ..target.clone()
        };
        let deleted = delete_object(state, &one, &options, &mut |old| {
            warnings.extend(review(state, request, &one, &options, old)?);
            Ok(())
        });
        match deleted {
            Err(error) if error.code() != StatusCode::NOT_FOUND => return Err(error),
            _ => {}
        }
    }
    form.check_list(&go_type(resource))?;
    let meta = json!({ "resourceVersion": page.revision.to_string() });
    let response =
        respond(StatusCode::OK, "application/json", encode::list(resource, form, &chosen, meta));
    let response = with_warnings(response, warnings);
    Ok(with_propagation_warning(resource.deletion, &options, response))
}

/// Deletes one object with these options, if `review` agrees, which gets the stored object.
pub(crate) fn delete_object(
    state: &ServerState,
    target: &Target,
    options: &DeleteOptions,
    review: &mut dyn FnMut(&Value) -> ApiResult<()>,
) -> ApiResult<Deleted> {
    let (resource, name) = (&target.resource, &target.name);
    let outcome = guaranteed_update(&state.store, &scope::key(target), |stored| {
        let stored = stored.ok_or_else(|| ApiError::not_found(resource, name))?;
        check_preconditions(resource, name, &stored.value, options)?;
        if let Some((protected, why)) = resource.deletion.protected
            && protected.contains(&&**name)
        {
            return Err(ApiError::forbidden(resource, name, why));
        }
        review(&stored.value)?;
        let new = deleted_state(resource, &stored.value, options);
        if metadata::is_finished(resource, &new) {
            if options.dry_run {
                return Ok(Change::Keep(Deleted::Removed(new)));
            }
            let is_final = resource.deletion.reports_final_state;
            return Ok(Change::Remove(if is_final { new } else { stored.value.clone() }));
        }
        Ok(if new == stored.value {
            Change::Keep(Deleted::Terminating(stored.clone()))
        } else if options.dry_run {
            Change::Keep(Deleted::WouldTerminate(new))
        } else {
            Change::Replace(new, None)
        })
    })?;
    Ok(match outcome {
        Outcome::Kept(deleted) => deleted,
        Outcome::Stored(object) => Deleted::Terminating(object),
        Outcome::Removed(object) => Deleted::Removed(object.value.clone()),
    })
}

/// Returns the object with the marks of a deletion.
fn deleted_state(resource: &ResourceType, old: &Value, options: &DeleteOptions) -> Value {
    let mut new = old.clone();
    if new["metadata"].get("deletionTimestamp").is_none() {
        (resource.deletion.begin)(&mut new);
    }
    set_finalizers(resource.deletion, &mut new, options);
    match (resource.deletion.grace_period)(&new, options.grace) {
        Some(grace) => metadata::set_deletion_deadline(&mut new, grace),
        None => metadata::mark_deleted(&mut new),
    }
    if new != *old && !metadata::is_finished(resource, &new) {
        metadata::bump_generation_for_deletion(resource, &mut new, old);
    }
    new
}

pub(crate) fn check_preconditions(
    resource: &ResourceType,
    name: &str,
    object: &Value,
    options: &DeleteOptions,
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

/// Sets the finalizer from which the garbage collector reads what becomes of dependents.
fn set_finalizers(deletion: &Deletion, object: &mut Value, options: &DeleteOptions) {
    let is_set = object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| {
        finalizers.iter().any(|known| known == ORPHAN || known == FOREGROUND)
    });
    let requested = options.propagation.or(options.orphan.map(|orphan| match orphan {
        true => Propagation::Orphan,
        false => Propagation::Background,
    }));
    let default = deletion.default_propagation.filter(|_| !is_set);
    let finalizer = match requested.or(default) {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None => return,
    };
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    let mut finalizers = match metadata.remove("finalizers") {
        Some(Value::Array(finalizers)) => finalizers,
        _ => Vec::new(),
    };
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    finalizers.extend(finalizer.map(Value::from));
    if !finalizers.is_empty() {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}
