//! The arguments of `run`: a lab, a claim of one (`phase4/quarter-to-canary`), or all labs.

use crate::lab::Lab;
use crate::phases;
use crate::selection::Selection;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command, Error};
use std::ffi::OsStr;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    All,
    Lab(&'static Lab),
    Claim(&'static Lab, &'static str),
}

impl Target {
    /// Returns true if it is that lab or in it.
    pub(super) fn is_in(&self, lab: &Lab) -> bool {
        match self {
            Self::All => true,
            Self::Lab(own) | Self::Claim(own, _) => own.name == lab.name,
        }
    }
}

/// The claims of these targets.
pub(super) fn selection(targets: &[Target]) -> Selection {
    if !targets.iter().any(|target| matches!(target, Target::Claim(..))) {
        return Selection::default();
    }
    let claims = || phases::ALL.iter().flat_map(|lab| lab.claims);
    let of_labs = phases::ALL.iter().filter(|lab| {
        let is_whole = |target: &Target| !matches!(target, Target::Claim(..)) && target.is_in(lab);
        targets.iter().any(is_whole)
    });
    let single = targets.iter().filter_map(|target| match target {
        Target::Claim(_, claim) => Some(*claim),
        _ => None,
    });
    let of_labs = of_labs.flat_map(|lab| lab.claims.iter().map(|claim| claim.id));
    Selection::of(claims(), of_labs.chain(single))
}

/// The labs as values of an argument, for the help and for suggestions.
pub(super) fn lab_values() -> impl Iterator<Item = PossibleValue> {
    phases::ALL.iter().map(|lab| PossibleValue::new(lab.name).help(lab.title))
}

fn all_value() -> PossibleValue {
    PossibleValue::new("all").help("All labs")
}

/// Parses a target, with clap's suggestions for labs and for the claims of the lab.
#[derive(Clone)]
pub(super) struct TargetParser;

impl TargetParser {
    fn labs() -> PossibleValuesParser {
        PossibleValuesParser::new(lab_values().chain([all_value()]))
    }
}

impl TypedValueParser for TargetParser {
    type Value = Target;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Target, Error> {
        let (name, claim) = match value.to_str().and_then(|text| text.split_once('/')) {
            Some((name, claim)) => (OsStr::new(name), Some(claim)),
            None => (value, None),
        };
        let name = Self::labs().parse_ref(command, arg, name)?;
        let Some(lab) = phases::find(&name) else {
            // With a claim it is no value, and an error.
            return Self::labs().parse_ref(command, arg, value).map(|_| Target::All);
        };
        let Some(claim) = claim else {
            return Ok(Target::Lab(lab));
        };
        let ids = PossibleValuesParser::new(lab.claims.iter().map(|claim| claim.id));
        let id = ids.parse_ref(command, arg, OsStr::new(claim))?;
        let found = lab.claims.iter().find(|claim| claim.id == id);
        Ok(found.map_or(Target::Lab(lab), |claim| Target::Claim(lab, claim.id)))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(lab_values().chain([all_value()])))
    }
}
