//! Phase 1: the app. Both versions run as plain processes; no cluster is needed.

use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::elf;
use crate::lab::Lab;
use crate::process::{PORT, Process};
use crate::sampler::{Failure, Response, Sampler};
use anyhow::Context as _;
use lab_environment::Image;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

mod steps;

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase1",
    title: "The app",
    summary: "Runs both versions of the app as plain processes and requests from each the article's three \
              pages.",
    article: "“Phase 1: The App”. There it is Go, built with `netgo` to need no C library; here it \
              is Rust, linked statically, with the same three pages.",
    claims: &[
        Claim::new("app-front-page", "`/` names the version that responds.").needs(&["app-port"]),
        Claim::new("app-health", "`/health` returns 200.").needs(&["app-port"]),
        Claim::new("app-version", "`/version` returns the version and a newline, nothing else.")
            .needs(&["app-port"]),
        Claim::new("app-port", "The app listens on 8080."),
        Claim::new(
            "app-static",
            "The binary needs no library of the host (the article's `netgo` point).",
        ),
        Claim::new(
            "app-differs-by-version",
            "1.0 and 2.0 come from one source and differ only in the version constant.",
        ),
    ],
    steps: steps::ALL,
    uses_namespace: false,
    run: |context| Box::pin(run(context)),
};

/// The timeout for a process to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The responses of a version of the app.
struct Pages {
    version: String,
    front: Page,
    health: Page,
    number: Page,
}

type Page = Result<Response, Failure>;

async fn run(context: &Context) -> anyhow::Result<()> {
    let images = [context.stable()?, context.canary()?];
    let mut pages = Vec::new();
    let mut listening = Vec::new();
    for image in images {
        let _step = context
            .step_as(&steps::PROCESS, format!("running version {} as a process", image.version))
            .await;
        match Process::start(&image.binary, START_TIMEOUT).await {
            Ok(process) => {
                pages.push(fetch_pages(context, image, &process).await);
                listening.push(Ok(process.address.to_string()));
            }
            Err(error) if image.binary.is_file() => listening.push(Err(format!("{error:#}"))),
            Err(error) => return Err(error),
        }
    }
    let right = listening.iter().all(Result::is_ok);
    let lines: Vec<_> = listening.into_iter().map(|l| l.unwrap_or_else(|why| why)).collect();
    let evidence =
        images.iter().zip(&lines).map(|(image, at)| format!("{} on {at}", image.version));
    let evidence = evidence.collect::<Vec<_>>().join(", ");
    context.require("app-port", Verdict::of(right, evidence).with(json!({ "port": PORT }))).await?;

    let front = pages.iter().map(|a| page(&a.version, &a.front, |r| names(&text(r), &a.version)));
    context.judge("app-front-page", all(front)).await?;
    let health = pages.iter().map(|a| page(&a.version, &a.health, |_| true));
    context.judge("app-health", all(health)).await?;
    let number = pages
        .iter()
        .map(|a| page(&a.version, &a.number, |r| r.body == format!("{}\n", a.version).as_bytes()));
    context.judge("app-version", all(number)).await?;
    context.judge("app-static", statically_linked(&images)?).await?;
    context
        .judge("app-differs-by-version", one_source(&context.environment().app, &images)?)
        .await?;
    Ok(())
}

async fn fetch_pages(context: &Context, image: &Image, process: &Process) -> Pages {
    let get = async |path| {
        let host = process.address.to_string();
        Sampler::new(process.address, &host, path, context.request_timeout()).fetch().await
    };
    Pages {
        version: image.version.clone(),
        front: get("/").await,
        health: get("/health").await,
        number: get("/version").await,
    }
}

