//! The status of a pod, computed from the state of its containers. Pure.

use crate::container::role::{self, Role};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Map, Value, json};
use std::{borrow::Cow, net::Ipv4Addr};

/// The state that a pod's status is computed from.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodView {
    pub(crate) host_ip: Option<Ipv4Addr>,
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) started_at: Option<Timestamp>,
    /// The user and group ids that its programs see.
    pub(crate) user: (u32, u32),
    /// Set while the pod's sandbox exists.
    pub(crate) sandbox: bool,
    pub(crate) init: Vec<ContainerView>,
    pub(crate) containers: Vec<ContainerView>,
    /// Those that have been started, in that order.
    pub(crate) ephemeral: Vec<ContainerView>,
    /// Set when no container of the pod runs or will run again, because it was deleted.
    pub(crate) ended: bool,
    /// The reason and message of a pod that the kubelet has given up.
    pub(crate) failure: Option<(&'static str, String)>,
}

impl PodView {
    /// Returns the containers of a role.
    pub(crate) fn of(&self, role: Role) -> &[ContainerView] {
        match role {
            Role::Init => &self.init,
            Role::Main => &self.containers,
            Role::Ephemeral => &self.ephemeral,
        }
    }

    /// Returns the containers of every role, to change them.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut ContainerView> {
        self.init.iter_mut().chain(&mut self.containers).chain(&mut self.ephemeral)
    }

    /// Returns the containers of a role, to change them.
    pub(crate) fn of_mut(&mut self, role: Role) -> &mut [ContainerView] {
        match role {
            Role::Init => &mut self.init,
            Role::Main => &mut self.containers,
            Role::Ephemeral => &mut self.ephemeral,
        }
    }
}

/// The state of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerView {
    pub(crate) name: String,
    /// Set for an init container that runs beside the containers.
    pub(crate) sidecar: bool,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) container_id: String,
    pub(crate) state: State,
    pub(crate) last: Option<Terminated>,
    pub(crate) restarts: i32,
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    Waiting { reason: String, message: Option<String> },
    Running { at: Timestamp },
    Terminated(Terminated),
}

