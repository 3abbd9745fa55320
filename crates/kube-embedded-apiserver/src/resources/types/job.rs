//! `jobs` (`batch/v1`). Policies are validated in [`crate::validation::job_policy`].

mod status;

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};
use status::{INDEXED, is};

use crate::{
    admission::{host_path, pod_security, unsupported_fields},
    fields::{at, copy_field, default, default_empty, each, existing, list, object, text},
    resources::{
        deletion::{Deletion, Propagation},
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{self, AGE, column, container_images, container_names, count, human, wide},
    },
    validation::{
        field_error::{
            FieldError, immutable, invalid, invalid_nested, not_supported, required, too_long,
        },
        internal_form::shown,
        job_policy,
        names::{
            dns_label, dns_subdomain, domain_prefixed_path, label_selector, non_negative, selects,
            shown_selector,
        },
        object_meta::{self, Part, Rules},
        pod_spec, warnings,
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Whole, Part::Changes],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    categories: &["all"],
    subresources: &["status"],
    generation: true,
    defaults,
    prepare_create,
    validate,
    validate_status: Some(status::validate),
    reviews: &[
        pod_security::review_workload,
        host_path::review_workload,
        unsupported_fields::review_workload,
    ],
    warnings: warnings::of_workload,
    deletion: &Deletion {
        // The default of `batch/v1` predates garbage collection, and stays for compatibility.
        default_propagation: Some(Propagation::Orphan),
        default_propagation_warning: Some(
            "child pods are preserved by default when jobs are deleted; set \
             propagationPolicy=Background to remove them or set propagationPolicy=Orphan to \
             suppress this warning",
        ),
        ..Deletion::IMMEDIATE
    },
    columns: &[
        column("Status", "Status of the job.", |job, _| state(job).into()),
        column(
            "Completions",
            "The number of pods which reached phase Succeeded. The value increases monotonically \
             for a given spec. However, it may decrease in reaction to scale down of elastic \
             indexed jobs.",
            |job, _| completions(job).into(),
        ),
        column("Duration", "Time required to complete the job.", |job, now| {
            let time = |field: &str| text(job, &["status", field]).parse::<jiff::Timestamp>();
            let Ok(start) = time("startTime") else { return "".into() };
            let end = time("completionTime").unwrap_or(now);
            human(end.as_second() - start.as_second()).into()
        }),
        AGE,
        wide("Containers", "Names of each container in the template.", |job, _| {
            container_names(at(job, &["spec", "template", "spec"]))
        }),
        wide("Images", "Images referenced by each container in the template.", |job, _| {
            container_images(at(job, &["spec", "template", "spec"]))
        }),
        wide("Selector", "#/io.k8s.api.batch.v1.JobSpec/selector", |job, _| {
            table_columns::selector(at(job, &["spec", "selector"]))
        }),
    ],
    selectable: &["status.successful=status.succeeded"],
    ..ResourceType::of::<Job>("job", "io.k8s.api.batch.v1.Job")
};

