//! The steps of phase 3.

use crate::step::{Command, Step};
use Command::{Apply, ApplyEdited, Kubectl, Look};

const COUNT: Command =
    Look("for i in $(seq 100); do curl -s $SERVICE_URL/version; done | sort | uniq -c");

pub(super) const ALL: &[Step] =
    &[DEPLOY, PUBLISH, BALANCE, UNREADY, READY, HEAL, SCALE, REPLACE, NAMESPACE];

pub(super) const DEPLOY: Step = Step {
    id: "deploy",
    title: "apply app-production.yml",
    shows: "A Deployment makes a ReplicaSet, which makes three pods on the nodes. Events record each of these actions.",
    article: &[
        "ReplicaSets (RS for short) ensures that a specific number of pod replicas are running at any one time.",
        "A Deployment is a higher-level concept that manages ReplicaSets and provides declarative updates to pods along with a lot of other useful features.",
        "You describe a desired state in a Deployment object, and the Deployment controller changes the actual state to the desired state at a controlled rate.",
        "In this example, we are configuring a template to have 3 copies/replicas of the same container.",
        "Now we can finally proceed by rolling out the Deployment.",
        "We can check the progress of the rollout via the rollout status command.",
        "Looking closely, you’ll find that k8s distributed the Pods across 3 worker Nodes.",
        "Another command that can also be very useful is get events.",
    ],
    commands: &[
        Apply("lb/app-production.yml"),
        Look("kubectl --namespace rollout status deployment/kubeapp-production"),
        Look("kubectl --namespace get deployments,replicasets,pods -o wide"),
        Look("kubectl --namespace get events --sort-by=.lastTimestamp"),
    ],
    look: "one ReplicaSet, three pods that are 1/1 Running, on more than one node",
    hints: [
        "You rarely create pods; describe how many you want.",
        "lb/app-production.yml describes three; apply it in your namespace.",
    ],
    proves: &["rollout-completes", "deployment-owns-replicaset", "pods-spread", "events-tell"],
};

pub(super) const PUBLISH: Step = Step {
    id: "publish",
    title: "apply app-lb.yml and wait for its address",
    shows: "A Service of type LoadBalancer finds pods by a label and publishes them at one address. It gets the address some time after it was created.",
    article: &[
        "Here’s how to define a load balancer as a Service that points to the Pods created earlier.",
        "LB is listening on port 80 directing the requests to TCP port of 8080 on the backend.",
        "In the LB definition, we can simply use a selector on the very same label so that the LB can auto-discover which Pods it can direct traffic for.",
        "Cloud LBs are created asynchronously, once it is done, you can grab the public IP addresses of the LB using the get command.",
    ],
    commands: &[
        Apply("lb/app-lb.yml"),
        Look("kubectl --namespace get service/app-lb"),
        Look("eval \"$(cargo xtask env)\" && curl $SERVICE_URL/version"),
    ],
    look: "EXTERNAL-IP is an address instead of <pending>",
    hints: [
        "Pods are mortal; something else has to keep the address.",
        "lb/app-lb.yml is a Service; apply it.",
    ],
    proves: &["lb-finds-pods", "lb-gets-address"],
};

pub(super) const BALANCE: Step = Step {
    id: "balance",
    title: "send requests to the load balancer",
    shows: "Every request gets 1.0. The connections spread over the three pods evenly.",
    article: &[
        "For most workloads, you’ll have multiple instances of the same Pod where the workload will be distributed across them using some form of load balancing.",
    ],
    commands: &[COUNT],
    look: "100 times 1.0",
    hints: [
        "Nothing has to be changed: send requests.",
        "curl in a loop, `sort | uniq -c` to count.",
    ],
    proves: &["stable-serves-all", "load-spreads"],
};

pub(super) const UNREADY: Step = Step {
    id: "unready",
    title: "add a pod that never becomes ready",
    shows: "A pod runs, but its readiness probe fails. The load balancer sends it nothing.",
    article: &[
        "readinessProbe defines a health check to run against the Pod (calling /health on port 8080 in this case).",
    ],
    commands: &[
        ApplyEdited(
            "lb/app-production.yml",
            "s/kubeapp-production/kubeapp-unready/;s/env: production/env: unready/;s/replicas: 3/replicas: 1/;/readinessProbe:/,/port:/s#path: /health#path: /not-there#",
        ),
        Look("kubectl --namespace get pods -L env"),
        COUNT,
    ],
    look: "the new pod is 0/1 Running, and requests succeed as before",
    hints: [
        "A second Deployment with the label `app: kubeapp` whose probe asks for a missing page.",
        "Copy lb/app-production.yml: another name and `env`, one replica, another `path` of readinessProbe.",
    ],
    proves: &["readiness-gates"],
};

