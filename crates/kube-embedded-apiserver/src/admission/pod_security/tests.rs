use super::{
    checks::Template,
    policy::{Level, LevelVersion, Version},
    *,
};
use serde_json::json;

fn mode(level: Level, version: Version) -> LevelVersion {
    LevelVersion { level, version }
}

fn check(level: Level, version: Version, pod: &Value) -> String {
    let template = Template { metadata: &pod["metadata"], spec: &pod["spec"] };
    found(mode(level, version), template)
}

/// A pod that is allowed everywhere.
fn restricted_pod() -> Value {
    json!({
        "metadata": { "name": "p" },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "c",
                "image": "i",
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] },
                },
            }],
        },
    })
}

/// The restricted pod with a change, as a JSON merge patch of the spec, and of the first container.
fn changed(spec: Value, container: Value) -> Value {
    let mut pod = restricted_pod();
    json_patch::merge(&mut pod["spec"], &spec);
    json_patch::merge(&mut pod["spec"]["containers"][0], &container);
    pod
}

fn of_container(context: Value) -> Value {
    changed(json!({}), json!({ "securityContext": context }))
}

#[test]
fn default_pod_violates_restricted_and_not_baseline() {
    let pod = json!({ "metadata": {}, "spec": { "containers": [{ "name": "c" }] } });
    assert_eq!(check(Level::Privileged, Version::Latest, &pod), "");
    assert_eq!(check(Level::Baseline, Version::Latest, &pod), "");
    assert_eq!(
        check(Level::Restricted, Version::Latest, &pod),
        "allowPrivilegeEscalation != false (container \"c\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(check(Level::Restricted, Version::Latest, &restricted_pod()), "");
}

#[test]
fn baseline_control_is_violated_with_its_detail() {
    for (pod, expected) in [
        (
            of_container(json!({ "appArmorProfile": { "type": "Unconfined" } })),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            of_container(json!({ "capabilities": { "add": ["NET_RAW", "CHOWN", "BPF"] } })),
            "non-default capabilities (container \"c\" must not include \"BPF\", \"NET_RAW\" in \
             securityContext.capabilities.add)",
        ),
        (
            changed(json!({ "hostNetwork": true, "hostIPC": true, "hostPID": false }), json!({})),
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            changed(
                json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }),
                json!({}),
            ),
            "hostPath volumes (volume \"v\")",
        ),
        (
            changed(
                json!({}),
                json!({ "ports": [{ "containerPort": 1, "hostPort": 80 }, { "containerPort": 2, "hostPort": 443 }] }),
            ),
            "hostPort (container \"c\" uses hostPorts 443, 80)",
        ),
        (
            changed(
                json!({}),
                json!({ "livenessProbe": { "httpGet": { "port": 1, "host": "127.0.0.1" } } }),
            ),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"127.0.0.1\")",
        ),
        (
            changed(
                json!({}),
                json!({ "lifecycle": { "preStop": { "tcpSocket": { "port": 1, "host": "h" } } } }),
            ),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\")",
        ),
        (
            of_container(json!({ "privileged": true })),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            of_container(json!({ "procMount": "Unmasked" })),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            changed(
                json!({ "securityContext": { "seLinuxOptions": { "type": "x_t", "role": "r" } } }),
                json!({ "securityContext": { "seLinuxOptions": { "user": "u" } } }),
            ),
            "seLinuxOptions (pod and container \"c\" set forbidden securityContext.seLinuxOptions: type \"x_t\"; \
             user may not be set; role may not be set)",
        ),
        (
            changed(
                json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
                json!({}),
            ),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            changed(
                json!({ "securityContext": { "sysctls": [
                    { "name": "net.ipv4.tcp_rmem" }, { "name": "kernel.msgmax" },
                ] } }),
                json!({}),
            ),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            of_container(json!({ "windowsOptions": { "hostProcess": true } })),
            "hostProcess (container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        assert_eq!(check(Level::Baseline, Version::Latest, &pod), expected, "{pod}");
        assert_ne!(check(Level::Restricted, Version::Latest, &pod), "", "{pod}");
        assert_eq!(check(Level::Privileged, Version::Latest, &pod), "", "{pod}");
    }
}

