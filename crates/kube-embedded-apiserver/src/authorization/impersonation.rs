//! Impersonation: a user acts as another one (`k8s.io/apiserver/pkg/endpoints/filters/impersonation`).

use crate::{
    authentication::user::{
        ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User, service_account_groups,
        split_service_account,
    },
    authorization::attributes::Attributes,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// The API group of uids and extra fields as resources.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Returns true if the headers ask for impersonation.
pub(super) fn is_requested(headers: &HeaderMap) -> bool {
    headers.keys().any(is_header)
}

/// Removes the headers, so that nothing behind this takes them for a request of the user that is now acting.
pub(super) fn remove_headers(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_header(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn is_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, USER | GROUP | UID) || name.starts_with(EXTRA)
}

/// Returns the user that the headers name, and what has to be allowed for it.
///
/// # Errors
/// Returns what is wrong with the headers.
pub(super) fn requested(headers: &HeaderMap) -> Result<(User, Vec<Attributes<'_>>), String> {
    let mut user = User::default();
    let mut checks = Vec::new();
    let mut is_account = None;
    let name = values(headers, USER)?.into_iter().next().unwrap_or_default();
    if !name.is_empty() {
        name.clone_into(&mut user.name);
        is_account = split_service_account(name);
        checks.push(match is_account {
            Some((namespace, account)) => {
                Attributes { namespace: namespace.into(), ..act_as("", "serviceaccounts", account) }
            }
            None => act_as("", "users", name),
        });
    }
    for group in values(headers, GROUP)? {
        checks.push(act_as("", "groups", group));
        user.groups.push(group.to_owned());
    }
    add_extra(headers, &mut user, &mut checks)?;
    if let Some(uid) = values(headers, UID)?.into_iter().next().filter(|uid| !uid.is_empty()) {
        checks.push(act_as(AUTHENTICATION, "uids", uid));
        uid.clone_into(&mut user.uid);
    }
    if user.name.is_empty() {
        let asked: Vec<String> = checks.iter().map(reference).collect();
        return Err(format!("requested [{}] without impersonating a user", asked.join(" ")));
    }
    if let Some((namespace, _)) = is_account.filter(|_| user.groups.is_empty()) {
        user.groups = service_account_groups(namespace);
    }
    add_standard_group(&mut user);
    Ok((user, checks))
}

/// Adds the fields of `Impersonate-Extra-` headers.
fn add_extra<'a>(
    headers: &'a HeaderMap,
    user: &mut User,
    checks: &mut Vec<Attributes<'a>>,
) -> Result<(), String> {
    for header in headers.keys() {
        let Some(key) = header.as_str().strip_prefix(EXTRA) else { continue };
        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
        for value in values(headers, header.as_str())? {
            let mut check = act_as(AUTHENTICATION, "userextras", value);
            check.subresource = key.clone().into();
            checks.push(check);
            user.extra.entry(key.clone()).or_default().push(value.to_owned());
        }
    }
    Ok(())
}

/// Adds the group of all authenticated users, or that of the anonymous one.
fn add_standard_group(user: &mut User) {
    let is_anonymous = user.name == ANONYMOUS;
    let has = |name: &str| user.groups.iter().any(|group| group == name);
    let group = match is_anonymous {
        true if !has(UNAUTHENTICATED) => UNAUTHENTICATED,
        false if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) => AUTHENTICATED,
        _ => return,
    };
    user.groups.push(group.to_owned());
}

fn act_as<'a>(group: &'static str, resource: &'static str, name: &'a str) -> Attributes<'a> {
    Attributes {
        verb: "impersonate".into(),
        group: group.into(),
        resource: resource.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

/// Formats what is asked for as Go formats an `ObjectReference`.
fn reference(check: &Attributes<'_>) -> String {
    let kind = match &*check.resource {
        "groups" => "Group",
        "uids" => "UID",
        _ => "UserExtra",
    };
    let version = if check.group.is_empty() { "" } else { "authentication.k8s.io/v1" };
    format!("{{{kind}  {}  {version}  {}}}", check.name, check.subresource)
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Result<Vec<&'a str>, String> {
    let text = |value: &'a HeaderValue| std::str::from_utf8(value.as_bytes());
    let values = headers.get_all(name).iter().map(text).collect::<Result<_, _>>();
    values.map_err(|_| format!("header {name} is no valid UTF-8"))
}
