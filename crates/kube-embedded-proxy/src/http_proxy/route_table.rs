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
    shared_map::{SharedMap, prefixes},
};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use rand::{Rng, RngExt};
use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, iter, ptr, sync::Arc};

/// The rules of hosts and paths. Requests see one that does not change, which is replaced as a whole; a copy
/// shares with it what is the same.
#[derive(Clone, Debug, Default)]
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

/// One match of a rule of an HTTP route.
#[derive(Clone, Debug)]
pub(crate) struct HttpMatch {
    pub(crate) path: PathMatch,
    pub(crate) conditions: Option<Arc<Conditions>>,
    pub(crate) rule: Arc<RouteRule>,
    pub(crate) rank: Rank,
}

/// Where a match counts: a host that a listener and a route have in common, or all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatchHost<'a> {
    /// The host of the listener: of several listeners of a port, the most specific takes a request.
    pub(crate) listener: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
}

/// Which one counts of matches that are equally specific: the least.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) owner: Arc<Precedence>,
    /// The positions of the rule and of the match.
    pub(crate) rule: usize,
    pub(crate) index: usize,
}

/// A route among others: the oldest comes first, then by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence {
    pub(crate) created: Option<Timestamp>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
}

/// The path of an [`HttpMatch`].
#[derive(Clone, Debug)]
pub(crate) enum PathMatch {
    Path(Path),
    /// A regular expression for the whole path.
    Regex(regex::Regex),
}

/// A rule in the table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) rule: Arc<RouteRule>,
    /// What a request must have besides host and path.
    conditions: Option<Arc<Conditions>>,
    /// The number of elements of a path or prefix, which a rewrite replaces.
    pub(crate) prefix: usize,
    rank: Rank,
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
    exact: SharedMap<T>,
    /// `foo.com` for `*.foo.com`.
    wildcards: SharedMap<T>,
    any: Option<Arc<T>>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: SharedMap::default(), wildcards: SharedMap::default(), any: None }
    }
}

impl<T: Clone + Default> Hosts<T> {
    /// Returns the value of a host, of a wildcard such as `*.foo.com`, or of all hosts.
    pub(crate) fn entry(&mut self, host: Option<&str>) -> &mut T {
        let Some(host) = host.map(host_name) else {
            return Arc::make_mut(self.any.get_or_insert_default());
        };
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcards.entry(parent),
            None => self.exact.entry(&host),
        }
    }

    fn remove(&mut self, host: Option<&str>) {
        let Some(host) = host.map(host_name) else {
            self.any = None;
            return;
        };
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcards.remove(parent),
            None => self.exact.remove(&host),
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
        exact.into_iter().chain(wildcards).chain(self.any.as_deref())
    }
}

const IMPLEMENTATION_SPECIFIC: &str = "ImplementationSpecific";

/// A path to match; two are equal if they match the same requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    /// The whole path.
    Exact(String),
    /// The first elements of the path, without a trailing slash, which means nothing: `/v2`, or nothing.
    Prefix(String),
    /// The first elements of the path, and something after them: `/v2/*` of GKE.
    Below(String),
}

impl Path {
    /// Creates a match for `pathType: Exact` or `Prefix`. `ImplementationSpecific` means `Prefix` here,
    /// or what GKE means by it if the path ends in `/*`. An empty path matches every one.
    pub(crate) fn new(path_type: &str, path: &str) -> Self {
        let path = normalize(path);
        let prefix = |path: &str| match path.trim_end_matches('/') {
            trimmed if trimmed.is_empty() || trimmed.starts_with('/') => trimmed.to_owned(),
            relative => format!("/{relative}"),
        };
        match path_type {
            "Exact" => Self::Exact(path.into_owned()),
            IMPLEMENTATION_SPECIFIC if &*path == "/*" => Self::Prefix(String::new()),
            IMPLEMENTATION_SPECIFIC if path.ends_with("/*") => {
                Self::Below(prefix(path.trim_end_matches('*')))
            }
            _ => Self::Prefix(prefix(&path)),
        }
    }

