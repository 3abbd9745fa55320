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
            /// Which cluster: `embedded` (the default), `kind`, `k3s`, `minikube`, `gke` or `current`.
            optional --on provider: String
            /// Node image or Kubernetes version of a cluster made for this run: `newest`, `oldest`, a name.
            optional --image image: String
            /// With `current`: which context of yours. None is used that is not named.
            optional --context name: String
            /// With `current`: give load balancers and Ingresses addresses of this machine, as on kind.
            optional --edge
            /// With `current` and `gke`: push the images there; `none` if the nodes have them.
            optional --registry name: String
            /// With `current` and `gke`: credentials for the nodes to pull with: `login`, as pushes use, or a file.
            optional --pull-secret source: String
            /// Not with `embedded`: who serves the Ingress of phase 5, as `nginx`; with GKE `gce`, `gce-internal`.
            optional --ingress-class name: String
            /// Yes to every question. Without a terminal nothing is done that would have been asked.
            optional --yes
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
        /// Make a cluster that stays, for kubectl by hand and for labs: embedded unless `--on` says.
        cmd up {
            /// Which cluster: `embedded` (the default), `kind`, `k3s`, `minikube`, `gke` or `current`.
            optional --on provider: String
            /// How the embedded cluster keeps pods apart: `auto`, `namespaced` or `plain`.
            optional --sandbox kind: String
            /// The cluster's name, else `canary-labs`.
            optional --name name: String
            /// Node image or Kubernetes version: `newest`, `oldest`, a name.
            optional --image image: String
            /// With `current`: which context of yours. None is used that is not named.
            optional --context name: String
            /// With `current`: give load balancers and Ingresses addresses of this machine, until `down`.
            optional --edge
            /// With `current` and `gke`: push the images there; `none` if the nodes have them.
            optional --registry name: String
            /// With `current` and `gke`: credentials for the nodes to pull with: `login`, as pushes use, or a file.
            optional --pull-secret source: String
            /// Not with `embedded`: who serves the Ingress of phase 5, as `nginx`; with GKE `gce`, `gce-internal`.
            optional --ingress-class name: String
            /// With `gke`: the project that pays.
            optional --project id: String
            /// With `gke`: region or zone.
            optional --location place: String
            /// With `gke`: nodes of your own instead of Autopilot.
            optional --standard
            /// With `gke --standard`: how many nodes, else 3.
            optional --nodes n: u32
            /// With `gke`: hours after which the cluster counts as forgotten, else 4.
            optional --ttl hours: u32
            /// Print every command and run none.
            optional --dry-run
            /// Yes to every question. Without a terminal nothing is done that would have been asked.
            optional --yes
        }
        /// Remove the cluster that `up` made.
        cmd down {
            /// Which one, else the embedded one.
            optional --on provider: String
            /// Print every command and run none.
            optional --dry-run
        }
        /// Tell about the clusters that `up` made.
        cmd status {
            /// Versions and nodes of this one.
            optional --on provider: String
        }
        /// The app's two images, kubeapp:1.0 and kubeapp:2.0, without Docker.
        cmd images {
            /// Build them as archives.
            default cmd build {
                /// Copy the archives to this folder, too.
                optional --out folder: PathBuf
            }
            /// Build them and hand them to a cluster that is up.
            cmd load {
                /// Which one.
                optional --on provider: String
            }
            /// Build them and push them to a registry: `images push localhost:5000`.
            cmd push {
                /// `<host>/<path>`; the credentials are those of `docker login`.
                required registry: String
            }
        }
        /// Run kubectl on the cluster that `up` made: `kubectl -- get pods`, `kubectl --on kind -- get pods`.
        cmd kubectl {
            repeated args: OsString
        }
        /// Tell what this machine has and lacks for each kind of cluster, and what mends it.
        cmd doctor {
            /// Only what that one needs; exit code 3 if something is missing.
            optional --on provider: String
            /// As JSON.
            optional --json
        }
        /// Everything that must be green: formatting, lints, tests, all labs.
        cmd ci {}
    }
}
