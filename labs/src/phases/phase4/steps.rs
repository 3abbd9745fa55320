//! The steps of phase 4.

use crate::step::{Command, Step};
use Command::{Apply, ApplyEdited, Kubectl, Look};

/// Prints the version that each of many requests got, counted.
const COUNT: Command =
    Look("for i in $(seq 200); do curl -s $SERVICE_URL/version; done | sort | uniq -c");
const PODS: Command = Look("kubectl --namespace get pods -L env -o wide");

pub(super) const ALL: &[Step] =
    &[STABLE, JOIN, QUARTER, EVEN, TENTH, BACK, DITCH, BAD, FIX, PROMOTE, RETIRE];

pub(super) const STABLE: Step = Step {
    id: "stable",
    title: "stable behind its load balancer, as phase 3 left it",
    shows: "Three pods of 1.0 serve behind one address. A canary is always judged against such a stable release.",
    article: &[
        "Now that we have the stable version deployed to the cluster, we can dig into deploying a Canary release.",
    ],
    commands: &[Apply("lb/app-lb.yml"), Apply("lb/app-production.yml"), PODS],
    look: "three pods are 1/1 Running, and app-lb has an external address",
    hints: [
        "Two files: one publishes pods by their label, the other starts three of them.",
        "Apply lb/app-lb.yml and lb/app-production.yml in your namespace.",
    ],
    proves: &[],
};

pub(super) const JOIN: Step = Step {
    id: "join",
    title: "apply app-canary.yml",
    shows: "The canary is a second Deployment that shares `app: kubeapp` and differs in `env` and image. The Service selects by `app` alone, so the new pod joins without a change to the Service.",
    article: &[
        "The difference between 1.0 and 2.0 will only be the value of the Go constant.",
        "Unique metadata to distinguish the Canary Deployment from Stable.",
        "Notice how the label named env is different but both Stable and Canary share the same value of kubeapp for the app label.",
        "We don’t need to do any changes to the LB since it already has a selector applied to the label app: kubeapp which spans across both deployments (Stable and Canary).",
        "So Pods launched via the Canary Deployment will auto-join the LB.",
    ],
    commands: &[
        Apply("lb/app-canary.yml"),
        Look("kubectl --namespace get endpointslices -l kubernetes.io/service-name=app-lb -o wide"),
    ],
    look: "the endpoints of app-lb are four instead of three",
    hints: [
        "A second Deployment whose pods the Service's selector finds as well.",
        "lb/app-canary.yml has the same label `app`, another `env`, one replica and the image of 2.0.",
    ],
    proves: &["canary-differs-by-env", "canary-joins-untouched"],
};

pub(super) const QUARTER: Step = Step {
    id: "quarter",
    title: "send requests at 3:1",
    shows: "One of four pods gets a quarter of the connections, because each connection goes to a pod at random. One client therefore meets both versions.",
    article: &[
        "In this case, we have a 3:1 ratio for stable:canary, so 25% of requests hitting the load balancer will get the Canary release.",
        "We can simulate users hitting the app by executing curl in for loop over the previously set SERVICE_IP.",
        "One problem you’ll bump into pretty fast is that the LB might start switching your session between both versions, making it pretty hard to test 2.0 separately.",
    ],
    commands: &[COUNT],
    look: "about 50 of 200 responses are 2.0, in no order",
    hints: [
        "Nothing has to be changed: send requests and count the versions.",
        "200 requests are enough to see it, thousands to prove it; the check sends those.",
    ],
    proves: &["sessions-flip", "quarter-to-canary"],
};

pub(super) const EVEN: Step = Step {
    id: "even",
    title: "scale to 1:1",
    shows: "With one pod each, half of the requests get 2.0. The share is a matter of replicas and nothing else.",
    article: &[],
    commands: &[
        Kubectl("scale deployment/kubeapp-production --replicas=1"),
        Kubectl("scale deployment/kubeapp-canary --replicas=1"),
        COUNT,
    ],
    look: "about 100 of 200 responses are 2.0",
    hints: [
        "Change the number of pods of one Deployment.",
        "`kubectl scale` sets the replicas of production to 1.",
    ],
    proves: &[],
};

pub(super) const TENTH: Step = Step {
    id: "tenth",
    title: "scale to 9:1",
    shows: "Nine stable pods and one canary give the canary a tenth. A smaller share needs more pods, which is the limit of this technique.",
    article: &[
        "Sets the numbers of replicas we want for the Canary release. This is important since it controls the ratio/percentage of how much of our users are going to hit the Canary release.",
    ],
    commands: &[
        Kubectl("scale deployment/kubeapp-production --replicas=9"),
        Kubectl("scale deployment/kubeapp-canary --replicas=1"),
        COUNT,
    ],
    look: "about 20 of 200 responses are 2.0",
    hints: ["A tenth is one of ten pods.", "`kubectl scale` sets the replicas of production to 9."],
    proves: &["ratio-follows-replicas"],
};

