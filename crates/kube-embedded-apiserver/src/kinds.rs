//! What the API must know of each kind: names, scope, columns, defaults, validation. One file a
//! kind, one table of all. Data and pure functions over JSON; nothing here touches the store.

use k8s_openapi::{
    Resource,
    schemars::{JsonSchema, SchemaGenerator},
};
use serde_json::Value;

use crate::{schema, store};
use std::sync::Arc;

mod cells;
mod config_map;
pub(crate) mod custom;
mod custom_resource_definition;
mod deployment;
mod endpoint_slice;
mod endpoints;
pub(crate) mod errors;
mod event;
mod horizontal_pod_autoscaler;
pub(crate) mod ingress;
pub(crate) mod ingress_class;
mod job;
mod job_policy;
mod lease;
mod namespace;
mod node;
mod pod;
mod pod_spec;
mod quotas;
mod replica_set;
mod secret;
mod served;
mod service;
mod service_account;
mod values;

pub use custom::Custom;
pub use served::{Kept, Served};

/// Every kind served, in the order that discovery lists groups.
static ALL: &[&Kind<'static>] = &[
    &namespace::KIND,
    &node::KIND,
    &pod::KIND,
    &service::KIND,
    &endpoints::KIND,
    &event::KIND,
    &config_map::KIND,
    &secret::KIND,
    &service_account::KIND,
    &quotas::RESOURCE_QUOTA,
    &quotas::LIMIT_RANGE,
    &deployment::KIND,
    &replica_set::KIND,
    &endpoint_slice::KIND,
    &event::EVENTS_KIND,
    &horizontal_pod_autoscaler::KIND,
    &horizontal_pod_autoscaler::KIND_V1,
    &job::KIND,
    &ingress_class::KIND,
    &ingress::KIND,
    &lease::KIND,
    &custom_resource_definition::KIND,
];

/// Every kind of the table, core group first. What a cluster serves besides, [`Served`] knows.
pub fn all() -> &'static [&'static Kind<'static>] {
    ALL
}

/// The kind behind a path, `("apps", "v1", "deployments")`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind<'static>> {
    ALL.iter().copied().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind of an object, `("apps", "v1", "Deployment")`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind<'static>> {
    ALL.iter().copied().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// One kind as the API serves it. Adding a kind is one file with one such constant, and a line in
/// [`all`]. A custom resource is one, too, that borrows from its definition.
#[derive(Clone, Copy)]
pub struct Kind<'a> {
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
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// `["status", "scale"]`: served below an object, and listed by discovery.
    pub subresources: &'static [&'static str],
    /// Whether a change of anything but metadata and status counts `metadata.generation` up.
    pub generation: bool,
    /// The OpenAPI definition, `io.k8s.api.apps.v1.Deployment`.
    pub schema: &'a str,
    /// Adds the definition, and all that it refers to, to a schema generator.
    pub define: fn(&mut SchemaGenerator),
    /// Fills in what Kubernetes would fill in; see [`Kind::fill_in`].
    pub defaults: fn(&mut Value),
    /// The strategy's `PrepareForCreate`: drops status and the like, and does what admission does
    /// on creation. After [`crate::patch::track_update`], since nobody owns what it sets.
    pub prepare_create: fn(&mut Value),
    /// The strategy's `PrepareForUpdate` of the main resource: keeps what a client may not change
    /// (new, old). The status is kept by the API itself when `subresources` has `status`.
    pub prepare_update: fn(&mut Value, &Value),
    /// Every error at once (new, old on update).
    pub validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
    /// Warnings for the `Warning` header.
    pub warnings: fn(&Value) -> Vec<String>,
    /// The columns of a Table, after `Name`; `Age` included where it has its place.
    pub columns: &'static [Column],
    /// Fields besides `metadata.name` and `metadata.namespace` that a field selector may name,
    /// as dotted paths (`status.phase`).
    pub selectable: &'static [&'static str],
    /// Where objects are stored: `(group, plural)` of the kind that owns them. Only `events` of
    /// `events.k8s.io` is a view of another kind.
    pub storage: (&'static str, &'static str),
    /// Between the stored form and this view of it, where `storage` is another kind; both leave an
    /// object of their own form alone.
    pub from_storage: fn(&mut Value),
    /// The other way.
    pub to_storage: fn(&mut Value),
    /// What a CustomResourceDefinition says of its kind; `None` for all kinds of the table.
    pub custom: Option<&'a Arc<Custom>>,
}

impl Kind<'_> {
    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// What Kubernetes stores of what a client sends: without nulls and empty lists, and with every
    /// default. To be called on every write of the object itself.
    pub fn fill_in(&self, object: &mut Value) {
        schema::normalize(self, object);
        match self.custom {
            Some(custom) => custom.fill_in(object),
            None => (self.defaults)(object),
        }
    }

    /// Where objects of this kind are stored.
    pub fn resource(&self) -> store::Resource {
        match self.custom {
            Some(custom) => custom.resource.clone(),
            None => store::Resource::fixed(self.storage.0, self.storage.1),
        }
    }

    /// Whether objects are stored as this kind shows them.
    pub fn owns_storage(&self) -> bool {
        self.custom.is_some() || self.storage == (self.group, self.plural)
    }

    /// `["deploy"]`.
    pub fn short_names(&self) -> Vec<&str> {
        match self.custom {
            Some(custom) => custom.short_names.iter().map(String::as_str).collect(),
            None => self.short_names.to_vec(),
        }
    }

    /// `["all"]`.
    pub fn categories(&self) -> Vec<&str> {
        match self.custom {
            Some(custom) => custom.categories.iter().map(String::as_str).collect(),
            None => self.categories.to_vec(),
        }
    }

    /// Whether a field selector may name a field, besides name and namespace.
    pub fn is_selectable(&self, path: &str) -> bool {
        match self.custom {
            Some(custom) => custom.selectable.iter().any(|known| known == path),
            None => self.selectable.contains(&path),
        }
    }

    /// Every error at once (new, old on update).
    pub fn errors(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        match self.custom {
            Some(custom) => custom.errors(new, old),
            None => (self.validate)(new, old),
        }
    }

    /// A kind with nothing to it, to be completed by struct update.
    const fn of<K: Resource + JsonSchema>(
        singular: &'static str,
        schema: &'static str,
    ) -> Kind<'static> {
        Kind {
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
            schema,
            define: |generator| {
                generator.subschema_for::<K>();
            },
            defaults: |_| {},
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            validate: |_, _| Vec::new(),
            warnings: |_| Vec::new(),
            columns: &[],
            selectable: &[],
            storage: (K::GROUP, K::URL_PATH_SEGMENT),
            from_storage: |_| {},
            to_storage: |_| {},
            custom: None,
        }
    }
}

/// A column of a kind's Table.
pub struct Column {
    /// Heading, `Ready`.
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`.
    pub kind: &'static str,
    /// `name` or empty.
    pub format: &'static str,
    /// 0 for always, 1 for `-o wide`.
    pub priority: i32,
    /// Told by discovery of the table.
    pub description: &'static str,
    /// The cell for an object at a time (for ages).
    pub cell: fn(&Value, jiff::Timestamp) -> Value,
}

/// One entry of a 422's `details.causes`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueForbidden`,
    /// `FieldValueDuplicate`, `FieldValueTooLong`, …
    pub reason: &'static str,
    /// `spec.ports[0].port`.
    pub field: String,
    /// As Kubernetes words it, without the field: `Required value: must specify a port`.
    pub message: String,
}
