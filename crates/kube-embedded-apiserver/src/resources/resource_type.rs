//! A resource type as the API serves it: names, schema and strategy (kube-apiserver's
//! `registry/.../strategy.go`). The generic code of the verbs reads these fields and calls these functions and
//! never looks at the name of a kind.

use crate::{
    authorization::{
        authorizer::Authorizer,
        escalation::{Grant, Refusal},
    },
    cel::types::Type,
    ip_allocator::Allocators,
    resources::{
        crd::{CustomResource, PrinterColumn, ScalePaths},
        deletion::Deletion,
        table_columns::Column,
    },
    schema::{expression_types, object_schema::ObjectSchema, tree, types::Structure},
    store::{self, Store},
    validation::field_error::FieldError,
};
use futures::future::BoxFuture;
use k8s_openapi::{
    Resource,
    schemars::{JsonSchema, SchemaGenerator},
};
use kube_embedded_core::network::Addresses;
use serde_json::Value;
use std::{
    path::PathBuf,
    sync::{Arc, MutexGuard},
};

/// Admits a new object, given the other objects, or returns why not (an admission plugin).
pub type Admit = fn(&Store, &mut Value) -> Result<(), String>;
/// A write of an object that is valid, as validating admission sees it (`admission.Attributes`).
pub struct Attributes<'a> {
    /// The type of the object.
    pub resource: &'a ResourceType<'a>,
    /// The other objects.
    pub store: &'a Store,
    /// The directories below which hostPath volumes are allowed.
    pub host_paths: &'a [PathBuf],
    /// The stored object; `None` for a new one.
    pub old: Option<&'a Value>,
    /// The object to be stored.
    pub new: &'a Value,
}

/// Reviews a write and returns warnings, or why it is forbidden (a validating admission plugin).
pub type Review = fn(&Attributes<'_>) -> Result<Vec<String>, String>;
/// Returns the errors that depend on the addresses of the cluster (new, old on update).
pub type ValidateAddresses = fn(&Addresses, &Value, Option<&Value>) -> Vec<FieldError>;
/// Waits until what the admission of a new object in a namespace depends on exists, for a bounded time.
pub type AwaitAdmission = fn(Store, String) -> BoxFuture<'static, ()>;
/// Assigns what is unique in the cluster to an object (new, old). The guard is held until the object is stored.
pub type Allocate = for<'a> fn(
    &'a Allocators,
    &Store,
    &mut Value,
    Option<&Value>,
) -> Result<Option<MutexGuard<'a, ()>>, Vec<FieldError>>;

