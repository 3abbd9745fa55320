//! Clusters that the labs can run on: one file and one line in [`PROVIDERS`] each. A provider is
//! what answers one plain struct with a kubeconfig of its own; what differs between clusters is in
//! its fields.

pub(crate) mod choices;
pub(crate) mod current;
pub(crate) mod edge;
pub(crate) mod embedded;
pub(crate) mod gke;
pub(crate) mod k3s;
pub(crate) mod kind;
pub(crate) mod minikube;
pub(crate) mod outside;

use crate::{
    daemon::Daemon,
    failure::Failure,
    images::{Image, archive},
    nearest::nearest,
    process::Signals,
    project::Project,
    scratch,
};
use anyhow::{Result, bail};
use lab_environment::{Alternative, Environment, IngressClass, Timeouts, UnsupportedClaim};
use std::path::{Path, PathBuf};

/// How a cluster is had.
#[derive(Clone, Copy)]
pub(crate) enum Provider {
    /// A process of ours.
    Embedded,
    /// By other people's programs.
    Outside(&'static dyn outside::Provider),
}

/// All of them, by the name that `--on` takes. The first is the default.
pub(crate) const PROVIDERS: [(&str, Provider); 6] = [
    (embedded::NAME, Provider::Embedded),
    ("kind", Provider::Outside(&kind::Kind)),
    ("k3s", Provider::Outside(&k3s::K3s)),
    ("minikube", Provider::Outside(&minikube::Minikube)),
    ("gke", Provider::Outside(&gke::Gke)),
    ("current", Provider::Outside(&current::Current)),
];

/// What clusters are called unless `--name` says otherwise.
pub(crate) const NAME: &str = "canary-labs";

/// Said instead of a registry where the nodes have the images, and of whatever else is not wanted.
pub(crate) const NONE: &str = "none";

/// What the embedded provider gets.
pub(crate) struct Request<'a> {
    /// Where binaries and images are.
    pub(crate) project: &'a Project,
    /// Ends the wait for the cluster.
    pub(crate) signals: &'a Signals,
    /// A private folder that goes with the run.
    pub(crate) folder: &'a Path,
    /// How the embedded cluster keeps its pods apart: `auto`, `namespaced` or `plain`.
    pub(crate) sandbox: Option<&'a str>,
}

/// What differs between clusters, apart from where they are.
#[derive(Clone, Debug)]
pub(crate) struct Differences {
    /// Deadlines here.
    pub(crate) patience: Timeouts,
    /// How fine a sample is affordable here.
    pub(crate) nearest_wrong: Alternative,
    /// Claims that cannot be checked here.
    pub(crate) absent: Vec<UnsupportedClaim>,
}

/// What a provider yields.
pub(crate) struct Cluster {
    /// The provider's name.
    pub(crate) provider: &'static str,
    /// Of this cluster alone.
    pub(crate) kubeconfig: PathBuf,
    /// Seconds until its API answered; `None` if it already ran.
    pub(crate) started_in: Option<f64>,
    /// Where its nodes pull the images from; `None` if they have them.
    pub(crate) registry: Option<String>,
    /// Whether they have images already that this checkout may not have made.
    pub(crate) own_images: bool,
    /// What they need to do so, as `docker login` writes it; kept from logs and from other users.
    pub(crate) pull_secret: Option<String>,
    /// How an Ingress names its class there.
    pub(crate) ingress_class: IngressClass,
    /// See [`Differences`].
    pub(crate) differences: Differences,
    /// What has to be ended afterwards.
    pub(crate) process: Option<Daemon>,
}

impl Cluster {
    /// All that the labs need to know. What nobody else may know is in a file of its own in `folder`.
    pub(crate) fn environment(
        &self,
        project: &Project,
        images: &[Image],
        docker: bool,
        folder: &Path,
    ) -> Result<Environment> {
        let pull_secret = self.pull_secret.as_ref().map(|secret| {
            let file = folder.join("pull-secret.json");
            scratch::write_private(&file, secret.as_bytes()).map(|()| file)
        });
        Ok(Environment {
            provider: self.provider.into(),
            kubeconfig: self.kubeconfig.clone(),
            started_in: self.started_in,
            manifests: project.root.join("manifests"),
            images: images
                .iter()
                .map(|image| lab_environment::Image {
                    version: image.version.clone(),
                    manifest_name: image.name.clone(),
                    name: match &self.registry {
                        Some(registry) => format!("{registry}/{}", image.name),
                        None => image.name.clone(),
                    },
                    archive: image.archive.clone(),
                    rebuilt: image.rebuilt.clone(),
                    binary: image.binary.clone(),
                    build_input: image.build_input.clone(),
                })
                .collect(),
            // A tag is pushed again when the app changes, and nodes would go on with the old one;
            // what was loaded cannot be pulled at all.
            pull_policy: if self.registry.is_some() { "Always" } else { "IfNotPresent" }.into(),
            architecture: match self.own_images {
                true => None,
                false => images.first().and_then(|image| archive::architecture_of(&image.archive)),
            },
            pull_secret: pull_secret.transpose()?,
            ingress_class: self.ingress_class.clone(),
            app: project.root.join("app"),
            docker,
            timeouts: self.differences.patience.clone(),
            alternative: self.differences.nearest_wrong,
            unsupported: self.differences.absent.clone(),
        })
    }
}

