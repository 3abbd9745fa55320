//! The validation of pod specs: one invalid field each, with the path and the message of Kubernetes 1.36.

use super::*;

/// A pod spec with a change, as a JSON merge patch of the spec and of its container.
fn errors(spec: Value, container: Value) -> Vec<String> {
    let mut pod = json!({
        "containers": [{ "name": "c", "image": "i:1" }],
        "volumes": [{ "name": "v", "emptyDir": {} }],
    });
    json_patch::merge(&mut pod["containers"][0], &container);
    json_patch::merge(&mut pod, &spec);
    pod_defaults::defaults(&mut pod);
    let errors = pod_spec::validate(&pod, "spec").into_iter();
    errors.map(|error| format!("{}: {}", error.field, error.message)).collect()
}

fn assert_one(spec: &Value, container: &Value, expected: &str) {
    let found = errors(spec.clone(), container.clone());
    let wanted: Vec<&str> = if expected.is_empty() { Vec::new() } else { vec![expected] };
    assert_eq!(found, wanted, "{spec} {container}");
}

#[test]
fn invalid_volume_is_one_error() {
    let modes = "must be a number between 0 and 0777 (octal), both inclusive";
    for (source, expected) in [
        (json!({ "emptyDir": { "sizeLimit": "1Gi" } }), String::new()),
        (
            json!({ "emptyDir": { "sizeLimit": "-1" } }),
            "emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity".into(),
        ),
        (json!({ "hostPath": {} }), "hostPath.path: Required value".into()),
        (
            json!({ "hostPath": { "path": "/a/../b" } }),
            "hostPath.path: Invalid value: \"/a/../b\": must not contain '..'".into(),
        ),
        (json!({ "hostPath": { "path": "/a..b", "type": "Directory" } }), String::new()),
        (
            json!({ "hostPath": { "path": "/a", "type": "Folder" } }),
            "hostPath.type: Unsupported value: \"Folder\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \
             \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\""
                .into(),
        ),
        (json!({ "secret": {} }), "secret.secretName: Required value".into()),
        (json!({ "configMap": {} }), "configMap.name: Required value".into()),
        (
            json!({ "configMap": { "name": "c", "defaultMode": 1000 } }),
            format!("configMap.defaultMode: Invalid value: 1000: {modes}"),
        ),
        (
            json!({ "configMap": { "name": "c", "items": [{ "key": "k", "path": "../x" }] } }),
            "configMap.items[0].path: Invalid value: \"../x\": must not contain '..'".into(),
        ),
        (
            json!({ "configMap": { "name": "c", "items": [{ "key": "k", "path": "..x" }] } }),
            "configMap.items[0].path: Invalid value: \"..x\": must not start with '..'".into(),
        ),
        (
            json!({ "secret": { "secretName": "s", "items": [{ "key": "k", "path": "/x" }] } }),
            "secret.items[0].path: Invalid value: \"/x\": must be a relative path".into(),
        ),
        (
            json!({ "downwardAPI": { "items": [{ "path": "p" }] } }),
            "downwardAPI: Required value: one of fieldRef and resourceFieldRef is required".into(),
        ),
        (
            json!({ "downwardAPI": { "items": [{ "path": "p", "fieldRef": { "fieldPath": "status.podIP" } }] } }),
            "downwardAPI.fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \
             \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\""
                .into(),
        ),
        (
            json!({ "projected": { "sources": [{ "serviceAccountToken": { "path": "t", "expirationSeconds": 60 } }] } }),
            "projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration \
             less than 10 minutes"
                .into(),
        ),
        (
            json!({ "projected": { "sources": [
                { "secret": { "name": "a", "items": [{ "key": "k", "path": "p" }] } },
                { "configMap": { "name": "b", "items": [{ "key": "k", "path": "p" }] } },
            ] } }),
            "projected: Invalid value: \"b\": conflicting duplicate paths".into(),
        ),
        (
            json!({ "persistentVolumeClaim": {} }),
            "persistentVolumeClaim.claimName: Required value".into(),
        ),
        (
            json!({ "configMap": { "name": "c" }, "emptyDir": {} }),
            "emptyDir: Forbidden: may not specify more than 1 volume type".into(),
        ),
    ] {
        let mut volume = source;
        volume["name"] = json!("w");
        let expected =
            if expected.is_empty() { expected } else { format!("spec.volumes[0].{expected}") };
        assert_one(&json!({ "volumes": [volume] }), &json!({}), &expected);
    }
}

