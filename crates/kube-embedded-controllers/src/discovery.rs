//! Discovery of the resources that the API server serves, for what works on all of them: garbage
//! collection and the deletion of a namespace's content.

use crate::patch;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{Client, core::ApiResource};

/// A resource that can be listed, watched and deleted.
#[derive(Clone, Debug)]
pub(crate) struct DiscoveredResource {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
}

/// Returns the group of an `apiVersion`; empty for the core group.
pub(crate) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Discovers all deletable resources. Events are among them; subresources and virtual resources are
/// not.
pub(crate) async fn resources(client: &Client) -> kube::Result<Vec<DiscoveredResource>> {
    let mut found = Vec::new();
    add(&mut found, client.list_core_api_resources("v1").await?);
    for group in client.list_api_groups().await?.groups {
        // The core group serves the same objects.
        if group.name == "events.k8s.io" {
            continue;
        }
        // The preferred version comes first; the others add the resources that only they serve.
        for version in group.versions {
            match client.list_api_group_resources(&version.group_version).await {
                // A custom resource may be removed between two requests.
                Err(error) if patch::is_status(&error, 404) => {}
                list => add(&mut found, list?),
            }
        }
    }
    Ok(found)
}

/// Adds the resources of one group version that no earlier version has served.
fn add(found: &mut Vec<DiscoveredResource>, list: APIResourceList) {
    let group = group(&list.group_version).to_owned();
    let version = list.group_version.rsplit('/').next().unwrap_or_default().to_owned();
    for resource in list.resources {
        let supports = |verb: &str| resource.verbs.iter().any(|known| known == verb);
        let is_same = |known: &DiscoveredResource| {
            (&known.resource.group, &known.resource.plural) == (&group, &resource.name)
        };
        if found.iter().any(is_same)
            || resource.name.contains('/')
            || !["list", "watch", "delete"].into_iter().all(supports)
        {
            continue;
        }
        found.push(DiscoveredResource {
            resource: ApiResource {
                group: group.clone(),
                version: version.clone(),
                api_version: list.group_version.clone(),
                kind: resource.kind,
                plural: resource.name,
            },
            namespaced: resource.namespaced,
        });
    }
}
