//! Requests of users who may not do everything.

use super::*;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

fn user(name: &str, groups: &[&str]) -> Arc<User> {
    let mut groups = groups.to_vec();
    groups.push("system:authenticated");
    Arc::new(User::named(name, &groups))
}

/// Creates an object as the administrator.
async fn create(api: &Api, path: &str, object: Value) {
    let (code, body) = send(api, Method::POST, path, object).await;
    assert_eq!(code, StatusCode::CREATED, "{body}");
}

/// Gives a user a cluster role with these rules.
async fn grant(api: &Api, user: &str, rules: Value) {
    let metadata = json!({ "name": user });
    let role = json!({ "metadata": metadata, "rules": rules });
    create(api, &format!("{RBAC}/clusterroles"), role).await;
    let binding = json!({
        "metadata": metadata,
        "roleRef": { "kind": "ClusterRole", "name": user },
        "subjects": [{ "kind": "User", "name": user }],
    });
    create(api, &format!("{RBAC}/clusterrolebindings"), binding).await;
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({ "verbs": verbs, "apiGroups": [group], "resources": resources })
}

#[tokio::test]
async fn user_without_roles_is_refused_in_the_words_of_kubernetes() {
    let api = api();
    let account = user(
        "system:serviceaccount:default:default",
        &["system:serviceaccounts", "system:serviceaccounts:default"],
    );
    let who = "User \"system:serviceaccount:default:default\" cannot";
    for (method, path, message) in [
        (
            "GET",
            "/api/v1/namespaces/default/pods",
            "pods is forbidden: WHO list resource \"pods\" in API group \"\" in the namespace \
             \"default\"",
        ),
        (
            "GET",
            "/api/v1/pods?watch=true",
            "pods is forbidden: WHO watch resource \"pods\" in API group \"\" at the cluster scope",
        ),
        (
            "DELETE",
            "/apis/apps/v1/namespaces/default/deployments",
            "deployments.apps is forbidden: WHO deletecollection resource \"deployments\" in API \
             group \"apps\" in the namespace \"default\"",
        ),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/default/deployments/d/scale",
            "deployments.apps \"d\" is forbidden: WHO patch resource \"deployments/scale\" in API \
             group \"apps\" in the namespace \"default\"",
        ),
        (
            "POST",
            "/api/v1/namespaces/default/pods/p/exec",
            "pods \"p\" is forbidden: WHO create resource \"pods/exec\" in API group \"\" in the \
             namespace \"default\"",
        ),
        (
            "PUT",
            "/api/v1/nodes/n/status",
            "nodes \"n\" is forbidden: WHO update resource \"nodes/status\" in API group \"\" at the \
             cluster scope",
        ),
        (
            "GET",
            "/apis/no.such/v1/things",
            "things.no.such is forbidden: WHO list resource \"things\" in API group \"no.such\" at \
             the cluster scope",
        ),
        (
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            "subjectaccessreviews.authorization.k8s.io is forbidden: WHO create resource \
             \"subjectaccessreviews\" in API group \"authorization.k8s.io\" at the cluster scope",
        ),
        ("GET", "/metrics", "forbidden: WHO get path \"/metrics\""),
        ("POST", "/version", "forbidden: WHO post path \"/version\""),
    ] {
        let method: Method = method.parse().unwrap();
        let (code, body) = send_as(&api, &account, &[], method, path, Value::Null).await;
        let message = message.replace("WHO", who);
        assert_eq!((code, &body["message"]), (StatusCode::FORBIDDEN, &json!(message)), "{path}");
        assert_eq!((&body["reason"], &body["code"]), (&json!("Forbidden"), &json!(403)));
    }
    for path in ["/version", "/api", "/api/v1", "/apis/apps/v1", "/openapi/v3", "/readyz"] {
        let (code, body) = send_as(&api, &account, &[], Method::GET, path, Value::Null).await;
        assert_eq!(code, StatusCode::OK, "{path}: {body}");
    }
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, body) = send_as(&api, &account, &[], Method::POST, whoami, json!({})).await;
    assert_eq!((code, &body["status"]["userInfo"]), (StatusCode::CREATED, &account.info()));
}

