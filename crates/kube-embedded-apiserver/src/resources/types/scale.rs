//! `Scale` (`autoscaling/v1`), as the subresource `scale` of others decodes and shows it.

use crate::resources::{
    resource_type::ResourceType,
    table_columns::{AGE, Column, NAME, column},
};
use k8s_openapi::api::autoscaling::v1::Scale;

/// The type of a `Scale`, which is no resource.
pub(crate) static SCALE: ResourceType<'static> = ResourceType {
    columns: &[
        Column { format: "", ..NAME },
        Column {
            kind: "integer",
            ..column(
                "Desired",
                "replicas is the desired number of instances for the scaled object.",
                |scale, _| scale["spec"]["replicas"].as_i64().unwrap_or(0).into(),
            )
        },
        Column {
            kind: "integer",
            ..column(
                "Available",
                "replicas is the actual number of observed instances of the scaled object.",
                |scale, _| scale["status"]["replicas"].as_i64().unwrap_or(0).into(),
            )
        },
        AGE,
    ],
    ..ResourceType::of::<Scale>("scale", "io.k8s.api.autoscaling.v1.Scale")
};
