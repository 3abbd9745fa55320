//! Parses manifests with the position of each field, so that a rejection by the API server can be shown at
//! its line: `manifests/lb/app-production.yml:37:9: spec.template.spec.containers[0].imagee: …`.

use super::field_path::{self, Step};
use crate::fault::{Fault, Layer, kubectl};
use anyhow::anyhow;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// One object of a manifest file.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The file it was read from.
    pub file: PathBuf,
    /// The object, as it is sent to the API server.
    pub object: Value,
    fields: Spanned<Node>,
}

/// The position of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

/// Reads every object of a manifest file, in order; empty documents are skipped.
///
/// # Errors
/// If the file cannot be read, is not YAML, or a document is not a Kubernetes object (no `apiVersion`,
/// `kind` or name); the message starts with `FILE:LINE:COLUMN`.
pub fn read(file: &Path) -> anyhow::Result<Vec<Manifest>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let why = format!("failed to read the manifest {}: {error}", file.display());
        Fault::new(Layer::Manifest, why, format!("ls -l {}", quoted(file)))
    })?;
    parse(file, &text)
}

/// Parses the text of a manifest file; `file` is only named in errors.
///
/// # Errors
/// As [`read`].
pub(crate) fn parse(file: &Path, text: &str) -> anyhow::Result<Vec<Manifest>> {
    let documents: Vec<Spanned<Node>> = serde_saphyr::from_multiple(text).map_err(|error| {
        let place = error.location().map_or_else(String::new, |at| place(at.line(), at.column()));
        let why = one_line(error.without_snippet());
        fault(file, format!("{}{place}: not valid YAML: {why}", file.display()))
    })?;
    if documents.is_empty() {
        return Err(fault(file, format!("{}: holds no object", file.display())).into());
    }
    documents
        .into_iter()
        .map(|fields| {
            let object = fields.value.to_json();
            let manifest = Manifest { file: file.to_path_buf(), object, fields };
            for (pointer, example) in [
                ("/apiVersion", "`apiVersion: apps/v1`"),
                ("/kind", "`kind: Deployment`"),
                ("/metadata/name", "a name under `metadata`"),
            ] {
                if manifest
                    .object
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .is_none_or(str::is_empty)
                {
                    let field = pointer.trim_start_matches('/').replace('/', ".");
                    let why = format!("missing, or not a string: write {example}");
                    return Err(manifest.error_at(&field, &why));
                }
            }
            Ok(manifest)
        })
        .collect()
}

impl Manifest {
    /// The `metadata.name`.
    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The `kind`.
    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// The `apiVersion`.
    pub(crate) fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the position of a field path, in the forms `spec.template.spec.containers[0].image` and
    /// `.spec.template.spec.containers[name="kubeapp"].image`. For a field that is not in the file, such
    /// as a missing required one, it is that of the nearest parent. `None` if the file lacks even the
    /// first step.
    pub(crate) fn locate(&self, field: &str) -> Option<Position> {
        locate(&self.fields, &field_path::parse(field))
    }

    /// Returns the error of a rejection by the API server, at the lines of the fields it names and in its
    /// own words. A fault of the manifest, unless the status is about the client or the server.
    pub(crate) fn rejected(&self, status: &kube::core::Status) -> anyhow::Error {
        let text = self.rejection_text(status);
        let may_not = status.code == 403 && status.message.contains("cannot");
        let no_namespace = status.code == 404 && status.message.starts_with("namespaces ");
        // What Kubernetes says, with 500, of an applied object that does not fit its type.
        let misfit = ["failed to create typed patch object", "failed to convert new object"]
            .iter()
            .any(|what| status.message.starts_with(what));
        let retry = matches!(status.code, 401 | 408 | 409 | 429) || status.code >= 500;
        if may_not || no_namespace || (retry && !misfit) {
            return anyhow!(text);
        }
        fault(&self.file, text).into()
    }

    fn rejection_text(&self, status: &kube::core::Status) -> String {
        let causes = status.details.as_ref().map(|d| d.causes.as_slice()).unwrap_or_default();
        let mut named: Vec<(String, String)> = causes
            .iter()
            .filter(|cause| !cause.field.is_empty())
            .map(|cause| (cause.field.trim_start_matches('.').to_owned(), cause.message.clone()))
            .collect();
        if named.is_empty() {
            named = field_path::in_message(&status.message)
                .into_iter()
                .map(|field| (field, status.message.clone()))
                .collect();
        }
        let lines: Vec<String> = named
            .iter()
            .map(|(field, message)| format!("{}{field}: {message}", self.prefix(field)))
            .collect();
        let name = format!("{} {}", self.kind(), self.name());
        let what = format!("the API refused {name} ({})", status.code);
        if lines.is_empty() {
            format!("{}{what}: {}", self.prefix("kind"), status.message)
        } else {
            format!("{}\n{what}", lines.join("\n"))
        }
    }