pub(super) const BACK: Step = Step {
    id: "back",
    title: "scale back to three",
    shows: "Production is as it was before. Scaling down ends pods only after they have finished their requests.",
    article: &[],
    commands: &[Kubectl("scale deployment/kubeapp-production --replicas=3"), PODS],
    look: "three pods of production and one of the canary are left",
    hints: ["Undo the last step.", "`kubectl scale` sets the replicas of production to 3."],
    proves: &[],
};

pub(super) const DITCH: Step = Step {
    id: "ditch",
    title: "delete the canary under load",
    shows: "A canary that fails is ditched by deleting its Deployment. The other pods serve on, and no request fails meanwhile.",
    article: &[
        "If one canary deployment fails, the rest of your servers aren’t affected and you can simply ditch it and fix the root cause.",
    ],
    commands: &[Kubectl("delete deployment/kubeapp-canary"), COUNT],
    look: "every response is 1.0",
    hints: [
        "The canary is a Deployment of its own.",
        "Delete deployment/kubeapp-canary while requests are sent.",
    ],
    proves: &["canary-can-be-ditched"],
};

pub(super) const BAD: Step = Step {
    id: "bad",
    title: "apply a canary that never becomes ready",
    shows: "A pod that fails its readiness probe gets no requests. A canary that does not work therefore affects no user.",
    article: &[
        "This effectively exposes new versions to a small set of users, which acts as an early indicator for failures that might happen.",
    ],
    commands: &[
        ApplyEdited(
            "lb/app-canary.yml",
            "/readinessProbe:/,/port:/s#path: /health#path: /not-there#",
        ),
        PODS,
    ],
    look: "the canary's pod is 0/1 Running, and every response is 1.0",
    hints: [
        "Point the readiness probe at a page that the app does not serve.",
        "Edit `path` of `readinessProbe` in a copy of lb/app-canary.yml, and apply the copy.",
    ],
    proves: &["bad-canary-contained"],
};

pub(super) const FIX: Step = Step {
    id: "fix",
    title: "apply app-canary.yml again, as it should be",
    shows: "The root cause is fixed by applying the right manifest. The Deployment replaces the pod that was never ready.",
    article: &[],
    commands: &[Apply("lb/app-canary.yml"), PODS],
    look: "the canary's pod is 1/1 Running",
    hints: [
        "The manifest in the repository has the right probe.",
        "Apply lb/app-canary.yml again.",
    ],
    proves: &[],
};

pub(super) const PROMOTE: Step = Step {
    id: "promote",
    title: "set production's image to the canary's, under load",
    shows: "Setting the image makes a new ReplicaSet, whose pods replace the old ones a few at a time. Because pods are added before others end, no request fails.",
    article: &[
        "Once 2.0 is tested and approved, we can proceed by switching the Docker image used in app-production.yml to 2.0 and then simply re-apply the configuration.",
        "Another route would be to save the image used directly to the k8s API.",
        "This will instruct k8s to launch new pods while terminating the old ones.",
        "Once you test the waters, you can then rollout the changes to the rest of the infrastructure.",
    ],
    commands: &[
        Kubectl("set image deployment/kubeapp-production kubeapp={canary}"),
        Look("kubectl --namespace rollout status deployment/kubeapp-production"),
        Look("kubectl --namespace get replicasets -o wide"),
    ],
    look: "the ReplicaSet of 1.0 has 0 pods, that of 2.0 has three",
    hints: [
        "Production's pod template names the image; change it there.",
        "`kubectl set image` does it, or edit `image` in lb/app-production.yml and apply the file.",
    ],
    proves: &["promotion-by-image", "promotion-drops-nothing"],
};

pub(super) const RETIRE: Step = Step {
    id: "retire",
    title: "delete the canary for good",
    shows: "Once production runs 2.0, the canary has done its work. Without it everything is still 2.0.",
    article: &[
        "By this point, you don’t really need the Canary deployment. You can go ahead and delete it by executing kubectl --namespace=production delete deployment/kubeapp-canary.",
    ],
    commands: &[Kubectl("delete deployment/kubeapp-canary"), COUNT],
    look: "every response is 2.0, from three pods",
    hints: ["Production does the canary's work now.", "Delete deployment/kubeapp-canary."],
    proves: &["canary-retires"],
};
