//! Clusters that other people's programs make, by every provider: each step that is taken, in their own
//! words.

use super::outside::{GKE, Outside};
use std::fs;

const NEWEST: &str =
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";

#[test]
fn wrong_usage_ends_with_2_before_anything_is_made() {
    let outside = Outside::new("outside-usage");
    for (line, part) in [
        ("up --on gke", "--project <id> --location"),
        ("up --on gke --project p --location l --nodes 3", "`--nodes` is for `--standard`"),
        ("up --on gke --project p --location l", "`--yes` says so"),
        ("up --on current", "which context?"),
        ("lab phase4 --on current --context c", "which registry"),
        ("lab phase4 --on kind --sandbox plain", "`--sandbox` is for embedded; kind knows none"),
        ("up --image oldest", "`--image` is for kind, k3s, minikube, gke; embedded knows none"),
        ("up --on kind --context c", "`--context` is for current"),
        (
            "lab phase4 --ingress-class x",
            "`--ingress-class` is for kind, k3s, minikube, gke, current",
        ),
        (
            "lab phase4 --on current --context c --registry none --ingress-class Nginx",
            "`Nginx` names no Ingress class",
        ),
        ("lab phase4 --on kind --pull-secret login", "`--pull-secret` is for gke, current; kind"),
        (
            "lab phase4 --on current --context c --registry none --pull-secret login",
            "`--pull-secret` is for a registry",
        ),
        (
            "up --on gke --project p --location l --dry-run --ingress-class Nginx",
            "`Nginx` names no Ingress class",
        ),
        (
            "up --on current --context c --registry none --dry-run --pull-secret login",
            "`--pull-secret` is for a registry",
        ),
        ("lab phase4 --on k3s --edge", "`--edge` is for current; k3s knows none"),
        ("up --on kine", "did you mean `kind`?"),
        ("down --on kine", "did you mean `kind`?"),
        ("images push user", "names no registry"),
        ("doctor --on kine", "did you mean `kind`?"),
    ] {
        outside.fails(line, &[], 2, part);
    }
    assert_eq!((outside.kinds(), outside.there("cluster")), (String::new(), false));
}

