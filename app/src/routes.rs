//! The routes of the app, without I/O: maps a request, and whether the pod is terminating, to a response.

use crate::faults::{Faults, Random};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
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
    faults: Faults,
    random: Random,
    /// The number of pages requested so far.
    pages: AtomicU64,
    leaked: Mutex<Vec<Vec<u8>>>,
}

impl App {
    /// Creates the app of `version` in the pod named `pod`.
    pub(crate) fn new(version: &str, pod: &str, faults: Faults) -> Self {
        Self {
            faults,
            random: Random::default(),
            pages: AtomicU64::new(0),
            leaked: Mutex::default(),
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

    /// The time that a response to this path takes.
    pub(crate) fn delay(&self, path: &str) -> Duration {
        let is_slow = match (strip_prefix(path), self.faults.delay_percent) {
            ("/health" | "/served", _) => false,
            (path, None) => path == "/",
            (_, Some(percent)) => self.random.chance(percent),
        };
        if is_slow { self.faults.response_delay } else { Duration::ZERO }
    }

    /// Returns true if the app finishes its requests before it exits.
    pub(crate) fn drains(&self) -> bool {
        self.faults.drain
    }

    /// Returns true if this page is an error by request.
    fn fails(&self) -> bool {
        if self.faults.leak > 0 {
            // Memory that is written to, since other pages would not count.
            let memory = vec![1; self.faults.leak];
            self.leaked.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        }
        let before = self.pages.fetch_add(1, Ordering::Relaxed);
        self.faults.fail_after.is_some_and(|limit| before >= limit)
            || self.random.chance(self.faults.fail_percent)
    }

    fn page(&self, path: &str, terminating: bool) -> FullResponse {
        match strip_prefix(path) {
            "/" | "/version" if self.fails() => {
                text(StatusCode::INTERNAL_SERVER_ERROR, "this page has failed\n")
            }
            page if self.faults.wrong_page == Some(page) => {
                text(StatusCode::OK, "Congratulations! You found a bug.\n")
            }
            "/" => text(StatusCode::OK, self.home.clone()),
            "/version" => text(StatusCode::OK, self.version.clone()),
            "/health" if terminating => text(StatusCode::SERVICE_UNAVAILABLE, "terminating\n"),
            "/health" => Response::new(Full::default()),
            "/served" => text(StatusCode::OK, format!("{}\n", self.pages.load(Ordering::Relaxed))),
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
    use http_body_util::BodyExt as _;

    fn status(method: Method, path: &str, terminating: bool) -> u16 {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = App::new("1.0", "pod-1", Faults::default()).respond(&request, terminating);
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
    fn faults_concern_pages_and_not_health() {
        let delay = Duration::from_millis(20);
        let faults =
            Faults { fail_after: Some(2), leak: 1024, response_delay: delay, ..Faults::default() };
        let app = App::new("1.0", "pod-1", faults);
        let status = |path: &str| {
            let request = Request::builder().uri(path).body(()).unwrap();
            app.respond(&request, false).status().as_u16()
        };
        let paths = ["/version", "/health", "/canary/", "/health", "/", "/health"];
        assert_eq!(paths.map(status), [200, 200, 200, 200, 500, 200]);
        assert_eq!(app.leaked.lock().unwrap().iter().map(Vec::len).sum::<usize>(), 3 * 1024);
        let delays = ["/", "/canary/", "/version", "/health"].map(|path| app.delay(path));
        assert_eq!(delays, [delay, delay, Duration::ZERO, Duration::ZERO]);
        assert_eq!(app.pages.load(Ordering::Relaxed), 3, "the number at /served");
        assert_eq!((status("/served"), app.delay("/served")), (200, Duration::ZERO));
    }

    #[test]
    fn wrong_page_has_another_body() {
        let faults = Faults { wrong_page: Some("/"), ..Faults::default() };
        let app = App::new("2.0", "pod-1", faults);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let page = |path: &str| {
            let request = Request::builder().uri(path).body(()).unwrap();
            let body = app.respond(&request, false).into_body().collect();
            runtime.block_on(body).unwrap().to_bytes()
        };
        for (path, body) in [
            ("/", "Congratulations! You found a bug.\n"),
            ("/canary/", "Congratulations! You found a bug.\n"),
            ("/version", "2.0\n"),
            ("/served", "3\n"),
        ] {
            assert_eq!(page(path), body, "{path}");
        }
    }

    #[test]
    fn pod_name_that_is_no_header_value_is_replaced() {
        assert_eq!(App::new("1.0", "a\nb", Faults::default()).pod, "unknown");
    }
}
