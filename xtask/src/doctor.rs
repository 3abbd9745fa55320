//! `cargo xtask doctor`: what this machine has and lacks for each kind of cluster, and the command that
//! mends each lack. Each check does on a small scale what a run would do. The part that a cluster needs
//! is also run before it is made, so that a failure is told in the first second and not after minutes.

mod engine;
mod machine;
mod tools;

use crate::{
    cluster, cluster::PROVIDERS, docker::Engine, failure::Failure, flags, project::Project,
};
use anyhow::{Result, anyhow, bail};
use serde::Serialize;
use std::cell::OnceCell;

pub(crate) fn run(flags: &flags::Doctor) -> Result<()> {
    cluster::provider(flags.on.as_deref())?;
    let about = About::new(Project::find()?, None, Depth::All);
    let asked = |name: &&&'static str| flags.on.as_deref().is_none_or(|on| on == **name);
    let names = PROVIDERS.map(|(name, _)| name);
    let reports: Vec<Report> =
        names.iter().filter(asked).map(|name| Report::of(name, &about)).collect();
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        reports.iter().for_each(Report::print);
    }
    // Without a choice it is the default that has to be able to run.
    let wanted = flags.on.as_deref().unwrap_or(cluster::embedded::NAME);
    match reports.iter().any(|report| report.provider == wanted && !report.ready) {
        true => bail!(Failure::Child(3)),
        false => Ok(()),
    }
}

/// Whether a cluster of that provider can be made here, with that image; the first lack as one line.
pub(crate) fn preflight(provider: &str, image: Option<&str>) -> Result<()> {
    let about = About::new(Project::find()?, image.map(Into::into), Depth::Quick);
    for (name, check) in checks(provider) {
        let finding = check(&about);
        if finding.state == State::Bad {
            let mend = finding.mend.map(|mend| format!("; {mend}")).unwrap_or_default();
            return Err(anyhow!("{provider}: {name}: {}{mend}", finding.text));
        }
    }
    Ok(())
}

/// What checks look at.
struct About {
    project: Project,
    image: Option<String>,
    depth: Depth,
    engine: OnceCell<Engine>,
}

/// Whether programs are asked for their versions, which takes seconds, or only looked for.
#[derive(Clone, Copy, PartialEq)]
enum Depth {
    Quick,
    All,
}

impl About {
    fn new(project: Project, image: Option<String>, depth: Depth) -> Self {
        Self { project, image, depth, engine: OnceCell::new() }
    }

    fn engine(&self) -> &Engine {
        self.engine.get_or_init(Engine::ask)
    }
}

type Check = (&'static str, fn(&About) -> Finding);

/// Checks of each provider.
fn checks(provider: &str) -> &'static [Check] {
    const KUBECTL: Check = ("kubectl", |about| tools::kubectl(about, true));
    const ENGINE: Check = ("engine", engine::answers);
    const STORAGE: Check = ("storage", engine::storage);
    const CGROUPS: Check = ("cgroups", engine::cgroups);
    const MEMORY: Check = ("memory", engine::memory);
    const INOTIFY: Check = ("inotify", |_| engine::inotify());
    const CONNECTIONS: Check = ("connections", |_| engine::connections());
    match provider {
        "kind" => {
            const {
                &[
                    ENGINE,
                    STORAGE,
                    CGROUPS,
                    MEMORY,
                    INOTIFY,
                    CONNECTIONS,
                    ("docker", tools::docker),
                    ("kind", tools::kind),
                    KUBECTL,
                ]
            }
        }
        "k3s" => {
            const {
                &[
                    ENGINE,
                    STORAGE,
                    CGROUPS,
                    MEMORY,
                    INOTIFY,
                    CONNECTIONS,
                    ("docker", tools::docker),
                    KUBECTL,
                ]
            }
        }
        "minikube" => const { &[("minikube", tools::minikube), INOTIFY, CONNECTIONS, KUBECTL] },
        "gke" => {
            const {
                &[
                    ("gcloud", tools::gcloud),
                    ("plugin", tools::plugin),
                    ("account", tools::account),
                    KUBECTL,
                    ("curl", tools::curl),
                ]
            }
        }
        "current" => const { &[KUBECTL, ("curl", tools::curl)] },
        _ => &[
            ("cores", |_| machine::cores()),
            ("loopback", |_| machine::loopback()),
            ("namespaces", |_| machine::namespaces()),
            ("port 80", |_| machine::port_80()),
            ("files", |_| machine::open_files()),
            ("folder", |about| machine::folder(&about.project)),
            ("kubectl", |about| tools::kubectl(about, false)),
            ("docker", engine::optional),
            ("cluster", |about| machine::cluster(&about.project)),
        ],
    }
}

/// What was found out about one provider.
#[derive(Debug, Serialize)]
struct Report {
    provider: &'static str,
    /// Whether nothing is missing.
    ready: bool,
    checks: Vec<Checked>,
}

#[derive(Debug, Serialize)]
struct Checked {
    name: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

impl Report {
    fn of(provider: &'static str, about: &About) -> Self {
        let checks = checks(provider).iter();
        let checks: Vec<_> =
            checks.map(|(name, check)| Checked { name, finding: check(about) }).collect();
        let ready = checks.iter().all(|checked| checked.finding.state != State::Bad);
        Self { provider, ready, checks }
    }

    fn print(&self) {
        println!("{}{}", self.provider, if self.ready { "" } else { ": not here as things are" });
        for Checked { name, finding } in &self.checks {
            let mark = match finding.state {
                State::Ok => "ok  ",
                State::Note => "note",
                State::Bad => "BAD ",
            };
            println!("  {mark}  {name:<11} {}", finding.text);
            if let Some(mend) = &finding.mend {
                println!("  {:17} → {mend}", "");
            }
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Finding {
    state: State,
    text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// It works, but something is different or slower.
    Note,
    /// It cannot work.
    Bad,
}

fn good(text: impl Into<String>) -> Finding {
    Finding { state: State::Ok, text: text.into(), mend: None }
}

fn note(text: impl Into<String>) -> Finding {
    Finding { state: State::Note, ..good(text) }
}

fn bad(text: impl Into<String>) -> Finding {
    Finding { state: State::Bad, ..good(text) }
}

impl Finding {
    fn mended(self, by: impl Into<String>) -> Self {
        Self { mend: Some(by.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_has_checks_of_its_own() {
        let own =
            PROVIDERS.map(|(name, _)| checks(name).iter().map(|(n, _)| *n).collect::<Vec<_>>());
        for (index, names) in own.iter().enumerate() {
            assert!(!names.is_empty() && !own[..index].contains(names), "{names:?}");
        }
        assert!(own[0].contains(&"loopback") && own[1].contains(&"kind"));
    }

    #[test]
    fn a_report_is_readable_by_machines() {
        let finding = bad("not installed").mended("apt-get install it");
        let report = Report {
            provider: "kind",
            ready: false,
            checks: vec![Checked { name: "kind", finding }],
        };
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({"provider": "kind", "ready": false, "checks": [
                {"name": "kind", "state": "bad", "text": "not installed", "mend": "apt-get install it"}]})
        );
    }
}
