//! JSON documents of the [OCI image specification] and of `docker save`.
//!
//! Structs, not JSON maps: their fields are written in one order, and so to the same bytes, whatever
//! features of `serde_json` the rest of a program enables. Reading is as lenient as Go's decoder: a
//! field that is absent or `null` has its zero value unless the specification requires it.
//!
//! [OCI image specification]: https://github.com/opencontainers/image-spec/blob/main/spec.md

use crate::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Media type of an [`Index`].
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a [`Manifest`].
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of a [`ConfigFile`].
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed layer.
pub const LAYER_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Annotation under which containerd stores and looks up the full name of an image.
pub const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Annotation for a name or, as `docker buildx` has it, the tag alone.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// A list of manifests: `index.json`, or the images of several platforms under one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u8,
    /// [`INDEX_MEDIA_TYPE`], or Docker's `application/vnd.docker.distribution.manifest.list.v2+json`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Manifests and nested indexes.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// A reference to a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Type of the blob's content.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Digest of the blob, which also is its file name.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// The platform an image is built for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free-form metadata, in an index the name of the image.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// An operating system and a processor architecture, by Go's names: `linux/amd64`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `GOARCH`: `amd64`, `arm64`.
    pub architecture: String,
    /// `GOOS`: `linux`.
    pub os: String,
}

impl Platform {
    /// Returns Linux on this machine's architecture.
    pub fn host() -> Self {
        Self { architecture: host_architecture().to_owned(), os: "linux".to_owned() }
    }

    /// Reports whether an image for `other` runs here. What `other` leaves open matches.
    pub fn accepts(&self, other: &Platform) -> bool {
        (other.os.is_empty() || other.os == self.os)
            && (other.architecture.is_empty() || other.architecture == self.architecture)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown =
            |text: &str| if text.is_empty() { "unknown".into() } else { text.to_owned() };
        write!(f, "{}/{}", or_unknown(&self.os), or_unknown(&self.architecture))
    }
}

/// Returns the name of this machine's architecture in Go, and so in images and on Kubernetes nodes.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        other => other,
    }
}

/// The manifest of one image for one platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u8,
    /// [`MANIFEST_MEDIA_TYPE`], or Docker's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The [`ConfigFile`].
    pub config: Descriptor,
    /// Layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// The configuration blob of an image. Its digest is the image ID of Docker and Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// The platform the image is built for.
    #[serde(flatten)]
    pub platform: Platform,
    /// RFC 3339 time.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub created: String,
    /// Defaults of a container that runs the image.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ImageConfig,
    /// Digests of the uncompressed layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// One entry for each step of the build.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

/// Defaults of a container that runs an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// User name or ID, optionally with a group; empty for root.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that the program listens on: `8080/tcp`.
    #[serde(with = "set_as_object", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value` each.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program and its first arguments; replaced by `command` of a container.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Further arguments; replaced by `args` of a container.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Working directory of the program; empty for `/`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free-form metadata.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The layers of a [`ConfigFile`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(deserialize_with = "null_as_default")]
    pub diff_ids: Vec<Digest>,
}

/// A step of an image's build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339 time.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub created: String,
    /// The command that made the layer.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
}

/// An entry of `manifest.json`, which `docker save` writes and `docker load` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerManifest {
    /// Path of the [`ConfigFile`] in the archive.
    pub config: String,
    /// Names of the image: `kubeapp:1.0`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub repo_tags: Vec<String>,
    /// Paths of the layers in the archive, lowest first.
    pub layers: Vec<String>,
}

fn null_as_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's `map[string]struct{}`.
mod set_as_object {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IgnoredAny};
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Serialize)]
    struct Empty {}

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, Empty {})))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let object = Option::<BTreeMap<String, IgnoredAny>>::deserialize(deserializer)?;
        Ok(object.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_with_null_fields_has_their_defaults() {
        let text = r#"{"config": {"Env": null, "Cmd": null, "ExposedPorts": null, "Labels": null},
            "created": null, "history": null, "rootfs": {"diff_ids": null}}"#;
        assert_eq!(serde_json::from_str::<ConfigFile>(text).unwrap(), ConfigFile::default());
        let text = r#"{"config": null}"#;
        assert_eq!(serde_json::from_str::<ConfigFile>(text).unwrap(), ConfigFile::default());
    }

    #[test]
    fn exposed_ports_are_an_object_of_empty_objects() {
        let config =
            ImageConfig { exposed_ports: ["8080/tcp".to_owned()].into(), ..ImageConfig::default() };
        let text = r#"{"ExposedPorts":{"8080/tcp":{}}}"#;
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        assert_eq!(serde_json::from_str::<ImageConfig>(text).unwrap(), config);
    }

    #[test]
    fn platform_accepts_what_an_image_leaves_open() {
        let platform = |os: &str, architecture: &str| Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
        };
        let host = platform("linux", "arm64");
        assert!(host.accepts(&host) && host.accepts(&platform("", "")));
        assert!(!host.accepts(&platform("linux", "amd64")));
        assert!(!host.accepts(&platform("windows", "arm64")));
        assert_eq!(host.to_string(), "linux/arm64");
    }
}
