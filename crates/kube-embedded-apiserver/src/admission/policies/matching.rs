//! Whether a policy or a binding is meant for a request (`matchConstraints`, `matchResources`): stands for
//! `k8s.io/apiserver/pkg/admission/plugin/policy/matching`.

use super::attributes::{Attributes, Operation};
use crate::{
    fields::{list, strings, text},
    resources::{registry::ResourceRegistry, resource_type::ResourceType},
    validation::names::selects,
};
use serde_json::Value;
use std::cell::OnceCell;

/// `MatchResources`, parsed.
#[derive(Debug)]
pub(crate) struct MatchResources {
    /// `None` for one that selects everything.
    namespace_selector: Option<Value>,
    object_selector: Option<Value>,
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Rules for another version of the resource count, too.
    equivalent: bool,
}

/// `NamedRuleWithOperations`.
#[derive(Debug)]
struct Rule {
    names: Vec<String>,
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// What matching asks of the cluster, each once for a request.
pub(crate) struct Surroundings<'a> {
    pub(crate) served: &'a ResourceRegistry,
    /// The namespace of the request.
    pub(crate) namespace: Option<&'a Value>,
    pub(crate) equivalents: OnceCell<Vec<ResourceType<'a>>>,
}

impl<'a> Surroundings<'a> {
    /// Returns the other types by which the same objects are served.
    fn equivalents(&self, of: &Attributes<'_>) -> &[ResourceType<'a>] {
        self.equivalents.get_or_init(|| {
            let own = (of.resource.group, of.resource.version, of.resource.plural);
            let stored = of.resource.storage_resource();
            let all = self.served.resources().filter(|other| {
                (other.group, other.version, other.plural) != own
                    && other.storage_resource() == stored
                    && (of.subresource.is_empty() || other.has_subresource(of.subresource))
            });
            all.collect()
        })
    }
}

/// The type that a rule matched.
#[derive(Debug)]
pub(crate) enum Matched<'s, 'a> {
    Itself,
    Equivalent(&'s ResourceType<'a>),
}

impl MatchResources {
    /// Parses the field of a policy or a binding.
    pub(crate) fn new(given: &Value) -> Self {
        let selector = |name: &str| {
            let selector = &given[name];
            let is_empty = ["matchLabels", "matchExpressions"].iter().all(|field| {
                let part = &selector[*field];
                part.as_object().is_none_or(serde_json::Map::is_empty)
                    && part.as_array().is_none_or(Vec::is_empty)
            });
            (!is_empty).then(|| selector.clone())
        };
        let rules = |name: &str| list(given, &[name]).iter().map(Rule::new).collect();
        Self {
            namespace_selector: selector("namespaceSelector"),
            object_selector: selector("objectSelector"),
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            equivalent: text(given, &["matchPolicy"]) != "Exact",
        }
    }

    /// Returns the type by which a request matches; `None` if it does not.
    pub(crate) fn matches<'s, 'a>(
        &self,
        request: &Attributes<'_>,
        around: &'s Surroundings<'a>,
    ) -> Option<Matched<'s, 'a>> {
        if !self.matches_namespace(request, around) || !self.matches_object(request) {
            return None;
        }
        if self.find(&self.excluded, request, around).is_some() {
            return None;
        }
        match self.rules.as_slice() {
            [] => Some(Matched::Itself),
            rules => self.find(rules, request, around),
        }
    }

    fn matches_namespace(&self, request: &Attributes<'_>, around: &Surroundings<'_>) -> bool {
        let Some(selector) = &self.namespace_selector else { return true };
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let namespace = match request.object {
            Some(new) if request.is_namespace() && request.subresource.is_empty() && writes => new,
            // Objects outside of namespaces are never exempt.
            _ if request.namespace.is_empty() => return true,
            _ => around.namespace.unwrap_or(&Value::Null),
        };
        selects(selector, &namespace["metadata"]["labels"])
    }

    fn matches_object(&self, request: &Attributes<'_>) -> bool {
        let Some(selector) = &self.object_selector else { return true };
        let objects = [request.object, request.old].into_iter().flatten();
        objects.map(|object| &object["metadata"]["labels"]).any(|labels| selects(selector, labels))
    }

    fn find<'s, 'a>(
        &self,
        rules: &[Rule],
        request: &Attributes<'_>,
        around: &'s Surroundings<'a>,
    ) -> Option<Matched<'s, 'a>> {
        if rules.iter().any(|rule| rule.matches(request, request.resource)) {
            return Some(Matched::Itself);
        }
        if !self.equivalent {
            return None;
        }
        let mut rules = rules.iter().filter(|rule| rule.is_for_operation(request));
        rules.find_map(|rule| {
            let all = around.equivalents(request).iter();
            all.clone().find(|other| rule.matches(request, other)).map(Matched::Equivalent)
        })
    }
}

impl Rule {
    fn new(given: &Value) -> Self {
        Self {
            names: strings(&given["resourceNames"]),
            operations: strings(&given["operations"]),
            groups: strings(&given["apiGroups"]),
            versions: strings(&given["apiVersions"]),
            resources: strings(&given["resources"]),
            scope: text(given, &["scope"]).to_owned(),
        }
    }

    fn is_for_operation(&self, request: &Attributes<'_>) -> bool {
        includes(&self.operations, request.operation.name())
    }

    /// Returns true if the rule is for a request, taken as one for a resource type.
    fn matches(&self, request: &Attributes<'_>, resource: &ResourceType<'_>) -> bool {
        let in_scope = match &*self.scope {
            "Namespaced" => resource.namespaced,
            "Cluster" => !resource.namespaced,
            _ => true,
        };
        let is_named = |given: &String| {
            let (name, subresource) = given.split_once('/').unwrap_or((given, ""));
            (name == "*" || name == resource.plural)
                && (subresource == "*" || subresource == request.subresource)
        };
        in_scope
            && self.is_for_operation(request)
            && includes(&self.groups, resource.group)
            && includes(&self.versions, resource.version)
            && self.resources.iter().any(is_named)
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }
}

fn includes(all: &[String], one: &str) -> bool {
    all.iter().any(|known| known == "*" || known == one)
}
