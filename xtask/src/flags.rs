//! The commands and their flags: what `cargo xtask --help` prints.
#![allow(unreachable_pub, missing_docs, dead_code, reason = "the structs are generated")]

use std::{ffi::OsString, path::PathBuf};

xflags::xflags! {
    /// Kubernetes canary deployments, phase by phase, each claim proved with numbers.
    cmd xtask {
        /// Play phases of the article and judge every claim: `lab phase4`, `lab phase0 phase3`, `lab all`.
        /// Uses the cluster of `up` if it runs and is free, else one of its own.
        cmd lab {
            /// The phases, or `all`.
            repeated phase: String
            /// Which cluster: `embedded` (the default).
            optional --on provider: String
            /// How the embedded cluster keeps pods apart: `auto`, `namespaced` or `plain`.
            optional --sandbox kind: String
            /// Leave the cluster and what the phase made as they are.
            optional --keep
            /// Events as JSON, one a line; the last is the summary.
            optional --json
        }
        /// List the phases and the claims of each.
        cmd labs {
            /// As JSON.
            optional --json
        }
        /// Start an embedded cluster that stays, for kubectl by hand.
        cmd up {
            /// How it keeps pods apart: `auto`, `namespaced` or `plain`.
            optional --sandbox kind: String
        }
        /// Stop the cluster that `up` started.
        cmd down {}
        /// Tell about the cluster that `up` started.
        cmd status {}
        /// Build the app's two images, kubeapp:1.0 and kubeapp:2.0, without Docker.
        cmd images {
            /// Copy the archives to this folder, too.
            optional --out folder: PathBuf
        }
        /// Run kubectl on the cluster that `up` started: `kubectl -- get pods`.
        cmd kubectl {
            repeated args: OsString
        }
        /// Tell what this machine can do, and what would be different elsewhere.
        cmd doctor {}
        /// Everything that must be green: formatting, lints, tests, all labs.
        cmd ci {}
    }
}
