//! Times as Kubernetes writes them (`metav1.Time`), and its time zones.

use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};
use std::sync::LazyLock;

/// The database in the program, which does not depend on the host's, as that of Kubernetes.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Returns the current time.
pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// Formats a time as `2026-11-23T09:33:35Z`.
pub(crate) fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns the time zone of a name (`Europe/Berlin`), the case of which matters.
pub(crate) fn time_zone(name: &str) -> Option<TimeZone> {
    let zone = ZONES.get(name).ok()?;
    (zone.iana_name() == Some(name)).then_some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, process::Command};

    #[test]
    fn time_zones_are_in_the_program() {
        const CHILD: &str = "TIME_ZONES_OF_A_HOST_WITHOUT_ANY";
        let at: Timestamp = "2026-07-01T12:00:00Z".parse().unwrap();
        for (name, hour) in [
            ("Europe/Berlin", Some(14)),
            ("America/St_Johns", Some(9)),
            ("Etc/UTC", Some(12)),
            ("UTC", Some(12)),
            ("europe/berlin", None),
            ("Nowhere", None),
        ] {
            let found = time_zone(name).map(|zone| zone.to_datetime(at).hour());
            assert_eq!(found, hour, "{name}");
        }
        if env::var_os(CHILD).is_none() {
            let directory = env::temp_dir().join(format!("no-zones-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let name = "timestamps::tests::time_zones_are_in_the_program";
            let status = Command::new(env::current_exe().unwrap())
                .args([name, "--exact"])
                .envs([(CHILD, "1"), ("TZDIR", directory.to_str().unwrap())])
                .status();
            std::fs::remove_dir(&directory).unwrap();
            assert!(status.unwrap().success());
        }
    }
}
