//! Prepares the volumes of a pod and keeps them up to date (the kubelet's volume and token managers).

use super::handle::PodHandle;
use crate::volumes::{self, Place, PreparedVolume};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, api::PostParams};
use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// The volumes of one pod.
pub(super) struct VolumeManager<'a> {
    pod: &'a PodHandle,
    /// By volume and path: a token, and the time to replace it.
    tokens: Mutex<HashMap<(String, String), (String, Instant)>>,
}

impl<'a> VolumeManager<'a> {
    pub(super) fn new(pod: &'a PodHandle) -> Self {
        Self { pod, tokens: Mutex::default() }
    }

    /// Creates or refreshes the volumes.
    ///
    /// # Errors
    /// The message of the event `FailedMount`. The other volumes are created all the same.
    pub(super) async fn prepare(
        &self,
        pod: &Pod,
    ) -> Result<BTreeMap<String, PreparedVolume>, String> {
        let (maps, secrets) = volumes::references(pod);
        let mut referenced = self.pod.fetch(maps, secrets, false).await?;
        let mut failed = None;
        for (volume, token) in volumes::tokens(pod) {
            let key = (volume.to_owned(), token.path.clone());
            match self.token(key.clone(), token).await {
                Ok(token) => drop(referenced.tokens.insert(key, token)),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let (directory, memory) = (self.pod.directory().join("volumes"), self.pod.memory());
        let place = Place {
            memory: memory.as_deref(),
            host_paths: &self.pod.runtime.allow_host_path,
            group: self.pod.fs_group(),
        };
        let prepared = volumes::prepare(pod, &directory, &referenced, place);
        let prepared = failed.map_or(prepared, Err)?;
        tracing::trace!(volumes = ?prepared.keys(), "volumes prepared");
        Ok(prepared)
    }

    /// Refreshes the volumes periodically, and when the labels or annotations of the pod change, which
    /// the downward API shows. Never returns.
    pub(super) async fn sync(&self) {
        let Some(period) = volumes::sync_period(&self.pod.pod) else {
            return std::future::pending().await;
        };
        let mut objects = self.pod.objects();
        loop {
            let meta = objects.borrow_and_update().metadata.clone();
            let changed = objects.wait_for(|object| {
                (&object.metadata.labels, &object.metadata.annotations)
                    != (&meta.labels, &meta.annotations)
            });
            let _ = timeout(period, changed).await;
            // A volume that cannot be refreshed keeps its files until the next attempt.
            if let Err(error) = self.prepare(&self.pod.object()).await {
                tracing::warn!(error, "failed to refresh the volumes of a pod");
            }
        }
    }

    /// Returns a token for a volume. It is replaced after 80% of its lifetime, as the kubelet does.
    async fn token(
        &self,
        key: (String, String),
        projection: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        if let Some((token, until)) = self.tokens().get(&key)
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let response = self.request_token(projection).await?;
        // The type of the field depends on the version of Kubernetes.
        #[allow(clippy::useless_conversion, reason = "it is an option in some versions")]
        let token = response.status.and_then(|status| Option::<String>::from(status.token));
        let token = token.unwrap_or_default();
        let lifetime = projection.expiration_seconds.unwrap_or(3600).max(0) as u64;
        tracing::debug!(volume = key.0, lifetime, "service account token requested");
        let until = Instant::now() + Duration::from_secs(lifetime * 4 / 5);
        self.tokens().insert(key, (token.clone(), until));
        Ok(token)
    }

    fn request_token(
        &self,
        projection: &ServiceAccountTokenProjection,
    ) -> impl Future<Output = Result<TokenRequest, String>> {
        let pod = self.pod;
        let account = pod.pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
        // Conversions and defaults, because the types differ between the versions of Kubernetes.
        #[allow(clippy::needless_update, reason = "later versions have more fields")]
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: projection.audience.iter().cloned().collect::<Vec<_>>().into(),
                expiration_seconds: projection.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name.clone()),
                    uid: Some(pod.uid.clone()),
                }),
                ..TokenRequestSpec::default()
            }
            .into(),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(pod.runtime.client.clone(), &pod.namespace);
        async move {
            let account = account.as_deref().unwrap_or("default");
            api.create_token_request(account, &PostParams::default(), &request)
                .await
                .map_err(|e| format!("failed to fetch token: {e}"))
        }
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<(String, String), (String, Instant)>> {
        self.tokens.lock().unwrap_or_else(|e| e.into_inner())
    }
}