#[test]
fn invalid_container_of_a_pod_is_one_error() {
    for (container, expected) in [
        (
            json!({ "lifecycle": { "preStop": { "sleep": { "seconds": 60 } } } }),
            "lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than \
             terminationGracePeriodSeconds (30)",
        ),
        (json!({ "lifecycle": { "preStop": { "sleep": { "seconds": 30 } } } }), ""),
        (
            json!({ "lifecycle": { "postStart": { "exec": {} } } }),
            "lifecycle.postStart.exec.command: Required value",
        ),
        (
            json!({ "livenessProbe": { "httpGet": { "port": 1 }, "exec": { "command": ["a"] } } }),
            "livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({ "livenessProbe": { "grpc": { "port": 0 } } }),
            "livenessProbe.grpc.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({ "livenessProbe": { "tcpSocket": { "port": 1 }, "successThreshold": 2 } }),
            "livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({ "livenessProbe": { "tcpSocket": { "port": 1 }, "terminationGracePeriodSeconds": 0 } }),
            "livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            json!({ "readinessProbe": { "tcpSocket": { "port": 1 }, "terminationGracePeriodSeconds": 1 } }),
            "readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ),
        (
            json!({ "envFrom": [{ "prefix": "x" }] }),
            "envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
        (json!({ "envFrom": [{ "secretRef": {} }] }), "envFrom[0].secretRef.name: Required value"),
        (
            json!({ "env": [{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "c" } } }] }),
            "env[0].valueFrom.configMapKeyRef.key: Required value",
        ),
        (
            json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "spec.nope" } } }] }),
            "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label \
             not supported: spec.nope",
        ),
        (
            json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['a']" } } }] }),
            "",
        ),
        (
            json!({ "env": [{ "name": "A", "valueFrom": { "resourceFieldRef": { "resource": "limits.gpu" } } }] }),
            "env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \
             \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \
             \"requests.ephemeral-storage\", \"requests.memory\"",
        ),
        (
            json!({ "volumeMounts": [{ "name": "v", "mountPath": "/a", "subPath": "/b" }] }),
            "volumeMounts[0].subPath: Invalid value: \"/b\": must be a relative path",
        ),
        (
            json!({ "volumeMounts": [{ "name": "v", "mountPath": "/a", "subPath": "a", "subPathExpr": "b" }] }),
            "volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually exclusive",
        ),
        (
            json!({ "volumeMounts": [{ "name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional" }] }),
            "volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to \
             privileged containers",
        ),
        (
            json!({ "securityContext": { "runAsUser": -1 } }),
            "securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            json!({ "securityContext": { "seccompProfile": { "type": "Localhost" } } }),
            "securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is \
             Localhost",
        ),
        (
            json!({ "securityContext": { "procMount": "All" } }),
            "securityContext.procMount: Unsupported value: \"All\": supported values: \"Default\", \"Unmasked\"",
        ),
        (
            json!({ "restartPolicy": "Sometimes" }),
            "restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
    ] {
        let expected = match expected {
            "" => String::new(),
            expected => format!("spec.containers[0].{expected}"),
        };
        assert_one(&json!({}), &container, &expected);
    }
}

#[test]
fn init_container_has_probes_only_if_it_keeps_running() {
    let init = |policy: Value| {
        json!({ "initContainers": [{
            "name": "i", "image": "i:1", "restartPolicy": policy,
            "readinessProbe": { "exec": { "command": ["true"] } },
        }] })
    };
    assert_one(
        &init(Value::Null),
        &json!({}),
        "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without \
         restartPolicy=Always",
    );
    assert_one(&init(json!("Always")), &json!({}), "");
}

#[test]
fn invalid_field_of_a_spec_is_one_error() {
    let term = |expression: Value| {
        json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchExpressions": [expression] }] } } } })
    };
    let terms = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    for (spec, expected) in [
        (
            json!({ "dnsPolicy": "None" }),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None".to_owned(),
        ),
        (
            json!({ "dnsConfig": { "nameservers": ["x"] } }),
            "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)"
                .into(),
        ),
        (json!({ "dnsConfig": { "nameservers": ["1.1.1.1"], "searches": ["a_b.c", "."] } }), String::new()),
        (
            json!({ "hostAliases": [{ "ip": "1.2.3.4", "hostnames": ["A"] }] }),
            format!(
                "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\": {}",
                dns_subdomain("A").join("")
            ),
        ),
        (
            json!({ "hostUsers": false, "hostPID": true }),
            "spec.hostPID: Forbidden: when `hostUsers` is false".into(),
        ),
        (
            json!({ "securityContext": { "sysctls": [{ "name": "a.b" }, { "name": "a/b" }] } }),
            "spec.securityContext.sysctls[1].name: Duplicate value: \"a/b\"".into(),
        ),
        (
            json!({ "tolerations": [{ "key": "k", "effect": "Never" }] }),
            "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
             \"PreferNoSchedule\", \"NoExecute\""
                .into(),
        ),
        (
            term(json!({ "key": "k", "operator": "In" })),
            format!(
                "{terms}[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or \
                 'NotIn'"
            ),
        ),
        (
            term(json!({ "key": "k", "operator": "Is" })),
            format!(
                "{terms}[0].matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator"
            ),
        ),
        (
            json!({ "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "Maybe" }] }),
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Maybe\": supported values: \
             \"DoNotSchedule\", \"ScheduleAnyway\""
                .into(),
        ),
        (
            json!({ "os": { "name": "plan9" } }),
            "spec.os.name: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"".into(),
        ),
        // With a warning.
        (json!({ "terminationGracePeriodSeconds": -1 }), String::new()),
    ] {
        assert_one(&spec, &json!({}), &expected);
    }
}
