//! `--json` against its documented schema: a real run, a run that could not begin, an interrupted one, and
//! one line of each kind of event. `--junit` against the schema that Jenkins' xunit plugin publishes.

use crate::fixture::{Fixture, ci_tool, repository};
use labs::fault::Layer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn schema() -> Value {
    let file = repository().join("docs/labs-events.schema.json");
    serde_json::from_str(&fs::read_to_string(file).expect("the schema")).expect("JSON")
}

/// Validates a value against the keywords that the schema uses. An object that is a choice of `oneOf` may
/// have no field that neither it nor its parent lists, which is stricter than JSON Schema: so a field that
/// is not documented is found.
fn validate(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    const KEYWORDS: [&str; 12] = [
        "$schema",
        "$defs",
        "title",
        "description",
        "type",
        "required",
        "properties",
        "oneOf",
        "const",
        "enum",
        "items",
        "additionalProperties",
    ];
    let fail = |what: String| Err(format!("{path}: {what}: {value}"));
    let keywords = schema.as_object().expect("a schema");
    let unknown = keywords.keys().find(|key| !KEYWORDS.contains(&key.as_str()) && *key != "$ref");
    assert_eq!(unknown, None, "a keyword that this test does not know");
    if let Some(reference) = keywords.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.trim_start_matches('#')).expect("a definition");
        validate(root, target, value, path)?;
    }
    let matches = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        other => panic!("the type {other}"),
    };
    if let Some(name) = keywords.get("type").and_then(Value::as_str)
        && !matches(name)
    {
        return fail(format!("not of type {name}"));
    }
    if keywords.get("const").is_some_and(|constant| constant != value) {
        return fail("not the constant".into());
    }
    let allowed = keywords.get("enum").and_then(Value::as_array);
    if allowed.is_some_and(|allowed| !allowed.contains(value)) {
        return fail("not among the values".into());
    }
    for name in keywords.get("required").and_then(Value::as_array).into_iter().flatten() {
        if value.get(name.as_str().expect("a name")).is_none() {
            return fail(format!("lacks {name}"));
        }
    }
    let choice = choose(root, keywords, value, path)?;
    let empty = serde_json::Map::new();
    let properties = keywords.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match (properties.get(name), keywords.get("additionalProperties")) {
            (Some(schema), _) => validate(root, schema, field, &path)?,
            (None, Some(Value::Bool(false))) => return Err(format!("{path} is not documented")),
            (None, Some(schema)) => validate(root, schema, field, &path)?,
            (None, None)
                if choice.is_some_and(|choice| choice["properties"].get(name).is_none()) =>
            {
                return Err(format!("{path} is not documented"));
            }
            (None, None) => {}
        }
    }
    if let (Some(items), Some(all)) = (keywords.get("items"), value.as_array()) {
        for (index, item) in all.iter().enumerate() {
            validate(root, items, item, &format!("{path}[{index}]"))?;
        }
    }
    Ok(())
}

/// Returns the one choice that matches; the error is that of the event's own.
fn choose<'a>(
    root: &Value,
    keywords: &'a serde_json::Map<String, Value>,
    value: &Value,
    path: &str,
) -> Result<Option<&'a Value>, String> {
    let Some(choices) = keywords.get("oneOf").and_then(Value::as_array) else { return Ok(None) };
    let of_event = |choice: &&Value| choice["properties"]["event"]["const"] == value["event"];
    let own: Vec<&Value> = choices.iter().filter(of_event).collect();
    let [own] = own.as_slice() else { return Err(format!("{path}: no such event: {value}")) };
    validate(root, own, value, path)?;
    Ok(Some(own))
}

fn check<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let schema = schema();
    let mut kinds = BTreeSet::new();
    for line in lines {
        let value: Value = serde_json::from_str(line).expect("JSON");
        validate(&schema, &schema, &value, "event").unwrap_or_else(|why| panic!("{why}"));
        kinds.insert(value["event"].as_str().expect("a name").to_owned());
    }
    kinds
}

/// The snapshot of the report has one line of each kind of event.
#[test]
fn every_kind_of_event_is_documented() {
    let file = "labs/src/report/snapshots/labs__report__json__tests__json_report.snap";
    let text = fs::read_to_string(repository().join(file)).expect("the snapshot");
    let found = check(text.lines().filter(|line| line.starts_with('{')));
    let schema = schema();
    let choices = schema["oneOf"].as_array().expect("choices");
    let documented = choices.iter().map(|choice| choice["properties"]["event"]["const"].clone());
    let documented: BTreeSet<String> =
        documented.map(|name| name.as_str().expect("a name").to_owned()).collect();
    assert_eq!(found, documented);
    let layers = choices.iter().find_map(|choice| choice["properties"]["layer"]["enum"].as_array());
    let mut expected: Vec<Value> = Layer::ALL.iter().map(|layer| json!(layer)).collect();
    expected.push(Value::Null);
    assert_eq!(layers, Some(&expected));
}

