//! What a run may choose anew on a cluster that is there already. `up` remembers it for the labs that
//! follow; a lab's own choice is for that lab.

use crate::{failure::Failure, images::pull_secret};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// As typed, or as remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Choices {
    /// Where the credentials come from that nodes pull with.
    pub(crate) pull_secret: Option<String>,
}

impl Choices {
    /// These, and where nothing was said, what was chosen before.
    pub(crate) fn over(&self, before: &Self) -> Self {
        let either = |new: &Option<String>, old: &Option<String>| {
            let chosen = new.as_ref().or(old.as_ref());
            chosen.filter(|chosen| *chosen != super::NONE).cloned()
        };
        Self { pull_secret: either(&self.pull_secret, &before.pull_secret) }
    }

    /// Wrong usage if something was chosen that the rest leaves no place for.
    pub(crate) fn check(&self, registry: Option<&str>) -> Result<()> {
        if self.pull_secret.is_some() && registry == Some(super::NONE) {
            bail!(Failure::Usage(
                "`--pull-secret` is for a registry, and with `--registry none` nothing is pulled"
                    .into()
            ));
        }
        Ok(())
    }
}

/// `login`, `none`, or the whole path of a file: the next run may stand elsewhere.
pub(crate) fn pull_secret(typed: Option<&str>) -> Option<String> {
    let typed = typed?;
    if [pull_secret::LOGIN, super::NONE].contains(&typed) {
        return Some(typed.into());
    }
    let whole = std::path::absolute(Path::new(typed));
    Some(whole.map_or_else(|_| typed.into(), |path| path.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_now_counts_and_none_takes_it_back() {
        let choices =
            |pull_secret: Option<&str>| Choices { pull_secret: pull_secret.map(Into::into) };
        for (now, before, expected) in [
            (None, None, None),
            (None, Some("login"), Some("login")),
            (Some("/f"), Some("login"), Some("/f")),
            (Some("none"), Some("login"), None),
        ] {
            assert_eq!(choices(now).over(&choices(before)), choices(expected), "{now:?}");
        }
        assert!(choices(None).check(Some("none")).is_ok());
        assert!(choices(Some("login")).check(Some("ghcr.io/x")).is_ok());
        assert!(choices(Some("login")).check(None).is_ok(), "the provider has one of its own");
        assert!(choices(Some("login")).check(Some("none")).is_err());
    }

    #[test]
    fn a_file_is_remembered_by_its_whole_path() {
        let here = std::env::current_dir().unwrap().join("x.json");
        assert_eq!(pull_secret(Some("x.json")), Some(here.to_string_lossy().into_owned()));
        assert_eq!(pull_secret(Some("login")).as_deref(), Some("login"));
        assert_eq!(pull_secret(None), None);
    }
}
