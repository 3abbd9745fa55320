//! The images as containers of the Docker engine, by testcontainers. On a thread of its own: whatever
//! ends the lab waits for it, so that neither a container nor an image is left behind, not even one
//! that the engine was still making.

use crate::sample::Sampler;
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

/// How long the engine and what runs there may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For one image from the archive to the answer.
    pub(super) image: Duration,
    /// For one request.
    pub(super) request: Duration,
}

/// What each image answers to `/version`. An error is the engine's, or that of a container which does
/// not answer.
pub(super) async fn run(images: &[&Image; 2], patience: Patience) -> anyhow::Result<Vec<String>> {
    let images = images.map(Image::clone);
    let (stop, stopped) = watch::channel(());
    let (tell, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("docker".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answered = runtime.context("starting a runtime").and_then(|runtime| {
            let all = images.iter().map(|image| one(image, patience, stopped.clone()));
            runtime.block_on(future::join_all(all)).into_iter().collect()
        });
        _ = tell.send(answered);
    });
    let _thread = Thread { stop: Some(stop), thread: thread.ok() };
    told.await.context("the thread that speaks to the engine did not come to an end")?
}

/// Told to stop and waited for when it is dropped.
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

/// Loads, runs and asks one image, and removes all of it again.
async fn one(
    image: &Image,
    patience: Patience,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<String> {
    // A name of its own: the user may have another `kubeapp:1.0`, and a registry none of that name.
    let name = format!("canary-labs-{:016x}", rand::random::<u64>());
    let docker = docker_client_instance().await?;
    let answered = timeout(patience.image, tried(&docker, image, &name, patience, stopped)).await;
    _ = timeout(CLEAN_UP, remove(&docker, &name, &image.version)).await;
    let (name, seconds) = (&image.manifest_name, patience.image.as_secs());
    answered.unwrap_or_else(|_| bail!("{name} took longer than {seconds} s"))
}

async fn tried(
    docker: &Docker,
    image: &Image,
    name: &str,
    patience: Patience,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<String> {
    let archive = std::fs::read(&image.archive)
        .with_context(|| format!("reading {}", image.archive.display()))?;
    let archive = renamed(&archive, name, &image.version).context("renaming the image")?;
    let loading =
        docker.import_image(ImportImageOptions::default(), body_full(archive.into()), None);
    let loaded: Vec<_> = loading.collect().await;
    loaded.into_iter().collect::<Result<Vec<_>, _>>().context("loading the image")?;
    // An image that is not there would be looked for in a registry.
    let there = docker.inspect_image(&format!("{name}:{}", image.version)).await;
    there.context("the engine does not list the image it loaded")?;
    let container = GenericImage::new(name, &image.version)
        .with_exposed_port(PORT.tcp())
        .with_container_name(name)
        .with_startup_timeout(patience.image)
        .with_host_config_modifier(on_loopback)
        .start()
        .await?;
    let answer = ask(&container, patience, stopped).await;
    _ = container.rm().await;
    answer
}

/// Publishes the port where nobody else sees it.
fn on_loopback(host: &mut HostConfig) {
    let binding = PortBinding { host_ip: Some(Ipv4Addr::LOCALHOST.to_string()), host_port: None };
    host.publish_all_ports = Some(false);
    host.port_bindings = Some(HashMap::from([(format!("{PORT}/tcp"), Some(vec![binding]))]));
}

/// Asks until it answers, for as long as it runs.
async fn ask(
    container: &ContainerAsync<GenericImage>,
    patience: Patience,
    mut stopped: watch::Receiver<()>,
) -> anyhow::Result<String> {
    let published = container.get_host_port_ipv4(PORT.tcp()).await?;
    let mut places = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, published))];
    // Who runs in a container beside this one has another loopback, but the same bridge.
    places.extend(container.get_bridge_ip_address().await.map(|ip| SocketAddr::new(ip, PORT)));
    let deadline = Instant::now() + patience.image;
    let mut seen = "nothing".to_owned();
    let mut pace = interval(PROBE_EVERY);
    loop {
        tokio::select! {
            _ = pace.tick() => {}
            _ = stopped.changed() => bail!("interrupted"),
        }
        for place in &places {
            let sampler = Sampler::new(*place, &place.to_string(), "/version", patience.request);
            match timeout_at(deadline, sampler.fetch()).await {
                Ok(Ok(answer)) if answer.status == 200 => {
                    return Ok(String::from_utf8_lossy(&answer.body).into_owned());
                }
                Ok(Ok(answer)) => seen = format!("status {}", answer.status),
                Ok(Err(failure)) => seen = failure.to_string(),
                Err(_) => bail!("the container does not answer: {seen}"),
            }
        }
        ensure!(container.is_running().await?, "the container ended by itself");
    }
}

/// Whatever of these there is. The engine's complaints are about what there is not.
async fn remove(docker: &Docker, name: &str, version: &str) {
    let container = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    _ = docker.remove_container(name, Some(container)).await;
    let image = RemoveImageOptionsBuilder::new().force(true).build();
    _ = docker.remove_image(&format!("{name}:{version}"), Some(image), None).await;
}

/// The same archive, of an image by another name.
fn renamed(archive: &[u8], name: &str, tag: &str) -> anyhow::Result<Vec<u8>> {
    let mut renamed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        let mut bytes = Vec::new();
        _ = entry.read_to_end(&mut bytes)?;
        let places: &[(&str, String)] = match path.to_str() {
            Some("manifest.json") => &[("/0/RepoTags/0", format!("{name}:{tag}"))],
            Some("index.json") => &[(
                "/manifests/0/annotations/io.containerd.image.name",
                format!("docker.io/library/{name}:{tag}"),
            )],
            _ => &[],
        };
        for (place, name) in places {
            let mut document: Value = serde_json::from_slice(&bytes)?;
            let field = document.pointer_mut(place);
            *field.with_context(|| format!("{} has no {place}", path.display()))? = json!(name);
            bytes = serde_json::to_vec(&document)?;
        }
        header.set_size(bytes.len() as u64);
        renamed.append_data(&mut header, &path, bytes.as_slice())?;
    }
    Ok(renamed.into_inner()?)
}

/// What the image exposes.
const PORT: u16 = 8080;
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// For the engine to remove a container and an image.
const CLEAN_UP: Duration = Duration::from_secs(10);
