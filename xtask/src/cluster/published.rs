//! What a cluster publishes: the addresses of its load balancers and Ingresses, as `kube-embedded published`
//! reports them, since this program has no client for Kubernetes.

use super::provider::ProviderContext;
use crate::exec::command_line::{CommandLine, quoted};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::time::Duration;

/// A load balancer or an Ingress, the most recent last.
#[derive(Debug, Deserialize)]
pub(crate) struct Published {
    /// `service` or `ingress`.
    kind: String,
    /// `production/app-lb`.
    name: String,
    /// The hosts of an Ingress.
    #[serde(default)]
    hosts: Vec<String>,
    /// `127.9.1.1:10080`: where HTTP is served; `None` without an address.
    http: Option<String>,
    /// Where TLS is served, of an Ingress.
    https: Option<String>,
}

/// Lists what the cluster publishes. Objects without an address are waited for this long.
pub(crate) fn list(context: &ProviderContext, wait: Duration) -> Result<Vec<Published>> {
    let program = context.project.program("kube-embedded");
    let line = CommandLine::default()
        .args([program.to_string_lossy(), "published".into()])
        .path("--kubeconfig", &context.kubeconfig)
        .flag("--wait", wait.as_secs().to_string());
    let output = context.runner.query(&line, wait + Duration::from_secs(30))?;
    serde_json::from_str(&output.into_stdout(&[])?).context("failed to parse what is published")
}

/// Formats them for people: a line each.
pub(crate) fn lines(published: &[Published]) -> Vec<String> {
    let line = |object: &Published| {
        let Published { kind, name, hosts, http, https } = object;
        let Some(http) = http else { return format!("{kind}  {name}  has no address yet") };
        let hosts = match hosts.as_slice() {
            [] => String::new(),
            hosts => format!("  for {}", hosts.join(", ")),
        };
        let tls = https.as_ref().map(|https| format!(", TLS at {https}")).unwrap_or_default();
        format!("{kind}  {name}  {}{tls}{hosts}", url(http))
    };
    published.iter().map(line).collect()
}

/// Returns the shell variables for the most recent load balancer and Ingress.
pub(crate) fn variables(published: &[Published]) -> Vec<String> {
    let last = |kind: &str| published.iter().rfind(|object| object.kind == kind);
    let (service, ingress) = (last("service"), last("ingress"));
    let variables = [
        ("SERVICE_URL", service.and_then(|service| service.http.as_deref()).map(url)),
        ("INGRESS", ingress.and_then(|ingress| ingress.http.clone())),
        ("INGRESS_TLS", ingress.and_then(|ingress| ingress.https.clone())),
    ];
    let export = |(name, value): (_, Option<String>)| {
        value.map(|value| format!("export {name}={}", quoted(&value)))
    };
    variables.into_iter().filter_map(export).collect()
}

/// Returns the URL of an address, without the port that is implied.
fn url(address: &str) -> String {
    format!("http://{}", address.strip_suffix(":80").unwrap_or(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_for_people_and_shells() {
        let json = r#"[
            {"kind": "service", "name": "a/old", "http": "127.9.1.1:80"},
            {"kind": "service", "name": "a/new", "http": "127.9.1.2:10080"},
            {"kind": "ingress", "name": "a/in", "hosts": ["foo.bar", "x.foo.bar"],
             "http": "127.9.2.1:10080", "https": "127.9.2.1:10443"}]"#;
        let all: Vec<Published> = serde_json::from_str(json).unwrap();
        assert_eq!(
            lines(&all),
            [
                "service  a/old  http://127.9.1.1",
                "service  a/new  http://127.9.1.2:10080",
                "ingress  a/in  http://127.9.2.1:10080, TLS at 127.9.2.1:10443  for foo.bar, x.foo.bar",
            ]
        );
        assert_eq!(
            variables(&all),
            [
                "export SERVICE_URL=http://127.9.1.2:10080",
                "export INGRESS=127.9.2.1:10080",
                "export INGRESS_TLS=127.9.2.1:10443",
            ]
        );
        let pending: Vec<Published> =
            serde_json::from_str(r#"[{"kind": "service", "name": "a/b"}]"#).unwrap();
        assert_eq!(lines(&pending), ["service  a/b  has no address yet"]);
        assert!(variables(&pending).is_empty());
    }
}
