//! A cluster of its own for each test, with manifests and images that can be made wrong.

use crate::archives;
use kube_embedded::{Cluster, Config};
use lab_environment::{Environment, Image, IngressClass, NearestWrong, Patience};
use labs::{
    claim::Outcome,
    event::Events,
    kubernetes::manifest,
    lab::LABS,
    run::{Exit, Runner, Summary},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A world that is right until somebody makes it wrong.
pub(crate) struct World {
    folder: Folder,
    /// What the labs are told.
    pub(crate) environment: Environment,
    nodes: u8,
}

/// How a lab ended there.
pub(crate) struct Played {
    summary: Summary,
    lab: &'static str,
    events: Vec<String>,
}

impl World {
    /// The manifests of this repository, the images that `cargo xtask images` built, and plans that
    /// are content with few requests.
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let manifests = folder.0.join("manifests");
        for kind in ["lb", "ingress"] {
            let copies = manifests.join(kind);
            fs::create_dir_all(&copies).expect("a folder for manifests");
            for file in fs::read_dir(repository().join("manifests").join(kind)).expect("ours") {
                let file = file.expect("our manifests").path();
                fs::copy(&file, copies.join(file.file_name().expect("a name")))
                    .expect("a copy of our manifests");
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
            patience: Patience { rollout: 20, address: 10, request: 5, propagation: 0 },
            nearest_wrong: NearestWrong::Even,
            absent: vec![],
        };
        Self { folder, environment, nodes: 3 }
    }

    /// Tells one replica too many or too few, as on a cluster where requests are cheap.
    pub(crate) fn telling_replicas_apart(mut self) -> Self {
        self.environment.nearest_wrong = NearestWrong::NearestReplica;
        self
    }

    /// For worlds in which something is awaited in vain: seconds for each wait.
    pub(crate) fn impatient(mut self, seconds: u64) -> Self {
        self.environment.patience = Patience {
            rollout: seconds,
            address: seconds,
            request: seconds.min(2),
            propagation: 0,
        };
        self
    }

    /// Ingresses name their class so.
    pub(crate) fn of_class(mut self, class: IngressClass) -> Self {
        self.environment.ingress_class = class;
        self
    }

    /// A cluster of so many nodes.
    pub(crate) fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// Changes an object of a manifest: the first, or that of a kind (`ingress/app-canary.yml#Service`).
    pub(crate) fn edit(self, file: &str, change: impl FnOnce(&mut Value)) -> Self {
        let (file, kind) = file.split_once('#').map_or((file, None), |(f, k)| (f, Some(k)));
        let path = self.environment.manifests.join(file);
        let objects = manifest::read(&path).expect("our manifest");
        let mut objects: Vec<Value> = objects.into_iter().map(|m| m.object).collect();
        let mut found = objects.iter_mut().filter(|o| kind.is_none_or(|kind| o["kind"] == kind));
        let object = found.next().expect("an object of that kind");
        let before = object.clone();
        change(object);
        assert_ne!(before, *object, "the sabotage of {file} changed nothing");
        // JSON is YAML.
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        fs::write(&path, documents.join("\n---\n")).expect("the changed manifest");
        self
    }

    /// Sets one field of a manifest, given as a JSON pointer whose parent is there.
    pub(crate) fn set(self, file: &str, pointer: &str, value: Value) -> Self {
        self.edit(file, |object| {
            let (parent, field) = pointer.rsplit_once('/').expect("a JSON pointer");
            let parent = object.pointer_mut(parent).expect("the parent is in the manifest");
            parent[field] = value;
        })
    }

    /// Puts another archive in the place of an image.
    pub(crate) fn with_image(
        mut self,
        image: usize,
        change: impl FnOnce(&Image, &Path) -> Image,
    ) -> Self {
        let changed = change(&self.environment.images[image], &self.folder.0);
        self.environment.images[image] = changed;
        self
    }

    /// Plays a lab.
    pub(crate) async fn play(&self, lab: &'static str) -> Played {
        self.play_while(lab, |_| std::future::pending()).await
    }

    /// Plays a lab while somebody meddles with the cluster.
    pub(crate) async fn play_while<F>(
        &self,
        lab: &'static str,
        meddle: impl FnOnce(kube::Client) -> F,
    ) -> Played
    where
        F: Future<Output = ()>,
    {
        let cluster = self.cluster().await;
        let played = tokio::select! {
            played = self.run(lab, std::future::pending()) => played,
            () = meddle(cluster.client()) => unreachable!("a meddler that ends should wait instead"),
        };
        cluster.stop().await;
        played
    }

    /// A cluster to play on with [`World::run`].
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

    /// Plays a lab on a cluster that is gone.
    pub(crate) async fn play_without_cluster(&self, lab: &'static str) -> Played {
        let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await;
        let cluster = cluster.expect("a cluster");
        fs::write(&self.environment.kubeconfig, cluster.kubeconfig()).expect("a kubeconfig");
        cluster.stop().await;
        self.run(lab, std::future::pending()).await
    }

    /// Plays a lab on the cluster that was started last, until it is interrupted.
    pub(crate) async fn run(
        &self,
        lab: &'static str,
        interrupted: impl Future<Output = ()>,
    ) -> Played {
        let (events, told) = Events::channel();
        let environment = Arc::new(self.environment.clone());
        let runner = Runner { environment, events, failures: None, keep: false };
        let found = LABS.iter().find(|known| known.name == lab).expect("a lab of that name");
        let summary = runner.run(&[found], interrupted).await;
        drop(runner);
        let events = told.iter().map(|event| serde_json::to_string(&event).expect("JSON"));
        Played { summary, lab, events: events.collect() }
    }
}

impl Played {
    /// Demands that these claims fail and no others.
    pub(crate) fn fails(&self, expected: &[&str]) {
        self.ends(expected, &[]);
    }

    /// How the run ended.
    pub(crate) fn exit(&self) -> Exit {
        self.summary.exit
    }

    /// What the environment did not do.
    pub(crate) fn errors(&self) -> String {
        self.summary.errors.join("; ")
    }

    /// What the verdict on a claim stands on.
    pub(crate) fn evidence(&self, claim: &str) -> &str {
        self.summary.verdict(claim).map_or("no verdict", |verdict| &verdict.evidence)
    }

    /// Demands that the run names that layer as the one at fault, in these words.
    pub(crate) fn blames(&self, layer: &str) {
        let diagnosis = self.events.iter().find(|event| event.contains("\"diagnosis\""));
        let diagnosis = diagnosis.map(String::as_str).unwrap_or_default();
        assert!(diagnosis.contains(&format!("\"verdict\":\"{layer}")), "{diagnosis}");
    }

    /// Demands that the run ends with an error of the environment that says this.
    pub(crate) fn failed_for_the_environment(&self, said: &str) {
        let errors = self.summary.errors.join("; ");
        assert_eq!(self.summary.exit, Exit::Infrastructure, "{errors}");
        assert!(errors.contains(said), "{errors}");
    }

    /// Demands that these claims fail, these are not checked, and the others hold.
    pub(crate) fn ends(&self, fails: &[&str], skipped: &[&str]) {
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

/// A folder that goes with the test.
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
