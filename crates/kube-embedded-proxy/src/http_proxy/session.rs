//! Session persistence (GEP-1619): a token in a cookie or a header, which the proxy issues, names the
//! backend and the endpoint of a session. The proxy keeps nothing.

use super::{
    policies::{Carrier, SessionPersistence},
    route_table::{Entry, WeightedBackend},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::hmac;
use std::{
    fmt::Write,
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

/// Bytes of a tag in a token: a guess is right once in 2⁶⁴ times.
const TAG: usize = 8;

/// A session that a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    /// Of the rule.
    backend: usize,
    /// `None` if the endpoint is not ready any more.
    endpoint: Option<SocketAddr>,
}

/// The session of one request, or what is needed to begin one.
pub(super) struct RequestSession<'a> {
    entry: &'a Entry,
    persistence: &'a SessionPersistence,
    found: Option<Session>,
    /// For which a cookie is.
    path: String,
    now: u64,
}

impl<'a> RequestSession<'a> {
    /// Returns `None` if sessions do not persist under this rule.
    pub(super) fn of(entry: &'a Entry, path: &str, headers: &HeaderMap) -> Option<Self> {
        let persistence = entry.rule.session.as_deref()?;
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let found = persistence.find(headers, &entry.rule.backends, now);
        let path = entry.matched_path(path).to_owned();
        Some(Self { entry, persistence, found, path, now })
    }

    pub(super) fn backend(&self) -> Option<&'a WeightedBackend> {
        self.entry.rule.backends.get(self.found?.backend)
    }

    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.found?.endpoint
    }

    /// Returns the header with a new token, unless the client has been with this endpoint before.
    pub(super) fn token(
        &self,
        backend: &str,
        endpoint: SocketAddr,
        secure: bool,
    ) -> Option<(HeaderName, HeaderValue)> {
        let known = self.endpoint() == Some(endpoint);
        (!known)
            .then(|| self.persistence.issue(backend, endpoint, self.now, (&self.path, secure)))?
    }
}

impl SessionPersistence {
    /// Creates it for the rule that `identity` names.
    pub(crate) fn new(
        name: String,
        carrier: Carrier,
        timeout: Option<Duration>,
        identity: &str,
    ) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, identity.as_bytes());
        Self { name, carrier, timeout, key }
    }

    /// Returns a short name for the sessions of a rule.
    pub(crate) fn name_of(identity: &str) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, identity.as_bytes());
        hex(digest.as_ref(), 4)
    }

    /// Returns the session of a request at `now`, in seconds since 1970. A token that was not issued
    /// here, or has expired, is none.
    fn find(&self, headers: &HeaderMap, backends: &[WeightedBackend], now: u64) -> Option<Session> {
        // A token of another rule may have the same name.
        self.tokens(headers).find_map(|token| self.read(token, backends, now))
    }

    fn tokens<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let (name, cookie) = match &self.carrier {
            Carrier::Header(name) => (name, false),
            Carrier::Cookie { .. } => (&header::COOKIE, true),
        };
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(move |value| {
            let parts = value.split(if cookie { ';' } else { ',' }).map(str::trim);
            parts.filter_map(move |part| match cookie {
                true => part.strip_prefix(&*self.name)?.strip_prefix('='),
                false => Some(part),
            })
        })
    }

    fn read(&self, token: &str, backends: &[WeightedBackend], now: u64) -> Option<Session> {
        let issued = u64::from_str_radix(token.get(..16)?, 16).ok()?;
        let (of_backend, of_endpoint) = token.get(16..)?.split_at_checked(2 * TAG)?;
        let age = Duration::from_secs(now.saturating_sub(issued));
        if issued > now || self.timeout.is_some_and(|timeout| age >= timeout) {
            return None;
        }
        let (index, backend) = backends.iter().enumerate().find_map(|(index, weighted)| {
            let backend = weighted.backend.as_ref()?;
            (self.tag(issued, &backend.name) == of_backend).then_some((index, backend))
        })?;
        let endpoint =
            backend.route.find(|endpoint| self.tag(issued, &endpoint.to_string()) == of_endpoint);
        Some(Session { backend: index, endpoint })
    }

    /// Returns the header with a new token for the client. A cookie is for the `path` that the rule
    /// matched.
    fn issue(
        &self,
        backend: &str,
        endpoint: SocketAddr,
        now: u64,
        (path, secure): (&str, bool),
    ) -> Option<(HeaderName, HeaderValue)> {
        let (of_backend, of_endpoint) =
            (self.tag(now, backend), self.tag(now, &endpoint.to_string()));
        let token = format!("{now:016x}{of_backend}{of_endpoint}");
        let permanent = match &self.carrier {
            Carrier::Header(name) => return Some((name.clone(), token.try_into().ok()?)),
            Carrier::Cookie { permanent } => *permanent,
        };
        // A semicolon would end the attribute.
        let path = if path.contains(';') { "/" } else { path };
        let mut cookie = format!("{}={token}; Path={path}; HttpOnly; SameSite=Strict", self.name);
        if let Some(timeout) = self.timeout.filter(|_| permanent) {
            let _ = write!(cookie, "; Max-Age={}", timeout.as_secs());
        }
        if secure {
            cookie.push_str("; Secure");
        }
        Some((header::SET_COOKIE, cookie.try_into().ok()?))
    }

    /// Returns the text that proves that a token was issued here for this backend or endpoint, without
    /// showing its address.
    fn tag(&self, issued: u64, of: &str) -> String {
        hex(hmac::sign(&self.key, format!("{issued} {of}").as_bytes()).as_ref(), TAG)
    }
}

