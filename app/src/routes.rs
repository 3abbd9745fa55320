//! What the app answers, apart from how it is served: a request and whether the pod is leaving in,
//! a response out.

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue},
};

/// A response whose body is already complete.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Names the pod that answers, so that a client can tell how its requests were spread.
const POD: HeaderName = HeaderName::from_static("x-pod");

/// The answers of one pod.
pub(crate) struct App {
    front: Bytes,
    version: Bytes,
    pod: HeaderValue,
}

impl App {
    /// The answers of `version` in the pod called `pod`.
    pub(crate) fn new(version: &str, pod: &str) -> Self {
        Self {
            front: format!(
                "Congratulations! Version {version} of your application is running on Kubernetes.\n"
            )
            .into(),
            version: format!("{version}\n").into(),
            pod: HeaderValue::from_str(pod).unwrap_or(HeaderValue::from_static("unknown")),
        }
    }

    /// Answers a request. A pod that is `leaving` still serves, but is no longer ready and lets
    /// go of each connection after its answer.
    pub(crate) fn answer<B>(&self, request: &Request<B>, leaving: bool) -> Answer {
        let mut answer = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, path) => self.page(path, leaving),
            _ => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only\n");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
        };
        answer.headers_mut().insert(POD, self.pod.clone());
        if leaving {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    fn page(&self, path: &str, leaving: bool) -> Answer {
        match behind_door(path) {
            "/" => text(StatusCode::OK, self.front.clone()),
            "/version" => text(StatusCode::OK, self.version.clone()),
            "/health" if leaving => text(StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
            "/health" => Response::new(Full::default()),
            _ => text(StatusCode::NOT_FOUND, "not found: try /, /version or /health\n"),
        }
    }
}

/// Doors that an Ingress may fan out over. Most controllers pass a path on as the client sent it, so
/// both versions have all their pages behind either door: which of them answers there is up to the
/// Ingress alone.
const DOORS: [&str; 2] = ["/stable", "/canary"];

/// The path of the page that is asked for.
fn behind_door(path: &str) -> &str {
    let behind = DOORS.iter().find_map(|door| path.strip_prefix(door));
    match behind {
        Some("") => "/",
        Some(page) if page.starts_with('/') => page,
        _ => path,
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, path: &str, leaving: bool) -> u16 {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let answer = App::new("1.0", "pod-1").answer(&request, leaving);
        assert_eq!(answer.headers()[POD], "pod-1", "every answer names its pod");
        assert_eq!(answer.headers().contains_key(CONNECTION), leaving);
        answer.status().as_u16()
    }

    #[test]
    fn answers_by_method_and_path() {
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
    fn every_page_is_behind_either_door() {
        for (path, page) in [
            ("/", "/"),
            ("/version", "/version"),
            ("/stable", "/"),
            ("/canary/", "/"),
            ("/stable/version", "/version"),
            ("/canary/health", "/health"),
            ("/canaryversion", "/canaryversion"),
        ] {
            assert_eq!(behind_door(path), page, "{path}");
        }
    }

    #[test]
    fn a_leaving_pod_serves_but_is_not_ready() {
        assert_eq!(status(Method::GET, "/", true), 200);
        assert_eq!(status(Method::GET, "/health", true), 503);
    }

    #[test]
    fn a_pod_name_that_no_header_can_hold_is_replaced() {
        assert_eq!(App::new("1.0", "a\nb").pod, "unknown");
    }
}