#[tokio::test]
async fn refusal_has_the_details_of_kubernetes() {
    let (api, anonymous) = (api(), User::anonymous());
    let path = "/apis/apps/v1/namespaces/a/deployments/d";
    let (_, body) = send_as(&api, anonymous, &[], Method::DELETE, path, Value::Null).await;
    let expected = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "deployments.apps \"d\" is forbidden: User \"system:anonymous\" cannot delete \
                    resource \"deployments\" in API group \"apps\" in the namespace \"a\"",
        "reason": "Forbidden",
        "details": { "name": "d", "group": "apps", "kind": "deployments" },
        "code": 403,
    });
    assert_eq!(body, expected);
    for (path, code) in [
        ("/version", StatusCode::OK),
        ("/healthz", StatusCode::OK),
        ("/readyz", StatusCode::OK),
        ("/api", StatusCode::FORBIDDEN),
        ("/apis", StatusCode::FORBIDDEN),
        ("/", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(send_as(&api, anonymous, &[], Method::GET, path, Value::Null).await.0, code);
    }
}

#[tokio::test]
async fn rule_is_for_its_verbs_namespace_and_names() {
    let api = api();
    let bob = user("bob", &[]);
    let rules = json!([
        rule(&["get", "list"], "", &["configmaps"]),
        { "verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"],
          "resourceNames": ["mine"] },
    ]);
    let role = json!({ "metadata": { "name": "r" }, "rules": rules });
    create(&api, &format!("{RBAC}/namespaces/default/roles"), role).await;
    let binding = json!({
        "metadata": { "name": "b" },
        "roleRef": { "kind": "Role", "name": "r" },
        "subjects": [{ "kind": "User", "name": "bob" }],
    });
    create(&api, &format!("{RBAC}/namespaces/default/rolebindings"), binding).await;
    for (method, path, code) in [
        ("GET", "default/configmaps", 200),
        ("GET", "default/configmaps/none", 404),
        ("GET", "other/configmaps", 403),
        ("DELETE", "default/configmaps/none", 403),
        ("GET", "default/secrets/mine", 404),
        ("GET", "default/secrets/other", 403),
        ("GET", "default/secrets", 403),
        ("GET", "default/secrets?fieldSelector=metadata.name%3Dmine", 200),
        ("GET", "default/secrets?fieldSelector=metadata.name%3Dother", 403),
        ("GET", "default/secrets?watch=1&fieldSelector=metadata.name%3Dmine", 403),
    ] {
        let path = format!("/api/v1/namespaces/{path}");
        let method = method.parse().unwrap();
        let (found, body) = send_as(&api, &bob, &[], method, &path, Value::Null).await;
        assert_eq!(found.as_u16(), code, "{path}: {body}");
    }
    let all = "/api/v1/configmaps";
    assert_eq!(send_as(&api, &bob, &[], Method::GET, all, Value::Null).await.0, 403);
    // A change counts at once.
    let path = format!("{RBAC}/namespaces/default/rolebindings/b");
    assert_eq!(send(&api, Method::DELETE, &path, Value::Null).await.0, StatusCode::OK);
    let path = "/api/v1/namespaces/default/configmaps";
    assert_eq!(send_as(&api, &bob, &[], Method::GET, path, Value::Null).await.0, 403);
}

