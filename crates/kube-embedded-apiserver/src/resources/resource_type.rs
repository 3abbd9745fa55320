//! One resource type as the API serves it: names, scope, columns, defaults, validation. Data and pure functions
//! over JSON; nothing here touches the store.

use crate::{
    resources::{crd::CustomResource, table_columns::Column},
    schema, store,
    validation::field_error::FieldError,
};
use k8s_openapi::{
    Resource,
    schemars::{JsonSchema, SchemaGenerator},
};
use serde_json::Value;
use std::sync::Arc;

/// One kind as the API serves it. Adding a kind is one file with one such constant, and a line in
/// [`all`]. A custom resource is one, too, that borrows from its definition.
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
    /// Fills in what Kubernetes would fill in; see [`ResourceType::apply_defaults`].
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
    pub crd: Option<&'a Arc<CustomResource>>,
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

    /// What Kubernetes stores of what a client sends: without nulls and empty lists, and with every
    /// default. To be called on every write of the object itself.
    pub fn apply_defaults(&self, object: &mut Value) {
        schema::normalize(self, object);
        match self.crd {
            Some(crd) => crd.apply_defaults(object),
            None => (self.defaults)(object),
        }
    }

    /// Where objects of this kind are stored.
    pub fn storage_resource(&self) -> store::Resource {
        match self.crd {
            Some(crd) => crd.resource.clone(),
            None => store::Resource::fixed(self.storage.0, self.storage.1),
        }
    }

    /// Whether objects are stored as this kind shows them.
    pub fn is_storage_version(&self) -> bool {
        self.crd.is_some() || self.storage == (self.group, self.plural)
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

    /// Whether a field selector may name a field, besides name and namespace.
    pub fn is_selectable(&self, path: &str) -> bool {
        match self.crd {
            Some(crd) => crd.selectable.iter().any(|known| known == path),
            None => self.selectable.contains(&path),
        }
    }

    /// Every error at once (new, old on update).
    pub fn errors(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        match self.crd {
            Some(crd) => crd.errors(new, old),
            None => (self.validate)(new, old),
        }
    }

    /// A kind with nothing to it, to be completed by struct update.
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
            crd: None,
        }
    }
}
