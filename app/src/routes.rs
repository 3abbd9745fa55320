//! The routes of the app, without I/O: maps a request, and whether the pod is terminating, to a response.

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue},
};

/// A response with its complete body.
pub(crate) type FullResponse = Response<Full<Bytes>>;

/// Names the pod that responds, so that a client can count the requests of each pod.
const POD: HeaderName = HeaderName::from_static("x-pod");

/// The responses of one pod.
pub(crate) struct App {
    home: Bytes,
    version: Bytes,
    pod: HeaderValue,
}

impl App {
    /// Creates the app of `version` in the pod named `pod`.
    pub(crate) fn new(version: &str, pod: &str) -> Self {
        Self {
            home: format!(
                "Congratulations! Version {version} of your application is running on Kubernetes.\n"
            )
            .into(),
            version: format!("{version}\n").into(),
            pod: HeaderValue::from_str(pod).unwrap_or(HeaderValue::from_static("unknown")),
        }
    }

    /// Returns the response to a request. A `terminating` pod still serves, but is no longer ready, and closes each
    /// connection after the response.
    pub(crate) fn respond<B>(&self, request: &Request<B>, terminating: bool) -> FullResponse {
        let mut response = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, path) => self.page(path, terminating),
            _ => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
        };
        response.headers_mut().insert(POD, self.pod.clone());
        if terminating {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn page(&self, path: &str, terminating: bool) -> FullResponse {
        match strip_prefix(path) {
            "/" => text(StatusCode::OK, self.home.clone()),
            "/version" => text(StatusCode::OK, self.version.clone()),
            "/health" if terminating => text(StatusCode::SERVICE_UNAVAILABLE, "terminating\n"),
            "/health" => Response::new(Full::default()),
            _ => text(StatusCode::NOT_FOUND, "not found: try /, /version or /health\n"),
        }
    }
}

/// Path prefixes of an Ingress fanout. Most controllers forward a path as the client sent it, so both versions
/// serve all pages below either prefix: the Ingress alone decides which version responds.
const PREFIXES: [&str; 2] = ["/stable", "/canary"];

/// Returns the path of the page, without a fanout prefix.
fn strip_prefix(path: &str) -> &str {
    let page = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix));
    match page {
        Some("") => "/",
        Some(page) if page.starts_with('/') => page,
        _ => path,
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> FullResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, path: &str, terminating: bool) -> u16 {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = App::new("1.0", "pod-1").respond(&request, terminating);
        assert_eq!(response.headers()[POD], "pod-1", "every response names its pod");
        assert_eq!(response.headers().contains_key(CONNECTION), terminating);
        response.status().as_u16()
    }

    #[test]
    fn response_depends_on_method_and_path() {
        for (method, path, expected) in [
            (Method::GET, "/", 200),
            (Method::HEAD, "/version", 200),
            (Method::GET, "/version?x=1", 200),
            (Method::GET, "/health", 200),
            (Method::GET, "/health/", 404),
            (Method::GET, "/nothing", 404),
            (Method::GET, "/stable", 200),
            (Method::GET, "/canary/", 200),
            (Method::GET, "/canary/version", 200),
            (Method::GET, "/stable/nothing", 404),
            (Method::GET, "/stable/canary", 404),
            (Method::GET, "/stables", 404),
            (Method::POST, "/", 405),
            (Method::DELETE, "/nothing", 405),
        ] {
            assert_eq!(status(method.clone(), path, false), expected, "{method} {path}");
        }
    }

    #[test]
    fn every_page_is_served_below_either_prefix() {
        for (path, page) in [
            ("/", "/"),
            ("/version", "/version"),
            ("/stable", "/"),
            ("/canary/", "/"),
            ("/stable/version", "/version"),
            ("/canary/health", "/health"),
            ("/canaryversion", "/canaryversion"),
        ] {
            assert_eq!(strip_prefix(path), page, "{path}");
        }
    }

    #[test]
    fn terminating_pod_serves_but_is_not_ready() {
        assert_eq!(status(Method::GET, "/", true), 200);
        assert_eq!(status(Method::GET, "/health", true), 503);
    }

    #[test]
    fn pod_name_that_is_no_header_value_is_replaced() {
        assert_eq!(App::new("1.0", "a\nb").pod, "unknown");
    }
}
