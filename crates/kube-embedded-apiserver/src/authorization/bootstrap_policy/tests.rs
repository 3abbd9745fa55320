//! Facts of Kubernetes 1.36 that the policy is judged by.

use super::*;
use crate::{
    authentication::user::{User, service_account_groups, service_account_user},
    authorization::{attributes::Attributes, authorizer::Authorizer},
    resources::registry,
};
use std::collections::BTreeSet;

#[test]
fn objects_are_unique_and_valid() {
    let objects = objects();
    let of = |plural: &str| objects.iter().filter(|(resource, _)| *resource == plural).count();
    let counts = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"].map(of);
    assert_eq!(counts, [69, 50, 7, 7]);
    let mut seen = BTreeSet::new();
    for (plural, mut object) in objects {
        let metadata = &object["metadata"];
        let name = format!("{plural} {} {}", metadata["namespace"], metadata["name"]);
        assert!(seen.insert(name.clone()), "{name}");
        let resource = registry::find(GROUP, "v1", plural).unwrap();
        assert_eq!(object["kind"], resource.kind);
        assert_eq!(resource.errors(&object, None, "", &mut Vec::new()), [], "{name}");
        // What is stored is as if a client had sent it.
        let stored = object.clone();
        resource.apply_defaults(&mut object);
        assert_eq!(object, stored, "{name}");
        assert_eq!(resource.object_schema().unknown_fields(&object), [""; 0], "{name}");
    }
}

#[test]
fn rule_of_a_line_is_that_of_kubernetes() {
    let objects = objects();
    let object = |plural: &str, name: &str| {
        let mut named = objects.iter().filter(|(_, object)| object["metadata"]["name"] == name);
        named.find(|(resource, _)| *resource == plural).unwrap().1.clone()
    };
    assert_eq!(
        object("clusterroles", "system:aggregate-to-admin"),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {
                "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
                "labels": {
                    "kubernetes.io/bootstrapping": "rbac-defaults",
                    "rbac.authorization.k8s.io/aggregate-to-admin": "true",
                },
                "name": "system:aggregate-to-admin",
            },
            "rules": [
                {
                    "apiGroups": ["authorization.k8s.io"],
                    "resources": ["localsubjectaccessreviews"],
                    "verbs": ["create"],
                },
                {
                    "apiGroups": ["rbac.authorization.k8s.io"],
                    "resources": ["rolebindings", "roles"],
                    "verbs": [
                        "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
                    ],
                },
            ],
        })
    );
    let signers = &object("clusterroles", "system:controller:certificate-controller")["rules"][2];
    assert_eq!(
        *signers,
        json!({
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["signers"],
            "resourceNames": ["kubernetes.io/kube-apiserver-client-kubelet"],
            "verbs": ["approve"],
        })
    );
    assert_eq!(
        object("clusterrolebindings", "system:controller:job-controller")["subjects"],
        json!([{ "kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system" }])
    );
    // Nodes are authorized otherwise.
    assert_eq!(object("clusterrolebindings", "system:node").get("subjects"), None);
    assert_eq!(
        object("rolebindings", "system::leader-locking-kube-scheduler")["subjects"],
        json!([
            { "apiGroup": GROUP, "kind": "User", "name": "system:kube-scheduler" },
            { "kind": "ServiceAccount", "name": "kube-scheduler", "namespace": "kube-system" },
        ])
    );
}

#[test]
fn roles_for_users_have_the_rules_of_their_parts() {
    let objects = objects();
    let rules = |name: &str| {
        let mut roles = objects.iter().filter(|(plural, _)| *plural == "clusterroles");
        let (_, role) = roles.find(|(_, role)| role["metadata"]["name"] == name).unwrap();
        role["rules"].as_array().unwrap().clone()
    };
    let [view, edit, admin] =
        ["view", "edit", "admin"].map(|name| rules(&format!("system:aggregate-to-{name}")));
    // Events are of two groups.
    for (rules, verb) in [(&view, "watch"), (&edit, "patch")] {
        let events = rules.iter().filter(|rule| rule["resources"] == json!(["events"]));
        let groups: Vec<_> = events.map(|rule| (&rule["apiGroups"], &rule["verbs"])).collect();
        assert!(matches!(groups.as_slice(), [(groups, verbs)]
            if **groups == json!(["", "events.k8s.io"])
                && verbs.as_array().unwrap().contains(&verb.into())));
    }
    assert_eq!(rules("view"), view);
    assert_eq!(rules("edit"), [edit, view].concat());
    assert_eq!(rules("admin"), [rules("edit"), admin].concat());
}

/// `VERB [GROUP|]RESOURCE[:NAME]`, or `VERB /PATH`.
fn action(text: &str) -> Attributes<'_> {
    let (verb, what) = text.split_once(' ').unwrap();
    if what.starts_with('/') {
        let path = Some(what.into());
        return Attributes { verb: verb.into(), path, ..Attributes::default() };
    }
    let (what, name) = what.split_once(':').unwrap_or((what, ""));
    let (group, resource) = match what.split_once('|') {
        Some((group, resource)) => (group, resource),
        None => ("", what),
    };
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        namespace: "kube-system".into(),
        ..Attributes::default()
    }
}

