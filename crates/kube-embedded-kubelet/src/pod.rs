//! One pod from its first sight to its end: namespaces, init containers, containers, status,
//! termination.

use super::{
    container::Runner,
    env::{Location, Referred},
    host::{Host, Node},
    live::Live,
    logs::Log,
    sandbox::{LaunchError, Pause, PauseConfig, Sockets},
    status::{self, PodView, State, View},
    volumes,
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{
        ConfigMap, Container, ObjectReference, Pod, Secret, Service, ServiceAccount,
        ServiceAccountTokenProjection,
    },
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use kube_embedded_core::network::Sandbox;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

/// The pods of a cluster that is stopped get no more than this to end by themselves.
const FAREWELL: Duration = Duration::from_secs(3);

/// What the worker of a pod is told.
#[derive(Clone)]
pub(crate) struct Update {
    /// The object as it was last seen.
    pub(crate) pod: Arc<Pod>,
    /// Whether it is no longer in the API.
    pub(crate) gone: bool,
    /// Whether the cluster stops.
    pub(crate) stop: bool,
}

/// A pod on a node.
pub(crate) struct PodWorker {
    pub(crate) host: Arc<Host>,
    pub(crate) node: Arc<Node>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) init_logs: Vec<Arc<Log>>,
    pub(crate) logs: Vec<Arc<Log>>,
    view: Mutex<PodView>,
    /// Containers that run, by name.
    live: Mutex<HashMap<String, Arc<Live>>>,
    /// By volume and path, and until when each is used.
    tokens: Mutex<HashMap<(String, String), (String, Instant)>>,
    changed: Notify,
    /// When everything in the pod must have ended, once that is known.
    stopping: watch::Sender<Option<Instant>>,
    folder: PathBuf,
}

/// The namespaces, or the address alone, of a running pod.
pub(crate) struct PodSandbox {
    pub(crate) location: Location,
    pub(crate) pause: Option<Pause>,
    pub(crate) volumes: BTreeMap<String, volumes::Made>,
    host: Arc<Host>,
    node: Arc<Node>,
}

impl Drop for PodSandbox {
    fn drop(&mut self) {
        if self.pause.is_some() {
            self.host.network.detach(IpAddr::V4(self.location.pod_ip));
        }
        let mut addresses = self.node.addresses.lock().unwrap_or_else(|e| e.into_inner());
        addresses.give_back(self.location.pod_ip);
    }
}

