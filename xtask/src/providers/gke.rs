//! Google Kubernetes Engine, by gcloud. It costs money, so nothing is created without confirmation,
//! everything is labeled with its expiry, and `down` ends with a list of what may still cost money.

use crate::{
    cluster::{
        flags::ClusterFlags,
        profile::ClusterProfile,
        provider::{Provider, ProviderContext, QUERY_TIMEOUT},
        record::unix_now,
        spec::{NONE, Spec},
    },
    doctor::{
        check::{Check, CheckContext, Depth, Finding, State},
        tools,
    },
    exec::{command_line::CommandLine, daemon::Daemon, runner::KnownError},
    failure::Failure,
    images::push,
    output::{errln, outln},
};
use anyhow::{Context, Result, bail};
use lab_environment::{Alternative, Timeouts, UnsupportedClaim};
use serde_json::Value;
use std::time::Duration;

/// The provider.
pub(crate) struct Gke;

/// The image repository, one per project and region, shared by its clusters.
const REPOSITORY: &str = "canary-labs";
/// Hours until a cluster is reported as expired.
const HOURS: u32 = 4;
/// The machine type of Standard clusters: the smallest that runs kubeapp next to GKE's own pods.
const MACHINE: &str = "e2-medium";

/// A cluster takes 5 to 10 minutes; longer when there is no capacity.
const CREATE: Duration = Duration::from_secs(1800);
const DELETE: Duration = Duration::from_secs(1800);
/// Time for the load balancers to be deleted.
const UNPUBLISH: Duration = Duration::from_secs(600);

const CHECKS: &[Check] = &[
    Check::new("gcloud", |context| tools::version(context, "gcloud", &["--version"])),
    Check::new("plugin", check_plugin),
    Check::new("account", check_account),
    Check::new("kubectl", tools::kubectl),
    Check::new("curl", tools::curl),
];

const KNOWN_ERRORS: &[KnownError] = &[
    KnownError::new(
        &[
            "Reauthentication",
            "problem refreshing your current auth tokens",
            "invalid authentication credentials",
        ],
        "the credentials have expired",
        "`gcloud auth login`",
    ),
    KnownError::new(
        &["do not currently have an active account"],
        "no account is logged in",
        "`gcloud auth login`",
    ),
    KnownError::new(
        &["gke-gcloud-auth-plugin"],
        "the kubectl plugin is not installed",
        "`gcloud components install gke-gcloud-auth-plugin`, or the package google-cloud-cli-gke-gcloud-auth-plugin",
    ),
    KnownError::new(
        &["Insufficient regional quota", "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded"],
        "the project's quota is exceeded",
        "use another `--location`, fewer `--nodes`, or https://console.cloud.google.com/iam-admin/quotas",
    ),
    KnownError::new(
        &["SERVICE_DISABLED", "has not been used in project"],
        "an API of the project is disabled",
        "`gcloud services enable container.googleapis.com artifactregistry.googleapis.com`",
    ),
    KnownError::new(
        &["PERMISSION_DENIED"],
        "the account lacks permissions",
        "it needs roles/container.admin and roles/artifactregistry.admin in the project",
    ),
    KnownError::new(
        &["Already exists"],
        "the name of the cluster is taken",
        "create another with `--name <name>`",
    ),
];

