use super::*;
use serde_json::json;

/// Captured from kubectl 1.37: command, body and object.
fn captured() -> Vec<(&'static str, Vec<u8>, Value)> {
    let rows = [
        (
            "create namespace production",
            "azhzAAoPCgJ2MRIJTmFtZXNwYWNlEiIKGgoKcHJvZHVjdGlvbhIAGgAiACoAMgA4AEIAEgAaAgoAGgAiAA==",
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "production" },
                "spec": {}, "status": {} }),
        ),
        (
            "create configmap settings --from-literal=key=value --from-literal=empty=",
            "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEjMKGAoIc2V0dGluZ3MSABoAIgAqADIAOABCABIJCgVlbXB0eRIAEgwKA2tl\
             eRIFdmFsdWUaACIA",
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" },
                "data": { "key": "value", "empty": "" } }),
        ),
        (
            "create secret generic keys --from-literal=password=s3cret",
            "azhzAAoMCgJ2MRIGU2VjcmV0EiwKFAoEa2V5cxIAGgAiACoAMgA4AEIAEhIKCHBhc3N3b3JkEgZzM2NyZXQaABoA\
             IgA=",
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "keys" },
                "data": { "password": "czNjcmV0" } }),
        ),
        (
            "create serviceaccount robot",
            "azhzAAoUCgJ2MRIOU2VydmljZUFjY291bnQSFwoVCgVyb2JvdBIAGgAiACoAMgA4AEIAGgAiAA==",
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "robot" } }),
        ),
        (
            "create service loadbalancer lb --tcp=80:8080",
            "azhzAAoNCgJ2MRIHU2VydmljZRJpCh0KAmxiEgAaACIAKgAyADgAQgBaCQoDYXBwEgJsYhJEChsKBzgwLTgwODAS\
             A1RDUBhQIgcIABCQPxoAKAASCQoDYXBwEgJsYhoAIgxMb2FkQmFsYW5jZXI6AEIAUgBaAGAAaAAaAgoAGgAiAA==",
            json!({ "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "lb", "labels": { "app": "lb" } },
                "spec": {
                    "type": "LoadBalancer",
                    "selector": { "app": "lb" },
                    "ports": [{ "name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080 }],
                },
                "status": { "loadBalancer": {} } }),
        ),
        (
            "create service nodeport np --tcp=80:web --node-port=30080",
            "azhzAAoNCgJ2MRIHU2VydmljZRJoCh0KAm5wEgAaACIAKgAyADgAQgBaCQoDYXBwEgJucBJDCh4KBjgwLXdlYhID\
             VENQGFAiCQgBEAAaA3dlYiiA6wESCQoDYXBwEgJucBoAIghOb2RlUG9ydDoAQgBSAFoAYABoABoCCgAaACIA",
            json!({ "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "np", "labels": { "app": "np" } },
                "spec": {
                    "type": "NodePort",
                    "selector": { "app": "np" },
                    "ports": [{ "name": "80-web", "protocol": "TCP", "port": 80, "targetPort": "web",
                        "nodePort": 30080 }],
                },
                "status": { "loadBalancer": {} } }),
        ),
        (
            "create deployment web --image=kubeapp:1.0 --replicas=0 --port=8080",
            "azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50EsEBCh8KA3dlYhIAGgAiACoAMgA4AEIAWgoKA2FwcBIDd2ViEo8B\
             CAASDAoKCgNhcHASA3dlYhp1ChwKABIAGgAiACoAMgA4AEIAWgoKA2FwcBIDd2ViElUSNwoHa3ViZWFwcBILa3Vi\
             ZWFwcDoxLjAqADILCgAQABiQPyIAKgBCAGoAcgCAAQCIAQCQAQCiAQAaADIAQgBKAFIAWABgAGgAggEAigEAmgEA\
             wgEAIgIKACgAOAAaDAgAEAAYACAAKAA4ABoAIgA=",
            json!({ "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": { "name": "web", "labels": { "app": "web" } },
                "spec": {
                    "replicas": 0,
                    "selector": { "matchLabels": { "app": "web" } },
                    "strategy": {},
                    "template": {
                        "metadata": { "labels": { "app": "web" } },
                        "spec": { "containers": [{
                            "name": "kubeapp",
                            "image": "kubeapp:1.0",
                            "ports": [{ "containerPort": 8080 }],
                            "resources": {},
                        }] },
                    },
                },
                "status": {} }),
        ),
        (
            "create ingress app --class=edge --rule=foo.bar/*=web:80,tls=cert \
             --rule=*.foo.bar/x=web:http --default-backend=web:80",
            "azhzAAofChRuZXR3b3JraW5nLms4cy5pby92MRIHSW5ncmVzcxKeAQoTCgNhcHASABoAIgAqADIAOABCABKC\
             AQoNIgsKA3dlYhIECgAQUBIPCgdmb28uYmFyEgRjZXJ0GikKB2Zvby5iYXISHgocChoKAS8SDSILCgN3ZWIS\
             BAoAEFAaBlByZWZpeBovCgkqLmZvby5iYXISIgogCh4KAi94EhEiDwoDd2ViEggKBGh0dHAQABoFRXhhY3Qi\
             BGVkZ2UaAgoAGgAiAA==",
            json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": { "name": "app" },
                "spec": {
                    "ingressClassName": "edge",
                    "defaultBackend": { "service": { "name": "web", "port": { "number": 80 } } },
                    "tls": [{ "hosts": ["foo.bar"], "secretName": "cert" }],
                    "rules": [
                        { "host": "foo.bar", "http": { "paths": [{
                            "path": "/",
                            "pathType": "Prefix",
                            "backend": { "service": { "name": "web", "port": { "number": 80 } } },
                        }] } },
                        { "host": "*.foo.bar", "http": { "paths": [{
                            "path": "/x",
                            "pathType": "Exact",
                            "backend": { "service": { "name": "web", "port": { "name": "http" } } },
                        }] } },
                    ],
                },
                "status": { "loadBalancer": {} } }),
        ),
        (
            "auth whoami",
            "azhzAAotChhhdXRoZW50aWNhdGlvbi5rOHMuaW8vdjESEVNlbGZTdWJqZWN0UmV2aWV3EhoKEAoAEgAaACIAKgAy\
             ADgAQgASBgoECgASABoAIgA=",
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {},
                "status": { "userInfo": {} } }),
        ),
    ];
    rows.map(|(command, body, meant)| (command, BASE64_STANDARD.decode(body).unwrap(), meant))
        .into()
}

