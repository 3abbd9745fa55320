//! The `scale` subresource: `autoscaling/v1`, `Scale`.

use crate::{
    fields::find_path,
    http::{
        body::{Body, respond},
        decode, encode,
        path::Target,
        request::{Request, WriteOptions},
        status::{ApiError, ApiResult},
    },
    metadata, patch,
    resources::{resource_type::ResourceType, types::scale::SCALE},
    scope,
    state::ServerState,
    validation::field_error::FieldError,
    verbs::{
        patch::{Patch, check_address, check_apply, refusal},
        pipeline::{Decoded, Expects, Shows, WriteRequest, with_warnings, write},
    },
};
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

/// `GET`, `PUT` and `PATCH` of a `Scale`.
pub(crate) fn scale(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let target = &request.target;
    let form = request.form()?;
    let (scale, warnings) = match *request.method() {
        Method::GET => (scale_of(&target.resource, &scope::find(state, target)?.value), Vec::new()),
        Method::PUT => {
            let options = request.write_options()?;
            let mut given = decode::any(request)?;
            let warnings = decode::check_fields(
                &SCALE,
                &mut given,
                Vec::new(),
                options.validation,
                request.body,
            )?;
            check_address(target, &given)?;
            rescale(state, request, &options, true, |old, _| {
                metadata::check_uid(&target.resource, &target.name, &given, old)?;
                Ok(Decoded { object: rescaled(target, old, &given)?, warnings: warnings.clone() })
            })?
        }
        Method::PATCH => {
            let options = request.write_options()?;
            match Patch::decode(request, options.validation)? {
                Patch::Apply(applied, repeated) => {
                    apply(state, request, &options, &applied, repeated)?
                }
                patch => rescale(state, request, &options, true, |old, current| {
                    let mut scale = patch.patched(&SCALE, current)?;
                    let warnings =
                        patch.check(&SCALE, &mut scale, Vec::new(), options.validation)?;
                    Ok(Decoded { object: rescaled(target, old, &scale)?, warnings })
                })?,
            }
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    form.check_object("autoscaling.Scale")?;
    let bytes = encode::value(&SCALE, form, &scale);
    Ok(with_warnings(respond(StatusCode::OK, "application/json", bytes), warnings))
}

/// Server-side apply of a `Scale`: of the replicas alone, which a manager of the subresource then owns.
fn apply(
    state: &ServerState,
    request: &Request,
    options: &WriteOptions,
    applied: &Value,
    repeated: Option<String>,
) -> ApiResult<(Value, Vec<String>)> {
    let target = &request.target;
    let warnings = check_apply(&SCALE, applied, repeated, options.validation)?;
    rescale(state, request, options, false, |old, current| {
        let mut scale = current.clone();
        patch::merge(&mut scale, applied);
        check_address(target, &scale)?;
        let scaled = rescaled(target, old, &scale)?;
        let mut object = json!({});
        if !applied["spec"]["replicas"].is_null() {
            set_replicas(&target.resource, &mut object, &scale["spec"]["replicas"]);
        }
        let (manager, force) = (&options.manager, request.query.flag("force"));
        let (resource, now) = (&target.resource, Timestamp::now());
        let mut object = patch::apply(resource, Some(old), &object, manager, force, "scale", now)
            .map_err(refusal)?;
        for field in ["uid", "resourceVersion"] {
            object["metadata"][field] = scaled["metadata"][field].clone();
        }
        Ok(Decoded { object, warnings: warnings.clone() })
    })
}

/// Writes the object that `decode` makes of the stored one and its `Scale`. Returns the new `Scale` and the warnings.
fn rescale(
    state: &ServerState,
    request: &Request,
    options: &WriteOptions,
    tracks: bool,
    decode: impl Fn(&Value, &Value) -> ApiResult<Decoded>,
) -> ApiResult<(Value, Vec<String>)> {
    let target = &request.target;
    let expects = Expects::Object;
    let shows = Shows::Part(("autoscaling", "v1", "Scale"), scale_of);
    let write_request =
        WriteRequest { target, options, user: request.user, expects, tracks, shows };
    let result = write(state, &write_request, |old| {
        let old = old.unwrap_or(&Value::Null);
        decode(old, &scale_of(&target.resource, old))
    })?;
    Ok((scale_of(&target.resource, result.object.value()), result.warnings))
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
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let error = FieldError {
            reason: "FieldValueInvalid",
            field: "spec.replicas".into(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        };
        return Err(ApiError::invalid_scale(&target.name, error));
    }
    let mut new = old.clone();
    set_replicas(&target.resource, &mut new, &replicas.into());
    for field in ["uid", "resourceVersion"] {
        if let Some(given) = scale["metadata"][field].as_str() {
            new["metadata"][field] = given.into();
        }
    }
    Ok(new)
}

fn set_replicas(resource: &ResourceType, object: &mut Value, replicas: &Value) {
    match resource.scale_paths() {
        Some(paths) => set(object, &paths.spec, replicas.clone()),
        None => object["spec"]["replicas"] = replicas.clone(),
    }
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