/// What users may and may not do in `kube-system` of a new cluster.
#[test]
fn default_users_have_the_permissions_of_kubernetes() {
    let store = Store::default();
    seed(&store);
    let authorizer = Authorizer::new(store);
    let account = |namespace: &str, name: &str| {
        let mut groups = service_account_groups(namespace);
        groups.push("system:authenticated".into());
        User { name: service_account_user(namespace, name), groups, ..User::default() }
    };
    let authenticated = |name: &str| User::named(name, &["system:authenticated"]);
    let cases = [
        (
            User::anonymous().as_ref().clone(),
            &["get /version", "get /healthz", "get /readyz"][..],
            &[
                "get /api",
                "get /apis/apps",
                "get /healthz/ping",
                "get /openapi/v3",
                "get /",
                "get pods:x",
                "create authorization.k8s.io|selfsubjectaccessreviews",
            ][..],
        ),
        (
            authenticated("bob"),
            &[
                "get /version",
                "get /api",
                "get /api/v1",
                "get /apis/apps/v1",
                "get /openapi/v3",
                "create authorization.k8s.io|selfsubjectaccessreviews",
                "create authorization.k8s.io|selfsubjectrulesreviews",
                "create authentication.k8s.io|selfsubjectreviews",
            ],
            &[
                "create authorization.k8s.io|subjectaccessreviews",
                "create authorization.k8s.io|localsubjectaccessreviews",
                "create authentication.k8s.io|tokenreviews",
                "impersonate users:bob",
                "get /.well-known/openid-configuration",
                "post /api",
            ],
        ),
        (
            account("default", "default"),
            &["get /api/v1", "get /openid/v1/jwks"],
            &[
                "get secrets:x",
                "create pods",
                "create pods/exec",
                "list namespaces",
                "watch pods",
                "create serviceaccounts/token",
                "get nodes",
                "create authentication.k8s.io|tokenreviews",
            ],
        ),
        (User::named("n", &["system:nodes"]), &[], &["get nodes:n", "get secrets:x"]),
        (
            User::named("m", &["system:monitoring"]),
            &[
                "get /metrics",
                "get /livez/ping",
                "get /statusz",
                "get /flagz",
                "get nodes/metrics:n",
            ],
            &["list pods", "get nodes:n"],
        ),
        (
            authenticated("system:kube-scheduler"),
            &[
                "create pods/binding",
                "list nodes",
                "update pods/status",
                "create events.k8s.io|events",
                "create coordination.k8s.io|leasecandidates",
                "update coordination.k8s.io|leases:kube-scheduler",
                "delete resource.k8s.io|resourceclaims",
                "update pods/finalizers",
                "get configmaps:extension-apiserver-authentication",
                "update persistentvolumes",
            ],
            &[
                "patch pods/finalizers",
                "get secrets:x",
                "get configmaps:kube-scheduler",
                "create pods",
                "update nodes",
            ],
        ),
        (
            authenticated("system:kube-controller-manager"),
            &[
                "list secrets",
                "watch example.com|things",
                "create serviceaccounts/token",
                "update coordination.k8s.io|leases:kube-controller-manager",
            ],
            &["get pods:x", "update configmaps:other", "create pods", "delete serviceaccounts"],
        ),
        (
            account("kube-system", "leader-election-controller"),
            &["update coordination.k8s.io|leases:kube-scheduler"],
            &["delete coordination.k8s.io|leases:x", "get configmaps:x"],
        ),
        (
            account("kube-system", "pvc-protection-controller"),
            &["update persistentvolumeclaims/status"],
            &["patch persistentvolumeclaims/status"],
        ),
        (
            account("kube-system", "node-controller"),
            &["patch nodes/status", "create events.k8s.io|events"],
            &["get coordination.k8s.io|leases:x"],
        ),
        (authenticated("system:kube-proxy"), &["watch services", "get nodes:n"], &["watch pods"]),
        (
            account("kube-system", "generic-garbage-collector"),
            &["delete example.com|things", "patch apps|deployments"],
            &["create pods", "deletecollection pods"],
        ),
        (
            account("kube-system", "namespace-controller"),
            &["deletecollection example.com|things", "update namespaces/finalize"],
            &["update pods", "patch namespaces/finalize"],
        ),
        (
            account("kube-system", "clusterrole-aggregation-controller"),
            &["escalate rbac.authorization.k8s.io|clusterroles"],
            &[
                "escalate rbac.authorization.k8s.io|roles",
                "bind rbac.authorization.k8s.io|clusterroles",
            ],
        ),
        (
            account("kube-system", "horizontal-pod-autoscaler"),
            &["update apps|deployments/scale", "update example.com|things/scale"],
            &["update apps|deployments", "update apps|deployments/status"],
        ),
        (account("kube-system", "bootstrap-signer"), &["get secrets:x"], &["update secrets:x"]),
        (account("default", "job-controller"), &[], &["create pods"]),
    ];
    for (user, allowed, refused) in cases {
        for text in allowed {
            assert!(authorizer.authorize(&user, &action(text)).allowed, "{} {text}", user.name);
        }
        for text in refused {
            assert!(!authorizer.authorize(&user, &action(text)).allowed, "{} {text}", user.name);
        }
    }
}
