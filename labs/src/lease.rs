//! The Lease that allows one run of the labs at a time on a cluster, because all of them work in the
//! same namespace. It is renewed during the run and taken over once it has expired, so that a killed
//! run blocks others only briefly.

use crate::names::MANAGED_BY;
use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The Lease's name, in the namespace `default`.
const LEASE_NAME: &str = "canary-labs";
const DURATION_SECONDS: i32 = 15;
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// The end of a run whose Lease was taken over or deleted.
const TAKEN_OVER: &str = "another run has taken over this cluster: the lease of these labs was changed \
                          or deleted";
/// The beginning of every error about an unresponsive cluster.
const UNRESPONSIVE: &str = "the cluster does not respond";

/// A held Lease, renewed until it is dropped. [`RunLease::release`] deletes it; after a mere drop, other
/// runs have to wait until it expires.
pub(crate) struct RunLease {
    leases: Api<Lease>,
    holder: String,
    renewal: JoinHandle<()>,
    lost: watch::Receiver<Option<String>>,
}

impl RunLease {
    /// Acquires the Lease.
    ///
    /// # Errors
    /// If another run holds it; the error names the holder.
    pub(crate) async fn acquire(client: &kube::Client) -> anyhow::Result<Self> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
        let holder = identity();
        let found =
            leases.get_opt(LEASE_NAME).await.context("failed to check for other runs here")?;
        let written = match found {
            None => leases.create(&PostParams::default(), &new_lease(&holder)).await,
            Some(found) => {
                if let Some(by) = active_holder(&found, Timestamp::now()) {
                    bail!(
                        "other labs run on this cluster: {by}; wait until they are done, or use \
                         another cluster"
                    );
                }
                let lease = with_holder(found, &holder);
                leases.replace(LEASE_NAME, &PostParams::default(), &lease).await
            }
        };
        let lease = match written {
            Ok(lease) => lease,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                bail!("other labs started on this cluster at the same time; try again later")
            }
            Err(error) => return Err(error).context("failed to acquire the lease of the labs"),
        };
        tracing::info!(lease = LEASE_NAME, holder, "lease acquired");
        let (report, lost) = watch::channel(None);
        let renewal = tokio::spawn(renew(leases.clone(), lease, report));
        Ok(Self { leases, holder, renewal, lost })
    }

    /// The identity of this run.
    pub(crate) fn holder(&self) -> &str {
        &self.holder
    }

    /// Receives the reason when the Lease is lost.
    pub(crate) fn lost(&self) -> watch::Receiver<Option<String>> {
        self.lost.clone()
    }

    /// Deletes the Lease, if this run still holds it.
    pub(crate) async fn release(self) -> anyhow::Result<()> {
        self.renewal.abort();
        let found = self.leases.get_opt(LEASE_NAME).await;
        let Some(lease) = found.context("failed to read the lease of the labs")? else {
            return Ok(());
        };
        if holder_of(&lease) != Some(&self.holder) {
            return Ok(());
        }
        // Only this very version: another run may take it over between the two requests.
        let preconditions = Some(Preconditions {
            uid: lease.metadata.uid,
            resource_version: lease.metadata.resource_version,
        });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.leases.delete(LEASE_NAME, &params).await {
            Ok(_) => {
                tracing::info!(lease = LEASE_NAME, "lease released");
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error).context("failed to release the lease of the labs"),
        }
    }
}

impl Drop for RunLease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl std::fmt::Debug for RunLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunLease").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// Returns the message for an unresponsive or unusable cluster.
pub(crate) fn unresponsive(error: kube::Error) -> String {
    match &error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => format!(
            "the cluster does not accept the credentials ({} {}); log in again, with the tool that \
             wrote the kubeconfig",
            status.code, status.reason
        ),
        _ => format!("{UNRESPONSIVE}: {:#}", anyhow::Error::from(error)),
    }
}

/// Returns the reason if the Lease has another holder by now. A request that fails is left to the
/// renewal to notice.
pub(crate) async fn holder_changed(holder: &str, client: &kube::Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let found = tokio::time::timeout(RENEW_INTERVAL, leases.get_opt(LEASE_NAME)).await;
    let lease = found.ok()?.ok()?;
    let unchanged = lease.as_ref().and_then(holder_of).is_some_and(|found| found == holder);
    (!unchanged).then(|| TAKEN_OVER.to_owned())
}

/// Renews until it is aborted. Retries through short failures of the API; gives up once the Lease must
/// have expired.
async fn renew(leases: Api<Lease>, mut lease: Lease, lost: watch::Sender<Option<String>>) {
    let mut tick = tokio::time::interval(RENEW_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let expires_after = Duration::from_secs(DURATION_SECONDS.unsigned_abs().into());
    let mut renewed = Instant::now();
    loop {
        tick.tick().await;
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        let write = leases.replace(LEASE_NAME, &params, &lease);
        // An API server that vanished may leave the connection open and never respond.
        let why = match tokio::time::timeout(RENEW_INTERVAL, write).await {
            Ok(Ok(current)) => {
                lease = current;
                renewed = Instant::now();
                continue;
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                TAKEN_OVER.to_owned()
            }
            _ if renewed.elapsed() < expires_after => continue,
            Ok(Err(error)) => unresponsive(error),
            Err(_) => format!("{UNRESPONSIVE}: request timed out"),
        };
        tracing::warn!(lease = LEASE_NAME, why, "lease lost");
        _ = lost.send(Some(why));
        return;
    }
}

fn holder_of(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

/// Returns a description of the holder at that time; `None` if the Lease is free or has expired.
fn active_holder(lease: &Lease, now: Timestamp) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    let MicroTime(renewed) = spec.renew_time.as_ref().or(spec.acquire_time.as_ref())?;
    let seconds = spec.lease_duration_seconds.unwrap_or(DURATION_SECONDS);
    let left =
        SignedDuration::from_secs(seconds.into()).saturating_sub(now.duration_since(*renewed));
    (left > SignedDuration::ZERO)
        .then(|| format!("{holder} (its lease ends in {} s unless renewed)", left.as_secs().max(1)))
}

fn new_lease(holder: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(LEASE_NAME.to_owned());
    let (key, value) = MANAGED_BY;
    lease.metadata.labels = Some([(key.to_owned(), value.to_owned())].into());
    with_holder(lease, holder)
}

fn with_holder(mut lease: Lease, holder: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let spec = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1))),
        ..spec
    });
    lease
}

/// Returns an identity for this process. The random number keeps two runs with the same process id
/// apart, which happens in containers.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown host" } else { host.trim() };
    format!("process {} on {host} ({:08x})", std::process::id(), rand::random::<u32>())
}

#[cfg(test)]
mod tests;
