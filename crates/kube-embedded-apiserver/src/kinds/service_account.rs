//! `serviceaccounts`.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{
    Kind,
    cells::{AGE, column},
    errors::{dns_subdomain, metadata},
    values::list,
};

pub(super) const KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &["token"],
    validate: |account, old| metadata(account, old, dns_subdomain),
    columns: &[
        column(
            "Secrets",
            "Secrets is a list of the secrets in the same namespace that pods running using this \
             ServiceAccount are allowed to use.",
            |account, _| list(account, &["secrets"]).len().into(),
        ),
        AGE,
    ],
    ..Kind::of::<ServiceAccount>("serviceaccount", "io.k8s.api.core.v1.ServiceAccount")
};
