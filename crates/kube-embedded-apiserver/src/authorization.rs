//! Authorization (`k8s.io/apiserver/pkg/authorization`, `plugin/pkg/auth/authorizer/rbac`): impersonation, roles and
//! bindings, and the checks against privilege escalation.

pub(crate) mod attributes;
pub(crate) mod authorizer;
pub(crate) mod bootstrap_policy;
pub(crate) mod escalation;
pub(crate) mod filter;
mod impersonation;
pub(crate) mod index;
mod request_info;
pub(crate) mod rules;
