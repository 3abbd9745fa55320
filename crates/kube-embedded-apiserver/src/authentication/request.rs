//! Authentication of requests that come over the network: by client certificate, by bearer token, or as the anonymous
//! user.

use crate::{
    authentication::{self, user::User},
    state::ServerState,
};
use http::{HeaderMap, header};
use std::sync::Arc;

/// Returns the user of a request; `None` if its credentials are invalid or ambiguous. The server's authority signs the
/// administrator's certificate only, so a client that has one is the administrator.
pub(crate) fn authenticate(
    state: &ServerState,
    headers: &HeaderMap,
    has_certificate: bool,
    admin_token: &str,
) -> Option<Arc<User>> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let first = given.next();
    if given.next().is_some() {
        // Two proxies on the way may each look at another one.
        return None;
    }
    if has_certificate {
        return Some(User::admin().clone());
    }
    let Some(first) = first else { return Some(User::anonymous().clone()) };
    match bearer(first.to_str().ok()?) {
        None => Some(User::anonymous().clone()),
        Some(token) if is_same(token, admin_token) => Some(User::admin().clone()),
        Some(token) => authentication::authenticate(state, token).map(Arc::new),
    }
}

/// Returns the token of an `Authorization` header; `None` if it has another scheme, which counts as no credentials, as
/// in Kubernetes (`bearertoken.AuthenticateRequest`).
fn bearer(header: &str) -> Option<&str> {
    let mut parts = header.trim().splitn(3, ' ');
    let scheme = parts.next().unwrap_or_default();
    let token = parts.next().filter(|token| !token.is_empty())?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Compares tokens in constant time.
fn is_same(bearer: &str, token: &str) -> bool {
    bearer.len() == token.len()
        && bearer.bytes().zip(token.bytes()).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_scheme_is_case_insensitive() {
        for (header, token) in [
            ("Bearer t", Some("t")),
            ("bearer t", Some("t")),
            (" BEARER t ", Some("t")),
            ("Bearer t more", Some("t")),
            ("Bearer", None),
            ("Bearer  t", None),
            ("Basic dTpw", None),
            ("", None),
        ] {
            assert_eq!(bearer(header), token, "{header:?}");
        }
    }
}
