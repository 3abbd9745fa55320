//! Exercises: releases with one planted fault, as data in folders `NN-name/exercise.yaml`. One is solved once
//! the claims that it names hold.

use crate::check::{State, check};
use crate::kubernetes::{apply, manifest::Manifest, namespace_client::NamespaceClient};
use crate::phases;
use crate::reset;
use crate::step::{Command, Target, kubectl};
use anyhow::{Context as _, bail, ensure};
use lab_environment::Environment;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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
    /// What is applied, in order.
    start: Vec<Start>,
    /// Hints, the vaguer first.
    pub hints: Vec<String>,
    /// Arguments of kubectl that solve it.
    pub solution: Vec<String>,
}

/// A manifest and the faults planted in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    /// A file of the manifests folder, or one next to the exercise.
    file: String,
    /// The kind of the object to change; the first object of the file if there is none.
    kind: Option<String>,
    /// New values by JSON pointer; `null` removes the field.
    #[serde(default)]
    set: BTreeMap<String, Value>,
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
        let mut manifests = Vec::new();
        for start in &self.start {
            manifests.extend(start.manifests(environment, &self.name)?);
        }
        reset::create_exercise_namespace(&client, namespace.name()).await?;
        reset::empty(&namespace).await?;
        for manifest in &manifests {
            namespace.apply(manifest).await?;
        }
        Ok(())
    }

    /// Judges whether it is solved. Returns the claims that do not hold yet, with the evidence.
    ///
    /// # Errors
    /// As [`check`].
    pub async fn open(
        &self,
        environment: &Environment,
        client: kube::Client,
        namespace: &str,
    ) -> anyhow::Result<Vec<String>> {
        let lab = phases::find(&self.phase).context("no such phase")?;
        let check = check(lab, environment, client, namespace).await?;
        let open = check.judgments.iter().filter(|judgment| {
            judgment.state != State::Holds && self.claims.iter().any(|c| c == judgment.claim)
        });
        Ok(open.map(|j| format!("{}: {}: {}", j.claim, j.state.word(), j.evidence)).collect())
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

impl Start {
    fn manifests(
        &self,
        environment: &Environment,
        exercise: &str,
    ) -> anyhow::Result<Vec<Manifest>> {
        let mut manifests = apply::manifests(environment, &self.file)?;
        let wanted = |m: &&mut Manifest| self.kind.as_deref().is_none_or(|kind| m.kind() == kind);
        let Some(found) = manifests.iter_mut().find(wanted) else {
            let kind = self.kind.as_deref().unwrap_or("object");
            bail!("{exercise}: {} holds no {kind}", self.file);
        };
        for (pointer, value) in &self.set {
            let place = || format!("{exercise}: {} has no place for `{pointer}`", self.file);
            let (parent, field) = pointer.rsplit_once('/').with_context(place)?;
            let parent = found.object.pointer_mut(parent).with_context(place)?;
            match (parent, field.parse::<usize>()) {
                (Value::Object(object), _) if value.is_null() => _ = object.remove(field),
                (Value::Object(object), _) => _ = object.insert(field.to_owned(), value.clone()),
                (Value::Array(array), Ok(index)) if index < array.len() => {
                    array[index] = value.clone();
                }
                _ => bail!(place()),
            }
        }
        Ok(manifests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::environment;

    #[test]
    fn exercises_of_this_repository_plant_their_faults() {
        let exercises = read(&folder()).unwrap();
        assert!(exercises.len() >= 16);
        for exercise in exercises {
            assert_eq!(exercise.hints.len(), 2, "{}", exercise.name);
            let changed = exercise.start.iter().filter(|start| {
                let intact = apply::manifests(&environment(), &start.file).unwrap();
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
        ] {
            let error = error(&good.replace(right, wrong));
            assert!(error.contains(reason) && error.contains("01-bad"), "{error}");
        }
        assert!(read(&folder).unwrap_err().to_string().contains("failed to read the exercises"));
    }

    #[test]
    fn fault_without_a_place_is_refused() {
        let start = |pointer: &str| Start {
            file: "lb/app-lb.yml".into(),
            kind: None,
            set: [(pointer.to_owned(), Value::from(1))].into(),
        };
        for pointer in ["/spec/nowhere/x", "/spec/ports/7", "spec"] {
            let error = start(pointer).manifests(&environment(), "01-bad").map(drop).unwrap_err();
            assert!(error.to_string().contains("01-bad: lb/app-lb.yml has no place"), "{error}");
        }
        assert!(start("/spec/ports/0/port").manifests(&environment(), "x").is_ok());
    }
}
