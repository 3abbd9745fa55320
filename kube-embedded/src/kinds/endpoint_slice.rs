//! `endpointslices`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    generation: true,
    ..Kind::plain(
        "discovery.k8s.io",
        "EndpointSlice",
        "endpointslices",
        "endpointslice",
        "io.k8s.api.discovery.v1.EndpointSlice",
    )
};