impl Default for State {
    fn default() -> Self {
        Self::Waiting { reason: "ContainerCreating".to_owned(), message: None }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Terminated {
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
    pub(crate) container_id: String,
}

/// Returns true if a container that exited is restarted.
pub(crate) fn restarts(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Returns the restart policy of a pod, by default `Always`.
pub(crate) fn policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// Returns true for a native sidecar, given an init container: one that is always restarted, and runs
/// beside the containers.
pub(crate) fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// Returns the whole status, as a merge patch. `pod` is the object as last seen: its conditions keep
/// their transition times where nothing changed.
pub(crate) fn status(pod: &Pod, view: &PodView, now: Timestamp) -> Value {
    let phase = phase(policy(pod), view);
    let generation = pod.metadata.generation;
    let mut status = json!({
        "phase": phase,
        "conditions": conditions(pod, view, phase, now),
        "containerStatuses": containers(pod, view, Role::Main),
        "startTime": view.started_at.map(time),
        "qosClass": qos(pod),
    });
    if let (Value::Object(map), Some(generation)) = (&mut status, generation) {
        map.insert("observedGeneration".to_owned(), json!(generation));
    }
    if let Value::Object(map) = &mut status {
        if phase == "Running" {
            // Resources of the pod as a whole: no limit is enforced.
            map.insert("resources".to_owned(), json!({}));
        }
        if let Some((reason, message)) = &view.failure {
            map.insert("reason".to_owned(), json!(reason));
            map.insert("message".to_owned(), json!(message));
        }
        if !view.init.is_empty() {
            map.insert("initContainerStatuses".to_owned(), containers(pod, view, Role::Init));
        }
        if !view.ephemeral.is_empty() {
            let statuses = containers(pod, view, Role::Ephemeral);
            map.insert("ephemeralContainerStatuses".to_owned(), statuses);
        }
        if let Some(ip) = view.host_ip {
            map.insert("hostIP".to_owned(), json!(ip));
            map.insert("hostIPs".to_owned(), json!([{ "ip": ip }]));
        }
        if let Some(ip) = view.ip {
            map.insert("podIP".to_owned(), json!(ip));
            map.insert("podIPs".to_owned(), json!([{ "ip": ip }]));
        }
    }
    status
}

/// Returns the phase, by the rules of the kubelet's `getPhase`.
pub(crate) fn phase(policy: &str, view: &PodView) -> &'static str {
    if view.failure.is_some() {
        return "Failed";
    }
    if view.ended {
        return if view.containers.iter().any(|v| !succeeded(v)) { "Failed" } else { "Succeeded" };
    }
    let (sidecars, init): (Vec<_>, Vec<_>) = view.init.iter().partition(|v| v.sidecar);
    if policy == "Never" && init.iter().any(|v| exited(v).is_some_and(|t| t.exit_code != 0)) {
        return "Failed";
    }
    let initializes = init.iter().any(|v| exited(v).is_none());
    let sidecars_start = sidecars.iter().any(|v| match &v.state {
        State::Running { .. } => !v.started,
        State::Waiting { .. } => v.last.is_none(),
        State::Terminated(_) => false,
    });
    if initializes || (sidecars_start && !has_run(view)) {
        return "Pending";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded_) = (0, 0, 0, 0);
    for v in sidecars {
        match &v.state {
            State::Running { .. } => running += 1,
            State::Waiting { .. } if v.last.is_none() => waiting += 1,
            _ => {}
        }
    }
    for v in &view.containers {
        match &v.state {
            State::Running { .. } => running += 1,
            State::Waiting { .. } if v.last.is_none() => waiting += 1,
            State::Waiting { .. } => stopped += 1,
            State::Terminated(t) => {
                stopped += 1;
                succeeded_ += i32::from(t.exit_code == 0);
            }
        }
    }
    match (policy, stopped) {
        _ if waiting > 0 => "Pending",
        _ if running > 0 => "Running",
        ("OnFailure" | "Never", n) if n == succeeded_ => "Succeeded",
        ("Never", _) => "Failed",
        _ => "Running",
    }
}

/// Returns the latest run of a container that is not running.
fn exited(v: &ContainerView) -> Option<&Terminated> {
    match &v.state {
        State::Terminated(ended) => Some(ended),
        State::Waiting { .. } => v.last.as_ref(),
        State::Running { .. } => None,
    }
}

fn succeeded(v: &ContainerView) -> bool {
    matches!(&v.state, State::Terminated(t) if t.exit_code == 0)
}

/// Returns true if a container that is not an init container runs or has run.
fn has_run(view: &PodView) -> bool {
    view.containers.iter().any(|v| !matches!(v.state, State::Waiting { .. }))
}

/// Returns true if an init container does not hold up those after it.
fn is_initialized(v: &ContainerView) -> bool {
    if v.sidecar { v.started } else { succeeded(v) }
}

/// A condition of the pod: whether it holds, and the reason and message.
type Verdict = (bool, Option<(&'static str, String)>);

fn conditions(pod: &Pod, view: &PodView, phase: &str, now: Timestamp) -> Vec<Value> {
    let over = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let ready = ready(view, over);
    let own: [(&str, Verdict); 4] = [
        ("PodReadyToStartContainers", (view.sandbox, None)),
        ("Initialized", initialized_condition(view, over)),
        ("Ready", ready.clone()),
        ("ContainersReady", ready),
    ];
    let known = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut conditions: Vec<Value> = own
        .iter()
        .map(|(name, verdict)| {
            let status = if verdict.0 { "True" } else { "False" };
            let since = known
                .iter()
                .find(|c| c.type_ == *name && c.status == status)
                .and_then(|c| c.last_transition_time.as_ref())
                .map_or(now, |t| t.0);
            condition(name, verdict, since, pod.metadata.generation)
        })
        .collect();
    // Conditions of others, such as the scheduler's, stay.
    let others = known.iter().filter(|c| !own.iter().any(|(name, _)| *name == c.type_));
    conditions.extend(others.filter_map(|c| {
        let mut condition = serde_json::to_value(c).ok()?;
        // Kubernetes encodes it even as null; the type leaves it out.
        condition.as_object_mut()?.entry("lastProbeTime").or_insert(Value::Null);
        Some(condition)
    }));
    conditions
}

/// Returns the names of containers, separated by spaces.
fn names<'a>(views: impl Iterator<Item = &'a ContainerView>) -> String {
    views.map(|v| v.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn initialized_condition(view: &PodView, over: Option<&'static str>) -> Verdict {
    let uninitialized = names(view.init.iter().filter(|v| !is_initialized(v)));
    match over {
        Some(reason @ "PodCompleted") => (true, Some((reason, String::new()))),
        _ if uninitialized.is_empty() || has_run(view) => (true, None),
        _ => {
            let message = format!("containers with incomplete status: [{uninitialized}]");
            (false, Some(("ContainersNotInitialized", message)))
        }
    }
}

fn ready(view: &PodView, over: Option<&'static str>) -> Verdict {
    let serving = view.init.iter().filter(|v| v.sidecar).chain(&view.containers);
    let unready = names(serving.filter(|v| !v.ready));
    match over {
        Some(reason) => (false, Some((reason, String::new()))),
        None if unready.is_empty() => (true, None),
        None => {
            let message = format!("containers with unready status: [{unready}]");
            (false, Some(("ContainersNotReady", message)))
        }
    }
}

fn condition(
    name: &str,
    (holds, why): &Verdict,
    since: Timestamp,
    generation: Option<i64>,
) -> Value {
    let mut condition = Map::new();
    condition.insert("type".into(), json!(name));
    condition.insert("status".into(), json!(if *holds { "True" } else { "False" }));
    condition.insert("lastProbeTime".into(), Value::Null);
    condition.insert("lastTransitionTime".into(), time(since));
    if let Some(generation) = generation {
        condition.insert("observedGeneration".into(), json!(generation));
    }
    if let Some((reason, message)) = why {
        condition.insert("reason".into(), json!(reason));
        if !message.is_empty() {
            condition.insert("message".into(), json!(message));
        }
    }
    Value::Object(condition)
}

fn containers(pod: &Pod, view: &PodView, of: Role) -> Value {
    let specs: Cow<'_, [Container]> = match of {
        Role::Ephemeral => {
            let all = role::ephemeral_containers(pod).iter();
            all.filter_map(|c| role::as_container(c).ok()).collect()
        }
        _ => role::containers(pod, of == Role::Init).into(),
    };
    let all = view.of(of).iter().map(|v| {
        let mut status = container(v);
        if of == Role::Ephemeral
            && let Value::Object(map) = &mut status
        {
            // It has no probes.
            map.remove("started");
        }
        if let (Value::Object(map), Some(spec)) =
            (&mut status, specs.iter().find(|c| c.name == v.name))
        {
            describe(map, spec, v, view.user);
        }
        status
    });
    all.collect()
}

/// Adds the parts of the spec that the status repeats: mounts, resources and user.
fn describe(
    map: &mut Map<String, Value>,
    spec: &Container,
    v: &ContainerView,
    (uid, gid): (u32, u32),
) {
    let mounts = spec.volume_mounts.iter().flatten().map(|mount| {
        let mut status = json!(mount);
        if mount.read_only == Some(true)
            && let Value::Object(status) = &mut status
        {
            status.entry("recursiveReadOnly").or_insert_with(|| json!("Disabled"));
        }
        status
    });
    let mounts: Vec<Value> = mounts.collect();
    if !mounts.is_empty() {
        map.insert("volumeMounts".to_owned(), mounts.into());
    }
    let resources = spec.resources.as_ref();
    if let Some(requests) = resources.and_then(|r| r.requests.as_ref()) {
        map.insert("allocatedResources".to_owned(), json!(requests));
    }
    if !v.container_id.is_empty() {
        map.insert("resources".to_owned(), resources.map_or(json!({}), |r| json!(r)));
        let linux = json!({ "uid": uid, "gid": gid, "supplementalGroups": [gid] });
        map.insert("user".to_owned(), json!({ "linux": linux }));
    }
}

fn container(v: &ContainerView) -> Value {
    let state = match &v.state {
        State::Waiting { reason, message: None } => json!({ "waiting": { "reason": reason } }),
        State::Waiting { reason, message } => {
            json!({ "waiting": { "reason": reason, "message": message } })
        }
        State::Running { at } => json!({ "running": { "startedAt": time(*at) } }),
        State::Terminated(t) => json!({ "terminated": terminated(t) }),
    };
    let mut status = json!({
        "name": v.name,
        "image": v.image,
        "imageID": v.image_id,
        "ready": v.ready,
        "started": v.started,
        "restartCount": v.restarts,
        "state": state,
        "lastState": v.last.as_ref().map_or(json!({}), |t| json!({ "terminated": terminated(t) })),
    });
    if let (Value::Object(map), false) = (&mut status, v.container_id.is_empty()) {
        map.insert("containerID".to_owned(), json!(v.container_id));
    }
    status
}

fn terminated(t: &Terminated) -> Value {
    let mut value = json!({
        "exitCode": t.exit_code,
        "reason": t.reason,
        "startedAt": time(t.started_at),
        "finishedAt": time(t.finished_at),
        "containerID": t.container_id,
    });
    if let Value::Object(map) = &mut value {
        // As with containerd, a signal shows only in the exit code, as 128 plus its number.
        if let Some(message) = &t.message {
            map.insert("message".to_owned(), json!(message));
        }
    }
    value
}

/// Formats a time as Kubernetes does, in whole seconds.
pub(crate) fn time(at: Timestamp) -> Value {
    json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Returns the quality-of-service class, which follows from requests and limits.
fn qos(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let (mut any, mut guaranteed) = (false, true);
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = c.resources.as_ref();
        let limits = resources.and_then(|r| r.limits.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        for name in ["cpu", "memory"] {
            let limit = limits.and_then(|l| l.get(name));
            let request = requests.and_then(|r| r.get(name)).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "generation": 1 },
            "spec": { "restartPolicy": policy, "containers": [{ "name": "app" }] },
            "status": { "conditions": [
                { "type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
                { "type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:01Z" },
            ] },
        }))
        .unwrap()
    }

    fn ended(exit_code: i32) -> State {
        State::Terminated(Terminated { exit_code, ..Terminated::default() })
    }

    fn view(states: Vec<State>) -> PodView {
        let containers = states.into_iter().map(|state| ContainerView {
            name: "app".into(),
            state,
            ..ContainerView::default()
        });
        PodView { containers: containers.collect(), ..PodView::default() }
    }

    #[test]
    fn phase_follows_the_restart_policy_and_container_states() {
        let running = || State::Running { at: Timestamp::UNIX_EPOCH };
        for (policy, states, expected) in [
            ("Always", vec![State::default()], "Pending"),
            ("Always", vec![running(), State::default()], "Pending"),
            ("Always", vec![running(), ended(1)], "Running"),
            ("Always", vec![ended(0)], "Running"),
            ("OnFailure", vec![ended(0)], "Succeeded"),
            ("OnFailure", vec![ended(0), ended(1)], "Running"),
            ("Never", vec![ended(0), ended(1)], "Failed"),
            ("Never", vec![ended(0), ended(0)], "Succeeded"),
        ] {
            assert_eq!(phase(policy, &view(states.clone())), expected, "{policy} {states:?}");
        }
        let mut crashing = view(vec![State::default()]);
        crashing.containers[0].last = Some(Terminated::default());
        assert_eq!(phase("Always", &crashing), "Running");
        let mut init = view(vec![State::default()]);
        init.init = view(vec![ended(1)]).containers;
        assert_eq!((phase("Always", &init), phase("Never", &init)), ("Pending", "Failed"));
    }

    #[test]
    fn sidecar_counts_as_initialized_once_started_and_never_as_an_end() {
        let running = || State::Running { at: Timestamp::UNIX_EPOCH };
        let of = |started: bool, side: State, main: State| {
            let mut view = view(vec![main]);
            view.init = vec![ContainerView {
                name: "side".into(),
                sidecar: true,
                started,
                state: side,
                ..ContainerView::default()
            }];
            view
        };
        for (policy, view, expected, initialized) in [
            ("Always", of(false, State::default(), State::default()), "Pending", "False"),
            ("Always", of(false, running(), State::default()), "Pending", "False"),
            ("Always", of(true, running(), State::default()), "Pending", "True"),
            ("Always", of(true, running(), running()), "Running", "True"),
            // A sidecar that restarts takes nothing back.
            ("Always", of(false, running(), running()), "Running", "True"),
            ("Never", of(true, running(), ended(0)), "Running", "True"),
            ("Never", of(false, ended(137), ended(0)), "Succeeded", "True"),
            ("Never", of(false, ended(137), ended(1)), "Failed", "True"),
        ] {
            assert_eq!(phase(policy, &view), expected, "{view:#?}");
            let written = status(&pod(policy), &view, Timestamp::now());
            let all = written["conditions"].as_array().unwrap();
            let condition = all.iter().find(|c| c["type"] == "Initialized").unwrap();
            assert_eq!(condition["status"], initialized, "{view:#?}");
        }
        let unready = of(true, running(), running());
        let (ready, why) = ready(&unready, None);
        assert!(!ready);
        assert_eq!(why.unwrap().1, "containers with unready status: [side app]");
    }

    #[test]
    fn condition_keeps_its_transition_time_until_it_changes() {
        let at = |s: &Value, kind: &str| {
            let all = s["conditions"].as_array().unwrap();
            all.iter().find(|c| c["type"] == kind).unwrap().clone()
        };
        let mut view = view(vec![State::Running { at: Timestamp::UNIX_EPOCH }]);
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let written = status(&pod("Always"), &view, now);
        assert_eq!(at(&written, "Ready")["lastTransitionTime"], "2026-01-01T00:00:01Z");
        assert_eq!(at(&written, "Ready")["message"], "containers with unready status: [app]");
        assert_eq!(at(&written, "ContainersReady")["lastTransitionTime"], "2026-01-02T00:00:00Z");
        assert_eq!(at(&written, "PodScheduled")["status"], "True");
        view.containers[0].ready = true;
        let written = status(&pod("Always"), &view, now);
        assert_eq!(at(&written, "Ready")["status"], "True");
        assert_eq!(at(&written, "Ready")["lastTransitionTime"], "2026-01-02T00:00:00Z");
        assert_eq!(written["qosClass"], "BestEffort");
    }
}
