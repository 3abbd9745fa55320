//! The controls that the level `restricted` adds: current best practices of hardening pods.

use super::{
    Template, Values, Violation, baseline, context, named, plural, quoted, setters, shown,
    violation,
};
use crate::fields::{list, text};

pub(super) fn allow_privilege_escalation(pod: Template<'_>) -> Option<Violation> {
    let names = named(pod, |container| context(container)["allowPrivilegeEscalation"] != false);
    let detail =
        || format!("{} must set securityContext.allowPrivilegeEscalation=false", shown(&names));
    if names.is_empty() { None } else { violation("allowPrivilegeEscalation != false", detail()) }
}

pub(super) fn capabilities(pod: Template<'_>) -> Option<Violation> {
    let keeping = named(pod, |container| {
        !list(context(container), &["capabilities", "drop"]).iter().any(|name| name == "ALL")
    });
    let (adding, added) = baseline::adding_others(pod, &["NET_BIND_SERVICE"]);
    let kept = (!keeping.is_empty()).then(|| {
        format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", shown(&keeping))
    });
    let added = (!adding.is_empty()).then(|| {
        format!("{} must not include {added} in securityContext.capabilities.add", shown(&adding))
    });
    let details: Vec<String> = kept.into_iter().chain(added).collect();
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

pub(super) fn volume_types(pod: Template<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut names, mut types) = (Vec::new(), Values::new());
    for volume in list(pod.spec, &["volumes"]) {
        let sources = volume.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
        let sources: Vec<&str> = sources.filter(|field| *field != "name").collect();
        if !sources.iter().any(|source| ALLOWED.contains(source)) {
            names.push(text(volume, &["name"]));
            types.insert(sources.first().copied().unwrap_or("unknown"));
        }
    }
    if names.is_empty() {
        return None;
    }
    let types: Vec<&str> = types.into_iter().collect();
    let volumes = plural(names.len(), "volume", "volumes");
    let uses = plural(names.len(), "uses", "use");
    let what = plural(types.len(), "restricted volume type", "restricted volume types");
    let detail = format!("{volumes} {} {uses} {what} {}", quoted(&names), quoted(&types));
    violation("restricted volume types", detail)
}

pub(super) fn run_as_non_root(pod: Template<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = &context(pod.spec)["runAsNonRoot"];
    let explicit = named(pod, |container| context(container)["runAsNonRoot"] == false);
    if let Some(setters) = setters(*of_pod == false, &explicit) {
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return violation(REASON, detail);
    }
    let implicit =
        named(pod, |container| *of_pod != true && context(container)["runAsNonRoot"].is_null());
    if implicit.is_empty() {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", shown(&implicit));
    violation(REASON, detail)
}

pub(super) fn run_as_user(pod: Template<'_>) -> Option<Violation> {
    let is_root = |of| context(of)["runAsUser"] == 0;
    let setters = setters(is_root(pod.spec), &named(pod, is_root))?;
    violation("runAsUser=0", format!("{setters} must not set runAsUser=0"))
}

pub(super) fn seccomp_profile(pod: Template<'_>) -> Option<Violation> {
    let explicit = baseline::seccomp_profile(pod);
    if explicit.is_some() || !context(pod.spec)["seccompProfile"].is_null() {
        return explicit;
    }
    let implicit = named(pod, |container| context(container)["seccompProfile"].is_null());
    if implicit.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\"",
        shown(&implicit)
    );
    violation("seccompProfile", detail)
}