    /// Returns the fault of one field, at its line.
    pub(crate) fn error_at(&self, field: &str, why: &str) -> anyhow::Error {
        fault(&self.file, format!("{}{field}: {why}", self.prefix(field))).into()
    }

    /// Formats the position of a field as `FILE:LINE:COLUMN: `; that of the object if it is not found.
    fn prefix(&self, field: &str) -> String {
        let at = self.locate(field).unwrap_or_else(|| position(&self.fields));
        format!("{}{}: ", self.file.display(), place(at.line, at.column))
    }
}

/// Returns the fault of a manifest file.
pub(crate) fn fault(file: &Path, why: String) -> Fault {
    let command = format!("apply --server-side --dry-run=server --filename {}", quoted(file));
    Fault::new(Layer::Manifest, why, kubectl(&command))
}

/// Quotes a path for a shell, if necessary.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        path
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

fn place(line: u64, column: u64) -> String {
    format!(":{line}:{column}")
}

fn one_line(error: &dyn fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn position<T>(spanned: &Spanned<T>) -> Position {
    Position { line: spanned.referenced.line(), column: spanned.referenced.column() }
}

/// Follows the steps as far as the file has them.
fn locate(root: &Spanned<Node>, steps: &[Step]) -> Option<Position> {
    let (mut node, mut found) = (root, None);
    for step in steps {
        let next = match (&node.value, step) {
            (Node::Map(entries), Step::Key(key)) => entries
                .iter()
                .find(|(name, _)| name.value == *key)
                .map(|(name, value)| (position(name), value)),
            (Node::Sequence(items), Step::Index(n)) => items.get(*n).map(|v| (position(v), v)),
            (Node::Sequence(items), Step::Keyed(keys)) => items
                .iter()
                .find(|item| keys.iter().all(|(key, value)| item.value.has(key, value)))
                .map(|v| (position(v), v)),
            _ => None,
        };
        let Some((at, value)) = next else { break };
        (node, found) = (value, Some(at));
    }
    found
}

/// A YAML node with the positions of keys and values.
#[derive(Clone, Debug)]
enum Node {
    Scalar(Value),
    Sequence(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn to_json(&self) -> Value {
        match self {
            Node::Scalar(value) => value.clone(),
            Node::Sequence(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Node::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(k, v)| (k.value.clone(), v.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// Returns true if this is a mapping in which `key` has the scalar `value`.
    fn has(&self, key: &str, value: &str) -> bool {
        let Node::Map(entries) = self else { return false };
        entries.iter().any(|(k, v)| match &v.value {
            Node::Scalar(Value::String(text)) => k.value == key && text == value,
            Node::Scalar(scalar) => {
                let text = scalar.to_string();
                k.value == key && text == value
            }
            _ => false,
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Scalar(v.into()))
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::Sequence(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const TWO: &str = "\
# a comment
apiVersion: apps/v1
kind: Deployment
metadata:
  name: kubeapp-production
spec:
  replicas: \"three\"
  template:
    spec:
      containers:
        - name: sidecar
        - name: kubeapp
          imagee: kubeapp:1.0
          ports: [{containerPort: 8080, protocol: TCP}]
---
# nothing but a comment
---
apiVersion: v1
kind: Service
metadata: {name: app-lb}
spec:
  selector:
    app.kubernetes.io/name: kubeapp
";

    fn two() -> Vec<Manifest> {
        parse(Path::new("lb.yml"), TWO).unwrap()
    }

    #[test]
    fn documents_are_parsed_into_objects() {
        let two = two();
        assert_eq!(two.len(), 2);
        assert_eq!((two[0].kind(), two[0].name()), ("Deployment", "kubeapp-production"));
        assert_eq!(
            two[0].object.pointer("/spec/template/spec/containers/1/ports/0"),
            Some(&json!({"containerPort": 8080, "protocol": "TCP"}))
        );
        assert_eq!((two[1].api_version(), two[1].name()), ("v1", "app-lb"));
    }

    #[test]
    fn fields_are_located() {
        let two = two();
        for (document, field, line, column) in [
            (0, "apiVersion", 2, 1),
            (0, "metadata.name", 5, 3),
            (0, "spec.replicas", 7, 3),
            (0, "spec.template.spec.containers[1].imagee", 13, 11),
            (0, ".spec.template.spec.containers[name=\"kubeapp\"].imagee", 13, 11),
            (
                0,
                ".spec.template.spec.containers[name=\"kubeapp\"].ports[containerPort=8080,protocol=\"TCP\"].protocol",
                14,
                41,
            ),
            // Not in the file: the nearest parent.
            (0, "spec.template.spec.containers[1].image", 12, 11),
            (0, "spec.selector", 6, 1),
            (1, "spec.selector[app.kubernetes.io/name]", 23, 5),
            (1, "spec.ports[0].port", 21, 1),
        ] {
            let found = two[document].locate(field);
            assert_eq!(found, Some(Position { line, column }), "{field}");
        }
        assert_eq!(two[0].locate("nope"), None);
    }

    #[test]
    fn rejection_is_shown_at_the_line_of_the_field() {
        let causes = |causes: &[(&str, &str)]| json!({"causes": causes.iter().map(|(f, m)| json!({"field": f, "message": m})).collect::<Vec<_>>()});
        for (message, code, details, expected) in [
            (
                "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.template.spec.containers[1].imagee\"",
                400,
                json!(null),
                "lb.yml:13:11: spec.template.spec.containers[1].imagee: Deployment in",
            ),
            (
                "failed to create typed patch object (production/kubeapp-production; apps/v1, Kind=Deployment): .spec.template.spec.containers[name=\"kubeapp\"].imagee: field not declared in schema",
                500,
                json!(null),
                "lb.yml:13:11: spec.template.spec.containers[name=\"kubeapp\"].imagee: failed",
            ),
            (
                "failed to create typed patch object (production/kubeapp-production; apps/v1, Kind=Deployment): .spec.replicas: expected numeric (int or float), got string",
                500,
                json!(null),
                "lb.yml:7:3: spec.replicas: failed",
            ),
            (
                "Deployment.apps \"kubeapp-production\" is invalid: spec.selector: Required value",
                422,
                causes(&[("spec.selector", "Required value"), ("spec.replicas", "Invalid value")]),
                "lb.yml:6:1: spec.selector: Required value\nlb.yml:7:3: spec.replicas: Invalid value\nthe API refused Deployment kubeapp-production (422)",
            ),
            (
                "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
                400,
                json!(null),
                "lb.yml:7:3: spec.replicas: Deployment in",
            ),
            (
                "namespaces \"production\" not found",
                404,
                json!(null),
                "lb.yml:3:1: the API refused Deployment kubeapp-production (404): namespaces",
            ),
        ] {
            let status = serde_json::from_value(
                json!({"message": message, "code": code, "reason": "", "details": details}),
            )
            .unwrap();
            let error = two()[0].rejected(&status);
            assert_eq!(error.is::<Fault>(), code != 404, "{error}");
            assert!(error.to_string().starts_with(expected), "{error}\n  expected {expected}");
        }
    }

    #[test]
    fn malformed_files_are_rejected_with_position() {
        for (text, expected) in [
            ("", "bad.yml: holds no object"),
            ("# nothing\n", "bad.yml: holds no object"),
            ("kind: Service\n", "bad.yml:1:1: apiVersion: missing"),
            ("apiVersion: v1\nkind: 3\nmetadata: {name: x}\n", "bad.yml:2:1: kind: missing"),
            (
                "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {}\n",
                "bad.yml:3:1: metadata.name: missing",
            ),
            ("- a\n- b\n", "bad.yml:1:1: apiVersion: missing"),
        ] {
            let error = parse(Path::new("bad.yml"), text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?} gave {error}");
        }
        for (text, line) in [
            ("apiVersion: v1\nkind: Service\n metadata: {name: x}\n", 3),
            ("apiVersion: v1\nkind: [Service\n", 2),
            ("apiVersion: v1\napiVersion: v1\n", 2),
            ("apiVersion: v1\nkind:\tService\n\t- x\n", 2),
        ] {
            let error = parse(Path::new("bad.yml"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("bad.yml:{line}:")), "{text:?} gave {error}");
            assert!(error.contains("not valid YAML"), "{error}");
        }
    }

    /// A JSON object of a few levels, without empty keys.
    fn spec() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z][a-zA-Z]{0,6}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// The paths of all fields of a value, as the API server writes them.
    fn paths(value: &Value, prefix: &str) -> Vec<String> {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(fields) => {
                fields.iter().map(|(key, value)| (format!("{prefix}.{key}"), value)).collect()
            }
            Value::Array(items) => {
                items.iter().enumerate().map(|(n, v)| (format!("{prefix}[{n}]"), v)).collect()
            }
            _ => Vec::new(),
        };
        let below = children.into_iter().flat_map(|(path, value)| {
            let below = paths(value, &path);
            std::iter::once(path).chain(below)
        });
        below.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// JSON is YAML, so a pretty-printed object is a manifest.
        #[test]
        fn every_field_of_a_json_manifest_is_located_at_its_line(spec in spec()) {
            let object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"},
                "spec": spec});
            let text = serde_json::to_string_pretty(&object).unwrap();
            let manifest = parse(Path::new("m.json"), &text).unwrap().remove(0);
            prop_assert_eq!(&manifest.object, &object);
            for path in paths(&object, "") {
                let at = manifest.locate(&path).unwrap();
                let line = text.lines().nth(usize::try_from(at.line).unwrap() - 1).unwrap();
                if let Some((_, key)) = path.rsplit_once('.').filter(|(_, key)| !key.ends_with(']')) {
                    let key = format!("\"{}\":", key);
                    prop_assert!(line.trim_start().starts_with(&key), "{path}: {line}");
                }
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "[ -~\n]{0,200}") {
            _ = parse(Path::new("m.yml"), &text);
        }
    }
}
