//! Decisions on stored roles and bindings.

use super::*;
use crate::store::Key;
use serde_json::json;

/// Stores an object, or replaces it; `Null` removes it.
fn put(store: &Store, plural: &'static str, namespace: &str, name: &str, object: Value) {
    let key = Key {
        resource: Resource::fixed(GROUP, plural),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let stored = store.get(&key).map(|stored| stored.revision);
    match (stored, object) {
        (Some(revision), Value::Null) => store.remove(&key, revision, |_| json!({})),
        (Some(revision), object) => store.replace(&key, revision, |_| object),
        (None, object) => store.create(key, |_| object),
    }
    .unwrap();
}

fn rule(verb: &str, resource: &str) -> Value {
    json!({ "rules": [{ "verbs": [verb], "apiGroups": [""], "resources": [resource] }] })
}

fn bound(kind: &str, role: &str, subjects: Value) -> Value {
    json!({ "roleRef": { "kind": kind, "name": role }, "subjects": subjects })
}

fn user(kind: &str, name: &str) -> Value {
    json!({ "kind": kind, "name": name })
}

fn action<'a>(verb: &'a str, resource: &'a str, namespace: &'a str) -> Attributes<'a> {
    Attributes {
        verb: verb.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        ..Attributes::default()
    }
}

#[test]
fn binding_grants_its_role_to_its_subjects_in_its_scope() {
    let store = Store::default();
    put(&store, "clusterroles", "", "reader", rule("get", "pods"));
    put(&store, "roles", "a", "writer", rule("create", "pods"));
    let account = json!([user("ServiceAccount", "robot")]);
    put(&store, "rolebindings", "a", "one", bound("Role", "writer", account));
    let groups = json!([user("Group", "devs"), user("Group", "ops")]);
    put(&store, "rolebindings", "a", "two", bound("ClusterRole", "reader", groups));
    let bob = json!([user("User", "bob")]);
    put(&store, "clusterrolebindings", "", "all", bound("ClusterRole", "reader", bob));
    let authorizer = Authorizer::new(store);
    let robot = User::named("system:serviceaccount:a:robot", &[]);
    let dev = User::named("eve", &["devs", "ops"]);
    let bob = User::named("bob", &[]);
    for (user, verb, namespace, reason) in [
        (
            &robot,
            "create",
            "a",
            "RoleBinding \"one/a\" of Role \"writer\" to ServiceAccount \"robot/a\"",
        ),
        (&robot, "create", "b", ""),
        (&robot, "get", "a", ""),
        (&dev, "get", "a", "RoleBinding \"two/a\" of ClusterRole \"reader\" to Group \"devs\""),
        (&dev, "get", "", ""),
        (&dev, "get", "b", ""),
        (&bob, "get", "b", "ClusterRoleBinding \"all\" of ClusterRole \"reader\" to User \"bob\""),
        (&bob, "get", "", "ClusterRoleBinding \"all\" of ClusterRole \"reader\" to User \"bob\""),
        (&bob, "create", "a", ""),
    ] {
        let decision = authorizer.authorize(user, &action(verb, "pods", namespace));
        let expected = match reason {
            "" => String::new(),
            reason => format!("RBAC: allowed by {reason}"),
        };
        let what = format!("{} {verb} {namespace}", user.name);
        assert_eq!(decision.reason(user), expected, "{what}");
        assert_eq!(decision.allowed, !reason.is_empty(), "{what}");
    }
    // Two groups have the role by one binding, which counts once.
    assert_eq!(authorizer.rules_for(&dev, "a").0.len(), 1);
}

#[test]
fn change_counts_from_the_next_request_on() {
    let store = Store::default();
    let authorizer = Authorizer::new(store.clone());
    let user = User::named("system:serviceaccount:a:robot", &[]);
    let may = |verb: &str| authorizer.authorize(&user, &action(verb, "pods", "a")).allowed;
    assert!(!may("get"));
    let robot = || json!([{ "kind": "ServiceAccount", "name": "robot", "namespace": "a" }]);
    put(&store, "clusterrolebindings", "", "b", bound("ClusterRole", "r", robot()));
    let decision = authorizer.authorize(&user, &action("get", "pods", "a"));
    let missing = "RBAC: clusterrole.rbac.authorization.k8s.io \"r\" not found";
    assert_eq!((decision.allowed, decision.reason(&user)), (false, missing.to_owned()));
    put(&store, "clusterroles", "", "r", rule("get", "pods"));
    assert!(may("get") && !may("create"));
    put(&store, "clusterroles", "", "r", rule("create", "pods"));
    assert!(!may("get") && may("create"));
    put(&store, "clusterrolebindings", "", "b", bound("ClusterRole", "r", json!([])));
    assert!(!may("create"));
    put(&store, "rolebindings", "a", "b", bound("ClusterRole", "r", robot()));
    assert!(may("create"));
    put(&store, "rolebindings", "a", "b", Value::Null);
    assert!(!may("create"));
    // More changes than the history holds.
    for n in 0..3000 {
        put(&store, "roles", "a", &format!("r{}", n % 2), rule("get", "pods"));
    }
    put(&store, "rolebindings", "a", "b", bound("Role", "r1", robot()));
    assert!(may("get"));
}

#[test]
fn masters_may_do_everything() {
    let authorizer = Authorizer::new(Store::default());
    let decision = authorizer.authorize(User::admin(), &action("any", "things", ""));
    assert_eq!((decision.allowed, decision.reason(User::admin())), (true, String::new()));
}

#[test]
fn nobody_grants_more_than_they_have() {
    let store = Store::default();
    put(&store, "clusterroles", "", "reader", rule("get", "pods"));
    let bob = json!([user("User", "bob")]);
    put(&store, "rolebindings", "a", "b", bound("ClusterRole", "reader", bob));
    let authorizer = Authorizer::new(store);
    let bob = User::named("bob", &["devs", "system:authenticated"]);
    let rules = |verb: &str| PolicyRule::of_role(&rule(verb, "pods"));
    assert_eq!(authorizer.confirm_no_escalation(&bob, "a", &rules("get")), Ok(()));
    let why = authorizer.confirm_no_escalation(&bob, "b", &rules("get")).unwrap_err();
    assert_eq!(
        why,
        "user \"bob\" (groups=[\"devs\" \"system:authenticated\"]) is attempting to grant RBAC \
         permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"
    );
}
