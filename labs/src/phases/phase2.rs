//! Phase 2: the image. The labs read the archives themselves, and run the images with the Docker engine
//! if there is one and on every node of the cluster.

use crate::archive::Archive;
use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::lab::Lab;
use crate::phases::phase2::response::VersionResponse;
use anyhow::Context as _;
use lab_environment::Image;
use oci_archive::Digest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

mod cluster;
#[cfg(feature = "docker")]
mod docker;
mod response;
mod steps;

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase2",
    title: "The image",
    summary: "Opens the images of both versions, compares two builds of each, and runs them as \
              containers.",
    article: "“Phase 2: The Docker Image”. There it is alpine and a binary, pushed to Google \
              Container Registry, which closed in March 2025; here it is the binary alone, loaded \
              into the cluster or pushed to a registry such as Artifact Registry.",
    claims: &[
        Claim::new(
            "image-entrypoint",
            "The image holds the binary at `/app` and starts it; 8080 is exposed.",
        ),
        Claim::new(
            "image-version-argument",
            "A build argument alone picks the version that is packed.",
        )
        .needs(&["image-runs"]),
        Claim::new("image-reproducible", "Building twice gives the same digest."),
        Claim::new("image-runs", "Each image, run as a container, responds with its version.")
            .needs(&["image-reachable"]),
        Claim::new(
            "image-small",
            "It holds nothing but the app (the article's is alpine plus a Go binary).",
        ),
        Claim::new("image-reachable", "Every node can start it without extra credentials."),
    ],
    steps: steps::ALL,
    uses_namespace: true,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &Context) -> anyhow::Result<()> {
    let images = [context.stable()?, context.canary()?];
    let mut archives = Vec::new();
    {
        let _step = context.step(&steps::READ).await;
        for image in images {
            archives.push(Archive::read(&image.archive)?);
        }
        let mut entrypoint = Lines::default();
        let mut reproducible = Lines::default();
        let mut small = Lines::default();
        for (image, archive) in images.iter().zip(&archives) {
            let binary = std::fs::read(&image.binary)
                .with_context(|| format!("failed to read {}", image.binary.display()))?;
            let rebuilt = Archive::read(&image.rebuilt)?;
            let version = &image.version;
            entrypoint.add(version, starts_app(archive, Digest::of(&binary)));
            reproducible.add(version, same_digest(archive, &rebuilt));
            small.add(version, nothing_else(archive));
        }
        context.judge("image-entrypoint", entrypoint.verdict()).await?;
        context.judge("image-reproducible", reproducible.verdict()).await?;
        context.judge("image-small", small.verdict()).await?;
    }

    let on_nodes = cluster::run(context, &images).await?;
    context.judge("image-reachable", on_nodes.reachable()).await?;
    let (runtime, responses) = match on_engine(context, &images).await {
        Ok(responses) => ("the Docker engine".to_owned(), responses),
        Err(why) => (format!("the cluster, as {why}"), on_nodes.responses),
    };
    let mut runs = Lines::default();
    for (image, response) in images.iter().zip(&responses) {
        runs.add(&image.version, is_version(response, &image.version));
    }
    let runs = runs.verdict();
    let evidence = format!("run by {runtime}: {}", runs.evidence);
    context.judge("image-runs", Verdict { evidence, ..runs }).await?;
    let argument = one_recipe(&images, &archives, &responses);
    context.judge("image-version-argument", argument).await?;
    Ok(())
}

/// Returns the responses of the images as containers of the Docker engine, or why there are none.
async fn on_engine(
    context: &Context,
    images: &[&Image; 2],
) -> Result<Vec<VersionResponse>, String> {
    if !context.environment().docker {
        return Err("no Docker engine responds".to_owned());
    }
    with_docker(context, images).await
}

#[cfg(feature = "docker")]
async fn with_docker(
    context: &Context,
    images: &[&Image; 2],
) -> Result<Vec<VersionResponse>, String> {
    let _step = context.step(&steps::ENGINE).await;
    let (image, request) = (context.rollout_timeout(), context.request_timeout());
    match docker::run(images, docker::Timeouts { image, request }).await {
        Ok(bodies) => Ok(bodies.into_iter().map(Ok).collect()),
        // Either the image or the engine is at fault; the cluster, which runs the image too, will tell.
        Err(error) => Err(format!("Docker did not run them ({error:#})")),
    }
}

