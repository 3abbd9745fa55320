//! Runs the images as containers of the Docker engine, by testcontainers. On a thread that is joined
//! however the lab ends, so that neither a container nor an image is left behind, not even one that the
//! engine was still creating.

use crate::sampler::Sampler;
use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, future};
use lab_environment::Image;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;
use testcontainers::bollard::models::{HostConfig, PortBinding};
use testcontainers::bollard::query_parameters::{
    ImportImageOptions, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use testcontainers::bollard::{Docker, body_full};
use testcontainers::core::IntoContainerPort as _;
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout, timeout_at};

/// The timeouts of the engine and its containers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// The timeout of one image, from loading to the response.
    pub(super) image: Duration,
    /// The timeout of one request.
    pub(super) request: Duration,
}

/// Returns each image's response to `/version`.
///
/// # Errors
/// If the engine fails or a container does not respond.
pub(super) async fn run(images: &[&Image; 2], timeouts: Timeouts) -> anyhow::Result<Vec<String>> {
    let images = images.map(Image::clone);
    let (stop, stopped) = watch::channel(());
    let (report, result) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("docker".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let bodies = runtime.context("failed to start a runtime").and_then(|runtime| {
            let all = images.iter().map(|image| run_one(image, timeouts, stopped.clone()));
            runtime.block_on(future::join_all(all)).into_iter().collect()
        });
        _ = report.send(bodies);
    });
    let _thread = Thread { stop: Some(stop), thread: thread.ok() };
    result.await.context("the Docker client thread did not finish")?
}

/// Stopped and joined on drop.
struct Thread {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Loads and runs one image, fetches its version, and removes everything again.
async fn run_one(
    image: &Image,
    timeouts: Timeouts,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<String> {
    // A unique name: the user may have another `kubeapp:1.0`, and no registry has this one.
    let name = format!("canary-labs-{:016x}", rand::random::<u64>());
    let docker = docker_client_instance().await?;
    let body =
        timeout(timeouts.image, load_and_run(&docker, image, &name, timeouts, stopped)).await;
    _ = timeout(CLEAN_UP, remove(&docker, &name, &image.version)).await;
    let (name, seconds) = (&image.manifest_name, timeouts.image.as_secs());
    body.unwrap_or_else(|_| bail!("{name} took longer than {seconds} s"))
}

async fn load_and_run(
    docker: &Docker,
    image: &Image,
    name: &str,
    timeouts: Timeouts,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<String> {
    let archive = std::fs::read(&image.archive)
        .with_context(|| format!("failed to read {}", image.archive.display()))?;
    let archive = renamed(&archive, name, &image.version).context("failed to rename the image")?;
    let loading =
        docker.import_image(ImportImageOptions::default(), body_full(archive.into()), None);
    let loaded: Vec<_> = loading.collect().await;
    loaded.into_iter().collect::<Result<Vec<_>, _>>().context("failed to load the image")?;
    // The engine would look for a missing image in a registry.
    let loaded = docker.inspect_image(&format!("{name}:{}", image.version)).await;
    loaded.context("the engine does not list the image it loaded")?;
    let container = GenericImage::new(name, &image.version)
        .with_exposed_port(PORT.tcp())
        .with_container_name(name)
        .with_startup_timeout(timeouts.image)
        .with_host_config_modifier(on_loopback)
        .start()
        .await?;
    let body = fetch_version(&container, timeouts, stopped).await;
    _ = container.rm().await;
    body
}

/// Publishes the port on the loopback interface alone.
fn on_loopback(host: &mut HostConfig) {
    let binding = PortBinding { host_ip: Some(Ipv4Addr::LOCALHOST.to_string()), host_port: None };
    host.publish_all_ports = Some(false);
    host.port_bindings = Some(HashMap::from([(format!("{PORT}/tcp"), Some(vec![binding]))]));
}

/// Requests the version until the container responds, as long as it runs.
async fn fetch_version(
    container: &ContainerAsync<GenericImage>,
    timeouts: Timeouts,
    mut stopped: watch::Receiver<()>,
) -> anyhow::Result<String> {
    let published = container.get_host_port_ipv4(PORT.tcp()).await?;
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, published))];
    // If the labs run in a container, its loopback interface is another one, but the bridge is shared.
    addresses.extend(container.get_bridge_ip_address().await.map(|ip| SocketAddr::new(ip, PORT)));
    let deadline = Instant::now() + timeouts.image;
    let mut last_seen = "nothing".to_owned();
    let mut pace = interval(PROBE_INTERVAL);
    loop {
        tokio::select! {
            _ = pace.tick() => {}
            _ = stopped.changed() => bail!("interrupted"),
        }
        for address in &addresses {
            let sampler =
                Sampler::new(*address, &address.to_string(), "/version", timeouts.request);
            match timeout_at(deadline, sampler.fetch()).await {
                Ok(Ok(response)) if response.status == 200 => {
                    return Ok(String::from_utf8_lossy(&response.body).into_owned());
                }
                Ok(Ok(response)) => last_seen = format!("status {}", response.status),
                Ok(Err(failure)) => last_seen = failure.to_string(),
                Err(_) => bail!("the container does not respond: {last_seen}"),
            }
        }
        ensure!(container.is_running().await?, "the container exited");
    }
}

/// Removes container and image. Errors mean that one does not exist.
async fn remove(docker: &Docker, name: &str, version: &str) {
    let container = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    _ = docker.remove_container(name, Some(container)).await;
    let image = RemoveImageOptionsBuilder::new().force(true).build();
    _ = docker.remove_image(&format!("{name}:{version}"), Some(image), None).await;
}

/// Returns the archive with the image under another name.
fn renamed(archive: &[u8], name: &str, tag: &str) -> anyhow::Result<Vec<u8>> {
    let mut renamed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        let mut bytes = Vec::new();
        _ = entry.read_to_end(&mut bytes)?;
        let fields: &[(&str, String)] = match path.to_str() {
            Some("manifest.json") => &[("/0/RepoTags/0", format!("{name}:{tag}"))],
            Some("index.json") => &[(
                "/manifests/0/annotations/io.containerd.image.name",
                format!("docker.io/library/{name}:{tag}"),
            )],
            _ => &[],
        };
        for (pointer, name) in fields {
            let mut document: Value = serde_json::from_slice(&bytes)?;
            let field = document.pointer_mut(pointer);
            *field.with_context(|| format!("{} has no {pointer}", path.display()))? = json!(name);
            bytes = serde_json::to_vec(&document)?;
        }
        header.set_size(bytes.len() as u64);
        renamed.append_data(&mut header, &path, bytes.as_slice())?;
    }
    Ok(renamed.into_inner()?)
}

/// The port that the image exposes.
const PORT: u16 = 8080;
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// The timeout of removing a container and an image.
const CLEAN_UP: Duration = Duration::from_secs(10);
