//! Roles and bindings on a whole cluster: with kubectl, with tokens over TLS, and with the controller that aggregates.

use crate::fixture::{
    self, eventually, in_time,
    kubectl::Kubectl,
    patch, post,
    service_accounts::{client_with_token, token},
};
use http::{Request, header::AUTHORIZATION};
use http_body_util::BodyExt;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    rbac::v1::{ClusterRole, PolicyRule},
};
use kube::{Api, Client, api::PostParams, client::Body};
use kube_embedded::Cluster;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Waits until the controller has aggregated the default roles, and returns the rules of one.
async fn rules(cluster: &Cluster, name: &str) -> Vec<PolicyRule> {
    let roles: Api<ClusterRole> = Api::all(cluster.client());
    // The last one to be aggregated includes the others.
    eventually("the default roles are aggregated", async || {
        roles.get("admin").await.unwrap().rules.is_some_and(|rules| rules.len() > 20)
    })
    .await;
    roles.get(name).await.unwrap().rules.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn default_roles_aggregate_the_rules_of_their_parts() {
    let cluster = fixture::cluster().await;
    let part = async |name: &str| rules(&cluster, &format!("system:aggregate-to-{name}")).await;
    let view = part("view").await;
    let edit = [part("edit").await, view.clone()].concat();
    let admin = [edit.clone(), part("admin").await].concat();
    for (name, expected) in [("view", &view), ("edit", &edit), ("admin", &admin)] {
        eventually(name, async || rules(&cluster, name).await == *expected).await;
    }
    // A new role takes part as long as it has the label.
    let extra = json!({
        "metadata": {
            "name": "extra",
            "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" },
        },
        "rules": [{ "verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"] }],
    });
    assert_eq!(post(&cluster, &format!("{RBAC}/clusterroles"), &extra).await.code, 201);
    eventually("admin has the rule", async || {
        rules(&cluster, "admin").await.len() == admin.len() + 1
    })
    .await;
    let path = format!("{RBAC}/clusterroles/extra");
    let unlabeled = json!({ "metadata": { "labels": null } });
    assert_eq!(patch(&cluster, &path, "merge-patch+json", &unlabeled).await.code, 200);
    eventually("admin has lost the rule", async || rules(&cluster, "admin").await == admin).await;
}

