//! The bounds of a rolling update, and proportional scaling.

use super::history::maximum_noted;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// The bounds of one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) replicas: i32,
    /// The number of pods that may exist beyond `replicas`.
    pub(crate) surge: i32,
    /// The number of `replicas` that may be unavailable.
    pub(crate) unavailable: i32,
    pub(crate) recreate: bool,
}

impl Limits {
    /// Resolves the strategy of a deployment; the defaults are those of Kubernetes.
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let default = DeploymentSpec::default();
        let spec = deployment.spec.as_ref().unwrap_or(&default);
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        let recreate = strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate");
        if recreate {
            return Self { replicas, surge: 0, unavailable: 0, recreate };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable =
            rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = resolve(surge, replicas, true);
        // Both may be rounded to zero, and then no pod could ever be replaced.
        let unavailable = match resolve(unavailable, replicas, false) {
            0 if surge == 0 => 1,
            unavailable => unavailable,
        };
        Self { replicas, surge, unavailable: unavailable.min(replicas), recreate }
    }

    /// Returns the maximum number of pods.
    pub(crate) fn maximum(&self) -> i32 {
        self.replicas + self.surge
    }

    /// Returns the minimum number of available pods.
    pub(crate) fn minimum(&self) -> i32 {
        self.replicas - self.unavailable
    }

    /// Returns the size to which the new set may grow from `own` replicas, where `all` exist in total.
    pub(crate) fn new_size(&self, own: i32, all: i32) -> i32 {
        if self.recreate {
            return self.replicas;
        }
        let room = (self.maximum() - all).max(0);
        own + room.min((self.replicas - own).max(0))
    }

    /// Returns the share of a set in `add` more replicas (negative for fewer), of which `added` are
    /// already distributed.
    pub(crate) fn proportion(&self, set: &ReplicaSet, add: i32, added: i32) -> i32 {
        let size = size(set);
        if size == 0 || add == 0 || add == added {
            return 0;
        }
        let share = if self.replicas == 0 {
            -size
        } else {
            let before = maximum_noted(set)
                .filter(|maximum| *maximum > 0)
                .unwrap_or_else(|| set.status.as_ref().map_or(size, |s| s.replicas).max(1));
            let scaled = f64::from(size) * f64::from(self.maximum()) / f64::from(before);
            scaled.round() as i32 - size
        };
        let left = add - added;
        if add > 0 { share.min(left) } else { share.max(left) }
    }
}

/// Returns the desired number of replicas of a set.
pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Resolves a number or percentage of `total`; percentages are rounded up or down.
fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    let whole = match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|n| n.parse().ok()).unwrap_or(0);
            let product = percent.saturating_mul(i64::from(total));
            if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }
        }
    };
    i32::try_from(whole.max(0)).unwrap_or(i32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};

    fn limits(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> Limits {
        Limits::of(&Deployment {
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(surge),
                        max_unavailable: Some(unavailable),
                    }),
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        let percent = |n: &str| IntOrString::String(n.into());
        let cases = [
            (3, percent("25%"), percent("25%"), (1, 0)),
            (10, percent("25%"), percent("25%"), (3, 2)),
            (1, percent("25%"), percent("25%"), (1, 0)),
            (3, IntOrString::Int(0), percent("10%"), (0, 1)),
            (3, IntOrString::Int(2), IntOrString::Int(9), (2, 3)),
            (0, IntOrString::Int(1), IntOrString::Int(1), (1, 0)),
        ];
        for (replicas, surge, unavailable, expected) in cases {
            let text = format!("{replicas} {surge:?} {unavailable:?}");
            let limits = limits(replicas, surge, unavailable);
            assert_eq!((limits.surge, limits.unavailable), expected, "{text}");
        }
    }

    #[test]
    fn new_set_grows_into_the_available_room() {
        let limits = limits(3, IntOrString::Int(1), IntOrString::Int(0));
        for (own, all, expected) in [(0, 0, 3), (0, 3, 1), (1, 4, 1), (1, 3, 2), (3, 3, 3)] {
            assert_eq!(limits.new_size(own, all), expected, "{own} of {all}");
        }
    }
}
