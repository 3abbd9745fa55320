//! What is served below an object: scale, log, binding, eviction. (Status and finalize are writes of
//! the object that keep to a part of it.)

pub(crate) mod stream;
pub(crate) mod token;

use crate::{
    api::Inner,
    fields::find_path,
    http::{
        body::Body,
        decode, output,
        path::{Query, Target},
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    validation::field_error::FieldError,
    verbs::{
        delete,
        patch::Patch,
        read,
        write::{self, Options},
    },
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use kube_embedded_core::node_api::{LogOptions, NodeError};
use serde_json::{Value, json};
use std::sync::Arc;

/// `autoscaling/v1`, `Scale` of what has replicas.
pub(crate) fn scale(
    inner: &Inner,
    method: &Method,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    let stored = match *method {
        Method::GET => read::find(inner, target)?.value.clone(),
        Method::PUT => {
            let options = Options::parse("UpdateOptions", query, headers)?;
            let given = decode::any(headers, body)?;
            let written = write::guaranteed_update(inner, target, &options, true, |old| {
                rescaled(target, old, &given)
            })?;
            written.object.value().clone()
        }
        Method::PATCH => {
            let options = Options::parse("PatchOptions", query, headers)?;
            let patch = Patch::decode(headers, body)?;
            let written = write::guaranteed_update(inner, target, &options, true, |old| {
                rescaled(
                    target,
                    old,
                    &patch.patched(&target.resource, &scale_of(&target.resource, old))?,
                )
            })?;
            written.object.value().clone()
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(output::respond_json(StatusCode::OK, &scale_of(&target.resource, &stored)))
}

fn scale_of(resource: &ResourceType, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let own = resource.crd.and_then(|crd| crd.scale.as_ref());
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

/// `app=kubeapp,env=production`, as `kubectl` and autoscalers take it.
fn selector_text(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut terms: Vec<(String, String)> = labels
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
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
    match target.resource.crd.and_then(|crd| crd.scale.as_ref()) {
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

/// Sets a value at a path of names, as far as there are objects on the way.
fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((last, above)) = path.split_last() else { return };
    let mut place = object;
    for step in above {
        if !place[step].is_object() {
            place[step] = json!({});
        }
        place = &mut place[step];
    }
    place[last] = value;
}

/// Puts a pod on a node: what a scheduler says.
pub(crate) fn bind(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    let options = Options::parse("CreateOptions", query, headers)?;
    let binding = decode::any(headers, body)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request("target.name: Required value"));
    }
    let name = &target.name;
    write::guaranteed_update(inner, target, &options, true, |old| {
        let there = old["spec"]["nodeName"].as_str().unwrap_or_default();
        if !there.is_empty() {
            let why = format!("pod {name} is already assigned to node {there:?}");
            return Err(ApiError::conflict_below("pods/binding", name, &why));
        }
        if old["metadata"].get("deletionTimestamp").is_some() {
            let why = format!("pod {name} is being deleted, cannot be assigned to a host");
            return Err(ApiError::conflict_below("pods/binding", name, &why));
        }
        let mut new = old.clone();
        new["spec"]["nodeName"] = node.into();
        let conditions = &mut new["status"]["conditions"];
        let mut kept = conditions.as_array().cloned().unwrap_or_default();
        kept.retain(|condition| condition["type"] != "PodScheduled");
        kept.push(json!({
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": null,
            "lastTransitionTime": output::now(),
            "observedGeneration": old["metadata"]["generation"],
        }));
        *conditions = kept.into();
        Ok(new)
    })?;
    Ok(output::respond_json(StatusCode::CREATED, &success()))
}

/// Deletes a pod unless a budget forbids it; there are no budgets here.
pub(crate) fn evict(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> ApiResult<Response<Body>> {
    let mut options = delete::Options::parse(query, headers, &Bytes::new())?;
    options.read(&decode::any(headers, body)?["deleteOptions"])?;
    delete::delete_object(inner, target, &options)?;
    Ok(output::respond_json(StatusCode::CREATED, &success()))
}

fn success() -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 })
}

/// The log of one of a pod's containers.
pub(crate) async fn log(
    inner: &Arc<Inner>,
    target: &Target<'_>,
    query: &Query,
) -> ApiResult<Response<Body>> {
    let pod = read::find(inner, target)?;
    let container = choose_container(&target.name, &pod.value, query.get("container"))?;
    if pod.value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            target.name
        )));
    }
    let options = LogOptions {
        container: Some(container),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        since_seconds: query.number("sinceSeconds")?,
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        timestamps: query.flag("timestamps"),
    };
    let Some(nodes) = inner.nodes.get().and_then(std::sync::Weak::upgrade) else {
        return Err(ApiError::internal("this cluster has no nodes that keep logs"));
    };
    let chunks =
        nodes.logs(&target.namespace, &target.name, options).await.map_err(
            |error| match error {
                NodeError::BadRequest(message) => ApiError::bad_request(message),
                NodeError::NotFound(message) => ApiError::not_found_on_node(message),
                NodeError::Internal(message) => ApiError::internal(message),
            },
        )?;
    let mut response = Response::new(Body::stream(chunks));
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(response)
}

pub(crate) fn choose_container(name: &str, pod: &Value, asked: Option<&str>) -> ApiResult<String> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    match asked {
        Some(asked) if containers.contains(&asked) || init.contains(&asked) => Ok(asked.to_owned()),
        Some(asked) => {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        }
        None => match containers.as_slice() {
            [one] => Ok((*one).to_owned()),
            _ => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]{}",
                containers.join(" "),
                if init.is_empty() {
                    String::new()
                } else {
                    format!(" or one of the init containers: [{}]", init.join(" "))
                }
            ))),
        },
    }
}

/// Whether a kind has a subresource of this name.
pub(crate) fn has(resource: &ResourceType, subresource: &str) -> bool {
    resource.subresources.contains(&subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_read_as_text() {
        let selector = json!({
            "matchLabels": { "b": "2", "a": "1" },
            "matchExpressions": [
                { "key": "c", "operator": "In", "values": ["y", "x"] },
                { "key": "d", "operator": "DoesNotExist" },
            ],
        });
        assert_eq!(selector_text(&selector), "a=1,b=2,c in (x,y),!d");
    }

    #[test]
    fn a_log_needs_to_know_its_container() {
        let pod = json!({ "spec": { "containers": [{ "name": "a" }, { "name": "b" }] } });
        let message = |asked| choose_container("p", &pod, asked).unwrap_err().to_value();
        assert_eq!(
            message(None)["message"],
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(message(Some("c"))["message"], "container c is not valid for pod p");
        assert_eq!(choose_container("p", &pod, Some("b")).unwrap(), "b");
    }
}