/// Sets what a controller of Kubernetes finds out about an object, given the types that are served (new, old on update).
pub(crate) type DeriveStatus = fn(&mut Value, Option<&Value>, &[ResourceType<'_>]);

/// Checks that the user may grant the permissions that a write grants.
pub(crate) type CheckGrant = fn(&Authorizer, &Grant<'_>) -> Result<(), Refusal>;

/// The fields of `metadata` that clients set besides its name, and that a write of the status may change.
pub(crate) const CLIENT_METADATA: &[&str] =
    &["annotations", "finalizers", "labels", "ownerReferences"];

/// One resource type. Adding one is a file with such a constant in `resources/types/`, and a line in
/// [`super::registry`]. A custom resource is one, too, that borrows from its definition.
#[derive(Clone, Copy)]
pub struct ResourceType<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// `v1`.
    pub version: &'a str,
    /// `Deployment`.
    pub kind: &'a str,
    /// `deployments`.
    pub plural: &'a str,
    /// `deployment`.
    pub singular: &'a str,
    /// `["deploy"]`.
    pub short_names: &'static [&'static str],
    /// `["all"]`.
    pub categories: &'static [&'static str],
    /// Objects live in a namespace.
    pub namespaced: bool,
    /// `["status", "scale"]`: served below an object, and listed by discovery.
    pub subresources: &'static [&'static str],
    /// Changes of anything but metadata and status increment `metadata.generation`.
    pub generation: bool,
    /// A PUT has to name the version that it replaces (the strategy's `AllowUnconditionalUpdate` is false).
    pub requires_version: bool,
    /// A PUT creates an object that does not exist (the strategy's `AllowCreateOnUpdate`).
    pub creates_on_update: bool,
    /// The fields of `metadata` that a write of the status leaves as they are, beside those that the server sets.
    pub status_leaves: &'static [&'static str],
    /// The OpenAPI definition, `io.k8s.api.apps.v1.Deployment`.
    pub schema: &'a str,
    /// Adds the definition, and all that it refers to, to a schema generator.
    pub define: fn(&mut SchemaGenerator),
    /// Sets the defaults of Kubernetes; see [`ResourceType::apply_defaults`].
    pub defaults: fn(&mut Value),
    /// The strategy's `PrepareForCreate`: drops status and the like, and does what admission does
    /// on creation. After managed fields are tracked, since no manager owns what it sets.
    pub prepare_create: fn(&mut Value),
    /// The strategy's `PrepareForUpdate` of the main resource: keeps what a client may not change
    /// (new, old). The pipeline itself keeps the status where `subresources` has `status`.
    pub prepare_update: fn(&mut Value, &Value),
    /// See [`DeriveStatus`].
    pub(crate) derive_status: Option<DeriveStatus>,
    /// The admission steps of a new object, in order.
    pub admission: &'static [Admit],
    /// See [`AwaitAdmission`].
    pub await_admission: Option<AwaitAdmission>,
    /// See [`CheckGrant`]; for roles and bindings.
    pub(crate) check_grant: Option<CheckGrant>,
    /// Returns every error at once (new, old on update).
    pub validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
    /// See [`ValidateAddresses`].
    pub validate_addresses: Option<ValidateAddresses>,
    /// Validates an update of the status, given the new and the old object.
    pub validate_status: Option<fn(&Value, &Value) -> Vec<FieldError>>,
    /// Validates an update of the subresource `ephemeralcontainers`, given the new and the old object.
    pub validate_ephemeral_containers: Option<fn(&Value, &Value) -> Vec<FieldError>>,
    /// The validating admission of a write of the object, in order.
    pub reviews: &'static [Review],
    /// See [`Allocate`].
    pub allocate: Option<Allocate>,
    /// Returns the warnings for the `Warning` header of a write (new, old on update).
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// The warning that goes with every response.
    pub deprecation: Option<&'a str>,
    /// The reason why new objects are accepted with dry-run only: this cluster would not act upon them.
    pub unsupported: Option<&'static str>,
    /// See [`Deletion`].
    pub deletion: &'static Deletion,
    /// The columns of a Table, after `Name`; `Age` included where it has its place.
    pub columns: &'static [Column],
    /// Fields besides `metadata.name` and `metadata.namespace` that a field selector may name,
    /// as dotted paths (`status.phase`); `label=path|path` where the label is not the path.
    pub selectable: &'static [&'static str],
    /// The resource that objects are stored under: `(group, plural)` of the type that owns them. Only `events` of
    /// `events.k8s.io` is a view of another type.
    pub storage: (&'static str, &'static str),
    /// Converts the stored form to this view of it, where `storage` is another type. Leaves an object of its own
    /// form alone, as [`ResourceType::to_storage`] does.
    pub from_storage: fn(&mut Value),
    /// The other way.
    pub to_storage: fn(&mut Value),
    /// Objects define what else is served: their writes are followed by a reconciliation of the definitions.
    pub defines_resources: bool,
    /// Objects decide on other requests, and no policy on them.
    pub configures_admission: bool,
    /// The definition of a custom resource; `None` for built-in types. Only this module looks at it: generic code
    /// calls the methods below.
    pub(in crate::resources) crd: Option<&'a Arc<CustomResource>>,
}

impl std::fmt::Debug for ResourceType<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind)
    }
}

