//! What is the same for all versions of the EndpointSlice type.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Returns the endpoints of a slice. The field is required in the schemas of some versions of Kubernetes,
/// so its type depends on the version that the program chooses.
pub fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
    Option::<&Vec<Endpoint>>::from(&slice.endpoints).map_or(&[], Vec::as_slice)
}