#[test]
fn restricted_control_replaces_the_weaker_one() {
    for (pod, expected) in [
        (
            of_container(json!({ "capabilities": { "add": ["NET_RAW"], "drop": ["CHOWN"] } })),
            "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; container \
             \"c\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        (of_container(json!({ "capabilities": { "add": ["NET_BIND_SERVICE"] } })), ""),
        (
            changed(
                json!({ "volumes": [
                    { "name": "a", "hostPath": { "path": "/" } },
                    { "name": "b", "nfs": {} },
                    { "name": "d", "emptyDir": {} },
                    { "name": "e", "image": {} },
                ] }),
                json!({}),
            ),
            "restricted volume types (volumes \"a\", \"b\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            changed(
                json!({ "securityContext": { "runAsNonRoot": false } }),
                json!({ "securityContext": { "runAsNonRoot": false } }),
            ),
            "runAsNonRoot != true (pod and container \"c\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            of_container(json!({ "runAsUser": 0 })),
            "runAsUser=0 (container \"c\" must not set runAsUser=0)",
        ),
        (
            changed(
                json!({ "hostUsers": false, "securityContext": { "runAsNonRoot": null, "runAsUser": 0 } }),
                json!({}),
            ),
            "",
        ),
        (
            changed(
                json!({ "securityContext": { "seccompProfile": null } }),
                json!({ "securityContext": { "seccompProfile": { "type": "Localhost" } } }),
            ),
            "",
        ),
        (
            changed(
                json!({ "os": { "name": "windows" }, "securityContext": { "seccompProfile": null } }),
                json!({ "securityContext": null }),
            ),
            "",
        ),
    ] {
        assert_eq!(check(Level::Restricted, Version::Latest, &pod), expected, "{pod}");
    }
}

#[test]
fn version_chooses_the_controls_of_its_time() {
    let probe = changed(
        json!({}),
        json!({ "readinessProbe": { "tcpSocket": { "port": 1, "host": "h" } } }),
    );
    let sysctl = |name: &str| {
        changed(json!({ "securityContext": { "sysctls": [{ "name": name }] } }), json!({}))
    };
    let unmasked = changed(
        json!({ "hostUsers": false }),
        json!({ "securityContext": { "procMount": "Unmasked" } }),
    );
    let mut annotated = restricted_pod();
    annotated["metadata"]["annotations"] =
        json!({ "container.seccomp.security.alpha.kubernetes.io/c": "unconfined" });
    for (level, pod, minor, violated) in [
        (Level::Baseline, &probe, 33, false),
        (Level::Baseline, &probe, 34, true),
        (Level::Baseline, &sysctl("net.ipv4.tcp_wmem"), 31, true),
        (Level::Baseline, &sysctl("net.ipv4.tcp_wmem"), 32, false),
        (Level::Baseline, &sysctl("net.ipv4.ip_local_reserved_ports"), 26, true),
        (Level::Baseline, &annotated, 18, true),
        (Level::Baseline, &annotated, 19, false),
        (Level::Baseline, &unmasked, 34, true),
        (Level::Baseline, &unmasked, 35, false),
        (Level::Restricted, &unmasked, 36, true),
        (Level::Restricted, &of_container(json!({ "allowPrivilegeEscalation": null })), 7, false),
        (Level::Restricted, &of_container(json!({ "allowPrivilegeEscalation": null })), 8, true),
        (Level::Restricted, &of_container(json!({ "capabilities": null })), 21, false),
        (Level::Restricted, &of_container(json!({ "runAsUser": 0 })), 22, false),
        // A version that is not known yet has the newest controls.
        (Level::Restricted, &of_container(json!({ "runAsUser": 0 })), 99, true),
    ] {
        let found = check(level, Version::Minor(minor), pod);
        assert_eq!(!found.is_empty(), violated, "{minor}: {found:?} {pod}");
    }
}

#[test]
fn init_and_ephemeral_containers_are_checked_too() {
    let bad = |name: &str| json!([{ "name": name, "securityContext": { "privileged": true } }]);
    let pod = changed(
        json!({ "initContainers": bad("i"), "ephemeralContainers": bad("e") }),
        json!({ "securityContext": { "privileged": true } }),
    );
    assert_eq!(
        check(Level::Baseline, Version::Latest, &pod),
        "privileged (containers \"i\", \"c\", \"e\" must not set securityContext.privileged=true)"
    );
}

#[test]
fn pods_of_a_namespace_are_summarized_by_violation() {
    let pod = |name: &str, spec: Value| {
        let mut pod = changed(spec, json!({}));
        pod["metadata"]["name"] = name.into();
        pod
    };
    let pods = [
        pod("b", json!({ "hostNetwork": true })),
        pod("a", json!({ "hostPID": true })),
        pod("d", json!({ "hostNetwork": true })),
        pod("c", json!({ "volumes": [{ "name": "v", "hostPath": {} }] })),
        pod("ok", json!({})),
    ];
    assert_eq!(
        summarize("n", mode(Level::Baseline, Version::Minor(30)), pods.iter()),
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:v1.30\"",
            "a (and 2 other pods): host namespaces",
            "c: hostPath volumes",
        ]
    );
    let none = summarize("n", mode(Level::Baseline, Version::Latest), pods[4..].iter());
    assert_eq!(none, [""; 0]);
}

#[test]
fn update_is_significant_if_images_or_containers_change() {
    let old = restricted_pod();
    for (container, significant) in [
        (json!({ "image": "other" }), true),
        (json!({ "securityContext": { "privileged": true } }), false),
    ] {
        assert_eq!(is_significant_update(&changed(json!({}), container), &old), significant);
    }
    let debugged = changed(json!({ "ephemeralContainers": [{ "name": "d" }] }), json!({}));
    assert!(is_significant_update(&debugged, &old));
}
