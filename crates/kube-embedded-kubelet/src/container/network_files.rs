//! The files by which a container resolves names, `/etc/hosts`, `/etc/hostname` and
//! `/etc/resolv.conf`, as the kubelet writes them.

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use kube_embedded_core::{
    network::CLUSTER_DOMAIN,
    resolv_conf::{self, ResolvConf},
};
use std::{fmt::Write, net::Ipv4Addr, path::Path};

/// The maximum length of a host name of Linux, and of one label of a domain name.
const MAX_HOSTNAME: usize = 64;
const MAX_LABEL: usize = 63;
/// The limits of the kubelet for `/etc/resolv.conf`.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// Returns the files of a container by path, and what had to be left out, for events.
pub(crate) fn all(
    pod: &Pod,
    address: Ipv4Addr,
    cluster_dns: Ipv4Addr,
) -> (Vec<(String, String)>, Vec<String>) {
    let host = ResolvConf::read(Path::new(resolv_conf::PATH));
    let (resolver, omitted) = resolver(pod, cluster_dns, &host);
    let hostname = hostname(pod).unwrap_or_default() + "\n";
    let files = [
        ("/etc/hosts", hosts(pod, address)),
        ("/etc/hostname", hostname),
        ("/etc/resolv.conf", resolver),
    ];
    (files.map(|(path, content)| (path.to_owned(), content)).into(), omitted)
}

/// The names of a pod.
#[derive(Debug, PartialEq, Eq)]
struct HostName {
    name: String,
    /// The domain of a pod that names a headless Service as its `subdomain`.
    domain: Option<String>,
}

