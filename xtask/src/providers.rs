//! The cluster providers: one file each, and one line in [`ALL`].

pub(crate) mod current;
pub(crate) mod embedded;
pub(crate) mod gke;
pub(crate) mod k3s;
pub(crate) mod kind;
pub(crate) mod minikube;

use crate::cluster::{flags::ClusterFlags, provider::Provider};
use anyhow::Result;

/// All providers, the default one first.
pub(crate) const ALL: [&dyn Provider; 6] = [
    &embedded::Embedded,
    &kind::Kind,
    &k3s::K3s,
    &minikube::Minikube,
    &gke::Gke,
    &current::Current,
];

/// The provider that is used without `--on`.
pub(crate) const DEFAULT: &dyn Provider = &embedded::Embedded;

/// Returns the provider of that name.
pub(crate) fn find(name: &str) -> Option<&'static dyn Provider> {
    ALL.into_iter().find(|provider| provider.name() == name)
}

/// Returns true for the provider that is used without `--on`.
pub(crate) fn is_default(provider: &dyn Provider) -> bool {
    provider.name() == DEFAULT.name()
}

/// Rejects flags that the provider does not support.
pub(crate) fn check_flags(provider: &dyn Provider, flags: &ClusterFlags) -> Result<()> {
    flags.check(provider.name(), &ALL.map(|provider| (provider.name(), provider.flags())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{flags::CreateFlags, provider};
    use clap::{Args, Command};

    #[test]
    fn providers_are_found_by_name_and_the_first_is_the_default() {
        assert!(is_default(ALL[0]) && DEFAULT.name() == provider::DEFAULT);
        for provider in ALL {
            assert_eq!(find(provider.name()).unwrap().name(), provider.name());
        }
        assert!(find("kint").is_none());
    }

    #[test]
    fn every_provider_has_checks_of_its_own() {
        let names = ALL.map(|provider| {
            let checks = provider.checks().iter();
            checks.map(|check| check.name).collect::<Vec<_>>()
        });
        for (index, own) in names.iter().enumerate() {
            assert!(!own.is_empty() && !names[..index].contains(own), "{own:?}");
        }
        assert!(names[0].contains(&"loopback") && names[1].contains(&"kind"));
    }

    #[test]
    fn supported_flags_exist() {
        let command = CreateFlags::augment_args(ClusterFlags::augment_args(Command::new("up")));
        let exists = |flag: &&str| {
            let name = flag.trim_start_matches("--");
            command.get_arguments().any(|argument| argument.get_long() == Some(name))
        };
        for provider in ALL {
            assert!(provider.flags().iter().all(exists), "{}", provider.name());
        }
        let embedded = ClusterFlags { image: Some("oldest".into()), ..ClusterFlags::default() };
        assert!(check_flags(DEFAULT, &embedded).is_err());
        assert!(check_flags(find("kind").unwrap(), &embedded).is_ok());
    }
}
