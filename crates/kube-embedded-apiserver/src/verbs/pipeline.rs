//! The write pipeline, the steps of which are the same for create, update, patch, apply, scale, status and binding:
//!
//! decode, identify, default, track, prepare, admit, validate, review, allocate, commit, respond
//!
//! `decode` is what the verbs differ in: it makes an object of the request and of the stored one. The steps
//! between are [`STEPS`], and what resource types differ in they find in the strategy of the
//! [`ResourceType`]. `commit` is [`guaranteed_update`], `respond` is
//! [`WriteResult::respond`].
//!
//! `admit` is mutating admission, `review` validating admission. `track` precedes `prepare` and `admit`, since the
//! fields that these set belong to no manager. `validate` and `review` precede `allocate`, so that a refused object
//! allocates nothing.

use crate::{
    admission::{
        namespace_lifecycle,
        policies::{
            self,
            attributes::{Attributes, Kind},
        },
        unsupported_fields,
    },
    authentication::user::User,
    authorization::escalation::{Grant, Refusal},
    fields::copy_field,
    http::{
        body::{Body, respond},
        decode, encode,
        negotiation::go_type,
        path::Target,
        request::{Request, WriteOptions},
        status::{ApiError, ApiResult},
    },
    metadata,
    patch::{self, Operation},
    resources::{
        registry,
        resource_type::{self, CLIENT_METADATA, ResourceType},
    },
    scope,
    state::ServerState,
    store::Object,
    validation::field_error::{FieldError, required},
    verbs::guaranteed_update::{Change, Outcome, guaranteed_update},
};
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;
use std::{
    collections::HashSet,
    sync::{Arc, MutexGuard},
};

/// A step of the pipeline.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    run: fn(&mut Write<'_, '_>) -> ApiResult<()>,
}

/// The steps between `decode` and `commit`, in order.
pub(crate) const STEPS: [Step; 8] = [
    Step { name: "identify", run: identify },
    Step { name: "default", run: default },
    Step { name: "track", run: track },
    Step { name: "prepare", run: prepare },
    Step { name: "admit", run: admit },
    Step { name: "validate", run: validate },
    Step { name: "review", run: review },
    Step { name: "allocate", run: allocate },
];

/// The state of the store that a write expects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    /// No object of the name (`POST`).
    Nothing,
    /// An object (`PUT`, patches, subresources).
    Object,
    /// Either; without an object the write creates one (apply).
    Anything,
}

/// What policies see of a write.
#[derive(Clone, Copy)]
pub(crate) enum Shows {
    /// The whole object.
    Object,
    /// An object of another kind, made of the whole one.
    Part(Kind<'static>, fn(&ResourceType<'_>, &Value) -> Value),
    /// Nothing: the write follows from a request that they have reviewed, or from none.
    Nothing,
}

/// A write, as the verbs describe it.
pub(crate) struct WriteRequest<'a> {
    pub(crate) target: &'a Target<'a>,
    pub(crate) options: &'a WriteOptions,
    pub(crate) user: &'a User,
    pub(crate) expects: Expects,
    /// Records the changed fields as owned by the manager; apply does that itself.
    pub(crate) tracks: bool,
    pub(crate) shows: Shows,
}

