//! `events`.

use super::Kind;

const SELECTABLE: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

pub(super) const KIND: Kind = Kind {
    short_names: &["ev"],
    selectable: SELECTABLE,
    ..Kind::of::<k8s_openapi::api::core::v1::Event>("event", "io.k8s.api.core.v1.Event")
};

pub(super) const EVENTS_KIND: Kind = Kind {
    short_names: &["ev"],
    selectable: SELECTABLE,
    storage: ("", "events"),
    ..Kind::of::<k8s_openapi::api::events::v1::Event>("event", "io.k8s.api.events.v1.Event")
};
