//! What expressions ask the authorizer (`k8s.io/apiserver/pkg/cel/library/authz.go`): a check is built step by step,
//! and gives a decision.

use std::{fmt::Debug, rc::Rc};

/// Decides whether a user may do something.
pub(crate) trait Authorize: Debug {
    /// Decides on a check, for the user of the request or for a service account (namespace and name).
    fn authorize(
        &self,
        service_account: Option<&(String, String)>,
        check: &Check,
        verb: &str,
    ) -> Decision;
}

/// What is to be done, but for the verb.
#[derive(Clone, Debug, Default)]
pub(crate) struct Check {
    /// The path of a request that is not for a resource.
    pub(crate) path: Option<String>,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// The decision on a check.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
    /// Why it could not be decided; empty if it could.
    pub(crate) error: String,
}

/// The variable `authorizer`, or that of a service account.
#[derive(Clone, Debug)]
pub(crate) struct Authorizer<'a> {
    pub(crate) backend: &'a dyn Authorize,
    pub(crate) service_account: Option<Rc<(String, String)>>,
    /// The resource of the request: `authorizer.requestResource`.
    pub(crate) request: Rc<Check>,
}

/// A value of the library.
#[derive(Clone, Debug)]
pub(crate) enum Authorization<'a> {
    Authorizer(Authorizer<'a>),
    Path(Authorizer<'a>, Rc<Check>),
    Group(Authorizer<'a>, Rc<Check>),
    Resource(Authorizer<'a>, Rc<Check>),
    Decision(Rc<Decision>),
}

impl Authorization<'_> {
    /// The name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Path(..) => "kubernetes.authorization.PathCheck",
            Self::Group(..) => "kubernetes.authorization.GroupCheck",
            Self::Resource(..) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
