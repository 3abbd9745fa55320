//! The steps of phase 2.

use crate::step::{Command::Look, Step};

pub(super) const ALL: &[Step] = &[READ, START, ENGINE, ASK, CLEAN];

pub(super) const READ: Step = Step {
    id: "read",
    title: "reading the images",
    shows: "An image is an archive of files and a description of how to start them. Here it holds the binary alone, and building it twice gives the same digest.",
    article: &[
        "Both versions of the sample app (Stable and Canary) will be packaged up in Docker images with distinct versions as Docker image tags.",
        "Wrapping up the Go artifact in a Docker image is straightforward. It’s just about copying the binary into the image.",
    ],
    commands: &[
        Look("cargo xtask images"),
        Look("tar -xOf target/images/kubeapp-1.0.tar index.json"),
    ],
    look: "the digest, and the size of the layer: about that of the binary",
    hints: [
        "No Docker is needed to build or to read an image.",
        "`cargo xtask images` builds both and prints where they are.",
    ],
    proves: &["image-entrypoint", "image-reproducible", "image-small"],
};

pub(super) const START: Step = Step {
    id: "start",
    title: "starting both images on every node",
    shows: "Each node starts a pod of each version. So every node has the images, without extra credentials.",
    article: &[
        "So k8s will have access to the images in GCR out of the box.",
        "It’ll automatically pre-configure the Docker registry credentials on the k8s worker nodes.",
    ],
    commands: &[
        Look("kubectl --namespace run try --image={stable} --port=8080"),
        Look("kubectl --namespace get pods -o wide"),
    ],
    look: "the pod is Running, and no event says ErrImagePull",
    hints: [
        "A pod needs no manifest if it is only to be tried.",
        "`kubectl run` starts a pod of an image.",
    ],
    proves: &["image-reachable"],
};

pub(super) const ENGINE: Step = Step {
    id: "engine",
    title: "running both images with Docker",
    shows: "The same archive runs in a Docker engine, too. Without an engine the cluster's nodes are asked instead.",
    article: &[
        "Moving forward, we’ll need to encapsulate the Go binary into a Docker image that we can later deploy to k8s.",
    ],
    commands: &[Look(
        "docker load -i target/images/kubeapp-1.0.tar && docker run --rm -p 8080:8080 kubeapp:1.0",
    )],
    look: "http://localhost:8080/version responds with 1.0",
    hints: ["An engine loads an archive without a registry.", "`docker load`, then `docker run`."],
    proves: &[],
};

pub(super) const ASK: Step = Step {
    id: "ask",
    title: "asking each image for its version",
    shows: "Each image responds with the version of its tag. One recipe made both, and a build argument picked the version.",
    article: &[
        "You’ll notice that we are using Docker build-time arguments to specify which version of the app to package inside the image.",
    ],
    commands: &[Look(
        "kubectl --namespace port-forward pod/try 8080 & curl --retry 9 --retry-connrefused localhost:8080/version; kill $!",
    )],
    look: "the version in the image's tag",
    hints: [
        "A pod that no Service publishes can be reached through the API.",
        "`kubectl port-forward`, then curl.",
    ],
    proves: &["image-runs", "image-version-argument"],
};

pub(super) const CLEAN: Step = Step {
    id: "clean",
    title: "deleting the pods again",
    shows: "Nothing of the trial is left. A pod without an owner is not replaced when it is deleted.",
    article: &[],
    commands: &[Look("kubectl --namespace delete pod/try")],
    look: "`kubectl get pods` lists none",
    hints: ["Deleting is the reverse of running.", "`kubectl delete` ends the pod."],
    proves: &[],
};