/// The object that a verb's `decode` made.
pub(crate) struct Decoded {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

impl From<Value> for Decoded {
    fn from(object: Value) -> Self {
        Self { object, warnings: Vec::new() }
    }
}

/// A write on its way through the steps.
struct Write<'s, 'w> {
    state: &'s ServerState,
    request: &'w WriteRequest<'w>,
    /// The stored object, as the resource type shows it; `None` for a new one.
    old: Option<&'w Value>,
    new: Value,
    /// Another object that has the name of the new one.
    name_is_taken_by: Option<&'w Object>,
    warnings: Vec<String>,
    guard: Option<MutexGuard<'s, ()>>,
}

/// The result of a write.
pub(crate) struct WriteResult {
    pub(crate) code: StatusCode,
    pub(crate) object: ResultObject,
    pub(crate) warnings: Vec<String>,
}

/// An object in the form in which it is stored.
pub(crate) enum ResultObject {
    Stored(Arc<Object>),
    /// The result of a dry run, or the last state of an object that the write removed.
    Unstored(Value),
}

impl ResultObject {
    pub(crate) fn value(&self) -> &Value {
        match self {
            Self::Stored(object) => &object.value,
            Self::Unstored(value) => value,
        }
    }
}

impl WriteResult {
    /// The response with the object, in the form that the client accepts.
    pub(crate) fn respond(self, request: &Request) -> ApiResult<Response<Body>> {
        let (resource, form) = (&request.target.resource, request.form()?);
        form.check_object(&go_type(resource))?;
        let bytes = match &self.object {
            ResultObject::Stored(object) => encode::object(resource, form, object),
            ResultObject::Unstored(value) => {
                encode::value(resource, form, &encode::view(resource, value))
            }
        };
        Ok(with_warnings(respond(self.code, "application/json", bytes), self.warnings))
    }
}

/// Adds the header of each warning.
pub(crate) fn with_warnings(mut response: Response<Body>, warnings: Vec<String>) -> Response<Body> {
    for warning in distinct(warnings) {
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - {warning:?}").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// Returns each warning once, and as many as clients accept: some have a limit of 100 headers.
fn distinct(mut warnings: Vec<String>) -> Vec<String> {
    const MAX: usize = 50;
    let mut seen = HashSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    if warnings.len() > MAX {
        let more = warnings.split_off(MAX - 1).len();
        warnings.push(format!("{more} more warnings are left out"));
    }
    warnings
}

/// Runs a write: `decode` makes an object of the stored one, the steps complete and check it, and it is committed.
/// Starts again if another writer was faster, unless the client named the version that it meant.
pub(crate) fn write(
    state: &ServerState,
    request: &WriteRequest<'_>,
    mut decode: impl FnMut(Option<&Value>) -> ApiResult<Decoded>,
) -> ApiResult<WriteResult> {
    let WriteRequest { target, expects, .. } = *request;
    let resource = &target.resource;
    let (mut code, mut warnings, mut removed) = (StatusCode::OK, Vec::new(), None);
    let outcome = guaranteed_update(&state.store, &scope::key(target), |stored| {
        if expects == Expects::Object && stored.is_none() {
            return Err(ApiError::not_found(resource, &target.name));
        }
        let current = stored.filter(|_| expects != Expects::Nothing);
        let view = current
            .filter(|_| !resource.is_storage_version())
            .map(|stored| encode::view(resource, &stored.value));
        let old = view.as_ref().or(current.map(|stored| &stored.value));
        let decoded = decode(old)?;
        let mut write = Write {
            state,
            request,
            old,
            new: decoded.object,
            name_is_taken_by: stored.filter(|_| current.is_none()).map(|stored| &**stored),
            warnings: decoded.warnings,
            guard: None,
        };
        for step in &STEPS {
            tracing::trace!(target: "apiserver::write", step = step.name, name = target.name);
            let done = (step.run)(&mut write);
            done.map_err(|error| error.with_warnings(&write.warnings))?;
        }
        code = if old.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        warnings = std::mem::take(&mut write.warnings);
        let change = write.into_change(current)?;
        if let Change::Remove(last) = &change {
            removed = Some(last.clone());
        }
        Ok(change)
    })?;
    let object = match (outcome, removed) {
        (Outcome::Kept(object), _) => object,
        (Outcome::Removed(_), Some(last)) => ResultObject::Unstored(last),
        (Outcome::Stored(object) | Outcome::Removed(object), _) => ResultObject::Stored(object),
    };
    Ok(WriteResult { code, object, warnings })
}

impl<'s> Write<'s, '_> {
    /// Returns the change to commit.
    fn into_change(self, stored: Option<&Arc<Object>>) -> ApiResult<Change<'s, ResultObject>> {
        let Self { request: WriteRequest { target, options, .. }, old, mut new, guard, .. } = self;
        let resource = &target.resource;
        resource.object_schema().to_stored_form(&mut new);
        if let (Some(old), Some(stored)) = (old, stored)
            && metadata::is_noop(&new, old)
        {
            return Ok(Change::Keep(ResultObject::Stored(stored.clone())));
        }
        to_storage(resource, &mut new);
        if options.dry_run {
            return Ok(Change::Keep(ResultObject::Unstored(new)));
        }
        match (old, resource.unsupported) {
            (None, Some(why)) => Err(ApiError::forbidden(resource, &target.name, why)),
            (None, None) => Ok(Change::Create(new, guard)),
            (Some(_), _) if metadata::is_finished(resource, &new) => Ok(Change::Remove(new)),
            (Some(_), _) => Ok(Change::Replace(new, guard)),
        }
    }

    fn resource(&self) -> &ResourceType<'_> {
        &self.request.target.resource
    }

