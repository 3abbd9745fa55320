//! kube-rs in the process and over TLS, authentication, and several clusters in one process.

use crate::fixture::{cluster, config_map, in_time};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_embedded::Cluster;
use serde_json::json;

/// Connects over TLS, with the kubeconfig of the cluster.
pub(crate) async fn tls_client(cluster: &Cluster) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&cluster.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Creates, patches, applies, deletes and watches a config map.
async fn use_all_verbs(client: Client, name: &str) {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let object: ConfigMap = serde_json::from_value(config_map(name)).unwrap();
    let created = api.create(&PostParams::default(), &object).await.unwrap();
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let since = created.resource_version().unwrap();
    let mut events = api.watch(&params, &since).await.unwrap().boxed();
    let change = Patch::Merge(json!({ "data": { "b": "2" } }));
    let changed = api.patch(name, &PatchParams::default(), &change).await.unwrap();
    assert_eq!(changed.data.unwrap().len(), 2);
    let applied = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "c": "3" },
    }));
    let applied = api.patch(name, &PatchParams::apply("test"), &applied).await.unwrap();
    assert_eq!(applied.data.unwrap().len(), 3);
    api.delete(name, &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt(name).await.unwrap().is_none());
    let mut seen = Vec::new();
    while let Some(event) = in_time(events.next()).await {
        match event.unwrap() {
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => {
                seen.push("deleted");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["modified", "modified", "deleted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_client_works_in_process_and_over_tls() {
    let cluster = cluster().await;
    use_all_verbs(cluster.client(), "in-process").await;
    use_all_verbs(tls_client(&cluster).await, "tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_credentials_is_anonymous() {
    let cluster = cluster().await;
    let mut kubeconfig = Kubeconfig::from_yaml(&cluster.kubeconfig()).unwrap();
    // The second user of the kubeconfig authenticates with a token.
    kubeconfig.contexts[0].context.as_mut().unwrap().user = Some("kubernetes-admin-token".into());
    let client = |kubeconfig: Kubeconfig| async move {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Client::try_from(config).unwrap()
    };
    let namespaces = Api::<Namespace>::all(client(kubeconfig.clone()).await);
    assert_eq!(namespaces.get("default").await.unwrap().name_any(), "default");

    kubeconfig.auth_infos[1].auth_info.as_mut().unwrap().token = None;
    let anonymous = client(kubeconfig).await;
    assert_eq!(anonymous.apiserver_version().await.unwrap().major, "1");
    let error = Api::<Namespace>::all(anonymous).get("default").await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error:?}") };
    assert_eq!((status.code, &*status.reason), (403, "Forbidden"));
    let expected = "namespaces \"default\" is forbidden: User \"system:anonymous\" cannot get resource \
                    \"namespaces\" in API group \"\" in the namespace \"default\"";
    assert_eq!(status.message, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_are_independent_and_clean_up() {
    let (one, two) = tokio::join!(cluster(), cluster());
    assert_ne!(one.url(), two.url());
    let names = |cluster: &Cluster| Api::<ConfigMap>::default_namespaced(cluster.client());
    let object = serde_json::from_value(config_map("only-one")).unwrap();
    names(&one).create(&PostParams::default(), &object).await.unwrap();
    assert!(names(&two).get_opt("only-one").await.unwrap().is_none());

    let directories = [one.state_dir().to_owned(), two.state_dir().to_owned()];
    let address = one.api_address();
    one.stop().await;
    drop(two);
    assert!(directories.iter().all(|directory| !directory.exists()));
    std::net::TcpListener::bind(address).expect("the address was not released");
}