#[test]
fn undocumented_or_missing_fields_are_found() {
    let schema = schema();
    let right = json!({"at": 0.1, "lab": "l", "event": "step-started", "step": "s"});
    assert_eq!(validate(&schema, &schema, &right, "event"), Ok(()));
    for (field, value) in [
        ("step", json!(1)),
        ("more", json!(1)),
        ("event", json!("step-begun")),
        ("at", json!("now")),
    ] {
        let mut wrong = right.clone();
        wrong[field] = value;
        assert!(validate(&schema, &schema, &wrong, "event").is_err(), "{field}");
    }
    let mut wrong = right;
    wrong.as_object_mut().expect("an object").remove("step");
    assert!(validate(&schema, &schema, &wrong, "event").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn real_run_conforms_to_the_schema() {
    let fixture = Fixture::new().set("lb/app-canary.yml", "/spec/replicas", json!(2));
    let run = fixture.run_alone("phase4").await;
    let found = check(run.events().iter().map(String::as_str));
    for kind in [
        "run-started",
        "lab-started",
        "claim-judged",
        "diagnosis",
        "lab-ended",
        "sample-ended",
        "pod-observed",
        "node-observed",
    ] {
        assert!(found.contains(kind), "{kind}: {found:?}");
    }
    let last = run.events().last().expect("events");
    assert!(last.contains("\"event\":\"run-ended\""), "{last}");
}

/// Runs the binary with `--json`.
fn json_of(arguments: &[&str]) -> (Vec<String>, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_labs")).args(arguments).output().expect("labs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    (text.lines().map(str::to_owned).collect(), output.status.code())
}

/// A run that cannot begin has a last line, too, and a JUnit report with an error.
#[test]
fn failed_start_is_reported_in_every_format() {
    let folder = std::env::temp_dir().join(format!("canary-labs-schema-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let junit = folder.join("junit.xml");
    let junit_text = junit.to_str().expect("UTF-8");
    let missing = folder.join("missing.json");
    let missing = missing.to_str().expect("UTF-8");
    let arguments = ["run", "phase4", "--json", "--environment", missing, "--junit", junit_text];
    let (lines, code) = json_of(&arguments);
    assert_eq!(code, Some(3));
    check(lines.iter().map(String::as_str));
    let last: Value = serde_json::from_str(lines.last().expect("a line")).expect("JSON");
    assert_eq!((&last["event"], &last["exitCode"]), (&json!("run-ended"), &json!(3)));
    let report = fs::read_to_string(&junit).expect("the report");
    assert!(
        report.contains("<error type=\"environment\"") && report.contains("missing.json"),
        "{report}"
    );

    let unwritable = folder.join("none/junit.xml");
    let unwritable = unwritable.to_str().expect("UTF-8");
    let (lines, code) =
        json_of(&["run", "phase4", "--json", "--environment", missing, "--junit", unwritable]);
    assert_eq!((lines, code), (Vec::new(), Some(3)), "refused before anything is done");
    _ = fs::remove_dir_all(&folder);
}

/// Returns what xmllint says of a JUnit report; nothing if it conforms.
fn xmllint(schema: &Path, report: &Path) -> String {
    let mut command = Command::new("xmllint");
    let output = command.args(["--noout", "--schema"]).args([schema, report]).output();
    let output = output.expect("xmllint");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { String::new() } else { said }
}

/// Writes a report of one phase that holds, and one of a run that cannot begin; the snapshot has every kind of case.
#[tokio::test(flavor = "multi_thread")]
async fn junit_conforms_to_the_schema_of_jenkins() {
    if !test_support::runs("xmllint", &["--version"]) {
        return test_support::missing("xmllint", "`apt-get install libxml2-utils`");
    }
    let schema = ci_tool("junit/junit-10.xsd");
    if !schema.is_file() {
        return test_support::missing("junit-schema", "`.ci/run` installs it");
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let environment = fixture.write_environment();
    let file = |name| environment.with_file_name(name);
    let snapshot = "labs/src/report/snapshots/labs__report__junit__tests__junit_report.snap";
    let snapshot = fs::read_to_string(repository().join(snapshot)).expect("the snapshot");
    let (_, every) = snapshot.split_once("<?xml").expect("a report");
    let every = format!("<?xml{every}");
    fs::write(file("every.xml"), &every).expect("a report");
    for outcome in ["<failure", "<skipped", "<error", "<system-out", "<property "] {
        assert!(every.contains(outcome), "{outcome}");
    }
    let cluster = fixture.cluster().await;
    for (name, environment) in [("run.xml", &environment), ("none.xml", &file("none.json"))] {
        let mut labs = Command::new(env!("CARGO_BIN_EXE_labs"));
        labs.args(["run", "phase0", "--junit"])
            .arg(file(name))
            .arg("--environment")
            .arg(environment);
        labs.output().expect("labs");
    }
    cluster.stop().await;
    for name in ["every.xml", "run.xml", "none.xml"] {
        let said = xmllint(&schema, &file(name));
        let report = fs::read_to_string(file(name)).expect("the report");
        assert!(said.is_empty(), "{name}: {said}{report}");
        assert!(report.contains("<testcase "), "{name}: {report}");
    }
    // The schema rejects an attribute, an element and a time that it does not have.
    for (from, to) in [
        ("<testsuites ", "<testsuites skipped=\"1\" "),
        ("failure", "fault"),
        ("time=\"", "time=\"a"),
    ] {
        fs::write(file("wrong.xml"), every.replace(from, to)).expect("a report");
        assert!(xmllint(&schema, &file("wrong.xml")).contains("validity error"), "{to}");
    }
}

/// A full disk is no success; a reader that has left is none's fault.
#[test]
fn output_that_cannot_be_written_is_an_error() {
    for arguments in [&["list"][..], &["explain", "phase4"], &["list", "--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let mut command = Command::new(env!("CARGO_BIN_EXE_labs"));
        let output = command.args(arguments).stdout(full).output().expect("labs");
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("failed to write"), "{error}");

        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_labs"));
        let output = command.args(arguments).stdout(writer).output().expect("labs");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}
