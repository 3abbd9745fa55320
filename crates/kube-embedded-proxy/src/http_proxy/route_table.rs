//! The route table: maps a request to a rule, for Ingresses and for the HTTP routes of a Gateway.
//!
//! An Ingress matches by the rules of `networking.k8s.io/v1`,
//! <https://kubernetes.io/docs/concepts/services-networking/ingress/>: rules of exactly the host, else
//! those of a wildcard that covers it, else those without a host. Among their paths the longest wins,
//! and an exact one over a prefix of the same length. If none matches, the default backend responds: a
//! host that has rules takes no paths from a less specific one, as with ingress-nginx and GKE.
//!
//! A Gateway matches by the rules of `HTTPRouteRule` in `gateway.networking.k8s.io/v1`: the listener
//! with the most specific host takes the request. Among the rules of its routes that match, the one
//! with the more specific host wins, then by path as above, then by method, and by the number of
//! headers and of query parameters.

pub(crate) use super::backend::Backend;
use super::{
    conditions::{Conditions, RequestFields},
    filters::{Filters, HeaderChanges},
    policies::{Retry, RuleTimeouts, SessionPersistence},
};
use percent_encoding::percent_decode_str;
use rand::{Rng, RngExt};
use std::{borrow::Cow, collections::HashMap, iter, ptr, sync::Arc};

/// The rules of hosts and paths. It is immutable, and replaced as a whole when objects change.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    /// Of each listener. Ingresses have one, for every host.
    listeners: Hosts<Hosts<Paths>>,
    /// Whether rules of a less specific host count where none of the most specific one matches, and a
    /// wildcard covers any number of labels.
    falls_through: bool,
    default: Option<Entry>,
}

/// What becomes of the requests that match.
#[derive(Debug, Default)]
pub(crate) struct RouteRule {
    pub(crate) backends: Vec<WeightedBackend>,
    /// Of most rules there are none.
    pub(crate) filters: Option<Box<Filters>>,
    pub(crate) timeouts: RuleTimeouts,
    pub(crate) retry: Option<Box<Retry>>,
    pub(crate) session: Option<Box<SessionPersistence>>,
}

/// A backend that gets a share of the requests.
#[derive(Debug)]
pub(crate) struct WeightedBackend {
    pub(crate) weight: u32,
    /// `None` if the reference is invalid: its share of the requests fails.
    pub(crate) backend: Option<Arc<Backend>>,
    /// Changes of the requests that this backend gets, and of its responses.
    pub(crate) headers: Option<Box<(HeaderChanges, HeaderChanges)>>,
}

/// A rule of an Ingress: one path of one host.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `foo.bar.com`, `*.bar.com`, or `None` for every host.
    pub(crate) host: Option<String>,
    pub(crate) path: Path,
    pub(crate) backend: Arc<Backend>,
}

/// One match of a rule of an HTTP route, for one of the hosts that its listener and the route share.
#[derive(Debug)]
pub(crate) struct HttpMatch {
    /// The host of the listener: of several listeners of a port, the most specific takes a request.
    pub(crate) listener: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) path: PathMatch,
    pub(crate) conditions: Conditions,
    pub(crate) rule: Arc<RouteRule>,
}

/// The path of an [`HttpMatch`].
#[derive(Clone, Debug)]
pub(crate) enum PathMatch {
    Path(Path),
    /// A regular expression for the whole path.
    Regex(regex::Regex),
}

/// A rule in the table.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) rule: Arc<RouteRule>,
    /// What a request must have besides host and path.
    conditions: Option<Box<Conditions>>,
    /// The number of elements of a path or prefix, which a rewrite replaces.
    pub(crate) prefix: usize,
}

impl RouteRule {
    /// Chooses a backend at random, by weight. Returns `None` if the weights add up to nothing.
    pub(crate) fn choose(&self, rng: &mut impl Rng) -> Option<&WeightedBackend> {
        if let [only] = &*self.backends {
            return Some(only).filter(|only| only.weight > 0);
        }
        let total: u64 = self.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.random_range(0..total);
        self.backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        })
    }
}

impl From<Arc<Backend>> for RouteRule {
    fn from(backend: Arc<Backend>) -> Self {
        let only = WeightedBackend { weight: 1, backend: Some(backend), headers: None };
        Self { backends: vec![only], ..Self::default() }
    }
}

/// Values by host: exact, by wildcard, or for all.
#[derive(Clone, Debug)]
pub(crate) struct Hosts<T> {
    exact: HashMap<String, T>,
    /// `foo.com` for `*.foo.com`.
    wildcards: HashMap<String, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: HashMap::new(), any: None }
    }
}

impl<T: Default> Hosts<T> {
    /// Returns the value of a host, of a wildcard such as `*.foo.com`, or of all hosts.
    pub(crate) fn entry(&mut self, host: Option<&str>) -> &mut T {
        let Some(host) = host.map(host_name) else { return self.any.get_or_insert_default() };
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcards.entry(parent.to_owned()).or_default(),
            None => self.exact.entry(host.into_owned()).or_default(),
        }
    }
}

