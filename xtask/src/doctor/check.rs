//! A check and its finding.

use crate::{docker::Engine, project::Project};
use serde::Serialize;
use std::cell::OnceCell;

/// A named check of this machine.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&CheckContext) -> Finding,
}

impl Check {
    /// Creates a check for a `const` table.
    pub(crate) const fn new(name: &'static str, run: fn(&CheckContext) -> Finding) -> Self {
        Self { name, run }
    }
}

/// The input of a check.
pub(crate) struct CheckContext {
    pub(crate) project: Project,
    /// The node image that was asked for.
    pub(crate) image: Option<String>,
    pub(crate) depth: Depth,
    engine: OnceCell<Engine>,
}

/// Controls whether programs are asked for their versions, which takes seconds, or only looked up.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Depth {
    Preflight,
    Full,
}

impl CheckContext {
    /// Creates a context that queries the Docker engine when first needed.
    pub(crate) fn new(project: Project, image: Option<String>, depth: Depth) -> Self {
        Self { project, image, depth, engine: OnceCell::new() }
    }

    /// Returns the state of the Docker engine.
    pub(crate) fn engine(&self) -> &Engine {
        self.engine.get_or_init(Engine::query)
    }

    /// Creates a context for tests.
    #[cfg(test)]
    pub(crate) fn with_engine(engine: Engine, image: Option<&str>) -> Self {
        let project = Project { root: "/".into(), binaries: "/".into(), target: "/".into() };
        let context = Self::new(project, image.map(Into::into), Depth::Preflight);
        Self { engine: OnceCell::from(engine), ..context }
    }
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Finding {
    pub(crate) state: State,
    pub(crate) text: String,
    /// A suggested fix.
    #[serde(rename = "mend", skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// It works, but something is different or slower.
    Note,
    /// It cannot work.
    Bad,
}

impl Finding {
    /// Creates a finding of something that is as it should be.
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self { state: State::Ok, text: text.into(), fix: None }
    }

    /// Creates a finding of something that is different or slower.
    pub(crate) fn note(text: impl Into<String>) -> Self {
        Self { state: State::Note, ..Self::ok(text) }
    }

    /// Creates a finding of something that cannot work.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self { state: State::Bad, ..Self::ok(text) }
    }

    /// Adds what to do about it.
    pub(crate) fn with_fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// Lowers a problem to a note, where it is optional.
    pub(crate) fn optional(self) -> Self {
        match self.state {
            State::Bad => Self { state: State::Note, ..self },
            State::Ok | State::Note => self,
        }
    }
}
