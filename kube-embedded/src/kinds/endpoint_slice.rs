//! `endpointslices`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    generation: true,
    ..Kind::of::<k8s_openapi::api::discovery::v1::EndpointSlice>(
        "endpointslice",
        "io.k8s.api.discovery.v1.EndpointSlice",
    )
};
