//! Objects of custom resources, without a derive macro: metadata, spec and status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{borrow::Cow, fmt::Debug};

/// The API group of all types.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// A spec, and the names of the resource that has it.
pub(super) trait Gvk:
    Clone + Debug + Default + DeserializeOwned + Serialize + Send + Sync + 'static
{
    const KIND: &'static str;
    const PLURAL: &'static str;
    const VERSION: &'static str;
    /// Whether its objects attach to Gateways and have backends.
    const IS_ROUTE: bool;
    type Scope;
    type Status: Clone + Debug + Default + DeserializeOwned + Serialize + Send + Sync + PartialEq;
}

/// An object with such a spec.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(bound = "")]
pub(super) struct Object<S: Gvk> {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) spec: S,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) status: S::Status,
}

/// Reads what has another form than the API documents as if it were not set: one such object must not
/// hide all others of its kind.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_else(|error| {
        tracing::warn!(%error, "an object of the Gateway API is not read");
        T::default()
    }))
}

impl<S: Gvk> Resource for Object<S> {
    type DynamicType = ();
    type Scope = S::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        S::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        S::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        S::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
