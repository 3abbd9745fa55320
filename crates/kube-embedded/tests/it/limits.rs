//! The table of resources in the documentation is that of discovery.

use crate::fixture::{cluster, get};
use kube_embedded::Cluster;
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

const ALL_VERBS: usize = 8;

/// Kind, API, verbs and subresources: a row of the table in the documentation.
type Row = [String; 4];

fn documented() -> BTreeSet<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kubernetes.md");
    let text = fs::read_to_string(path).unwrap();
    let table = text.lines().skip_while(|line| !line.starts_with("| kind |")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()));
    cells.map(|mut cells| [(); 4].map(|()| cells.next().unwrap())).collect()
}

async fn served(cluster: &Cluster) -> BTreeSet<Row> {
    let groups = get(cluster, "/apis").await.json();
    let groups = groups["groups"].as_array().unwrap().iter();
    let versions = groups.flat_map(|group| group["versions"].as_array().unwrap().clone());
    let named = versions.map(|version| version["groupVersion"].as_str().unwrap().to_owned());
    let mut rows = BTreeSet::new();
    for version in named.chain(["v1".to_owned()]) {
        let prefix = if version == "v1" { "/api" } else { "/apis" };
        let list = get(cluster, &format!("{prefix}/{version}")).await.json();
        let resources = list["resources"].as_array().unwrap();
        let name = |resource: &Value| resource["name"].as_str().unwrap().to_owned();
        for resource in resources.iter().filter(|resource| !name(resource).contains('/')) {
            let prefix = format!("{}/", name(resource));
            let subresources =
                resources.iter().filter_map(|r| name(r).strip_prefix(&prefix).map(str::to_owned));
            let verbs: Vec<&str> =
                resource["verbs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let verbs = if verbs.len() == ALL_VERBS { "all".to_owned() } else { verbs.join(", ") };
            rows.insert([
                resource["kind"].as_str().unwrap().to_owned(),
                version.clone(),
                verbs,
                subresources.collect::<Vec<_>>().join(", "),
            ]);
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_resources_are_those_of_discovery() {
    let cluster = cluster().await;
    let (documented, served) = (documented(), served(&cluster).await);
    let missing: Vec<_> = served.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&served).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "not documented: {missing:#?}\nnot served: {wrong:#?}"
    );
}
