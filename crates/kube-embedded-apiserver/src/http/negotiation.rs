//! Content negotiation: the form of the objects in a response.

use crate::http::status::{ApiError, ApiResult};
use http::{HeaderMap, header};

/// The form of the objects in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    /// `as=PartialObjectMetadata` or `as=PartialObjectMetadataList`.
    Metadata,
    Table(Include),
}

/// The part of an object that goes with its row in a Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

const YAML: &str = "application/yaml";

/// Returns true if the client would have YAML, the other encoding of every object and list.
pub(crate) fn prefers_yaml(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let ranges = accept.unwrap_or_default().split(',');
    let mut names = ranges.map(|range| range.split(';').next().unwrap_or_default().trim());
    names.find(|name| matches!(*name, "application/json" | YAML | "application/*" | "*/*"))
        == Some(YAML)
}

/// Returns the first form of the `Accept` header that this server has. `tables`: the resource has columns.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    include: Option<&str>,
    tables: bool,
) -> ApiResult<Form> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Form::Whole) };
    let accept = accept.to_str().unwrap_or_default();
    if accept.trim().is_empty() {
        return Ok(Form::Whole);
    }
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json" | YAML | "application/*" | "*/*")) {
            continue;
        }
        let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter =
            |name: &str| parameters.iter().find(|(known, _)| *known == name).map(|(_, v)| *v);
        let meta_v1 = parameter("g") == Some("meta.k8s.io") && parameter("v") == Some("v1");
        match parameter("as") {
            None => return Ok(Form::Whole),
            Some("Table") if meta_v1 && tables => {
                return match include {
                    None | Some("Metadata") => Ok(Form::Table(Include::Metadata)),
                    Some("None") => Ok(Form::Table(Include::Nothing)),
                    Some("Object") => Ok(Form::Table(Include::Object)),
                    Some(other) => Err(ApiError::bad_request(format!(
                        "Unable to convert to Table as requested: includeObject: Invalid value: \
                         {other:?}: must be 'Metadata', 'Object', 'None', or empty"
                    ))),
                };
            }
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta_v1 => {
                return Ok(Form::Metadata);
            }
            Some(_) => {}
        }
    }
    Err(ApiError::not_acceptable())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn table_of_what_has_no_columns_is_not_acceptable() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let negotiated = |accept: &str, tables: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            negotiate(&headers, None, tables).map_err(|error| error.code().as_u16())
        };
        assert_eq!(negotiated(table, true), Ok(Form::Table(Include::Metadata)));
        assert_eq!(negotiated(table, false), Err(406));
        assert_eq!(negotiated(&format!("{table},application/json"), false), Ok(Form::Whole));
        assert_eq!(negotiated("application/yaml", true), Ok(Form::Whole));
        assert_eq!(negotiated("text/html", true), Err(406));
    }

    #[test]
    fn yaml_is_for_those_who_name_it_first() {
        for (accept, expected) in [
            ("application/yaml", true),
            ("text/html, application/yaml;q=0.9, application/json", true),
            ("application/json, application/yaml", false),
            ("*/*", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            assert_eq!(prefers_yaml(&headers), expected, "{accept}");
        }
        assert!(!prefers_yaml(&HeaderMap::new()));
    }
}