#[cfg(not(feature = "docker"))]
#[expect(clippy::unused_async, reason = "has the signature of the variant with the feature")]
async fn with_docker(
    _context: &Context,
    _images: &[&Image; 2],
) -> Result<Vec<VersionResponse>, String> {
    Err("these labs were built without their feature `docker`, though an engine responds"
        .to_owned())
}

/// A finding per version, and whether any is wrong.
#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    wrong: bool,
}

impl Lines {
    fn add(&mut self, version: &str, (right, line): (bool, String)) {
        self.wrong |= !right;
        self.lines.push(format!("{version}: {line}"));
    }

    fn verdict(&self) -> Verdict {
        Verdict::of(!self.wrong && !self.lines.is_empty(), self.lines.join("; "))
    }
}

fn starts_app(archive: &Archive, binary: Digest) -> (bool, String) {
    let files = archive.files();
    let app = files.get("app");
    let (packed, state) = match app {
        None => (false, "no /app in it"),
        Some(app) if app.mode & 0o111 != 0o111 => (false, "/app in it may not be executed by all"),
        Some(app) if app.digest != binary => (false, "/app in it is another file than was built"),
        Some(_) => (true, "/app in it is the binary that was built"),
    };
    let exposed = archive.ports.iter().any(|port| port == "8080/tcp");
    let right = packed && exposed && archive.entrypoint == ["/app"];
    let (start, ports) = (archive.entrypoint.join(" "), archive.ports.join(", "));
    (right, format!("starts {start}, exposes {ports}, {state}"))
}

fn same_digest(archive: &Archive, rebuilt: &Archive) -> (bool, String) {
    let same = archive.digest == rebuilt.digest && archive.file_digest == rebuilt.file_digest;
    let word = if same { "again" } else { "then" };
    (same, format!("{}, {word} {}", short(archive.digest), short(rebuilt.digest)))
}

/// Shortens a digest for people.
fn short(digest: Digest) -> String {
    format!("{:.19}", digest.to_string())
}

fn nothing_else(archive: &Archive) -> (bool, String) {
    let files = archive.files();
    let bytes = archive.layers.iter().map(|layer| layer.bytes).sum::<u64>();
    let names: Vec<_> = files.keys().map(|path| format!("/{path}")).collect();
    let layers = archive.layers.len();
    let plural = if layers == 1 { "layer" } else { "layers" };
    let size = format!("{:.2} MB in {layers} {plural}", bytes as f64 / 1e6);
    match names.as_slice() {
        [one] => (one == "/app", format!("{one} alone, {size}")),
        other => (false, format!("{} files, {size}", other.len())),
    }
}

fn is_version(response: &VersionResponse, version: &str) -> (bool, String) {
    match response {
        Ok(text) => (*text == format!("{version}\n"), format!("/version returns {text:?}")),
        Err(why) => (false, why.clone()),
    }
}

/// Judges that the images differ only in the binary and the version's name, come from one build input with
/// two values, and respond with those.
fn one_recipe(
    images: &[&Image; 2],
    archives: &[Archive],
    responses: &[VersionResponse],
) -> Verdict {
    let mut faults = Vec::new();
    let inputs = images.map(|image| image.build_input.as_str());
    let [one, two] = inputs.map(|input| input.split_once('=').map_or(input, |(name, _)| name));
    if one != two || inputs.iter().zip(images).any(|(i, image)| !i.ends_with(&image.version)) {
        faults.push("the build inputs differ in more than the version".to_owned());
    }
    if let [stable, canary] = archives {
        let recipe = |archive: &Archive, image: &Image| {
            let mut files: BTreeMap<String, u32> =
                archive.files().into_iter().map(|(p, file)| (p.to_owned(), file.mode)).collect();
            _ = files.insert(config_without(archive, &image.version), 0);
            files
        };
        let [first, second] = images;
        if recipe(stable, first) != recipe(canary, second) {
            faults.push("the images differ in more than the binary and its version".to_owned());
        }
    }
    for (image, response) in images.iter().zip(responses) {
        if let (false, line) = is_version(response, &image.version) {
            faults.push(format!("{}: {line}", image.version));
        }
    }
    let line = match faults.as_slice() {
        [] => {
            format!("one recipe, {}: each returns it, and only /app differs", inputs.join(" and "))
        }
        faults => faults.join("; "),
    };
    Verdict::of(faults.is_empty(), line).with(json!({ "inputs": inputs }))
}

