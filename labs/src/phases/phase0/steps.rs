//! The steps of phase 0.

use crate::step::{Command::Look, Step};

pub(super) const ALL: &[Step] = &[API, NODES];

pub(super) const API: Step = Step {
    id: "api",
    title: "asking the API for its version",
    shows: "One command makes a cluster, and its API responds. Everything else is a request to this API.",
    article: &[
        "First of all, we need a k8s cluster to work with.",
        "If things go according to the plan, you’ll be able to get the k8s components endpoints by executing: kubectl cluster-info.",
    ],
    commands: &[
        Look("cargo xtask up"),
        Look("eval \"$(cargo xtask env)\""),
        Look("kubectl cluster-info"),
        Look("kubectl version"),
    ],
    look: "the address of the control plane, and the server's version",
    hints: [
        "kubectl finds the cluster by the variable KUBECONFIG.",
        "`cargo xtask env` prints the variables to set.",
    ],
    proves: &["cluster-answers"],
};

pub(super) const NODES: Step = Step {
    id: "nodes",
    title: "looking at the nodes",
    shows: "A cluster is a control plane and nodes that take pods. With more than one, the loss of a node is not the loss of the app.",
    article: &[
        "The cluster consists of at least one master and multiple worker machines, which will be created for us automagically.",
    ],
    commands: &[Look("kubectl get nodes -o wide")],
    look: "every node is Ready, and more than one takes pods",
    hints: ["Nodes are objects of the API, too.", "`kubectl get` lists objects of any kind."],
    proves: &["cluster-has-workers"],
};
