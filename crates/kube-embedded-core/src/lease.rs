//! Leader election with a `coordination.k8s.io/v1` Lease: the holder renews it, and others may take
//! it over once it has expired, as the components of a Kubernetes control plane do.

use crate::task::{Task, TaskError, spawn_named};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use std::{fs, process, time::Duration};
use tokio::time::{self, Instant};

/// When a Lease expires, and how it is kept from doing so.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimings {
    /// How long the Lease lasts after its last renewal, in whole seconds.
    pub duration: Duration,
    /// The interval of renewals.
    pub renew_interval: Duration,
    /// If renewal keeps failing for this long, the cluster is assumed to be lost.
    pub renew_deadline: Duration,
    /// The timeout of each request.
    pub request_timeout: Duration,
}

/// Why a Lease is not, or no longer, held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server refused a request.
    #[error("failed to {verb} the lease: {error}")]
    Api {
        /// `get` or `acquire`.
        verb: &'static str,
        /// The refusal.
        error: Box<kube::Error>,
    },
    /// The API server did not respond in time.
    #[error("the API server did not respond within {0:?}")]
    Timeout(Duration),
    /// Another holder renews it.
    #[error("the lease is held by {0}")]
    HeldByOther(String),
    /// It could not be renewed until the deadline.
    #[error("failed to renew the lease for {deadline:?}: {}", describe(cause.as_deref()))]
    RenewalFailed {
        /// [`LeaseTimings::renew_deadline`].
        deadline: Duration,
        /// The last error; `None` where the API server did not respond.
        cause: Option<Box<kube::Error>>,
    },
    /// The task that renews it panicked, or the runtime is shutting down.
    #[error(transparent)]
    Stopped(#[from] TaskError),
}

/// A Lease that is held and renewed. If it is dropped rather than released, others have to wait
/// until it expires.
#[derive(Debug)]
pub struct LeaderLease {
    lease: LeaseClient,
    renewal: Task<LeaseError>,
}

/// One Lease in the API, and the identity that holds it or wants to.
#[derive(Clone, Debug)]
struct LeaseClient {
    api: Api<Lease>,
    name: String,
    identity: String,
    timings: LeaseTimings,
}

impl LeaderLease {
    /// Acquires the Lease, waiting until it expires if it has a holder that does not renew it.
    ///
    /// # Errors
    /// [`LeaseError::HeldByOther`] if it is renewed meanwhile.
    pub async fn acquire(
        client: Client,
        namespace: &str,
        name: &str,
        timings: LeaseTimings,
    ) -> Result<Self, LeaseError> {
        let api = Api::namespaced(client, namespace);
        let lease = LeaseClient { api, name: name.to_owned(), identity: identity(), timings };
        // The Lease as first seen, and when it expires if nothing renews it.
        let mut candidate: Option<(Lease, Instant)> = None;
        loop {
            let current = lease.get().await?;
            let expires = match (&current, &candidate) {
                (None, _) => None,
                (Some(current), _) if holder(current).is_empty() => None,
                // Observed renewals are the only proof of life: clocks of hosts may differ.
                (Some(current), Some((before, _))) if renew_time(current) != renew_time(before) => {
                    return Err(LeaseError::HeldByOther(holder(current).to_owned()));
                }
                (Some(_), Some((_, expires))) => Some(*expires),
                (Some(current), None) => {
                    let expires = Instant::now() + duration(current, timings);
                    candidate = Some((current.clone(), expires));
                    Some(expires)
                }
            };
            if let Some(expires) = expires.filter(|expires| Instant::now() < *expires) {
                time::sleep_until(expires.min(Instant::now() + timings.renew_interval / 6)).await;
                continue;
            }
            if lease.take(current).await? {
                tracing::info!(lease = name, identity = lease.identity, "acquired lease");
                let renewal = spawn_named("lease-renewal", lease.clone().renew());
                return Ok(Self { lease, renewal });
            }
            // Another candidate was faster and gets its full duration.
            candidate = None;
        }
    }

    /// Returns the identity that the Lease is held under.
    pub fn identity(&self) -> &str {
        &self.lease.identity
    }

    /// Resolves when the Lease is lost.
    pub async fn lost(&mut self) -> LeaseError {
        let error = (&mut self.renewal).await.unwrap_or_else(LeaseError::from);
        tracing::warn!(lease = self.lease.name, %error, "lost lease");
        error
    }

    /// Returns `true` if the API server reports another holder.
    pub async fn is_held_by_other(&self) -> bool {
        let current = self.lease.get().await.ok().flatten();
        current.is_some_and(|current| {
            !holder(&current).is_empty() && holder(&current) != self.lease.identity
        })
    }

