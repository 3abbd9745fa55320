//! Exercises: releases with one planted fault, as data in folders `NN-name/exercise.yaml`. One is solved once
//! the claims that it names hold, and its trial, if it has one, fails no request.

use crate::check::{State, check};
use crate::kubernetes::namespace_client::NamespaceClient;
use crate::phases;
use crate::reset;
use crate::step::{Command, Target, kubectl};
use anyhow::{Context as _, bail, ensure};
use lab_environment::Environment;
use serde::Deserialize;
use start::Start;
use std::fs;
use std::path::{Path, PathBuf};
use trial::Trial;

mod start;
mod trial;

/// The exercises of this repository.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/broken"))
}

/// An exercise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exercise {
    /// The name of its folder: `01-selector`.
    #[serde(skip)]
    pub name: String,
    /// A few words for headings.
    pub title: String,
    /// What a user of the app sees.
    pub symptom: String,
    /// The lab whose claims decide.
    pub phase: String,
    /// The claims that hold once it is solved.
    pub claims: Vec<String>,
    /// What is done to start it, in order.
    start: Vec<Start>,
    /// A test under load, for a fault that no state of the cluster shows.
    trial: Option<Trial>,
    /// Hints, the vaguer first.
    pub hints: Vec<String>,
    /// Arguments of kubectl that solve it.
    pub solution: Vec<String>,
}

/// Reads all exercises of a folder, in the order of their names.
///
/// # Errors
/// If the folder or an exercise cannot be read, or an exercise names a phase or claim that does not exist.
pub fn read(folder: &Path) -> anyhow::Result<Vec<Exercise>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("failed to read the exercises in {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    ensure!(
        !paths.is_empty(),
        "{} holds no exercises; each is a folder `NN-name` with `exercise.yaml` in it",
        folder.display()
    );
    paths.iter().map(|path| read_one(path)).collect()
}

fn read_one(folder: &Path) -> anyhow::Result<Exercise> {
    let file = folder.join("exercise.yaml");
    let wrong = || format!("failed to read {}", file.display());
    let text = fs::read_to_string(&file).with_context(wrong)?;
    let mut exercise: Exercise = serde_saphyr::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(wrong)?;
    exercise.name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(lab) = phases::find(&exercise.phase) else {
        bail!("{}: there is no phase `{}`", file.display(), exercise.phase);
    };
    let known = |claim: &str| lab.claims.iter().any(|known| known.id == claim);
    if let Some(claim) = exercise.claims.iter().find(|claim| !known(claim)) {
        bail!("{}: {} has no claim `{claim}`", file.display(), lab.name);
    }
    ensure!(!exercise.claims.is_empty(), "{}: `claims` is empty", file.display());
    ensure!(!exercise.solution.is_empty(), "{}: `solution` is empty", file.display());
    exercise.start.iter_mut().for_each(|start| start.find_beside(folder));
    for start in &exercise.start {
        start.check().with_context(wrong)?;
    }
    Ok(exercise)
}

impl Exercise {
    /// Empties the namespace, creating it if needed, and applies the broken release.
    ///
    /// # Errors
    /// If a manifest or the place of a fault does not exist, or the API server rejects an object.
    pub async fn start(
        &self,
        environment: &Environment,
        client: kube::Client,
        namespace: &str,
    ) -> anyhow::Result<()> {
        let namespace = NamespaceClient::new(client.clone(), namespace, &environment.timeouts);
        // All of it before anything is deleted.
        let mut manifests = Vec::new();
        for start in &self.start {
            manifests.push(start.manifests(environment, &self.name)?);
        }
        reset::create_exercise_namespace(&client, namespace.name()).await?;
        reset::empty(&namespace).await?;
        reset::record_exercise(&client, namespace.name(), &self.name).await?;
        for (start, manifests) in self.start.iter().zip(&manifests) {
            start.perform(&namespace, manifests).await?;
        }
        Ok(())
    }

