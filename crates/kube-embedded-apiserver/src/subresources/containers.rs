//! The choice of a pod's container, for logs and exec.

use crate::http::status::{ApiError, ApiResult};
use serde_json::Value;

/// Returns the requested container, or the only one.
pub(crate) fn choose_container(
    name: &str,
    pod: &Value,
    requested: Option<&str>,
) -> ApiResult<String> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    match requested {
        Some(requested)
            if [&containers, &init, &ephemeral].iter().any(|all| all.contains(&requested)) =>
        {
            Ok(requested.to_owned())
        }
        Some(requested) => {
            Err(ApiError::bad_request(format!("container {requested} is not valid for pod {name}")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn container_of_several_must_be_named() {
        let pod = json!({ "spec": { "containers": [{ "name": "a" }, { "name": "b" }] } });
        let message = |requested| choose_container("p", &pod, requested).unwrap_err().to_value();
        assert_eq!(
            message(None)["message"],
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(message(Some("c"))["message"], "container c is not valid for pod p");
        assert_eq!(choose_container("p", &pod, Some("b")).unwrap(), "b");
    }
}
