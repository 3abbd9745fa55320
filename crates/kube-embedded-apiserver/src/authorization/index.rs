//! The index of roles and bindings: from a user to the rules that apply, without looking at other users' bindings.

use crate::{
    authentication::user::{User, service_account_user},
    authorization::rules::PolicyRule,
    fields::{list, text},
};
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Roles and bindings by namespace; those of the cluster are in the namespace of the empty name.
#[derive(Default)]
pub(crate) struct Index {
    /// By namespace and name.
    roles: HashMap<String, HashMap<String, Arc<[PolicyRule]>>>,
    bindings: HashMap<String, Bindings>,
}

/// The bindings of one namespace.
#[derive(Default)]
struct Bindings {
    by_name: HashMap<String, Arc<Binding>>,
    /// By the name of the user, which service accounts have, too.
    by_user: HashMap<String, Vec<Arc<Binding>>>,
    by_group: HashMap<String, Vec<Arc<Binding>>>,
}

/// A RoleBinding, or a ClusterRoleBinding if the namespace is empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// The role that a binding refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleRef {
    pub(crate) is_cluster_role: bool,
    pub(crate) name: String,
}

/// Who a binding grants its role to.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl RoleRef {
    /// Reads the `roleRef` of a binding.
    pub(crate) fn new(reference: &Value) -> Self {
        Self {
            is_cluster_role: text(reference, &["kind"]) == "ClusterRole",
            name: text(reference, &["name"]).to_owned(),
        }
    }

    /// `clusterroles` or `roles`.
    pub(crate) fn plural(&self) -> &'static str {
        if self.is_cluster_role { "clusterroles" } else { "roles" }
    }

    fn kind(&self) -> &'static str {
        if self.is_cluster_role { "ClusterRole" } else { "Role" }
    }

    /// Returns the message for a reference to a role that does not exist, in the words of client-go's listers.
    fn not_found(&self) -> String {
        let kind = self.kind().to_lowercase();
        format!("{kind}.rbac.authorization.k8s.io {:?} not found", self.name)
    }
}

impl Subject {
    /// Reads a subject. One that names no namespace is in that of its binding.
    fn new(subject: &Value, namespace: &str) -> Option<Self> {
        let name = text(subject, &["name"]).to_owned();
        match text(subject, &["kind"]) {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let own = text(subject, &["namespace"]);
                let namespace = if own.is_empty() { namespace } else { own }.to_owned();
                (!namespace.is_empty()).then_some(Self::ServiceAccount { namespace, name })
            }
            _ => None,
        }
    }

    fn includes(&self, user: &User) -> bool {
        match self {
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.groups.contains(name),
            Self::ServiceAccount { namespace, name } => {
                service_account_user(namespace, name) == user.name
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::ServiceAccount { namespace, name } => {
                format!("ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

impl Binding {
    fn new(binding: &Value, namespace: &str, name: &str) -> Self {
        let subjects = list(binding, &["subjects"]).iter();
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            role: RoleRef::new(&binding["roleRef"]),
            subjects: subjects.filter_map(|subject| Subject::new(subject, namespace)).collect(),
        }
    }

    /// Returns the reason why a user may do something, as reviews show it.
    pub(crate) fn reason(&self, user: &User) -> String {
        let (kind, name) = match &*self.namespace {
            "" => ("ClusterRoleBinding", self.name.clone()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.name)),
        };
        let subject = self.subjects.iter().find(|subject| subject.includes(user));
        let subject = subject.map(Subject::describe).unwrap_or_default();
        let role = &self.role;
        format!("RBAC: allowed by {kind} {name:?} of {} {:?} to {subject}", role.kind(), role.name)
    }
}

impl Index {
    /// Stores a role, or removes it.
    pub(crate) fn set_role(&mut self, namespace: &str, name: &str, role: Option<&Value>) {
        let roles = self.roles.entry(namespace.to_owned()).or_default();
        match role {
            Some(role) => roles.insert(name.to_owned(), PolicyRule::of_role(role).into()),
            None => roles.remove(name),
        };
        if roles.is_empty() {
            self.roles.remove(namespace);
        }
    }

    /// Stores a binding, or removes it.
    pub(crate) fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<&Value>) {
        let bindings = self.bindings.entry(namespace.to_owned()).or_default();
        if let Some(old) = bindings.by_name.remove(name) {
            for subject in &old.subjects {
                bindings.index_of(subject, |found| found.retain(|one| one.name != name));
            }
        }
        if let Some(binding) = binding {
            let new = Arc::new(Binding::new(binding, namespace, name));
            for subject in &new.subjects {
                bindings.index_of(subject, |found| {
                    // A subject may be named twice.
                    if found.last().is_none_or(|last| last.name != name) {
                        found.push(new.clone());
                    }
                });
            }
            bindings.by_name.insert(name.to_owned(), new);
        }
        if bindings.by_name.is_empty() {
            self.bindings.remove(namespace);
        }
    }

    /// Returns the rules of a role that a binding in a namespace refers to.
    pub(crate) fn role(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<[PolicyRule]>> {
        let namespace = if role.is_cluster_role { "" } else { namespace };
        self.roles.get(namespace)?.get(&role.name)
    }

    /// Visits the bindings that apply to a user in a namespace, those of the cluster first, with the rules of their
    /// roles or, if a role does not exist, with why not; until `visit` returns false.
    pub(crate) fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut visit: impl FnMut(&Arc<Binding>, Result<&Arc<[PolicyRule]>, String>) -> bool,
    ) {
        let namespaces = std::iter::once("").chain(Some(namespace).filter(|name| !name.is_empty()));
        for bindings in namespaces.filter_map(|namespace| self.bindings.get(namespace)) {
            let mut seen: Vec<&Arc<Binding>> = Vec::new();
            let of_groups = user.groups.iter().filter_map(|group| bindings.by_group.get(group));
            for binding in bindings.by_user.get(&user.name).into_iter().chain(of_groups).flatten() {
                if seen.iter().any(|known| Arc::ptr_eq(known, binding)) {
                    continue;
                }
                seen.push(binding);
                let rules = self
                    .role(&binding.role, &binding.namespace)
                    .ok_or_else(|| binding.role.not_found());
                if !visit(binding, rules) {
                    return;
                }
            }
        }
    }
}

impl Bindings {
    /// Changes the list of the bindings to a subject.
    fn index_of(&mut self, subject: &Subject, change: impl FnOnce(&mut Vec<Arc<Binding>>)) {
        let (map, key) = match subject {
            Subject::User(name) => (&mut self.by_user, name.clone()),
            Subject::Group(name) => (&mut self.by_group, name.clone()),
            Subject::ServiceAccount { namespace, name } => {
                (&mut self.by_user, service_account_user(namespace, name))
            }
        };
        let found = map.entry(key.clone()).or_default();
        change(found);
        if found.is_empty() {
            map.remove(&key);
        }
    }
}
