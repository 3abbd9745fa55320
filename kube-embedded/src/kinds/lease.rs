//! `leases`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    ..Kind::of::<k8s_openapi::api::coordination::v1::Lease>(
        "lease",
        "io.k8s.api.coordination.v1.Lease",
    )
};
