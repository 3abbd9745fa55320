//! What manifests say differently on the cluster at hand: what an image is called there and how nodes
//! get it, and who is to serve an Ingress. Everything else is applied as it is written.

use super::{ingress_class, pull_secret};
use lab_environment::Environment;
use serde_json::{Map, Value, json};

/// Where a pod is described: in a pod, or in what makes pods.
const PODS: [&str; 2] = ["/spec/template/spec", "/spec"];

/// Makes an object what this cluster needs it to be.
pub(crate) fn fit(object: &mut Value, environment: &Environment) {
    for path in PODS {
        if let Some(pod) = object.pointer_mut(path).and_then(Value::as_object_mut) {
            fit_pod(pod, environment);
        }
    }
    if object.get("kind").is_some_and(|kind| kind == "Ingress") {
        ingress_class::fit(object, &environment.ingress_class);
    }
}

/// Gives every container whose image the environment knows the name that it has on this cluster, with
/// the pull policy that goes with it; and the pod what it takes to pull that.
fn fit_pod(pod: &mut Map<String, Value>, environment: &Environment) {
    let mut ours = false;
    for field in ["containers", "initContainers"] {
        let containers = pod.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(image) = container.get("image").and_then(Value::as_str) else { continue };
            let Some(known) = environment.images.iter().find(|i| i.manifest_name == image) else {
                continue;
            };
            container.insert("image".into(), known.name.clone().into());
            container.insert("imagePullPolicy".into(), environment.pull_policy.clone().into());
            fit_farewell(container, environment.patience.propagation);
            ours = true;
        }
    }
    // In the pod and not in the namespace's default ServiceAccount: that is made some time after its
    // namespace, and a pod that came before it was changed would never be able to pull.
    if ours && environment.pull_secret.is_some() {
        let secrets = pod.entry("imagePullSecrets").or_insert_with(|| json!([]));
        if let Some(secrets) = secrets.as_array_mut() {
            secrets.push(json!({ "name": pull_secret::NAME }));
        }
    }
}

/// Lets a pod that ends serve on for as long as proxies may go on sending it requests; where they do
/// not, it need not wait.
fn fit_farewell(container: &mut Map<String, Value>, propagation: u64) {
    let Some(sleep) = container
        .get_mut("lifecycle")
        .and_then(|lifecycle| lifecycle.pointer_mut("/preStop/sleep/seconds"))
    else {
        return;
    };
    match propagation {
        0 => drop(container.remove("lifecycle")),
        seconds => *sleep = seconds.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kubernetes::Scope;
    use lab_environment::{Image, IngressClass, NearestWrong, Patience};
    use std::path::PathBuf;

    fn deployment(image: &str, policy: &str) -> Value {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "kubeapp", "image": image, "imagePullPolicy": policy},
            {"name": "other", "image": "nginx", "imagePullPolicy": "Never"}]}}}})
    }

    #[test]
    fn images_are_named_as_the_cluster_names_them() {
        let mut environment = environment();
        environment.images[0].name = "europe-docker.pkg.dev/p/r/app:1.0".into();
        environment.pull_policy = "Always".into();
        let mut object = deployment("kubeapp:1.0", "IfNotPresent");
        fit(&mut object, &environment);
        assert_eq!(object, deployment("europe-docker.pkg.dev/p/r/app:1.0", "Always"));
    }

    #[test]
    fn pods_serve_on_for_as_long_as_proxies_may_need_them() {
        let mut environment = environment();
        for (seconds, lifecycle) in
            [(0, Value::Null), (7, json!({"preStop": {"sleep": {"seconds": 7}}}))]
        {
            environment.patience.propagation = seconds;
            for file in ["lb/app-production.yml", "ingress/app-canary.yml"] {
                let fitted = Scope::manifests(&environment, file).unwrap().remove(0).object;
                let container = &fitted["spec"]["template"]["spec"]["containers"][0];
                assert_eq!(container["lifecycle"], lifecycle, "{file}");
            }
        }
        // What is no sleep is not for us to say.
        let mut other = deployment("kubeapp:1.0", "Never");
        let hook = json!({"preStop": {"exec": {"command": ["/bye"]}}});
        other["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = hook.clone();
        fit(&mut other, &environment);
        assert_eq!(other["spec"]["template"]["spec"]["containers"][0]["lifecycle"], hook);
    }

    #[test]
    fn pods_of_ours_name_the_pull_secret_beside_their_own() {
        let mut environment = environment();
        environment.pull_secret = Some("/secret".into());
        let mut object = deployment("kubeapp:1.0", "Always");
        object["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
        fit(&mut object, &environment);
        assert_eq!(
            object["spec"]["template"]["spec"]["imagePullSecrets"],
            json!([{"name": "mine"}, {"name": "kubeapp-registry"}])
        );
        for other in [json!({"spec": {"containers": [{"image": "nginx"}]}}), json!({"spec": {}})] {
            let mut fitted = other.clone();
            fit(&mut fitted, &environment);
            assert_eq!(fitted, other);
        }
    }

    /// Of this repository's manifests, on no cluster.
    pub(crate) fn environment() -> Environment {
        let image = |version: &str| Image {
            version: version.into(),
            manifest_name: format!("kubeapp:{version}"),
            name: format!("kubeapp:{version}"),
            archive: PathBuf::new(),
            rebuilt: PathBuf::new(),
            binary: PathBuf::new(),
            build_input: format!("KUBEAPP_VERSION={version}"),
        };
        Environment {
            provider: "test".into(),
            kubeconfig: PathBuf::new(),
            started_in: None,
            manifests: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests")),
            images: vec![image("1.0"), image("2.0")],
            pull_policy: "IfNotPresent".into(),
            architecture: None,
            pull_secret: None,
            ingress_class: IngressClass::Unnamed,
            app: PathBuf::new(),
            docker: false,
            patience: Patience { rollout: 1, address: 1, request: 1, propagation: 0 },
            nearest_wrong: NearestWrong::NearestReplica,
            absent: vec![],
        }
    }
}
