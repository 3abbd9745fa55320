//! `list`: a collection, page by page if the client wants.

use crate::{
    http::{
        body::{Body, respond},
        decode::{json_error, type_name},
        encode,
        list_options::{ListOptions, list_version},
        negotiation::go_type,
        path::Target,
        query::Query,
        request::Request,
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    scope,
    state::ServerState,
    store::{Object, Page},
};
use base64::{DecodeError, Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// `GET` of a collection.
pub(crate) fn list(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let Request { target, query, .. } = request;
    let resource = &target.resource;
    let form = request.form()?;
    let ListOptions { selector, limit, .. } = ListOptions::parse(resource, query, false)?;
    // What may be as old as it likes is read from a cache in Kubernetes, which knows no limit.
    let may_be_old = query.get("resourceVersion") == Some("0") && !query.has("continue");
    let limit = limit.filter(|limit| *limit > 0 && !may_be_old);
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let namespace = scope::namespace(target);
    let token = query.get("continue").map(|text| ContinueToken::decode(text, namespace));
    let page = match token {
        Some(token) => token?.page(state, query, resource, namespace)?,
        None => first_page(state, target, query, limit)?,
    };
    let mut chosen: Vec<&Object> = Vec::with_capacity(page.objects.len().min(limit));
    let mut rest = page.objects.iter();
    let mut more = None;
    for object in &mut rest {
        if !scope::matches(resource, &selector, object) {
            continue;
        }
        if chosen.len() == limit {
            more = chosen.last().copied();
            break;
        }
        chosen.push(object);
    }
    let revision = page.revision;
    let mut meta = json!({ "resourceVersion": revision.to_string() });
    if let Some(last) = more {
        let from = (last.key.namespace.clone(), format!("{}\0", last.key.name));
        let token = ContinueToken { revision: Some(revision), from };
        meta["continue"] = token.encode(namespace).into();
        if selector.is_empty() {
            meta["remainingItemCount"] = (rest.len() + 1).into();
        }
    }
    form.check_list(&go_type(resource))?;
    let bytes = encode::list(resource, form, &chosen, meta);
    Ok(respond(StatusCode::OK, "application/json", bytes))
}

/// Reads the objects of a list that starts at the beginning.
fn first_page(
    state: &ServerState,
    target: &Target,
    query: &Query,
    limit: usize,
) -> ApiResult<Page> {
    let (resource, namespace) = (target.resource.storage_resource(), scope::namespace(target));
    let version = list_version(query)?;
    let current = state.store.revision();
    if version > current {
        let exact = limit < usize::MAX || query.get("resourceVersionMatch") == Some("Exact");
        return Err(ApiError::too_large_resource_version(version, current, !exact));
    }
    // A version with a limit means exactly that version, as before resourceVersionMatch existed.
    let exact = match query.get("resourceVersionMatch") {
        Some(how) => how == "Exact",
        None => version > 0 && limit < usize::MAX,
    };
    if !exact {
        return Ok(state.store.list(resource, namespace, None));
    }
    let page = state.store.list_at(resource, namespace, None, version);
    page.map_err(|_| ApiError::expired_list())
}

/// The position in a list where the next page starts.
struct ContinueToken {
    /// The revision of the first page, so that the pages are consistent; `None` to continue with the current state.
    revision: Option<u64>,
    /// The first namespace and name that may follow.
    from: (String, String),
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl ContinueToken {
    /// Reads the rest of the list.
    fn page(
        self,
        state: &ServerState,
        query: &Query,
        resource: &ResourceType,
        namespace: Option<&str>,
    ) -> ApiResult<Page> {
        if !matches!(query.get("resourceVersion"), None | Some("0")) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let resource = resource.storage_resource();
        let Some(revision) = self.revision else {
            return Ok(state.store.list(resource, namespace, Some(self.from)));
        };
        let current = state.store.revision();
        if revision > current {
            return Err(ApiError::too_large_resource_version(revision, current, false));
        }
        let page = state.store.list_at(resource, namespace, Some(&self.from), revision);
        page.map_err(|_| {
            let token = Self { revision: None, from: self.from };
            ApiError::expired_continue(token.encode(namespace))
        })
    }

    fn encode(&self, collection: Option<&str>) -> String {
        let (namespace, name) = &self.from;
        let start = match collection {
            Some(_) => name.clone(),
            None if namespace.is_empty() => name.clone(),
            None => format!("{namespace}/{name}"),
        };
        let rv = self.revision.map_or(-1, u64::cast_signed);
        let token = json!({ "v": TOKEN_VERSION, "rv": rv, "start": start });
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    /// Decodes the token of a collection, of one namespace or of all.
    fn decode(text: &str, collection: Option<&str>) -> ApiResult<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                // Go names the start of the group that is not whole.
                DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len() / 4 * 4,
            };
            ApiError::bad_continue(&format!("illegal base64 data at input byte {at}"))
        })?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|error| {
            let why = json_error(&String::from_utf8_lossy(&bytes), &error);
            ApiError::bad_continue(&why)
        })?;
        let wrong = |field: &str, of: &str| {
            let found = type_name(&token[field]);
            let place = format!("Go struct field continueToken.{field} of type {of}");
            ApiError::bad_continue(&format!("json: cannot unmarshal {found} into {place}"))
        };
        let string = |field: &str| match &token[field] {
            Value::Null => Ok(""),
            Value::String(text) => Ok(&**text),
            _ => Err(wrong(field, "string")),
        };
        let (v, start) = (string("v")?, string("start")?);
        let rv = match &token["rv"] {
            Value::Null => 0,
            number => number.as_i64().ok_or_else(|| wrong("rv", "int64"))?,
        };
        if v != TOKEN_VERSION {
            let why = format!("server does not recognize this encoded version {v}");
            return Err(ApiError::bad_continue(&why));
        }
        if rv == 0 {
            let why = "incorrect encoded start resourceVersion (version meta.k8s.io/v1)";
            return Err(ApiError::bad_continue(why));
        }
        if start.is_empty() {
            let why = "encoded start key empty (version meta.k8s.io/v1)";
            return Err(ApiError::bad_continue(why));
        }
        let key = start.strip_prefix('/').unwrap_or(start);
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(ApiError::bad_continue(start));
        }
        let from = match (collection, key.split_once('/')) {
            (Some(namespace), _) => (namespace.to_owned(), key.to_owned()),
            (None, Some((namespace, name))) => (namespace.to_owned(), name.to_owned()),
            (None, None) => (String::new(), key.to_owned()),
        };
        Ok(Self { revision: u64::try_from(rv).ok(), from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_continues_where_the_page_ended() {
        for (collection, from, start) in [
            (Some("a"), ("a", "n\0"), "n\0"),
            (None, ("a", "n\0"), "a/n\0"),
            (None, ("", "n\0"), "n\0"),
        ] {
            let from = (from.0.to_owned(), from.1.to_owned());
            let text = ContinueToken { revision: Some(7), from: from.clone() }.encode(collection);
            let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            let token: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(token, json!({ "v": "meta.k8s.io/v1", "rv": 7, "start": start }));
            let decoded = ContinueToken::decode(&text, collection).unwrap();
            assert_eq!((decoded.revision, decoded.from), (Some(7), from), "{start:?}");
        }
    }

    #[test]
    fn token_that_no_page_had_is_refused_as_in_kubernetes() {
        for (token, expected) in [
            (r#"hello"#, "invalid character 'h' looking for beginning of value"),
            (r#"{"rv":1,"start":"a"}"#, "server does not recognize this encoded version "),
            (r#"{"v":"v2"}"#, "server does not recognize this encoded version v2"),
            (
                r#"{"v":"meta.k8s.io/v1","start":"a"}"#,
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                r#"{"v":"meta.k8s.io/v1","rv":1}"#,
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (
                r#"{"rv":"1"}"#,
                "json: cannot unmarshal string into Go struct field continueToken.rv of type int64",
            ),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}"#, "../x"),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#, "a//b"),
        ] {
            let text = URL_SAFE_NO_PAD.encode(token);
            let error = ContinueToken::decode(&text, Some("a")).err().map(|e| e.to_string());
            let expected = format!("invalid continue token: continue key is not valid: {expected}");
            assert_eq!(error, Some(expected), "{token}");
        }
        let error = ContinueToken::decode("!!!!", None).err().map(|error| error.to_string());
        assert!(error.unwrap().ends_with("illegal base64 data at input byte 0"));
        let inconsistent = r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"/a"}"#;
        let decoded = ContinueToken::decode(&URL_SAFE_NO_PAD.encode(inconsistent), None).unwrap();
        assert_eq!((decoded.revision, decoded.from), (None, (String::new(), "a".to_owned())));
    }
}