/// The provider called `name`, or the default.
pub(crate) fn provider(name: Option<&str>) -> Result<Provider> {
    let Some(name) = name else { return Ok(Provider::Embedded) };
    let found = PROVIDERS.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, provider)| provider).ok_or_else(|| {
        let known = PROVIDERS.map(|(known, _)| known);
        let hint =
            nearest(name, known).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
        let message = format!("no cluster provider `{name}`; {hint}there are {}", known.join(", "));
        Failure::Usage(message).into()
    })
}

/// Flags and the providers that they mean something to.
const FLAGS: [(&str, &[&str]); 13] = [
    ("--sandbox", &[embedded::NAME]),
    ("--name", &["kind", "k3s", "minikube", "gke"]),
    ("--image", &["kind", "k3s", "minikube", "gke"]),
    ("--context", &["current"]),
    ("--edge", &["current"]),
    ("--registry", &["gke", "current"]),
    ("--pull-secret", &["gke", "current"]),
    ("--ingress-class", &["kind", "k3s", "minikube", "gke", "current"]),
    ("--project", &["gke"]),
    ("--location", &["gke"]),
    ("--standard", &["gke"]),
    ("--nodes", &["gke"]),
    ("--ttl", &["gke"]),
];

/// Wrong usage if a flag was given that means nothing to the provider: silence would be taken for
/// consent.
pub(crate) fn check_flags(on: Option<&str>, given: &[(&str, bool)]) -> Result<()> {
    let on = on.unwrap_or(embedded::NAME);
    for (flag, _) in given.iter().filter(|(_, given)| *given) {
        let Some((_, providers)) = FLAGS.iter().find(|(known, _)| known == flag) else { continue };
        if !providers.contains(&on) {
            let providers = providers.join(", ");
            bail!(Failure::Usage(format!("`{flag}` is for {providers}; {on} knows none")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn image() -> Image {
        Image {
            version: "1.0".into(),
            name: "kubeapp:1.0".into(),
            digest: "sha256:0".into(),
            archive: "/t/images/kubeapp-1.0.tar".into(),
            size: 1,
            rebuilt: "/t/images/rebuilt/kubeapp-1.0.tar".into(),
            binary: "/t/images/kubeapp-1.0".into(),
            build_input: "KUBEAPP_VERSION=1.0".into(),
        }
    }

    fn written(cluster: &Cluster) -> Environment {
        let project =
            Project { root: "/r".into(), binaries: "/t/debug".into(), target: "/t".into() };
        let environment = cluster.environment(&project, &[image()], true, &std::env::temp_dir());
        let text = serde_json::to_string(&environment.unwrap()).unwrap();
        assert!(!text.contains("dTpw"), "no secrets here: {text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_environment_is_what_the_labs_read() {
        let read = written(&embedded::cluster("/k".into(), Some(0.012), None));
        assert_eq!((read.provider.as_str(), read.started_in), ("embedded", Some(0.012)));
        assert_eq!(read.manifests, Path::new("/r/manifests"));
        assert_eq!(
            (&*read.images[0].manifest_name, &*read.images[0].name),
            ("kubeapp:1.0", "kubeapp:1.0")
        );
        assert!(read.docker && read.alternative == Alternative::NearestReplica);
        assert_eq!(read.pull_policy, "IfNotPresent", "what was loaded cannot be pulled");
    }

    #[test]
    fn images_of_a_registry_have_its_name_and_are_pulled() {
        let cluster = Cluster {
            registry: Some("eu-docker.pkg.dev/p/r".into()),
            pull_secret: Some("dTpw".into()),
            ..embedded::cluster("/k".into(), None, None)
        };
        let read = written(&cluster);
        assert_eq!(read.images[0].manifest_name, "kubeapp:1.0");
        assert_eq!(read.images[0].name, "eu-docker.pkg.dev/p/r/kubeapp:1.0");
        assert_eq!(read.pull_policy, "Always");
        let secret = read.pull_secret.unwrap();
        let mode = fs::metadata(&secret).unwrap().permissions().mode() & 0o777;
        assert_eq!((fs::read_to_string(&secret).unwrap().as_str(), mode), ("dTpw", 0o600));
        fs::remove_file(secret).unwrap();
    }

    #[test]
    fn a_flag_that_means_nothing_there_is_wrong_usage() {
        for (on, flag, fits) in [
            (None, "--sandbox", true),
            (None, "--image", false),
            (Some("kind"), "--image", true),
            (Some("kind"), "--context", false),
            (Some("current"), "--context", true),
            (Some("current"), "--name", false),
            (Some("minikube"), "--project", false),
        ] {
            assert_eq!(check_flags(on, &[(flag, true)]).is_ok(), fits, "{on:?} {flag}");
            assert!(check_flags(on, &[(flag, false)]).is_ok());
        }
        let known = PROVIDERS.map(|(name, _)| name);
        assert!(FLAGS.iter().all(|(_, on)| on.iter().all(|name| known.contains(name))));
    }

    #[test]
    fn an_unknown_provider_is_wrong_usage() {
        assert!(matches!(provider(None).unwrap(), Provider::Embedded));
        for (name, known) in PROVIDERS {
            match (provider(Some(name)).unwrap(), known) {
                (Provider::Outside(found), Provider::Outside(_)) => assert_eq!(found.name(), name),
                (found, _) => assert!(matches!(found, Provider::Embedded), "{name}"),
            }
        }
        for (typed, near) in
            [("embeded", "embedded"), ("kint", "kind"), ("k3d", "k3s"), ("gkee", "gke")]
        {
            let error = provider(Some(typed)).err().unwrap();
            let hint = format!("did you mean `{near}`?");
            assert!(error.to_string().contains(&hint), "{error}");
            assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))));
        }
    }
}
