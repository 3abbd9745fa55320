//! The steps of phase 1.

use crate::step::{Command::Look, Step};

pub(super) const ALL: &[Step] = &[PROCESS];

pub(super) const PROCESS: Step = Step {
    id: "process",
    title: "running each version as a process",
    shows: "The app serves three pages on port 8080: its version for people, its health, and its version for programs. 1.0 and 2.0 differ by a constant, so that a response tells which of them sent it.",
    article: &[
        "First of all, we need an app to deploy!",
        "The app prints out the version deployed as well as some operational requirements.",
        "Stores the version of the application in a constant named version and prints it out.",
        "Acts as a health check, if a request hits /health, the app will respond with HTTP 200.",
        "Exposes an endpoint at /version which returns the version of the application currently deployed.",
        "Finally, we listen on port 8080 for any incoming HTTP requests.",
        "This helps to produce a static binary by substituting system’s libc for Go’s netgo library.",
    ],
    commands: &[Look(
        "cargo run -p kubeapp & curl --retry 9 --retry-connrefused -i localhost:8080/health localhost:8080/version localhost:8080/; kill $!",
    )],
    look: "200 and `1.0`; with KUBEAPP_VERSION=2.0 in the environment of the build, `2.0`",
    hints: [
        "The app is a crate of this workspace.",
        "`cargo run` starts it, and curl requests its pages.",
    ],
    proves: &[
        "app-port",
        "app-front-page",
        "app-health",
        "app-version",
        "app-static",
        "app-differs-by-version",
    ],
};
