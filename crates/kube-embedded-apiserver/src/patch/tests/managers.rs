//! The managers that an object has after applies and updates.

use super::*;

fn times(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| (entry["manager"].as_str().unwrap().to_owned(), entry["time"].clone()))
        .collect()
}

#[test]
fn manager_has_the_time_of_its_last_change() {
    let resource = config_maps();
    let map = |data: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": data });
    let shown = |seconds: i64| json!(at(seconds).to_string());
    let one = map(json!({ "x": "1" }));
    let live = apply(resource, None, &one, "one", false, "", at(0)).unwrap();
    // A new manager that changes nothing has none.
    let shared = apply(resource, Some(&live), &one, "two", false, "", at(1)).unwrap();
    assert_eq!(times(&shared), [("two".into(), Value::Null), ("one".into(), shown(0))]);
    // One that owns less, but changes nothing, keeps its time.
    let less = apply(resource, Some(&shared), &map(json!({})), "one", false, "", at(2)).unwrap();
    assert_eq!(times(&less), [("two".into(), Value::Null), ("one".into(), shown(0))]);

    let mut object = map(json!({ "x": "1", "y": "1" }));
    track_update(resource, None, &mut object, "one", Operation::Update, "", at(0));
    let mut updated = object.clone();
    updated["data"]["x"] = "2".into();
    track_update(resource, Some(&object), &mut updated, "one", Operation::Update, "", at(1));
    assert_eq!(times(&updated), [("one".into(), shown(1))], "of a field that it owned already");
    let mut less = updated.clone();
    less["data"].as_object_mut().unwrap().remove("x");
    track_update(resource, Some(&updated), &mut less, "one", Operation::Update, "", at(2));
    assert_eq!(times(&less), [("one".into(), shown(1))]);
    let mut scaled = less.clone();
    scaled["data"]["z"] = "1".into();
    track_update(resource, Some(&less), &mut scaled, "one", Operation::Update, "scale", at(3));
    assert_eq!(times(&scaled)[0], ("one".into(), Value::Null), "scale has no times");
}

#[test]
fn applied_null_is_owned_and_leaves_the_parts_of_a_map() {
    let resource = config_maps();
    let mut live = json!({ "metadata": { "name": "a" }, "data": { "x": "1" } });
    track_update(resource, None, &mut live, "one", Operation::Update, "", at(0));
    let applied = json!({ "metadata": { "name": "a" }, "data": null, "immutable": null });
    let merged = apply(resource, Some(&live), &applied, "two", false, "", at(1)).unwrap();
    assert_eq!(merged["data"], json!({ "x": "1" }));
    assert_eq!(
        managed(&merged)[0],
        entry("two", "Apply", json!({ "f:data": {}, "f:immutable": {} }))
    );
    // Without fields there is no manager, and the list says so.
    let nothing = json!({ "metadata": { "name": "a" } });
    let first = apply(resource, None, &applied, "two", false, "", at(0)).unwrap();
    let dropped = apply(resource, Some(&first), &nothing, "two", false, "", at(1)).unwrap();
    assert_eq!(dropped["metadata"]["managedFields"], json!([]));
}

#[test]
fn managers_are_reset_by_an_empty_list_and_kept_by_a_malformed_one() {
    let resource = config_maps();
    let mut live = json!({ "metadata": { "name": "a" }, "data": { "x": "1" } });
    track_update(resource, None, &mut live, "one", Operation::Update, "", at(0));
    let good = json!({ "manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {} });
    let with = |field: &str, value: Value| {
        let mut entry = good.clone();
        entry[field] = value;
        entry
    };
    for (given, kept) in [
        (json!([]), false),
        (json!([{}]), false),
        (json!([{}, {}]), true),
        (json!(null), true),
        (json!([with("operation", json!("Get"))]), true),
        (json!([with("fieldsType", json!(""))]), true),
        (json!([with("apiVersion", json!(""))]), true),
        (json!([with("fieldsV1", json!({ "x": {} }))]), true),
    ] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = given.clone();
        track_update(resource, Some(&live), &mut new, "two", Operation::Update, "", at(1));
        let managers = new["metadata"]["managedFields"].as_array().map_or(0, Vec::len);
        assert_eq!(managers == 1, kept, "{given}");
    }
    // Without managers, updates have none until an apply.
    live["metadata"].as_object_mut().unwrap().remove("managedFields");
    let mut new = live.clone();
    new["data"]["x"] = "2".into();
    track_update(resource, Some(&live), &mut new, "two", Operation::Update, "", at(1));
    assert_eq!(new["metadata"].get("managedFields"), None);
    let applied = json!({ "metadata": { "name": "a" }, "data": { "y": "1" } });
    let object = apply(resource, Some(&new), &applied, "three", false, "", at(2)).unwrap();
    let names: Vec<String> = managed(&object).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["three", "before-first-apply"]);
}

