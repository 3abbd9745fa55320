//! Cross-origin resource sharing, as the filter of HTTP routes asks for it and
//! <https://fetch.spec.whatwg.org/#http-cors-protocol> defines it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// The settings of a rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors {
    /// Such as `https://foo.com`, `https://*.foo.com` or `*`.
    pub(crate) origins: Vec<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<String>,
    pub(crate) exposed: Vec<String>,
    pub(crate) credentials: bool,
    /// Seconds for which a client may remember the response to a preflight request.
    pub(crate) max_age: u32,
}

/// The fields for responses to one request.
#[derive(Debug)]
pub(crate) struct CorsResponse {
    pub(crate) is_preflight: bool,
    headers: HeaderMap,
}

impl Cors {
    /// Returns what is to be added to the response, or `None` for a request of the same origin.
    pub(crate) fn response(&self, method: &Method, request: &HeaderMap) -> Option<CorsResponse> {
        let origin = request.get(header::ORIGIN)?;
        let requested = request.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let is_preflight = method == Method::OPTIONS && requested.is_some();
        let mut headers = HeaderMap::new();
        let allowed = origin.to_str().is_ok_and(|origin| self.allows(origin));
        if allowed {
            let any = !self.credentials && self.origins.iter().any(|origin| origin == "*");
            let value = if any { HeaderValue::from_static("*") } else { origin.clone() };
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
            if self.credentials {
                let yes = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
            }
            set(&mut headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &self.exposed, None);
        }
        // Also without a match: a cache must not give the response to another origin.
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        if is_preflight && allowed {
            set(&mut headers, header::ACCESS_CONTROL_ALLOW_METHODS, &self.methods, requested);
            let requested = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            set(&mut headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, requested);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        }
        Some(CorsResponse { is_preflight, headers })
    }

    fn allows(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        self.origins.iter().any(|pattern| match pattern.to_ascii_lowercase().split_once('*') {
            None => pattern.eq_ignore_ascii_case(&origin),
            Some((start, end)) => origin
                .strip_prefix(start)
                .and_then(|rest| rest.strip_suffix(end))
                .is_some_and(|covered| !covered.is_empty()),
        })
    }
}

impl CorsResponse {
    /// Adds the fields, which replace those of the endpoint.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            match *name == header::VARY {
                true => drop(headers.append(name, value.clone())),
                false => drop(headers.insert(name, value.clone())),
            }
        }
    }
}

/// Sets a list. A wildcard stands for what the client asks for: with credentials browsers take `*` for
/// a name.
fn set(
    headers: &mut HeaderMap,
    name: HeaderName,
    values: &[String],
    requested: Option<&HeaderValue>,
) {
    let value = match values.iter().any(|value| value == "*") {
        true => requested.cloned().or(Some(HeaderValue::from_static("*"))),
        false if values.is_empty() => None,
        false => HeaderValue::try_from(values.join(", ")).ok(),
    };
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn request(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let field = |(name, value): &(HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn origin_matches_as_the_specification_says() {
        let cors = Cors {
            origins: list(&["https://www.foo.com", "https://*.bar.com", "http://*:8080"]),
            ..Cors::default()
        };
        for (origin, allowed) in [
            ("https://www.foo.com", true),
            ("HTTPS://WWW.foo.com", true),
            ("http://www.foo.com", false),
            ("https://www.foo.com.evil.org", false),
            ("https://a.bar.com", true),
            ("https://a.b.bar.com", true),
            ("https://.bar.com", false),
            ("https://bar.com", false),
            ("https://foobar.com", false),
            ("http://any.org:8080", true),
            ("null", false),
        ] {
            assert_eq!(cors.allows(origin), allowed, "{origin}");
        }
    }

    #[test]
    fn preflight_lists_what_is_allowed_or_asked_for() {
        let all = list(&["*"]);
        let cors = |credentials| Cors {
            origins: all.clone(),
            methods: all.clone(),
            headers: all.clone(),
            credentials,
            max_age: 5,
            ..Cors::default()
        };
        let preflight = request(&[
            (header::ORIGIN, "https://a.com"),
            (header::ACCESS_CONTROL_REQUEST_METHOD, "PUT"),
            (header::ACCESS_CONTROL_REQUEST_HEADERS, "x-a, x-b"),
        ]);
        for (credentials, origin) in [(false, "*"), (true, "https://a.com")] {
            let response = cors(credentials).response(&Method::OPTIONS, &preflight).unwrap();
            assert!(response.is_preflight);
            let mut headers = HeaderMap::new();
            response.apply(&mut headers);
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_METHODS], "PUT");
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "x-a, x-b");
            assert_eq!(headers[header::ACCESS_CONTROL_MAX_AGE], "5");
            let with = headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
            assert_eq!(with, credentials);
        }
    }

    #[test]
    fn request_of_another_origin_gets_no_permission_and_one_of_the_same_nothing() {
        let cors = Cors { origins: list(&["https://a.com"]), ..Cors::default() };
        assert!(cors.response(&Method::GET, &HeaderMap::new()).is_none());
        let foreign = request(&[(header::ORIGIN, "https://b.com")]);
        let mut headers = request(&[(header::VARY, "accept")]);
        cors.response(&Method::GET, &foreign).unwrap().apply(&mut headers);
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        assert_eq!(headers.get_all(header::VARY).iter().count(), 2);
    }
}
