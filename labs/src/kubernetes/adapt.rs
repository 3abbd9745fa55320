//! Adapts manifests to the target cluster: image names, pull policy and secret, preStop sleep, and the
//! classes of Ingress and Gateway. Everything else is applied as written.

use super::{gateway, ingress_class, pull_secret};
use lab_environment::Environment;
use serde_json::{Map, Value, json};

/// JSON pointers to pod specs: in a pod template, and in a pod.
const PODS: [&str; 2] = ["/spec/template/spec", "/spec"];

/// Adapts an object to the cluster.
pub(crate) fn adapt(object: &mut Value, environment: &Environment) {
    for path in PODS {
        if let Some(pod) = object.pointer_mut(path).and_then(Value::as_object_mut) {
            adapt_pod(pod, environment);
        }
    }
    if object.get("kind").is_some_and(|kind| kind == "Ingress") {
        ingress_class::set_class(object, &environment.ingress_class);
    }
    gateway::set_class(object, environment.gateway_class.as_ref());
}

/// Sets image name and pull policy of every container that runs one of the environment's images, and adds
/// the pull secret to its pod.
fn adapt_pod(pod: &mut Map<String, Value>, environment: &Environment) {
    let mut runs_app = false;
    for field in ["containers", "initContainers"] {
        let containers = pod.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(image) = container.get("image").and_then(Value::as_str) else { continue };
            let Some(known) = environment.images.iter().find(|i| i.manifest_name == image) else {
                continue;
            };
            container.insert("image".into(), known.name.clone().into());
            container.insert("imagePullPolicy".into(), environment.pull_policy.clone().into());
            set_pre_stop_sleep(container, environment.timeouts.propagation);
            runs_app = true;
        }
    }
    // In the pod and not in the namespace's default ServiceAccount: that is created some time after its
    // namespace, and a pod created before the ServiceAccount is changed could never pull.
    if runs_app && environment.pull_secret.is_some() {
        let secrets = pod.entry("imagePullSecrets").or_insert_with(|| json!([]));
        if let Some(secrets) = secrets.as_array_mut() {
            secrets.push(json!({ "name": pull_secret::NAME }));
        }
    }
}

/// Sets the preStop sleep to the proxy propagation delay, so that a terminating pod serves while proxies
/// may still route to it; removes the sleep if there is no delay.
fn set_pre_stop_sleep(container: &mut Map<String, Value>, propagation: u64) {
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
mod tests {
    use super::*;
    use crate::fixture::environment;
    use crate::kubernetes::apply;

    fn deployment(image: &str, policy: &str) -> Value {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "kubeapp", "image": image, "imagePullPolicy": policy},
            {"name": "other", "image": "nginx", "imagePullPolicy": "Never"}]}}}})
    }

    #[test]
    fn image_name_and_pull_policy_are_set() {
        let mut environment = environment();
        environment.images[0].name = "europe-docker.pkg.dev/p/r/app:1.0".into();
        environment.pull_policy = "Always".into();
        let mut object = deployment("kubeapp:1.0", "IfNotPresent");
        adapt(&mut object, &environment);
        assert_eq!(object, deployment("europe-docker.pkg.dev/p/r/app:1.0", "Always"));
    }

    #[test]
    fn pre_stop_sleep_follows_the_propagation_delay() {
        let mut environment = environment();
        for (seconds, lifecycle) in
            [(0, Value::Null), (7, json!({"preStop": {"sleep": {"seconds": 7}}}))]
        {
            environment.timeouts.propagation = seconds;
            for file in ["lb/app-production.yml", "ingress/app-canary.yml"] {
                let adapted = apply::manifests(&environment, file).unwrap().remove(0).object;
                let container = &adapted["spec"]["template"]["spec"]["containers"][0];
                assert_eq!(container["lifecycle"], lifecycle, "{file}");
            }
        }
        // Hooks other than a sleep are not touched.
        let mut other = deployment("kubeapp:1.0", "Never");
        let hook = json!({"preStop": {"exec": {"command": ["/bye"]}}});
        other["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = hook.clone();
        adapt(&mut other, &environment);
        assert_eq!(other["spec"]["template"]["spec"]["containers"][0]["lifecycle"], hook);
    }

    #[test]
    fn pull_secret_is_added_to_existing_ones() {
        let mut environment = environment();
        environment.pull_secret = Some("/secret".into());
        let mut object = deployment("kubeapp:1.0", "Always");
        object["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
        adapt(&mut object, &environment);
        assert_eq!(
            object["spec"]["template"]["spec"]["imagePullSecrets"],
            json!([{"name": "mine"}, {"name": "kubeapp-registry"}])
        );
        for other in [json!({"spec": {"containers": [{"image": "nginx"}]}}), json!({"spec": {}})] {
            let mut adapted = other.clone();
            adapt(&mut adapted, &environment);
            assert_eq!(adapted, other);
        }
    }
}