#[test]
fn captured_kubectl_bodies_are_decoded() {
    for (command, body, meant) in captured() {
        assert_eq!(object(&body).as_ref(), Ok(&meant), "kubectl {command}");
    }
}

/// A truncated or corrupted body decodes to an object or an error.
#[test]
fn corrupted_body_does_not_panic() {
    for (command, body, meant) in captured() {
        for at in 0..body.len() {
            // Every inner message has a length, but parts of the envelope may be absent.
            if let Ok(cut) = object(&body[..at]) {
                let empty = cut.as_object().unwrap().len() == 2;
                assert!(empty || cut == meant, "{command}: {at} {cut}");
            }
            let mut changed = body.clone();
            for byte in [0, 1, 0x0b, 0x7f, 0x80, 0xff, body[at] ^ 1, body[at] ^ 8] {
                changed[at] = byte;
                let _ = object(&changed);
            }
        }
    }
}

/// Encodes as Go does: every field of a message that is no pointer, be it zero.
fn encode(message: &str, object: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields_of(message) {
        if field.name.is_empty() {
            let Type::Message(inlined) = field.of else { panic!("{field:?}") };
            put_bytes(&mut bytes, field.number, &encode(inlined, object));
            continue;
        }
        let value = &object[field.name];
        match field.shape {
            Shape::Plain if value.is_null() => match field.of {
                Type::String => put_bytes(&mut bytes, field.number, b""),
                Type::Bool | Type::Int32 | Type::Int64 => put_number(&mut bytes, field.number, 0),
                _ => {}
            },
            Shape::Plain => put(&mut bytes, field.number, field, value),
            Shape::Pointer if value.is_null() => {}
            Shape::Pointer => put(&mut bytes, field.number, field, value),
            Shape::List => {
                for value in value.as_array().into_iter().flatten() {
                    put(&mut bytes, field.number, field, value);
                }
            }
            Shape::Map => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    put(&mut entry, 2, field, value);
                    put_bytes(&mut bytes, field.number, &entry);
                }
            }
        }
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, number: u32, field: &Field, value: &Value) {
    let text = value.as_str().unwrap_or_default();
    let mut inner = Vec::new();
    match field.of {
        Type::String => inner.extend(text.as_bytes()),
        Type::Bytes => inner = BASE64_STANDARD.decode(text).unwrap(),
        Type::Bool => return put_number(bytes, number, value.as_bool().unwrap().into()),
        Type::Int32 | Type::Int64 => return put_number(bytes, number, value.as_i64().unwrap()),
        Type::Time | Type::MicroTime => {
            let at: Timestamp = text.parse().unwrap();
            put_number(&mut inner, 1, at.as_second());
            put_number(&mut inner, 2, at.subsec_nanosecond().into());
        }
        Type::Quantity => put_bytes(&mut inner, 1, text.as_bytes()),
        Type::IntOrString => {
            put_number(&mut inner, 1, value.is_string().into());
            put_number(&mut inner, 2, value.as_i64().unwrap_or_default());
            put_bytes(&mut inner, 3, text.as_bytes());
        }
        Type::Json => put_bytes(&mut inner, 1, value.to_string().as_bytes()),
        Type::Message(of) => inner = encode(of, value),
        Type::Either(of) => {
            let part = match value {
                Value::Bool(_) => "allows",
                Value::Array(_) => "list",
                _ => "schema",
            };
            inner = encode(of, &json!({ part: value }));
        }
        Type::Float => {
            varint(bytes, u64::from(number) << 3 | 1);
            return bytes.extend(value.as_f64().unwrap().to_le_bytes());
        }
    }
    put_bytes(bytes, number, &inner);
}

