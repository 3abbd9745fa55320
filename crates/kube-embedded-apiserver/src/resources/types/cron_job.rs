//! `cronjobs` (`batch/v1`). Accepted with dry-run only, because no controller runs them here.

use k8s_openapi::api::batch::v1::CronJob;
use serde_json::{Value, json};

use crate::{
    fields::{at, default, default_empty, list, object, text},
    resources::{
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{
            self, AGE, Column, column, container_images, container_names, number, or_none, since,
            wide,
        },
        types::job,
    },
    timestamps,
    validation::{
        field_error::{FieldError, invalid, not_supported, required},
        names::{dns_subdomain, non_negative},
        object_meta::metadata,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["cj"],
    categories: &["all"],
    unsupported: Some("this cluster runs no cron jobs: create a Job"),
    generation: true,
    defaults,
    prepare_create: |cron| cron["status"] = json!({}),
    validate,
    columns: COLUMNS,
    ..ResourceType::of::<CronJob>("cronjob", "io.k8s.api.batch.v1.CronJob")
};

const JOB: &[&str] = &["spec", "jobTemplate", "spec"];

const COLUMNS: &[Column] = &[
    column("Schedule", "#/io.k8s.api.batch.v1.CronJobSpec/schedule", |cron, _| {
        text(cron, &["spec", "schedule"]).into()
    }),
    column("Timezone", "#/io.k8s.api.batch.v1.CronJobSpec/timeZone", |cron, _| {
        or_none(text(cron, &["spec", "timeZone"]))
    }),
    Column {
        kind: "boolean",
        ..column("Suspend", "#/io.k8s.api.batch.v1.CronJobSpec/suspend", |cron, _| {
            (at(cron, &["spec", "suspend"]) == &json!(true)).into()
        })
    },
    number("Active", "#/io.k8s.api.batch.v1.CronJobStatus/active", |cron, _| {
        list(cron, &["status", "active"]).len().into()
    }),
    column("Last Schedule", "#/io.k8s.api.batch.v1.CronJobStatus/lastScheduleTime", |cron, now| {
        match text(cron, &["status", "lastScheduleTime"]) {
            "" => or_none(""),
            time => since(time, now).into(),
        }
    }),
    AGE,
    wide("Containers", "Names of each container in the template.", |cron, _| {
        container_names(at(at(cron, JOB), &["template", "spec"]))
    }),
    wide("Images", "Images referenced by each container in the template.", |cron, _| {
        container_images(at(at(cron, JOB), &["template", "spec"]))
    }),
    wide("Selector", "#/io.k8s.api.batch.v1.JobSpec/selector", |cron, _| {
        table_columns::selector(at(at(cron, JOB), &["selector"]))
    }),
];

/// Stands for `SetDefaults_CronJob`. Those of Jobs are for the Jobs that it makes.
fn defaults(cron: &mut Value) {
    let Some(spec) = object(cron, "spec") else { return };
    default_empty(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    let job = object(spec, "jobTemplate").and_then(|template| object(template, "spec"));
    if let Some(job) = job {
        pod_defaults::template_defaults(job);
    }
}

/// Stands for `ValidateCronJobCreate`. There are no updates, since nothing is stored.
fn validate(cron: &Value, old: Option<&Value>) -> Vec<FieldError> {
    /// The name of a Job is this name and a time.
    const NAME_MAX: usize = 52;
    let spec = &cron["spec"];
    let mut errors = metadata(cron, old, dns_subdomain);
    errors.extend(validate_schedule(text(spec, &["schedule"])));
    if let Some(zone) = spec["timeZone"].as_str() {
        errors.extend(validate_zone(zone));
    }
    const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];
    let policy = &spec["concurrencyPolicy"];
    if !POLICIES.iter().any(|known| policy == known) {
        errors.push(not_supported("spec.concurrencyPolicy", policy, &POLICIES));
    }
    errors.extend(validate_job(at(cron, JOB)));
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]
    {
        errors.extend(non_negative(&spec[field], format!("spec.{field}")));
    }
    let name = text(cron, &["metadata", "name"]);
    if name.len() > NAME_MAX {
        let detail = format!("must be no more than {NAME_MAX} characters");
        errors.push(invalid("metadata.name", &name.into(), &detail));
    }
    errors
}

