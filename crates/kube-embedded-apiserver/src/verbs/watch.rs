//! `watch`: the existing objects if the client wants them, then every change, as lines of JSON in one response.

use crate::{
    http::{
        body::Body,
        chunks::Chunks,
        encode,
        list_options::{ListOptions, watch_version},
        negotiation::{self, Form},
        request::Request,
        selector::Selector,
        status::{ApiError, ApiResult},
    },
    resources::registry::{OwnedResourceType, ResourceRegistry},
    scope,
    state::ServerState,
    store::{Compacted, Event, Object, Watch},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// Events that are encoded at a time, so that a client that reads nothing costs little memory. Those
/// that it has not got yet stay in the history, and once that has dropped them, the watch ends.
const EVENTS: usize = 16;
/// Bytes of existing objects that are encoded at a time.
const OBJECT_BYTES: usize = 16 << 10;
/// Interval of bookmarks while nothing happens.
const BOOKMARK: Duration = Duration::from_secs(60);

/// `GET ...?watch=true` of a collection.
pub(crate) fn watch(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let form = request.form()?;
    negotiation::check_stream(request.headers())?;
    start(state, request, form)
}

fn start(state: &ServerState, request: &Request, form: Form) -> ApiResult<Response<Body>> {
    let Request { target, query, .. } = request;
    let ListOptions { selector, timeout_seconds, .. } =
        ListOptions::parse(&target.resource, query, true)?;
    let from = watch_version(query)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let asked_initial = query.optional_flag("sendInitialEvents");
    let initial_events = asked_initial == Some(true);
    let timeout = match timeout_seconds.and_then(|s| u64::try_from(s).ok()) {
        None | Some(0) => Duration::from_secs(rand::random_range(1800..3600)),
        Some(seconds) => Duration::from_secs(seconds),
    };
    let resource = &target.resource;
    let mut initial = VecDeque::new();
    let watch = if from == 0 && asked_initial == Some(false) {
        state.store.watch(resource.storage_resource(), state.store.revision())
    } else if from == 0 || initial_events {
        let page = state.store.list(resource.storage_resource(), scope::namespace(target), None);
        initial.extend(page.objects);
        state.store.watch(resource.storage_resource(), page.revision)
    } else {
        state.store.watch(resource.storage_resource(), from)
    };
    let stream = Stream {
        resource: ResourceRegistry::owned(resource).ok_or_else(ApiError::no_such_resource)?,
        served: resource.served(),
        form,
        namespace: scope::namespace(target).map(str::to_owned),
        selector,
        initial,
        initial_bookmark: initial_events && bookmarks,
        bookmarks,
        next_bookmark: Instant::now() + BOOKMARK,
        end: Instant::now() + timeout,
        first: true,
        ended: false,
        out: Chunks::default(),
        watch: None,
        stopping: state.stopping.subscribe(),
    };
    // Kubernetes reports a revision that is too old as an event of a successful response, and clients expect that.
    let body = match watch {
        // No event can be a list, and a watch ends with the first that cannot be encoded.
        Ok(_) if matches!(form, Form::MetadataList(_)) => Body::from(Bytes::new()),
        Ok(watch) => {
            let stream = Stream { watch: Some(watch), ..stream };
            let chunks = stream::unfold(stream, |mut stream| async move {
                stream.next().await.map(|chunk| (chunk, stream))
            });
            Body::stream(chunks.boxed())
        }
        Err(compacted) => Body::from(error_line(compacted)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// An open watch.
struct Stream {
    resource: OwnedResourceType,
    /// Ends when a custom resource is no longer served.
    served: Option<tokio::sync::watch::Receiver<()>>,
    form: Form,
    namespace: Option<String>,
    selector: Selector,
    initial: VecDeque<Arc<Object>>,
    /// The bookmark at the end of the initial objects is still to be sent.
    initial_bookmark: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    first: bool,
    ended: bool,
    out: Chunks,
    watch: Option<Watch>,
    stopping: tokio::sync::watch::Receiver<bool>,
}

impl Stream {
    /// Returns the next bytes; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if self.out.len() == 0 {
            let mut watch = self.watch.take()?;
            let mut out = std::mem::take(&mut self.out);
            self.fill(&mut out, &mut watch).await;
            (self.out, self.watch) = (out, Some(watch));
        }
        self.out.pop()
    }

    /// Writes the next lines; none at the end of the stream.
    async fn fill(&mut self, out: &mut Chunks, watch: &mut Watch) {
        if self.initial_objects(out) {
            return;
        }
        while !self.ended {
            let (events, revision) = match watch.take(EVENTS) {
                Ok(taken) => taken,
                Err(compacted) => {
                    self.end_compacted(out, compacted);
                    break;
                }
            };
            for event in &events {
                self.event(out, event);
            }
            if events.is_empty() && self.initial_bookmark {
                self.initial_bookmark = false;
                self.bookmark(out, revision, true);
            }
            if out.len() > 0 {
                break;
            }
            if events.is_empty() {
                match self.wait(watch).await {
                    Wake::Events => {}
                    Wake::Stopped => return,
                    Wake::Unserved => {
                        self.ended = true;
                        // The last events are the deletions of its objects.
                        for event in watch.take(usize::MAX).map_or_else(|_| Vec::new(), |t| t.0) {
                            self.event(out, &event);
                        }
                    }
                    Wake::Timeout => {
                        self.ended = true;
                        if self.bookmarks {
                            self.bookmark(out, revision, false);
                        }
                    }
                    Wake::Bookmark => self.bookmark(out, revision, false),
                }
            }
            if out.len() > 0 {
                break;
            }
        }
    }

    /// Writes objects that exist when the watch starts. Returns true if the chunk is full.
    fn initial_objects(&mut self, out: &mut Chunks) -> bool {
        while let Some(object) = self.initial.pop_front() {
            if scope::matches(&self.resource.get(), &self.selector, &object) {
                self.line(out, "ADDED", &object);
            }
            if out.len() > OBJECT_BYTES {
                return true;
            }
        }
        false
    }

    /// Ends a watch that has fallen behind the history.
    fn end_compacted(&mut self, out: &mut Chunks, compacted: Compacted) {
        self.ended = true;
        tracing::info!(
            target: "apiserver::watch",
            resource = self.resource.get().plural,
            revision = compacted.asked,
            oldest = compacted.oldest,
            "ending a watch: the client reads more slowly than objects change"
        );
        out.put(&error_line(compacted));
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, watch: &mut Watch) -> Wake {
        let stopped = async {
            let _ = self.stopping.wait_for(|stopping| *stopping).await;
        };
        tokio::select! {
            () = watch.changed() => Wake::Events,
            () = sleep_until(self.end) => Wake::Timeout,
            () = sleep_until(self.next_bookmark), if self.bookmarks => Wake::Bookmark,
            () = unserved(&mut self.served) => Wake::Unserved,
            () = stopped => Wake::Stopped,
        }
    }

    /// Writes a change as this watch sees it: an object may enter the selection, or leave it.
    fn event(&mut self, out: &mut Chunks, event: &Event) {
        let object = &event.object;
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != object.key.namespace) {
            return;
        }
        let was = event
            .before
            .as_ref()
            .is_some_and(|before| scope::matches(&self.resource.get(), &self.selector, before));
        let is = !event.removed && scope::matches(&self.resource.get(), &self.selector, object);
        match (was, is) {
            (false, true) => self.line(out, "ADDED", object),
            (true, true) => self.line(out, "MODIFIED", object),
            (true, false) => self.line(out, "DELETED", object),
            (false, false) => {}
        }
    }

    fn line(&mut self, out: &mut Chunks, event: &str, object: &Object) {
        encode::watch_event(out, &self.resource.get(), self.form, event, object, self.first);
        self.first = false;
    }

    fn bookmark(&mut self, out: &mut Chunks, revision: u64, initial: bool) {
        self.next_bookmark = Instant::now() + BOOKMARK;
        let mut meta = json!({ "resourceVersion": revision.to_string() });
        if initial {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.form {
            Form::Whole => json!({
                "kind": self.resource.get().kind,
                "apiVersion": self.resource.get().api_version(),
                "metadata": meta,
            }),
            Form::Metadata(version) | Form::MetadataList(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": version.api_version(),
                "metadata": meta,
            }),
            Form::Table(_, version) => json!({
                "kind": "Table",
                "apiVersion": version.api_version(),
                "metadata": meta,
                "columnDefinitions": null,
                "rows": [],
            }),
        };
        let line = json!({ "type": "BOOKMARK", "object": object });
        out.put(line.to_string().as_bytes());
        out.put(b"\n");
    }
}

/// Waits until a custom resource is no longer served.
async fn unserved(served: &mut Option<tokio::sync::watch::Receiver<()>>) {
    match served {
        Some(served) => while served.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}

/// The reason why a waiting watch wakes up.
enum Wake {
    Events,
    Unserved,
    Timeout,
    Bookmark,
    Stopped,
}

fn error_line(compacted: Compacted) -> Bytes {
    let status = ApiError::expired(compacted.asked, compacted.oldest).to_value();
    let mut line = json!({ "type": "ERROR", "object": status }).to_string();
    line.push('\n');
    Bytes::from(line)
}
