//! The commands and their flags: what `cargo xtask --help` prints.
#![allow(unreachable_pub, missing_docs, reason = "the structs are generated")]

use std::path::PathBuf;

xflags::xflags! {
    /// Kubernetes canary deployments, phase by phase, each claim proved with numbers.
    cmd xtask {
        /// Build the app's two images, kubeapp:1.0 and kubeapp:2.0, without Docker.
        cmd images {
            /// Copy the archives to this folder, too.
            optional --out folder: PathBuf
        }
    }
}