#[test]
fn oldest_of_many_updates_are_merged() {
    let resource = config_maps();
    let mut live = json!({ "metadata": { "name": "a" }, "data": {} });
    for at_second in 0..13 {
        let mut new = live.clone();
        new["data"][format!("k{at_second}")] = "1".into();
        let old = (at_second > 0).then_some(&live);
        let name = format!("m{at_second}");
        track_update(resource, old, &mut new, &name, Operation::Update, "", at(at_second));
        live = new;
    }
    let all = managed(&live);
    assert_eq!((all.len(), &*all[0].0, &*all[1].0), (10, "ancient-changes", "m4"));
    let merged = &all[0].2["f:data"];
    assert!((0..4).all(|at| merged.get(format!("f:k{at}")).is_some()), "{merged}");
}

#[test]
fn atomic_element_of_a_list_is_owned_as_a_whole() {
    let resource = deployments();
    let spec = json!({ "imagePullSecrets": [{ "name": "x" }] });
    let applied = json!({ "metadata": {}, "spec": { "template": { "spec": spec } } });
    let object = apply(resource, None, &applied, "one", false, "", at(0)).unwrap();
    let fields = json!({ "f:imagePullSecrets": { "k:{\"name\":\"x\"}": {} } });
    assert_eq!(
        managed(&object),
        [entry("one", "Apply", json!({ "f:spec": { "f:template": { "f:spec": fields } } }))]
    );
}

/// A manager that has only a field of an element does not keep it.
#[test]
fn element_that_its_manager_no_longer_applies_is_removed_with_the_fields_of_others() {
    let services = registry::find("", "v1", "services").unwrap();
    let service = |spec: Value| json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": spec });
    let port = json!({ "port": 80, "protocol": "TCP", "name": "x" });
    let live = apply(services, None, &service(json!({ "ports": [port] })), "one", false, "", at(0))
        .unwrap();
    let mut changed = live.clone();
    changed["spec"]["ports"][0]["targetPort"] = 8080.into();
    track_update(services, Some(&live), &mut changed, "two", Operation::Update, "", at(1));
    let without = service(json!({ "type": "ClusterIP" }));
    let left = apply(services, Some(&changed), &without, "one", false, "", at(2)).unwrap();
    assert!(left["spec"].get("ports").is_none_or(|ports| *ports == json!([])), "{left}");
    let owned = entry("one", "Apply", json!({ "f:spec": { "f:type": {} } }));
    assert_eq!(managed(&left), [owned]);
}

/// The order of elements has no owner, but changes the object.
#[test]
fn manager_that_reorders_elements_has_a_time() {
    let resource = config_maps();
    let owner =
        |uid: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid });
    let map = |owners: [&str; 2]| {
        let owners = owners.map(owner);
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "ownerReferences": owners } })
    };
    let live = apply(resource, None, &map(["x", "y"]), "one", false, "", at(0)).unwrap();
    let reordered =
        apply(resource, Some(&live), &map(["y", "x"]), "two", false, "", at(1)).unwrap();
    let shown = |seconds: i64| json!(at(seconds).to_string());
    assert_eq!(times(&reordered), [("one".into(), shown(0)), ("two".into(), shown(1))]);
}