/// Formats the config without the version's name and the digests that depend on the binary.
fn config_without(archive: &Archive, version: &str) -> String {
    let mut config = archive.config.clone();
    if let Some(digests) = config.pointer_mut("/rootfs/diff_ids").and_then(Value::as_array_mut) {
        digests.iter_mut().for_each(|digest| *digest = Value::Null);
    }
    config.to_string().replace(version, "VERSION")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{File, Layer};
    use crate::claim::Outcome;

    fn archive(version: &str) -> Archive {
        let digest = Digest::of(version);
        let app = File { mode: 0o755, bytes: 9, digest };
        let config = json!({"config": {"Labels": {"version": version}},
            "rootfs": {"diff_ids": [digest]}});
        Archive {
            digest,
            file_digest: digest,
            bytes: 10_000,
            names: vec![format!("kubeapp:{version}")],
            entrypoint: vec!["/app".to_owned()],
            ports: vec!["8080/tcp".to_owned()],
            config,
            layers: vec![Layer { bytes: 1_370_000, files: [("app".to_owned(), app)].into() }],
        }
    }

    fn image(version: &str) -> Image {
        Image {
            version: version.to_owned(),
            manifest_name: format!("kubeapp:{version}"),
            name: format!("kubeapp:{version}"),
            archive: "a".into(),
            rebuilt: "r".into(),
            binary: "b".into(),
            build_input: format!("KUBEAPP_VERSION={version}"),
        }
    }

    #[test]
    fn image_must_start_the_built_binary() {
        let built = Digest::of("1.0");
        let right = |change: fn(&mut Archive)| {
            let mut archive = archive("1.0");
            change(&mut archive);
            starts_app(&archive, built).0
        };
        assert!(right(|_| {}));
        assert!(!right(|a| a.entrypoint = vec!["/bin/sh".into(), "/app".into()]));
        assert!(!right(|a| a.ports.clear()));
        assert!(!right(|a| a.layers.clear()));
        assert!(!right(|a| a.layers[0].files.get_mut("app").unwrap().mode = 0o644));
        assert!(!right(|a| a.layers[0].files.get_mut("app").unwrap().digest = Digest::of("")));
    }

    #[test]
    fn builds_must_be_identical() {
        let one = archive("1.0");
        assert!(same_digest(&one, &one.clone()).0);
        assert!(!same_digest(&one, &archive("2.0")).0);
        let other = Archive { file_digest: Digest::of("other"), ..one.clone() };
        assert!(!same_digest(&one, &other).0);
    }

    #[test]
    fn image_may_contain_only_the_app() {
        let mut image = archive("1.0");
        assert_eq!(nothing_else(&image), (true, "/app alone, 1.37 MB in 1 layer".to_owned()));
        let more = image.layers[0].files["app"].clone();
        image.layers[0].files.insert("bin/sh".into(), more);
        assert!(!nothing_else(&image).0);
    }

    #[test]
    fn images_may_differ_only_in_version() {
        let images = [&image("1.0"), &image("2.0")];
        let responses = [Ok("1.0\n".to_owned()), Ok("2.0\n".to_owned())];
        let archives = [archive("1.0"), archive("2.0")];
        let judge = |images: &[&Image; 2], archives: &[Archive], responses: &[VersionResponse]| {
            one_recipe(images, archives, responses).outcome
        };
        assert_eq!(judge(&images, &archives, &responses), Outcome::Holds);

        let mut changed = archives.clone();
        changed[1].config["config"]["Env"] = json!(["DEBUG=1"]);
        assert_eq!(judge(&images, &changed, &responses), Outcome::Fails, "another config");
        let mut changed = archives.clone();
        let file = changed[1].layers[0].files["app"].clone();
        changed[1].layers[0].files.insert("other".into(), file);
        assert_eq!(judge(&images, &changed, &responses), Outcome::Fails, "another file");

        let same = [Ok("1.0\n".to_owned()), Ok("1.0\n".to_owned())];
        assert_eq!(judge(&images, &archives, &same), Outcome::Fails, "2.0 returns 1.0");
        let mute = [Ok("1.0\n".to_owned()), Err("does not start".to_owned())];
        assert_eq!(judge(&images, &archives, &mute), Outcome::Fails);

        let other = Image { build_input: "OTHER=2.0".to_owned(), ..image("2.0") };
        let images = [images[0], &other];
        assert_eq!(judge(&images, &archives, &responses), Outcome::Fails, "another input");
    }
}
