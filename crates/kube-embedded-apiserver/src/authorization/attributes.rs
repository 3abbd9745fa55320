//! The attributes of a request that authorization decides on (`RequestInfo`, `authorizer.Attributes`).

use std::borrow::Cow;

/// An action, on a resource or on another path.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: Cow<'a, str>,
    pub(crate) namespace: Cow<'a, str>,
    pub(crate) group: Cow<'a, str>,
    pub(crate) resource: Cow<'a, str>,
    pub(crate) subresource: Cow<'a, str>,
    pub(crate) name: Cow<'a, str>,
    /// The path of a request that is not for a resource.
    pub(crate) path: Option<Cow<'a, str>>,
}

impl Attributes<'_> {
    /// Returns the resource with its subresource, as rules name it.
    pub(crate) fn combined_resource(&self) -> Cow<'_, str> {
        match &*self.subresource {
            "" => Cow::Borrowed(&self.resource),
            subresource => Cow::Owned(format!("{}/{subresource}", self.resource)),
        }
    }

    /// Returns the end of `User "u" cannot …` (`forbiddenMessage`).
    pub(crate) fn describe(&self) -> String {
        let Self { verb, group, namespace, .. } = self;
        if let Some(path) = &self.path {
            return format!("{verb} path {path:?}");
        }
        let scope = match &**namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let resource = self.combined_resource();
        format!("{verb} resource {resource:?} in API group {group:?} {scope}")
    }
}