fn put_number(bytes: &mut Vec<u8>, number: u32, value: i64) {
    varint(bytes, u64::from(number) << 3);
    varint(bytes, value.cast_unsigned());
}

fn put_bytes(bytes: &mut Vec<u8>, number: u32, value: &[u8]) {
    varint(bytes, u64::from(number) << 3 | 2);
    varint(bytes, value.len() as u64);
    bytes.extend(value);
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn body_of(object: &Value) -> Vec<u8> {
    let text = |name: &str| object[name].as_str().unwrap();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut body = MAGIC.to_vec();
    put_bytes(&mut body, 1, &type_meta);
    put_bytes(&mut body, 2, &encode(table::of_kind(version, kind).unwrap(), object));
    put_bytes(&mut body, 3, b"");
    put_bytes(&mut body, 4, b"");
    body
}

#[test]
fn object_survives_round_trip() {
    let pod = json!({
        "securityContext": { "runAsUser": 0, "supplementalGroups": [1, 2], "fsGroup": -1 },
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "priority": -5,
        "volumes": [
            { "name": "scratch", "emptyDir": {} },
            { "name": "settings", "configMap": { "name": "settings", "optional": false } },
        ],
        "containers": [{
            "name": "c",
            "command": ["/app", ""],
            "env": [
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "password" } } },
                { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
            ],
            "resources": { "limits": { "cpu": "500m", "memory": "64Mi" } },
            "readinessProbe": { "httpGet": { "path": "/", "port": "http" }, "periodSeconds": 1 },
            "livenessProbe": { "tcpSocket": { "port": 8080 } },
        }],
    });
    for whole in [
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": pod }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "d",
                "creationTimestamp": "2026-11-23T09:33:35Z",
                "ownerReferences": [{ "apiVersion": "v1", "kind": "X", "name": "x", "uid": "u", "controller": false }],
                "managedFields": [{ "manager": "m", "fieldsV1": { "f:spec": { "f:replicas": {} } } }],
            },
            "spec": {
                "replicas": 0,
                "strategy": { "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": 0 } },
                "selector": { "matchLabels": { "a": "" } },
                "template": { "metadata": { "labels": { "a": "" } }, "spec": pod },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" },
            "data": { "none": "", "some": "AP8=" },
        }),
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "l" },
            "spec": { "renewTime": "2026-11-23T09:33:35.000012Z", "leaseDurationSeconds": 0 },
        }),
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": "e" },
            "eventTime": "2026-11-23T09:33:35.123456Z", "note": "n", "regarding": { "name": "p" },
        }),
        json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": "e" },
            "message": "n", "involvedObject": { "name": "p" }, "count": 2,
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "s" },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": false } }],
            "ports": [{ "name": "", "port": 8080 }],
        }),
        json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "p" },
            "deleteOptions": { "gracePeriodSeconds": 0, "preconditions": { "uid": "u" } },
        }),
        json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "d" }, "spec": { "replicas": 3 } }),
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": "things.example.com" },
            "spec": {
                "group": "example.com", "scope": "Cluster",
                "names": { "kind": "Thing", "plural": "things" },
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                        "a": { "type": "number", "minimum": 0, "maximum": 0.5, "default": { "x": [1] } },
                        "b": { "type": "array", "items": { "type": "string", "enum": ["x", 1] } },
                        "c": { "type": "object", "additionalProperties": true },
                        "d": { "type": "object", "additionalProperties": { "type": "string" } },
                        "e": { "x-kubernetes-int-or-string": true, "x-kubernetes-list-type": "map" },
                    } } },
                }],
            },
        }),
    ] {
        assert_eq!(object(&body_of(&whole)), Ok(whole));
    }
}

/// A deeply nested schema must not overflow the stack.
#[test]
fn nesting_is_limited() {
    let mut schema = json!({});
    for _ in 0..60 {
        schema = json!({ "not": schema });
    }
    let mut bytes = encode("JSONSchemaProps", &schema);
    for _ in 0..20_000 {
        let mut outer = Vec::new();
        put_bytes(&mut outer, 28, &bytes);
        bytes = outer;
    }
    let read = read(fields_of("JSONSchemaProps"), &bytes, &mut Map::new(), 0);
    assert_eq!(read, Err(Malformed::Depth("not")));
}

#[test]
fn error_names_the_cause() {
    let namespace =
        body_of(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n" } }));
    let changed = |from: &[u8], to: &[u8]| {
        let at = namespace.windows(from.len()).position(|window| window == from).unwrap();
        let mut body = namespace.clone();
        body[at..at + to.len()].copy_from_slice(to);
        body
    };
    for (body, why) in [
        (b"{}".to_vec(), "does not appear to be a protobuf message"),
        (b"k8s\0".to_vec(), "no kind \"\" of version \"\""),
        (b"k8s\0\x0a".to_vec(), "unexpected end of input"),
        (changed(b"Name", b"Nome"), "no kind \"Nomespace\" of version \"v1\""),
        (changed(b"\x0a\x01n", b"\x0a\x01\xff"), "field name is not UTF-8"),
        (changed(b"\x0a\x01n", b"\x08\x01\x00"), "wrong wire type for field name"),
    ] {
        let refused = object(&body).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}