    /// Judges whether it is solved. Returns the claims that do not hold yet, with the evidence; if all do, what
    /// the trial found.
    ///
    /// # Errors
    /// As [`check`]; or if the trial would change a namespace that is not for exercises.
    pub async fn open(
        &self,
        environment: &Environment,
        client: kube::Client,
        namespace: &str,
    ) -> anyhow::Result<Vec<String>> {
        let started = reset::recorded_exercise(&client, namespace).await?;
        if let Some(other) = started.filter(|started| *started != self.name) {
            bail!(
                "namespace `{namespace}` has the exercise {other}, not {}; start it first",
                self.name
            );
        }
        let lab = phases::find(&self.phase).context("no such phase")?;
        let check = check(lab, environment, client.clone(), namespace).await?;
        let open = check.judgments.iter().filter(|judgment| {
            judgment.state != State::Holds && self.claims.iter().any(|c| c == judgment.claim)
        });
        let mut open: Vec<String> =
            open.map(|j| format!("{}: {}: {}", j.claim, j.state.word(), j.evidence)).collect();
        if let Some(trial) = self.trial.as_ref().filter(|_| open.is_empty()) {
            if trial.changes_the_cluster() {
                reset::expect_exercise_namespace(&client, namespace).await?;
            }
            let namespace = NamespaceClient::new(client, namespace, &environment.timeouts);
            open.extend(trial.run(&namespace).await?);
        }
        Ok(open)
    }

    /// The commands that solve it, as a person types them.
    pub fn solution(&self, target: Target<'_>) -> Vec<String> {
        let command = |arguments: &String| match arguments.strip_prefix("apply -f ") {
            Some(file) => Command::apply_text(file, target),
            None => kubectl(arguments, target),
        };
        self.solution.iter().map(command).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::environment;
    use crate::kubernetes::apply;

    #[test]
    fn exercises_of_this_repository_plant_their_faults() {
        let exercises = read(&folder()).unwrap();
        assert!(exercises.len() >= 16);
        for exercise in exercises {
            assert_eq!(exercise.hints.len(), 2, "{}", exercise.name);
            let changed = exercise.start.iter().filter(|start| {
                let Some(file) = start.file() else { return false };
                let intact = apply::manifests(&environment(), file).unwrap();
                let planted = start.manifests(&environment(), &exercise.name).unwrap();
                intact.iter().zip(&planted).any(|(a, b)| a.object != b.object)
            });
            assert_eq!(changed.count(), 1, "{}: one fault", exercise.name);
        }
    }

    #[test]
    fn bad_exercise_is_refused_with_its_file_and_reason() {
        let folder = std::env::temp_dir().join(format!("labs-broken-{}", std::process::id()));
        let error = |text: &str| {
            let exercise = folder.join("01-bad");
            fs::create_dir_all(&exercise).unwrap();
            fs::write(exercise.join("exercise.yaml"), text).unwrap();
            let read = read(&folder);
            fs::remove_dir_all(&folder).unwrap();
            format!("{:#}", read.unwrap_err())
        };
        let good = "title: t\nsymptom: s\nphase: phase4\nclaims: [canary-retires]\nstart: []\nhints: []\nsolution: [x]\n";
        for (right, wrong, reason) in [
            ("phase4", "phase9", "there is no phase `phase9`"),
            ("canary-retires", "canary-sings", "phase4 has no claim `canary-sings`"),
            ("[x]", "[]", "`solution` is empty"),
            ("symptom", "symptoms", "symptoms"),
            ("start: []", "start: [{}]", "one of `file`, `certificate` and `wait`"),
            ("start: []", "start: [{file: a, wait: b}]", "one of `file`, `certificate` and `wait`"),
            ("start: []", "start: [{certificate: a}]", "`hosts` is empty"),
            ("start: []", "start: []\ntrial: {walk: 3}", "walk"),
        ] {
            let error = error(&good.replace(right, wrong));
            assert!(error.contains(reason) && error.contains("01-bad"), "{error}");
        }
        assert!(read(&folder).unwrap_err().to_string().contains("failed to read the exercises"));
    }
}
