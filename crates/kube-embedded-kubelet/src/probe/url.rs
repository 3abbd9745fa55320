//! The URL of a probe, and where a redirect leads to. Pure.

use std::net::{IpAddr, SocketAddr};

/// A URL with an IP address for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) https: bool,
    pub(crate) to: SocketAddr,
    /// With the query.
    pub(crate) path: String,
}

/// The target of a redirect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// On the same host. A relative location keeps the `Host` header of the request.
    Local { url: Url, relative: bool },
    /// On another host.
    Elsewhere,
}

impl Url {
    /// A path without a leading slash gets one.
    pub(crate) fn new(https: bool, to: SocketAddr, path: Option<&str>) -> Self {
        let path = path.unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Self { https, to, path }
    }

    /// Resolves the `Location` of a response.
    ///
    /// # Errors
    /// When it is no URL, or not one of HTTP.
    pub(super) fn redirect(&self, location: &str) -> Result<Redirect, String> {
        let bad = || format!("failed to parse Location header {location:?}");
        let target = location.split('#').next().unwrap_or_default();
        let (https, rest) = match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
                match scheme.to_ascii_lowercase().as_str() {
                    "http" => (false, rest),
                    "https" => (true, rest),
                    _ => return Err(format!("unsupported protocol scheme {scheme:?}")),
                }
            }
            _ => match target.strip_prefix("//") {
                Some(rest) => (self.https, rest),
                None => {
                    let url = Self { path: self.resolve(target), ..self.clone() };
                    return Ok(Redirect::Local { url, relative: true });
                }
            },
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let default = if https { 443 } else { 80 };
        let to = match (authority.parse::<SocketAddr>(), authority.parse::<IpAddr>()) {
            (Ok(to), _) => to,
            (_, Ok(ip)) => SocketAddr::new(ip, default),
            _ if authority.is_empty() => return Err(bad()),
            _ => match authority.strip_prefix('[').and_then(|a| a.strip_suffix(']')) {
                Some(ip) => SocketAddr::new(ip.parse().map_err(|_| bad())?, default),
                None => return Ok(Redirect::Elsewhere),
            },
        };
        if to.ip() != self.to.ip() {
            return Ok(Redirect::Elsewhere);
        }
        Ok(Redirect::Local { url: Self::new(https, to, Some(path)), relative: false })
    }

    /// Resolves a relative reference (RFC 3986, section 5.2).
    fn resolve(&self, reference: &str) -> String {
        let base = self.path.split('?').next().unwrap_or_default();
        let (path, query) = match reference.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (reference, None),
        };
        let merged = match path {
            "" => base.to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("{}/{path}", base.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        let mut parts: Vec<&str> = Vec::new();
        let mut segments = merged.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            match segment {
                "." | ".." => {
                    if segment == ".." {
                        parts.pop();
                    }
                    if last {
                        parts.push("");
                    }
                }
                segment => parts.push(segment),
            }
        }
        let path = format!("/{}", parts.join("/"));
        query.map_or(path.clone(), |query| format!("{path}?{query}"))
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.to, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_is_resolved_and_another_host_is_recognized() {
        let to: SocketAddr = "10.244.0.2:8080".parse().unwrap();
        let base = Url::new(false, to, Some("/a/b?x=1"));
        for (location, expected) in [
            ("/login", "http://10.244.0.2:8080/login"),
            ("c", "http://10.244.0.2:8080/a/c"),
            ("../c?y=2#z", "http://10.244.0.2:8080/c?y=2"),
            ("../../../..", "http://10.244.0.2:8080/"),
            ("?y", "http://10.244.0.2:8080/a/b?y"),
            ("http://10.244.0.2:9090", "http://10.244.0.2:9090/"),
            ("HTTPS://10.244.0.2/x", "https://10.244.0.2:443/x"),
            ("//10.244.0.2?q", "http://10.244.0.2:80/?q"),
            ("http://user@10.244.0.2/", "http://10.244.0.2:80/"),
        ] {
            match base.redirect(location) {
                Ok(Redirect::Local { url, .. }) => assert_eq!(url.to_string(), expected),
                other => panic!("{location}: {other:?}"),
            }
        }
        for location in ["http://example.com/", "//10.244.0.3/", "https://[::1]/x"] {
            assert_eq!(base.redirect(location), Ok(Redirect::Elsewhere), "{location}");
        }
        assert_eq!(base.redirect("ftp://x/").unwrap_err(), "unsupported protocol scheme \"ftp\"");
        assert!(base.redirect("http:///x").is_err());
        assert_eq!(Url::new(true, to, None).to_string(), "https://10.244.0.2:8080/");
    }
}
