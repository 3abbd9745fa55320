//! A request as policies see it (`admission.Attributes` of apiserver).

use crate::{
    authentication::user::User,
    http::{path::Target, request::WriteOptions},
    resources::{resource_type::ResourceType, types::namespace},
};
use serde_json::{Map, Value, json};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// `CREATE`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Group, version and kind.
pub(crate) type Kind<'a> = (&'a str, &'a str, &'a str);

/// See the module.
pub(crate) struct Attributes<'a> {
    pub(crate) resource: &'a ResourceType<'a>,
    pub(crate) subresource: &'a str,
    /// The kind of the object: for a subresource such as `scale`, that of its own.
    pub(crate) kind: Kind<'a>,
    /// Of a namespace, its name.
    pub(crate) namespace: &'a str,
    /// Empty if it is to be generated.
    pub(crate) name: &'a str,
    pub(crate) operation: Operation,
    pub(crate) user: &'a User,
    pub(crate) dry_run: bool,
    /// `CreateOptions`, and so on.
    pub(crate) options: Value,
    pub(crate) object: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
}

impl<'a> Attributes<'a> {
    /// The attributes of a request for a target, without objects or options.
    pub(crate) fn new(target: &'a Target<'_>, operation: Operation, user: &'a User) -> Self {
        let resource = &target.resource;
        let of_namespace = is_namespace(resource) && target.namespace.is_empty();
        Self {
            resource,
            subresource: &target.subresource,
            kind: (resource.group, resource.version, resource.kind),
            namespace: if of_namespace { &target.name } else { &target.namespace },
            name: &target.name,
            operation,
            user,
            dry_run: false,
            options: Value::Null,
            object: None,
            old: None,
        }
    }

    /// The attributes of a write with options.
    pub(crate) fn of_write(
        target: &'a Target<'_>,
        operation: Operation,
        user: &'a User,
        options: &WriteOptions,
    ) -> Self {
        let kind = if operation == Operation::Update { "UpdateOptions" } else { "CreateOptions" };
        let mut given = options_of(kind, options.dry_run);
        if let Some(manager) = &options.named_manager {
            given["fieldManager"] = manager.as_str().into();
        }
        let (dry_run, options) = (options.dry_run, given);
        Self { dry_run, options, ..Self::new(target, operation, user) }
    }

    /// Returns true if the request is for a namespace itself.
    pub(super) fn is_namespace(&self) -> bool {
        is_namespace(self.resource)
    }

    /// The variable `request` for a policy that matched by a resource type (`CreateAdmissionRequest`).
    pub(super) fn request(&self, matched: &ResourceType<'_>, kind: Kind<'_>) -> Value {
        let kind_value = |(group, version, kind): Kind<'_>| json!({ "group": group, "version": version, "kind": kind });
        let resource_value = |resource: &ResourceType<'_>| {
            json!({
                "group": resource.group,
                "version": resource.version,
                "resource": resource.plural,
            })
        };
        let mut request = Map::new();
        let mut put = |name: &str, value: Value| request.insert(name.to_owned(), value);
        put("kind", kind_value(kind));
        put("resource", resource_value(matched));
        put("requestKind", kind_value(self.kind));
        put("requestResource", resource_value(self.resource));
        // What is empty is left out of JSON.
        for (name, text) in [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("name", self.name),
            ("namespace", self.namespace),
        ] {
            if !text.is_empty() {
                put(name, text.into());
            }
        }
        put("operation", self.operation.name().into());
        put("userInfo", self.user.info());
        put("dryRun", self.dry_run.into());
        put("options", self.options.clone());
        request.into()
    }
}

fn is_namespace(resource: &ResourceType<'_>) -> bool {
    (resource.group, resource.plural) == (namespace::RESOURCE.group, namespace::RESOURCE.plural)
}

/// The options of a request, as far as policies may ask for them.
pub(crate) fn options_of(kind: &str, dry_run: bool) -> Value {
    let mut options = json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1" });
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}