impl ResourceType<'_> {
    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Normalizes an object as decoding and encoding do (no nulls, no empty lists), and sets the defaults.
    pub fn apply_defaults(&self, object: &mut Value) {
        self.object_schema().normalize(object);
        match self.crd {
            Some(crd) => crd.apply_defaults(object),
            None => (self.defaults)(object),
        }
        self.object_schema().complete(object);
    }

    /// Removes nulls that a decoder does not keep; those of an applied object have an owner, and are validated.
    pub(crate) fn prune_nulls(&self, object: &mut Value) {
        if let Some(crd) = self.crd {
            crd.prune_nulls(object);
        }
    }

    /// Returns the resource that objects are stored under.
    pub fn storage_resource(&self) -> store::Resource {
        match self.crd {
            Some(crd) => crd.resource.clone(),
            None => store::Resource::fixed(self.storage.0, self.storage.1),
        }
    }

    /// Returns true if objects are stored in the form in which this type shows them.
    pub fn is_storage_version(&self) -> bool {
        match self.crd {
            Some(crd) => !crd.has_defaults,
            None => self.storage == (self.group, self.plural),
        }
    }

    /// Converts the stored form of an object to that in which the type shows it.
    pub(crate) fn show(&self, stored: &mut Value) {
        match self.crd {
            Some(crd) => {
                crd.prune_nulls(stored);
                crd.apply_defaults(stored);
            }
            None => (self.from_storage)(stored),
        }
    }

    /// `["deploy"]`.
    pub fn short_names(&self) -> Vec<&str> {
        match self.crd {
            Some(crd) => crd.short_names.iter().map(String::as_str).collect(),
            None => self.short_names.to_vec(),
        }
    }

    /// `["all"]`.
    pub fn categories(&self) -> Vec<&str> {
        match self.crd {
            Some(crd) => crd.categories.iter().map(String::as_str).collect(),
            None => self.categories.to_vec(),
        }
    }

    /// Returns the paths of a field that a field selector may name, besides name and namespace.
    pub fn selectable_paths(&self, label: &str) -> Option<Vec<String>> {
        if let Some(crd) = self.crd {
            return crd
                .selectable
                .iter()
                .any(|known| known == label)
                .then(|| vec![label.to_owned()]);
        }
        self.selectable.iter().find_map(|known| {
            let (name, paths) = known.split_once('=').unwrap_or((known, known));
            (name == label).then(|| paths.split('|').map(str::to_owned).collect())
        })
    }

    /// Returns every error at once (new, old on update), and adds warnings of rules that unchanged
    /// parts of a custom resource break.
    pub fn errors(
        &self,
        new: &Value,
        old: Option<&Value>,
        subresource: &str,
        warnings: &mut Vec<String>,
    ) -> Vec<FieldError> {
        match self.crd {
            Some(crd) => crd.errors(new, old, subresource, warnings),
            None => (self.validate)(new, old),
        }
    }

    /// Returns the kind of lists: `DeploymentList`.
    pub(crate) fn list_kind(&self) -> String {
        match self.crd {
            Some(crd) => crd.list_kind.clone(),
            None => format!("{}List", self.kind),
        }
    }

    /// Returns the columns that a CustomResourceDefinition adds.
    pub(crate) fn printer_columns(&self) -> &[PrinterColumn] {
        self.crd.map(|crd| crd.columns.as_slice()).unwrap_or_default()
    }

    /// Returns the OpenAPI schema of a CustomResourceDefinition.
    pub(crate) fn published_schema(&self) -> Option<&Value> {
        self.crd.map(|crd| &crd.published)
    }

    /// Returns the paths of a `Scale`, if they are not `spec.replicas`, `status.replicas` and `spec.selector`.
    pub(crate) fn scale_paths(&self) -> Option<&ScalePaths> {
        self.crd.and_then(|crd| crd.scale.as_ref())
    }

    /// Returns the `storageVersionHash` of a custom resource, if discovery reports one.
    pub(crate) fn storage_hash(&self) -> Option<&str> {
        self.crd.and_then(|crd| crd.storage_hash.as_deref())
    }

    /// Returns a receiver that ends when the type is no longer served; `None` for types that always are.
    pub(crate) fn served(&self) -> Option<tokio::sync::watch::Receiver<()>> {
        self.crd.map(|crd| crd.served.clone())
    }

    /// Returns true if kube-apiserver decodes objects into no Go type (`unstructured.Unstructured`), which makes a
    /// difference in defaults, encodings and messages: those of custom resources.
    pub(crate) fn is_unstructured(&self) -> bool {
        self.crd.is_some()
    }

    /// Returns true if the CustomResourceDefinition is being deleted, so that no more objects may be created.
    pub(crate) fn is_terminating(&self) -> bool {
        self.crd.is_some_and(|crd| crd.terminating)
    }

    /// Returns true if a subresource of this name is served.
    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains(&name)
    }

    /// Returns true if a write of the object leaves the status as it is.
    pub(crate) fn separates_status(&self) -> bool {
        self.has_subresource("status")
    }

    /// A type without behavior of its own, to be completed by struct update.
    pub(crate) const fn of<K: Resource + JsonSchema>(
        singular: &'static str,
        schema: &'static str,
    ) -> ResourceType<'static> {
        ResourceType {
            group: K::GROUP,
            version: K::VERSION,
            kind: K::KIND,
            plural: K::URL_PATH_SEGMENT,
            singular,
            short_names: &[],
            categories: &[],
            namespaced: true,
            subresources: &[],
            generation: false,
            requires_version: false,
            creates_on_update: false,
            status_leaves: &[],
            schema,
            define: |generator| {
                generator.subschema_for::<K>();
            },
            defaults: |_| {},
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            derive_status: None,
            admission: &[],
            await_admission: None,
            check_grant: None,
            validate: |_, _| Vec::new(),
            validate_addresses: None,
            validate_status: None,
            validate_ephemeral_containers: None,
            reviews: &[],
            allocate: None,
            warnings: |_, _| Vec::new(),
            deprecation: None,
            unsupported: None,
            deletion: &Deletion::IMMEDIATE,
            columns: &[],
            selectable: &[],
            storage: (K::GROUP, K::URL_PATH_SEGMENT),
            from_storage: |_| {},
            to_storage: |_| {},
            defines_resources: false,
            configures_admission: false,
            crd: None,
        }
    }
}

