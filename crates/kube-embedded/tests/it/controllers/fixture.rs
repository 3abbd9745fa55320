//! A cluster without kubelets, and a stand-in for them.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Node, Pod, Service},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher::{self, watcher},
};
use kube_embedded::{Cluster, Config};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

pub(crate) const NAMESPACE: &str = "shop";
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    cluster: Cluster,
    hold: Arc<AtomicBool>,
    _kubelet: JoinSet<()>,
}

impl World {
    /// A cluster with three nodes and an empty namespace.
    pub(crate) async fn new() -> Self {
        let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await.unwrap();
        let client = cluster.client();
        let nodes: Api<Node> = Api::all(client.clone());
        for name in ["node-1", "node-2", "node-3"] {
            let node = json!({
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
                "status": {
                    "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "110" },
                    "conditions": [{ "type": "Ready", "status": "True" }],
                },
            });
            let made: Node = serde_json::from_value(node.clone()).unwrap();
            nodes.create(&PostParams::default(), &made).await.unwrap();
            let status = Patch::Merge(json!({ "status": node["status"] }));
            nodes.patch_status(name, &PatchParams::default(), &status).await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(NAMESPACE.into());
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        let hold = Arc::new(AtomicBool::new(false));
        let mut kubelet = JoinSet::new();
        kubelet.spawn(pretend(client, hold.clone()));
        Self { cluster, hold, _kubelet: kubelet }
    }

    pub(crate) fn client(&self) -> Client {
        self.cluster.client()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), NAMESPACE)
    }

    /// Keeps deleted pods from going.
    pub(crate) fn hold_deletions(&self, hold: bool) {
        self.hold.store(hold, Ordering::SeqCst);
    }

    pub(crate) async fn create<K>(&self, object: &K)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Object,
    {
        self.api::<K>().create(&PostParams::default(), object).await.unwrap();
    }

    pub(crate) async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Object,
    {
        let patch = Patch::Merge(&patch);
        self.api::<K>().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn set_image(&self, deployment: &str, image: &str) {
        let containers = json!([{ "name": "app", "image": image }]);
        let patch = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
        let api: Api<Deployment> = self.api();
        let patch = Patch::Strategic(&patch);
        api.patch(deployment, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn set_ready(&self, pod: &str, ready: bool) {
        let value = if ready { "True" } else { "False" };
        let patch = json!({ "status": { "conditions": [{ "type": "Ready", "status": value }] } });
        let api: Api<Pod> = self.api();
        api.patch_status(pod, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    pub(crate) async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Object,
    {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until the object of that name is as wished.
    pub(crate) async fn until<K>(&self, name: &str, wish: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Object,
    {
        self.until_any(|object: &K| object.name_any() == name && wish(object)).await
    }

    /// Waits until some object is as wished.
    pub(crate) async fn until_any<K>(&self, wish: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Object,
    {
        let all = self.until_all(|all: &[K]| all.iter().any(&wish)).await;
        all.into_iter().find(wish).unwrap()
    }

    /// Waits until all objects of a kind together are as wished.
    pub(crate) async fn until_all<K>(&self, wish: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Object,
    {
        let mut last = Vec::new();
        let waited = timeout(PATIENCE, until(self.api(), &wish, &mut last)).await;
        if waited.is_err() {
            let last = serde_json::to_string_pretty(&last).unwrap();
            panic!("waited in vain for {}; last seen: {last}", K::kind(&()));
        }
        last
    }

    pub(crate) async fn until_gone<K>(&self, api: &Api<K>, name: &str)
    where
        K: Object + Resource<DynamicType = ()>,
    {
        let mut last = Vec::new();
        let wish = |all: &[K]| all.iter().all(|object| object.name_any() != name);
        let waited = timeout(PATIENCE, until(api.clone(), &wish, &mut last)).await;
        assert!(waited.is_ok(), "{name} stays: {last:?}");
    }

    /// Watches how many pods there are, and how many are ready, until told to end.
    pub(crate) fn watch_pods(&self) -> PodWatch {
        let (end, ended) = oneshot::channel();
        let counts = tokio::spawn(count_pods(self.api(), ended));
        PodWatch { counts, end }
    }
}

pub(crate) trait Object:
    Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K: Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static> Object for K {}

pub(crate) struct PodWatch {
    counts: JoinHandle<(usize, usize)>,
    end: oneshot::Sender<()>,
}

impl PodWatch {
    /// The most pods and the fewest ready pods at a time; leaving ones do not count.
    pub(crate) async fn end(self) -> (usize, usize) {
        self.end.send(()).unwrap();
        self.counts.await.unwrap()
    }
}

async fn count_pods(api: Api<Pod>, mut ended: oneshot::Receiver<()>) -> (usize, usize) {
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut pods: BTreeMap<String, bool> = BTreeMap::new();
    let (mut most, mut fewest, mut listed) = (0, usize::MAX, false);
    loop {
        let event = tokio::select! {
            event = events.try_next() => event.unwrap().unwrap(),
            _ = &mut ended => return (most, fewest),
        };
        match event {
            watcher::Event::Init => pods.clear(),
            watcher::Event::InitDone => listed = true,
            watcher::Event::Delete(pod) => {
                pods.remove(&pod.name_any());
            }
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                if pod.metadata.deletion_timestamp.is_some() {
                    pods.remove(&pod.name_any());
                } else {
                    pods.insert(pod.name_any(), is_ready(&pod));
                }
            }
        }
        if listed {
            most = most.max(pods.len());
            fewest = fewest.min(pods.values().filter(|ready| **ready).count());
        }
    }
}

async fn until<K>(api: Api<K>, wish: &impl Fn(&[K]) -> bool, last: &mut Vec<K>)
where
    K: Resource<DynamicType = ()> + Object,
{
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut known: BTreeMap<String, K> = BTreeMap::new();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event.unwrap() {
            watcher::Event::Init => known.clear(),
            watcher::Event::InitDone => listed = true,
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                known.insert(object.name_any(), object);
            }
            watcher::Event::Delete(object) => {
                known.remove(&object.name_any());
            }
        }
        *last = known.values().cloned().collect();
        if listed && wish(last) {
            return;
        }
    }
}

/// Makes pods ready once they have a node, and lets them go once they are deleted.
async fn pretend(client: Client, hold: Arc<AtomicBool>) {
    let all: Api<Pod> = Api::all(client.clone());
    let mut events = pin!(watcher(all, watcher::Config::default()));
    let mut address = 0;
    while let Some(Ok(event)) = events.next().await {
        let (watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some();
        if pod.metadata.deletion_timestamp.is_some() {
            if !hold.load(Ordering::SeqCst) {
                let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
                let _ = api.delete(&pod.name_any(), &now).await;
            }
        } else if bound && pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none()) {
            address += 1;
            let patch = json!({ "status": {
                "phase": "Running",
                "podIP": format!("10.244.0.{address}"),
                "conditions": [{ "type": "Ready", "status": "True" }],
            }});
            let patch = Patch::Merge(&patch);
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        }
    }
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// As `kubectl rollout status` sees it.
pub(crate) fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().unwrap().replicas.unwrap();
    let Some(status) = &deployment.status else { return false };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.reason.as_deref() == Some("NewReplicaSetAvailable"))
}

pub(crate) fn deployment(name: &str, replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "app", "image": "kubeapp:1.0" }] },
            },
        },
    }))
    .unwrap()
}

pub(crate) fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "selector": { "app": name },
            "ports": [{ "port": 80, "targetPort": 8080 }],
        },
    }))
    .unwrap()
}