    /// Returns the number of its elements.
    fn elements(&self) -> usize {
        let (Self::Exact(path) | Self::Prefix(path) | Self::Below(path)) = self;
        match path.strip_prefix('/').unwrap_or(path) {
            "" => 0,
            path => path.split('/').count(),
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "{path} (Exact)"),
            Self::Prefix(path) if path.is_empty() => f.write_str("/ (Prefix)"),
            Self::Prefix(path) => write!(f, "{path} (Prefix)"),
            Self::Below(path) => write!(f, "{path}/*"),
        }
    }
}

impl RouteTable {
    /// Builds the table of Ingresses. Of two rules for the same host and path, the first one counts.
    pub(crate) fn new(
        rules: impl IntoIterator<Item = Rule>,
        default: Option<Arc<Backend>>,
    ) -> Self {
        let entry = |backend: Arc<Backend>| Entry {
            rule: Arc::new(backend.into()),
            conditions: None,
            prefix: 0,
            rank: Rank::default(),
        };
        let mut table = Self { default: default.map(entry), ..Self::default() };
        let hosts = table.listeners.entry(None);
        for Rule { host, path, backend } in rules {
            hosts.entry(host.as_deref()).insert(&PathMatch::Path(path), entry(backend));
        }
        table
    }

    /// Creates the table of a port of a Gateway, without routes. A listener takes the requests of its host
    /// also if it has none.
    pub(crate) fn of_gateway<'a>(listeners: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut table = Self { falls_through: true, ..Self::default() };
        for host in listeners {
            table.listeners.entry(host);
        }
        table
    }

    pub(crate) fn insert(&mut self, at: MatchHost<'_>, added: HttpMatch) {
        let HttpMatch { path, conditions, rule, rank } = added;
        let prefix = match &path {
            PathMatch::Path(path) => path.elements(),
            PathMatch::Regex(_) => 0,
        };
        let paths = self.listeners.entry(at.listener).entry(at.host);
        paths.insert(&path, Entry { rule, conditions, prefix, rank });
    }

    /// Removes what an owner has there.
    pub(crate) fn remove(&mut self, at: MatchHost<'_>, path: &PathMatch, owner: &Precedence) {
        let hosts = self.listeners.entry(at.listener);
        let paths = hosts.entry(at.host);
        paths.remove(path, owner);
        if paths.is_empty() {
            hosts.remove(at.host);
        }
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
    /// Returns the order among rules of the same host and path.
    fn order(&self) -> (Reverse<(bool, usize, usize)>, &Rank) {
        let specificity = self.conditions.as_ref().map(|conditions| conditions.specificity());
        (Reverse(specificity.unwrap_or_default()), &self.rank)
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

/// The paths of one host. A lookup takes as many steps as the path has elements, however many rules there
/// are.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: SharedMap<Vec<Entry>>,
    /// By rank.
    regexes: Vec<(regex::Regex, Entry)>,
    prefixes: SharedMap<Vec<Entry>>,
    /// Of paths that are longer than the prefix.
    below: SharedMap<Vec<Entry>>,
    /// The number of prefixes of each length: of a longer path no more is looked up.
    lengths: BTreeMap<usize, usize>,
}

impl Paths {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.regexes.is_empty() && self.lengths.is_empty()
    }

    fn leaves(&mut self, path: &Path) -> &mut SharedMap<Vec<Entry>> {
        match path {
            Path::Exact(_) => &mut self.exact,
            Path::Prefix(_) => &mut self.prefixes,
            Path::Below(_) => &mut self.below,
        }
    }

    /// Adds a rule, after those for the same that it equals.
    fn insert(&mut self, path: &PathMatch, entry: Entry) {
        let path = match path {
            PathMatch::Regex(regex) => {
                let at = self.regexes.partition_point(|(_, other)| other.rank <= entry.rank);
                return self.regexes.insert(at, (regex.clone(), entry));
            }
            PathMatch::Path(path) => path,
        };
        let (Path::Exact(text) | Path::Prefix(text) | Path::Below(text)) = path;
        let leaf = self.leaves(path).entry(text);
        let is_new = leaf.is_empty();
        let at = leaf.partition_point(|other| other.order() <= entry.order());
        leaf.insert(at, entry);
        if is_new && !matches!(path, Path::Exact(_)) {
            *self.lengths.entry(text.len()).or_default() += 1;
        }
    }

    fn remove(&mut self, path: &PathMatch, owner: &Precedence) {
        let is_other = |entry: &Entry| !ptr::eq(&*entry.rank.owner, owner);
        let path = match path {
            PathMatch::Regex(_) => return self.regexes.retain(|(_, entry)| is_other(entry)),
            PathMatch::Path(path) => path,
        };
        let (Path::Exact(text) | Path::Prefix(text) | Path::Below(text)) = path;
        let leaves = self.leaves(path);
        if leaves.get(text).is_none() {
            return;
        }
        let leaf = leaves.entry(text);
        leaf.retain(is_other);
        if !leaf.is_empty() {
            return;
        }
        leaves.remove(text);
        if !matches!(path, Path::Exact(_))
            && let Some(count) = self.lengths.get_mut(&text.len())
        {
            *count -= 1;
            self.lengths.retain(|_, count| *count > 0);
        }
    }

    fn find<'a>(&'a self, path: &str, fields: &RequestFields<'_>) -> Option<&'a Entry> {
        let matching = |entry: &&Entry| entry.conditions.as_ref().is_none_or(|c| c.hold(fields));
        // An exact match is the longest one possible.
        if let Some(entry) = self.exact.get(path).and_then(|all| all.iter().find(matching)) {
            return Some(entry);
        }
        let of_regex = self.regexes.iter().filter(|(regex, _)| regex.is_match(path));
        if let Some(entry) = of_regex.map(|(_, entry)| entry).find(matching) {
            return Some(entry);
        }
        let (longest_prefix, _) = self.lengths.last_key_value()?;
        let first = |leaf: Option<&'a Vec<Entry>>| leaf?.iter().find(matching);
        let (mut found, mut above) = (None, None);
        for prefix in prefixes(path) {
            if let Some(above) = above.replace(prefix) {
                found = first(self.below.get_prefix(above)).or(found);
            }
            if prefix.text.len() > *longest_prefix {
                break;
            }
            found = first(self.prefixes.get_prefix(prefix)).or(found);
        }
        found
    }
}

