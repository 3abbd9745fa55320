//! The fixture of every test: an environment with copies of the manifests and images that can be mutated,
//! and an embedded cluster.

use crate::{archives, stalls::StallWatch};
use kube_embedded::{Cluster, Config};
use lab_environment::{Alternative, Environment, Image, IngressClass, Timeouts};
use labs::{
    claim::Outcome,
    event::{Event, Events},
    kubernetes::manifest,
    phases,
    run::{Exit, Runner, Summary},
    selection::Selection,
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
    gateway_api: bool,
    selection: Selection,
}

/// The result of a lab.
pub(crate) struct LabRun {
    summary: Summary,
    lab: &'static str,
    events: Vec<String>,
    machine_stood_still: bool,
}

impl Fixture {
    /// Copies the manifests of this repository, and uses the images that `cargo xtask images` built and
    /// samples of few requests.
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let manifests = folder.0.join("manifests");
        for kind in ["lb", "ingress", "gateway"] {
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
            gateway_class: Some("kube-embedded".into()),
            app: repository().join("app"),
            docker: false,
            timeouts: Timeouts { rollout: 20, address: 10, request: 5, propagation: 0 },
            alternative: Alternative::Even,
            unsupported: vec![],
        };
        Self { folder, environment, nodes: 3, gateway_api: true, selection: Selection::default() }
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

