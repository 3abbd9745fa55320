//! Serves the subresources `log`, `exec`, `attach` and `portforward` of pods (the kubelet's server).

use crate::{
    exec_attach::RunningContainer, kubelet::Kubelet, pod::handle::PodHandle, status::State, tls,
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use kube_embedded_core::{
    network::Sandbox,
    node_api::{Connection, LogOptions, NodeApi, NodeError, Session, StreamOptions},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::net::TcpStream;

impl NodeApi for Kubelet {
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, NodeError>> {
        let result = self.pod(namespace, pod).and_then(|pod| read_log(&pod, &options));
        async move { result }.boxed()
    }

    fn exec(
        &self,
        namespace: &str,
        pod: &str,
        command: Vec<String>,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>> {
        let running = self.running(namespace, pod, &options.container);
        async move { running?.exec(command, &options).await }.boxed()
    }

    fn attach(
        &self,
        namespace: &str,
        pod: &str,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>> {
        let running = self.running(namespace, pod, &options.container);
        async move { Ok(running?.attach(&options).await) }.boxed()
    }

    fn dial(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, NodeError>> {
        let pod = self.pod(namespace, pod);
        async move {
            let pod = pod?;
            let to = SocketAddr::from((running_address(&pod)?, port));
            let failed = |e| NodeError::Internal(format!("dial tcp {to}: {e}"));
            pod.runtime.network.connect(to).await.map_err(failed)
        }
        .boxed()
    }

    fn dial_tls(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<Connection, NodeError>> {
        let (address, stream) = (
            self.pod(namespace, pod).and_then(|pod| running_address(&pod)),
            self.dial(namespace, pod, port),
        );
        async move {
            let connected = tls::connect(stream.await?, address?.into()).await;
            let connected = connected.map_err(|e| NodeError::Internal(e.to_string()))?;
            Ok(Box::new(connected) as Connection)
        }
        .boxed()
    }

    fn connect(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, NodeError>> {
        let pod = self.pod(namespace, pod);
        async move { connect(&*pod?, port).await }.boxed()
    }
}

impl Kubelet {
    fn pod(&self, namespace: &str, pod: &str) -> Result<Arc<PodHandle>, NodeError> {
        let found = self.workers.find(namespace, pod);
        found.ok_or_else(|| NodeError::NotFound(format!("pods {pod:?} not found")))
    }

    fn running(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Arc<RunningContainer>, NodeError> {
        let running = self.pod(namespace, pod)?.running().get(container).cloned();
        running.ok_or_else(|| NodeError::Internal(format!("container not found ({container:?})")))
    }
}

fn running_address(pod: &PodHandle) -> Result<Ipv4Addr, NodeError> {
    let view = pod.view();
    let ip = view.ip.filter(|_| view.sandbox);
    ip.ok_or_else(|| NodeError::Internal(format!("pod {:?} is not running", pod.name)))
}

/// Connects to a port as if from inside the pod: a program may listen on its loopback alone.
async fn connect(pod: &PodHandle, port: u16) -> Result<TcpStream, NodeError> {
    let ip = running_address(pod)?;
    let runtime = &pod.runtime;
    let stream = match runtime.sandbox {
        Sandbox::Namespaced => {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            runtime.network.connect_from(ip.into(), to).await
        }
        Sandbox::Plain => runtime.network.connect(SocketAddr::from((ip, port))).await,
    };
    stream.map_err(|e| {
        NodeError::Internal(format!(
            "failed to connect to localhost:{port} inside namespace of pod {:?}: {e}",
            pod.name
        ))
    })
}

fn read_log(pod: &PodHandle, options: &LogOptions) -> Result<BoxStream<'static, Bytes>, NodeError> {
    let view = pod.view();
    let name = match (&options.container, view.containers.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.name.clone(),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|v| v.name.as_str()).collect();
            return Err(NodeError::BadRequest(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name,
                names.join(" ")
            )));
        }
    };
    let ephemeral = pod.ephemeral_logs();
    let all = view.containers.iter().zip(&pod.logs).chain(view.init.iter().zip(&pod.init_logs));
    let mut all = all.chain(view.ephemeral.iter().zip(&*ephemeral));
    let Some((view, log)) = all.find(|(v, _)| v.name == name) else {
        return Err(NodeError::BadRequest(format!(
            "container {name} is not valid for pod {}",
            pod.name
        )));
    };
    let waiting = match &view.state {
        State::Waiting { reason, .. } => reason.as_str(),
        _ => "ContainerCreating",
    };
    log.read(options, &name, &pod.name, waiting)
}
