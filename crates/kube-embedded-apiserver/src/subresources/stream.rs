//! Subresources that take over the connection: exec, attach and port-forward. An invalid request is refused before
//! the protocol is switched; later errors are reported in the protocol that was switched to.

pub(crate) mod channels;
mod exec;
mod lifetime;
mod port_forward;
pub(crate) mod spdy;
mod upgrade;

pub(crate) use upgrade::in_process;

use crate::{
    admission::policies::{
        self,
        attributes::{Attributes, Operation},
    },
    authorization::filter,
    http::{
        body::Body,
        path::Target,
        request::Request,
        status::{ApiError, ApiResult},
    },
    scope,
    state::ServerState,
    subresources::containers::choose_container,
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, future::BoxFuture, stream::BoxStream};
use http::{Method, Response, header};
use kube_embedded_core::node_api::{NodeApi, NodeError, StreamOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;
use upgrade::{Out, Protocol, Purpose, Upgrade, Wire};

/// Returns true if a subresource takes over the connection.
pub(crate) fn takes_over(target: &Target) -> bool {
    matches!(&*target.subresource, "exec" | "attach" | "portforward")
        && target.resource.has_subresource(&target.subresource)
}

/// Checks the request and switches protocols; the rest happens on the connection.
pub(crate) fn switch(state: &ServerState, request: &Request) -> ApiResult<Response<Body>> {
    let Request { target, parts, .. } = request;
    if !matches!(parts.method, Method::GET | Method::POST) {
        return Err(ApiError::method_not_allowed());
    }
    // Clients of WebSockets connect by GET, but who may only read may not run programs (since Kubernetes 1.35).
    filter::check_verb(state, request, "create")?;
    let (kind, options) = connect_options(request);
    policies::review_object(
        state,
        Attributes::new(target, Operation::Connect, request.user),
        ("", "v1", kind),
        &options,
    )?;
    let pod = scope::find(state, target)?;
    let forward = target.subresource == "portforward";
    let container = match forward {
        true => String::new(),
        false => choose_container(&target.name, &pod.value, request.query.get("container"))?,
    };
    if pod.value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        let name = &target.name;
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let Some(nodes) = state.nodes() else {
        return Err(ApiError::internal("this cluster has no nodes"));
    };
    let purpose = if forward { Purpose::PortForward } else { Purpose::Process };
    let upgrade = Upgrade::find(parts, purpose)?;
    let stopping = state.stopping.subscribe();
    if forward {
        let uid = pod.value["metadata"]["uid"].as_str().unwrap_or_default();
        switch_to_port_forward(request, upgrade, stopping, &nodes, uid)
    } else {
        switch_to_process(request, upgrade, stopping, nodes, container)
    }
}

/// Returns the kind of a connection's options, and the options, which policies see.
fn connect_options(request: &Request) -> (&'static str, Value) {
    let query = &request.query;
    let kind = match &*request.target.subresource {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut options = json!({ "kind": kind, "apiVersion": "v1" });
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = query.get("container") {
        options["container"] = container.into();
    }
    let command = query.all("command");
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    let ports: Vec<i64> = query.all("ports").iter().filter_map(|port| port.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    (kind, options)
}

/// Returns true if the client asks for a WebSocket.
pub(crate) fn is_websocket(request: &Request) -> bool {
    let upgrade = request.parts.headers.get(header::UPGRADE);
    upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Switches to a WebSocket whose messages are the chunks of a stream.
pub(crate) fn send(
    state: &ServerState,
    request: &Request,
    chunks: BoxStream<'static, Bytes>,
) -> ApiResult<Response<Body>> {
    let upgrade = Upgrade::find(request.parts, Purpose::Read)?;
    let stopping = state.stopping.subscribe();
    Ok(upgrade.accept(stopping, |wire| Box::pin(send_chunks(wire, chunks))))
}

/// Sends until the stream ends or the client disconnects.
async fn send_chunks(wire: Wire, mut chunks: BoxStream<'static, Bytes>) {
    let Wire { mut source, mut sink, .. } = wire;
    let sent = async {
        while let Some(chunk) = chunks.next().await {
            sink.send(Out::Message(chunk)).await?;
        }
        sink.send(Out::Close).await
    };
    let disconnected = async { while source.next().await.is_some() {} };
    tokio::select! {
        _ = sent => {}
        () = disconnected => {}
    }
}

fn switch_to_port_forward(
    request: &Request,
    upgrade: Upgrade,
    stopping: watch::Receiver<bool>,
    nodes: &Arc<dyn NodeApi>,
    uid: &str,
) -> ApiResult<Response<Body>> {
    let ports = match upgrade.protocol {
        Protocol::Channels(_) => port_forward::parse(&request.query.all("ports"))?,
        Protocol::Spdy(_) | Protocol::Bytes(_) => Vec::new(),
    };
    let pod = port_forward::Pod {
        nodes: Arc::downgrade(nodes),
        namespace: request.target.namespace.clone(),
        name: request.target.name.clone(),
        uid: uid.to_owned(),
    };
    Ok(upgrade
        .accept(stopping, move |connection| Box::pin(port_forward::serve(connection, pod, ports))))
}

fn switch_to_process(
    request: &Request,
    upgrade: Upgrade,
    stopping: watch::Receiver<bool>,
    nodes: Arc<dyn NodeApi>,
    container: String,
) -> ApiResult<Response<Body>> {
    let Request { target, query, .. } = request;
    let options = StreamOptions {
        container,
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        // A terminal mixes both.
        stderr: query.flag("stderr") && !query.flag("tty"),
        tty: query.flag("tty"),
    };
    if !(options.stdin || options.stdout || options.stderr) {
        let why = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(ApiError::bad_request(why));
    }
    let command = query.all("command");
    let exec = target.subresource == "exec";
    if exec && command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least 1 command for exec"));
    }
    let (namespace, name) = (target.namespace.clone(), target.name.clone());
    let session_options = options.clone();
    let start = move || -> BoxFuture<'static, Result<_, NodeError>> {
        Box::pin(async move {
            if exec {
                nodes.exec(&namespace, &name, command, session_options).await
            } else {
                nodes.attach(&namespace, &name, session_options).await
            }
        })
    };
    Ok(upgrade
        .accept(stopping, move |connection| Box::pin(exec::serve(connection, options, start))))
}