#[tokio::test]
async fn request_that_does_more_than_its_verb_needs_both_verbs() {
    let api = api();
    let bob = user("bob", &[]);
    let rules = json!([rule(&["patch"], "", &["configmaps"]), rule(&["get"], "", &["pods/exec"])]);
    grant(&api, "bob", rules).await;
    let path = "/api/v1/namespaces/default/configmaps/m?fieldManager=me";
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "a": "b" },
    });
    let (code, body) = send_as(&api, &bob, &[], Method::PATCH, path, map.clone()).await;
    let message = "configmaps \"m\" is forbidden: User \"bob\" cannot create resource \"configmaps\" \
                   in API group \"\" in the namespace \"default\"";
    assert_eq!((code, &body["message"]), (StatusCode::FORBIDDEN, &json!(message)));
    assert_eq!(send(&api, Method::PATCH, path, map.clone()).await.0, StatusCode::CREATED);
    assert_eq!(send_as(&api, &bob, &[], Method::PATCH, path, map).await.0, StatusCode::OK);
    let path = "/api/v1/namespaces/default/pods/p/exec?command=ls&stdout=1";
    let (code, body) = send_as(&api, &bob, &[], Method::GET, path, Value::Null).await;
    let message = "pods \"p\" is forbidden: User \"bob\" cannot create resource \"pods/exec\" in API \
                   group \"\" in the namespace \"default\"";
    assert_eq!((code, &body["message"]), (StatusCode::FORBIDDEN, &json!(message)));
}

#[tokio::test]
async fn impersonation_needs_permission_for_all_that_is_asked() {
    let api = api();
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let ask = async |user: &Arc<User>, headers: &[(&str, &str)]| {
        let (code, body) = send_as(&api, user, headers, Method::POST, whoami, json!({})).await;
        (code.as_u16(), body)
    };
    let (code, body) = ask(
        User::admin(),
        &[
            ("Impersonate-User", "bob"),
            ("Impersonate-Group", "devs"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "u-1"),
            ("Impersonate-Extra-Scopes", "one"),
            ("Impersonate-Extra-Scopes", "two"),
            ("Impersonate-Extra-acme.com%2FKey", "v"),
        ],
    )
    .await;
    let expected = json!({
        "username": "bob",
        "uid": "u-1",
        "groups": ["devs", "ops", "system:authenticated"],
        "extra": { "scopes": ["one", "two"], "acme.com/key": ["v"] },
    });
    assert_eq!((code, &body["status"]["userInfo"]), (201, &expected), "{body}");
    let account = "system:serviceaccount:a:robot";
    let (_, body) = ask(User::admin(), &[("Impersonate-User", account)]).await;
    let groups = ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"];
    assert_eq!(body["status"]["userInfo"], json!({ "username": account, "groups": groups }));
    let (code, body) = ask(User::admin(), &[("Impersonate-User", "system:anonymous")]).await;
    let message = "selfsubjectreviews.authentication.k8s.io is forbidden: User \"system:anonymous\" \
                   cannot create resource \"selfsubjectreviews\" in API group \
                   \"authentication.k8s.io\" at the cluster scope";
    assert_eq!((code, &body["message"]), (403, &json!(message)));

    let rules = json!([
        { "verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"],
          "resourceNames": ["bob"] },
        rule(&["impersonate"], "authentication.k8s.io", &["userextras/scopes"]),
    ]);
    grant(&api, "eve", rules).await;
    let eve = user("eve", &[]);
    let bob = ("Impersonate-User", "bob");
    assert_eq!(ask(&eve, &[bob, ("Impersonate-Extra-Scopes", "x")]).await.0, 201);
    for (headers, message) in [
        (
            vec![("Impersonate-User", "kubernetes-admin")],
            "users \"kubernetes-admin\" is forbidden: User \"eve\" cannot impersonate resource \
             \"users\" in API group \"\" at the cluster scope",
        ),
        (
            vec![bob, ("Impersonate-Group", "system:masters")],
            "groups \"system:masters\" is forbidden: User \"eve\" cannot impersonate resource \
             \"groups\" in API group \"\" at the cluster scope",
        ),
        (
            vec![bob, ("Impersonate-Extra-Other", "x")],
            "userextras.authentication.k8s.io \"x\" is forbidden: User \"eve\" cannot impersonate \
             resource \"userextras/other\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            vec![bob, ("Impersonate-Uid", "1")],
            "uids.authentication.k8s.io \"1\" is forbidden: User \"eve\" cannot impersonate resource \
             \"uids\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            vec![("Impersonate-User", account)],
            "serviceaccounts \"robot\" is forbidden: User \"eve\" cannot impersonate resource \
             \"serviceaccounts\" in API group \"\" in the namespace \"a\"",
        ),
    ] {
        let (code, body) = ask(&eve, &headers).await;
        assert_eq!((code, &body["message"]), (403, &json!(message)));
    }
    let (code, body) = ask(User::admin(), &[("Impersonate-Group", "devs")]).await;
    let message = format!(
        "Internal Server Error: \"{whoami}\": requested [{{Group  devs    }}] without impersonating \
         a user"
    );
    assert_eq!((code, &body["message"]), (500, &json!(message)));
}

