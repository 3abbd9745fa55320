//! `leases`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    ..Kind::plain(
        "coordination.k8s.io",
        "Lease",
        "leases",
        "lease",
        "io.k8s.api.coordination.v1.Lease",
    )
};
