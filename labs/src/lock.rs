//! One run of the labs at a time on a cluster, because all of them work in the same namespace. A
//! Lease in `default` says who runs. It is renewed while the run lives and taken over once it has
//! expired, so a run that was killed blocks nobody for long.

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The lease's name, in the namespace `default`.
pub const LEASE: &str = "canary-labs";

/// Held for as long as this lives; give it back with [`Lock::release`].
pub struct Lock {
    leases: Api<Lease>,
    holder: String,
    renewal: JoinHandle<()>,
    lost: watch::Receiver<Option<String>>,
}

impl Lock {
    /// Takes the lease, or says who holds it.
    pub async fn take(client: &kube::Client) -> anyhow::Result<Self> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
        let holder = holder();
        let found = leases.get_opt(LEASE).await.context("asking whether other labs run here")?;
        let current = match found {
            None => leases.create(&PostParams::default(), &first(&holder)).await,
            Some(found) => {
                if let Some(by) = held(&found, Timestamp::now()) {
                    bail!(
                        "other labs run on this cluster: {by}; wait until they are done, or use \
                         another cluster"
                    );
                }
                leases.replace(LEASE, &PostParams::default(), &taken_over(found, &holder)).await
            }
        };
        let current = match current {
            Ok(current) => current,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                bail!("other labs began on this cluster at the same moment; try again later")
            }
            Err(error) => return Err(error).context("taking the lease of the labs"),
        };
        let (tell, lost) = watch::channel(None);
        let renewal = tokio::spawn(renew(leases.clone(), current, tell));
        Ok(Self { leases, holder, renewal, lost })
    }

    /// Who holds it: this run.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Tells when the lease is lost, with the reason.
    pub fn lost(&self) -> watch::Receiver<Option<String>> {
        self.lost.clone()
    }

    /// Gives the lease back, if it is still ours.
    pub async fn release(self) -> anyhow::Result<()> {
        self.renewal.abort();
        let Some(lease) = self.leases.get_opt(LEASE).await.context("reading the lease")? else {
            return Ok(());
        };
        let ours = lease.spec.and_then(|spec| spec.holder_identity) == Some(self.holder.clone());
        if !ours {
            return Ok(());
        }
        // Only this very version: another run may take it over between the two calls.
        let preconditions = Some(Preconditions {
            uid: lease.metadata.uid,
            resource_version: lease.metadata.resource_version,
        });
        let delete = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.leases.delete(LEASE, &delete).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error).context("giving back the lease of the labs"),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("holder", &self.holder).finish_non_exhaustive()
    }
}

const SECONDS: i32 = 15;
const EVERY: Duration = Duration::from_secs(5);
/// Why a run is over whose lease is another's, or nobody's.
const TAKEN_OVER: &str = "another run has taken over this cluster: somebody else changed or deleted \
                          the lease of these labs";
/// How every error begins that has nothing to do with what the labs claim.
const GONE: &str = "the cluster does not answer";

/// What to say of a cluster that says nothing, or nothing of use.
pub(crate) fn gone(error: kube::Error) -> String {
    match &error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => format!(
            "the cluster does not accept the credentials ({} {}); log in again, with whatever \
             made the kubeconfig",
            status.code, status.reason
        ),
        _ => format!("{GONE}: {:#}", anyhow::Error::from(error)),
    }
}

/// Why the cluster is not that holder's any more, as the lease says at this moment. What cannot be asked
/// is left to the renewal to find out.
pub(crate) async fn taken_from(holder: &str, client: &kube::Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let asked = tokio::time::timeout(EVERY, leases.get_opt(LEASE)).await;
    let spec = asked.ok()?.ok()?.and_then(|lease| lease.spec);
    let by = spec.and_then(|spec| spec.holder_identity);
    (by.as_deref() != Some(holder)).then(|| TAKEN_OVER.to_owned())
}

/// Tries again through short failures of the API; gives up once the lease must have expired.
async fn renew(leases: Api<Lease>, mut lease: Lease, lost: watch::Sender<Option<String>>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed = std::time::Instant::now();
    loop {
        tick.tick().await;
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        // Somebody who is not there any more may never say so.
        let why = match tokio::time::timeout(EVERY, leases.replace(LEASE, &params, &lease)).await {
            Ok(Ok(current)) => {
                lease = current;
                renewed = std::time::Instant::now();
                continue;
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                TAKEN_OVER.to_owned()
            }
            _ if renewed.elapsed() < Duration::from_secs(SECONDS as u64) => continue,
            Ok(Err(error)) => gone(error),
            Err(_) => format!("{GONE}: it says nothing"),
        };
        _ = lost.send(Some(why));
        return;
    }
}

/// Who holds the lease at that time, for people; `None` if nobody does.
fn held(lease: &Lease, now: Timestamp) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    let MicroTime(renewed) = spec.renew_time.as_ref().or(spec.acquire_time.as_ref())?;
    let lasts = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(SECONDS).into());
    let left = lasts.saturating_sub(now.duration_since(*renewed));
    (left > SignedDuration::ZERO)
        .then(|| format!("{holder} (its lease ends in {} s unless renewed)", left.as_secs().max(1)))
}

fn first(holder: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(LEASE.to_owned());
    let (key, value) = crate::namespace::MANAGED_BY;
    lease.metadata.labels = Some([(key.to_owned(), value.to_owned())].into());
    taken_over(lease, holder)
}

fn taken_over(mut lease: Lease, holder: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let spec = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(SECONDS),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1))),
        ..spec
    });
    lease
}

/// Names this process on this machine. The number tells two runs with one process id apart, as
/// containers have them.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown host" } else { host.trim() };
    format!("process {} on {host} ({:08x})", std::process::id(), rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_until_it_expires() {
        let lease = first("somebody");
        let MicroTime(begun) = lease.spec.as_ref().unwrap().acquire_time.clone().unwrap();
        let at = |seconds| begun.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        assert!(held(&lease, at(0)).unwrap().contains("somebody"));
        assert!(held(&lease, at(14)).is_some());
        assert_eq!(held(&lease, at(15)), None);
        assert_eq!(held(&Lease::default(), at(0)), None);
    }

    #[test]
    fn taking_over_counts_the_transition() {
        let again = taken_over(first("one"), "two");
        let spec = again.spec.unwrap();
        assert_eq!(spec.lease_transitions, Some(1));
        assert_eq!(spec.holder_identity.as_deref(), Some("two"));
    }
}
