//! The limits of this machine that a run needs.

use anyhow::bail;

/// The number of files that this process and the cluster that it shares a session with may need to open:
/// a connection in flight takes up to three.
const OPEN_FILES: u64 = 1024;

/// Returns an error if the limit of open files is too small. Claims would fail for it, although the
/// cluster is not at fault.
pub(super) fn check() -> anyhow::Result<()> {
    // Only Linux has this file; elsewhere nothing is known.
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    check_open_files(&text)
}

fn check_open_files(limits: &str) -> anyhow::Result<()> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    // The soft limit may be raised up to the hard one, which the cluster does.
    let hard = line.and_then(|line| line.split_whitespace().nth(1));
    if let Some(hard) = hard.and_then(|text| text.parse::<u64>().ok())
        && hard < OPEN_FILES
    {
        bail!(
            "the limit of open files is {hard}, and these labs need {OPEN_FILES}: run \
             `ulimit -n {OPEN_FILES}` in this shell, or in a new one if it is refused"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_limit_of_open_files_is_an_error_with_a_remedy() {
        let limits = |soft: &str, hard: &str| {
            format!("Limit  Soft  Hard  Units\nMax open files            {soft}  {hard}  files\n")
        };
        for (soft, hard, right) in [
            ("1024", "1024", true),
            ("256", "524288", true),
            ("unlimited", "unlimited", true),
            ("256", "256", false),
            ("64", "1023", false),
        ] {
            let found = check_open_files(&limits(soft, hard));
            assert_eq!(found.is_ok(), right, "{soft} {hard}");
            if let Err(error) = found {
                let error = error.to_string();
                assert!(error.contains(hard) && error.contains("ulimit -n 1024"), "{error}");
            }
        }
        assert!(check_open_files("").is_ok());
        check().unwrap();
    }
}
