//! Google Kubernetes Engine, by gcloud: the article's own cluster. It costs money, so nothing is made
//! before that was said and agreed to, everything carries labels and the time when it should be gone,
//! and `down` ends with a list of what may still cost.

use crate::{
    cluster::{
        Differences,
        outside::{self, Asked, Provider, Spec, Work},
    },
    failure::Failure,
    images::{Image, push},
    running,
    tool::{Fault, Line},
};
use anyhow::{Context, Result, bail};
use lab_environment::{Alternative, Timeouts, UnsupportedClaim};
use serde_json::Value;
use std::time::Duration;

/// The provider.
pub(crate) struct Gke;

/// Of images, one a project and region, shared by its clusters.
const REPOSITORY: &str = "canary-labs";
/// Hours until a cluster counts as forgotten.
const HOURS: u32 = 4;
/// Of a standard cluster: the least that runs kubeapp beside GKE's own pods.
const MACHINE: &str = "e2-medium";

/// A cluster takes 5 to 10 minutes; longer when there is no capacity.
const CREATE: Duration = Duration::from_secs(1800);
const DELETE: Duration = Duration::from_secs(1800);
/// For a load balancer to be taken apart.
const UNPUBLISH: Duration = Duration::from_secs(600);

const FAULTS: &[Fault] = &[
    ("Reauthentication", "the credentials have expired", "`gcloud auth login`"),
    (
        "problem refreshing your current auth tokens",
        "the credentials have expired",
        "`gcloud auth login`",
    ),
    ("invalid authentication credentials", "the credentials have expired", "`gcloud auth login`"),
    ("do not currently have an active account", "nobody is logged in", "`gcloud auth login`"),
    (
        "gke-gcloud-auth-plugin",
        "its plugin for kubectl is missing",
        "`gcloud components install gke-gcloud-auth-plugin`, or the package google-cloud-cli-gke-gcloud-auth-plugin",
    ),
    (
        "Insufficient regional quota",
        "the project's quota refuses it",
        "another `--location`, fewer `--nodes`, or https://console.cloud.google.com/iam-admin/quotas",
    ),
    (
        "RESOURCE_EXHAUSTED",
        "the project's quota refuses it",
        "another `--location`, fewer `--nodes`, or https://console.cloud.google.com/iam-admin/quotas",
    ),
    (
        "QUOTA_EXCEEDED",
        "the project's quota refuses it",
        "another `--location`, fewer `--nodes`, or https://console.cloud.google.com/iam-admin/quotas",
    ),
    (
        "Quota exceeded",
        "the project's quota refuses it",
        "another `--location`, fewer `--nodes`, or https://console.cloud.google.com/iam-admin/quotas",
    ),
    (
        "SERVICE_DISABLED",
        "an API of the project is switched off",
        "`gcloud services enable container.googleapis.com artifactregistry.googleapis.com`",
    ),
    (
        "has not been used in project",
        "an API of the project is switched off",
        "`gcloud services enable container.googleapis.com artifactregistry.googleapis.com`",
    ),
    (
        "PERMISSION_DENIED",
        "the account may not do that",
        "it needs roles/container.admin and roles/artifactregistry.admin in the project",
    ),
    (
        "Already exists",
        "the name of the cluster is taken",
        "`--name <another>` makes one beside it",
    ),
];

