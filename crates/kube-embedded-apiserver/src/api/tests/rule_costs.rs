//! Definitions with rules that may cost too much, through the API.

use super::*;

/// A definition with a schema of `spec`.
fn with_spec(spec: Value) -> Value {
    let mut shops = definition("shops", "Shop");
    let schema = json!({ "type": "object", "properties": { "spec": spec } });
    shops["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema;
    shops
}

/// Where errors place the schema of `spec`, and the whole schema.
const SPEC: &str = "spec.validation.openAPIV3Schema.properties[spec]";
const WHOLE: &str = "spec.validation.openAPIV3Schema";
const HINT: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength \
                    where arrays, maps, and strings are declared)";

/// A rule that goes through the elements of `all` so many times.
fn nested(times: usize) -> Value {
    let variables: Vec<char> = ('a'..='z').take(times).collect();
    let open: String = variables.iter().map(|name| format!("self.all.all({name}, ")).collect();
    json!({ "rule": format!("{open}a > 0{}", ")".repeat(times)), "message": "no" })
}

fn list(max_items: Option<u64>, rules: &[Value]) -> Value {
    let mut all = json!({ "type": "array", "items": { "type": "integer" } });
    if let Some(max_items) = max_items {
        all["maxItems"] = max_items.into();
    }
    json!({ "type": "object", "properties": { "all": all }, "x-kubernetes-validations": rules })
}

/// Returns the causes of a refused request; empty if it succeeds.
async fn causes(api: &Api, method: Method, path: &str, body: Value) -> Vec<String> {
    let (code, status) = send(api, method, path, body).await;
    if code.is_success() {
        return Vec::new();
    }
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    let causes = status["details"]["causes"].as_array().unwrap();
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap().to_owned();
    causes.iter().map(|one| format!("{}: {}", text(one, "field"), text(one, "message"))).collect()
}

async fn causes_of(spec: Value) -> Vec<String> {
    causes(&api(), Method::POST, DEFINITIONS, with_spec(spec)).await
}

#[tokio::test]
async fn rules_over_unlimited_lists_are_refused_and_their_bounded_twins_accepted() {
    let at = |list: &str| format!("{SPEC}{list}.x-kubernetes-validations[0]");
    let too_much = |what: &str, factor: &str| {
        format!("Forbidden: {what} exceeds budget by factor of {factor} {HINT}")
    };
    let total = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    let contributed = "Forbidden: contributed to estimated rule cost total exceeding cost limit \
                       for entire OpenAPIv3 schema";
    let rule = at("") + ".rule";
    assert_eq!(
        causes_of(list(None, &[nested(2)])).await,
        [
            format!("{rule}: {}", too_much("estimated rule cost", "more than 100x")),
            format!("{rule}: {contributed}"),
            format!("{WHOLE}: {}", too_much(total, "more than 100x")),
        ]
    );
    let cost = too_much("estimated rule cost", "1.1");
    let found = causes_of(list(Some(130), &[nested(3)])).await;
    assert!(
        found.len() == 1 && found[0].starts_with(&format!("{rule}: {}", &cost[..60])),
        "{found:?}"
    );
    assert_eq!(causes_of(list(Some(100), &[nested(3)])).await, [""; 0]);
    // A rule is evaluated on each element of the lists and maps around it.
    let text = json!({ "type": "string", "x-kubernetes-validations": [
        { "rule": "self.contains('abc')", "message": "no" },
    ] });
    let mut tags = json!({ "type": "array", "items": text });
    let found = causes_of(tags.clone()).await;
    let rule = at(".items") + ".rule";
    assert_eq!(found[0], format!("{rule}: {}", too_much("estimated rule cost", "more than 100x")));
    tags["maxItems"] = 10.into();
    tags["items"]["maxLength"] = 63.into();
    assert_eq!(causes_of(tags).await, [""; 0]);
    // A message is not made for each of them.
    let message = json!([{ "rule": "true", "messageExpression": "self.replace('a', 'b')" }]);
    let mut text =
        json!({ "type": "string", "maxLength": 16_000_000, "x-kubernetes-validations": message });
    let found = causes_of(json!({ "type": "array", "items": text })).await;
    let field = at(".items") + ".messageExpression";
    assert_eq!(
        found,
        [format!("{field}: {}", too_much("estimated messageExpression cost", "1.280000x"))]
    );
    text["maxLength"] = 1000.into();
    assert_eq!(causes_of(json!({ "type": "array", "items": text })).await, [""; 0]);
}

#[tokio::test]
async fn rules_that_together_cost_too_much_are_refused_with_the_most_expensive_of_them() {
    let rules = vec![nested(3); 25];
    assert_eq!(causes_of(list(Some(100), &rules[..10])).await, [""; 0]);
    let found = causes_of(list(Some(100), &rules)).await;
    assert_eq!(found.len(), 5, "{found:?}");
    let contributed = "contributed to estimated rule cost total exceeding cost limit";
    assert!(found[..4].iter().all(|cause| cause.contains(contributed)), "{found:?}");
    assert!(found[4].starts_with(&format!("{WHOLE}: Forbidden: ")), "{found:?}");
}

#[tokio::test]
async fn stored_rules_above_the_limit_stay_until_their_schema_changes() {
    let path = format!("{DEFINITIONS}/shops.example.com");
    let labels = json!({ "metadata": { "labels": { "a": "b" } } });
    for (max_items, factor, with_label) in [
        (Some(130), "estimated rule cost exceeds budget by factor of 1.108718x", 0),
        // The limit of a schema holds for all updates.
        (None, "estimated rule cost exceeds budget by factor of more than 100x", 2),
    ] {
        let api = api();
        let mut stored = with_spec(list(max_items, &[nested(3)]));
        stored["status"] = json!({ "storedVersions": ["v1"] });
        api.seed(stored).unwrap();
        let found = causes(&api, Method::PATCH, &path, labels.clone()).await;
        assert_eq!(found.len(), with_label, "{found:?}");
        assert!(!found.iter().any(|cause| cause.contains(factor)), "{found:?}");
        let (_, mut changed) = send(&api, Method::GET, &path, Value::Null).await;
        changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "new".into();
        let found = causes(&api, Method::PUT, &path, changed).await;
        assert!(found[0].contains(factor), "{found:?}");
    }
}