pub(super) const READY: Step = Step {
    id: "remove-unready",
    title: "delete the pod that never became ready",
    shows: "Deleting a Deployment deletes its ReplicaSet and pods. The others are not affected.",
    article: &[],
    commands: &[Kubectl("delete deployment/kubeapp-unready")],
    look: "three pods are left",
    hints: ["It is a Deployment of its own.", "Delete deployment/kubeapp-unready."],
    proves: &[],
};

pub(super) const HEAL: Step = Step {
    id: "heal",
    title: "delete a pod",
    shows: "A deleted pod is replaced by another. The ReplicaSet keeps the number that was asked for.",
    article: &[
        "It’ll make sure that the exact same number is always alive according to the Pod’s lifecycle.",
        "Here are some benefits you get “for free” by simply adopting a Scheduler for your containers: Self-healing, horizontal scaling, service discovery, load distribution, deployment management and a ton more.",
    ],
    commands: &[
        Kubectl(
            "delete pod/$(kubectl get pods -l app=kubeapp,env=production -o name | head -1 | cut -d/ -f2)",
        ),
        Look("kubectl --namespace get pods"),
    ],
    look: "one pod is younger than the others",
    hints: [
        "Take away a pod and count.",
        "`kubectl delete pod/<name>`, with a name from `kubectl get pods`.",
    ],
    proves: &["self-heals"],
};

pub(super) const SCALE: Step = Step {
    id: "scale",
    title: "scale to five and back to three",
    shows: "The number of replicas is a field of the Deployment. Changing it starts or ends pods.",
    article: &["You simply tell k8s that you need an x number of replicas of some Pod."],
    commands: &[
        Kubectl("scale deployment/kubeapp-production --replicas=5"),
        Kubectl("scale deployment/kubeapp-production --replicas=3"),
        Look("kubectl --namespace get pods"),
    ],
    look: "five pods, then three",
    hints: ["It is the field `replicas`.", "`kubectl scale` changes it without an editor."],
    proves: &["scales"],
};

pub(super) const REPLACE: Step = Step {
    id: "replace",
    title: "change the template, and replace every pod",
    shows: "A change of the pod template does not change pods that exist: the rollout replaces them. The Service keeps its address through all of it.",
    article: &[
        "Rather than specifying the current desired state of all replicas, pod templates are like cookie cutters. Once a cookie has been cut, the cookie has no relationship to the cutter.",
        "The main difference between Pods and Services is that Pods are mortal (so if they respawn, network addressing can change), Services on the other hand, can be identified by attaching Labels to them for later reference with no worries about addressing.",
    ],
    commands: &[
        Kubectl("rollout pause deployment/kubeapp-production"),
        Kubectl(
            "patch deployment/kubeapp-production -p '{\"spec\":{\"template\":{\"metadata\":{\"annotations\":{\"canary-labs.dev/cut\":\"second\"}}}}}'",
        ),
        Look("kubectl --namespace get pods"),
        Kubectl("rollout resume deployment/kubeapp-production"),
        Look("kubectl --namespace rollout status deployment/kubeapp-production"),
    ],
    look: "the same pods while the rollout is paused, others after it; the same EXTERNAL-IP",
    hints: [
        "Change an annotation of the template, not of the Deployment.",
        "Pause the rollout first to see that pods do not change.",
    ],
    proves: &["template-is-a-cutter", "service-outlives-pods"],
};

pub(super) const NAMESPACE: Step = Step {
    id: "namespace",
    title: "list what is in `production` and in `default`",
    shows: "Objects live in a namespace, and other namespaces do not list them. So production and staging fit on one cluster.",
    article: &[
        "Kubernetes supports multiple virtual clusters backed by the same physical cluster. These virtual clusters are called namespaces.",
        "All k8s resources created via the Deployment will reside in the production Namespace. So in order to access them, we need to always add the--namespace argument.",
    ],
    commands: &[Look("kubectl --namespace get all"), Look("kubectl --namespace=default get all")],
    look: "the app is in the first list and not in the second",
    hints: ["Every command so far had the argument --namespace.", "List both namespaces."],
    proves: &["namespace-holds"],
};
