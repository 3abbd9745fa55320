//! Pods from the template of a job.

use super::indexes::{self, Failures};
use crate::controller_ref::{Selecting, add_finalizer, controller_ref};
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use std::{borrow::Cow, collections::BTreeMap};

/// The finalizer that keeps a pod until it is counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The environment variable that holds the index of a pod.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

impl Selecting for Job {
    const FINALIZER: Option<&'static str> = Some(FINALIZER);

    fn selector(&self) -> Option<Cow<'_, LabelSelector>> {
        self.spec.as_ref()?.selector.as_ref().map(Cow::Borrowed)
    }
}

/// Creates a pod from the template, for an index if the job is indexed, after these failures if it
/// limits those of each index. The API server names it.
pub(crate) fn pod(job: &Job, index: Option<i32>, failures: Option<Failures>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut meta = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut base = format!("{name}-");
    if let Some(index) = index {
        // The API server truncates a long prefix at its end, where the index is.
        let end = format!("-{index}-");
        base = name.chars().take(58 - end.len()).collect::<String>() + &end;
        let set_index = |map: &mut Option<BTreeMap<String, String>>| {
            map.get_or_insert_default().insert(indexes::INDEX.into(), index.to_string());
        };
        set_index(&mut meta.annotations);
        set_index(&mut meta.labels);
        if let Some(failures) = failures {
            failures.annotate(meta.annotations.get_or_insert_default());
        }
        spec.hostname = Some(format!("{name}-{index}"));
        let containers = spec.containers.iter_mut();
        for container in containers.chain(spec.init_containers.iter_mut().flatten()) {
            let env = container.env.get_or_insert_default();
            if env.iter().all(|variable| variable.name != INDEX_VARIABLE) {
                env.push(index_variable());
            }
        }
    }
    add_finalizer(&mut meta, FINALIZER);
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(base),
            namespace: job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_ref(job)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: INDEX_VARIABLE.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{}']", indexes::INDEX),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Returns `true` if the pod has the finalizer, so is not counted yet.
pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|known| known == FINALIZER)
}
