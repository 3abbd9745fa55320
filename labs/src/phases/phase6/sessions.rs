//! Users and pages: what weights do to a client that sends more than one request, and what a cookie
//! does about it.

use super::{Phase6, steps};
use crate::claim::Verdict;
use crate::context::Context;
use crate::phases::gateway::Routed;
use crate::sampler::User;
use crate::statistics::{Plan, TestLevel};
use anyhow::Context as _;
use lab_environment::Alternative;

/// The requests of one page.
const PAGE: u64 = 3;
/// The canary's weight where pages are loaded, and the share of pages of one version that it leads to.
const PAGE_SHARE: f64 = 0.25 * 0.25 * 0.25 + 0.75 * 0.75 * 0.75;
/// The requests of a user whose session drifts, and the share of users on the canary after them, at 10%.
const DRIFT: u64 = 20;
/// Users that stay, and the requests of each.
const STICKY_USERS: u64 = 50;
const STICKY: u64 = 10;

impl Phase6<'_> {
    /// Loads pages of some requests each, which meet both versions.
    pub(super) async fn pages(&self) -> anyhow::Result<()> {
        let Routed { context, .. } = &self.0;
        if context.omits(&["pages-mix-versions"]) {
            return Ok(());
        }
        let plan = plan(context, PAGE_SHARE, [0.65, 0.8])?;
        let _step = context
            .step_as(&steps::PAGES, format!("load {} pages of {PAGE} requests at 25%", plan.n))
            .await;
        context.checking("pages-mix-versions");
        let verdict = match self.0.route("25").await? {
            Err(unrouted) => unrouted.verdict(),
            // Loads are independent: none gets a cookie.
            Ok(()) => match User::crowd(&self.0.sampler(), plan.n, PAGE).await {
                Err(failure) => Verdict::fails(failure.to_string()),
                Ok(pages) => {
                    let one = pages.iter().filter(|page| is_one(page)).count() as u64;
                    let alternative = format!("{}%", percent(plan.alternative));
                    plan.judge("of one version:", &alternative, one, pages.len() as u64)
                }
            },
        };
        context.judge("pages-mix-versions", verdict).await?;
        Ok(())
    }

    /// Follows users that stay only once they have met the canary.
    pub(super) async fn one_way(&self) -> anyhow::Result<()> {
        let Routed { context, .. } = &self.0;
        if context.omits(&["one-way-sessions-drift"]) {
            return Ok(());
        }
        let share = 1.0 - 0.9_f64.powi(DRIFT as i32);
        let plan = plan(context, share, [0.5, 0.5])?;
        let _step = context
            .step_as(&steps::ONE_WAY, format!("follow {} users for {DRIFT} requests", plan.n))
            .await;
        context.checking("one-way-sessions-drift");
        let version = &context.canary()?.version;
        let verdict = match self.0.route("one-way").await? {
            Err(unrouted) => unrouted.verdict(),
            Ok(()) => match User::crowd(&self.0.sampler(), plan.n, DRIFT).await {
                Err(failure) => Verdict::fails(failure.to_string()),
                Ok(users) => {
                    let on_canary = |user: &&Vec<String>| user.last() == Some(version);
                    let drifted = users.iter().filter(on_canary).count() as u64;
                    let first = users.iter().filter(|user| user.first() == Some(version)).count();
                    let alternative = format!("{}%", percent(plan.alternative));
                    let what = format!("users on {version}: {first} at first, at last");
                    plan.judge(&what, &alternative, drifted, users.len() as u64)
                }
            },
        };
        context.judge("one-way-sessions-drift", verdict).await?;
        Ok(())
    }

    /// Follows users that stay with whichever version they met first.
    pub(super) async fn sticky(&self) -> anyhow::Result<()> {
        let Routed { context, .. } = &self.0;
        if context.omits(&["sessions-stick"]) {
            return Ok(());
        }
        let title = format!("follow {STICKY_USERS} users that stay for {STICKY} requests");
        let _step = context.step_as(&steps::STICKY, title).await;
        context.checking("sessions-stick");
        let verdict = match self.0.route("sticky").await? {
            Err(unrouted) => unrouted.verdict(),
            Ok(()) => match User::crowd(&self.0.sampler(), STICKY_USERS, STICKY).await {
                Err(failure) => Verdict::fails(failure.to_string()),
                Ok(users) => stays(&users, &context.canary()?.version),
            },
        };
        context.judge("sessions-stick", verdict).await?;
        Ok(())
    }
}

/// Returns true if all are the same version.
fn is_one(versions: &[String]) -> bool {
    versions.windows(2).all(|pair| pair[0] == pair[1])
}

/// Judges that every user stayed with one version, and that there were users of both.
fn stays(users: &[Vec<String>], canary: &str) -> Verdict {
    let changed = users.iter().filter(|user| !is_one(user)).count();
    let on_canary = users.iter().filter(|user| user.first().is_some_and(|v| v == canary)).count();
    let (n, rest) = (users.len(), users.len() - on_canary);
    let evidence = format!(
        "{changed} of {n} users changed version; {on_canary} on {canary}, {rest} on stable"
    );
    // A route that sends everyone to one version would keep them as well. At 25%, all of 50 users are
    // on stable once in 2e6 runs.
    Verdict::of(changed == 0 && on_canary > 0 && rest > 0, evidence)
        .with(serde_json::json!({ "users": n, "changed": changed, "onCanary": on_canary }))
}

/// Plans the test of a share against an alternative: the second one where requests are dear.
fn plan(context: &Context, share: f64, alternatives: [f64; 2]) -> anyhow::Result<Plan> {
    let dear = context.environment().alternative == Alternative::Even;
    let alternative = alternatives[usize::from(dear)];
    Plan::new(share, alternative, TestLevel::DEFAULT).context("no sample can tell the shares apart")
}

fn percent(share: f64) -> f64 {
    (share * 10_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Outcome;

    #[test]
    fn users_stay_only_if_none_changes_and_both_versions_have_some() {
        let user = |versions: &[&str]| versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        let (old, new) = (user(&["1.0", "1.0"]), user(&["2.0", "2.0"]));
        for (users, outcome) in [
            (vec![old.clone(), new.clone()], Outcome::Holds),
            (vec![old.clone(), new.clone(), user(&["1.0", "2.0"])], Outcome::Fails),
            (vec![old], Outcome::Fails),
            (vec![new], Outcome::Fails),
            (vec![], Outcome::Fails),
        ] {
            assert_eq!(stays(&users, "2.0").outcome, outcome, "{users:?}");
        }
    }

    #[test]
    fn shares_are_those_of_the_sentences() {
        assert_eq!(percent(PAGE_SHARE), 43.75);
        assert_eq!(percent(1.0 - 0.9_f64.powi(DRIFT as i32)), 87.84);
    }
}
