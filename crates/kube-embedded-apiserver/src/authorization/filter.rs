//! Authorization in the path of requests: impersonation first (`WithImpersonation`), then the request itself
//! (`WithAuthorization`).

use crate::{
    authentication::user::User,
    authorization::{attributes::Attributes, impersonation},
    http::{
        request::Request,
        status::{ApiError, ApiResult},
    },
    state::ServerState,
};
use http::request::Parts;
use std::sync::Arc;

/// Checks that the user of a request, or the one that it impersonates, may make it. Requests within the process are
/// those of the administrator.
pub(crate) fn check(state: &ServerState, parts: &mut Parts) -> ApiResult<()> {
    if impersonation::is_requested(&parts.headers) {
        let user = impersonate(state, parts)?;
        parts.extensions.insert(Arc::new(user));
        impersonation::remove_headers(&mut parts.headers);
    }
    let user = user(parts);
    if user.is_privileged() {
        return Ok(());
    }
    authorize(state, user, &Attributes::of_request(&parts.method, &parts.uri))
}

/// Returns the user of a request.
pub(crate) fn user(parts: &Parts) -> &Arc<User> {
    parts.extensions.get::<Arc<User>>().unwrap_or(User::admin())
}

/// Checks that the user of a request could also make it with another verb.
pub(crate) fn check_verb<T>(
    state: &ServerState,
    request: &Request<'_, T>,
    verb: &'static str,
) -> ApiResult<()> {
    let attributes = Attributes::of_request(request.method(), &request.parts.uri);
    authorize(state, request.user, &Attributes { verb: verb.into(), ..attributes })
}

fn authorize(state: &ServerState, user: &User, action: &Attributes<'_>) -> ApiResult<()> {
    let decision = state.authorizer.authorize(user, action);
    if decision.allowed {
        return Ok(());
    }
    let reason = decision.reason(user);
    let mut why = format!("User {:?} cannot {}", user.name, action.describe());
    if !reason.is_empty() {
        why += &format!(": {reason}");
    }
    tracing::debug!(target: "apiserver::authorization", user = user.name, why, "forbidden");
    Err(ApiError::forbidden_request(&action.group, &action.resource, &action.name, &why))
}

/// Returns the user that a request acts as, if its own user may.
fn impersonate(state: &ServerState, parts: &Parts) -> ApiResult<User> {
    let requestor = user(parts);
    let (user, checks) = impersonation::requested(&parts.headers).map_err(|why| {
        // As Kubernetes, though it is the client's mistake.
        ApiError::internal(format!("Internal Server Error: {:?}: {why}", parts.uri.path()))
    })?;
    for action in &checks {
        authorize(state, requestor, action)?;
    }
    Ok(user)
}