/// Returns whether a page has status 200 and the right content, with its evidence.
fn page(version: &str, page: &Page, right: impl Fn(&Response) -> bool) -> (bool, String) {
    match page {
        Ok(response) => {
            let line = format!("{version}: {} {:?}", response.status, text(response));
            (response.status == 200 && right(response), line)
        }
        Err(failure) => (false, format!("{version}: {failure}")),
    }
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

/// Returns true if the text names the version, not as a part of another: `1.0` is not in `11.0`.
fn names(text: &str, version: &str) -> bool {
    text.match_indices(version).any(|(start, _)| {
        let before = text.get(..start).and_then(|t| t.chars().next_back());
        let mut after = text.get(start + version.len()..).unwrap_or_default().chars();
        let number = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let continues = match after.next() {
            Some('.') => number(after.next()),
            next => number(next),
        };
        !continues && before.is_none_or(|c| !c.is_ascii_digit() && c != '.')
    })
}

fn all(pages: impl Iterator<Item = (bool, String)>) -> Verdict {
    let (right, lines): (Vec<_>, Vec<_>) = pages.unzip();
    Verdict::of(!right.is_empty() && right.iter().all(|right| *right), lines.join(", "))
}

fn statically_linked(images: &[&Image]) -> anyhow::Result<Verdict> {
    let (mut right, mut lines) = (true, Vec::new());
    for image in images {
        let bytes = std::fs::read(&image.binary)
            .with_context(|| format!("failed to read {}", image.binary.display()))?;
        lines.push(match elf::dependencies(&bytes) {
            Ok(found) => {
                right &= found.is_empty();
                let interpreter = if found.interpreter { "an" } else { "no" };
                let (version, libraries) = (&image.version, found.libraries);
                format!("{version}: {interpreter} interpreter, {libraries} needed libraries")
            }
            Err(why) => {
                right = false;
                format!("{}: {why}", image.version)
            }
        });
    }
    Ok(Verdict::of(right, lines.join("; ")))
}

fn one_source(app: &Path, images: &[&Image]) -> anyhow::Result<Verdict> {
    let inputs: Vec<_> = images.iter().map(|image| image.build_input.as_str()).collect();
    let readers = readers(&app.join("src"), &input_name(&inputs).unwrap_or_default())?;
    let versions: Vec<_> = images.iter().map(|image| image.version.as_str()).collect();
    Ok(judge_source(&inputs, &versions, &readers))
}

fn judge_source(inputs: &[&str], versions: &[&str], readers: &[String]) -> Verdict {
    let right = input_name(inputs).is_some_and(|name| {
        let expected = versions.iter().map(|version| format!("{name}={version}"));
        inputs.iter().map(|input| (*input).to_owned()).eq(expected)
    });
    let place = match readers {
        [one] => format!("read by {one} alone"),
        other => format!("read in {} places", other.len()),
    };
    Verdict::of(
        right && readers.len() == 1,
        format!("one crate, built with {}, {place}", inputs.join(" and with ")),
    )
}

/// Returns the name that all build inputs share, if they do.
fn input_name(inputs: &[&str]) -> Option<String> {
    let mut names = inputs.iter().map(|input| input.split_once('=').map(|(name, _)| name));
    let first = names.next()??;
    names.all(|name| name == Some(first)).then(|| first.to_owned())
}

/// Returns the source files that read a build input at compile time.
fn readers(folder: &Path, input: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to find the app's source in {}", folder.display()))?;
    for entry in entries {
        let path = entry.context("failed to read the app's source")?.path();
        if path.is_dir() {
            found.extend(readers(&path, input)?);
        } else {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("failed to read {}", path.display()))?;
            let count = text.matches(&format!("env!(\"{input}\"")).count();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            found.extend((0..count).map(|_| name.clone().into_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Outcome;

    #[test]
    fn version_is_not_matched_inside_another() {
        for (text, named) in [
            ("Version 1.0 of your app", true),
            ("This is 1.0.\n", true),
            ("1.0", true),
            ("11.0", false),
            ("1.01", false),
            ("1.0.3", false),
            ("0.1.0", false),
            ("2.0", false),
        ] {
            assert_eq!(names(text, "1.0"), named, "{text}");
        }
    }

    #[test]
    fn page_needs_status_200_and_the_right_body() {
        let response = |status, body: &str| {
            Ok(Response { status, headers: Vec::new(), body: body.as_bytes().to_vec() })
        };
        let right = |r: &Response| r.body == b"1.0\n";
        let judge = |p: Page| all([page("1.0", &p, right)].into_iter()).outcome;
        assert_eq!(judge(response(200, "1.0\n")), Outcome::Holds);
        assert_eq!(judge(response(200, "1.0")), Outcome::Fails);
        assert_eq!(judge(response(500, "1.0\n")), Outcome::Fails);
        assert_eq!(judge(Err(Failure::Timeout)), Outcome::Fails);
        assert_eq!(all([].into_iter()).outcome, Outcome::Fails, "no pages");
    }

    #[test]
    fn versions_must_differ_in_a_single_input() {
        let judge = |inputs: [&str; 2], readers: &[&str]| {
            let readers: Vec<_> = readers.iter().map(|r| (*r).to_owned()).collect();
            judge_source(&inputs, &["1.0", "2.0"], &readers).outcome
        };
        assert_eq!(judge(["V=1.0", "V=2.0"], &["main.rs"]), Outcome::Holds);
        assert_eq!(judge(["V=1.0", "W=2.0"], &["main.rs"]), Outcome::Fails);
        assert_eq!(judge(["V=1.0", "V=1.0"], &["main.rs"]), Outcome::Fails);
        assert_eq!(judge(["V=1.0", "V=2.0"], &[]), Outcome::Fails);
        assert_eq!(judge(["V=1.0", "V=2.0"], &["main.rs", "main.rs"]), Outcome::Fails);
    }
}