    /// Deletes the Lease, so that another candidate can acquire it at once.
    pub async fn release(self) {
        let Self { lease, renewal } = self;
        renewal.abort();
        let delete = async {
            // The last renewal may have changed it in between.
            while let Err(error) = lease.delete().await {
                if !is_conflict(&error) {
                    tracing::warn!(lease = lease.name, %error, "failed to release lease");
                    return;
                }
            }
            tracing::info!(lease = lease.name, "released lease");
        };
        // It expires by itself if this fails.
        let _ = time::timeout(lease.timings.request_timeout, delete).await;
    }
}

impl LeaseClient {
    async fn get(&self) -> Result<Option<Lease>, LeaseError> {
        let timeout = self.timings.request_timeout;
        let response = time::timeout(timeout, self.api.get_opt(&self.name)).await;
        let response = response.map_err(|_| LeaseError::Timeout(timeout))?;
        response.map_err(|error| LeaseError::Api { verb: "get", error: Box::new(error) })
    }

    /// Writes the Lease under our identity; `false` if another candidate was faster.
    async fn take(&self, current: Option<Lease>) -> Result<bool, LeaseError> {
        let now = Some(MicroTime(Timestamp::now()));
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timings.duration.as_secs()).ok(),
            acquire_time: now.clone(),
            renew_time: now,
            ..LeaseSpec::default()
        };
        let name = Some(self.name.clone());
        let metadata = current.as_ref().map_or_else(
            || ObjectMeta { name, ..ObjectMeta::default() },
            // With its resource version, so that a write in between is a conflict.
            |current| current.metadata.clone(),
        );
        let lease = Lease { metadata, spec: Some(spec) };
        let params = PostParams::default();
        let written = match current {
            None => self.api.create(&params, &lease).await,
            Some(_) => match self.api.replace(&self.name, &params, &lease).await {
                // Its holder has released it meanwhile.
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
                written => written,
            },
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(LeaseError::Api { verb: "acquire", error: Box::new(error) }),
        }
    }

    /// Renews the Lease until another identity holds it or the deadline passes.
    async fn renew(self) -> LeaseError {
        let LeaseTimings { renew_interval, renew_deadline, request_timeout, .. } = self.timings;
        let mut renewed = Instant::now();
        let mut ticks = time::interval(renew_interval);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match time::timeout(request_timeout, self.renew_once()).await {
                Ok(Ok(Renewal::Renewed)) => renewed = Instant::now(),
                Ok(Ok(Renewal::Vacant(current))) => {
                    tracing::warn!(lease = self.name, "lease was deleted; acquiring it again");
                    // A faster candidate is noticed at the next renewal.
                    if let Ok(true) = self.take(current.map(|current| *current)).await {
                        renewed = Instant::now();
                    }
                }
                Ok(Ok(Renewal::HeldByOther(holder))) => return LeaseError::HeldByOther(holder),
                failed => {
                    let cause = failed.ok().and_then(Result::err).map(Box::new);
                    if renewed.elapsed() > renew_deadline {
                        return LeaseError::RenewalFailed { deadline: renew_deadline, cause };
                    }
                    let error = describe(cause.as_deref());
                    tracing::warn!(lease = self.name, error, "failed to renew lease; retrying");
                }
            }
        }
    }

    async fn renew_once(&self) -> kube::Result<Renewal> {
        let Some(mut current) = self.api.get_opt(&self.name).await? else {
            return Ok(Renewal::Vacant(None));
        };
        match holder(&current) {
            "" => return Ok(Renewal::Vacant(Some(Box::new(current)))),
            holder if holder != self.identity => {
                return Ok(Renewal::HeldByOther(holder.to_owned()));
            }
            _ => {}
        }
        current.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(&self.name, &PostParams::default(), &current).await?;
        Ok(Renewal::Renewed)
    }

    async fn delete(&self) -> kube::Result<()> {
        let current = self.api.get_opt(&self.name).await?;
        let Some(current) = current.filter(|current| holder(current) == self.identity) else {
            return Ok(());
        };
        let preconditions = Preconditions {
            resource_version: current.metadata.resource_version,
            uid: current.metadata.uid,
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..<_>::default() };
        self.api.delete(&self.name, &params).await.map(drop)
    }
}

enum Renewal {
    Renewed,
    /// A user deleted the Lease or cleared its holder.
    Vacant(Option<Box<Lease>>),
    HeldByOther(String),
}

fn describe(cause: Option<&kube::Error>) -> String {
    cause.map_or_else(|| "no response".to_owned(), ToString::to_string)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Returns an identity that people can trace to a process. The random part keeps apart several
/// candidates in one process.
fn identity() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "unknown host",
        host => host,
    };
    format!("process {} on {host}, {:08x}", process::id(), rand::random::<u32>())
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn renew_time(lease: &Lease) -> Option<&MicroTime> {
    lease.spec.as_ref()?.renew_time.as_ref()
}

/// Returns how long to wait for a Lease to expire: at most twice our own duration, so that an absurd
/// value locks no one out.
fn duration(lease: &Lease, timings: LeaseTimings) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let written = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    written.unwrap_or(timings.duration).min(2 * timings.duration)
}
