//! The user of a request.

use serde_json::{Value, json};
use std::sync::LazyLock;

/// The name in the administrator's certificate and the user of requests within the process.
pub(crate) const ADMIN: &str = "kubernetes-admin";

/// The user that makes a request, as reviews show it (`authentication.k8s.io/v1 UserInfo`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct User(Value);

impl User {
    /// A user with this `UserInfo`.
    pub(crate) fn new(info: Value) -> Self {
        Self(info)
    }

    /// The administrator.
    pub(crate) fn admin() -> &'static Self {
        static USER: LazyLock<User> = LazyLock::new(|| {
            let groups = ["system:masters", "system:authenticated"];
            User(json!({ "username": ADMIN, "groups": groups }))
        });
        &USER
    }

    /// The `UserInfo`.
    pub(crate) fn info(&self) -> &Value {
        &self.0
    }
}
