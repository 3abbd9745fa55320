//! One edge a cluster: who holds the Lease serves it, as with the controllers of Kubernetes.

use super::{ANSWER, EdgeError, cause};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use std::{fs, process, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{self, Instant},
};

const NAME: &str = "canary-labs-edge";
const NAMESPACE: &str = "kube-system";

/// How a Lease is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long it lasts once nobody renews it; whole seconds.
    lasts: Duration,
    /// How often it is renewed.
    renew: Duration,
    /// A cluster that takes no renewal for so long is gone, or done with us: nobody is there to end its
    /// edge.
    gone: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let [lasts, renew, gone] = [9, 3, 300].map(Duration::from_secs);
        Self { lasts, renew, gone }
    }
}

/// Held until released; when dropped, others have to wait until it runs out.
#[derive(Debug)]
pub(super) struct Lease {
    api: Api<Object>,
    me: String,
    renewing: JoinHandle<EdgeError>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Lease {
    /// Takes the Lease, once it has run out if somebody has it.
    pub(super) async fn acquire(client: Client, pace: Pace) -> Result<Self, EdgeError> {
        let api: Api<Object> = Api::namespaced(client, NAMESPACE);
        let me = identity();
        let mut waiting: Option<(Object, Instant)> = None;
        loop {
            let there = time::timeout(ANSWER, api.get_opt(NAME)).await?;
            let there = there.map_err(EdgeError::api("read the Lease of edges"))?;
            let runs_out = match (&there, &waiting) {
                (None, _) => None,
                (Some(there), _) if holder(there).is_empty() => None,
                // Renewed under our eyes, by whatever clock: its holder is alive.
                (Some(there), Some((before, _))) if renewed(there) != renewed(before) => {
                    return Err(EdgeError::Taken(holder(there).to_owned()));
                }
                (Some(_), Some((_, until))) => Some(*until),
                (Some(there), None) => {
                    let until = Instant::now() + lasts(there, pace);
                    waiting = Some((there.clone(), until));
                    Some(until)
                }
            };
            if let Some(until) = runs_out.filter(|until| Instant::now() < *until) {
                time::sleep_until(until.min(Instant::now() + pace.renew / 6)).await;
                continue;
            }
            if take(&api, &me, pace, there).await? {
                let renewing = tokio::spawn(renew(api.clone(), me.clone(), pace));
                return Ok(Self { api, me, renewing });
            }
            // Somebody was quicker: it is waited for anew.
            waiting = None;
        }
    }

    /// Resolves when it is lost.
    pub(super) async fn lost(&mut self) -> EdgeError {
        (&mut self.renewing).await.unwrap_or(EdgeError::Ended)
    }

    /// Whether somebody else has it by now, as far as the API answers.
    pub(super) async fn is_taken(&self) -> bool {
        let there = time::timeout(ANSWER, self.api.get_opt(NAME)).await;
        let there = there.ok().and_then(Result::ok).flatten();
        there.is_some_and(|there| !holder(&there).is_empty() && holder(&there) != self.me)
    }

    /// Lets the next one have it at once.
    pub(super) async fn release(self) {
        self.renewing.abort();
        // The last renewal may come in between.
        let delete = async { while let Err(true) = self.delete().await.map_err(is_conflict) {} };
        // It runs out by itself where this fails.
        let _ = time::timeout(ANSWER, delete).await;
    }

    async fn delete(&self) -> kube::Result<()> {
        let there = self.api.get_opt(NAME).await?.filter(|there| holder(there) == self.me);
        let Some(there) = there else { return Ok(()) };
        let preconditions = Preconditions {
            resource_version: there.metadata.resource_version,
            uid: there.metadata.uid,
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..<_>::default() };
        self.api.delete(NAME, &params).await.map(drop)
    }
}

fn is_conflict(error: kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Writes the Lease in our name; false if somebody else was quicker.
async fn take(
    api: &Api<Object>,
    me: &str,
    pace: Pace,
    there: Option<Object>,
) -> Result<bool, EdgeError> {
    let now = Some(MicroTime(Timestamp::now()));
    let spec = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(pace.lasts.as_secs()).ok(),
        acquire_time: now.clone(),
        renew_time: now,
        ..LeaseSpec::default()
    };
    let name = Some(NAME.to_owned());
    let metadata = there.as_ref().map_or_else(
        || ObjectMeta { name, ..ObjectMeta::default() },
        // With its resource version, so that a write in between is a conflict.
        |there| there.metadata.clone(),
    );
    let lease = Object { metadata, spec: Some(spec) };
    let params = PostParams::default();
    let written = match there {
        None => api.create(&params, &lease).await,
        Some(_) => match api.replace(NAME, &params, &lease).await {
            // Its holder has let it go meanwhile.
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
            written => written,
        },
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(EdgeError::api("take the Lease of edges")(error)),
    }
}

/// Renews the Lease until that is no longer ours to do.
async fn renew(api: Api<Object>, me: String, pace: Pace) -> EdgeError {
    let mut renewed = Instant::now();
    let mut ticks = time::interval(pace.renew);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let once = async {
            let Some(mut there) = api.get_opt(NAME).await? else { return Ok(Some(String::new())) };
            if holder(&there) != me {
                return Ok(Some(holder(&there).to_owned()));
            }
            there.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
            api.replace(NAME, &PostParams::default(), &there).await?;
            Ok::<_, kube::Error>(None)
        };
        match time::timeout(ANSWER, once).await {
            Ok(Ok(None)) => renewed = Instant::now(),
            // Somebody took it away by hand.
            Ok(Ok(Some(other))) if other.is_empty() => {
                // If somebody is quicker, the next look tells.
                if let Ok(true) = take(&api, &me, pace, None).await {
                    renewed = Instant::now();
                }
            }
            Ok(Ok(Some(other))) => return EdgeError::Taken(other),
            failed if renewed.elapsed() > pace.gone => {
                let why = match failed {
                    Ok(Err(error)) => cause(&error),
                    _ => "the API does not answer".to_owned(),
                };
                return EdgeError::Gone(pace.gone, why);
            }
            _ => {}
        }
    }
}

/// For people: who it is.
fn identity() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "unknown host",
        host => host,
    };
    // One process may begin several at once.
    format!("process {} on {host}, {:08x}", process::id(), rand::random::<u32>())
}

fn holder(lease: &Object) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn renewed(lease: &Object) -> Option<&MicroTime> {
    lease.spec.as_ref()?.renew_time.as_ref()
}

fn lasts(lease: &Object, pace: Pace) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let said = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    // A wild one is not waited for.
    said.unwrap_or(pace.lasts).min(2 * pace.lasts)
}

#[cfg(test)]
mod tests;