impl Provider for Gke {
    fn name(&self) -> &'static str {
        "gke"
    }

    fn flags(&self) -> &'static [&'static str] {
        &[
            "--name",
            "--image",
            "--registry",
            "--pull-secret",
            "--ingress-class",
            "--gateway-class",
            "--project",
            "--location",
            "--standard",
            "--nodes",
            "--ttl",
        ]
    }

    fn checks(&self) -> &'static [Check] {
        CHECKS
    }

    fn spec(&self, flags: &ClusterFlags) -> Result<Spec> {
        let create = &flags.create;
        let (Some(project), Some(location)) = (create.project.clone(), create.location.clone())
        else {
            bail!(Failure::Usage(
                "gke requires `--project <id> --location <region or zone>`".into()
            ));
        };
        if create.nodes == Some(0) || (create.nodes.is_some() && !create.standard) {
            bail!(Failure::Usage("`--nodes` requires `--standard` and must be at least 1".into()));
        }
        let hours = u64::from(create.ttl.unwrap_or(HOURS));
        Ok(Spec {
            registry: flags.registry.clone(),
            image: flags.image.clone(),
            project,
            location,
            standard: create.standard,
            nodes: create.nodes.unwrap_or(3),
            expires: Some(unix_now() + hours * 3600),
            ..Spec::named(flags)
        })
    }

    fn profile(&self, _: &Spec) -> ClusterProfile {
        ClusterProfile {
            // A healthy Ingress takes up to 15 minutes; a rollout may wait for a new node.
            timeouts: Timeouts { rollout: 600, address: 900, request: 15, propagation: 5 },
            // Requests cross the Internet: hundreds, not thousands.
            precision: Alternative::Even,
            unsupported: vec![UnsupportedClaim {
                claim: "nodeport-in-range".into(),
                reason: "GKE's firewall blocks node ports from outside the cluster".into(),
            }],
        }
    }

    fn cost(&self, spec: &Spec) -> Option<String> {
        let what = match spec.standard {
            true => format!("{} nodes {MACHINE} while they run", nodes(spec).1),
            false => "the resource requests of the pods (Autopilot)".into(),
        };
        let hours = spec.expires.unwrap_or_default().saturating_sub(unix_now()).div_ceil(3600);
        Some(format!(
            "this costs money in project {}: GKE's hourly fee, {what}, and a load balancer for each \
             Service or Ingress; it expires in {hours} h, but only `cargo xtask down --on gke` deletes \
             it",
            spec.project
        ))
    }

    fn exists(&self, context: &ProviderContext) -> Result<bool> {
        let clusters = context.query(&list(context.spec))?;
        let clusters: Value = serde_json::from_str(clusters.trim()).unwrap_or_default();
        let all = clusters.as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(found) = all.iter().find(|c| text(c, "/name") == context.spec.name) else {
            return Ok(false);
        };
        match text(found, "/status") {
            "PROVISIONING" | "RECONCILING" | "STOPPING" => bail!(
                "gke: `{}` is being changed ({}); retry when that is done",
                context.spec.name,
                text(found, "/status")
            ),
            _ => Ok(true),
        }
    }

    /// Creates what is missing: a cluster that is listed exists.
    fn can_resume(&self) -> bool {
        true
    }

    fn allow_ephemeral(&self) -> bool {
        false
    }

    fn create(&self, context: &ProviderContext) -> Result<Option<Daemon>> {
        if context.spec.registry.is_none() {
            let created = context.runner.run(&repository(context.spec), QUERY_TIMEOUT * 3)?;
            if !created.is_success() && !created.stderr.contains("ALREADY_EXISTS") {
                bail!(created.error(KNOWN_ERRORS));
            }
        }
        if !context.runner.is_dry_run() && self.exists(context)? {
            return Ok(None);
        }
        context.run(&create(context.spec), CREATE)?;
        Ok(None)
    }

    fn write_kubeconfig(&self, context: &ProviderContext) -> Result<()> {
        context.query(&credentials(context.spec).kubeconfig(&context.kubeconfig)).map(drop)
    }

    /// Waits for the API alone: Autopilot has no node before a pod needs one.
    fn wait_ready(&self, context: &ProviderContext) -> Result<()> {
        context.wait_for_nodes(&context.kubectl("get --raw /readyz --request-timeout=30s"))
    }

    fn registry(&self, context: &ProviderContext) -> Result<Option<push::Registry>> {
        let name = match &context.spec.registry {
            Some(name) if name == NONE => return Ok(None),
            Some(name) => return push::Registry::parse(name).map(Some),
            None => format!(
                "{}-docker.pkg.dev/{}/{REPOSITORY}",
                region(&context.spec.location),
                context.spec.project
            ),
        };
        let token = context.query(
            &CommandLine::new("gcloud auth print-access-token --quiet").sensitive_output(),
        )?;
        let registry = push::Registry::parse(&name)?;
        Ok(Some(registry.with_login("oauth2accesstoken", token.trim())))
    }

    fn delete(&self, context: &ProviderContext) -> Result<()> {
        // Load balancers first: nothing deletes them once the cluster is deleted.
        match self.write_kubeconfig(context).and_then(|()| unpublish(context)) {
            Ok(()) => {}
            Err(error) => errln!(
                "gke: failed to delete Services and Ingresses ({error:#}); their load balancers may remain"
            ),
        }
        context.run(&delete(context.spec), DELETE)?;
        for (what, line) in leftovers(context.spec) {
            let found = context.query(&line).unwrap_or_else(|error| format!("unknown: {error:#}"));
            let found = found.trim();
            if !found.is_empty() {
                errln!("gke: {what}, which may still cost money:\n{found}");
            }
        }
        Ok(())
    }

    fn known_errors(&self) -> &'static [KnownError] {
        KNOWN_ERRORS
    }
}

/// Checks the plugin that kubectl logs in with.
fn check_plugin(context: &CheckContext) -> Finding {
    let found = tools::version(context, "gke-gcloud-auth-plugin", &["--version"]);
    match found.state {
        State::Bad => found.with_fix("gcloud components install gke-gcloud-auth-plugin"),
        State::Ok | State::Note => found,
    }
}

