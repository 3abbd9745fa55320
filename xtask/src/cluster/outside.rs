//! Clusters that other programs make. What each kind of cluster does its own way is behind
//! [`Provider`]; the order of things, and what is left when one of them fails, is the [`House`]'s; and
//! [`Held`] is a cluster for as long as a run uses it.

mod held;
mod house;

pub(crate) use held::Held;
pub(crate) use house::House;

use crate::{
    cluster::{Differences, choices::Choices, edge::Published},
    images::{Image, push},
    tool::{Fault, Line, Tools},
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// For a question to a program or an API.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// For the nodes of a new cluster.
const NODES: Duration = Duration::from_secs(300);

/// What a kind of cluster does its own way.
pub(crate) trait Provider: Sync {
    /// What `--on` takes.
    fn name(&self) -> &'static str;
    /// What was asked for as what is to be made; wrong flags are wrong usage.
    fn spec(&self, asked: &Asked) -> Result<Spec>;
    /// What differs from other clusters for the labs.
    fn differences(&self, spec: &Spec) -> Differences;
    /// What it takes, said before anything is made that costs money.
    fn cost(&self, _: &Spec) -> Option<String> {
        None
    }
    /// Whether load balancers and Ingresses get no addresses there, so that an edge of ours gives
    /// them some.
    fn needs_edge(&self, _: &Spec) -> bool {
        false
    }
    /// The one namespace that an edge of ours serves there; `None` for all.
    fn edge_serves(&self) -> Option<&'static str> {
        None
    }
    /// Node ports that are published on this host.
    fn published(&self, _: &Work) -> Published {
        Published::new()
    }
    /// Whether a cluster of that name is there, whoever made it.
    fn exists(&self, work: &Work) -> Result<bool>;
    /// Whether [`Provider::create`] finishes what was begun; else it is removed first.
    fn finishes(&self) -> bool {
        false
    }
    /// Makes it, with a kubeconfig of its own.
    fn create(&self, work: &Work) -> Result<()>;
    /// Writes the kubeconfig of a cluster that is there.
    fn kubeconfig(&self, work: &Work) -> Result<()>;
    /// What ends well once a new cluster can be used.
    fn ready(&self, work: &Work) -> Line {
        work.kubectl("wait --for=condition=Ready nodes --all")
            .args([format!("--timeout={}s", NODES.as_secs())])
    }
    /// Asks before anything of somebody else's is touched.
    fn consent(&self, _: &Work, _yes: bool) -> Result<()> {
        Ok(())
    }
    /// Where images are pushed, and with what credentials; `None` where they are loaded.
    fn registry(&self, _: &Work) -> Result<Option<push::Registry>> {
        Ok(None)
    }
    /// Hands the images to every node.
    fn load(&self, work: &Work, images: &[Image]) -> Result<()>;
    /// Removes it; one that is gone already is fine.
    fn delete(&self, work: &Work) -> Result<()>;
    /// Whether a lab may make one for itself alone.
    fn is_cheap(&self) -> bool {
        true
    }
    /// Whether these tools make it and may make it anew.
    fn is_made_here(&self) -> bool {
        true
    }
    /// How its programs fail.
    fn faults(&self) -> &'static [Fault];
}

/// Flags, as typed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) registry: Option<String>,
    pub(crate) choices: Choices,
    pub(crate) project: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) standard: bool,
    pub(crate) nodes: Option<u32>,
    pub(crate) hours: Option<u32>,
    pub(crate) yes: bool,
}

/// One cluster, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// Node image or Kubernetes version.
    pub(crate) image: Option<String>,
    /// The user's context.
    pub(crate) context: Option<String>,
    /// Where images are pushed; `none` where they are there already.
    pub(crate) registry: Option<String>,
    pub(crate) choices: Choices,
    pub(crate) project: String,
    pub(crate) location: String,
    pub(crate) standard: bool,
    pub(crate) nodes: u32,
    /// When it should be gone, in seconds since 1970.
    pub(crate) expires: Option<u64>,
}

impl Spec {
    /// The same with what was chosen now; wrong usage if that cannot be.
    fn choosing(self, asked: &Asked) -> Result<Self> {
        let choices = asked.choices.over(&self.choices);
        choices.check(self.registry.as_deref())?;
        Ok(Self { choices, ..self })
    }
}

impl Asked {
    /// Nothing asked for but consent, and what a run may choose anew.
    fn default_of(asked: &Self) -> Self {
        Self { yes: asked.yes, choices: asked.choices.clone(), ..Self::default() }
    }
}

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// What a provider works with.
pub(crate) struct Work<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) tools: &'a Tools<'a>,
    /// Of this cluster alone.
    pub(crate) folder: &'a Path,
    pub(crate) kubeconfig: PathBuf,
    faults: &'static [Fault],
}

impl Work<'_> {
    /// Runs a line for its effect.
    pub(crate) fn run(&self, line: &Line, patience: Duration) -> Result<()> {
        self.tools.run(line, patience)?.well(self.faults).map(drop)
    }

    /// Runs a line for its answer.
    pub(crate) fn ask(&self, line: &Line) -> Result<String> {
        self.tools.ask(line, ANSWER)?.well(self.faults)
    }

    /// kubectl on this cluster.
    pub(crate) fn kubectl(&self, words: &str) -> Line {
        Line::new("kubectl").args(words.split_whitespace()).kubeconfig(&self.kubeconfig)
    }

    /// Keeps the kubeconfig from other users.
    pub(crate) fn write_kubeconfig(&self, text: &str) -> Result<()> {
        let problem = || format!("cannot write {}", self.kubeconfig.display());
        let part = self.kubeconfig.with_added_extension("part");
        fs::write(&part, "").with_context(problem)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(0o600)).with_context(problem)?;
        fs::write(&part, text).with_context(problem)?;
        fs::rename(&part, &self.kubeconfig).with_context(problem)
    }
}
