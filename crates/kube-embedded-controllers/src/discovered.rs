//! The kinds that the API serves, asked from itself, so that what works on all kinds (garbage
//! collection, emptying a namespace) needs no list of its own.

use super::write;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{Client, core::ApiResource};

/// A kind that can be listed, watched and deleted.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
}

/// Asks the API for its kinds. Events are among them; subresources, views and virtual kinds not.
pub(crate) async fn kinds(client: &Client) -> kube::Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    add(&mut kinds, client.list_core_api_resources("v1").await?);
    for group in client.list_api_groups().await?.groups {
        // The same objects as core events.
        if group.name == "events.k8s.io" {
            continue;
        }
        // The preferred version comes first; others count for what only they have.
        for version in group.versions {
            match client.list_api_group_resources(&version.group_version).await {
                // A custom resource may go between two questions.
                Err(error) if write::is(&error, 404) => {}
                list => add(&mut kinds, list?),
            }
        }
    }
    Ok(kinds)
}

fn add(kinds: &mut Vec<Kind>, list: APIResourceList) {
    let (group, version) = match list.group_version.split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), list.group_version.clone()),
    };
    for resource in list.resources {
        let does = |verb: &str| resource.verbs.iter().any(|known| known == verb);
        let known =
            |kind: &Kind| (&kind.resource.group, &kind.resource.plural) == (&group, &resource.name);
        if kinds.iter().any(known)
            || resource.name.contains('/')
            || !["list", "watch", "delete"].into_iter().all(does)
        {
            continue;
        }
        kinds.push(Kind {
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
