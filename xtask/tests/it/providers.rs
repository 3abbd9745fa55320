//! External clusters of every provider: each command that is run, with fakes of the programs.

use super::provider_fixture::{GKE, ProviderFixture};
use std::fs;

const NEWEST: &str =
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";

#[test]
fn invalid_flags_exit_2_without_side_effects() {
    let fixture = ProviderFixture::new("outside-usage");
    for (line, part) in [
        ("up --on gke", "--project <id> --location"),
        ("up --on gke --project p --location l --nodes 3", "`--nodes` requires `--standard`"),
        ("up --on gke --project p --location l", "pass `--yes`"),
        ("up --on current", "current requires `--context <name>`"),
        ("lab phase4 --on current --context c", "current requires `--registry <host>/<path>`"),
        (
            "lab phase4 --on kind --sandbox plain",
            "`--sandbox` is not supported with `--on kind` (only with embedded)",
        ),
        (
            "up --image oldest",
            "`--image` is not supported with `--on embedded` (only with kind, k3s, minikube, gke)",
        ),
        (
            "up --on kind --context c",
            "`--context` is not supported with `--on kind` (only with current)",
        ),
        ("lab phase4 --ingress-class x", "(only with kind, k3s, minikube, gke, current)"),
        (
            "lab phase4 --on current --context c --registry none --ingress-class Nginx",
            "`Nginx` is not a valid Ingress class",
        ),
        (
            "lab phase4 --on kind --pull-secret login",
            "not supported with `--on kind` (only with gke, current)",
        ),
        (
            "lab phase4 --on current --context c --registry none --pull-secret login",
            "`--pull-secret` needs a registry",
        ),
        (
            "up --on gke --project p --location l --dry-run --ingress-class Nginx",
            "`Nginx` is not a valid Ingress class",
        ),
        (
            "up --on current --context c --registry none --dry-run --pull-secret login",
            "`--pull-secret` needs a registry",
        ),
        (
            "lab phase4 --on k3s --edge",
            "`--edge` is not supported with `--on k3s` (only with current)",
        ),
        ("images push user", "is not a valid registry"),
    ] {
        fixture.fails(line, &[], 2, part);
    }
    for command in ["up", "down", "status", "doctor", "images load", "kubectl"] {
        let (code, text) = fixture.run(&format!("{command} --on kine"));
        assert_eq!((code, text.contains("a similar value exists: 'kind'")), (2, true), "{text}");
    }
    assert_eq!((fixture.kinds(), fixture.has_file("cluster")), (String::new(), false));
}