/// Checks the account; not in a preflight, as gcloud takes a second to respond.
fn check_account(context: &CheckContext) -> Finding {
    if context.depth == Depth::Preflight {
        return Finding::ok("not checked");
    }
    let line = ["auth", "list", "--filter=status:ACTIVE", "--format=value(account)"];
    match tools::first_line("gcloud", &line) {
        Some(account) if !account.is_empty() => Finding::ok(account),
        _ => Finding::note("no account is logged in").with_fix("gcloud auth login"),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the region of a location: `europe-west1` for `europe-west1-b` and for itself.
fn region(location: &str) -> &str {
    match location.rsplit_once('-') {
        Some((region, zone)) if zone.len() == 1 => region,
        _ => location,
    }
}

/// Returns the number of nodes per zone, and in all: gcloud counts by zone, and a region has three.
fn nodes(spec: &Spec) -> (u32, u32) {
    match region(&spec.location) == spec.location {
        true => (spec.nodes.div_ceil(3), spec.nodes.div_ceil(3) * 3),
        false => (spec.nodes, spec.nodes),
    }
}

fn in_location(line: CommandLine, spec: &Spec) -> CommandLine {
    line.flag("--location", &spec.location).flag("--project", &spec.project).args(["--quiet"])
}

fn labels(spec: &Spec) -> String {
    format!("made-by=canary-labs,expires={}", spec.expires.unwrap_or_default())
}

fn create(spec: &Spec) -> CommandLine {
    let line = match spec.standard {
        false => CommandLine::new("gcloud container clusters create-auto").args([&spec.name]),
        true => CommandLine::new("gcloud container clusters create")
            .args([&spec.name])
            .flag("--num-nodes", nodes(spec).0.to_string())
            .flag("--machine-type", MACHINE)
            .flag("--disk-size", "20"),
    };
    in_location(
        line.flag("--labels", labels(spec)).opt_flag("--cluster-version", spec.image.clone()),
        spec,
    )
}

fn credentials(spec: &Spec) -> CommandLine {
    in_location(
        CommandLine::new("gcloud container clusters get-credentials").args([&spec.name]),
        spec,
    )
}

fn list(spec: &Spec) -> CommandLine {
    let line =
        CommandLine::new("gcloud container clusters list").flag("--format", "json(name,status)");
    in_location(line.flag("--filter", format!("name={}", spec.name)), spec)
}

fn delete(spec: &Spec) -> CommandLine {
    in_location(CommandLine::new("gcloud container clusters delete").args([&spec.name]), spec)
}

fn repository(spec: &Spec) -> CommandLine {
    CommandLine::new("gcloud artifacts repositories create")
        .args([REPOSITORY])
        .flag("--repository-format", "docker")
        .flag("--labels", "made-by=canary-labs")
        .flag("--location", region(&spec.location))
        .flag("--project", &spec.project)
        .args(["--quiet"])
}

/// Deletes every Ingress and every load balancer of the cluster and waits for it: their finalizers hold
/// them until Google Cloud has deleted its part.
fn unpublish(context: &ProviderContext) -> Result<()> {
    let timeout = format!("--timeout={}s", UNPUBLISH.as_secs());
    context.run(
        &context.kubectl("delete ingress --all --all-namespaces --wait").args([&timeout]),
        UNPUBLISH + QUERY_TIMEOUT,
    )?;
    let services =
        context.query(&context.kubectl("get services --all-namespaces --output json"))?;
    if context.runner.is_dry_run() {
        return outln!("# kubectl delete service … for each of type LoadBalancer");
    }
    for (namespace, name) in balancers(&services)? {
        let line = context.kubectl("delete service --wait").args([&timeout]);
        context
            .run(&line.flag("--namespace", namespace).args([name]), UNPUBLISH + QUERY_TIMEOUT)?;
    }
    Ok(())
}

fn balancers(services: &str) -> Result<Vec<(String, String)>> {
    let services: Value =
        serde_json::from_str(services).context("failed to parse the Services from kubectl")?;
    let items = services.get("items").and_then(Value::as_array).into_iter().flatten();
    Ok(items
        .filter(|service| text(service, "/spec/type") == "LoadBalancer")
        .map(|service| {
            (text(service, "/metadata/namespace").into(), text(service, "/metadata/name").into())
        })
        .collect())
}

/// Lists what may outlive a cluster, for the whole project: not everything refers to its cluster.
fn leftovers(spec: &Spec) -> [(&'static str, CommandLine); 4] {
    let list = |words: &str, format: &str| {
        CommandLine::new(words)
            .flag("--format", format)
            .flag("--project", &spec.project)
            .args(["--quiet"])
    };
    [
        (
            "load balancers of Kubernetes",
            list("gcloud compute forwarding-rules list", "value(name,region.basename(),IPAddress)")
                .flag("--filter", "description~kubernetes.io OR name~^k8s"),
        ),
        (
            "unused addresses",
            list("gcloud compute addresses list", "value(name,address)")
                .flag("--filter", "status=RESERVED"),
        ),
        (
            "disks of volumes",
            list("gcloud compute disks list", "value(name,zone.basename(),sizeGb)")
                .flag("--filter", "name~^pvc-"),
        ),
        (
            "the image repository (gcloud artifacts repositories delete canary-labs removes it)",
            list("gcloud artifacts repositories list", "value(name,sizeBytes)")
                .flag("--filter", "labels.made-by=canary-labs")
                .flag("--location", region(&spec.location)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::flags::CreateFlags;
    use std::path::Path;

    fn flags(standard: bool, location: &str) -> ClusterFlags {
        let (project, location) = (Some("p".into()), Some(location.into()));
        let create = CreateFlags { project, location, standard, ..CreateFlags::default() };
        ClusterFlags { create, ..ClusterFlags::default() }
    }

    fn with_nodes(nodes: u32, mut flags: ClusterFlags) -> ClusterFlags {
        flags.create.nodes = Some(nodes);
        flags
    }

    #[test]
    fn command_lines_are_complete() {
        let spec = |standard, location| Spec {
            expires: Some(1_800_000_000),
            ..Gke.spec(&flags(standard, location)).unwrap()
        };
        let (auto, standard) = (spec(false, "europe-west1"), spec(true, "europe-west1-b"));
        let (place, zone) = (
            "--location europe-west1 --project p --quiet",
            "--location europe-west1-b --project p --quiet",
        );
        let labels = "--labels made-by=canary-labs,expires=1800000000";
        for (line, expected) in [
            (
                create(&auto),
                format!("gcloud container clusters create-auto canary-labs {labels} {place}"),
            ),
            (
                create(&standard),
                format!(
                    "gcloud container clusters create canary-labs --num-nodes 3 --machine-type \
                     e2-medium --disk-size 20 {labels} {zone}"
                ),
            ),
            (
                credentials(&auto).kubeconfig(Path::new("/k")),
                format!(
                    "KUBECONFIG=/k gcloud container clusters get-credentials canary-labs {place}"
                ),
            ),
            (
                list(&auto),
                format!(
                    "gcloud container clusters list --format 'json(name,status)' --filter \
                     name=canary-labs {place}"
                ),
            ),
            (delete(&auto), format!("gcloud container clusters delete canary-labs {place}")),
            (
                repository(&standard),
                format!(
                    "gcloud artifacts repositories create canary-labs --repository-format docker \
                     --labels made-by=canary-labs {place}"
                ),
            ),
        ] {
            assert_eq!(line.to_string(), expected);
        }
        let leftovers = leftovers(&auto).map(|(_, line)| line.to_string());
        assert_eq!(
            leftovers[0],
            "gcloud compute forwarding-rules list --format \
             'value(name,region.basename(),IPAddress)' --project p --quiet --filter \
             'description~kubernetes.io OR name~^k8s'"
        );
        assert!(
            leftovers.iter().all(|line| line.contains(" list ") && line.contains("--project p"))
        );
    }

    #[test]
    fn regional_cluster_spreads_nodes_over_three_zones() {
        for (location, wanted, expected) in [
            ("europe-west1", 3, (1, 3)),
            ("europe-west1", 4, (2, 6)),
            ("europe-west1-b", 4, (4, 4)),
        ] {
            let flags = with_nodes(wanted, flags(true, location));
            assert_eq!(nodes(&Gke.spec(&flags).unwrap()), expected, "{location} {wanted}");
        }
    }

    #[test]
    fn contradicting_flags_are_usage_errors() {
        for wrong in [
            ClusterFlags::default(),
            with_nodes(3, flags(false, "l")),
            with_nodes(0, flags(true, "l")),
        ] {
            let error = Gke.spec(&wrong).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{error}");
        }
    }

    #[test]
    fn load_balancers_of_all_namespaces_are_found() {
        let json = r#"{"items":[
            {"metadata":{"namespace":"a","name":"x"},"spec":{"type":"LoadBalancer"}},
            {"metadata":{"namespace":"b","name":"y"},"spec":{"type":"ClusterIP"}}]}"#;
        assert_eq!(balancers(json).unwrap(), [("a".to_owned(), "x".to_owned())]);
        assert!(balancers("no").is_err());
    }

    #[test]
    fn cost_names_nodes_mode_and_expiry() {
        let cost =
            |standard| Gke.cost(&Gke.spec(&flags(standard, "europe-west1")).unwrap()).unwrap();
        assert!(cost(true).contains("3 nodes e2-medium") && cost(false).contains("Autopilot"));
        assert!(cost(true).contains("expires in 4 h"), "{}", cost(true));
    }
}
