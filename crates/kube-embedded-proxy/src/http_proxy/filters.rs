//! Filters of HTTP routes: header changes, redirects, rewrites and mirrors.

use super::{backend::Backend, cors::Cors};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, request, uri::PathAndQuery,
};
use std::sync::Arc;

/// The filters of a rule.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    pub(crate) request_headers: HeaderChanges,
    pub(crate) response_headers: HeaderChanges,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) cors: Option<Cors>,
}

/// Changes of header fields, in the order of the specification: set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeaderChanges {
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
    pub(crate) remove: Vec<HeaderName>,
}

/// A response that sends the client elsewhere. What is not set is that of the request.
#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    pub(crate) scheme: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) path: Option<PathRewrite>,
    pub(crate) port: Option<u16>,
    pub(crate) status: StatusCode,
}

/// Changes of host and path before a request is forwarded.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    pub(crate) host: Option<HeaderValue>,
    pub(crate) path: Option<PathRewrite>,
}

/// A new path.
#[derive(Clone, Debug)]
pub(crate) enum PathRewrite {
    Full(String),
    /// Replaces the prefix that the rule matched.
    Prefix(String),
}

/// A backend that gets a copy of some requests; its responses are dropped.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) backend: Arc<Backend>,
    pub(crate) numerator: u32,
    pub(crate) denominator: u32,
}

impl HeaderChanges {
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            // One field with a list, as Envoy writes it, except where a list is not allowed.
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl PathRewrite {
    /// Returns the new path of a request whose first `prefix` elements were matched.
    fn apply(&self, path: &str, prefix: usize) -> String {
        match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(new) => {
                let rest: Vec<&str> = path.split('/').skip(1 + prefix).collect();
                let rest = rest.join("/");
                let new = new.trim_end_matches('/');
                match rest.is_empty() && !(path.ends_with('/') && prefix > 0 && !new.is_empty()) {
                    true if new.is_empty() => "/".to_owned(),
                    true => new.to_owned(),
                    false => format!("{new}/{rest}"),
                }
            }
        }
    }
}

impl Redirect {
    /// Returns the `Location` of a request to this host, path and query, received over `scheme` on
    /// `port`.
    pub(crate) fn location(&self, request: &Received<'_>, uri: &Uri, prefix: usize) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let default = if scheme == "https" { 443 } else { 80 };
        // With a scheme and no port, the port is the one of the scheme (HTTPRequestRedirectFilter).
        let port = self.port.unwrap_or(match &self.scheme {
            Some(_) => default,
            None => request.port,
        });
        let host = self.host.as_deref().unwrap_or(request.host);
        let path = match &self.path {
            Some(path) => path.apply(uri.path(), prefix),
            None => uri.path().to_owned(),
        };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let port = if port == default { String::new() } else { format!(":{port}") };
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

/// How a request was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) scheme: &'a str,
    /// Without a port.
    pub(crate) host: &'a str,
    /// That of the listener.
    pub(crate) port: u16,
}

impl Filters {
    /// Changes a request that is ready for an endpoint.
    pub(crate) fn apply_to_request(&self, parts: &mut request::Parts, prefix: usize) {
        self.request_headers.apply(&mut parts.headers);
        let Some(rewrite) = &self.rewrite else { return };
        if let Some(host) = &rewrite.host {
            parts.headers.insert(header::HOST, host.clone());
        }
        if let Some(path) = &rewrite.path {
            let mut path = path.apply(parts.uri.path(), prefix);
            if let Some(query) = parts.uri.query() {
                path = format!("{path}?{query}");
            }
            if let Ok(path) = PathAndQuery::try_from(path) {
                parts.uri = path.into();
            }
        }
    }
}

#[cfg(test)]
mod tests;
