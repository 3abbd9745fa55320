//! Runs the stages of a release: sets weights, sends requests as users do, and asks the analysis.

use super::release::{BATCH, Release, STAGE_DURATION, STAGES, Seen, Server, Stage};
use crate::kubernetes::{pods, wait::split_infra_errors};
use crate::phases::gateway::{CANARY, CANARY_PODS, CONTAINER, PRODUCTION, Routed, STABLE_PODS};
use crate::sampler::{Sampler, Visit, visit};
use std::time::Instant;

/// The number of requests after a release was rolled back.
pub(super) const AFTER: usize = 500;
/// The paths that users request in turn.
const PATHS: [&str; 2] = ["/version", "/"];

/// The stages, on a Gateway.
pub(super) struct Stages<'a> {
    pub(super) routed: Routed<'a>,
    /// The pages that users request.
    pages: Vec<Sampler>,
    /// Their right responses, by path and version.
    right: Vec<Vec<Vec<u8>>>,
}

impl<'a> Stages<'a> {
    pub(super) fn new(routed: Routed<'a>) -> anyhow::Result<Self> {
        let pages = PATHS.map(|path| routed.sampler().path(path)).to_vec();
        let versions = [routed.context.stable()?, routed.context.canary()?];
        let of = |text: &dyn Fn(&str) -> String| {
            versions.iter().map(|image| text(&image.version).into_bytes()).collect()
        };
        let home = |version: &str| {
            format!(
                "Congratulations! Version {version} of your application is running on Kubernetes.\n"
            )
        };
        let right = vec![of(&|version| format!("{version}\n")), of(&home)];
        Ok(Self { routed, pages, right })
    }

    /// Takes the canary through the stages, as far as it gets.
    ///
    /// # Errors
    /// If the cluster is lost, or a manifest was refused.
    pub(super) async fn release(&self, what: &str) -> anyhow::Result<Release> {
        let mut release = Release::new()?;
        for stage in &STAGES {
            release.begin(stage);
            if let Err(unrouted) = self.routed.route(&stage.weight.to_string()).await? {
                release.roll_back(&unrouted.why());
                break;
            }
            let started = Instant::now();
            loop {
                self.send(&mut release, BATCH).await?;
                if let Some(why) = self.crashed().await? {
                    release.roll_back(&why);
                }
                if release.outcome.is_some()
                    || started.elapsed() >= STAGE_DURATION && release.is_over(stage)
                {
                    break;
                }
            }
            self.routed.context.progress(format!("{what}: {}", release.text()));
            if release.outcome.is_some() {
                break;
            }
        }
        Ok(release)
    }

    /// Takes all traffic from the canary, and sends some requests. The inner error says why the route is
    /// not live.
    pub(super) async fn roll_back(&self) -> anyhow::Result<(Release, Result<(), String>)> {
        let live = self.routed.route("0").await?.map_err(|unrouted| unrouted.why());
        let mut after = Release::new()?;
        after.begin(&Stage { weight: 0, requests: AFTER as u64 });
        self.send(&mut after, AFTER).await?;
        Ok((after, live))
    }

    /// Makes the canary's image production's: all traffic goes to the canary meanwhile, and then back to
    /// production.
    pub(super) async fn promote(&self, image: &str) -> anyhow::Result<Result<(), String>> {
        let Routed { namespace, .. } = &self.routed;
        let all = self.routed.route("100").await?.map_err(|unrouted| unrouted.why());
        namespace.set_image(PRODUCTION, CONTAINER, image).await?;
        let rolled = split_infra_errors(namespace.wait_rolled_out(PRODUCTION).await)?.map(drop);
        let pods = pods::names(&namespace.pods(STABLE_PODS).await?);
        let known = split_infra_errors(
            namespace.wait_endpoints("kubeapp-production-service", &pods).await,
        )?;
        let back = self.routed.route("0").await?.map_err(|unrouted| unrouted.why());
        Ok(all.and(rolled).and(known).and(back))
    }

    /// Sends requests and records them.
    async fn send(&self, release: &mut Release, n: usize) -> anyhow::Result<()> {
        let visits = visit(&self.pages, n).await?;
        let seen: Vec<_> = visits.iter().map(|visit| seen(visit, &self.right)).collect();
        if let Some(lost) = seen.iter().position(|one| one.server == Server::Lost) {
            release.note_loss(match &visits[lost].result {
                Ok(response) => {
                    let text = String::from_utf8_lossy(&response.body).trim().to_owned();
                    format!("status {}, {text}", response.status)
                }
                Err(failure) => failure.to_string(),
            });
        }
        Ok(release.record(&seen)?)
    }

    /// Returns the reason if a container of the canary has ended.
    async fn crashed(&self) -> anyhow::Result<Option<String>> {
        let pods = self.routed.namespace.pods(CANARY_PODS).await?;
        let ended = pods.iter().find_map(|pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            statuses.iter().find(|status| {
                let state = status.state.as_ref();
                status.restart_count > 0 || state.is_some_and(|state| state.terminated.is_some())
            })
        });
        Ok(ended.map(|_| "its container crashed".to_owned()))
    }
}

/// What a visit says of the release.
fn seen(visit: &Visit, right: &[Vec<Vec<u8>>]) -> Seen {
    let latency = visit.latency;
    let Ok(response) = &visit.result else {
        return Seen { server: Server::Lost, good: false, latency };
    };
    // By name: a pod that is being replaced serves, too.
    let is_canary = |pod: &str| pod.strip_prefix(CANARY).is_some_and(|rest| rest.starts_with('-'));
    let server = match response.header("x-pod") {
        None => Server::Lost,
        Some(pod) if is_canary(pod) => Server::Canary,
        Some(_) => Server::Stable,
    };
    let pages = right.get(visit.page).map(Vec::as_slice).unwrap_or_default();
    let good = response.status == 200 && pages.contains(&response.body);
    Seen { server, good, latency }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Failure, Response};

    #[test]
    fn response_is_good_only_if_it_is_the_page() {
        let right = [vec![b"1.0\n".to_vec(), b"2.0\n".to_vec()], vec![b"home\n".to_vec()]];
        let visit = |page, status, pod: Option<&str>, body: &str| {
            let headers = pod.map(|pod| ("x-pod".to_owned(), pod.to_owned()));
            let headers = headers.into_iter().collect();
            let response = Response { status, headers, body: body.as_bytes().to_vec() };
            let seen = seen(&Visit { page, latency: 0.0, result: Ok(response) }, &right);
            (seen.server, seen.good)
        };
        assert_eq!(visit(0, 200, Some("kubeapp-canary-5-a"), "2.0\n"), (Server::Canary, true));
        assert_eq!(visit(0, 200, Some("kubeapp-production-5-a"), "1.0\n"), (Server::Stable, true));
        assert_eq!(visit(1, 200, Some("kubeapp-canary-5-a"), "1.0\n"), (Server::Canary, false));
        assert_eq!(visit(0, 500, Some("kubeapp-production-5-a"), "1.0\n"), (Server::Stable, false));
        assert_eq!(visit(0, 503, None, ""), (Server::Lost, false));
        let failed = Visit { page: 0, latency: 0.0, result: Err(Failure::Timeout) };
        assert_eq!(seen(&failed, &right).server, Server::Lost);
    }
}
