//! Authentication of service account tokens, for requests and for `TokenReview`. A token is valid as long as the
//! objects in its claims exist: its account, and the pod, secret or node that it is bound to.

pub(crate) mod request;
pub(crate) mod signer;
pub(crate) mod user;

use crate::{
    fields::strings,
    resources::{
        resource_type::ResourceType,
        types::{node, pod, secret, service_account},
    },
    state::ServerState,
    store::{Key, Object},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use user::{AUTHENTICATED, User};

/// The issuer of tokens and their default audience.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Seconds for which an object that is being deleted still counts, so that a pod can use its token while it ends.
const DELETION_LEEWAY: i64 = 60;

/// Returns the user of a token that is valid for the API itself.
pub(crate) fn authenticate(state: &ServerState, token: &str) -> Option<User> {
    recognize(state, token, &[ISSUER.to_owned()]).map(|(user, _)| user)
}

/// Returns the user of a token, and those of the audiences that it is valid for; `None` if it is for none of them.
fn recognize(
    state: &ServerState,
    token: &str,
    audiences: &[String],
) -> Option<(User, Vec<String>)> {
    let claims = state.signer.claims(token)?;
    let now = Timestamp::now().as_second();
    let second = |name: &str| claims[name].as_i64();
    if claims["iss"] != ISSUER || now >= second("exp")? || now < second("nbf")? {
        return None;
    }
    let valid_for = common_audiences(&claims["aud"], audiences);
    if valid_for.is_empty() {
        return None;
    }
    let own = &claims["kubernetes.io"];
    let namespace = own["namespace"].as_str()?;
    let account = &own["serviceaccount"];
    check_exists(state, &service_account::RESOURCE, namespace, account, now)?;
    let mut extra = BTreeMap::new();
    if let Some(id) = claims["jti"].as_str() {
        let name = "authentication.kubernetes.io/credential-id".to_owned();
        extra.insert(name, vec![format!("JTI={id}")]);
    }
    for (kind, resource) in
        [("pod", &pod::RESOURCE), ("secret", &secret::RESOURCE), ("node", &node::RESOURCE)]
    {
        let Some(bound) = own.get(kind) else { continue };
        let namespace = if kind == "node" { "" } else { namespace };
        // The node of a bound pod is information; the token is not bound to it.
        if kind != "node" || own.get("pod").is_none() {
            check_exists(state, resource, namespace, bound, now)?;
        }
        if kind != "secret" {
            for field in ["name", "uid"] {
                let name = format!("authentication.kubernetes.io/{kind}-{field}");
                extra.insert(name, bound[field].as_str().map(str::to_owned).into_iter().collect());
            }
        }
    }
    let mut groups = user::service_account_groups(namespace);
    groups.push(AUTHENTICATED.to_owned());
    let user = User {
        name: user::service_account_user(namespace, account["name"].as_str()?),
        uid: account["uid"].as_str().unwrap_or_default().to_owned(),
        groups,
        extra,
    };
    Some((user, valid_for))
}

/// Returns the audiences that the token names, too.
fn common_audiences(named: &Value, audiences: &[String]) -> Vec<String> {
    let named = strings(named);
    audiences.iter().filter(|audience| named.contains(audience)).cloned().collect()
}

/// Checks that an object named in the claims still exists, with the same uid, and is not deleted for longer than
/// the leeway.
fn check_exists(
    state: &ServerState,
    resource: &ResourceType,
    namespace: &str,
    claimed: &Value,
    now: i64,
) -> Option<()> {
    let name = claimed["name"].as_str()?;
    let found = object(state, resource, namespace, name)?;
    let deleted = found.value["metadata"]["deletionTimestamp"].as_str();
    let deleted: Option<Timestamp> = deleted.and_then(|at| at.parse().ok());
    let over = deleted.is_some_and(|at| at.as_second() + DELETION_LEEWAY < now);
    (found.value["metadata"]["uid"] == claimed["uid"] && !over).then_some(())
}

/// Finds an object that a token may name.
pub(crate) fn object(
    state: &ServerState,
    resource: &ResourceType,
    namespace: &str,
    name: &str,
) -> Option<Arc<Object>> {
    let key = Key {
        resource: resource.storage_resource(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    state.store.get(&key)
}

/// Returns the status of a `TokenReview`.
pub(crate) fn review(state: &ServerState, spec: &Value) -> Value {
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let token = spec["token"].as_str().unwrap_or_default();
    match recognize(state, token, &audiences) {
        Some((user, valid_for)) => {
            json!({ "authenticated": true, "user": user.info(), "audiences": valid_for })
        }
        None => json!({ "user": {}, "error": "invalid bearer token" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_audiences_are_an_intersection() {
        let requested = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(common_audiences(&json!(["c", "x", "a"]), &requested), ["a", "c"]);
        assert!(common_audiences(&json!(["x"]), &requested).is_empty());
        assert!(common_audiences(&Value::Null, &requested).is_empty());
    }
}
