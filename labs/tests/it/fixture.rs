//! The fixture of every test: an environment with copies of the manifests and images that can be mutated,
//! and an embedded cluster.

use crate::archives;
use kube_embedded::{Cluster, Config};
use lab_environment::{Alternative, Environment, Image, IngressClass, Timeouts};
use labs::{
    claim::Outcome,
    event::Events,
    kubernetes::manifest,
    phases,
    run::{Exit, Runner, Summary},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// An environment without faults, until one is added.
pub(crate) struct Fixture {
    folder: Folder,
    /// The environment that the labs read.
    pub(crate) environment: Environment,
    nodes: u8,
}

/// The result of a lab.
pub(crate) struct LabRun {
    summary: Summary,
    lab: &'static str,
    events: Vec<String>,
}

impl Fixture {
    /// Copies the manifests of this repository, and uses the images that `cargo xtask images` built and
    /// samples of few requests.
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let manifests = folder.0.join("manifests");
        for kind in ["lb", "ingress"] {
            let copies = manifests.join(kind);
            fs::create_dir_all(&copies).expect("a folder for manifests");
            for file in fs::read_dir(repository().join("manifests").join(kind)).expect("manifests")
            {
                let file = file.expect("a manifest").path();
                fs::copy(&file, copies.join(file.file_name().expect("a name")))
                    .expect("a copy of a manifest");
            }
        }
        let images = ["1.0", "2.0"].map(archives::image);
        let environment = Environment {
            provider: "embedded".into(),
            kubeconfig: folder.0.join("kubeconfig"),
            started_in: Some(0.0),
            manifests,
            images: images.to_vec(),
            pull_policy: "IfNotPresent".into(),
            architecture: None,
            pull_secret: None,
            ingress_class: IngressClass::Unnamed,
            app: repository().join("app"),
            docker: false,
            timeouts: Timeouts { rollout: 20, address: 10, request: 5, propagation: 0 },
            alternative: Alternative::Even,
            unsupported: vec![],
        };
        Self { folder, environment, nodes: 3 }
    }

    /// Plans samples that reveal one replica too many or too few, as on a cluster where requests are cheap.
    pub(crate) fn with_precise_samples(mut self) -> Self {
        self.environment.alternative = Alternative::NearestReplica;
        self
    }

    /// Sets the timeout of each wait in seconds, for faults that make waits time out.
    pub(crate) fn with_timeouts(mut self, seconds: u64) -> Self {
        self.environment.timeouts = Timeouts {
            rollout: seconds,
            address: seconds,
            request: seconds.min(2),
            propagation: 0,
        };
        self
    }

    /// Sets the Ingress class.
    pub(crate) fn with_ingress_class(mut self, class: IngressClass) -> Self {
        self.environment.ingress_class = class;
        self
    }

    /// Sets the number of nodes.
    pub(crate) fn with_nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// Edits an object of a manifest: the first, or the one of a kind (`ingress/app-canary.yml#Service`).
    pub(crate) fn edit(self, file: &str, change: impl FnOnce(&mut Value)) -> Self {
        let (file, kind) = file.split_once('#').map_or((file, None), |(f, k)| (f, Some(k)));
        let path = self.environment.manifests.join(file);
        let objects = manifest::read(&path).expect("the manifest");
        let mut objects: Vec<Value> = objects.into_iter().map(|m| m.object).collect();
        let mut found = objects.iter_mut().filter(|o| kind.is_none_or(|kind| o["kind"] == kind));
        let object = found.next().expect("an object of that kind");
        let before = object.clone();
        change(object);
        assert_ne!(before, *object, "the edit of {file} changed nothing");
        // JSON is YAML.
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        fs::write(&path, documents.join("\n---\n")).expect("the changed manifest");
        self
    }

    /// Sets a field of a manifest, given as a JSON pointer whose parent exists.
    pub(crate) fn set(self, file: &str, pointer: &str, value: Value) -> Self {
        self.edit(file, |object| {
            let (parent, field) = pointer.rsplit_once('/').expect("a JSON pointer");
            let parent = object.pointer_mut(parent).expect("the parent is in the manifest");
            parent[field] = value;
        })
    }

    /// Replaces an image of the environment.
    pub(crate) fn with_image(
        mut self,
        image: usize,
        change: impl FnOnce(&Image, &Path) -> Image,
    ) -> Self {
        let changed = change(&self.environment.images[image], &self.folder.0);
        self.environment.images[image] = changed;
        self
    }

    /// Runs a lab without interference.
    pub(crate) async fn run_alone(&self, lab: &'static str) -> LabRun {
        self.run_with_fault(lab, |_| std::future::pending()).await
    }

    /// Runs a lab while `fault` changes the cluster.
    pub(crate) async fn run_with_fault<F>(
        &self,
        lab: &'static str,
        fault: impl FnOnce(kube::Client) -> F,
    ) -> LabRun
    where
        F: Future<Output = ()>,
    {
        let cluster = self.cluster().await;
        let run = tokio::select! {
            run = self.run(lab, std::future::pending()) => run,
            () = fault(cluster.client()) => unreachable!("a fault must not end"),
        };
        cluster.stop().await;
        run
    }

    /// Starts a cluster for [`Fixture::run`].
    pub(crate) async fn cluster(&self) -> Cluster {
        let images = self.environment.images.iter().map(|image| image.archive.clone());
        let cluster = Cluster::start(Config {
            nodes: self.nodes,
            images: images.collect(),
            state_dir: Some(self.folder.0.clone()),
            ..Config::default()
        })
        .await
        .expect("a cluster");
        fs::write(&self.environment.kubeconfig, cluster.kubeconfig()).expect("a kubeconfig");
        cluster
    }

    /// Runs a lab on a cluster that has been stopped.
    pub(crate) async fn run_without_cluster(&self, lab: &'static str) -> LabRun {
        let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await;
        let cluster = cluster.expect("a cluster");
        fs::write(&self.environment.kubeconfig, cluster.kubeconfig()).expect("a kubeconfig");
        cluster.stop().await;
        self.run(lab, std::future::pending()).await
    }

    /// Runs a lab on the cluster that was started last, until it is interrupted.
    pub(crate) async fn run(
        &self,
        lab: &'static str,
        interrupted: impl Future<Output = ()>,
    ) -> LabRun {
        let (events, receiver) = Events::channel();
        let environment = Arc::new(self.environment.clone());
        let runner = Runner { environment, events, failures: None, keep: false };
        let found = phases::find(lab).expect("a lab of that name");
        let summary = runner.run(&[found], interrupted).await;
        drop(runner);
        let events = receiver.iter().map(|event| serde_json::to_string(&event).expect("JSON"));
        LabRun { summary, lab, events: events.collect() }
    }
}