impl<T> Hosts<T> {
    /// Returns the values for a host, the most specific first. A wildcard covers one label, or any
    /// number if it is `deep`.
    pub(crate) fn matching(&self, host: Option<&str>, deep: bool) -> impl Iterator<Item = &T> {
        let exact = host.and_then(|host| self.exact.get(host));
        let mut rest = host.filter(|_| !self.wildcards.is_empty());
        let mut parents = iter::from_fn(move || {
            let (label, parent) = rest?.split_once('.')?;
            rest = Some(parent).filter(|_| deep);
            (!label.is_empty()).then_some(parent)
        });
        let wildcards =
            iter::from_fn(move || parents.find_map(|parent| self.wildcards.get(parent)));
        exact.into_iter().chain(wildcards).chain(&self.any)
    }
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
    /// Builds the table of Ingresses. Of two rules for the same host and path, the first one counts.
    pub(crate) fn new(
        rules: impl IntoIterator<Item = Rule>,
        default: Option<Arc<Backend>>,
    ) -> Self {
        let entry = |backend: Arc<Backend>, prefix| Entry {
            rule: Arc::new(backend.into()),
            conditions: None,
            prefix,
        };
        let mut table = Self { default: default.map(|d| entry(d, 0)), ..Self::default() };
        let hosts = table.listeners.entry(None);
        for Rule { host, path, backend } in rules {
            hosts.entry(host.as_deref()).leaf(path).push(entry(backend, 0));
        }
        table
    }

    /// Builds the table of a port of a Gateway. A listener takes the requests of its host also if it
    /// has no routes. Of matches that are equally specific, the first one counts.
    pub(crate) fn of_gateway(
        listeners: impl IntoIterator<Item = Option<String>>,
        matches: impl IntoIterator<Item = HttpMatch>,
    ) -> Self {
        let mut table = Self { falls_through: true, ..Self::default() };
        for host in listeners {
            table.listeners.entry(host.as_deref());
        }
        for HttpMatch { listener, host, path, conditions, rule } in matches {
            let paths = table.listeners.entry(listener.as_deref()).entry(host.as_deref());
            let conditions = (!conditions.is_empty()).then(|| Box::new(conditions));
            let mut entry = Entry { rule, conditions, prefix: 0 };
            match path {
                PathMatch::Regex(regex) => paths.regexes.push((regex, entry)),
                PathMatch::Path(path) => {
                    entry.prefix = match &path {
                        Path::Prefix(elements) | Path::Below(elements) => elements.len(),
                        Path::Exact(path) => elements(path).count(),
                    };
                    let leaf = paths.leaf(path);
                    let weight = entry.specificity();
                    let at = leaf.partition_point(|other| other.specificity() >= weight);
                    leaf.insert(at, entry);
                }
            }
        }
        table
    }

    /// Returns the rule of a request, or `None` if none matches and there is no default backend. The
    /// host may have a port; the path is as sent, without a query.
    pub(crate) fn find(
        &self,
        host: Option<&str>,
        path: &str,
        fields: &RequestFields<'_>,
    ) -> Option<&Entry> {
        let host = host.map(host_name);
        let path = normalize(path);
        let deep = self.falls_through;
        let listener = self.listeners.matching(host.as_deref(), deep).next();
        let mut hosts =
            listener.into_iter().flat_map(|hosts| hosts.matching(host.as_deref(), deep));
        let found = match self.falls_through {
            true => hosts.find_map(|paths| paths.find(&path, fields)),
            false => hosts.next().and_then(|paths| paths.find(&path, fields)),
        };
        found.or(self.default.as_ref())
    }
}

impl RouteTable {
    /// Returns whether another listener has the host of a request than the name that its TLS connection
    /// was made with: another Gateway's rules, or certificates, would be bypassed.
    pub(crate) fn is_misdirected(&self, server_name: Option<&str>, host: Option<&str>) -> bool {
        let listener = |name: Option<&str>| {
            let name = name.map(host_name);
            self.listeners.matching(name.as_deref(), true).next().map(ptr::from_ref)
        };
        self.falls_through && listener(server_name) != listener(host)
    }
}

impl Entry {
    /// Returns what is compared among rules of the same host and path.
    fn specificity(&self) -> (bool, usize, usize) {
        self.conditions.as_ref().map_or_else(Default::default, |c| c.specificity())
    }
}

impl Entry {
    /// Returns the part of a request's path that the rule names; all of it is below `/`.
    pub(crate) fn matched_path<'a>(&self, path: &'a str) -> &'a str {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        match self.prefix.checked_sub(1) {
            Some(last) => ends.into_iter().nth(last).map_or(path, |end| &path[..end]),
            None => "/",
        }
    }
}

/// The paths of one host, as a tree, so that a lookup takes as many steps as the longest path has
/// elements, however many paths there are.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Vec<Entry>>,
    regexes: Vec<(regex::Regex, Entry)>,
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    rules: Vec<Entry>,
    /// Of paths that are longer.
    rules_below: Vec<Entry>,
    below: HashMap<String, Node>,
}

impl Paths {
    fn leaf(&mut self, path: Path) -> &mut Vec<Entry> {
        match path {
            Path::Exact(path) => self.exact.entry(path).or_default(),
            Path::Prefix(elements) => &mut self.node(elements).rules,
            Path::Below(elements) => &mut self.node(elements).rules_below,
        }
    }

    fn node(&mut self, elements: Vec<String>) -> &mut Node {
        elements
            .into_iter()
            .fold(&mut self.root, |node, element| node.below.entry(element).or_default())
    }

    fn find(&self, path: &str, fields: &RequestFields<'_>) -> Option<&Entry> {
        let matching = |entry: &&Entry| entry.conditions.as_ref().is_none_or(|c| c.hold(fields));
        // An exact match is the longest one possible.
        if let Some(entry) = self.exact.get(path).and_then(|all| all.iter().find(matching)) {
            return Some(entry);
        }
        let of_regex = self.regexes.iter().filter(|(regex, _)| regex.is_match(path));
        if let Some(entry) = of_regex.map(|(_, entry)| entry).find(matching) {
            return Some(entry);
        }
        let mut node = &self.root;
        let mut longest = node.rules.iter().find(matching);
        for element in elements(path) {
            longest = node.rules_below.iter().find(matching).or(longest);
            match node.below.get(element) {
                Some(below) => node = below,
                None => break,
            }
            longest = node.rules.iter().find(matching).or(longest);
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