    fn is_main_resource(&self) -> bool {
        self.request.target.subresource.is_empty()
    }

    /// Returns true if the client's spec, or a part of it, is stored.
    fn changes_spec(&self) -> bool {
        matches!(&*self.request.target.subresource, "" | "ephemeralcontainers")
    }
}

/// Sets the system fields of a new object; checks that an update means the stored one, and confines it to the
/// subresource.
fn identify(write: &mut Write<'_, '_>) -> ApiResult<()> {
    let target = write.request.target;
    let (resource, new) = (&target.resource, &mut write.new);
    let Some(old) = write.old else {
        if resource.is_terminating() {
            return Err(ApiError::method_not_allowed_because(
                "create not allowed while custom resource definition is terminating",
            ));
        }
        let version = new["metadata"]["resourceVersion"].as_str();
        // It is the storage that objects.
        if !write.request.options.dry_run && version.is_some_and(|version| !version.is_empty()) {
            return Err(ApiError::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        metadata::fill_system_fields(resource, new);
        if resource.is_unstructured()
            && resource.separates_status()
            && let Some(fields) = new.as_object_mut()
        {
            fields.remove("status");
        }
        return Ok(());
    };
    decode::set_type(resource, new);
    metadata::check_version(resource, &target.name, new, old)?;
    metadata::preserve_system_fields(new, old);
    match &*target.subresource {
        "" if resource.separates_status() => copy_field(new, old, "status"),
        "status" => confine_to_status(resource, new, old),
        "finalize" => confine_to_finalizers(new, old),
        "ephemeralcontainers" => confine_to_ephemeral_containers(new, old),
        _ => {}
    }
    Ok(())
}

fn default(write: &mut Write<'_, '_>) -> ApiResult<()> {
    let defaults = write.changes_spec() || write.resource().is_unstructured();
    let (resource, new) = (&write.request.target.resource, &mut write.new);
    if write.request.tracks {
        resource.prune_nulls(new);
    }
    if defaults {
        resource.apply_defaults(new);
    } else {
        resource.object_schema().normalize(new);
        resource.object_schema().complete(new);
    }
    Ok(())
}

fn track(write: &mut Write<'_, '_>) -> ApiResult<()> {
    let WriteRequest { target, options, tracks, .. } = write.request;
    if *tracks {
        let (manager, below, at) = (&options.manager, &target.subresource, Timestamp::now());
        let (old, new) = (write.old, &mut write.new);
        patch::track_update(&target.resource, old, new, manager, Operation::Update, below, at);
    } else if write.new["metadata"]["managedFields"].as_array().is_some_and(Vec::is_empty)
        && let Some(metadata) = write.new["metadata"].as_object_mut()
    {
        metadata.remove("managedFields");
    }
    write.request.target.resource.object_schema().to_stored_form(&mut write.new);
    Ok(())
}

fn prepare(write: &mut Write<'_, '_>) -> ApiResult<()> {
    let is_main = write.is_main_resource();
    let (target, new) = (write.request.target, &mut write.new);
    let resource = &target.resource;
    match write.old {
        None => (resource.prepare_create)(new),
        Some(old) => {
            if is_main {
                (resource.prepare_update)(new, old);
            }
            // Scheduling a pod changes its spec, but not the desired state.
            if target.subresource != "binding" {
                metadata::bump_generation(resource, new, old);
            }
        }
    }
    if let Some(derive) = resource.derive_status.filter(|_| is_main) {
        let served = write.state.crds.served();
        derive(new, write.old, &served.resources().collect::<Vec<_>>());
    }
    Ok(())
}

fn admit(write: &mut Write<'_, '_>) -> ApiResult<()> {
    if write.old.is_some() {
        return check_grant(write);
    }
    let (target, new) = (write.request.target, &mut write.new);
    namespace_lifecycle::admit(&write.state.store, target)?;
    for admit in target.resource.admission {
        (admit)(&write.state.store, new).map_err(|why| {
            // Kubernetes admits an object before it generates the rest of its name.
            let name = match is_generated(target, new) {
                true => new["metadata"]["generateName"].as_str().unwrap_or_default(),
                false => &target.name,
            };
            ApiError::forbidden(&target.resource, name, &why)
        })?;
    }
    check_grant(write)
}

/// Checks that the user has the permissions that the object grants.
fn check_grant(write: &Write<'_, '_>) -> ApiResult<()> {
    let WriteRequest { target, user, expects, .. } = write.request;
    let Some(check) = target.resource.check_grant else { return Ok(()) };
    let find_plural = |group: &str, version: &str, kind: &str| {
        let served = write.state.crds.served();
        served.find_kind(group, version, kind).map(|found| found.plural.to_owned())
    };
    let grant = Grant {
        store: &write.state.store,
        find_plural: &find_plural,
        user,
        namespace: &target.namespace,
        plural: target.resource.plural,
        name: if *expects == Expects::Nothing { "" } else { &target.name },
        new: &write.new,
        old: write.old,
    };
    check(&write.state.authorizer, &grant).map_err(|refusal| match refusal {
        Refusal::Forbidden(why) => ApiError::forbidden(&target.resource, &target.name, &why),
        Refusal::Invalid(error) => ApiError::invalid(&target.resource, &target.name, &[error]),
        Refusal::NoRole(role) => match registry::find(target.resource.group, "v1", role.plural()) {
            Some(roles) => ApiError::not_found(roles, &role.name),
            None => ApiError::no_such_resource(),
        },
    })
}

fn validate(write: &mut Write<'_, '_>) -> ApiResult<()> {
    let (is_main, target) = (write.is_main_resource(), write.request.target);
    let (resource, name) = (&target.resource, &*target.name);
    if let (Some(validate), Some(old)) = (resource.validate_ephemeral_containers, write.old)
        && target.subresource == "ephemeralcontainers"
    {
        check(resource, name, &validate(&write.new, old))?;
        write.warnings.extend(unsupported_fields::warnings(resource, &write.new, write.old));
    }
    if let (Some(validate), Some(old)) = (resource.validate_status, write.old)
        && target.subresource == "status"
    {
        check(resource, name, &validate(&write.new, old))?;
    }
    if is_main || resource.is_unstructured() {
        let below = &target.subresource;
        let mut errors = resource.errors(&write.new, write.old, below, &mut write.warnings);
        if let Some(validate) = resource.validate_addresses {
            errors.extend(validate(&write.state.addresses, &write.new, write.old));
        }
        if name.is_empty() && !errors.iter().any(|error| error.field == "metadata.name") {
            errors.insert(0, required("metadata.name", "name or generateName is required"));
        }
        check(resource, name, &errors)?;
    }
    if is_main || target.subresource == "scale" {
        write.warnings.extend((resource.warnings)(&write.new, write.old));
    }
    if is_main {
        write.warnings.extend(unsupported_fields::warnings(resource, &write.new, write.old));
    }
    Ok(())
}

fn review(write: &mut Write<'_, '_>) -> ApiResult<()> {
    let target = write.request.target;
    // No other subresource changes what the plugins look at.
    if write.changes_spec() {
        let ServerState { store, host_paths, .. } = write.state;
        let host_paths = host_paths.get().map_or(&[][..], Vec::as_slice);
        let resource = &target.resource;
        let attributes = resource_type::Attributes {
            resource,
            store,
            host_paths,
            old: write.old,
            new: &write.new,
        };
        for review in target.resource.reviews {
            let warnings = review(&attributes)
                .map_err(|why| ApiError::forbidden(&target.resource, &target.name, &why))?;
            write.warnings.extend(warnings);
        }
    }
    write.warnings.extend(review_policies(write)?);
    if let Some(taken) = write.name_is_taken_by {
        let error = ApiError::already_exists(&target.resource, &target.name);
        return Err(match taken.value["metadata"]["deletionTimestamp"].is_null() {
            true => error,
            false => error.with_prefix("object is being deleted: "),
        });
    }
    Ok(())
}

/// Reviews the write by the policies of the cluster.
fn review_policies(write: &Write<'_, '_>) -> ApiResult<Vec<String>> {
    let WriteRequest { target, options, user, shows, .. } = *write.request;
    if !policies::are_in_force(write.state) {
        return Ok(Vec::new());
    }
    let shows = match shows {
        Shows::Nothing => return Ok(Vec::new()),
        Shows::Object => None,
        Shows::Part(kind, part) => Some((kind, part)),
    };
    let operation = policies::operation_of(write.old);
    let mut attributes = Attributes::of_write(target, operation, user, options);
    if write.old.is_none() && is_generated(target, &write.new) {
        attributes.name = "";
    }
    let Some((kind, part)) = shows else {
        let (object, old) = (Some(&write.new), write.old);
        return policies::review(write.state, &Attributes { object, old, ..attributes });
    };
    let (object, old) = (part(&target.resource, &write.new), write.old);
    let old = old.map(|old| part(&target.resource, old));
    let (object, old) = (Some(&object), old.as_ref());
    policies::review(write.state, &Attributes { kind, object, old, ..attributes })
}

/// Returns true if the server made the name of a new object.
fn is_generated(target: &Target<'_>, new: &Value) -> bool {
    let prefix = new["metadata"]["generateName"].as_str().unwrap_or_default();
    !prefix.is_empty() && target.name.starts_with(prefix)
}

fn allocate(write: &mut Write<'_, '_>) -> ApiResult<()> {
    let target = write.request.target;
    if let Some(allocate) = target.resource.allocate {
        let state = write.state;
        write.guard = allocate(&state.allocators, &state.store, &mut write.new, write.old)
            .map_err(|errors| ApiError::invalid(&target.resource, &target.name, &errors))?;
    }
    Ok(())
}

fn check(resource: &ResourceType, name: &str, errors: &[FieldError]) -> ApiResult<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, errors)) }
}