impl Provider for Gke {
    fn name(&self) -> &'static str {
        "gke"
    }

    fn spec(&self, asked: &Asked) -> Result<Spec> {
        let (Some(project), Some(location)) = (asked.project.clone(), asked.location.clone())
        else {
            bail!(Failure::Usage(
                "which project, and where? `--project <id> --location <region or zone>`".into()
            ));
        };
        if asked.nodes == Some(0) || (asked.nodes.is_some() && !asked.standard) {
            bail!(Failure::Usage("`--nodes` is for `--standard`, and at least 1".into()));
        }
        let hours = u64::from(asked.hours.unwrap_or(HOURS));
        Ok(Spec {
            name: asked.name.clone().unwrap_or_else(|| super::NAME.into()),
            registry: asked.registry.clone(),
            image: asked.image.clone(),
            project,
            location,
            standard: asked.standard,
            nodes: asked.nodes.unwrap_or(3),
            expires: Some(running::now() + hours * 3600),
            ..Spec::default()
        })
    }

    fn differences(&self, _: &Spec) -> Differences {
        Differences {
            // A healthy Ingress takes up to 15 minutes; a rollout may wait for a new node.
            patience: Timeouts { rollout: 600, address: 900, request: 15, propagation: 5 },
            // Requests cross the Internet: hundreds, not thousands.
            nearest_wrong: Alternative::Even,
            absent: vec![UnsupportedClaim {
                claim: "nodeport-in-range".into(),
                reason: "GKE's firewall lets nobody reach the ports of nodes from outside".into(),
            }],
        }
    }

    fn cost(&self, spec: &Spec) -> Option<String> {
        let what = match spec.standard {
            true => format!("{} nodes {MACHINE} as long as they run", nodes(spec).1),
            false => "what the pods ask for (Autopilot)".into(),
        };
        let hours = spec.expires.unwrap_or_default().saturating_sub(running::now()).div_ceil(3600);
        Some(format!(
            "this costs money in project {}: GKE's fee by the hour, {what}, and a load balancer for \
             each Service or Ingress; it should be gone in {hours} h, which only `cargo xtask down \
             --on gke` makes true",
            spec.project
        ))
    }

    fn exists(&self, work: &Work) -> Result<bool> {
        let clusters = work.ask(&list(work.spec))?;
        let clusters: Value = serde_json::from_str(clusters.trim()).unwrap_or_default();
        let all = clusters.as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(found) = all.iter().find(|c| text(c, "/name") == work.spec.name) else {
            return Ok(false);
        };
        match text(found, "/status") {
            "PROVISIONING" | "RECONCILING" | "STOPPING" => bail!(
                "gke: `{}` is being changed ({}); run this again when it is done",
                work.spec.name,
                text(found, "/status")
            ),
            _ => Ok(true),
        }
    }

    /// What is missing is made: the cluster itself is, once it is listed.
    fn finishes(&self) -> bool {
        true
    }

    fn is_cheap(&self) -> bool {
        false
    }

    fn create(&self, work: &Work) -> Result<()> {
        if work.spec.registry.is_none() {
            let made = work.tools.run(&repository(work.spec), outside::ANSWER * 3)?;
            if !made.is_well() && !made.errors.contains("ALREADY_EXISTS") {
                bail!(made.failure(FAULTS));
            }
        }
        if !work.tools.is_dry() && self.exists(work)? {
            return Ok(());
        }
        work.run(&create(work.spec), CREATE)
    }

    fn kubeconfig(&self, work: &Work) -> Result<()> {
        work.ask(&credentials(work.spec).kubeconfig(&work.kubeconfig)).map(drop)
    }

    /// Autopilot has no node before a pod needs one.
    fn ready(&self, work: &Work) -> Line {
        work.kubectl("get --raw /readyz --request-timeout=30s")
    }

    fn registry(&self, work: &Work) -> Result<Option<push::Registry>> {
        let name = match &work.spec.registry {
            Some(name) if name == super::NONE => return Ok(None),
            Some(name) => return push::Registry::of(name).map(Some),
            None => format!(
                "{}-docker.pkg.dev/{}/{REPOSITORY}",
                region(&work.spec.location),
                work.spec.project
            ),
        };
        let token =
            work.ask(&Line::new("gcloud auth print-access-token --quiet").answering_in_private())?;
        let registry = push::Registry::of(&name)?;
        Ok(Some(registry.with("oauth2accesstoken", token.trim())))
    }

    fn load(&self, _: &Work, _: &[Image]) -> Result<()> {
        Ok(())
    }

    fn delete(&self, work: &Work) -> Result<()> {
        // First whatever has load balancers: nobody else takes them apart once the cluster is gone.
        match self.kubeconfig(work).and_then(|()| unpublish(work)) {
            Ok(()) => {}
            Err(error) => eprintln!(
                "gke: Services and Ingresses could not be deleted ({error:#}): their load balancers may stay"
            ),
        }
        work.run(&delete(work.spec), DELETE)?;
        for (what, line) in leftovers(work.spec) {
            let found = work.ask(&line).unwrap_or_else(|error| format!("not known: {error:#}"));
            let found = found.trim();
            if !found.is_empty() {
                eprintln!("gke: {what}, perhaps still costing money:\n{found}");
            }
        }
        Ok(())
    }

    fn faults(&self) -> &'static [Fault] {
        FAULTS
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `europe-west1` of the zone `europe-west1-b`, and of itself.
fn region(location: &str) -> &str {
    match location.rsplit_once('-') {
        Some((region, zone)) if zone.len() == 1 => region,
        _ => location,
    }
}

/// Nodes a zone, and in all: gcloud counts by zone, and a region has three.
fn nodes(spec: &Spec) -> (u32, u32) {
    match region(&spec.location) == spec.location {
        true => (spec.nodes.div_ceil(3), spec.nodes.div_ceil(3) * 3),
        false => (spec.nodes, spec.nodes),
    }
}

fn placed(line: Line, spec: &Spec) -> Line {
    line.flag("--location", &spec.location).flag("--project", &spec.project).args(["--quiet"])
}

fn labels(spec: &Spec) -> String {
    format!("made-by=canary-labs,expires={}", spec.expires.unwrap_or_default())
}

fn create(spec: &Spec) -> Line {
    let line = match spec.standard {
        false => Line::new("gcloud container clusters create-auto").args([&spec.name]),
        true => Line::new("gcloud container clusters create")
            .args([&spec.name])
            .flag("--num-nodes", nodes(spec).0.to_string())
            .flag("--machine-type", MACHINE)
            .flag("--disk-size", "20"),
    };
    placed(line.flag("--labels", labels(spec)).maybe("--cluster-version", spec.image.clone()), spec)
}