/// Validates the template of Jobs, for which selectors are always generated.
fn validate_job(spec: &Value) -> Vec<FieldError> {
    let mut errors = job::validate_spec(spec);
    for error in &mut errors {
        error.field = format!("spec.jobTemplate.{}", error.field);
    }
    let path = |field: &str| format!("spec.jobTemplate.spec.{field}");
    if !spec["selector"].is_null() {
        let detail = "`selector` will be auto-generated";
        errors.push(invalid(path("selector"), &spec["selector"], detail));
    }
    if spec["manualSelector"] == true {
        errors.push(not_supported(path("manualSelector"), &true.into(), &["nil", "false"]));
    }
    errors
}

/// Validates a schedule as far as its number of fields, and its time zone, which has a field of its own.
fn validate_schedule(schedule: &str) -> Vec<FieldError> {
    const FIELDS: usize = 5;
    if schedule.is_empty() {
        return vec![required("spec.schedule", "")];
    }
    let mut errors = Vec::new();
    let wrong = |why: &str| invalid("spec.schedule", &schedule.into(), why);
    let is_zoned = schedule.contains("TZ");
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if !is_zoned && !schedule.starts_with('@') && fields.len() != FIELDS {
        let (count, shown) = (fields.len(), fields.join(" "));
        errors.push(wrong(&format!("expected exactly {FIELDS} fields, found {count}: [{shown}]")));
    }
    if is_zoned {
        errors.push(wrong("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
    }
    errors
}

/// Stands for `validateTimeZone`.
fn validate_zone(zone: &str) -> Option<FieldError> {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.starts_with('-')
            && part.len() <= 14
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
    };
    let why = if zone.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if zone.eq_ignore_ascii_case("local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            .to_owned()
    } else if !zone.split('/').all(is_part) || timestamps::time_zone(zone).is_none() {
        format!("unknown time zone {zone}")
    } else {
        return None;
    };
    Some(invalid("spec.timeZone", &zone.into(), &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_job_is_validated_as_in_kubernetes() {
        for (field, value, expected) in [
            ("schedule", json!("@daily"), &[][..]),
            ("schedule", json!(""), &["spec.schedule"]),
            ("schedule", json!("* * *"), &["spec.schedule"]),
            ("schedule", json!("TZ=UTC * * * * *"), &["spec.schedule"]),
            ("timeZone", json!("Local"), &["spec.timeZone"]),
            ("timeZone", json!("../x"), &["spec.timeZone"]),
            ("concurrencyPolicy", json!("x"), &["spec.concurrencyPolicy"]),
            ("failedJobsHistoryLimit", json!(-1), &["spec.failedJobsHistoryLimit"]),
            (
                "jobTemplate",
                json!({ "spec": { "parallelism": -1, "manualSelector": true } }),
                &[
                    "spec.jobTemplate.spec.parallelism",
                    "spec.jobTemplate.spec.template.spec.containers",
                    "spec.jobTemplate.spec.template.spec.restartPolicy",
                    "spec.jobTemplate.spec.manualSelector",
                ],
            ),
        ] {
            let pod = json!({
                "restartPolicy": "Never",
                "containers": [{ "name": "c", "image": "i" }],
            });
            let mut cron = json!({
                "metadata": { "name": "s", "namespace": "d" },
                "spec": {
                    "schedule": "* * * * *",
                    "jobTemplate": { "spec": { "template": { "spec": pod } } },
                },
            });
            cron["spec"][field] = value.clone();
            defaults(&mut cron);
            let errors = validate(&cron, None);
            let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
            assert_eq!(fields, expected, "{field} {value} {errors:?}");
        }
    }
}
