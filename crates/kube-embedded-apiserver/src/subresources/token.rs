//! Tokens of service accounts: made by the `token` subresource, and known again when somebody shows
//! one. A key of the cluster's own signs them (ES256), and each is good as long as what it was made
//! for is there: its account, and the pod, secret or node that it is bound to.

use crate::{
    api::Inner,
    http::{
        body::Body,
        decode,
        output::{self, time},
        path::{Query, Target},
        status::{ApiError, ApiResult},
    },
    resources::registry,
    store::Key,
    validation::field_error::FieldError,
    verbs::{metadata, read},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// Who issues tokens, and whom they are for unless somebody says otherwise.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const PREFIX: &str = "system:serviceaccount:";
/// What admission asks for; such a token lives for a year in truth, since clients that never read
/// it again would otherwise stop an hour after their start.
const WARN_AFTER: i64 = 3607;
const YEAR: i64 = 365 * 24 * 3600;
/// A pod that is being deleted may use its token for a moment more.
const FAREWELL: i64 = 60;
/// No token of ours is as long.
const LONGEST: usize = 16 << 10;

/// Who makes a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct User(Value);

impl Default for User {
    /// The one who may do everything, and need not be named.
    fn default() -> Self {
        let groups = ["system:masters", "system:authenticated"];
        Self(json!({ "username": crate::api::USER, "groups": groups }))
    }
}

impl User {
    /// As reviews show it.
    pub(crate) fn info(&self) -> &Value {
        &self.0
    }
}

/// The key of a cluster; made when it is first needed.
#[derive(Default)]
pub(crate) struct Signer(OnceLock<Option<(EcdsaKeyPair, SystemRandom)>>);

impl Signer {
    fn key(&self) -> Option<&(EcdsaKeyPair, SystemRandom)> {
        let make = || {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok()?;
            let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).ok()?;
            Some((key, random))
        };
        self.0.get_or_init(make).as_ref()
    }

    fn sign(&self, claims: &Value) -> Option<String> {
        let (key, random) = self.key()?;
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "ES256", "typ": "JWT" })), part(claims));
        let signature = key.sign(random, text.as_bytes()).ok()?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that was signed here.
    fn claims(&self, token: &str) -> Option<Value> {
        if token.len() > LONGEST {
            return None;
        }
        let (text, signature) = token.rsplit_once('.')?;
        let (_, claims) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let (key, _) = self.key()?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
        // Whatever the header says, it is checked as ours are signed.
        public.verify(text.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

/// Whose token this is, if it is good for the API itself.
pub(crate) fn authenticate(inner: &Inner, token: &str) -> Option<User> {
    recognize(inner, token, &[ISSUER.to_owned()]).map(|(user, _)| user)
}

/// The same for these audiences, with those of them that it is good for.
fn recognize(inner: &Inner, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
    let claims = inner.signer.claims(token)?;
    let now = Timestamp::now().as_second();
    let second = |name: &str| claims[name].as_i64();
    if claims["iss"] != ISSUER || now >= second("exp")? || now < second("nbf")? {
        return None;
    }
    let good = meant(&claims["aud"], audiences);
    if good.is_empty() {
        return None;
    }
    let own = &claims["kubernetes.io"];
    let namespace = own["namespace"].as_str()?;
    let account = &own["serviceaccount"];
    still_there(inner, "serviceaccounts", namespace, account, now)?;
    let mut extra = json!({});
    if let Some(id) = claims["jti"].as_str() {
        extra["authentication.kubernetes.io/credential-id"] = json!([format!("JTI={id}")]);
    }
    for (kind, plural) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
        let Some(bound) = own.get(kind) else { continue };
        let namespace = if kind == "node" { "" } else { namespace };
        // The node of a pod is told, and not what the token is bound to.
        if kind != "node" || own.get("pod").is_none() {
            still_there(inner, plural, namespace, bound, now)?;
        }
        if kind != "secret" {
            for field in ["name", "uid"] {
                let name = format!("authentication.kubernetes.io/{kind}-{field}");
                extra[name] = json!([bound[field]]);
            }
        }
    }
    let user = User(json!({
        "username": format!("{PREFIX}{namespace}:{}", account["name"].as_str()?),
        "uid": account["uid"],
        "groups": [
            "system:serviceaccounts",
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated",
        ],
        "extra": extra,
    }));
    Some((user, good))
}

/// Those of the audiences that a token names too.
fn meant(named: &Value, audiences: &[String]) -> Vec<String> {
    let named = strings(named);
    audiences.iter().filter(|audience| named.contains(audience)).cloned().collect()
}

/// Whether an object that a token speaks of is that very one still.
fn still_there(inner: &Inner, plural: &str, namespace: &str, told: &Value, now: i64) -> Option<()> {
    let name = told["name"].as_str()?;
    let found = object(inner, plural, namespace, name)?;
    let deleted = found["metadata"]["deletionTimestamp"].as_str();
    let deleted: Option<Timestamp> = deleted.and_then(|at| at.parse().ok());
    let over = deleted.is_some_and(|at| at.as_second() + FAREWELL < now);
    (found["metadata"]["uid"] == told["uid"] && !over).then_some(())
}

fn object(inner: &Inner, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    let resource = registry::find("", "v1", plural)?;
    let key = Key {
        resource: resource.storage_resource(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    inner.store.get(&key).map(|found| found.value.clone())
}

/// `POST …/serviceaccounts/{name}/token`.
pub(crate) fn request(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    query.dry_run("CreateOptions")?;
    let account = read::find(inner, target)?;
    let asked = decode::review(headers, body)?;
    let spec = &asked["spec"];
    let seconds = lifetime(&spec["expirationSeconds"])?;
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let bound = &spec["boundObjectRef"];
    let (namespace, name) = (&target.namespace, &target.name);
    let mut own = json!({
        "namespace": namespace,
        "serviceaccount": { "name": name, "uid": account.value["metadata"]["uid"] },
    });
    if !bound.is_null() {
        bind(inner, target, bound, &mut own)?;
    }
    let now = Timestamp::now();
    let mut expires = now.as_second().saturating_add(seconds);
    let told = now + SignedDuration::from_secs(seconds);
    if seconds == WARN_AFTER && own.get("pod").is_some() && audiences == [ISSUER] {
        own["warnafter"] = expires.into();
        expires = now.as_second() + YEAR;
    }
    let claims = json!({
        "aud": audiences,
        "exp": expires,
        "iat": now.as_second(),
        "iss": ISSUER,
        "jti": metadata::uid(),
        "kubernetes.io": own,
        "nbf": now.as_second(),
        "sub": format!("{PREFIX}{namespace}:{name}"),
    });
    let token = inner.signer.sign(&claims);
    let token = token.ok_or_else(|| ApiError::internal("the token cannot be signed"))?;
    let answer = json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": { "name": name, "namespace": namespace, "creationTimestamp": time(now) },
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": bound,
        },
        "status": { "token": token, "expirationTimestamp": time(told) },
    });
    Ok(output::respond_json(StatusCode::CREATED, &answer))
}