fn credentials(spec: &Spec) -> Line {
    placed(Line::new("gcloud container clusters get-credentials").args([&spec.name]), spec)
}

fn list(spec: &Spec) -> Line {
    let line = Line::new("gcloud container clusters list").flag("--format", "json(name,status)");
    placed(line.flag("--filter", format!("name={}", spec.name)), spec)
}

fn delete(spec: &Spec) -> Line {
    placed(Line::new("gcloud container clusters delete").args([&spec.name]), spec)
}

fn repository(spec: &Spec) -> Line {
    Line::new("gcloud artifacts repositories create")
        .args([REPOSITORY])
        .flag("--repository-format", "docker")
        .flag("--labels", "made-by=canary-labs")
        .flag("--location", region(&spec.location))
        .flag("--project", &spec.project)
        .args(["--quiet"])
}

/// Deletes every Ingress and every load balancer of the cluster, and waits until they are gone: their
/// finalizers hold them until Google's side is taken apart.
fn unpublish(work: &Work) -> Result<()> {
    let patience = format!("--timeout={}s", UNPUBLISH.as_secs());
    work.run(
        &work.kubectl("delete ingress --all --all-namespaces --wait").args([&patience]),
        UNPUBLISH + outside::ANSWER,
    )?;
    let services = work.ask(&work.kubectl("get services --all-namespaces --output json"))?;
    if work.tools.is_dry() {
        println!("# kubectl delete service … of each that is a LoadBalancer");
        return Ok(());
    }
    for (namespace, name) in balancers(&services)? {
        let line = work.kubectl("delete service --wait").args([&patience]);
        work.run(&line.flag("--namespace", namespace).args([name]), UNPUBLISH + outside::ANSWER)?;
    }
    Ok(())
}

fn balancers(services: &str) -> Result<Vec<(String, String)>> {
    let services: Value =
        serde_json::from_str(services).context("kubectl's Services are no JSON")?;
    let items = services.get("items").and_then(Value::as_array).into_iter().flatten();
    Ok(items
        .filter(|service| text(service, "/spec/type") == "LoadBalancer")
        .map(|service| {
            (text(service, "/metadata/namespace").into(), text(service, "/metadata/name").into())
        })
        .collect())
}

/// What outlives a cluster: of the whole project, as not everything tells which cluster it was of.
fn leftovers(spec: &Spec) -> [(&'static str, Line); 4] {
    let list = |words: &str, format: &str| {
        Line::new(words).flag("--format", format).flag("--project", &spec.project).args(["--quiet"])
    };
    [
        (
            "load balancers of Kubernetes",
            list("gcloud compute forwarding-rules list", "value(name,region.basename(),IPAddress)")
                .flag("--filter", "description~kubernetes.io OR name~^k8s"),
        ),
        (
            "addresses that nobody uses",
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
    use std::path::Path;

    fn asked(standard: bool, location: &str) -> Asked {
        Asked {
            project: Some("p".into()),
            location: Some(location.into()),
            standard,
            ..Asked::default()
        }
    }

    #[test]
    fn every_command_line() {
        let spec = |standard, location| Spec {
            expires: Some(1_800_000_000),
            ..Gke.spec(&asked(standard, location)).unwrap()
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
    fn a_region_spreads_its_nodes_over_three_zones() {
        for (location, wanted, expected) in [
            ("europe-west1", 3, (1, 3)),
            ("europe-west1", 4, (2, 6)),
            ("europe-west1-b", 4, (4, 4)),
        ] {
            let asked = Asked { nodes: Some(wanted), ..asked(true, location) };
            assert_eq!(nodes(&Gke.spec(&asked).unwrap()), expected, "{location} {wanted}");
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_wrong_usage() {
        for wrong in [
            Asked::default(),
            Asked { nodes: Some(3), ..asked(false, "l") },
            Asked { nodes: Some(0), ..asked(true, "l") },
        ] {
            let error = Gke.spec(&wrong).unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))), "{error}");
        }
    }

    #[test]
    fn load_balancers_are_found_in_every_namespace() {
        let json = r#"{"items":[
            {"metadata":{"namespace":"a","name":"x"},"spec":{"type":"LoadBalancer"}},
            {"metadata":{"namespace":"b","name":"y"},"spec":{"type":"ClusterIP"}}]}"#;
        assert_eq!(balancers(json).unwrap(), [("a".to_owned(), "x".to_owned())]);
        assert!(balancers("no").is_err());
    }

    #[test]
    fn the_cost_is_said() {
        let said =
            |standard| Gke.cost(&Gke.spec(&asked(standard, "europe-west1")).unwrap()).unwrap();
        assert!(said(true).contains("3 nodes e2-medium") && said(false).contains("Autopilot"));
        assert!(said(true).contains("gone in 4 h"), "{}", said(true));
    }
}