impl HostName {
    fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        // The field came with Kubernetes 1.34.
        k8s_openapi::k8s_if_ge_1_34! {
            if let Some(name) = spec.and_then(|spec| text(&spec.hostname_override)) {
                return Self { name, domain: None };
            }
        }
        let name = spec.and_then(|spec| text(&spec.hostname)).unwrap_or_else(|| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let name: String = name.chars().take(MAX_LABEL).collect();
            name.trim_end_matches(['-', '.']).to_owned()
        });
        let domain = spec
            .and_then(|spec| text(&spec.subdomain))
            .map(|subdomain| format!("{subdomain}.{}.svc.{CLUSTER_DOMAIN}", namespace(pod)));
        Self { name, domain }
    }
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// Returns the host name that the pod's programs see: with its domain if `setHostnameAsFQDN` is set.
///
/// # Errors
/// The kubelet's message, if the name is too long for Linux.
pub(crate) fn hostname(pod: &Pod) -> Result<String, String> {
    let HostName { name, domain } = HostName::of(pod);
    let qualified = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let Some(domain) = domain.filter(|_| qualified) else { return Ok(name) };
    let name = format!("{name}.{domain}");
    if name.len() > MAX_HOSTNAME {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long \
             ({MAX_HOSTNAME} characters is the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(name)
}

/// Returns `/etc/hosts`.
fn hosts(pod: &Pod, address: Ipv4Addr) -> String {
    let HostName { name, domain } = HostName::of(pod);
    let mut text = "# Kubernetes-managed hosts file.\n\
                    127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\n\
                    fe00::0\tip6-mcastprefix\n\
                    fe00::1\tip6-allnodes\n\
                    fe00::2\tip6-allrouters\n"
        .to_owned();
    let qualified = domain.map(|domain| format!("{name}.{domain}\t")).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{address}\t{qualified}{name}");
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    for (index, alias) in aliases.enumerate() {
        if index == 0 {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

/// Returns `/etc/resolv.conf`, and what was left out of it, for events. `cluster` is the address of
/// the cluster's name server, which forwards to those of the host: a pod cannot reach these, so
/// `dnsPolicy: Default` has it, too.
fn resolver(pod: &Pod, cluster: Ipv4Addr, host: &ResolvConf) -> (String, Vec<String>) {
    let unset = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&unset);
    let on_host_network = spec.host_network == Some(true);
    let mut config = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => Resolver::of_host(cluster, host),
        Some("ClusterFirstWithHostNet") => Resolver::of_cluster(namespace(pod), cluster, host),
        _ if on_host_network => Resolver::of_host(cluster, host),
        _ => Resolver::of_cluster(namespace(pod), cluster, host),
    };
    if let Some(own) = &spec.dns_config {
        config.merge(own);
    }
    let omitted = config.limit();
    (config.to_string(), omitted)
}

/// The content of `/etc/resolv.conf`. Pods may name servers in any form that the API accepts.
#[derive(Debug, Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    /// Names and values, `ndots` and `5`.
    options: Vec<(String, Option<String>)>,
}

impl Resolver {
    fn of_host(cluster: Ipv4Addr, host: &ResolvConf) -> Self {
        let options = host.options.iter().map(|option| match option.split_once(':') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (option.clone(), None),
        });
        Self {
            nameservers: vec![cluster.to_string()],
            searches: host.searches.clone(),
            options: options.collect(),
        }
    }

    fn of_cluster(namespace: &str, cluster: Ipv4Addr, host: &ResolvConf) -> Self {
        let mut searches = vec![
            format!("{namespace}.svc.{CLUSTER_DOMAIN}"),
            format!("svc.{CLUSTER_DOMAIN}"),
            CLUSTER_DOMAIN.to_owned(),
        ];
        extend_unique(&mut searches, &host.searches);
        Self {
            nameservers: vec![cluster.to_string()],
            searches,
            options: vec![("ndots".to_owned(), Some("5".to_owned()))],
        }
    }

    /// Adds the pod's own settings; an option of the same name is replaced.
    fn merge(&mut self, own: &PodDNSConfig) {
        extend_unique(&mut self.nameservers, own.nameservers.iter().flatten());
        extend_unique(&mut self.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            match self.options.iter_mut().find(|(known, _)| *known == name) {
                Some((_, value)) => value.clone_from(&option.value),
                None => self.options.push((name, option.value.clone())),
            }
        }
    }

    /// Leaves out what exceeds the kubelet's limits, and returns its messages about that.
    fn limit(&mut self) -> Vec<String> {
        let mut omitted = Vec::new();
        let mut length = 0;
        let fitting = self.searches.iter().take(MAX_SEARCHES).take_while(|search| {
            length += search.len() + usize::from(length > 0);
            length <= MAX_SEARCH_CHARACTERS
        });
        let fitting = fitting.count();
        if fitting < self.searches.len() {
            self.searches.truncate(fitting);
            omitted.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied \
                 search line is: {}",
                self.searches.join(" ")
            ));
        }
        if self.nameservers.len() > MAX_NAMESERVERS {
            self.nameservers.truncate(MAX_NAMESERVERS);
            omitted.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
                 nameserver line is: {}",
                self.nameservers.join(" ")
            ));
        }
        omitted
    }
}