fn strings(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn lifetime(asked: &Value) -> ApiResult<i64> {
    let why = match asked.as_i64() {
        None if asked.is_null() => return Ok(3600),
        Some(600..=0x1_0000_0000) => return Ok(asked.as_i64().unwrap_or(3600)),
        Some(..600) => "may not specify a duration less than 10 minutes",
        Some(_) => "may not specify a duration larger than 2^32 seconds",
        None => "must be a number",
    };
    Err(ApiError::invalid_token_request(FieldError {
        reason: "FieldValueInvalid",
        field: "spec.expirationSeconds".into(),
        message: format!("Invalid value: {asked}: {why}"),
    }))
}

/// Checks what a token shall be bound to, and says so in its claims.
fn bind(inner: &Inner, target: &Target, bound: &Value, own: &mut Value) -> ApiResult<()> {
    let (kind, name) = (bound["kind"].as_str(), bound["name"].as_str().unwrap_or_default());
    let (field, plural, namespace) = match kind {
        Some("Pod") => ("pod", "pods", &*target.namespace),
        Some("Secret") => ("secret", "secrets", &*target.namespace),
        Some("Node") => ("node", "nodes", ""),
        other => {
            let other = other.unwrap_or_default();
            let why = format!("cannot bind token to object of type {other:?}");
            return Err(ApiError::bad_request(why));
        }
    };
    let Some(found) = object(inner, plural, namespace, name) else {
        return Err(match registry::find("", "v1", plural) {
            Some(kind) => ApiError::not_found(kind, name),
            None => ApiError::no_such_resource(),
        });
    };
    let uid = found["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(given) = bound["uid"].as_str()
        && !given.is_empty()
        && given != uid
    {
        let why = format!(
            "the UID in the bound object reference ({given}) does not match the UID in record. The \
             object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict_below(plural, name, &why));
    }
    if field == "pod" && found["spec"]["serviceAccountName"] != *target.name {
        let why = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different \
             serviceaccount name.",
            target.name
        );
        return Err(ApiError::bad_request(why));
    }
    own[field] = json!({ "name": name, "uid": uid });
    if let Some(node) = found["spec"]["nodeName"].as_str().filter(|_| field == "pod")
        && let Some(found) = object(inner, "nodes", "", node)
    {
        own["node"] = json!({ "name": node, "uid": found["metadata"]["uid"] });
    }
    Ok(())
}

/// What a `TokenReview` is answered.
pub(crate) fn review(inner: &Inner, spec: &Value) -> Value {
    let mut audiences = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let token = spec["token"].as_str().unwrap_or_default();
    match recognize(inner, token, &audiences) {
        Some((user, good)) => {
            json!({ "authenticated": true, "user": user.info(), "audiences": good })
        }
        None => json!({ "user": {}, "error": "the token is of nobody, or not good any more" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_here_is_believed() {
        let (signer, other) = (Signer::default(), Signer::default());
        let token = signer.sign(&json!({ "sub": "me" })).unwrap();
        assert_eq!(signer.claims(&token), Some(json!({ "sub": "me" })));
        assert_eq!(other.claims(&token), None);
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"you"}"#);
        parts[1] = &forged;
        assert_eq!(signer.claims(&parts.join(".")), None);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for wrong in
            ["", ".", "..", "a.b.c", &format!("{none}.{forged}."), &"x".repeat(LONGEST + 1)]
        {
            assert_eq!(signer.claims(wrong), None, "{wrong:.40}");
        }
    }

    #[test]
    fn audiences_are_those_both_name() {
        let asked = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(meant(&json!(["c", "x", "a"]), &asked), ["a", "c"]);
        assert!(meant(&json!(["x"]), &asked).is_empty());
        assert!(meant(&Value::Null, &asked).is_empty());
    }

    #[test]
    fn lifetimes_have_bounds() {
        assert_eq!(lifetime(&Value::Null).unwrap(), 3600);
        assert_eq!(lifetime(&json!(600)).unwrap(), 600);
        let error = lifetime(&json!(599)).unwrap_err().to_value();
        assert_eq!(
            error["message"],
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: 599: may not specify a duration less than 10 minutes"
        );
        assert!(lifetime(&json!(1_i64 << 33)).is_err() && lifetime(&json!("1h")).is_err());
    }
}