#[test]
fn a_kind_cluster_of_up_is_used_until_down() {
    let outside = Outside::new("kind-up");
    let text = outside.well("up --on kind");
    assert!(text.contains("export KUBECONFIG=") && text.contains("clusters/kind/kubeconfig"));
    assert_eq!(
        outside.calls("kind"),
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
    let config = outside.world.folder.join("home/clusters/kind/kind.json");
    assert_eq!(fs::read_to_string(config).unwrap().matches(r#""role": "worker""#).count(), 3);

    assert!(outside.well("up --on kind").contains("`canary-labs` is up"));
    let calls = outside.calls("kind").join("\n");
    assert!(!calls.contains("create") && !calls.contains("load"), "{calls}");

    let (code, text) =
        outside.run_with("lab phase4 --on kind", &[("STAND_IN_LABS", "environment")]);
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
    assert_eq!(outside.kinds(), "canary-labs\n", "the cluster of `up` stays");

    outside.fails("up --on kind --image oldest", &[], 3, "a kind cluster is up with image");
    assert!(outside.well("status").contains("kind `canary-labs`, up"));
    assert!(outside.well("status --on kind").contains("Server Version: v1.36.4"));
    assert!(outside.well("kubectl --on kind -- get nodes").contains("node-1 Ready"));

    assert_eq!(outside.well("down --on kind"), "down\n");
    assert_eq!((outside.kinds(), outside.recorded("kind")), (String::new(), false));
    assert_eq!(outside.well("down --on kind"), "no kind cluster is up\n");
    outside.fails("status --on kind", &[], 3, "`cargo xtask up --on kind` makes one");
    outside.fails("kubectl --on kind -- get nodes", &[], 3, "`cargo xtask up --on kind` makes one");
    outside.fails("images load --on kind", &[], 3, "`cargo xtask up --on kind` makes one");
}

#[test]
fn a_lab_without_up_makes_a_kind_cluster_and_removes_it() {
    let outside = Outside::new("kind-lab");
    for (code, labs) in [(0, "0"), (1, "1"), (3, "3")] {
        let (ended, text) = outside.run_with("lab phase4 --on kind", &[("STAND_IN_LABS", labs)]);
        assert_eq!((ended, outside.kinds()), (code, String::new()), "{text}");
        assert!(!outside.recorded("kind"));
        assert_eq!(
            outside.calls("kind").last().unwrap().split(" --").next().unwrap(),
            "kind delete cluster"
        );
    }
    assert!(outside.well("lab phase4 --on kind --keep").contains("kept: export KUBECONFIG="));
    assert_eq!(outside.kinds(), "canary-labs\n");
    outside.well("lab phase4 --on kind");
    assert_eq!(outside.kinds(), "canary-labs\n", "what was kept stays");
}

#[test]
fn node_ports_are_published_where_docker_is_in_a_machine_of_its_own() {
    let outside = Outside::new("desktop");
    let config = || {
        let file = outside.world.folder.join("home/clusters/kind/kind.json");
        fs::read_to_string(file).unwrap().matches("containerPort").count()
    };
    outside.well("up --on kind");
    assert_eq!(config(), 0);
    outside.well("down --on kind");
    let desktop = [("STAND_IN_SYSTEM", "Docker Desktop")];
    let (code, text) = outside.run_with("up --on kind", &desktop);
    assert_eq!((code, config()), (0, 16), "{text}");
}

#[test]
fn what_a_machine_lacks_is_told_in_the_first_second() {
    let outside = Outside::new("lacks");
    fs::remove_file(outside.socket()).unwrap();
    for line in ["up --on kind", "lab phase4 --on kind", "up --on k3s"] {
        outside.fails(line, &[], 3, "no Docker engine listens at");
    }
    let elsewhere = [("DOCKER_HOST", "tcp://192.0.2.1:2375")];
    outside.fails("up --on kind", &elsewhere, 3, "another machine's engine");
    outside.engine("1");
    outside.fails("up --on kind", &[], 3, "`--image oldest`");
    let text = outside.well("up --on kind --image oldest");
    assert!(outside.calls("kind")[1].contains("--image kindest/node:v1.34.11@sha256:"), "{text}");
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
        let outside = Outside::new(&format!("lacks-{program}")).without(program);
        let part = part.trim_matches('`');
        outside.fails(line, &[], 3, part.split('`').next().unwrap());
        assert_eq!((outside.kinds(), outside.calls("gcloud").len()), (String::new(), 0));
    }
}

#[test]
fn the_doctor_tells_of_every_provider_and_machines_can_read_it() {
    let outside = Outside::new("doctor");
    let (_, text) = outside.run("doctor --json");
    let reports: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let ready = |name: &str| {
        let report = reports.iter().find(|report| report["provider"] == name).unwrap();
        report["ready"].as_bool().unwrap()
    };
    assert!(["kind", "k3s", "minikube", "gke", "current"].into_iter().all(ready), "{text}");
    let outside = outside.without("kind");
    let (code, text) = outside.run("doctor --on kind");
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("BAD   kind") && text.contains("→ "), "{text}");
    assert_eq!(outside.run("doctor --on k3s").0, 0);
}

#[test]
fn k3s_nodes_are_containers_that_get_the_images_one_by_one() {
    let outside = Outside::new("k3s");
    outside.well("up --on k3s");
    let calls = outside.calls("docker");
    let short = |call: &String| call.split(" --").next().unwrap().to_owned();
    let words: Vec<_> = calls.iter().map(short).collect();
    assert_eq!(words.iter().filter(|call| *call == "docker run").count(), 3, "{words:?}");
    let imports = calls.iter().filter(|call| call.contains("images import -")).count();
    assert_eq!(imports, 3 * 2, "{calls:?}");
    let kubeconfig = outside.world.folder.join("home/clusters/k3s/kubeconfig");
    assert_eq!(fs::read_to_string(kubeconfig).unwrap(), "server: https://127.0.0.1:32768\n");
    outside.well("lab phase4 --on k3s");
    outside.well("down --on k3s");
    assert!(!outside.there("containers") && !outside.there("networks"));
}

#[test]
fn images_are_built_with_or_without_the_word() {
    let outside = Outside::new("images");
    let text = outside.well("images build");
    assert!(text.starts_with("kubeapp:1.0  sha256:"), "{text}");
    assert_eq!(outside.well("images"), text);
    assert!(outside.well("images build --out out-of-the-world --help").contains("images push"));
}

#[test]
fn a_stopped_minikube_is_started_and_not_made_anew() {
    let outside = Outside::new("stopped");
    outside.well("up --on minikube");
    fs::write(outside.world.folder.join("dead"), "").unwrap();
    outside.calls("minikube");
    let (_, text) = outside.run("up --on minikube");
    assert!(text.contains("does not answer: starting it"), "{text}");
    let calls = outside.calls("minikube");
    let started = calls.iter().position(|call| call.starts_with("minikube start")).unwrap();
    assert!(!calls[..started].iter().any(|call| call.starts_with("minikube delete")), "{calls:?}");
}

#[test]
fn minikube_has_a_profile_of_its_own() {
    let outside = Outside::new("minikube");
    outside.well("up --on minikube --image v1.36.0");
    let calls = outside.calls("minikube");
    assert!(calls[1].ends_with("--profile canary-labs --kubernetes-version v1.36.0"), "{calls:?}");
    assert_eq!(calls.iter().filter(|call| call.starts_with("minikube image load")).count(), 2);
    outside.well("down --on minikube");
    assert!(!outside.there("profile"));
}

#[test]
fn a_context_of_the_users_is_used_only_as_far_as_allowed() {
    let outside = Outside::new("current");
    let lab = "lab phase4 --on current --context mine --registry none";
    let (code, text) = outside.run_with(lab, &[("STAND_IN_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(r#""provider": "current""#), "{text}");
    assert_eq!(
        outside.calls("kubectl")[0],
        "kubectl config view --raw --flatten --minify --context mine"
    );
    let pushed = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    let (code, text) = outside.run_with(pushed, &[("STAND_IN_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(r#""name": "127.0.0.1:5000/labs/kubeapp:1.0""#), "{text}");
    assert!(text.contains(r#""pull_policy": "Always""#), "{text}");

    let namespace = outside.world.folder.join("namespace");
    fs::write(&namespace, r#"{"metadata":{"name":"production"}}"#).unwrap();
    outside.fails(&format!("{lab} --yes"), &[], 3, "was not made by these labs");
    let labels = r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"canary-labs"}}}"#;
    fs::write(&namespace, labels).unwrap();
    outside.fails(lab, &[], 2, "`--yes` says so");
    outside.well(&format!("{lab} --yes"));

    let wrong = [("STAND_IN_KUBECTL", "context")];
    outside.fails(lab, &wrong, 3, "there is no such context; `kubectl config get-contexts`");
    let expired = [("STAND_IN_KUBECTL", "expired")];
    outside.fails(lab, &expired, 3, "the cluster does not accept the credentials; log in again");
    fs::write(outside.world.folder.join("dead"), "").unwrap();
    outside.fails(lab, &[], 3, "the context is not reachable; check the network");
}

#[test]
fn gke_is_rehearsed_command_by_command() {
    let outside = Outside::new("gke-dry");
    let text = outside.well(&format!("{GKE} --dry-run"));
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("# this costs money in project p: GKE's fee by the hour, 2 nodes")
    );
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
    assert_eq!((lines.len(), outside.calls("gcloud").len()), (8, 0), "{text}");
    assert!(outside.well("up --on kind --dry-run").contains("kind create cluster --name"));
    assert_eq!(outside.kinds(), "");
}

#[test]
fn gke_is_made_once_used_by_labs_and_taken_apart_in_order() {
    let outside = Outside::new("gke");
    outside.fails("lab phase4 --on gke", &[], 2, "which project, and where?");
    outside.fails(GKE, &[], 2, "nobody is there to be asked");
    assert!(!outside.there("cluster"), "nothing is made without consent");
    outside.well(&format!("{GKE} --yes"));
    let calls = outside.calls("gcloud");
    let made = calls.iter().find(|call| call.contains("clusters create ")).unwrap();
    assert!(made.contains("--labels made-by=canary-labs,expires=") && made.contains("--project p"));
    let (code, text) = outside.run_with("lab phase4 --on gke", &[("STAND_IN_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    for part in [
        r#""name": "europe-west1-docker.pkg.dev/p/canary-labs/kubeapp:2.0""#,
        r#""alternative": "even""#,
        r#""address": 900"#,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(outside.there("cluster"), "it stays after a lab");
    outside.calls("gcloud");

    let text = outside.well("down --on gke");
    assert!(text.contains("perhaps still costing money:\nk8s-fw-1"), "{text}");
    let calls = fs::read_to_string(outside.world.folder.join("calls")).unwrap();
    let at = |part: &str| calls.find(part).unwrap_or_else(|| panic!("no {part} in {calls}"));
    let order = [
        "kubectl delete ingress --all --all-namespaces",
        "kubectl delete service --wait --timeout=600s --namespace production app-lb",
        "gcloud container clusters delete canary-labs",
        "gcloud compute forwarding-rules list",
        "gcloud artifacts repositories list",
    ];
    assert!(order.map(at).is_sorted(), "{calls}");
    assert!(!outside.there("cluster") && !outside.recorded("gke"));
}

#[test]
fn what_google_refuses_is_told_and_nothing_is_left() {
    let outside = Outside::new("gke-refused");
    let up = format!("{GKE} --yes");
    for (what, part) in [
        ("expired", "gcloud: the credentials have expired; `gcloud auth login`"),
        ("quota", "gcloud: the project's quota refuses it; another `--location`"),
    ] {
        outside.fails(&up, &[("STAND_IN_GCLOUD", what)], 3, part);
        assert!(!outside.there("cluster") && !outside.recorded("gke"), "{what}");
    }
    // The one that comes after the cluster is made: it costs money and is not to be forgotten.
    let token = [("STAND_IN_GCLOUD", "token")];
    outside.fails(&up, &token, 3, "gcloud: the credentials have expired; `gcloud auth login`");
    let (_, text) = outside.run_with(&up, &token);
    assert!(
        text.contains("is up and stays, without all of its images: `cargo xtask up --on gke`"),
        "{text}"
    );
    assert!(outside.there("cluster") && outside.recorded("gke"));
    outside.well(&up);
}