impl PodWorker {
    pub(crate) fn new(host: Arc<Host>, node: Arc<Node>, pod: Arc<Pod>) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name, uid) =
            (text(&pod.metadata.namespace), text(&pod.metadata.name), text(&pod.metadata.uid));
        let folder = host.state.join("pods").join(&uid);
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        let log = |c: &Container| Log::new(folder.join("logs").join(&c.name));
        let init_logs = init.iter().map(log).collect();
        let logs = spec.containers.iter().map(log).collect();
        let before = pod.status.as_ref();
        let view = |c: &Container, first: &str| {
            let known = before.and_then(|s| {
                let all = s
                    .container_statuses
                    .iter()
                    .flatten()
                    .chain(s.init_container_statuses.iter().flatten());
                all.clone().find(|known| known.name == c.name)
            });
            // Started in an earlier life of the cluster: this is a restart.
            let restarts =
                known.map_or(0, |k| k.restart_count + i32::from(k.container_id.is_some()));
            let state = State::Waiting { reason: first.to_owned(), message: None };
            View { name: c.name.clone(), image: text(&c.image), state, restarts, ..View::default() }
        };
        let first = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let view = PodView {
            host_ip: Some(node.ip),
            started_at: Some(
                before.and_then(|s| s.start_time.as_ref()).map_or_else(Timestamp::now, |t| t.0),
            ),
            init: init.iter().map(|c| view(c, "PodInitializing")).collect(),
            containers: spec.containers.iter().map(|c| view(c, first)).collect(),
            ..PodView::default()
        };
        Self {
            host,
            node,
            namespace,
            name,
            uid,
            init_logs,
            logs,
            view: Mutex::new(view),
            live: Mutex::default(),
            tokens: Mutex::default(),
            changed: Notify::new(),
            stopping: watch::Sender::new(None),
            folder,
            pod,
        }
    }

    /// Runs the pod until it is gone, or the cluster stops.
    pub(crate) async fn run(self: Arc<Self>, mut updates: watch::Receiver<Update>) {
        let over = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(over, Some("Succeeded" | "Failed")) {
            let ends = |u: &Update| u.gone || u.stop || u.pod.metadata.deletion_timestamp.is_some();
            let _ = updates.wait_for(ends).await;
        } else {
            self.changed.notify_one();
            let following = updates.clone();
            tokio::select! {
                _ = self.follow(following) => {}
                _ = self.write_status(updates.clone()) => {}
                _ = self.live(updates.clone()) => {}
            }
        }
        let (gone, stop) = {
            let last = updates.borrow();
            (last.gone, last.stop)
        };
        if !gone && !stop {
            self.finish(&mut updates).await;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// Changes the view and has the status written.
    pub(crate) fn change(&self, change: impl FnOnce(&mut PodView)) {
        change(&mut self.view());
        self.changed.notify_one();
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, PodView> {
        self.view.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Containers that run, by name.
    pub(crate) fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.live.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Tells by when everything has to end, once it has to.
    pub(crate) fn stopping(&self) -> watch::Receiver<Option<Instant>> {
        self.stopping.subscribe()
    }

    /// What events about the pod refer to.
    pub(crate) fn reference(&self, field: Option<String>) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            resource_version: self.pod.metadata.resource_version.clone(),
            field_path: field,
        }
    }

    /// A container's private folder.
    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    async fn live(&self, updates: watch::Receiver<Update>) {
        let mut stopping = self.stopping();
        let sandbox = tokio::select! {
            sandbox = self.make_sandbox() => sandbox,
            _ = stopping.wait_for(Option::is_some) => return,
        };
        tokio::select! {
            () = self.run_containers(&sandbox) => {}
            () = self.keep_volumes(updates) => {}
        }
        drop(sandbox);
        self.change(|view| view.sandbox = false);
        let _ = stopping.wait_for(Option::is_some).await;
    }

    async fn run_containers(&self, sandbox: &PodSandbox) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        for (index, container) in init.iter().enumerate() {
            let runner = Runner { pod: self, sandbox, container, index, init: true };
            if !runner.run().await {
                break;
            }
        }
        let ready = self
            .view()
            .init
            .iter()
            .all(|v| matches!(&v.state, State::Terminated(t) if t.exit_code == 0));
        if ready && self.stopping.borrow().is_none() {
            self.change(|view| {
                for v in &mut view.containers {
                    v.state = State::default();
                }
            });
            let runs = spec.containers.iter().enumerate().map(|(index, container)| {
                let runner = Runner { pod: self, sandbox, container, index, init: false };
                async move { runner.run().await }
            });
            join_all(runs).await;
        }
    }

    /// Brings the volumes up to date from time to time. Never returns.
    async fn keep_volumes(&self, updates: watch::Receiver<Update>) {
        let Some(period) = volumes::period(&self.pod) else { return std::future::pending().await };
        loop {
            sleep(period).await;
            let pod = updates.borrow().pod.clone();
            // What cannot be had now stays as it is, and is looked for again.
            let _ = self.make_volumes(&pod).await;
        }
    }

    async fn make_volumes(&self, pod: &Pod) -> Result<BTreeMap<String, volumes::Made>, String> {
        let (maps, secrets) = volumes::references(pod);
        let mut referred = self.fetch(maps, secrets, false).await?;
        let mut failed = None;
        for (volume, token) in volumes::tokens(pod) {
            let key = (volume.to_owned(), token.path.clone());
            match self.token(key.clone(), token).await {
                Ok(token) => drop(referred.tokens.insert(key, token)),
                // The other volumes can be had all the same.
                Err(why) => drop(failed.get_or_insert(why)),
            }
        }
        let made = volumes::make(pod, &self.folder.join("volumes"), &referred);
        failed.map_or(made, Err)
    }

    /// A token for a volume: the one there was, or another when most of its time is over.
    async fn token(
        &self,
        key: (String, String),
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let lock = || self.tokens.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((token, until)) = lock().get(&key)
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let account = self.pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().map(|audience| vec![audience]),
                expiration_seconds: wanted.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(self.name.clone()),
                    uid: Some(self.uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.host.client.clone(), &self.namespace);
        let made = api
            .create_token_request(account.unwrap_or("default"), &PostParams::default(), &request)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let token = made.status.and_then(|status| status.token).unwrap_or_default();
        let life = wanted.expiration_seconds.unwrap_or(3600).max(0) as u64;
        let until = Instant::now() + Duration::from_secs(life * 4 / 5);
        lock().insert(key, (token.clone(), until));
        Ok(token)
    }

    async fn make_sandbox(&self) -> PodSandbox {
        let mut wait = Duration::from_millis(100);
        loop {
            match self.try_sandbox().await {
                Ok(sandbox) => {
                    let ip = sandbox.location.pod_ip;
                    let user = self.user();
                    self.change(|view| {
                        view.ip = Some(ip);
                        view.user = user;
                        view.sandbox = true;
                    });
                    return sandbox;
                }
                Err((reason, message)) => {
                    self.node.warning(&self.reference(None), reason, &message);
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }

    async fn try_sandbox(&self) -> Result<PodSandbox, (&'static str, String)> {
        let volumes = self.make_volumes(&self.pod).await.map_err(|e| ("FailedMount", e))?;
        let failed =
            |e: String| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}"));
        let taken = self.node.addresses.lock().unwrap_or_else(|e| e.into_inner()).take();
        let pod_ip = taken.ok_or_else(|| failed("no address is left on this node".to_owned()))?;
        let location = Location { pod_ip, host_ip: self.node.ip };
        let mut sandbox = PodSandbox {
            location,
            pause: None,
            volumes,
            host: self.host.clone(),
            node: self.node.clone(),
        };
        if self.host.sandbox == Sandbox::Namespaced {
            let pause = self.make_pause(pod_ip).await.map_err(|e| failed(e.to_string()))?;
            let sockets = Sockets::new(&pause).map_err(|e| failed(e.to_string()))?;
            self.host.network.attach(IpAddr::V4(pod_ip), Arc::new(sockets));
            sandbox.pause = Some(pause);
        }
        Ok(sandbox)
    }

    async fn make_pause(&self, address: Ipv4Addr) -> Result<Pause, LaunchError> {
        let (user, group) = self.user();
        self.host
            .spawner
            .pause(PauseConfig { hostname: self.hostname(), address, user, group })
            .await
    }

    /// The user and group that the pod's programs see. There is one for all of them: an ordinary
    /// user may map no more than one into a namespace.
    pub(crate) fn user(&self) -> (u32, u32) {
        let Some(spec) = &self.pod.spec else { return (0, 0) };
        let pod = spec.security_context.as_ref();
        let first = spec.containers.first();
        let own = first.and_then(|c| c.security_context.as_ref());
        let image =
            first.and_then(|c| c.image.as_deref()).and_then(|name| self.host.images.resolve(name));
        let image_user = image.and_then(|i| i.config.user.split(':').next()?.parse::<i64>().ok());
        let user =
            own.and_then(|c| c.run_as_user).or(pod.and_then(|c| c.run_as_user)).or(image_user);
        let group = own.and_then(|c| c.run_as_group).or(pod.and_then(|c| c.run_as_group));
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        (number(user), number(group))
    }

    pub(crate) fn hostname(&self) -> String {
        let wanted = self.pod.spec.as_ref().and_then(|s| s.hostname.clone());
        let name = wanted.unwrap_or_else(|| self.name.clone());
        name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    }

    /// Objects of the pod's namespace by name; `None` for those that do not exist.
    pub(crate) async fn fetch(
        &self,
        maps: Vec<String>,
        secrets: Vec<String>,
        services: bool,
    ) -> Result<Referred, String> {
        let mut referred = Referred::default();
        let client = &self.host.client;
        let told = |e: kube::Error| e.to_string();
        for name in maps {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), &self.namespace);
            referred.config_maps.insert(name.clone(), api.get_opt(&name).await.map_err(told)?);
        }
        for name in secrets {
            let api: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
            referred.secrets.insert(name.clone(), api.get_opt(&name).await.map_err(told)?);
        }
        if services {
            let api: Api<Service> = Api::namespaced(client.clone(), &self.namespace);
            referred.services = api.list(&ListParams::default()).await.map_err(told)?.items;
        }
        Ok(referred)
    }

    /// Turns what is learnt of the object into a time by which the pod has to end. Never returns.
    async fn follow(&self, mut updates: watch::Receiver<Update>) {
        loop {
            let limit = {
                let update = updates.borrow_and_update();
                let meta = &update.pod.metadata;
                let grace = meta
                    .deletion_timestamp
                    .as_ref()
                    .map(|_| meta.deletion_grace_period_seconds.unwrap_or(30));
                let grace = grace.map(|s| Duration::from_secs(s.max(0) as u64));
                match (update.gone, update.stop, grace) {
                    (true, ..) => Some(Duration::ZERO),
                    (_, true, grace) => Some(grace.unwrap_or(FAREWELL).min(FAREWELL)),
                    (.., grace) => grace,
                }
            };
            if let Some(limit) = limit {
                let deadline = Instant::now() + limit;
                self.stopping.send_if_modified(|at| {
                    let sooner = at.is_none_or(|at| deadline < at);
                    if sooner {
                        *at = Some(deadline);
                    }
                    sooner
                });
            }
            if updates.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Writes the status whenever it is another. Never returns.
    async fn write_status(&self, updates: watch::Receiver<Update>) {
        let mut written = Value::Null;
        let mut wait = Duration::from_millis(50);
        loop {
            self.changed.notified().await;
            loop {
                let pod = updates.borrow().pod.clone();
                let view = self.view().clone();
                match self.patch_status(&pod, &view, &mut written).await {
                    Ok(()) => break,
                    Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => break,
                    Err(_) => {
                        let _ = timeout(wait, self.changed.notified()).await;
                        wait = (wait * 2).min(Duration::from_secs(5));
                    }
                }
            }
        }
    }

    async fn patch_status(
        &self,
        pod: &Pod,
        view: &PodView,
        written: &mut Value,
    ) -> Result<(), kube::Error> {
        let mut pod = pod.clone();
        // Transition times are those that were written, also before the watch has brought them.
        if let Some(Value::Array(known)) = written.get("conditions") {
            let own: Vec<_> =
                known.iter().filter_map(|c| serde_json::from_value(c.clone()).ok()).collect();
            let status = pod.status.get_or_insert_default();
            let conditions = status.conditions.get_or_insert_default();
            for condition in own {
                let condition: k8s_openapi::api::core::v1::PodCondition = condition;
                if matches!(
                    &*condition.type_,
                    "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady"
                ) {
                    conditions.retain(|c| c.type_ != condition.type_);
                    conditions.push(condition);
                }
            }
        }
        let status = status::status(&pod, view, Timestamp::now());
        if status == *written {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.host.client.clone(), &self.namespace);
        let patch = json!({ "metadata": { "uid": self.uid }, "status": status });
        api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        *written = status;
        Ok(())
    }

    /// Says how the pod ended, and removes the object.
    async fn finish(&self, updates: &mut watch::Receiver<Update>) {
        self.change(|view| {
            view.ended = true;
            view.sandbox = false;
        });
        let api: Api<Pod> = Api::namespaced(self.host.client.clone(), &self.namespace);
        let view = self.view().clone();
        let last = updates.borrow().pod.clone();
        let over = last.status.as_ref().and_then(|s| s.phase.as_deref());
        if !matches!(over, Some("Succeeded" | "Failed")) {
            // Only for those who watch closely; the object is about to go.
            let _ = self.patch_status(&last, &view, &mut Value::Null).await;
        }
        let now = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions { uid: Some(self.uid.clone()), resource_version: None });
        let mut wait = Duration::from_millis(50);
        loop {
            match api.delete(&self.name, &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return,
                Err(_) => {
                    if timeout(wait, updates.wait_for(|u| u.gone || u.stop)).await.is_ok() {
                        return;
                    }
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        }
    }
}