/// The labels of every pod of a Job: the Job's uid and name, each also under the legacy key without
/// a prefix.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Stands for `SetDefaults_Job`.
fn defaults(job: &mut Value) {
    let Some(spec) = object(job, "spec") else { return };
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    // With a limit for each index, the Job as a whole has none.
    let has_limit_per_index = !spec["backoffLimitPerIndex"].is_null();
    default(spec, "backoffLimit", if has_limit_per_index { i32::MAX } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replaced = match spec["podFailurePolicy"].is_null() {
        true => "TerminatingOrFailed",
        false => "Failed",
    };
    default(spec, "podReplacementPolicy", replaced);
    if let Some(policy) = existing(spec, "podFailurePolicy") {
        for rule in each(policy, "rules") {
            for pattern in each(rule, "onPodConditions") {
                default_empty(pattern, "status", "True");
            }
        }
    }
    pod_defaults::template_defaults(spec);
    // Labels that are generated at creation are among those that a Job takes over: see `prepare_create`.
    let is_generated = NAME_LABELS
        .iter()
        .all(|label| !at(spec, &["template", "metadata", "labels", label]).is_null());
    if is_generated || spec["manualSelector"] == true {
        default_labels(job);
    }
}

/// Gives a Job without labels those of its pods.
fn default_labels(job: &mut Value) {
    let labels = at(job, &["spec", "template", "metadata", "labels"]).clone();
    let is_empty = |labels: &Value| labels.as_object().is_none_or(serde_json::Map::is_empty);
    if !is_empty(&labels)
        && is_empty(&job["metadata"]["labels"])
        && let Some(metadata) = object(job, "metadata")
    {
        metadata["labels"] = labels;
    }
}

/// Generates the selector, and the labels that it selects (`generateSelector`).
fn prepare_create(job: &mut Value) {
    job["status"] = json!({});
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, name) = (job["metadata"]["uid"].clone(), text(job, &["metadata", "name"]).to_owned());
    let Some(spec) = existing(job, "spec") else { return };
    // Values from the client are not overwritten: validation rejects them.
    let labels = object(spec, "template")
        .and_then(|template| object(template, "metadata"))
        .and_then(|metadata| object(metadata, "labels"));
    if let Some(labels) = labels {
        for label in UID_LABELS {
            default(labels, label, uid.clone());
        }
        for label in NAME_LABELS {
            default(labels, label, name.clone());
        }
    }
    let selected = object(spec, "selector").and_then(|selector| object(selector, "matchLabels"));
    if let Some(selected) = selected {
        default(selected, UID_LABELS[1], uid);
    }
    default_labels(job);
}

/// Stands for `ValidateJob` and `ValidateJobUpdate`.
fn validate(job: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &job["spec"];
    let mut errors = object_meta::validate(job, old, &METADATA);
    errors.extend(validate_generated_labels(job));
    errors.extend(validate_spec(spec));
    errors.extend(validate_selector(spec));
    // Pods of an indexed Job have host names from its name and their index.
    let completions = spec["completions"].as_i64().filter(|count| *count > 0);
    if let Some(count) = completions.filter(|_| spec["completionMode"] == INDEXED) {
        let name = text(job, &["metadata", "name"]);
        let host = format!("{name}-{}", count - 1);
        if !dns_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(invalid("metadata.name", &name.into(), &detail));
        }
    }
    if let Some(old) = old {
        errors.extend(validate_update(spec, old));
    }
    errors
}

/// Validates the generated labels, by which pods belong to this Job and to no other
/// (`validateGeneratedSelector`).
fn validate_generated_labels(job: &Value) -> Vec<FieldError> {
    let spec = &job["spec"];
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return Vec::new();
    }
    let metadata = &job["metadata"];
    let (uid, name) = (text(metadata, &["uid"]), text(metadata, &["name"]));
    let labels = at(spec, &["template", "metadata", "labels"]);
    let mut errors = Vec::new();
    let mut expected = json!({});
    for (label, wanted) in
        [(UID_LABELS[0], uid), (NAME_LABELS[0], name), (UID_LABELS[1], uid), (NAME_LABELS[1], name)]
    {
        expected[label] = wanted.into();
        let field = format!("spec.template.metadata.labels[{label}]");
        let detail = format!("must be '{wanted}'");
        match labels[label].as_str() {
            None => errors.push(required(field, &detail)),
            Some(found) if found != wanted => errors.push(invalid(field, labels, &detail)),
            Some(_) => {}
        }
    }
    if !selects(&spec["selector"], &expected) {
        let detail = "`selector` not auto-generated";
        errors.push(invalid("spec.selector", &spec["selector"], detail));
    }
    errors
}

/// Stands for `validateJobSpec`: all but the selector.
pub(crate) fn validate_spec(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.extend(non_negative(&spec[field], format!("spec.{field}")));
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        let detail = "when maxFailedIndexes is specified";
        errors.push(required("spec.backoffLimitPerIndex", detail));
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        const MAX: usize = 63;
        errors.extend(domain_prefixed_path(manager, "spec.managedBy"));
        if manager.len() > MAX {
            errors.push(too_long("spec.managedBy", MAX));
        }
    }
    errors.extend(validate_mode(spec));
    errors.extend(job_policy::validate(spec));
    errors.extend(pod_spec::validate_template(&spec["template"], "spec.template"));
    errors.extend(validate_restart_policy(spec));
    errors
}