/// What the documentation of Kubernetes says of the roles for users.
#[tokio::test(flavor = "multi_thread")]
async fn view_edit_and_admin_allow_what_kubernetes_documents() {
    let cluster = fixture::cluster().await;
    rules(&cluster, "admin").await;
    for role in ["view", "edit", "admin", "cluster-admin"] {
        let binding = json!({
            "metadata": { "name": role },
            "roleRef": { "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "User", "name": role }],
        });
        let path = format!("{RBAC}/namespaces/default/rolebindings");
        assert_eq!(post(&cluster, &path, &binding).await.code, 201);
    }
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client());
    let may = async |user: &str, verb: &str, group: &str, resource: &str, namespace: &str| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = ResourceAttributes {
            verb: Some(verb.into()),
            group: Some(group.into()),
            resource: Some(resource.into()),
            subresource: Some(subresource.into()),
            namespace: Some(namespace.into()),
            ..Default::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.into()),
            resource_attributes: Some(attributes),
            ..Default::default()
        };
        let review = SubjectAccessReview { spec, ..Default::default() };
        in_time(reviews.create(&PostParams::default(), &review))
            .await
            .unwrap()
            .status
            .unwrap()
            .allowed
    };
    let rbac = "rbac.authorization.k8s.io";
    for (verb, group, resource, allowed) in [
        ("get", "", "pods", [true; 4]),
        ("get", "", "pods/log", [true; 4]),
        ("list", "apps", "deployments", [true; 4]),
        ("watch", "networking.k8s.io", "ingresses", [true; 4]),
        ("get", "", "namespaces", [true; 4]),
        ("get", "", "secrets", [false, true, true, true]),
        ("get", "coordination.k8s.io", "leases", [false, true, true, true]),
        ("create", "", "pods", [false, true, true, true]),
        ("create", "", "pods/exec", [false, true, true, true]),
        ("get", "", "pods/portforward", [false, true, true, true]),
        ("deletecollection", "apps", "deployments", [false, true, true, true]),
        ("patch", "apps", "deployments/scale", [false, true, true, true]),
        ("create", "", "serviceaccounts/token", [false, true, true, true]),
        ("impersonate", "", "serviceaccounts", [false, true, true, true]),
        ("create", "", "pods/eviction", [false, true, true, true]),
        ("create", rbac, "roles", [false, false, true, true]),
        ("create", rbac, "rolebindings", [false, false, true, true]),
        ("create", "authorization.k8s.io", "localsubjectaccessreviews", [false, false, true, true]),
        ("escalate", rbac, "roles", [false, false, false, true]),
        ("bind", rbac, "clusterroles", [false, false, false, true]),
        ("update", "", "pods/status", [false, false, false, true]),
        ("create", "", "resourcequotas", [false, false, false, true]),
        ("create", "", "endpoints", [false, false, false, true]),
        ("create", "discovery.k8s.io", "endpointslices", [false, false, false, true]),
        ("delete", "", "namespaces", [false, false, false, true]),
        ("get", "", "nodes", [false, false, false, true]),
        ("get", "example.com", "things", [false, false, false, true]),
        ("use", "any.group", "anything/below", [false, false, false, true]),
    ] {
        for (user, allowed) in ["view", "edit", "admin", "cluster-admin"].iter().zip(allowed) {
            let what = format!("{user} {verb} {group}/{resource}");
            assert_eq!(may(user, verb, group, resource, "default").await, allowed, "{what}");
            // The binding is for one namespace.
            assert!(!may(user, verb, group, resource, "kube-system").await, "{what}");
            assert!(!may(user, verb, group, resource, "").await, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_manages_roles_and_asks_what_is_allowed() {
    let cluster = fixture::cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    rules(&cluster, "admin").await;
    let user = kubectl.line("auth whoami").await;
    assert!(user.contains("kubernetes-admin") && user.contains("system:masters"), "{user}");
    for (line, created) in [
        (
            "create role reader --verb=get,list --resource=pods,pods/log",
            "role.rbac.authorization.k8s.io/reader",
        ),
        (
            "create rolebinding bob-reads --role=reader --user=bob",
            "rolebinding.rbac.authorization.k8s.io/bob-reads",
        ),
        (
            "create rolebinding ann-edits --clusterrole=edit --serviceaccount=default:ann",
            "rolebinding.rbac.authorization.k8s.io/ann-edits",
        ),
        (
            "create clusterrole nodes --verb=get --resource=nodes --resource-name=node-1",
            "clusterrole.rbac.authorization.k8s.io/nodes",
        ),
        (
            "create clusterrole metrics --verb=get --non-resource-url=/metrics",
            "clusterrole.rbac.authorization.k8s.io/metrics",
        ),
        (
            "create clusterrolebinding devs --clusterrole=nodes --group=devs",
            "clusterrolebinding.rbac.authorization.k8s.io/devs",
        ),
    ] {
        assert_eq!(kubectl.line(line).await, format!("{created} created\n"), "kubectl {line}");
    }
    for (line, allowed) in [
        ("auth can-i get pods", true),
        ("auth can-i * *", true),
        ("auth can-i get pods --as=bob", true),
        ("auth can-i get pods --subresource=log --as=bob", true),
        ("auth can-i get pods --as=bob -n kube-system", false),
        ("auth can-i delete pods --as=bob", false),
        ("auth can-i create deployments.apps --as=system:serviceaccount:default:ann", true),
        ("auth can-i create roles --as=system:serviceaccount:default:ann", false),
        ("auth can-i get nodes/node-1 --as=eve --as-group=devs", true),
        ("auth can-i get nodes/node-2 --as=eve --as-group=devs", false),
        ("auth can-i get /version --as=eve", true),
        ("auth can-i get /metrics --as=eve", false),
    ] {
        // `no` comes with exit code 1.
        let answer = kubectl.try_line(line, "").await;
        assert_eq!(answer.is_ok_and(|text| text.contains("yes")), allowed, "kubectl {line}");
    }
    let list = kubectl.line("auth can-i --list --as=bob").await;
    let row = |words: &[&str]| {
        list.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words)
    };
    assert!(row(&["pods", "[]", "[]", "[get", "list]"]), "{list}");
    assert!(
        row(&["selfsubjectaccessreviews.authorization.k8s.io", "[]", "[]", "[create]"]),
        "{list}"
    );
    assert!(row(&["[/api/*]", "[]", "[get]"]) && !list.contains("secrets"), "{list}");
    let refused = kubectl.try_line("get secrets --as=bob", "").await.unwrap_err();
    let expected = "Error from server (Forbidden): secrets is forbidden: User \"bob\" cannot list \
                    resource \"secrets\" in API group \"\" in the namespace \"default\"\n";
    assert_eq!(refused, expected);
    assert!(kubectl.line("get pods --as=bob").await.is_empty());
    let wide = kubectl.line("get rolebindings -o wide").await;
    let cells = |name: &str| -> Vec<String> {
        let line = wide.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(cells("NAME"), ["NAME", "ROLE", "AGE", "USERS", "GROUPS", "SERVICEACCOUNTS"]);
    assert_eq!((&*cells("bob-reads")[1], &*cells("bob-reads")[3]), ("Role/reader", "bob"));
    assert_eq!(cells("ann-edits")[3], "default/ann");
    let described = kubectl.line("describe clusterrole view").await;
    assert!(described.contains("endpointslices.discovery.k8s.io"), "{described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_auth_reconcile_creates_and_extends_roles() {
    let cluster = fixture::cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let rule = |verb: &str| json!([{ "verbs": [verb], "apiGroups": [""], "resources": ["pods"] }]);
    let role = |verb: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": { "name": "r", "namespace": "default" },
            "rules": rule(verb),
        })
    };
    for verb in ["get", "list"] {
        let output = kubectl.line_with_stdin("auth reconcile -f -", &role(verb).to_string()).await;
        assert!(output.contains("role.rbac.authorization.k8s.io/r reconciled"), "{output}");
    }
    let verbs = kubectl.line("get role r -o jsonpath={.rules[*].verbs[*]}").await;
    assert_eq!(verbs, "get list");
    // A user who has no permissions cannot create some.
    let line = "create role more --verb=get --resource=pods --as=eve";
    let refused = kubectl.try_line(line, "").await.unwrap_err();
    assert!(refused.contains("cannot create resource \"roles\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn service_account_may_do_nothing_but_discovery_until_it_is_bound() {
    let cluster = fixture::cluster().await;
    let client = client_with_token(&cluster, &token(&cluster, "default").await).await;
    let code = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        in_time(client.send(request)).await.unwrap().status().as_u16()
    };
    for path in ["/version", "/api", "/apis", "/api/v1", "/apis/apps/v1", "/openapi/v3", "/healthz"]
    {
        assert_eq!(code("GET", path).await, 200, "{path}");
    }
    let pods = "/api/v1/namespaces/default/pods";
    for (method, path) in [
        ("GET", pods),
        ("POST", pods),
        ("DELETE", pods),
        ("GET", "/api/v1/namespaces/default/secrets"),
        ("GET", "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt"),
        ("GET", "/api/v1/namespaces"),
        ("GET", "/api/v1/nodes"),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token"),
        ("POST", "/api/v1/namespaces/default/pods/p/exec"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
        ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ("GET", "/metrics"),
    ] {
        assert_eq!(code(method, path).await, 403, "{method} {path}");
    }
    let binding = json!({
        "metadata": { "name": "b" },
        "roleRef": { "kind": "ClusterRole", "name": "system:aggregate-to-view" },
        "subjects": [{ "kind": "ServiceAccount", "name": "default" }],
    });
    let path = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(post(&cluster, &path, &binding).await.code, 201);
    assert_eq!(code("GET", pods).await, 200);
    assert_eq!((code("DELETE", pods).await, code("GET", "/api/v1/pods").await), (403, 403));
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_scheme_and_authorization_header_are_read_as_in_kubernetes() {
    let cluster = fixture::cluster().await;
    let anonymous = client_with_token(&cluster, "").await;
    let token = token(&cluster, "default").await;
    let whoami = async |headers: &[String]| {
        let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
        for header in headers {
            request = request.header(AUTHORIZATION, header);
        }
        let request = request.body(Body::from(b"{}".to_vec())).unwrap();
        let response = in_time(anonymous.send(request)).await.unwrap();
        let code = response.status().as_u16();
        let bytes = in_time(response.into_body().collect()).await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let name = &body["status"]["userInfo"]["username"];
        (code, name.as_str().unwrap_or_default().to_owned())
    };
    let account = "system:serviceaccount:default:default".to_owned();
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        assert_eq!(
            whoami(&[format!("{scheme} {token}")]).await,
            (201, account.clone()),
            "{scheme}"
        );
    }
    let twice = [format!("Bearer {token}"), format!("Bearer {token}")];
    assert_eq!(whoami(&twice).await.0, 401);
    assert_eq!(whoami(&[format!("Bearer {token}x")]).await.0, 401);
    // Other schemes are no credentials, and the anonymous user may not ask who it is.
    assert_eq!(whoami(&["Basic dTpw".to_owned()]).await.0, 403);
    assert_eq!(whoami(&[]).await.0, 403);
}

/// Prints what a request of a service account with many bindings around it costs. No assertion on time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; see docs/kubernetes.md"]
async fn measure_requests_of_service_accounts() {
    let cluster = fixture::cluster().await;
    let account = client_with_token(&cluster, &token(&cluster, "default").await).await;
    let binding = |n: usize| {
        json!({
            "metadata": { "name": format!("b{n}") },
            "roleRef": { "kind": "ClusterRole", "name": "view" },
            "subjects": [{ "kind": "ServiceAccount", "name": format!("a{n}"), "namespace": "default" }],
        })
    };
    for n in 0..2000 {
        let path = format!("{RBAC}/clusterrolebindings");
        assert_eq!(post(&cluster, &path, &binding(n)).await.code, 201);
    }
    let p50 = async |client: &Client| {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..2000 {
            let request = Request::get("/api/v1").body(Body::empty()).unwrap();
            let start = Instant::now();
            let response = client.send(request).await.unwrap();
            response.into_body().collect().await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        times[times.len() / 2]
    };
    let admin =
        client_with_token(&cluster, &fixture::service_accounts::admin_token(&cluster)).await;
    println!("admin {:?}, service account {:?}", p50(&admin).await, p50(&account).await);
}