    /// Selects claims, with those they need.
    pub(crate) fn with_claims(mut self, ids: &[&'static str]) -> Self {
        let claims = phases::ALL.iter().flat_map(|lab| lab.claims);
        self.selection = Selection::of(claims, ids.iter().copied());
        self
    }

    /// Sets the Ingress class.
    pub(crate) fn with_ingress_class(mut self, class: IngressClass) -> Self {
        self.environment.ingress_class = class;
        self
    }

    /// Has a cluster that does not serve the Gateway API.
    pub(crate) fn without_gateway_api(mut self) -> Self {
        (self.gateway_api, self.environment.gateway_class) = (false, None);
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

    /// Replaces text of a manifest, once.
    pub(crate) fn replace(self, file: &str, right: &str, wrong: &str) -> Self {
        let path = self.environment.manifests.join(file);
        let text = fs::read_to_string(&path).expect("the manifest");
        assert!(text.contains(right), "{right:?} is not in {file}");
        fs::write(&path, text.replacen(right, wrong, 1)).expect("the changed manifest");
        self
    }

    /// Writes the environment as `cargo xtask` does, and returns the file.
    pub(crate) fn write_environment(&self) -> PathBuf {
        let file = self.environment.kubeconfig.with_file_name("environment.json");
        let text = serde_json::to_string(&self.environment).expect("JSON");
        fs::write(&file, text).expect("an environment");
        file
    }

    /// Sets the timeouts that `cargo xtask` sets for the embedded cluster.
    pub(crate) fn with_embedded_timeouts(mut self) -> Self {
        self.environment.timeouts =
            Timeouts { rollout: 60, address: 30, request: 10, propagation: 0 };
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

    /// Runs a lab, and has `fault` change the cluster when the step that begins so starts (`true`), and
    /// again when it ends (`false`).
    pub(crate) async fn run_with_step_fault<F>(
        &self,
        lab: &'static str,
        step: &str,
        fault: impl Fn(kube::Client, bool) -> F,
    ) -> LabRun
    where
        F: Future<Output = ()>,
    {
        let cluster = self.cluster().await;
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let acting = async {
            while let Some(event) = events.recv().await {
                let (started, of) = match event {
                    Event::StepStarted { step, .. } => (true, step),
                    Event::StepEnded { step, .. } => (false, step),
                    _ => continue,
                };
                if of.starts_with(step) {
                    fault(cluster.client(), started).await;
                }
            }
            std::future::pending().await
        };
        let run = tokio::select! {
            run = self.run_observed(lab, std::future::pending(), Some(sender)) => run,
            () = acting => unreachable!("a fault must not end"),
        };
        cluster.stop().await;
        run
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
            gateway_api: self.gateway_api,
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
        self.run_observed(lab, interrupted, None).await
    }

    /// Runs a lab and passes on its events as they happen.
    async fn run_observed(
        &self,
        lab: &'static str,
        interrupted: impl Future<Output = ()>,
        observer: Option<tokio::sync::mpsc::UnboundedSender<Event>>,
    ) -> LabRun {
        let stalls = StallWatch::start();
        let (events, receiver) = Events::channel();
        let recorder = std::thread::spawn(move || {
            let lines = receiver.iter().map(|stamped| {
                let line = serde_json::to_string(&stamped).expect("JSON");
                // The observer may have ended.
                if let Some(observer) = &observer {
                    _ = observer.send(stamped.event);
                }
                line
            });
            lines.collect::<Vec<_>>()
        });
        let environment = Arc::new(self.environment.clone());
        let selection = self.selection.clone();
        let runner = Runner {
            environment,
            selection,
            events,
            failures: None,
            keep: false,
            observe: true,
            step: false,
        };
        let labs = lab.split(' ').map(|lab| phases::find(lab).expect("a lab of that name"));
        let summary = runner.run(&labs.collect::<Vec<_>>(), interrupted).await;
        drop(runner);
        // Not on this thread: tasks that are still to be dropped hold senders.
        let recorded = tokio::task::spawn_blocking(move || recorder.join());
        let events = recorded.await.expect("a thread").expect("events");
        LabRun { summary, lab, events, machine_stood_still: stalls.machine_stood_still() }
    }
}

impl LabRun {
    /// Asserts that these claims fail and no others, and that all others that do not hold follow from one
    /// of them.
    pub(crate) fn assert_fails(&self, expected: &[&str]) {
        let skipped: Vec<&str> = self.claims(Outcome::Skipped).into_iter().collect();
        self.assert_outcomes(expected, &skipped);
        for id in skipped {
            let root = self.summary.verdict(id).and_then(|verdict| verdict.follows_from);
            assert!(
                root.is_some_and(|root| expected.contains(&root)),
                "{id}: {}",
                self.evidence(id)
            );
        }
    }

    /// Returns true if the machine did not run for a time.
    pub(crate) fn machine_stood_still(&self) -> bool {
        self.machine_stood_still
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

    /// The events, as lines of JSON.
    pub(crate) fn events(&self) -> &[String] {
        &self.events
    }

    /// The first diagnosis: layer, reason and command.
    pub(crate) fn diagnosis(&self) -> (String, String, String) {
        let events = self.events.iter().map(|e| serde_json::from_str::<Value>(e).expect("JSON"));
        let diagnosis = events.into_iter().find(|event| event["event"] == "diagnosis");
        let field = |name| {
            let field = diagnosis.as_ref().map(|diagnosis| &diagnosis[name]);
            field.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        (field("layer"), field("reason"), field("command"))
    }

    /// Asserts that this layer is at fault, for a reason that contains this text.
    pub(crate) fn assert_diagnosis(&self, layer: &str, text: &str) {
        let (found, reason, command) = self.diagnosis();
        assert_eq!(found, layer, "{reason}");
        assert!(reason.contains(text), "{reason}");
        assert!(command.contains("kubectl") || command.contains("curl"), "{command}");
    }

    /// The ids of the claims with this outcome.
    pub(crate) fn claims(&self, outcome: Outcome) -> BTreeSet<&'static str> {
        let all = self.summary.verdicts.iter();
        all.filter(|(_, verdict)| verdict.outcome == outcome).map(|(id, _)| *id).collect()
    }

    /// Asserts that a mistake in what was applied made one claim fail, with these texts in its evidence, and
    /// that the rest follows.
    pub(crate) fn assert_mistake(&self, texts: &[&str]) {
        assert_eq!(self.summary.exit, Exit::Fails, "{}", self.errors());
        let failing = self.claims(Outcome::Fails);
        assert_eq!(failing.len(), 1, "{failing:?}");
        let evidence = failing.iter().map(|id| self.evidence(id)).collect::<String>();
        for text in texts {
            assert!(evidence.contains(text), "{evidence}");
        }
    }

    /// Asserts that the run ended with an error of the environment that contains this text.
    pub(crate) fn assert_environment_error(&self, text: &str) {
        let errors = self.summary.errors.join("; ");
        assert_eq!(self.summary.exit, Exit::Infrastructure, "{errors}");
        assert!(errors.contains(text), "{errors}");
    }

    /// Asserts that these claims fail, these are skipped, and the others hold.
    pub(crate) fn assert_outcomes(&self, fails: &[&str], skipped: &[&str]) {
        let wrong = self.claims(Outcome::Fails) != fails.iter().copied().collect()
            || self.claims(Outcome::Skipped) != skipped.iter().copied().collect()
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

/// Returns the path of what `.ci/run` installs for tests.
pub(crate) fn ci_tool(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_labs")).ancestors().nth(2);
    target.expect("the target directory").join("ci-tools").join(path)
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
