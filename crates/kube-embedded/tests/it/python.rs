//! The Python clients: runs `tests/clients/python.py` against a cluster.

use crate::fixture::{cluster, in_time};
use kube_embedded_apiserver::credentials::write_private;
use std::{env, path::Path, process::Stdio};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_pass_their_script() {
    let mut imports = Command::new("python3");
    let imports =
        imports.args(["-c", "import kubernetes"]).env("PYTHONPATH", packages()).output().await;
    if !imports.is_ok_and(|output| output.status.success()) {
        return test_support::missing(
            "python-kubernetes",
            "`pip install kubernetes lightkube` installs the clients",
        );
    }
    let cluster = cluster().await;
    let kubeconfig = cluster.state_dir().join("kubeconfig");
    write_private(&kubeconfig, &cluster.kubeconfig()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python.py");
    let run = Command::new("python3")
        .arg(script)
        .arg(&kubeconfig)
        .env("PYTHONPATH", packages())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = in_time(run).await.unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("custom objects"), "{out}");
}

/// Returns the path of the packages that `.ci/run` installs, and that of `PYTHONPATH`.
fn packages() -> String {
    let target = env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| format!("{}/../../target", env!("CARGO_MANIFEST_DIR")));
    let own = format!("{target}/ci-tools/python");
    match env::var("PYTHONPATH") {
        Ok(more) => format!("{own}:{more}"),
        Err(_) => own,
    }
}
