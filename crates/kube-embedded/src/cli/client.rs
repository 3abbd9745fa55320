//! The client of a cluster that a kubeconfig names.

use kube::{
    Client,
    config::{AuthInfo, Config, Kubeconfig},
};
use std::{env, error::Error, path::Path};

/// Reads the current context of a kubeconfig.
pub(super) async fn config(path: &Path) -> Result<Config, String> {
    let unusable = |error: &dyn std::fmt::Display| {
        // First line only; the rest of a YAML error is a source excerpt.
        let cause = error.to_string();
        let cause = cause.lines().next().unwrap_or_default();
        format!("failed to read the kubeconfig {}: {cause}", path.display())
    };
    let text = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
    let clusters = text.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let has_proxy = clusters.into_iter().any(|cluster| cluster.proxy_url.is_some());
    let user = user(&text);
    let config = Config::from_custom_kubeconfig(text, &<_>::default()).await;
    let mut config = config.map_err(|error| unusable(&error))?;
    // kube takes HTTPS_PROXY from the environment and ignores NO_PROXY.
    let host = config.cluster_url.host().unwrap_or_default().to_owned();
    let no_proxy = env::var("no_proxy").or_else(|_| env::var("NO_PROXY")).unwrap_or_default();
    if config.proxy_url.is_some() && !has_proxy {
        if !bypasses_proxy(&host, &no_proxy) {
            return Err(format!(
                "HTTPS_PROXY is set, and this program does not connect through proxies; add {host} to \
                 NO_PROXY if it can be reached directly"
            ));
        }
        config.proxy_url = None;
    }
    // Checks certificates and keys, while it is known where they come from.
    match Client::try_from(config.clone()) {
        Ok(_) => Ok(config),
        Err(error) => Err(unusable_user(path, &user, &config.auth_info, &error)),
    }
}

/// Returns the name of the current context's user.
fn user(kubeconfig: &Kubeconfig) -> String {
    let current = kubeconfig.current_context.as_ref();
    let mut named = kubeconfig.contexts.iter().filter(|named| Some(&named.name) == current);
    let context = named.next().and_then(|named| named.context.as_ref());
    context.and_then(|context| context.user.clone()).unwrap_or_default()
}

/// Says whose certificate or key cannot be used, and what to do.
fn unusable_user(path: &Path, user: &str, from: &AuthInfo, error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let mut cause = cause.to_string();
    let file = from.client_certificate.as_ref().filter(|_| from.client_certificate_data.is_none());
    if cause.contains("UnsupportedCertVersion") {
        let certificate = file.map_or_else(String::new, |file| format!(" {file}"));
        cause = format!(
            "its client certificate{certificate} is an X.509 certificate of version 1, and only version 3 is \
             supported; issue it with an extension, as `openssl x509 -req -extfile <(echo \
             extendedKeyUsage=clientAuth)` does"
        );
    }
    format!("failed to use user `{user}` of the kubeconfig {}: {cause}", path.display())
}

/// Returns true if connections to the host use no proxy, by the rules of Go's clients: loopback addresses
/// never do, and NO_PROXY lists addresses, networks and domains.
fn bypasses_proxy(host: &str, no_proxy: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_lowercase();
    let address: Option<std::net::IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    let matches = |entry: &str| match (entry, address) {
        ("", _) => false,
        ("*", _) => true,
        (entry, Some(address)) => entry.parse() == Ok(address) || contains(entry, address),
        (entry, None) => {
            let domain = entry.trim_start_matches("*.").trim_start_matches('.').to_lowercase();
            host.strip_suffix(&*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
    };
    no_proxy.split(',').any(|entry| matches(entry.trim()))
}

/// Returns true if a network in CIDR notation contains the address.
fn contains(network: &str, address: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    let Some((base, length)) = network.split_once('/') else { return false };
    let Ok(length) = length.parse::<u32>() else { return false };
    match (base.parse(), address) {
        (Ok(V4(base)), V4(address)) if length <= 32 => {
            let shift = 32 - length;
            base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        (Ok(V6(base)), V6(address)) if length <= 128 => {
            let shift = 128 - length;
            base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl x509 -req` makes such a certificate without `-extfile`.
    #[tokio::test]
    async fn certificate_of_version_1_is_reported_with_kubeconfig_and_user() {
        const PEM: &str =
            include_str!("../../../kube-embedded-proxy/src/http_proxy/tls_secret/version1.pem");
        let folder = std::env::temp_dir().join(format!("canary-v1-{:x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).unwrap();
        let file = |name: &str| folder.join(name);
        std::fs::write(file("admin.pem"), PEM).unwrap();
        let kubeconfig = serde_json::json!({
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "other", "user": {}}, {"name": "admin",
                "user": {"client-certificate": "admin.pem", "client-key": "admin.pem"}}],
        });
        std::fs::write(file("config"), kubeconfig.to_string()).unwrap();
        let error = config(&file("config")).await.unwrap_err();
        let (path, certificate) = (file("config"), file("admin.pem"));
        for part in [
            format!("failed to use user `admin` of the kubeconfig {}: ", path.display()),
            format!(
                "its client certificate {} is an X.509 certificate of version 1",
                certificate.display()
            ),
            "`openssl x509 -req -extfile".to_owned(),
        ] {
            assert!(error.contains(&part), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn hosts_that_bypass_the_proxy_are_recognized() {
        for (host, no_proxy, expected) in [
            ("127.7.0.1", "", true),
            ("localhost", "", true),
            ("[::1]", "", true),
            ("10.1.2.3", "", false),
            ("10.1.2.3", "example.com, 10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("11.1.2.3", "0.0.0.0/0", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.0.0.0/99,10.0.0.0/x,/", false),
            ("fd00::1", "fd00::/8", true),
            ("api.example.com", "example.com", true),
            ("api.example.com", ".example.com", true),
            ("API.example.com", "*.Example.com", true),
            ("badexample.com", "example.com", false),
            ("example.com", "*", true),
            ("example.com", "", false),
        ] {
            assert_eq!(bypasses_proxy(host, no_proxy), expected, "{host} {no_proxy}");
        }
    }
}
