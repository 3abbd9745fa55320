//! The flag `--on`, of all commands that take a provider.

use crate::{cluster::provider::Provider, providers};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

/// The provider of the cluster.
#[derive(Args, Clone, Default)]
pub(super) struct ProviderFlag {
    /// Cluster provider
    #[arg(long, value_name = "PROVIDER", value_parser = parser(), help = help())]
    on: Option<Selected>,
}

impl ProviderFlag {
    /// Returns the provider, or the default one.
    pub(super) fn provider(&self) -> &'static dyn Provider {
        self.selected().unwrap_or(providers::DEFAULT)
    }

    /// Returns the provider that was named.
    pub(super) fn selected(&self) -> Option<&'static dyn Provider> {
        self.on.as_ref().map(|Selected(provider)| *provider)
    }
}

#[derive(Clone)]
struct Selected(&'static dyn Provider);

fn parser() -> impl TypedValueParser<Value = Selected> {
    PossibleValuesParser::new(providers::ALL.map(|provider| provider.name()))
        .try_map(|name| providers::find(&name).map(Selected).ok_or("not a cluster provider"))
}

fn help() -> String {
    format!("Cluster provider (default `{}`)", providers::DEFAULT.name())
}