#[cfg(test)]
impl RouteTable {
    /// Returns every rule with its place, sorted: two tables are equal if these are.
    pub(crate) fn rows(&self, rule: impl Fn(&RouteRule) -> String) -> Vec<String> {
        fn each<T>(hosts: &Hosts<T>) -> impl Iterator<Item = (String, &T)> {
            let exact = hosts.exact.iter().map(|(host, value)| (host.to_owned(), value));
            let wildcards =
                hosts.wildcards.iter().map(|(host, value)| (format!("*.{host}"), value));
            let any = hosts.any.iter().map(|value| (String::new(), &**value));
            exact.chain(wildcards).chain(any)
        }
        let shown = |entry: &Entry| {
            let Entry { rule: found, conditions, prefix, rank } = entry;
            format!("{} {conditions:?} {prefix} {rank:?}", rule(found))
        };
        let mut rows = Vec::new();
        for (listener, hosts) in each(&self.listeners) {
            rows.push(listener.clone());
            for (host, Paths { exact, regexes, prefixes, below, lengths }) in each(hosts) {
                let leaves = [("exact", exact), ("prefix", prefixes), ("below", below)];
                let leaves = leaves.iter().flat_map(|(kind, leaves)| {
                    leaves.iter().map(move |(path, leaf)| {
                        let leaf: Vec<String> = leaf.iter().map(shown).collect();
                        format!("{kind} {path} {leaf:?}")
                    })
                });
                let regexes: Vec<String> = regexes
                    .iter()
                    .map(|(regex, entry)| format!("{regex} {}", shown(entry)))
                    .collect();
                let regexes = [format!("regexes {regexes:?}")];
                let all = leaves.chain(regexes).chain([format!("lengths {lengths:?}")]);
                rows.extend(all.map(|row| format!("{listener} {host} {row}")));
            }
        }
        rows.sort();
        rows
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