/// Takes the status from the client, and the metadata that its type lets a write of the status change; all else
/// stays.
fn confine_to_status(resource: &ResourceType, new: &mut Value, old: &Value) {
    let given = std::mem::replace(new, old.clone());
    copy_field(new, &given, "status");
    let is_left = |field: &&&str| resource.status_leaves.contains(field);
    let taken = CLIENT_METADATA.iter().filter(|field| !is_left(field));
    for field in taken.chain(&["managedFields"]) {
        copy_field(&mut new["metadata"], &given["metadata"], field);
    }
}

/// Takes `spec.ephemeralContainers` from the client; all else stays.
fn confine_to_ephemeral_containers(new: &mut Value, old: &Value) {
    let given = std::mem::replace(new, old.clone());
    copy_field(&mut new["spec"], &given["spec"], "ephemeralContainers");
    copy_field(&mut new["metadata"], &given["metadata"], "managedFields");
}

/// Takes `spec.finalizers` from the client; all else stays.
fn confine_to_finalizers(new: &mut Value, old: &Value) {
    let given = std::mem::replace(new, old.clone());
    copy_field(&mut new["spec"], &given["spec"], "finalizers");
    copy_field(&mut new["metadata"], &given["metadata"], "managedFields");
}

/// Converts an object to the form in which it is stored.
fn to_storage(resource: &ResourceType, object: &mut Value) {
    if !resource.is_storage_version() {
        (resource.to_storage)(object);
        let (group, plural) = resource.storage;
        if let Some(owner) = registry::find(group, "v1", plural) {
            decode::set_type(owner, object);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_distinct_and_limited() {
        let warnings = |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect();
        assert_eq!(distinct(vec!["a".into(), "b".into(), "a".into()]), ["a", "b"]);
        assert_eq!(distinct(warnings(0..50)).len(), 50);
        let limited = distinct(warnings(0..60));
        assert_eq!((limited.len(), &*limited[49]), (50, "11 more warnings are left out"));
    }

    #[test]
    fn steps_run_in_the_documented_order() {
        let documented = include_str!("pipeline.rs").lines().nth(2).unwrap();
        let mut names = vec!["decode"];
        names.extend(STEPS.iter().map(|step| step.name));
        names.extend(["commit", "respond"]);
        assert_eq!(documented, format!("//! {}", names.join(", ")));
    }
}
