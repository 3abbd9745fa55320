//! Image names, as container runtimes complete and abbreviate them.

/// Returns an image name in full, as containerd stores it: with registry, repository and tag.
///
/// ```
/// use oci_archive::normalize_name;
///
/// assert_eq!(normalize_name("kubeapp"), "docker.io/library/kubeapp:latest");
/// assert_eq!(normalize_name("localhost:5000/kubeapp:1.0"), "localhost:5000/kubeapp:1.0");
/// ```
pub fn normalize_name(name: &str) -> String {
    if name.starts_with("sha256:") {
        return name.to_owned();
    }
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let library = if registry == "docker.io" && !rest.contains('/') { "library/" } else { "" };
    let tagged =
        rest.contains('@') || rest.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let tag = if tagged { "" } else { ":latest" };
    format!("{registry}/{library}{rest}{tag}")
}

/// Returns a normalized name as people write it, and as Docker lists it: `kubeapp:1.0`.
pub fn familiar_name(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_without_registry_or_tag_is_completed() {
        for (name, full) in [
            ("kubeapp:1.0", "docker.io/library/kubeapp:1.0"),
            ("kubeapp", "docker.io/library/kubeapp:latest"),
            ("me/kubeapp:1.0", "docker.io/me/kubeapp:1.0"),
            ("docker.io/library/kubeapp:1.0", "docker.io/library/kubeapp:1.0"),
            ("docker.io/kubeapp:1.0", "docker.io/library/kubeapp:1.0"),
            ("index.docker.io/kubeapp:1.0", "docker.io/library/kubeapp:1.0"),
            ("localhost/kubeapp", "localhost/kubeapp:latest"),
            ("registry:5000/a/b", "registry:5000/a/b:latest"),
            ("ghcr.io/a@sha256:00", "ghcr.io/a@sha256:00"),
        ] {
            assert_eq!(normalize_name(name), full, "{name}");
            assert_eq!(normalize_name(full), full, "{full} is normalized");
        }
    }

    #[test]
    fn familiar_name_omits_what_docker_assumes() {
        for (full, familiar) in [
            ("docker.io/library/kubeapp:1.0", "kubeapp:1.0"),
            ("docker.io/me/kubeapp:1.0", "me/kubeapp:1.0"),
            ("ghcr.io/a:1", "ghcr.io/a:1"),
        ] {
            assert_eq!(familiar_name(full), familiar);
        }
    }
}
