//! Get, list and watch.

use crate::{
    api::Inner,
    http::{
        body::Body,
        list_options,
        output::{self, Form},
        path::{Query, Target},
        selector::Selector,
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    store::{Key, Object, Page},
    verbs::watch,
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn get(
    inner: &Inner,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Response<Body>> {
    let form = output::negotiate(headers, query.get("includeObject"))?;
    let object = find(inner, target)?;
    let bytes = output::object(&target.resource, form, &object);
    Ok(output::respond(StatusCode::OK, "application/json", bytes))
}

/// The object that a target names.
pub(crate) fn find(inner: &Inner, target: &Target) -> ApiResult<Arc<Object>> {
    inner.store.get(&key(target)).ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
}

/// Where a target's object is stored.
pub(crate) fn key(target: &Target) -> Key {
    Key {
        resource: target.resource.storage_resource(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
    }
}

/// A list or a watch of a collection.
pub(crate) fn collection(
    inner: &Arc<Inner>,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Response<Body>> {
    let form = output::negotiate(headers, query.get("includeObject"))?;
    let selector = selector(target, query)?;
    if query.flag("watch") {
        return watch::start(inner, target, query, form, selector);
    }
    list(inner, target, query, form, &selector)
}

/// A watch of one object by its path.
pub(crate) fn watch_one(
    inner: &Arc<Inner>,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Response<Body>> {
    let form = output::negotiate(headers, query.get("includeObject"))?;
    let name = format!("metadata.name={}", target.name);
    let selector = Selector::parse(&target.resource, query.get("labelSelector"), Some(&name))?;
    watch::start(inner, target, query, form, selector)
}

/// The selectors of a query.
pub(crate) fn selector(target: &Target, query: &Query) -> ApiResult<Selector> {
    Selector::parse(&target.resource, query.get("labelSelector"), query.get("fieldSelector"))
}

/// The namespace that a collection is confined to.
pub(crate) fn namespace<'a>(target: &'a Target<'_>) -> Option<&'a str> {
    Some(&*target.namespace).filter(|namespace| !namespace.is_empty())
}

fn list(
    inner: &Inner,
    target: &Target,
    query: &Query,
    form: Form,
    selector: &Selector,
) -> ApiResult<Response<Body>> {
    let resource = &target.resource;
    list_options::check(query, false)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let version = list_options::resource_version(query)?;
    let token = query.get("continue").map(Token::decode).transpose()?;
    if token.is_some() && version > 0 {
        return Err(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    let namespace = namespace(target);
    let page = match token {
        Some(token) => token.page(inner, resource, namespace)?,
        None => {
            let current = inner.store.revision();
            if version > current {
                return Err(ApiError::too_large_resource_version(version, current));
            }
            // Older clients ask for exactly a version by naming one with a limit.
            let exact = match query.get("resourceVersionMatch") {
                Some(how) => how == "Exact",
                None => version > 0 && limit < usize::MAX,
            };
            if exact {
                let page =
                    inner.store.list_at(resource.storage_resource(), namespace, None, version);
                page.map_err(|_| ApiError::expired_list())?
            } else {
                inner.store.list(resource.storage_resource(), namespace, None)
            }
        }
    };
    let mut chosen: Vec<&Object> = Vec::with_capacity(page.objects.len().min(limit));
    let mut rest = page.objects.iter();
    let mut more = None;
    for object in &mut rest {
        if !matches(resource, selector, object) {
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
        let token = Token { revision: Some(revision), after };
        meta["continue"] = token.encode().into();
        if selector.is_empty() {
            meta["remainingItemCount"] = (rest.len() + 1).into();
        }
    }
    let bytes = output::list(resource, form, &chosen, meta);
    Ok(output::respond(StatusCode::OK, "application/json", bytes))
}

/// Whether a stored object is one that a selector of this kind means.
pub(crate) fn matches(
    resource: &crate::resources::resource_type::ResourceType,
    selector: &Selector,
    object: &Object,
) -> bool {
    if selector.is_empty() || output::owns(resource) {
        selector.matches(&object.value)
    } else {
        selector.matches(&output::view(resource, &object.value))
    }
}

/// Where the next page of a list starts.
struct Token {
    /// That of the first page, so that all pages are of one moment; none to go on with what is there
    /// now.
    revision: Option<u64>,
    /// Namespace and name.
    after: (String, String),
}

impl Token {
    /// What is left of the list.
    fn page(
        self,
        inner: &Inner,
        resource: &ResourceType,
        namespace: Option<&str>,
    ) -> ApiResult<Page> {
        let Some(revision) = self.revision else {
            return Ok(inner.store.list(resource.storage_resource(), namespace, Some(self.after)));
        };
        let page = inner.store.list_at(
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