impl LabRun {
    /// Asserts that these claims fail and no others.
    pub(crate) fn assert_fails(&self, expected: &[&str]) {
        self.assert_outcomes(expected, &[]);
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.summary.exit
    }

    /// The errors of the environment.
    pub(crate) fn errors(&self) -> String {
        self.summary.errors.join("; ")
    }

    /// The evidence of a claim's verdict.
    pub(crate) fn evidence(&self, claim: &str) -> &str {
        self.summary.verdict(claim).map_or("no verdict", |verdict| &verdict.evidence)
    }

    /// Asserts that the diagnosis starts with this layer and text.
    pub(crate) fn assert_diagnosis(&self, layer: &str) {
        let diagnosis = self.events.iter().find(|event| event.contains("\"diagnosis\""));
        let diagnosis = diagnosis.map(String::as_str).unwrap_or_default();
        assert!(diagnosis.contains(&format!("\"verdict\":\"{layer}")), "{diagnosis}");
    }

    /// Asserts that the run ended with an error of the environment that contains this text.
    pub(crate) fn assert_environment_error(&self, text: &str) {
        let errors = self.summary.errors.join("; ");
        assert_eq!(self.summary.exit, Exit::Infrastructure, "{errors}");
        assert!(errors.contains(text), "{errors}");
    }

    /// Asserts that these claims fail, these are skipped, and the others hold.
    pub(crate) fn assert_outcomes(&self, fails: &[&str], skipped: &[&str]) {
        let with = |outcome| -> BTreeSet<&str> {
            let all = self.summary.verdicts.iter();
            all.filter(|(_, verdict)| verdict.outcome == outcome).map(|(id, _)| *id).collect()
        };
        let wrong = with(Outcome::Fails) != fails.iter().copied().collect()
            || with(Outcome::Skipped) != skipped.iter().copied().collect()
            || (fails.is_empty() && skipped.is_empty() && !self.summary.errors.is_empty());
        if wrong {
            let verdicts = self.summary.verdicts.iter().map(|(id, verdict)| {
                format!("  {id} {}: {}", verdict.outcome.word(), verdict.evidence)
            });
            panic!(
                "{}: expected failures {fails:?}, skipped {skipped:?}, and the rest to hold:\n{}\n\
                 errors: {:#?}\nevents:\n{}",
                self.lab,
                verdicts.collect::<Vec<_>>().join("\n"),
                self.summary.errors,
                self.events.join("\n"),
            );
        }
    }
}

/// The root of this repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("labs is in the repository").to_owned()
}

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("canary-labs-test-{}-{:x}", std::process::id(), rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// Polls until `probe` returns a value, and panics with the last state after the timeout.
pub(crate) async fn eventually<T, S: std::fmt::Debug>(
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let since = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    loop {
        pace.tick().await;
        match probe().await {
            Ok(found) => return found,
            Err(state) => assert!(since.elapsed() < timeout, "within {timeout:?}: {state:?}"),
        }
    }
}
