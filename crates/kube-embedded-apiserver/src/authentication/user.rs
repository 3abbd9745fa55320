//! The user of a request (`k8s.io/apiserver/pkg/authentication/user`).

use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

/// The name in the administrator's certificate and the user of requests within the process.
pub(crate) const ADMIN: &str = "kubernetes-admin";
/// The user of requests without credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// The group whose members may do everything, also if no role says so.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of all users but the anonymous one.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of the anonymous user.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of all service accounts. With a colon and a namespace, that of the namespace's.
pub(crate) const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The first part of the names of service accounts as users.
pub(crate) const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// The user that makes a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct User {
    pub(crate) name: String,
    /// Empty if unknown.
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The administrator.
    pub(crate) fn admin() -> &'static Arc<Self> {
        static USER: LazyLock<Arc<User>> =
            LazyLock::new(|| Arc::new(User::named(ADMIN, &[MASTERS, AUTHENTICATED])));
        &USER
    }

    /// The user of requests without credentials.
    pub(crate) fn anonymous() -> &'static Arc<Self> {
        static USER: LazyLock<Arc<User>> =
            LazyLock::new(|| Arc::new(User::named(ANONYMOUS, &[UNAUTHENTICATED])));
        &USER
    }

    /// Returns true for the user of requests without credentials.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// A user of a name, in groups.
    pub(crate) fn named(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// Returns true for members of `system:masters`.
    pub(crate) fn is_privileged(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// Returns the user as Go prints it in messages (`%v` of `user.DefaultInfo`).
    pub(crate) fn shown(&self) -> String {
        let extra = self.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" ")));
        let extra = extra.collect::<Vec<_>>().join(" ");
        format!("&{{{} {} [{}] map[{extra}]}}", self.name, self.uid, self.groups.join(" "))
    }

    /// Returns the `UserInfo` that reviews show (`authentication.k8s.io/v1`).
    pub(crate) fn info(&self) -> Value {
        let mut info = Map::new();
        info.insert("username".into(), self.name.clone().into());
        if !self.uid.is_empty() {
            info.insert("uid".into(), self.uid.clone().into());
        }
        if !self.groups.is_empty() {
            info.insert("groups".into(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            info.insert("extra".into(), json!(self.extra));
        }
        info.into()
    }
}

/// Returns the name of a service account as a user.
pub(crate) fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// Returns the groups of a service account, without that of authenticated users.
pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

/// Returns namespace and name of a user that is a service account (`SplitUsername`).
pub(crate) fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let is_valid = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    is_valid.then_some((namespace, name))
}