/// Validates the selector, and that it selects the pods.
fn validate_selector(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(required("spec.selector", ""));
    } else {
        errors.extend(label_selector(selector, "spec.selector"));
    }
    let labels = at(spec, &["template", "metadata", "labels"]);
    if selector.is_null() || !selects(selector, labels) {
        let detail = "`selector` does not match template `labels`";
        errors.push(invalid_nested("spec.template.metadata.labels", labels, detail));
    }
    errors
}

/// Pods of a Job end, so they must not restart always; a failure policy classifies pods, not
/// restarts of containers.
fn validate_restart_policy(spec: &Value) -> Option<FieldError> {
    let policy = at(spec, &["template", "spec", "restartPolicy"]);
    let field = "spec.template.spec.restartPolicy";
    match policy.as_str().unwrap_or_default() {
        "" | "Always" => Some(required(field, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if !spec["podFailurePolicy"].is_null() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            Some(invalid(field, policy, detail))
        }
        "OnFailure" | "Never" => None,
        _ => Some(not_supported(field, policy, &["OnFailure", "Never"])),
    }
}

/// Validates fields that depend on the completion mode.
fn validate_mode(spec: &Value) -> Vec<FieldError> {
    /// `maxParallelismForIndexedJob`.
    const MAX: i64 = 100_000;
    let mut errors = Vec::new();
    let mode = &spec["completionMode"];
    let number = |field: &str| spec[field].as_i64();
    match mode.as_str().unwrap_or_default() {
        INDEXED => {
            if spec["completions"].is_null() {
                errors.push(required("spec.completions", "when completion mode is Indexed"));
            }
            for field in ["parallelism", "maxFailedIndexes"] {
                if number(field).is_some_and(|number| number > MAX) {
                    let when = match field {
                        "parallelism" => " when completion mode is Indexed",
                        _ => "",
                    };
                    let detail = format!("must be less than or equal to {MAX}{when}");
                    errors.push(invalid(format!("spec.{field}"), &spec[field], &detail));
                }
            }
            if let (Some(completions), Some(failed)) =
                (number("completions"), number("maxFailedIndexes"))
                && failed > completions
            {
                let detail = "must be less than or equal to completions";
                errors.push(invalid("spec.maxFailedIndexes", &failed.into(), detail));
            }
            if number("completions").is_some_and(|number| number > MAX)
                && !spec["backoffLimitPerIndex"].is_null()
            {
                errors.extend(validate_many_indexes(spec, MAX));
            }
        }
        "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if !spec[field].is_null() {
                    let detail = "requires indexed completion mode";
                    errors.push(invalid(format!("spec.{field}"), &spec[field], detail));
                }
            }
        }
        // The Job of a CronJob has no defaults yet.
        "" if mode.is_null() => {}
        _ => {
            let supported = ["NonIndexed", "Indexed"];
            errors.push(not_supported("spec.completionMode", mode, &supported));
        }
    }
    errors
}

/// Validates an indexed Job with more completions than `many` that counts failures for each index:
/// the failed indexes are stored in its status, whose size they must not exceed.
fn validate_many_indexes(spec: &Value, many: i64) -> Vec<FieldError> {
    const MAX: i64 = 10_000;
    let mut errors = Vec::new();
    if spec["maxFailedIndexes"].is_null() {
        let detail = format!("must be specified when completions is above {many}");
        errors.push(required("spec.maxFailedIndexes", &detail));
    }
    for (field, when) in [
        (
            "parallelism",
            format!("when completions are above {many} and used with backoff limit per index"),
        ),
        ("maxFailedIndexes", format!("when completions is above {many}")),
    ] {
        if spec[field].as_i64().is_some_and(|number| number > MAX) {
            let detail = format!("must be less than or equal to {MAX} {when}");
            errors.push(invalid(format!("spec.{field}"), &spec[field], &detail));
        }
    }
    errors
}