#[tokio::test]
async fn role_grants_only_what_its_author_has() {
    let api = api();
    let write = ["create", "update", "patch"];
    let all = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];
    let rules = json!([
        rule(&write, "rbac.authorization.k8s.io", &all),
        rule(&["get", "list"], "", &["pods"]),
    ]);
    grant(&api, "bob", rules).await;
    let bob = user("bob", &[]);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |name: &str, verbs: &[&str]| json!({ "metadata": { "name": name }, "rules": [rule(verbs, "", &["pods"])] });
    let post = async |user: &Arc<User>, path: &str, object: Value| {
        let (code, body) = send_as(&api, user, &[], Method::POST, path, object).await;
        (code.as_u16(), body["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(post(&bob, &roles, role("a", &["get"])).await.0, 201);
    let (code, why) = post(&bob, &roles, role("b", &["get", "delete", "create"])).await;
    let expected = "roles.rbac.authorization.k8s.io \"b\" is forbidden: user \"bob\" \
                    (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
                    currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \
                    \"create\"]}";
    assert_eq!((code, &*why), (403, expected));
    // An update is checked, too, unless only the garbage collector's fields change.
    let path = format!("{roles}/a");
    let patch = async |body: Value| send_as(&api, &bob, &[], Method::PATCH, &path, body).await.0;
    let more = json!({ "rules": [rule(&["*"], "", &["pods"])] });
    assert_eq!(patch(more.clone()).await, 403);
    assert_eq!(send(&api, Method::PATCH, &path, more).await.0, 200);
    assert_eq!(patch(json!({ "metadata": { "labels": { "a": "b" } } })).await, 403);
    assert_eq!(patch(json!({ "metadata": { "finalizers": ["a.b/c"] } })).await, 200);
    // Aggregation gathers anything.
    let gathers = json!({ "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] });
    let gathers = json!({ "metadata": { "name": "g" }, "aggregationRule": gathers });
    let (code, why) = post(&bob, &format!("{RBAC}/clusterroles"), gathers).await;
    let expected = "clusterroles.rbac.authorization.k8s.io \"g\" is forbidden: must have \
                    cluster-admin privileges to use the aggregationRule";
    assert_eq!((code, &*why), (403, expected));
    // Invalid rules grant nothing, and are then refused as such.
    let empty = json!({ "metadata": { "name": "e" }, "rules": [{ "verbs": ["get"] }] });
    assert_eq!(post(&bob, &roles, empty).await.0, 422);

    let rules = json!([rule(&["create", "escalate"], "rbac.authorization.k8s.io", &["roles"])]);
    grant(&api, "eve", rules).await;
    assert_eq!(post(&user("eve", &[]), &roles, role("b", &["delete"])).await.0, 201);
}

#[tokio::test]
async fn binding_grants_only_what_its_author_has_or_may_bind() {
    let api = api();
    let rules = json!([
        rule(&["create"], "rbac.authorization.k8s.io", &["rolebindings", "clusterrolebindings"]),
        rule(&["create"], "authorization.k8s.io", &["localsubjectaccessreviews"]),
        { "verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"],
          "resources": ["clusterroles"], "resourceNames": ["system:aggregate-to-view"] },
    ]);
    grant(&api, "bob", rules).await;
    let bob = user("bob", &[]);
    let post = async |path: &str, name: &str, role: &str| {
        let binding = json!({
            "metadata": { "name": name },
            "roleRef": { "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "User", "name": "bob" }],
        });
        let (code, body) = send_as(&api, &bob, &[], Method::POST, path, binding).await;
        (code.as_u16(), body["message"].as_str().unwrap_or_default().to_owned())
    };
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let cluster = format!("{RBAC}/clusterrolebindings");
    // What every authenticated user has, and what bob may bind.
    assert_eq!(post(&bindings, "a", "system:basic-user").await.0, 201);
    assert_eq!(post(&bindings, "b", "system:aggregate-to-view").await.0, 201);
    let (code, why) = post(&cluster, "c", "cluster-admin").await;
    let expected = "clusterrolebindings.rbac.authorization.k8s.io \"c\" is forbidden: user \"bob\" \
                    (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
                    currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n\
                    {NonResourceURLs:[\"*\"], Verbs:[\"*\"]}";
    assert_eq!((code, &*why), (403, expected));
    let missing = "clusterroles.rbac.authorization.k8s.io \"none\" not found";
    assert_eq!(post(&cluster, "d", "none").await, (404, missing.to_owned()));
    // The administrator may bind what does not exist yet.
    let binding = json!({
        "metadata": { "name": "e" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "none" },
    });
    create(&api, &bindings, binding).await;
    let other = json!({ "roleRef": { "name": "other" } });
    let (code, body) = send(&api, Method::PATCH, &format!("{bindings}/e"), other).await;
    let expected = "RoleBinding.rbac.authorization.k8s.io \"e\" is invalid: roleRef: Invalid value: \
                    {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"other\"}: \
                    cannot change roleRef";
    assert_eq!((code.as_u16(), &body["message"]), (422, &json!(expected)));
}

#[tokio::test]
async fn access_review_says_what_is_allowed_and_why() {
    let api = api();
    grant(&api, "bob", json!([rule(&["get"], "", &["pods", "pods/log"])])).await;
    let bob = user("bob", &[]);
    let pods = |verb: &str| json!({ "verb": verb, "resource": "pods", "namespace": "default" });
    let reason =
        "RBAC: allowed by ClusterRoleBinding \"bob\" of ClusterRole \"bob\" to User \"bob\"";
    let admin = User::admin();
    for (as_user, review, spec, status) in [
        (
            &bob,
            "selfsubjectaccessreviews",
            json!({ "resourceAttributes": pods("get") }),
            json!({ "allowed": true, "reason": reason }),
        ),
        (
            &bob,
            "selfsubjectaccessreviews",
            json!({ "resourceAttributes": pods("list") }),
            json!({ "allowed": false }),
        ),
        (
            admin,
            "selfsubjectaccessreviews",
            json!({ "resourceAttributes": { "verb": "*", "group": "*", "resource": "*" } }),
            json!({ "allowed": true }),
        ),
        (
            admin,
            "subjectaccessreviews",
            json!({ "user": "bob", "resourceAttributes": pods("get") }),
            json!({ "allowed": true, "reason": reason }),
        ),
        (
            admin,
            "subjectaccessreviews",
            json!({ "groups": ["system:masters"], "resourceAttributes": pods("delete") }),
            json!({ "allowed": true }),
        ),
        (
            admin,
            "subjectaccessreviews",
            json!({
                "user": "x",
                "groups": ["system:unauthenticated"],
                "nonResourceAttributes": { "path": "/version", "verb": "get" },
            }),
            json!({
                "allowed": true,
                "reason": "RBAC: allowed by ClusterRoleBinding \"system:public-info-viewer\" of \
                           ClusterRole \"system:public-info-viewer\" to Group \
                           \"system:unauthenticated\"",
            }),
        ),
        (
            admin,
            "namespaces/default/localsubjectaccessreviews",
            json!({ "user": "bob", "resourceAttributes": pods("get") }),
            json!({ "allowed": true, "reason": reason }),
        ),
    ] {
        let path = format!("{REVIEWS}/{review}");
        let body = json!({ "spec": spec });
        let (code, body) = send_as(&api, as_user, &[], Method::POST, &path, body).await;
        assert_eq!((code, &body["status"]), (StatusCode::CREATED, &status), "{body}");
        assert_eq!(body["spec"], spec);
    }
}

#[tokio::test]
async fn invalid_access_review_is_refused() {
    let api = api();
    let pods = json!({ "verb": "get", "resource": "pods", "namespace": "default" });
    let path = json!({ "path": "/", "verb": "get" });
    let local = "namespaces/default/localsubjectaccessreviews";
    for (review, body, code, message) in [
        (
            "selfsubjectaccessreviews",
            json!({ "spec": {} }),
            422,
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: \
             Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be \
             specified",
        ),
        (
            "subjectaccessreviews",
            json!({ "spec": { "resourceAttributes": pods, "nonResourceAttributes": path } }),
            422,
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: [spec.nonResourceAttributes: \
             Invalid value: {\"path\":\"/\",\"verb\":\"get\"}: cannot be specified in combination \
             with resourceAttributes, spec.user: Invalid value: \"\": at least one of user or group \
             must be specified]",
        ),
        (
            local,
            json!({ "spec": { "user": "u", "nonResourceAttributes": path } }),
            422,
            "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: \
             spec.nonResourceAttributes: Forbidden: disallowed on this kind of request",
        ),
        (
            local,
            json!({ "spec": { "user": "u", "resourceAttributes": { "namespace": "other" } } }),
            422,
            "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: \
             spec.resourceAttributes.namespace: Invalid value: \"other\": must match \
             metadata.namespace",
        ),
        ("selfsubjectrulesreviews", json!({ "spec": {} }), 400, "no namespace on request"),
        (
            "selfsubjectaccessreviews",
            json!({ "kind": "Pod", "apiVersion": "v1" }),
            400,
            "Pod in version \"v1\" cannot be handled as a SelfSubjectAccessReview: converting \
             (v1.Pod) to (authorization.SelfSubjectAccessReview): unknown conversion",
        ),
        (
            "localsubjectaccessreviews",
            json!({}),
            404,
            "the server could not find the requested resource",
        ),
    ] {
        let path = format!("{REVIEWS}/{review}");
        let (found, body) = send(&api, Method::POST, &path, body).await;
        assert_eq!((found.as_u16(), &body["message"]), (code, &json!(message)));
    }
}

#[tokio::test]
async fn rules_review_lists_the_rules_of_the_user() {
    let api = api();
    grant(&api, "bob", json!([rule(&["get"], "", &["pods"])])).await;
    let path = format!("{REVIEWS}/selfsubjectrulesreviews");
    let body = json!({ "spec": { "namespace": "default" } });
    let bob = user("bob", &[]);
    let (_, body) = send_as(&api, &bob, &[], Method::POST, &path, body).await;
    let status = &body["status"];
    assert_eq!(status["incomplete"], false);
    let resources: Vec<&Value> = status["resourceRules"].as_array().unwrap().iter().collect();
    let own = rule(&["get"], "", &["pods"]);
    let reviews = |group: &str, plural: &[&str]| rule(&["create"], group, plural);
    assert_eq!(
        resources,
        [
            &own,
            &reviews(
                "authorization.k8s.io",
                &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]
            ),
            &reviews("authentication.k8s.io", &["selfsubjectreviews"]),
        ]
    );
    let paths: Vec<&Value> = status["nonResourceRules"].as_array().unwrap().iter().collect();
    assert_eq!(paths.len(), 2, "{paths:?}");
    assert!(paths.iter().any(|rule| rule["nonResourceURLs"][1] == "/api/*"), "{paths:?}");
}
