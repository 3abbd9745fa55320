//! `list`: a collection, page by page if the client wants.

use crate::{
    http::{
        body::{Body, respond},
        encode, list_options,
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
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// `GET` of a collection.
pub(crate) fn list(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let Request { target, query, .. } = request;
    let resource = &target.resource;
    let form = request.form()?;
    let selector = scope::selector(target, query)?;
    list_options::check(query, false)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let version = list_options::resource_version(query)?;
    let token = query.get("continue").map(ContinueToken::decode).transpose()?;
    if token.is_some() && version > 0 {
        return Err(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    let page = match token {
        Some(token) => token.page(state, resource, scope::namespace(target))?,
        None => first_page(state, target, query, version, limit)?,
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
        let after = (last.key.namespace.clone(), last.key.name.clone());
        let token = ContinueToken { revision: Some(revision), after };
        meta["continue"] = token.encode().into();
        if selector.is_empty() {
            meta["remainingItemCount"] = (rest.len() + 1).into();
        }
    }
    let bytes = encode::list(resource, form, &chosen, meta);
    Ok(respond(StatusCode::OK, "application/json", bytes))
}

/// Reads the objects of a list that starts at the beginning.
fn first_page(
    state: &ServerState,
    target: &Target,
    query: &Query,
    version: u64,
    limit: usize,
) -> ApiResult<Page> {
    let (resource, namespace) = (target.resource.storage_resource(), scope::namespace(target));
    let current = state.store.revision();
    if version > current {
        return Err(ApiError::too_large_resource_version(version, current));
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
    /// Namespace and name.
    after: (String, String),
}

impl ContinueToken {
    /// Reads the rest of the list.
    fn page(
        self,
        state: &ServerState,
        resource: &ResourceType,
        namespace: Option<&str>,
    ) -> ApiResult<Page> {
        let Some(revision) = self.revision else {
            return Ok(state.store.list(resource.storage_resource(), namespace, Some(self.after)));
        };
        let page = state.store.list_at(
            resource.storage_resource(),
            namespace,
            Some(&self.after),
            revision,
        );
        page.map_err(|_| {
            ApiError::expired_continue(Self { revision: None, after: self.after }.encode())
        })
    }

    fn encode(&self) -> String {
        let (namespace, name) = &self.after;
        let token = json!({
            "v": "meta.k8s.io/v1",
            "rv": self.revision.map_or(json!(-1), Value::from),
            "start": format!("{namespace}/{name}\0"),
        });
        STANDARD_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str) -> ApiResult<Self> {
        let decode = || {
            let bytes = STANDARD_NO_PAD.decode(text).ok()?;
            let token: Value = serde_json::from_slice(&bytes).ok()?;
            let start = token["start"].as_str()?.strip_suffix('\0')?;
            let (namespace, name) = start.split_once('/')?;
            let revision = match token["rv"].as_i64()? {
                -1 => None,
                revision => Some(u64::try_from(revision).ok()?),
            };
            Some(Self { revision, after: (namespace.to_owned(), name.to_owned()) })
        };
        decode().ok_or_else(ApiError::bad_continue)
    }
}
