//! A watch: what is there if asked for, then every change, as lines of JSON in one long answer.

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
    resources::registry::{OwnedResourceType, ResourceRegistry},
    store::{Compacted, Event, Object, Watch},
    verbs::read,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// Events that go into one chunk, so that a slow reader costs little memory.
const CHUNK: usize = 256;
/// How often a bookmark tells a client that nothing happened.
const BOOKMARK: Duration = Duration::from_secs(60);

pub(crate) fn start(
    inner: &Arc<Inner>,
    target: &Target,
    query: &Query,
    form: Form,
    selector: Selector,
) -> ApiResult<Response<Body>> {
    list_options::check(query, true)?;
    let from = list_options::resource_version(query)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial_events = query.flag("sendInitialEvents");
    let timeout = match query.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()) {
        None | Some(0) => Duration::from_secs(rand::random_range(1800..3600)),
        Some(seconds) => Duration::from_secs(seconds),
    };
    let resource = &target.resource;
    let mut initial = VecDeque::new();
    let watch = if from == 0 || initial_events {
        let page = inner.store.list(resource.storage_resource(), read::namespace(target), None);
        initial.extend(page.objects);
        inner.store.watch(resource.storage_resource(), page.revision)
    } else {
        inner.store.watch(resource.storage_resource(), from)
    };
    let stream = Stream {
        resource: ResourceRegistry::owned(resource),
        served: resource.crd.map(|crd| crd.served.clone()),
        form,
        namespace: read::namespace(target).map(str::to_owned),
        selector,
        initial,
        initial_bookmark: initial_events && bookmarks,
        bookmarks,
        next_bookmark: Instant::now() + BOOKMARK,
        end: Instant::now() + timeout,
        first: true,
        over: false,
        watch: None,
        stopping: inner.stopping.subscribe(),
    };
    // A revision that is too old is told as an event of a stream that starts well: that is how
    // clients know it from Kubernetes.
    let body = match watch {
        Ok(watch) => {
            let stream = Stream { watch: Some(watch), ..stream };
            let chunks = stream::unfold(stream, |mut stream| async move {
                stream.next().await.map(|chunk| (chunk, stream))
            });
            Body::stream(chunks.boxed())
        }
        Err(expired) => Body::from(error_line(expired)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

struct Stream {
    resource: OwnedResourceType,
    /// Of a custom resource: ends when it is served no longer.
    served: Option<tokio::sync::watch::Receiver<()>>,
    form: Form,
    namespace: Option<String>,
    selector: Selector,
    initial: VecDeque<Arc<Object>>,
    /// Whether the end of the initial objects is still to be told.
    initial_bookmark: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    first: bool,
    over: bool,
    watch: Option<Watch>,
    stopping: tokio::sync::watch::Receiver<bool>,
}

impl Stream {
    /// The next lines; `None` when the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        let mut watch = self.watch.take()?;
        let chunk = self.chunk(&mut watch).await;
        self.watch = Some(watch);
        chunk
    }

    async fn chunk(&mut self, watch: &mut Watch) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while let Some(object) = self.initial.pop_front() {
            if read::matches(&self.resource.get(), &self.selector, &object) {
                self.line(&mut out, "ADDED", &object);
            }
            if out.len() > 64 * 1024 {
                return Some(out.freeze());
            }
        }
        loop {
            if self.over {
                return None;
            }
            let (events, revision) = match watch.take(CHUNK) {
                Ok(taken) => taken,
                Err(expired) => {
                    self.over = true;
                    out.put_slice(&error_line(expired));
                    return Some(out.freeze());
                }
            };
            let none = events.is_empty();
            for event in &events {
                self.event(&mut out, event);
            }
            if none && self.initial_bookmark {
                self.initial_bookmark = false;
                self.bookmark(&mut out, revision, true);
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
            if !none {
                continue;
            }
            let stopped = async {
                let _ = self.stopping.wait_for(|stopping| *stopping).await;
            };
            let woken = tokio::select! {
                () = watch.changed() => Woken::News,
                () = sleep_until(self.end) => Woken::End,
                () = sleep_until(self.next_bookmark), if self.bookmarks => Woken::Bookmark,
                () = no_longer(&mut self.served) => Woken::Unserved,
                () = stopped => return None,
            };
            match woken {
                Woken::News => {}
                Woken::Unserved => {
                    // The last that happened were the deletions.
                    self.over = true;
                    for event in watch.take(usize::MAX).map_or_else(|_| Vec::new(), |t| t.0) {
                        self.event(&mut out, &event);
                    }
                    return Some(out.freeze()).filter(|out| !out.is_empty());
                }
                Woken::End => {
                    self.over = true;
                    if self.bookmarks {
                        self.bookmark(&mut out, revision, false);
                        return Some(out.freeze());
                    }
                }
                Woken::Bookmark => {
                    self.bookmark(&mut out, revision, false);
                    return Some(out.freeze());
                }
            }
        }
    }

    /// A change as this watch sees it: an object may come into the selection, or leave it.
    fn event(&mut self, out: &mut BytesMut, event: &Event) {
        let object = &event.object;
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != object.key.namespace) {
            return;
        }
        let was = event
            .before
            .as_ref()
            .is_some_and(|before| read::matches(&self.resource.get(), &self.selector, before));
        let is = !event.removed && read::matches(&self.resource.get(), &self.selector, object);
        match (was, is) {
            (false, true) => self.line(out, "ADDED", object),
            (true, true) => self.line(out, "MODIFIED", object),
            (true, false) => self.line(out, "DELETED", object),
            (false, false) => {}
        }
    }

    fn line(&mut self, out: &mut BytesMut, event: &str, object: &Object) {
        output::watch_event(out, &self.resource.get(), self.form, event, object, self.first);
        self.first = false;
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, initial: bool) {
        self.next_bookmark = Instant::now() + BOOKMARK;
        let mut meta =
            json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.form {
            Form::Whole => json!({
                "kind": self.resource.get().kind,
                "apiVersion": self.resource.get().api_version(),
                "metadata": meta,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
            }),
            Form::Table(_) => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
                "columnDefinitions": null,
                "rows": [],
            }),
        };
        let line = json!({ "type": "BOOKMARK", "object": object });
        out.put_slice(line.to_string().as_bytes());
        out.put_u8(b'\n');
    }
}

/// Waits until a custom resource is served no longer.
async fn no_longer(served: &mut Option<tokio::sync::watch::Receiver<()>>) {
    match served {
        Some(served) => while served.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}

enum Woken {
    News,
    Unserved,
    End,
    Bookmark,
}

fn error_line(expired: Compacted) -> Bytes {
    let status = ApiError::expired(expired.asked, expired.oldest).to_value();
    let mut line = json!({ "type": "ERROR", "object": status }).to_string();
    line.push('\n');
    Bytes::from(line)
}