/// Validates that an update keeps what running pods depend on.
fn validate_update(spec: &Value, old: &Value) -> Vec<FieldError> {
    let old_spec = &old["spec"];
    let unchanged = |field: &str| {
        let is_policy = !spec[field].is_null();
        let shown = match field {
            "podFailurePolicy" if is_policy => shown("PodFailurePolicy", &spec[field]),
            "successPolicy" if is_policy => shown("SuccessPolicy", &spec[field]),
            "selector" if is_policy => shown_selector(&spec[field]),
            _ => spec[field].to_string(),
        };
        (spec[field] != old_spec[field]).then(|| immutable(format!("spec.{field}"), &shown))
    };
    // The completions of an indexed Job may change together with its parallelism (elastic indexed
    // Jobs).
    let completions = match spec["completionMode"] == INDEXED {
        false => unchanged("completions"),
        true => {
            let changed = spec["completions"] != old_spec["completions"];
            let is_tandem = spec["completions"] == spec["parallelism"];
            let detail = "can only be modified in tandem with spec.parallelism";
            (changed && !spec["completions"].is_null() && !is_tandem)
                .then(|| invalid("spec.completions", &spec["completions"], detail))
        }
    };
    let fields = [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    let first = [completions, unchanged("selector"), validate_template_update(spec, old)];
    first.into_iter().chain(fields.map(unchanged)).flatten().collect()
}

/// Validates that the template changes only in what a suspended Job without pods may change.
fn validate_template_update(spec: &Value, old: &Value) -> Option<FieldError> {
    let old_spec = &old["spec"];
    let (template, mut allowed) = (&spec["template"], old_spec["template"].clone());
    let is_suspended = old_spec["suspend"] == true;
    let has_pods = count(old, &["status", "active"]) > 0;
    let was_started = !at(old, &["status", "startTime"]).is_null();
    let is_mutable = is_suspended && !has_pods && (!was_started || is(old, "Suspended"));
    if is_mutable {
        copy_scheduling(&mut allowed, template);
        copy_resources(&mut allowed["spec"], &template["spec"]);
        return (template["spec"] != allowed["spec"])
            .then(|| immutable("spec.template.spec", &shown("PodSpec", &template["spec"])));
    }
    (*template != allowed).then(|| immutable("spec.template", &shown("PodTemplateSpec", template)))
}

/// Copies the resources of containers of the same name, which a suspended Job may change.
fn copy_resources(pod: &mut Value, new: &Value) {
    for part in ["containers", "initContainers"] {
        let new = list(new, &[part]);
        let old = pod.get_mut(part).and_then(Value::as_array_mut);
        let Some(old) = old.filter(|old| old.len() == new.len()) else { continue };
        for (old, new) in old.iter_mut().zip(new).filter(|(old, new)| old["name"] == new["name"]) {
            copy_field(old, new, "resources");
        }
    }
}

/// Copies the scheduling directives, which may change while a suspended Job has no pods: a queue such
/// as Kueue decides where the pods run.
fn copy_scheduling(template: &mut Value, new: &Value) {
    for field in ["labels", "annotations"] {
        copy_field(&mut template["metadata"], &new["metadata"], field);
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy_field(&mut template["spec"], &new["spec"], field);
    }
    if at(template, &["spec", "affinity"]) != at(new, &["spec", "affinity"]) {
        // Of the affinity, only the part about nodes.
        let rest = |template: &Value| {
            let mut affinity = at(template, &["spec", "affinity"]).clone();
            if let Some(parts) = affinity.as_object_mut() {
                parts.remove("nodeAffinity");
            }
            affinity.as_object().is_some_and(|parts| !parts.is_empty()).then_some(affinity)
        };
        if rest(template) == rest(new) {
            template["spec"]["affinity"] = at(new, &["spec", "affinity"]).clone();
        }
    }
}

/// The first of these states that applies (`printJob`).
fn state(job: &Value) -> &'static str {
    let is = |name: &str| is(job, name);
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if !job["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

/// Succeeded pods of wanted ones; without a number, one success completes the Job.
fn completions(job: &Value) -> String {
    let succeeded = count(job, &["status", "succeeded"]);
    match (job["spec"]["completions"].as_i64(), count(job, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

#[cfg(test)]
mod tests;
