//! The `kube-embedded` program: `serve` runs a cluster for as long as the process lives, `edge` publishes
//! the load balancers and Ingresses of an external cluster on this host.

fn main() -> std::process::ExitCode {
    kube_embedded::cli::main()
}
