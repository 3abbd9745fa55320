//! The route table: maps a request's host and path to a Service port by the rules of
//! `networking.k8s.io/v1` Ingress,
//! <https://kubernetes.io/docs/concepts/services-networking/ingress/>.
//!
//! The host is matched first: rules of exactly that host, else those of a wildcard that covers it,
//! else those without a host. Among their paths the longest wins, and an exact one over a prefix of
//! the same length. If none matches, the default backend responds: a host that has rules takes no
//! paths from a less specific one, as with ingress-nginx and GKE.

use crate::route::Route;
use percent_encoding::percent_decode_str;
use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// The backends of hosts and paths. It is immutable, and replaced as a whole when objects change.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    hosts: HashMap<String, Paths>,
    /// `foo.com` for `*.foo.com`.
    wildcards: HashMap<String, Paths>,
    any_host: Option<Paths>,
    default: Option<Arc<Backend>>,
}

/// A Service port. Its route has no endpoints while the Service has none, or does not exist.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The name in responses, as `default/kubeapp:80`.
    pub(crate) name: String,
    pub(crate) route: Arc<Route>,
}

/// One path of one host.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `foo.bar.com`, `*.bar.com`, or `None` for every host.
    pub(crate) host: Option<String>,
    pub(crate) path: Path,
    pub(crate) backend: Arc<Backend>,
}

const IMPLEMENTATION_SPECIFIC: &str = "ImplementationSpecific";

/// A path to match; two are equal if they match the same requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    /// The whole path.
    Exact(String),
    /// The first elements of the path; a trailing slash of the rule means nothing.
    Prefix(Vec<String>),
    /// The first elements of the path, and something after them: `/v2/*` of GKE.
    Below(Vec<String>),
}

impl Path {
    /// Creates a match for `pathType: Exact` or `Prefix`. `ImplementationSpecific` means `Prefix` here,
    /// or what GKE means by it if the path ends in `/*`. An empty path matches every one.
    pub(crate) fn new(path_type: &str, path: &str) -> Self {
        let path = normalize(path);
        let prefix = |path: &str| elements(path.trim_end_matches('/')).map(str::to_owned).collect();
        match path_type {
            "Exact" => Self::Exact(path.into_owned()),
            IMPLEMENTATION_SPECIFIC if &*path == "/*" => Self::Prefix(Vec::new()),
            IMPLEMENTATION_SPECIFIC if path.ends_with("/*") => {
                Self::Below(prefix(path.trim_end_matches('*')))
            }
            _ => Self::Prefix(prefix(&path)),
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "{path} (Exact)"),
            Self::Prefix(elements) => write!(f, "/{} (Prefix)", elements.join("/")),
            Self::Below(elements) => write!(f, "/{}/*", elements.join("/")),
        }
    }
}

impl RouteTable {
    /// Builds the table. Of two rules for the same host and path, the first one counts.
    pub(crate) fn new(
        rules: impl IntoIterator<Item = Rule>,
        default: Option<Arc<Backend>>,
    ) -> Self {
        let mut table = Self { default, ..Self::default() };
        for rule in rules {
            let paths = match rule.host.as_deref().map(host_name) {
                None => table.any_host.get_or_insert_default(),
                Some(host) => match host.strip_prefix("*.") {
                    Some(parent) => table.wildcards.entry(parent.to_owned()).or_default(),
                    None => table.hosts.entry(host.into_owned()).or_default(),
                },
            };
            paths.add(rule.path, rule.backend);
        }
        table
    }

    /// Returns the backend of a request, or `None` if no rule matches and there is no default backend.
    /// The host may have a port; the path is as sent, without a query.
    pub(crate) fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<Backend>> {
        let paths = host.and_then(|host| self.paths_of(&host_name(host)));
        let paths = paths.or(self.any_host.as_ref());
        paths.and_then(|paths| paths.find(&normalize(path))).or(self.default.as_ref())
    }

    fn paths_of(&self, host: &str) -> Option<&Paths> {
        let wildcard = || {
            let (label, parent) = host.split_once('.')?;
            self.wildcards.get(parent).filter(|_| !label.is_empty())
        };
        self.hosts.get(host).or_else(wildcard)
    }
}

/// The paths of one host, as a tree, so that a lookup takes as many steps as the longest path has
/// elements, however many paths there are.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Arc<Backend>>,
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    backend: Option<Arc<Backend>>,
    /// Of paths that are longer.
    backend_below: Option<Arc<Backend>>,
    below: HashMap<String, Node>,
}

impl Paths {
    fn add(&mut self, path: Path, backend: Arc<Backend>) {
        match path {
            Path::Exact(path) => drop(self.exact.entry(path).or_insert(backend)),
            Path::Prefix(elements) => {
                self.node(elements).backend.get_or_insert(backend);
            }
            Path::Below(elements) => {
                self.node(elements).backend_below.get_or_insert(backend);
            }
        }
    }

    fn node(&mut self, elements: Vec<String>) -> &mut Node {
        elements
            .into_iter()
            .fold(&mut self.root, |node, element| node.below.entry(element).or_default())
    }

    fn find(&self, path: &str) -> Option<&Arc<Backend>> {
        // An exact match is the longest one possible.
        if let Some(backend) = self.exact.get(path) {
            return Some(backend);
        }
        let mut node = &self.root;
        let mut longest = node.backend.as_ref();
        for element in elements(path) {
            longest = node.backend_below.as_ref().or(longest);
            match node.below.get(element) {
                Some(below) => node = below,
                None => break,
            }
            longest = node.backend.as_ref().or(longest);
        }
        longest
    }
}

/// Normalizes a host: lower case, without port and trailing dot. An IPv6 address loses its last
/// group, but no rule can name it.
pub(crate) fn host_name(host: &str) -> Cow<'_, str> {
    let port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, digits)) if port(digits) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

fn elements(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    (!path.is_empty()).then(|| path.split('/')).into_iter().flatten()
}

/// Normalizes a path for comparison: decodes percent-encoding, except of separators, and resolves `.`
/// and `..` (RFC 3986, 6.2.2), or `/public/../secret` would match `/public`.
fn normalize(path: &str) -> Cow<'_, str> {
    if !path.contains('%') && !path.contains("/.") {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<Cow<'_, str>> = Vec::new();
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(part) = parts.next() {
        let decoded = decode(part);
        let last = parts.peek().is_none();
        match &*decoded {
            "." if last => kept.push(Cow::Borrowed("")),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push(Cow::Borrowed(""));
                }
            }
            _ => kept.push(decoded),
        }
    }
    Cow::Owned(format!("/{}", kept.join("/")))
}

/// Decodes an element. One with an encoded slash, or that is not UTF-8, stays as it is written.
fn decode(element: &str) -> Cow<'_, str> {
    match percent_decode_str(element).decode_utf8() {
        Ok(decoded) if !decoded.contains('/') => decoded,
        _ => Cow::Borrowed(element),
    }
}

#[cfg(test)]
mod tests;
