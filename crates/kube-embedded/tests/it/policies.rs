//! ValidatingAdmissionPolicies of a whole cluster, through kube-rs and kubectl.

use crate::fixture::{cluster, eventually, kubectl::Kubectl};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::ConfigMap,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

const MANIFESTS: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: replicas}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments, deployments/scale]}
  variables:
  - {name: replicas, expression: object.spec.replicas}
  validations:
  - expression: variables.replicas <= 3
    messageExpression: \"'%d replicas are too many'.format([variables.replicas])\"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: everywhere}
spec: {policyName: replicas, validationActions: [Deny]}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_policies_and_is_refused_by_them() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let created = kubectl.line_with_stdin("create -f -", MANIFESTS).await;
    assert_eq!(created.lines().count(), 2, "{created}");
    let applied =
        kubectl.line_with_stdin("apply --server-side --force-conflicts -f -", MANIFESTS).await;
    assert_eq!(applied.matches("serverside-applied").count(), 2, "{applied}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for (resource, heading, row) in [
        ("validatingadmissionpolicies", "NAME VALIDATIONS PARAMKIND AGE", "replicas 1 <unset>"),
        (
            "validatingadmissionpolicybindings",
            "NAME POLICYNAME PARAMREF AGE",
            "everywhere replicas <unset>",
        ),
    ] {
        let table = kubectl.line(&format!("get {resource}")).await;
        let lines: Vec<_> = table.lines().map(words).collect();
        assert_eq!(lines[0], words(heading));
        assert_eq!(lines[1][..3], words(row));
    }
    let explained = kubectl.line("explain validatingadmissionpolicies.spec.variables").await;
    assert!(explained.contains("KIND:       ValidatingAdmissionPolicy"), "{explained}");
    let create = "create deployment web --image=kubeapp:1.0 --replicas";
    let denied = |replicas: u32| {
        format!(
            "ValidatingAdmissionPolicy 'replicas' with binding 'everywhere' denied request: \
             {replicas} replicas are too many\n"
        )
    };
    let refused = format!("deployments.apps \"web\" is forbidden: {}", denied(4));
    let error = kubectl.try_line(&format!("{create}=4"), "").await.unwrap_err();
    assert!(error.ends_with(&refused), "{error}");
    kubectl.line(&format!("{create}=0")).await;
    let error = kubectl.try_line("scale deployment web --replicas=5", "").await.unwrap_err();
    // That is how kubectl shows a cause without a field.
    assert_eq!(error, format!("The deployments \"web\" is invalid: : {}", denied(5)));
    kubectl.line("scale deployment web --replicas=1").await;
    let warns = r#"{"spec":{"validationActions":["Warn"]}}"#;
    let patch =
        ["patch", "validatingadmissionpolicybinding", "everywhere", "--type=merge", "-p", warns];
    kubectl.run(&patch, "").await.unwrap();
    kubectl.line("scale deployment web --replicas=4 --dry-run=server").await;
    kubectl.line("delete validatingadmissionpolicies replicas").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_client_creates_policies_that_hold_at_once() {
    let cluster = cluster().await;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client());
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({
        "metadata": { "name": "keep" },
        "spec": {
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"],
                "resources": ["configmaps"],
            }] },
            "matchConditions": [{ "name": "kept", "expression": "has(oldObject.metadata.labels) && 'keep' in oldObject.metadata.labels" }],
            "validations": [{ "expression": "object != null", "message": "it is kept", "reason": "Forbidden" }],
        },
    }))
    .unwrap();
    let created = policies.create(&PostParams::default(), &policy).await.unwrap();
    assert_eq!(created.status.unwrap().observed_generation, Some(1));
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(json!({
        "metadata": { "name": "keep" },
        "spec": { "policyName": "keep", "validationActions": ["Deny"] },
    }))
    .unwrap();
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let map = ConfigMap {
        metadata: kube::api::ObjectMeta {
            name: Some("one".into()),
            labels: Some([("keep".to_owned(), String::new())].into()),
            ..Default::default()
        },
        ..ConfigMap::default()
    };
    maps.create(&PostParams::default(), &map).await.unwrap();
    let delete = DeleteParams::default();
    let kube::Error::Api(status) = maps.delete("one", &delete).await.unwrap_err() else { panic!() };
    assert_eq!((status.code, &*status.reason), (403, "Forbidden"));
    assert_eq!(
        status.message,
        "configmaps \"one\" is forbidden: ValidatingAdmissionPolicy 'keep' with binding 'keep' denied \
         request: it is kept"
    );
    let unlabel = Patch::Merge(json!({ "metadata": { "labels": null } }));
    maps.patch("one", &PatchParams::default(), &unlabel).await.unwrap();
    maps.delete("one", &delete).await.unwrap();
    // A policy without its object is no policy, whatever bindings are left.
    maps.create(&PostParams::default(), &map).await.unwrap();
    policies.delete("keep", &delete).await.unwrap();
    maps.delete("one", &delete).await.unwrap();
    eventually("the object is removed", async || maps.get_opt("one").await.unwrap().is_none())
        .await;
}