/// Returns the first bytes as hexadecimal digits.
fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).fold(String::with_capacity(2 * count), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http_proxy::route_table::Backend,
        route::{Backends, Route, Routing},
    };
    use std::sync::Arc;

    const NOW: u64 = 1_800_000_000;

    fn endpoint(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn backend(name: &str, ports: &[u16]) -> WeightedBackend {
        let backends = Backends::uniform(ports.iter().copied().map(endpoint));
        let routing = Routing { backends, ..Routing::default() };
        let route = Arc::new(Route::new(routing, Arc::default()));
        let backend = Some(Arc::new(Backend::plain(name.into(), route)));
        WeightedBackend { weight: 0, backend, headers: None }
    }

    fn cookies(timeout: Option<u64>) -> SessionPersistence {
        let carrier = Carrier::Cookie { permanent: timeout.is_some() };
        let timeout = timeout.map(Duration::from_secs);
        SessionPersistence::new("session".into(), carrier, timeout, "uid/0")
    }

    fn sent(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    fn cookie_of(session: &SessionPersistence, backend: &str, port: u16) -> String {
        let (name, value) = session.issue(backend, endpoint(port), NOW, ("/", false)).unwrap();
        assert_eq!(name, header::SET_COOKIE);
        value.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    #[test]
    fn token_finds_backend_and_endpoint_whatever_the_weight() {
        let session = cookies(None);
        let backends = [backend("stable", &[1, 2]), backend("canary", &[3])];
        for (name, port, index) in [("stable", 1, 0), ("stable", 2, 0), ("canary", 3, 1)] {
            let cookie = cookie_of(&session, name, port);
            let found = session.find(
                &sent(header::COOKIE, &format!("session=other; a=b;{cookie}")),
                &backends,
                NOW + 9,
            );
            let expected = Session { backend: index, endpoint: Some(endpoint(port)) };
            assert_eq!(found, Some(expected), "{cookie}");
        }
        // A pod that is replaced leaves the session with its Service.
        let cookie = cookie_of(&session, "canary", 9);
        let found = session.find(&sent(header::COOKIE, &cookie), &backends, NOW).unwrap();
        assert_eq!(found, Session { backend: 1, endpoint: None });
    }

    #[test]
    fn foreign_and_changed_tokens_are_no_session() {
        let (session, backends) = (cookies(None), [backend("stable", &[1])]);
        let cookie = cookie_of(&session, "stable", 1);
        let other = SessionPersistence::new(
            "session".into(),
            Carrier::Cookie { permanent: false },
            None,
            "uid/1",
        );
        let changed = |at: usize| {
            let digit = if &cookie[at..=at] == "0" { "1" } else { "0" };
            format!("{}{digit}{}", &cookie[..at], &cookie[at + 1..])
        };
        for text in [
            String::new(),
            "session=".into(),
            "session=é".into(),
            cookie[..20].into(),
            cookie_of(&other, "stable", 1),
            cookie_of(&session, "canary", 1),
            changed("session=".len() + 15),
            changed("session=".len() + 16),
        ] {
            let headers = HeaderMap::from_iter([(
                header::COOKIE,
                HeaderValue::from_bytes(text.as_bytes()).unwrap(),
            )]);
            assert_eq!(session.find(&headers, &backends, NOW), None, "{text:?}");
        }
    }

    #[test]
    fn session_ends_with_its_timeout_and_is_never_from_the_future() {
        let (session, backends) = (cookies(Some(60)), [backend("stable", &[1])]);
        let headers = sent(header::COOKIE, &cookie_of(&session, "stable", 1));
        for (now, valid) in [(NOW - 1, false), (NOW, true), (NOW + 59, true), (NOW + 60, false)] {
            assert_eq!(session.find(&headers, &backends, now).is_some(), valid, "{now}");
        }
    }

    #[test]
    fn cookie_and_header_have_their_form() {
        let issued = |session: &SessionPersistence, secure| {
            let (_, value) = session.issue("stable", endpoint(1), NOW, ("/shop", secure)).unwrap();
            value.to_str().unwrap().to_owned()
        };
        let attributes = |text: String| text.split_once("; ").unwrap().1.to_owned();
        let plain = "Path=/shop; HttpOnly; SameSite=Strict";
        assert_eq!(attributes(issued(&cookies(None), false)), plain);
        assert_eq!(
            attributes(issued(&cookies(Some(60)), true)),
            format!("{plain}; Max-Age=60; Secure")
        );
        let name = HeaderName::from_static("x-session");
        let header =
            SessionPersistence::new("x".into(), Carrier::Header(name.clone()), None, "uid/0");
        let token = issued(&header, false);
        assert_eq!(token.len(), 16 + 4 * TAG);
        let backends = [backend("stable", &[1])];
        assert!(header.find(&sent(name, &token), &backends, NOW).is_some());
    }
}
