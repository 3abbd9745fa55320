//! The steps of phase 7.

use crate::phases::gateway::ADDRESS;
use crate::step::{Command, Step};
use Command::{Apply, ApplyEdited, Kubectl, Look};

pub(super) const ALL: &[Step] = &[EMPTY, STABLE, ERRORS, SLOW, CRASH, WRONG, GOOD, PROMOTE];

const COUNT: Command = Look(
    "for i in $(seq 200); do curl -s -o /dev/null -w '%{http_code} %header{x-pod}\\n' http://$GATEWAY/; done | cut -c 1-20 | sort | uniq -c",
);

pub(super) const EMPTY: Step = Step {
    id: "empty",
    title: "empty the namespace",
    shows: "This phase starts from nothing. It sets up the Gateway of phase 6 again.",
    article: &[],
    commands: &[Look("kubectl --namespace delete all,ingresses,httproutes,gateways --all")],
    look: "no resources found",
    hints: ["Everything was created in one namespace.", "Delete what is in it, Gateways too."],
    proves: &[],
};

pub(super) const STABLE: Step = Step {
    id: "stable",
    title: "apply one pod of each version behind the Gateway, the canary at weight 0",
    shows: "A release is ready before it gets its first user. Its weight is 0 until then.",
    article: &[],
    commands: &[
        ApplyEdited("ingress/app-production.yml", "s/replicas: 3/replicas: 1/"),
        Apply("ingress/app-canary.yml"),
        Apply("gateway/gateway.yml"),
        Apply("gateway/route-0.yml"),
        ADDRESS,
    ],
    look: "every response is 1.0",
    hints: [
        "As in phase 6.",
        "The files of ingress/, then gateway.yml and route-0.yml of gateway/.",
    ],
    proves: &[],
};

/// The stages as far as a bad release may get, and its end.
macro_rules! stages {
    ($($before:expr),*) => {
        &[
            $($before,)*
            Apply("gateway/route-1.yml"),
            Apply("gateway/route-5.yml"),
            Apply("gateway/route-25.yml"),
            Apply("gateway/route-50.yml"),
            COUNT,
            Apply("gateway/route-0.yml"),
        ]
    };
}

pub(super) const ERRORS: Step = Step {
    id: "errors",
    title: "release a canary that fails twice as often as stable",
    shows: "Stable fails for 5% of its requests and the canary for 10%, which no threshold on the canary alone tells apart from a bad day. The analysis compares the two, and the weight goes back to 0.",
    article: &[],
    commands: stages![
        Kubectl("set env deployment/kubeapp-production FAIL_PERCENT=5"),
        Kubectl("set env deployment/kubeapp-canary FAIL_PERCENT=10")
    ],
    look: "twice as many 500 from the canary's pod as its share of the requests",
    hints: [
        "Count failures by pod: every response names its own in x-pod.",
        "Raise the weight step by step, and set it to 0 as soon as the difference is no chance.",
    ],
    proves: &["doubled-errors-roll-back"],
};

pub(super) const SLOW: Step = Step {
    id: "slow",
    title: "release a canary that is slow for a fifth of its users",
    shows: "Four of five responses are as fast as before, so the median shows nothing. The analysis compares the slowest tenth.",
    article: &[],
    commands: stages![
        Kubectl("set env deployment/kubeapp-production FAIL_PERCENT-"),
        Kubectl(
            "set env deployment/kubeapp-canary FAIL_PERCENT- DELAY_PERCENT=20 RESPONSE_DELAY=250"
        )
    ],
    look: "some responses of the canary take 250 ms, with `curl -w '%{time_total}'`",
    hints: [
        "Not the mean and not the median.",
        "Compare the times that 90% of the responses of each version stay below.",
    ],
    proves: &["slow-tail-rolls-back"],
};

pub(super) const CRASH: Step = Step {
    id: "crash",
    title: "release a canary that crashes after a while",
    shows: "The canary works at first, and its container ends a second later. A stage lasts long enough to see that, and a container that ended is reason enough.",
    article: &[],
    commands: stages![Kubectl(
        "set env deployment/kubeapp-canary DELAY_PERCENT- RESPONSE_DELAY- CRASH_AFTER=1"
    )],
    look: "RESTARTS of the canary's pod is above 0",
    hints: [
        "Look at the pods as well as at the responses.",
        "`kubectl get pods` counts how often a container was started again.",
    ],
    proves: &["crash-rolls-back"],
};

pub(super) const WRONG: Step = Step {
    id: "wrong",
    title: "release a canary with a wrong response on one path",
    shows: "The status is 200 and the response is quick, but the page is not the right one. Only a check of the content sees that, and it counts as a failure like any other.",
    article: &[],
    commands: stages![Kubectl("set env deployment/kubeapp-canary CRASH_AFTER- WRONG_PAGE=/")],
    look: "`curl http://$GATEWAY/` sometimes says that you found a bug",
    hints: [
        "Statuses and times are not everything.",
        "Compare the body of each page with what it should be.",
    ],
    proves: &["wrong-answer-rolls-back", "few-users-meet-it"],
};

pub(super) const GOOD: Step = Step {
    id: "good",
    title: "release a canary that is as good as stable, under load",
    shows: "The evidence goes on from stage to stage, and in the last one it is enough to promote. No stage loses a request.",
    article: &[
        "Things can even be further developed with Multi-stage Canary deployments and more refined control of traffic weight.",
    ],
    commands: &[
        Kubectl("set env deployment/kubeapp-canary WRONG_PAGE-"),
        Apply("gateway/route-1.yml"),
        Apply("gateway/route-5.yml"),
        Apply("gateway/route-25.yml"),
        Apply("gateway/route-50.yml"),
        COUNT,
    ],
    look: "about half of the responses are from the canary, and none has failed",
    hints: [
        "Stage by stage, as long as nothing speaks against it.",
        "Apply route-1.yml, -5, -25 and -50 of gateway/, and look in between.",
    ],
    proves: &["stages-set-share"],
};

pub(super) const PROMOTE: Step = Step {
    id: "promote",
    title: "make the canary's image production's, still under load",
    shows: "Production gets the canary's image while all traffic is with the canary. Then it takes the traffic back, and the canary waits for the next release.",
    article: &[],
    commands: &[
        Apply("gateway/route-100.yml"),
        Kubectl("set image deployment/kubeapp-production kubeapp={canary}"),
        Look("kubectl --namespace rollout status deployment/kubeapp-production"),
        Apply("gateway/route-0.yml"),
        COUNT,
    ],
    look: "every response is 2.0, from production's pod",
    hints: [
        "First 100% to the canary, then production itself.",
        "While all traffic is with the canary, `kubectl set image` updates production; then weight 0 again.",
    ],
    proves: &["good-release-promoted", "stages-lose-nothing"],
};
