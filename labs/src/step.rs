//! Steps: what a phase does, one after the other, as data. The runner, `labs explain`, `--step`, `labs
//! check`, `labs watch` and `docs/article.md` are made of the same list, so none of them can drift.

use crate::names;
use lab_environment::Environment;
use serde::Serialize;
use std::fmt::Write as _;

/// A step of a phase.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Stable name, unique within its phase: `join`.
    pub id: &'static str,
    /// A few words for headings.
    pub title: &'static str,
    /// What it shows, in two sentences.
    pub shows: &'static str,
    /// The statements of the article that it stands for.
    pub article: &'static [&'static str],
    /// What a person types, in order.
    pub commands: &'static [Command],
    /// What to look at afterwards.
    pub look: &'static str,
    /// Two hints, the vaguer first. The third is the commands.
    pub hints: [&'static str; 2],
    /// The ids of the claims that it proves.
    pub proves: &'static [&'static str],
}

/// A command as a person types it. `{stable}` and `{canary}` stand for the names of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Applies a file of the manifests folder.
    Apply(&'static str),
    /// Applies a file of the manifests folder after a change by a `sed` script.
    ApplyEdited(&'static str, &'static str),
    /// Changes the cluster: the arguments of kubectl.
    Kubectl(&'static str),
    /// Changes nothing: a command of the shell. `$SERVICE_URL` and `$INGRESS` are those of `cargo xtask env`.
    Look(&'static str),
}

/// A step with its commands for one cluster and namespace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListedStep {
    /// [`Step::id`].
    pub id: &'static str,
    /// [`Step::title`].
    pub title: &'static str,
    /// [`Step::shows`].
    pub shows: &'static str,
    /// The commands that a person types, in order.
    pub commands: Vec<String>,
    /// [`Step::look`].
    pub look: &'static str,
    /// [`Step::hints`].
    pub hints: [String; 2],
    /// [`Step::proves`].
    pub proves: &'static [&'static str],
}

/// The names that a command depends on.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The cluster; `None` for the names in the manifests.
    pub environment: Option<&'a Environment>,
}

impl Command {
    /// Formats the command for that cluster and namespace.
    pub fn text(&self, target: Target<'_>) -> String {
        match self {
            Self::Apply(file) => Self::apply_text(file, target),
            Self::ApplyEdited(file, script) => {
                let (edits, apply) = (image_edits(target), kubectl("apply -f -", target));
                format!("sed -e '{script}'{edits} {} | {apply}", path(target, file))
            }
            Self::Kubectl(arguments) => kubectl(arguments, target),
            Self::Look(command) => {
                let command = with_images(&names::in_terms_of_program(command), target);
                let namespaced = format!("kubectl --namespace={}", target.namespace);
                command.replace("kubectl --namespace ", &format!("{namespaced} "))
            }
        }
    }

    /// Formats the command that applies a file of the manifests folder.
    pub(crate) fn apply_text(file: &str, target: Target<'_>) -> String {
        match (image_edits(target), path(target, file)) {
            (edits, path) if edits.is_empty() => kubectl(&format!("apply -f {path}"), target),
            (edits, path) => format!("sed{edits} {path} | {}", kubectl("apply -f -", target)),
        }
    }

    /// Returns the command as [`crate::event::Event::Command`] reports it; `None` if it changes nothing.
    pub fn performed(&self, target: Target<'_>) -> Option<String> {
        match self {
            Self::Apply(file) => Some(format!("apply -f {file}")),
            Self::ApplyEdited(..) => Some("apply -f -".to_owned()),
            Self::Kubectl(arguments) => Some(with_images(arguments, target)),
            Self::Look(_) => None,
        }
    }
}

impl Step {
    /// Returns the step with its commands for that cluster and namespace.
    pub fn listed(&self, target: Target<'_>) -> ListedStep {
        let Self { id, title, shows, look, hints, proves, commands, .. } = *self;
        let commands = commands.iter().map(|command| command.text(target)).collect();
        let hints = hints.map(|hint| names::in_terms_of_program(hint).into_owned());
        ListedStep { id, title, shows, commands, look, hints, proves }
    }

    /// Formats everything about the step.
    pub fn text(&self, target: Target<'_>) -> String {
        let mut text = format!("{}\n  {}\n", self.title, self.shows);
        for sentence in self.article {
            _ = writeln!(text, "  In the article: “{sentence}”");
        }
        for command in self.commands {
            _ = writeln!(text, "    $ {}", command.text(target));
        }
        _ = writeln!(text, "  Look at: {}", self.look);
        if !self.proves.is_empty() {
            _ = writeln!(text, "  Proves: {}", self.proves.join(", "));
        }
        text
    }

    /// Returns the hint of that depth, from 0; the last, which later depths repeat, is the commands.
    pub fn hint(&self, depth: usize, target: Target<'_>) -> String {
        match self.hints.get(depth) {
            Some(hint) => (*hint).to_owned(),
            None => {
                let commands = self.commands.iter().map(|command| command.text(target));
                commands.collect::<Vec<_>>().join("\n")
            }
        }
    }
}

fn path(target: Target<'_>, file: &str) -> String {
    let is_elsewhere = |environment: &&Environment| {
        names::is_installation() || !environment.manifests.ends_with("manifests")
    };
    match target.environment.filter(is_elsewhere) {
        Some(environment) => environment.manifests.join(file).display().to_string(),
        None => format!("manifests/{file}"),
    }
}

/// Formats a kubectl command in the target's namespace.
pub(crate) fn kubectl(arguments: &str, target: Target<'_>) -> String {
    let kubectl = format!("kubectl --namespace={}", target.namespace);
    let arguments = with_images(arguments, target).replace("$(kubectl ", &format!("$({kubectl} "));
    format!("{kubectl} {arguments}")
}

/// The options of `sed` that put the images' names on this cluster into a manifest.
fn image_edits(target: Target<'_>) -> String {
    let images = target.environment.iter().flat_map(|environment| &environment.images);
    let renamed = images.filter(|image| image.name != image.manifest_name);
    renamed
        .map(|image| format!(" -e 's#image: {}$#image: {}#'", image.manifest_name, image.name))
        .collect()
}

fn with_images(text: &str, target: Target<'_>) -> String {
    let images = target.environment.map_or(&[][..], |environment| &environment.images);
    let name = |index: usize, default: &str| {
        images.get(index).map_or_else(|| default.to_owned(), |image| image.name.clone())
    };
    text.replace("{stable}", &name(0, "kubeapp:1.0")).replace("{canary}", &name(1, "kubeapp:2.0"))
}

#[cfg(test)]
mod tests;
