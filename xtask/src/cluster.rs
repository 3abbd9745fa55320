//! Clusters that the labs can run on: one file and one line in [`PROVIDERS`] each. A provider is
//! one function that answers one plain struct with a kubeconfig of its own; what differs between
//! clusters is in its fields.

pub(crate) mod embedded;

use crate::{
    failure::Failure, images::Image, nearest::nearest, process::Signals, project::Project,
};
use anyhow::Result;
use lab_environment::{Absent, Environment, NearestWrong, Patience};
use std::path::{Path, PathBuf};

/// A provider by the name that `--on` takes.
type Provider = (&'static str, fn(&Request) -> Result<Cluster>);

/// The first is the default.
const PROVIDERS: [Provider; 1] = [("embedded", embedded::start)];

/// What a provider gets.
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

/// What a provider yields.
pub(crate) struct Cluster {
    /// The provider's name.
    pub(crate) provider: &'static str,
    /// Of this cluster alone.
    pub(crate) kubeconfig: PathBuf,
    /// Seconds until its API answered; `None` if it already ran.
    pub(crate) started_in: Option<f64>,
    /// Deadlines here.
    pub(crate) patience: Patience,
    /// How fine a sample is affordable here.
    pub(crate) nearest_wrong: NearestWrong,
    /// Claims that cannot be checked here.
    pub(crate) absent: Vec<Absent>,
    /// What has to be ended afterwards.
    pub(crate) process: Option<embedded::Process>,
}

impl Cluster {
    /// All that the labs need to know.
    pub(crate) fn environment(
        &self,
        project: &Project,
        images: &[Image],
        docker: bool,
    ) -> Environment {
        Environment {
            provider: self.provider.into(),
            kubeconfig: self.kubeconfig.clone(),
            started_in: self.started_in,
            manifests: project.root.join("manifests"),
            images: images
                .iter()
                .map(|image| lab_environment::Image {
                    version: image.version.clone(),
                    manifest_name: image.name.clone(),
                    name: image.name.clone(),
                    archive: image.archive.clone(),
                    rebuilt: image.rebuilt.clone(),
                    binary: image.binary.clone(),
                    build_input: image.build_input.clone(),
                })
                .collect(),
            pull_policy: "IfNotPresent".into(),
            app: project.root.join("app"),
            docker,
            patience: self.patience.clone(),
            nearest_wrong: self.nearest_wrong,
            absent: self.absent.clone(),
        }
    }
}

/// The provider called `name`, or the default.
pub(crate) fn provider(name: Option<&str>) -> Result<Provider> {
    let Some(name) = name else { return Ok(PROVIDERS[0]) };
    PROVIDERS.into_iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let known = PROVIDERS.map(|(known, _)| known);
        let hint =
            nearest(name, known).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
        Failure::Usage(format!("no cluster provider `{name}`{hint} There is: {}", known.join(", ")))
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_what_the_labs_read() {
        let project =
            Project { root: "/r".into(), binaries: "/t/debug".into(), target: "/t".into() };
        let image = Image {
            version: "1.0".into(),
            name: "kubeapp:1.0".into(),
            digest: "sha256:0".into(),
            archive: "/t/images/kubeapp-1.0.tar".into(),
            size: 1,
            rebuilt: "/t/images/rebuilt/kubeapp-1.0.tar".into(),
            binary: "/t/images/kubeapp-1.0".into(),
            build_input: "KUBEAPP_VERSION=1.0".into(),
        };
        let cluster = embedded::cluster("/k".into(), Some(0.012), None);
        let text = serde_json::to_string(&cluster.environment(&project, &[image], true)).unwrap();
        let read: Environment = serde_json::from_str(&text).unwrap();
        assert_eq!((read.provider.as_str(), read.started_in), ("embedded", Some(0.012)));
        assert_eq!(read.manifests, Path::new("/r/manifests"));
        assert_eq!(read.images[0].manifest_name, "kubeapp:1.0");
        assert!(read.docker && read.nearest_wrong == NearestWrong::NearestReplica);
    }

    #[test]
    fn an_unknown_provider_is_wrong_usage() {
        assert_eq!(provider(None).unwrap().0, "embedded");
        assert_eq!(provider(Some("embedded")).unwrap().0, "embedded");
        let error = provider(Some("embeded")).unwrap_err();
        assert!(error.to_string().contains("did you mean `embedded`?"), "{error}");
        assert!(matches!(error.downcast_ref(), Some(Failure::Usage(_))));
    }
}