impl<'a> ResourceType<'a> {
    /// The fields of the type's objects.
    pub(crate) fn structure(&self) -> &'a Structure {
        match self.crd {
            Some(crd) => &crd.structure,
            None => tree::structure(self.schema, self.define),
        }
    }

    /// The type of the objects in expressions.
    pub(crate) fn expression_type(&self) -> Option<Type> {
        match self.crd {
            Some(crd) => crd.expression_type(),
            None => Some(expression_types::declare(self.structure(), self.kind)),
        }
    }

    /// The schema by which the type's objects are decoded.
    pub(crate) fn object_schema(&self) -> ObjectSchema<'a> {
        match self.crd {
            Some(crd) => ObjectSchema::Unstructured(&crd.schema),
            None => ObjectSchema::Typed(self.structure()),
        }
    }

    /// A custom resource, with the strategy that its definition makes.
    pub(crate) fn custom(crd: &'a Arc<CustomResource>) -> Self {
        Self {
            group: &crd.group,
            version: &crd.version,
            kind: &crd.kind,
            plural: &crd.plural,
            singular: &crd.singular,
            short_names: &[],
            categories: &[],
            namespaced: crd.namespaced,
            subresources: crd.subresources,
            generation: true,
            requires_version: true,
            creates_on_update: false,
            status_leaves: CLIENT_METADATA,
            schema: &crd.schema_name,
            define: |_| {},
            defaults: |_| {},
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            derive_status: None,
            admission: &[],
            await_admission: None,
            check_grant: None,
            validate: |_, _| Vec::new(),
            validate_addresses: None,
            validate_status: None,
            validate_ephemeral_containers: None,
            reviews: &[],
            allocate: None,
            warnings: |_, _| Vec::new(),
            deprecation: crd.deprecation.as_deref(),
            unsupported: None,
            deletion: &Deletion::IMMEDIATE,
            columns: &[],
            selectable: &[],
            storage: ("", ""),
            from_storage: |_| {},
            to_storage: |_| {},
            // A definition that is being deleted waits for its objects.
            defines_resources: crd.terminating,
            configures_admission: false,
            crd: Some(crd),
        }
    }
}
