//! The `scale` subresource: `autoscaling/v1`, `Scale`.

use crate::{
    fields::find_path,
    http::{
        body::{Body, respond_json},
        decode,
        path::Target,
        request::{Request, WriteOptions},
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    scope,
    state::ServerState,
    validation::field_error::FieldError,
    verbs::{
        patch::Patch,
        pipeline::{Expects, WriteRequest, write},
    },
};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

/// `GET`, `PUT` and `PATCH` of a `Scale`.
pub(crate) fn scale(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let target = &request.target;
    let scale = match *request.method() {
        Method::GET => scale_of(&target.resource, &scope::find(state, target)?.value),
        Method::PUT => {
            let options = request.write_options()?;
            let given = decode::any(request)?;
            rescale(state, request, &options, |_| Ok(given.clone()))?
        }
        Method::PATCH => {
            let options = request.write_options()?;
            let patch = Patch::decode(request)?;
            rescale(state, request, &options, |scale| patch.patched(&target.resource, scale))?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(respond_json(StatusCode::OK, &scale))
}

/// Writes the `Scale` that `decode` makes of the current one, and returns the result.
fn rescale(
    state: &ServerState,
    request: &Request,
    options: &WriteOptions,
    decode: impl Fn(&Value) -> ApiResult<Value>,
) -> ApiResult<Value> {
    let target = &request.target;
    let write_request = WriteRequest {
        target,
        options,
        user: request.user,
        expects: Expects::Object,
        tracks: true,
    };
    let result = write(state, &write_request, |old| {
        let old = old.unwrap_or(&Value::Null);
        let scale = decode(&scale_of(&target.resource, old))?;
        Ok(rescaled(target, old, &scale)?.into())
    })?;
    Ok(scale_of(&target.resource, result.object.value()))
}

/// Returns the `Scale` of an object.
fn scale_of(resource: &ResourceType, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let own = resource.scale_paths();
    let (replicas, current) = match own {
        Some(paths) => (find_path(object, &paths.spec), find_path(object, &paths.status)),
        None => (object["spec"].get("replicas"), object["status"].get("replicas")),
    };
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {},
        "status": {
            "replicas": current.and_then(Value::as_i64).unwrap_or(0),
        },
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        scale["metadata"][field] = metadata[field].clone();
    }
    let replicas = replicas.and_then(Value::as_i64);
    if let Some(replicas) = replicas.filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    let selector = match own {
        Some(paths) => {
            let selector = paths.selector.as_ref().and_then(|path| find_path(object, path));
            selector.and_then(Value::as_str).unwrap_or_default().to_owned()
        }
        None => selector_text(&object["spec"]["selector"]),
    };
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// Formats a selector as `app=kubeapp,env=production`, which `kubectl` and autoscalers parse.
fn selector_text(selector: &Value) -> String {
    // A replication controller selects by labels alone, without `matchLabels`.
    let labels = selector["matchLabels"].as_object().or(selector.as_object());
    let mut terms: Vec<(String, String)> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), format!("{key}={}", value.as_str()?))))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<_> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("Exists") => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}

/// Returns the object with the replicas of a `Scale`.
fn rescaled(target: &Target, old: &Value, scale: &Value) -> ApiResult<Value> {
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| {
            ApiError::bad_request(format!(
                "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {} \
                 into Go struct field ScaleSpec.spec.replicas of type int32",
                decode::type_name(value)
            ))
        })?,
    };
    if replicas < 0 {
        let error = FieldError {
            reason: "FieldValueInvalid",
            field: "spec.replicas".into(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        };
        return Err(ApiError::invalid_scale(&target.name, error));
    }
    let mut new = old.clone();
    match target.resource.scale_paths() {
        Some(paths) => set(&mut new, &paths.spec, replicas.into()),
        None => new["spec"]["replicas"] = replicas.into(),
    }
    for field in ["uid", "resourceVersion"] {
        if let Some(given) = scale["metadata"][field].as_str() {
            new["metadata"][field] = given.into();
        }
    }
    Ok(new)
}

/// Sets a value at a path of names, and makes the objects on the way.
fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((last, above)) = path.split_last() else { return };
    let mut parent = object;
    for step in above {
        if !parent[step].is_object() {
            parent[step] = json!({});
        }
        parent = &mut parent[step];
    }
    parent[last] = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_is_formatted_as_text() {
        let selector = json!({
            "matchLabels": { "b": "2", "a": "1" },
            "matchExpressions": [
                { "key": "c", "operator": "In", "values": ["y", "x"] },
                { "key": "d", "operator": "DoesNotExist" },
            ],
        });
        assert_eq!(selector_text(&selector), "a=1,b=2,c in (x,y),!d");
        assert_eq!(selector_text(&json!({ "b": "2", "a": "1" })), "a=1,b=2");
        let expressions = json!({ "matchExpressions": [{ "key": "c", "operator": "Exists" }] });
        assert_eq!(selector_text(&expressions), "c");
    }
}