#[test]
fn kind_cluster_of_up_is_used_until_down() {
    let fixture = ProviderFixture::new("kind-up");
    let text = fixture.succeeds("up --on kind");
    assert!(text.contains("export KUBECONFIG=") && text.contains("clusters/kind/kubeconfig"));
    assert_eq!(
        fixture.calls("kind"),
        [
            "kind get clusters".into(),
            format!(
                "kind create cluster --name canary-labs --image {NEWEST} --config \
                 W/home/clusters/kind/kind.json --kubeconfig W/home/clusters/kind/kubeconfig \
                 --wait 180s"
            ),
            "kind export kubeconfig --name canary-labs --kubeconfig \
             W/home/clusters/kind/kubeconfig"
                .into(),
            "kind load image-archive W/images/kubeapp-1.0.tar W/images/kubeapp-2.0.tar --name \
             canary-labs"
                .into(),
        ]
    );
    let config = fixture.base.folder.join("home/clusters/kind/kind.json");
    assert_eq!(fs::read_to_string(config).unwrap().matches(r#""role": "worker""#).count(), 3);

    assert!(fixture.succeeds("up --on kind").contains("`canary-labs` is up"));
    let calls = fixture.calls("kind").join("\n");
    assert!(!calls.contains("create") && !calls.contains("load"), "{calls}");

    let (code, text) = fixture.run_with("lab phase4 --on kind", &[("FAKE_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    for part in [
        r#""provider": "kind""#,
        r#""pull_policy": "IfNotPresent""#,
        r#""name": "kubeapp:1.0""#,
        r#""started_in": null"#,
        "clusters/kind/kubeconfig",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(fixture.kinds(), "canary-labs\n", "the cluster of `up` is kept");

    fixture.fails("up --on kind --image oldest", &[], 3, "the kind cluster is up with image");
    assert!(fixture.succeeds("status").contains("kind `canary-labs`, up"));
    assert!(fixture.succeeds("status --on kind").contains("Server Version: v1.36.4"));
    assert!(fixture.succeeds("kubectl --on kind -- get nodes").contains("node-1 Ready"));

    assert_eq!(fixture.succeeds("down --on kind"), "down\n");
    assert_eq!((fixture.kinds(), fixture.recorded("kind")), (String::new(), false));
    assert_eq!(fixture.succeeds("down --on kind"), "no kind cluster is up\n");
    fixture.fails("status --on kind", &[], 3, "`cargo xtask up --on kind` starts one");
    fixture.fails(
        "kubectl --on kind -- get nodes",
        &[],
        3,
        "`cargo xtask up --on kind` starts one",
    );
    fixture.fails("images load --on kind", &[], 3, "`cargo xtask up --on kind` starts one");
}

#[test]
fn lab_without_up_creates_and_deletes_a_kind_cluster() {
    let fixture = ProviderFixture::new("kind-lab");
    for (code, labs) in [(0, "0"), (1, "1"), (3, "3")] {
        let (actual, text) = fixture.run_with("lab phase4 --on kind", &[("FAKE_LABS", labs)]);
        assert_eq!((actual, fixture.kinds()), (code, String::new()), "{text}");
        assert!(!fixture.recorded("kind"));
        assert_eq!(
            fixture.calls("kind").last().unwrap().split(" --").next().unwrap(),
            "kind delete cluster"
        );
    }
    assert!(fixture.succeeds("lab phase4 --on kind --keep").contains("kept: export KUBECONFIG="));
    assert_eq!(fixture.kinds(), "canary-labs\n");
    fixture.succeeds("lab phase4 --on kind");
    assert_eq!(fixture.kinds(), "canary-labs\n", "a kept cluster is persistent");
}

#[test]
fn node_ports_are_published_where_docker_runs_in_a_vm() {
    let fixture = ProviderFixture::new("desktop");
    let config = || {
        let file = fixture.base.folder.join("home/clusters/kind/kind.json");
        fs::read_to_string(file).unwrap().matches("containerPort").count()
    };
    fixture.succeeds("up --on kind");
    assert_eq!(config(), 0);
    fixture.succeeds("down --on kind");
    fixture.engine_info(r#""CgroupVersion":"2","OperatingSystem":"Docker Desktop""#);
    fixture.succeeds("up --on kind");
    assert_eq!(config(), 16);
}

#[test]
fn missing_prerequisites_are_reported_first() {
    let fixture = ProviderFixture::new("lacks");
    fs::remove_file(fixture.socket()).unwrap();
    for line in ["up --on kind", "lab phase4 --on kind", "up --on k3s"] {
        fixture.fails(line, &[], 3, "no Docker engine listens at");
    }
    let elsewhere = [("DOCKER_HOST", "tcp://192.0.2.1:2375")];
    fixture.fails("up --on kind", &elsewhere, 3, "is the engine of another machine");
    // What is missing may be found wrongly.
    let (code, text) = fixture.run_with("up --on kind --force", &elsewhere);
    assert_eq!((code, text.contains("is the engine of another machine")), (0, true), "{text}");
    fixture.succeeds("down --on kind");
    let _ = fixture.calls("kind");
    // The kubelet decides whether it tolerates cgroups v1, not the name of an image.
    fixture.engine("1");
    let text = fixture.succeeds("up --on kind --image local/node:v1.36.2");
    assert!(fixture.calls("kind")[1].contains("--image local/node:v1.36.2"), "{text}");
    let config = fixture.base.folder.join("home/clusters/kind/kind.json");
    assert!(std::fs::read_to_string(config).unwrap().contains("failCgroupV1"), "{text}");
    for (program, line, part) in [
        ("kind", "up --on kind", "kind is not installed; `go install sigs.k8s.io/kind@v0.33.0`"),
        ("kubectl", "lab phase4 --on k3s", "kubectl is not installed; see "),
        ("docker", "up --on k3s", "docker is not installed; see "),
        ("minikube", "up --on minikube", "minikube is not installed; see "),
        ("gcloud", "up --on gke --project p --location l", "gcloud is not installed; see "),
        (
            "gke-gcloud-auth-plugin",
            "up --on gke --project p --location l",
            "`gcloud components install gke-gcloud-auth-plugin`",
        ),
    ] {
        let fixture = ProviderFixture::new(&format!("lacks-{program}")).without(program);
        let part = part.trim_matches('`');
        fixture.fails(line, &[], 3, part.split('`').next().unwrap());
        assert_eq!((fixture.kinds(), fixture.calls("gcloud").len()), (String::new(), 0));
    }
}

#[test]
fn doctor_reports_every_provider_also_as_json() {
    let fixture = ProviderFixture::new("doctor");
    let (_, text) = fixture.run("doctor --json");
    let reports: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let ready = |name: &str| {
        let report = reports.iter().find(|report| report["provider"] == name).unwrap();
        report["ready"].as_bool().unwrap()
    };
    assert!(["kind", "k3s", "minikube", "gke", "current"].into_iter().all(ready), "{text}");
    let fixture = fixture.without("kind");
    let (code, text) = fixture.run("doctor --on kind");
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("BAD   kind") && text.contains("→ "), "{text}");
    assert_eq!(fixture.run("doctor --on k3s").0, 0);
}

#[test]
fn k3s_nodes_are_containers_and_each_imports_the_images() {
    let fixture = ProviderFixture::new("k3s");
    fixture.succeeds("up --on k3s");
    let calls = fixture.calls("docker");
    let short = |call: &String| call.split(" --").next().unwrap().to_owned();
    let words: Vec<_> = calls.iter().map(short).collect();
    assert_eq!(words.iter().filter(|call| *call == "docker run").count(), 3, "{words:?}");
    let imports = calls.iter().filter(|call| call.contains("images import -")).count();
    assert_eq!(imports, 3 * 2, "{calls:?}");
    let kubeconfig = fixture.base.folder.join("home/clusters/k3s/kubeconfig");
    assert_eq!(fs::read_to_string(kubeconfig).unwrap(), "server: https://127.0.0.1:32768\n");
    fixture.succeeds("lab phase4 --on k3s");
    fixture.succeeds("down --on k3s");
    assert!(!fixture.has_file("containers") && !fixture.has_file("networks"));
}

#[test]
fn images_build_is_the_default_command() {
    let fixture = ProviderFixture::new("images");
    let text = fixture.succeeds("images build");
    assert!(text.starts_with("kubeapp:1.0  sha256:"), "{text}");
    assert_eq!(fixture.succeeds("images"), text);
    assert!(fixture.succeeds("images --help").contains("push"));
}

#[test]
fn stopped_minikube_is_started_and_not_recreated() {
    let fixture = ProviderFixture::new("stopped");
    fixture.succeeds("up --on minikube");
    fs::write(fixture.base.folder.join("dead"), "").unwrap();
    fixture.calls("minikube");
    let (_, text) = fixture.run("up --on minikube");
    assert!(text.contains("does not respond; starting it"), "{text}");
    let calls = fixture.calls("minikube");
    let started = calls.iter().position(|call| call.starts_with("minikube start")).unwrap();
    assert!(!calls[..started].iter().any(|call| call.starts_with("minikube delete")), "{calls:?}");
}

#[test]
fn minikube_uses_a_profile_of_its_own() {
    let fixture = ProviderFixture::new("minikube");
    fixture.succeeds("up --on minikube --image v1.36.0");
    let calls = fixture.calls("minikube");
    assert!(calls[1].ends_with("--profile canary-labs --kubernetes-version v1.36.0"), "{calls:?}");
    assert_eq!(calls.iter().filter(|call| call.starts_with("minikube image load")).count(), 2);
    fixture.succeeds("down --on minikube");
    assert!(!fixture.has_file("profile"));
}

#[test]
fn user_context_is_used_only_with_consent() {
    let fixture = ProviderFixture::new("current");
    let lab = "lab phase4 --on current --context mine --registry none";
    let (code, text) = fixture.run_with(lab, &[("FAKE_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(r#""provider": "current""#), "{text}");
    assert_eq!(
        fixture.calls("kubectl")[0],
        "kubectl config view --raw --flatten --minify --context mine"
    );
    let pushed = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    let (code, text) = fixture.run_with(pushed, &[("FAKE_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(r#""name": "127.0.0.1:5000/labs/kubeapp:1.0""#), "{text}");
    assert!(text.contains(r#""pull_policy": "Always""#), "{text}");

    let namespace = fixture.base.folder.join("namespace");
    fs::write(&namespace, r#"{"metadata":{"name":"production"}}"#).unwrap();
    fixture.fails(&format!("{lab} --yes"), &[], 3, "was not created by these labs");
    let labels = r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"canary-labs"}}}"#;
    fs::write(&namespace, labels).unwrap();
    fixture.fails(lab, &[], 2, "pass `--yes`");
    fixture.succeeds(&format!("{lab} --yes"));

    let wrong = [("FAKE_KUBECTL", "context")];
    fixture.fails(lab, &wrong, 3, "context not found; `kubectl config get-contexts`");
    let expired = [("FAKE_KUBECTL", "expired")];
    fixture.fails(lab, &expired, 3, "the cluster does not accept the credentials; log in again");
    fs::write(fixture.base.folder.join("dead"), "").unwrap();
    fixture.fails(lab, &[], 3, "the context is not reachable; check the network");
}

#[test]
fn gke_dry_run_prints_every_command() {
    let fixture = ProviderFixture::new("gke-dry");
    let text = fixture.succeeds(&format!("{GKE} --dry-run"));
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("# this costs money in project p: GKE's hourly fee, 2 nodes"));
    for (line, begin) in lines[1..].iter().zip([
        "gcloud artifacts repositories create canary-labs --repository-format docker",
        "gcloud container clusters create canary-labs --num-nodes 2 --machine-type e2-medium",
        "KUBECONFIG=",
        "KUBECONFIG=",
        "gcloud auth print-access-token",
        "# push kubeapp:1.0 to europe-west1-docker.pkg.dev/p/canary-labs/kubeapp:1.0",
        "# push kubeapp:2.0 to",
    ]) {
        assert!(line.starts_with(begin), "{text}");
    }
    assert_eq!((lines.len(), fixture.calls("gcloud").len()), (8, 0), "{text}");
    assert!(fixture.succeeds("up --on kind --dry-run").contains("kind create cluster --name"));
    assert_eq!(fixture.kinds(), "");
}

#[test]
fn gke_is_created_once_used_by_labs_and_deleted_in_order() {
    let fixture = ProviderFixture::new("gke");
    fixture.fails("lab phase4 --on gke", &[], 2, "gke requires `--project <id>");
    fixture.fails(GKE, &[], 2, "stdin is not a terminal");
    assert!(!fixture.has_file("cluster"), "nothing is created without confirmation");
    fixture.succeeds(&format!("{GKE} --yes"));
    let calls = fixture.calls("gcloud");
    let made = calls.iter().find(|call| call.contains("clusters create ")).unwrap();
    assert!(made.contains("--labels made-by=canary-labs,expires=") && made.contains("--project p"));
    let (code, text) = fixture.run_with("lab phase4 --on gke", &[("FAKE_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    for part in [
        r#""name": "europe-west1-docker.pkg.dev/p/canary-labs/kubeapp:2.0""#,
        r#""alternative": "even""#,
        r#""address": 900"#,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(fixture.has_file("cluster"), "it is kept after a lab");
    fixture.calls("gcloud");

    let text = fixture.succeeds("down --on gke");
    assert!(text.contains("which may still cost money:\nk8s-fw-1"), "{text}");
    let calls = fs::read_to_string(fixture.base.folder.join("calls")).unwrap();
    let at = |part: &str| calls.find(part).unwrap_or_else(|| panic!("no {part} in {calls}"));
    let order = [
        "kubectl delete ingress --all --all-namespaces",
        "kubectl delete service --wait --timeout=600s --namespace production app-lb",
        "gcloud container clusters delete canary-labs",
        "gcloud compute forwarding-rules list",
        "gcloud artifacts repositories list",
    ];
    assert!(order.map(at).is_sorted(), "{calls}");
    assert!(!fixture.has_file("cluster") && !fixture.recorded("gke"));
}

#[test]
fn gcloud_failures_are_reported_and_leave_nothing() {
    let fixture = ProviderFixture::new("gke-refused");
    let up = format!("{GKE} --yes");
    for (what, part) in [
        ("expired", "gcloud: the credentials have expired; `gcloud auth login`"),
        ("quota", "gcloud: the project's quota is exceeded; use another `--location`"),
    ] {
        fixture.fails(&up, &[("FAKE_GCLOUD", what)], 3, part);
        assert!(!fixture.has_file("cluster") && !fixture.recorded("gke"), "{what}");
    }
    // A failure after the creation: the cluster costs money and must not be forgotten.
    let token = [("FAKE_GCLOUD", "token")];
    fixture.fails(&up, &token, 3, "gcloud: the credentials have expired; `gcloud auth login`");
    let (_, text) = fixture.run_with(&up, &token);
    assert!(
        text.contains("is up and is kept, without all of its images: `cargo xtask up --on gke`"),
        "{text}"
    );
    assert!(fixture.has_file("cluster") && fixture.recorded("gke"));
    fixture.succeeds(&up);
}
