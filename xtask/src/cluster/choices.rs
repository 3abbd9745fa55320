//! What a run may choose anew on a cluster that is there already. `up` remembers it for the labs that
//! follow; a lab's own choice is for that lab.

use crate::{failure::Failure, images::pull_secret};
use anyhow::{Result, bail};
use lab_environment::IngressClass;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// As typed, or as remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Choices {
    /// Where the credentials come from that nodes pull with.
    pub(crate) pull_secret: Option<String>,
    /// Who is to serve an Ingress.
    pub(crate) ingress_class: Option<String>,
    /// Whether an edge of ours gives load balancers and Ingresses their addresses.
    pub(crate) edge: bool,
}

/// Classes that are heeded in the annotation alone, as GKE's documentation says: an Ingress that names
/// one of them in `spec.ingressClassName` is nobody's.
const ANNOTATED: [&str; 2] = ["gce", "gce-internal"];

impl Choices {
    /// These, and where nothing was said, what was chosen before.
    pub(crate) fn over(&self, before: &Self) -> Self {
        let either = |new: &Option<String>, old: &Option<String>| {
            let chosen = new.as_ref().or(old.as_ref());
            chosen.filter(|chosen| *chosen != super::NONE).cloned()
        };
        Self {
            pull_secret: either(&self.pull_secret, &before.pull_secret),
            ingress_class: either(&self.ingress_class, &before.ingress_class),
            edge: self.edge || before.edge,
        }
    }

    /// The class, named as whoever serves it wants it.
    pub(crate) fn ingress_class(&self) -> IngressClass {
        match &self.ingress_class {
            None => IngressClass::Unnamed,
            Some(name) if ANNOTATED.contains(&&**name) => IngressClass::Annotation(name.clone()),
            Some(name) => IngressClass::Field(name.clone()),
        }
    }

    /// What a choice asks of people, told to them.
    pub(crate) fn caution(&self) -> Option<&'static str> {
        (self.ingress_class.as_deref() == Some("gce-internal")).then_some(
            "an internal Ingress needs a proxy-only subnet in the region and answers in its own \
             network alone: phase 5 works from there, not over the Internet",
        )
    }

    /// Wrong usage if something was chosen that the rest leaves no place for.
    pub(crate) fn check(&self, registry: Option<&str>) -> Result<()> {
        if self.pull_secret.is_some() && registry == Some(super::NONE) {
            bail!(Failure::Usage(
                "`--pull-secret` is for a registry, and with `--registry none` nothing is pulled; \
                 `--pull-secret none` leaves out what `up` remembers"
                    .into()
            ));
        }
        let like_a_name = |name: &String| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            !name.is_empty() && name.chars().all(plain)
        };
        if let Some(name) = self.ingress_class.as_ref().filter(|name| !like_a_name(name)) {
            bail!(Failure::Usage(format!(
                "`{name}` names no Ingress class: `kubectl get ingressclass` lists them; on GKE there \
                 are gce and gce-internal"
            )));
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
        let choices = |chosen: Option<&str>| {
            let (pull_secret, ingress_class) = (chosen.map(Into::into), chosen.map(Into::into));
            Choices { pull_secret, ingress_class, edge: false }
        };
        for (now, before, expected) in [
            (None, None, None),
            (None, Some("login"), Some("login")),
            (Some("/f"), Some("login"), Some("/f")),
            (Some("none"), Some("login"), None),
        ] {
            assert_eq!(choices(now).over(&choices(before)), choices(expected), "{now:?}");
        }
        let edge = |edge| Choices { edge, ..Choices::default() };
        assert!(edge(false).over(&edge(true)).edge && edge(true).over(&edge(false)).edge);
        assert!(!edge(false).over(&edge(false)).edge);
    }

    #[test]
    fn choices_that_cannot_be_are_wrong_usage() {
        let secret = || Choices { pull_secret: Some("login".into()), ..Choices::default() };
        let class = |name: &str| Choices { ingress_class: Some(name.into()), ..secret() };
        for (choices, registry, fits) in [
            (Choices::default(), Some("none"), true),
            (secret(), Some("ghcr.io/x"), true),
            // The provider has one of its own.
            (secret(), None, true),
            (secret(), Some("none"), false),
            (class("public-2.nginx"), None, true),
            (class("Nginx"), None, false),
            (class(""), None, false),
        ] {
            assert_eq!(choices.check(registry).is_ok(), fits, "{choices:?} {registry:?}");
        }
    }

    #[test]
    fn gkes_classes_are_named_in_the_annotation() {
        let class = |name: &str| Choices { ingress_class: Some(name.into()), ..Choices::default() };
        assert_eq!(Choices::default().ingress_class(), IngressClass::Unnamed);
        assert_eq!(class("gce").ingress_class(), IngressClass::Annotation("gce".into()));
        assert_eq!(class("nginx").ingress_class(), IngressClass::Field("nginx".into()));
        let internal = class("gce-internal");
        assert_eq!(internal.ingress_class(), IngressClass::Annotation("gce-internal".into()));
        assert!(internal.caution().is_some() && class("gce").caution().is_none());
    }

    #[test]
    fn a_file_is_remembered_by_its_whole_path() {
        let here = std::env::current_dir().unwrap().join("x.json");
        assert_eq!(pull_secret(Some("x.json")), Some(here.to_string_lossy().into_owned()));
        assert_eq!(pull_secret(Some("login")).as_deref(), Some("login"));
        assert_eq!(pull_secret(None), None);
    }
}
