//! The image of a container. Nothing is pulled: an image exists once an archive is loaded.

use super::context::Context;
use crate::image_store::Image;
use kube_embedded_core::task::catch_blocking;
use oci_archive::normalize_name;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// The interval at which a missing image is looked up: an archive may be put into a directory at any
/// time.
const RETRY: Duration = Duration::from_secs(2);

/// Returns the image of the container, and waits for it as long as it is missing.
pub(super) async fn wait_for_image(container: Context<'_>) -> Arc<Image> {
    let name = container.container.image.clone().unwrap_or_default();
    let runtime = &container.pod.runtime;
    let mut attempts = 0;
    loop {
        let (images, wanted) = (runtime.images.clone(), name.clone());
        // Unpacking an archive takes a while, and blocks.
        let resolve = move || catch_blocking("image store", || images.resolve(&wanted));
        // A panic is logged, and counts as a missing image.
        if let Ok(Ok(Some(image))) = tokio::task::spawn_blocking(resolve).await {
            tracing::debug!(
                container = container.container.name,
                image = name,
                id = image.id,
                "image found"
            );
            container.change(|v| {
                v.image = normalize_name(&name);
                v.image_id.clone_from(&image.id);
            });
            runtime.report_images().await;
            container
                .normal("Pulled", &format!("Container image {name:?} already present on machine"));
            return image;
        }
        report_missing(container, &name, attempts);
        attempts += 1;
        sleep(RETRY).await;
    }
}

/// Reports a missing image in the status and in events, as the kubelet reports a failed pull.
fn report_missing(container: Context<'_>, name: &str, attempts: u32) {
    let explained = container.pod.runtime.images.explain_missing(name);
    if container.container.image_pull_policy.as_deref() == Some("Never") {
        let reason = "ErrImageNeverPull";
        let message = format!(
            "Container image {name:?} is not present with pull policy of Never: {explained}"
        );
        if attempts == 0 {
            container.warning(reason, &message);
        }
        return container.wait_for(reason, message);
    }
    if attempts == 0 {
        tracing::warn!(container = container.container.name, image = name, "image is missing");
        container.normal("Pulling", &format!("Pulling image {name:?}"));
        container.warning("Failed", &format!("Failed to pull image {name:?}: {explained}"));
        container.warning("Failed", "Error: ErrImagePull");
        return container.wait_for("ErrImagePull", explained);
    }
    if attempts == 1 {
        container.normal("BackOff", &format!("Back-off pulling image {name:?}"));
        container.warning("Failed", "Error: ImagePullBackOff");
    }
    container.wait_for("ImagePullBackOff", format!("Back-off pulling image {name:?}: {explained}"));
}
