//! The one pipeline that all writes of objects go through: decode, default, prepare, validate,
//! allocate, track, store.

use crate::{
    admission::{self, service_ip},
    api::Inner,
    crd,
    fields::copy_field,
    http::{
        body::Body,
        decode,
        output::{self, now},
        path::{FieldValidation, Query, Target},
        status::{ApiError, ApiResult},
    },
    patch::{self, Operation},
    resources::resource_type::ResourceType,
    store::{Key, Object, WriteError},
    validation::field_error::FieldError,
    verbs::{metadata, read},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// What a client says about a write besides its body.
pub(crate) struct Options {
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// Who the fields will belong to.
    pub manager: String,
}

impl Options {
    /// `kind` names the options in refusals: `CreateOptions`, `PatchOptions`, …
    pub(crate) fn parse(kind: &str, query: &Query, headers: &HeaderMap) -> ApiResult<Self> {
        let manager = query.get("fieldManager").map(str::to_owned).unwrap_or_else(|| {
            let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
            let name = agent.unwrap_or_default().split('/').next().unwrap_or_default();
            if name.is_empty() { "unknown".into() } else { name.to_owned() }
        });
        Ok(Self {
            dry_run: query.dry_run(kind)?,
            validation: query.field_validation(kind)?,
            manager,
        })
    }
}

/// What a write came to.
pub(crate) struct WriteResult {
    pub code: StatusCode,
    /// As the kind shows it.
    pub object: ResultObject,
    pub warnings: Vec<String>,
}

/// A stored object, or what would have been stored (dry run), or what was there last (removal).
pub(crate) enum ResultObject {
    Stored(Arc<Object>),
    Unstored(Value),
}

impl ResultObject {
    /// The object as it is stored.
    pub(crate) fn value(&self) -> &Value {
        match self {
            Self::Stored(object) => &object.value,
            Self::Unstored(value) => value,
        }
    }
}

impl WriteResult {
    pub(crate) fn respond(
        self,
        resource: &ResourceType,
        query: &Query,
        headers: &HeaderMap,
    ) -> ApiResult<Response<Body>> {
        let form = output::negotiate(headers, query.get("includeObject"))?;
        let bytes = match &self.object {
            ResultObject::Stored(object) => output::object(resource, form, object),
            ResultObject::Unstored(value) => {
                output::value(resource, form, &output::view(resource, value))
            }
        };
        let mut response = output::respond(self.code, "application/json", bytes);
        for warning in &self.warnings {
            if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(response)
    }
}

/// `POST` to a collection.
pub(crate) fn create(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<WriteResult> {
    let options = Options::parse("CreateOptions", query, headers)?;
    let mut object = decode::object(&target.resource, headers, body)?;
    let warnings = decode::check_fields(&target.resource, &mut object, options.validation, false)?;
    create_object(inner, target, &options, object, warnings, true)
}

/// Stores an object that is not there yet. `track` is false where the object carries its managed
/// fields already (server-side apply).
pub(crate) fn create_object(
    inner: &Inner,
    target: &Target,
    options: &Options,
    mut object: Value,
    mut warnings: Vec<String>,
    track: bool,
) -> ApiResult<WriteResult> {
    let resource = &target.resource;
    crd::check_accepts_create(resource)?;
    metadata::adopt_namespace(target, &mut object)?;
    if let Some(version) = object["metadata"]["resourceVersion"].as_str()
        && !version.is_empty()
    {
        return Err(ApiError::internal(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    metadata::fill_system_fields(resource, &mut object);
    if resource.crd.is_some()
        && resource.subresources.contains(&"status")
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
    resource.apply_defaults(&mut object);
    if track {
        let (manager, at) = (&options.manager, Timestamp::now());
        patch::track_update(resource, None, &mut object, manager, Operation::Update, "", at);
    }
    let generated = metadata::generates_name(&object);
    if let Some(base) = &generated {
        object["metadata"]["name"] = metadata::generate_name(base).into();
    }
    (resource.prepare_create)(&mut object);
    check_namespace_active(inner, target, &object)?;
    admission::admit(inner, resource, &mut object)?;
    // A generated name may be taken; seven tries are what Kubernetes makes, too.
    for last in [false, false, false, false, false, false, true] {
        match (store_new(inner, target, options, &mut object), &generated) {
            (Err(error), Some(base)) if error.code() == StatusCode::CONFLICT && !last => {
                object["metadata"]["name"] = metadata::generate_name(base).into();
            }
            (Err(error), _) => return Err(error),
            (Ok(outcome), _) => {
                warnings.extend((resource.warnings)(&object));
                return Ok(WriteResult { code: StatusCode::CREATED, object: outcome, warnings });
            }
        }
    }
    Err(ApiError::internal("no free name was found"))
}

fn store_new(
    inner: &Inner,
    target: &Target,
    options: &Options,
    object: &mut Value,
) -> ApiResult<ResultObject> {
    let resource = &target.resource;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut errors = resource.errors(object, None);
    if name.is_empty() && !errors.iter().any(|error| error.field == "metadata.name") {
        errors.insert(
            0,
            FieldError {
                reason: "FieldValueRequired",
                field: "metadata.name".into(),
                message: "Required value: name or generateName is required".into(),
            },
        );
    }
    refuse_invalid(resource, &name, errors)?;
    let key = Key { name: name.clone(), ..read::key(target) };
    if inner.store.get(&key).is_some() {
        return Err(ApiError::already_exists(resource, &name));
    }
    let _held = service_ip::allocate(inner, resource, object, None)
        .map_err(|errors| ApiError::invalid(resource, &name, &errors))?;
    let mut stored = object.clone();
    to_storage(resource, &mut stored);
    if options.dry_run {
        return Ok(ResultObject::Unstored(stored));
    }
    admission::reject_unsupported(resource, &name)?;
    let made = inner.store.create(key, |revision| with_revision(stored, revision));
    made.map(ResultObject::Stored).map_err(|_| ApiError::already_exists(resource, &name))
}

/// `PUT` of an object or of its status.
pub(crate) fn update(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<WriteResult> {
    let options = Options::parse("UpdateOptions", query, headers)?;
    let mut object = decode::object(&target.resource, headers, body)?;
    let warnings = decode::check_fields(&target.resource, &mut object, options.validation, false)?;
    metadata::adopt_namespace(target, &mut object)?;
    if let Some(name) = object["metadata"]["name"].as_str()
        && name != target.name
        && !name.is_empty()
    {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let mut written = guaranteed_update(inner, target, &options, true, |_| Ok(object.clone()))?;
    written.warnings.splice(0..0, warnings);
    Ok(written)
}

/// Replaces an object by what `make` makes of it, again when another writer comes between and the
/// client did not say which version it meant.
pub(crate) fn guaranteed_update(
    inner: &Inner,
    target: &Target,
    options: &Options,
    track: bool,
    mut make: impl FnMut(&Value) -> ApiResult<Value>,
) -> ApiResult<WriteResult> {
    let (resource, name) = (&target.resource, &target.name);
    loop {
        let stored = read::find(inner, target)?;
        let viewed;
        let old = if output::owns(resource) {
            &stored.value
        } else {
            viewed = output::view(resource, &stored.value);
            &viewed
        };
        let mut new = make(old)?;
        decode::name_kind(resource, &mut new);
        metadata::check_identity(resource, name, &new, old)?;
        metadata::preserve_system_fields(&mut new, old);
        match &*target.subresource {
            "" => main_resource(resource, &mut new, old),
            "status" => status_only(resource, &mut new, old),
            "finalize" => spec_finalizers_only(&mut new, old),
            _ => {}
        }
        crate::schema::normalize(resource, &mut new);
        if let Some(crd) = resource.crd {
            crd.apply_defaults(&mut new);
        }
        if track {
            let at = Timestamp::now();
            let (manager, below) = (&options.manager, &target.subresource);
            patch::track_update(
                resource,
                Some(old),
                &mut new,
                manager,
                Operation::Update,
                below,
                at,
            );
        }
        let mut warnings = Vec::new();
        if target.subresource.is_empty() {
            (resource.prepare_update)(&mut new, old);
            refuse_invalid(resource, name, resource.errors(&new, Some(old)))?;
            warnings = (resource.warnings)(&new);
        } else if resource.crd.is_some() {
            refuse_invalid(resource, name, resource.errors(&new, Some(old)))?;
        }
        // Being put on a node is no change of what was asked for.
        if target.subresource != "binding" {
            metadata::bump_generation(resource, &mut new, old);
        }
        let _held = service_ip::allocate(inner, resource, &mut new, Some(old))
            .map_err(|errors| ApiError::invalid(resource, name, &errors))?;
        let ok = |object| Ok(WriteResult { code: StatusCode::OK, object, warnings });
        if metadata::is_noop(&new, old) {
            return ok(ResultObject::Stored(stored));
        }
        to_storage(resource, &mut new);
        if options.dry_run {
            return ok(ResultObject::Unstored(new));
        }
        let key = &stored.key;
        let done = if metadata::is_finished(resource, &new) {
            let last = new.clone();
            let removed =
                inner.store.remove(key, stored.revision, |revision| with_revision(new, revision));
            removed.map(|_| ResultObject::Unstored(last))
        } else {
            let replaced =
                inner.store.replace(key, stored.revision, |revision| with_revision(new, revision));
            replaced.map(ResultObject::Stored)
        };
        match done {
            Ok(outcome) => return ok(outcome),
            Err(WriteError::Missing) => return Err(ApiError::not_found(resource, name)),
            Err(_) => {}
        }
    }
}

/// The status is written below the object, if it is written there at all.
fn main_resource(resource: &ResourceType, new: &mut Value, old: &Value) {
    if resource.subresources.contains(&"status") {
        copy_field(new, old, "status");
    }
    resource.apply_defaults(new);
}

/// Of a write of the status, only the status counts, and what controllers keep beside it in
/// annotations and finalizers; labels and owners stay.
fn status_only(resource: &ResourceType, new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let metadata = new["metadata"].take();
    let mut kept = old.clone();
    if let Some(fields) = kept.as_object_mut() {
        match status {
            Some(status) => fields.insert("status".into(), status),
            None => fields.remove("status"),
        };
    }
    let beside: &[&str] = match resource.crd {
        Some(_) => &["managedFields"],
        None => &["annotations", "finalizers", "managedFields"],
    };
    for field in beside {
        copy_field(&mut kept["metadata"], &metadata, field);
    }
    *new = kept;
}

fn spec_finalizers_only(new: &mut Value, old: &Value) {
    let finalizers = new["spec"].get("finalizers").cloned();
    let metadata = new["metadata"].take();
    let mut kept = old.clone();
    if let Some(spec) = kept["spec"].as_object_mut() {
        match finalizers {
            Some(finalizers) => spec.insert("finalizers".into(), finalizers),
            None => spec.remove("finalizers"),
        };
    }
    copy_field(&mut kept["metadata"], &metadata, "managedFields");
    *new = kept;
}

fn refuse_invalid(resource: &ResourceType, name: &str, errors: Vec<FieldError>) -> ApiResult<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, &errors)) }
}

/// The namespace must be there, and not on its way out.
fn check_namespace_active(inner: &Inner, target: &Target, object: &Value) -> ApiResult<()> {
    let Some(namespaces) = crate::resources::registry::find("", "v1", "namespaces") else {
        return Ok(());
    };
    if !target.resource.namespaced {
        return Ok(());
    }
    let namespace = &target.namespace;
    let key = Key {
        resource: namespaces.storage_resource(),
        namespace: String::new(),
        name: namespace.clone(),
    };
    match inner.store.get(&key) {
        None => Err(ApiError::not_found(namespaces, namespace)),
        Some(found) if found.value["metadata"].get("deletionTimestamp").is_some() => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            Err(ApiError::terminating(&target.resource, name, namespace))
        }
        Some(_) => Ok(()),
    }
}

/// Into the form that the kind is stored in.
fn to_storage(resource: &ResourceType, object: &mut Value) {
    if !output::owns(resource) {
        (resource.to_storage)(object);
        let (group, plural) = resource.storage;
        if let Some(owner) = crate::resources::registry::find(group, "v1", plural) {
            decode::name_kind(owner, object);
        }
    }
}

/// The object as of a write.
pub(crate) fn with_revision(mut object: Value, revision: u64) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
    object
}

/// Marks an object as one that is being deleted.
pub(crate) fn mark_deleted(object: &mut Value, grace: i64) {
    let at = Timestamp::now() + jiff::SignedDuration::from_secs(grace.clamp(0, 1 << 31));
    object["metadata"]["deletionTimestamp"] = output::time(at).into();
    object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
}

/// When a namespace goes, Kubernetes says since when, but no grace period.
pub(crate) fn mark_namespace_deleted(object: &mut Value) {
    object["metadata"]["deletionTimestamp"] = now().into();
    object["status"]["phase"] = "Terminating".into();
}