impl std::fmt::Display for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for nameserver in &self.nameservers {
            writeln!(f, "nameserver {nameserver}")?;
        }
        if !self.options.is_empty() {
            f.write_str("options")?;
            for (name, value) in &self.options {
                write!(f, " {name}")?;
                if let Some(value) = value {
                    write!(f, ":{value}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn extend_unique<'a>(list: &mut Vec<String>, more: impl IntoIterator<Item = &'a String>) {
    for text in more {
        if !list.contains(text) {
            list.push(text.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

    fn pod(spec: Value) -> Pod {
        let mut pod = json!({ "metadata": { "name": "web-0", "namespace": "shop" }, "spec": spec });
        pod["spec"]["containers"] = json!([]);
        serde_json::from_value(pod).unwrap()
    }

    fn host() -> ResolvConf {
        let text =
            "nameserver 192.0.2.1\nsearch example.com cluster.local\noptions edns0 timeout:1";
        ResolvConf::parse(text)
    }

    #[test]
    fn resolv_conf_follows_the_dns_policy() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local example.com\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";
        let of_host = "search example.com cluster.local\nnameserver 10.96.0.10\n\
                       options edns0 timeout:1\n";
        let config = json!({
            "nameservers": ["192.0.2.9", "10.96.0.10"],
            "searches": ["a.example", "svc.cluster.local"],
            "options": [{ "name": "ndots", "value": "2" }, { "name": "single-request" }],
        });
        let merged = "search shop.svc.cluster.local svc.cluster.local cluster.local example.com \
                      a.example\nnameserver 10.96.0.10\nnameserver 192.0.2.9\n\
                      options ndots:2 single-request\n";
        let own = "search a.example svc.cluster.local\nnameserver 192.0.2.9\n\
                   nameserver 10.96.0.10\noptions ndots:2 single-request\n";
        for (spec, expected) in [
            (json!({}), cluster),
            (json!({ "dnsPolicy": "ClusterFirst" }), cluster),
            (json!({ "dnsPolicy": "ClusterFirst", "hostNetwork": true }), of_host),
            (json!({ "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true }), cluster),
            (json!({ "dnsPolicy": "Default" }), of_host),
            (json!({ "dnsPolicy": "ClusterFirst", "dnsConfig": config }), merged),
            (json!({ "dnsPolicy": "None", "dnsConfig": config }), own),
            (json!({ "dnsPolicy": "None" }), ""),
        ] {
            let (text, omitted) = resolver(&pod(spec.clone()), CLUSTER, &host());
            assert_eq!((&*text, omitted), (expected, Vec::new()), "{spec}");
        }
    }

    #[test]
    fn resolv_conf_has_the_limits_of_the_kubelet() {
        let searches: Vec<String> = (0..40).map(|n| format!("s{n}.example")).collect();
        let servers = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let spec = json!({ "dnsConfig": { "searches": searches, "nameservers": servers } });
        let (text, omitted) = resolver(&pod(spec), CLUSTER, &ResolvConf::default());
        assert_eq!(text.lines().next().unwrap().split(' ').count(), 33, "{text}");
        assert_eq!(text.matches("nameserver").count(), 3, "{text}");
        assert!(omitted[0].starts_with("Search Line limits were exceeded"), "{omitted:?}");
        assert!(omitted[1].ends_with("line is: 10.96.0.10 192.0.2.1 192.0.2.2"), "{omitted:?}");

        let long: Vec<String> = (0..20).map(|n| format!("{n}.{}", "x".repeat(200))).collect();
        let spec = json!({ "dnsPolicy": "None", "dnsConfig": { "searches": long } });
        let (text, omitted) = resolver(&pod(spec), CLUSTER, &ResolvConf::default());
        assert!(text.len() <= "search \n".len() + 2048 && omitted.len() == 1, "{text}");
    }

    #[test]
    fn hosts_and_hostname_have_subdomain_and_aliases() {
        let address = Ipv4Addr::new(10, 244, 1, 2);
        let own = |spec: Value| {
            let text = hosts(&pod(spec), address);
            assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
            text.split_once("ip6-allrouters\n").unwrap().1.to_owned()
        };
        assert_eq!(own(json!({})), "10.244.1.2\tweb-0\n");
        assert_eq!(
            own(json!({ "hostname": "db", "subdomain": "data" })),
            "10.244.1.2\tdb.data.shop.svc.cluster.local\tdb\n"
        );
        let aliases = json!({ "hostAliases": [
            { "ip": "127.0.0.1", "hostnames": ["foo.local", "bar.local"] },
            { "ip": "10.1.2.3", "hostnames": ["baz"] },
        ] });
        assert_eq!(
            own(aliases),
            "10.244.1.2\tweb-0\n\n# Entries added by HostAliases.\n\
             127.0.0.1\tfoo.local\tbar.local\n10.1.2.3\tbaz\n"
        );
        for (spec, expected) in [
            (json!({}), "web-0"),
            (json!({ "hostname": "db", "subdomain": "data" }), "db"),
            (
                json!({ "subdomain": "d", "setHostnameAsFQDN": true }),
                "web-0.d.shop.svc.cluster.local",
            ),
            (json!({ "setHostnameAsFQDN": true }), "web-0"),
            (json!({ "hostnameOverride": "a.example", "hostname": "db" }), "a.example"),
        ] {
            assert_eq!(hostname(&pod(spec.clone())).as_deref(), Ok(expected), "{spec}");
        }
        let long = json!({ "subdomain": "d".repeat(40), "setHostnameAsFQDN": true });
        assert!(
            hostname(&pod(long)).unwrap_err().contains("is too long (64 characters is the max")
        );
    }
}
