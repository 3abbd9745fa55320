//! A cluster that is up, lent to a run: supplied with the images and an edge, told of and blamed, and
//! given back.

use super::{House, Spec, house::Record};
use crate::{
    cluster::{
        Cluster, NONE,
        edge::{Edge, Seen},
    },
    images::{Image, push},
    lock::Lock,
    process::Signals,
    project::Project,
    running,
    tool::Tools,
};
use anyhow::Result;
use std::os::fd::OwnedFd;

/// A cluster that was found or made, for as long as this run holds it.
pub(crate) struct Held {
    pub(super) house: House,
    pub(super) spec: Spec,
    /// Whether it goes with the run.
    pub(super) goes: bool,
    pub(super) started_in: Option<f64>,
    /// Where the cluster needs one.
    pub(super) edge: Option<Edge>,
    pub(super) registry: Option<String>,
    pub(super) pull_secret: Option<String>,
    pub(super) _lock: Lock,
}

impl Held {
    /// With consent, images and an edge. What is made for this run alone goes where that cannot be.
    pub(super) fn equipped(
        mut self,
        mut record: Record,
        yes: bool,
        project: &Project,
        images: &[Image],
        signals: &Signals,
    ) -> Result<Self> {
        let tools = Tools::new(signals, Some(self.house.log()));
        let mut lack = "";
        let equipped = self
            .consent(yes, &tools)
            .and_then(|()| {
                let supplied = self.supply(&mut record, images, &tools);
                supplied.inspect_err(|_| lack = ", without all of its images")
            })
            .and_then(|()| self.start_edge(&record, project, &tools, signals));
        if let Err(error) = equipped {
            let provider = self.house.provider;
            // What was up before stays; what this run made for itself goes.
            if !self.goes && provider.is_made_here() {
                eprintln!(
                    "{name}: `{}` is up and stays{lack}: `cargo xtask up --on {name}` goes on with \
                     it, `cargo xtask down --on {name}` removes it",
                    self.spec.name,
                    name = provider.name()
                );
            }
            self.release(signals);
            return Err(error);
        }
        Ok(self)
    }

    fn consent(&self, yes: bool, tools: &Tools) -> Result<()> {
        self.house.provider.consent(&self.house.work(&self.spec, tools), yes)
    }

    fn supply(&mut self, record: &mut Record, images: &[Image], tools: &Tools) -> Result<()> {
        let work = self.house.work(&self.spec, tools);
        let wanted = running::digests(images);
        match self.house.provider.registry(&work)? {
            Some(registry) => {
                // The registry is asked each time: it knows better than we what it still has.
                for image in images {
                    push::push(&registry, image, tools)?;
                }
                self.registry = Some(registry.name);
            }
            None if record.images == wanted => return Ok(()),
            None => self.house.provider.load(&work, images)?,
        }
        record.images = wanted;
        self.house.remember(record)
    }

    fn start_edge(
        &mut self,
        record: &Record,
        project: &Project,
        tools: &Tools,
        signals: &Signals,
    ) -> Result<()> {
        if !self.house.provider.needs_edge(&self.spec) {
            return Ok(());
        }
        let work = self.house.work(&self.spec, tools);
        let published = self.house.provider.published(&work);
        let only = self.house.provider.edge_serves();
        let kubeconfig = &work.kubeconfig;
        let seen = Seen { folder: &self.house.folder, kubeconfig, published: &published, only };
        // One that a lab alone has chosen goes with it.
        let stays = record.stays && self.house.provider.needs_edge(&record.spec);
        let edge = Edge::ensure(project, &seen, stays, signals)?;
        self.edge = Some(edge);
        Ok(())
    }

    /// All that a run needs to know of it.
    pub(crate) fn cluster(&self) -> Cluster {
        let provider = self.house.provider;
        let mut differences = provider.differences(&self.spec);
        if let Some(edge) = &self.edge {
            edge.fit(&mut differences);
        }
        Cluster {
            provider: provider.name(),
            kubeconfig: self.house.kubeconfig(),
            started_in: self.started_in,
            registry: self.registry.clone(),
            own_images: self.spec.registry.as_deref() == Some(NONE),
            pull_secret: self.pull_secret.clone(),
            ingress_class: self.spec.choices.ingress_class(),
            differences,
            process: None,
        }
    }

    /// What to say of a cluster that no longer answers, for the blame when labs had no verdict; `None`
    /// if it does.
    pub(crate) fn blame(&self, signals: &Signals) -> Option<String> {
        let (tools, name) =
            (Tools::new(signals, Some(self.house.log())), self.house.provider.name());
        let why = tools.undisturbed(|| self.house.silence(&self.house.work(&self.spec, &tools)))?;
        let anew = match self.house.provider.is_made_here() {
            true => format!(
                "; `cargo xtask doctor --on {name}` looks for the reason, `cargo xtask up --on {name}` \
                 makes it anew"
            ),
            false => String::new(),
        };
        Some(format!("the {name} cluster died under the labs, or shut them out: {why:#}{anew}"))
    }

    /// That its edge serves no longer, if it has one that does not.
    pub(crate) fn edge_ended(&mut self) -> Option<String> {
        let last_words = self.edge.as_mut()?.ended()?;
        Some(format!("the edge ended under the labs; the next run starts another{last_words}"))
    }

    /// What becomes readable when that may be so and no signal tells.
    pub(crate) fn edge_told_by(&self) -> Result<Option<OwnedFd>> {
        let told_by = self.edge.as_ref().and_then(Edge::end_of_life);
        Ok(told_by.map(|fd| fd.try_clone_to_owned()).transpose()?)
    }

    /// Keeps what was made for this run alone.
    pub(crate) fn keep(&mut self) -> Result<()> {
        self.goes = false;
        if let Some(mut record) = self.house.record()? {
            // Chosen for what stays by whoever made it.
            if !record.stays {
                record = Record::of(Some(record), &self.spec, true);
            }
            self.house.remember(&record)?;
        }
        Ok(())
    }

    /// Ends what was made for this run alone.
    pub(crate) fn release(mut self, signals: &Signals) {
        if let Some(edge) = self.edge.take() {
            edge.release(signals);
        }
        if !self.goes {
            return;
        }
        let tools = Tools::new(signals, Some(self.house.log()));
        let work = self.house.work(&self.spec, &tools);
        match tools.undisturbed(|| self.house.provider.delete(&work)) {
            Ok(()) => self.house.forget(),
            Err(error) => {
                let name = self.house.provider.name();
                eprintln!(
                    "{name}: `{}` is left ({error:#}); `cargo xtask down --on {name}` removes it",
                    self.spec.name
                );
            }
        }
    }
}
