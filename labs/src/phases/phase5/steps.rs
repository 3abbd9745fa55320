//! The steps of phase 5.

use crate::step::{Command, Step};
use Command::{Apply, ApplyEdited, Kubectl, Look};

pub(super) const ALL: &[Step] = &[
    EMPTY, UNREADY, READY, NODE_PORT, DEFAULT, CANARY, RULES, HOSTS, SESSIONS, FANOUT, TLS, PROMOTE,
];

const ASK: Command =
    Look("curl --connect-to \"::$INGRESS\" http://foo.bar/version http://canary.foo.bar/version");

pub(super) const EMPTY: Step = Step {
    id: "empty",
    title: "empty the namespace",
    shows: "This phase starts without the load balancer. Deleting a namespace deletes everything in it.",
    article: &[
        "Ditching the Namespace and recreating it could be achieved by this task: kubectl delete namespace production && kubectl create namespace production.",
    ],
    commands: &[Look("kubectl --namespace delete all --all"), Look("kubectl --namespace get all")],
    look: "no resources found",
    hints: [
        "Everything was created in one namespace.",
        "Delete the namespace and create it again.",
    ],
    proves: &[],
};

pub(super) const UNREADY: Step = Step {
    id: "unready",
    title: "apply production, its readiness held back, and app-ingress",
    shows: "An Ingress publishes Services by HTTP rules. As long as no backend is ready it has nothing to send requests to.",
    article: &[
        "An Ingress is a collection of rules that allow inbound connections to reach the cluster services.",
        "Ingress resources can’t talk to the Deployment object directly, but rather need a Service to publish the Deployment first.",
        "We need to wait for the backends to report HEALTHY before we’re able to access the Ingress resource IP address.",
    ],
    commands: &[
        ApplyEdited(
            "ingress/app-production.yml",
            "/readinessProbe:/,/port:/s#path: /health#path: /not-there#",
        ),
        Apply("ingress/app-ingress-production.yml"),
        Look("eval \"$(cargo xtask env)\" && curl -i http://$INGRESS/version"),
    ],
    look: "503, because no pod is ready",
    hints: [
        "Two files; in the first the readiness probe asks for a missing page.",
        "Apply ingress/app-production.yml with another `path`, and ingress/app-ingress-production.yml.",
    ],
    proves: &[],
};

pub(super) const READY: Step = Step {
    id: "ready",
    title: "fix the readiness probe",
    shows: "Once the pods are ready the Ingress serves. The first good response comes from a ready pod.",
    article: &[
        "Once the healthchecks on the backend starts reporting HEALTHY, we can hit the Ingress address and start testing our setup.",
    ],
    commands: &[Apply("ingress/app-production.yml"), Look("curl -i http://$INGRESS/version")],
    look: "200 and 1.0",
    hints: [
        "The file in the repository has the right probe.",
        "Apply ingress/app-production.yml as it is.",
    ],
    proves: &["backends-healthy-first"],
};

pub(super) const NODE_PORT: Step = Step {
    id: "node-port",
    title: "ask every node at the Service's port",
    shows: "A Service of type NodePort opens one port on every node. Each node forwards it to the pods, wherever they are.",
    article: &[
        "Here we are basically publishing the Pods created by the Deployment via a k8s Service of type NodePort.",
        "Kubernetes master will allocate a port from a flag-configured range (default: 30000–32767), and each Node will proxy that port (the same port number on every Node) into your Service.",
    ],
    commands: &[
        Look("kubectl --namespace get service/kubeapp-production-service"),
        Look("kubectl get nodes -o wide"),
    ],
    look: "PORT(S) is 80:3xxxx/TCP; http://<a node's INTERNAL-IP>:3xxxx/version responds",
    hints: [
        "The port is in the Service, the addresses are in the nodes.",
        "curl http://<node>:<port>/version",
    ],
    proves: &["nodeport-in-range"],
};

pub(super) const DEFAULT: Step = Step {
    id: "default",
    title: "send requests to each page",
    shows: "An Ingress without rules has a default backend. It gets every request, whatever host and path it asks for.",
    article: &[
        "In this situation we are not listing any routes which mean that this will represent the default backend, all requests shall go to this backend.",
    ],
    commands: &[ASK],
    look: "1.0, also for a host that does not exist",
    hints: [
        "Try host names and paths at random.",
        "curl --connect-to sends a request for any host to the Ingress.",
    ],
    proves: &["default-backend-takes-all"],
};

pub(super) const CANARY: Step = Step {
    id: "canary",
    title: "apply the canary",
    shows: "The canary gets a Service of its own, whose selector includes `env`. So each Service has the pods of one version alone.",
    article: &[
        "Querying the k8s API shall show us that Pods are collectively exposed as a Service that listens on an internal IP address. This is also done by the means of a Selector that points to the Label used in the Pods template.",
        "The Canary release is very similar to Stable. The only difference would be the number of replicas, the Docker image to use (2.0 in our case) and related metadata.",
    ],
    commands: &[
        Apply("ingress/app-canary.yml"),
        Look("kubectl --namespace get services,endpointslices"),
    ],
    look: "two Services, with three and one endpoints",
    hints: [
        "Rules route to Services, so the canary needs one.",
        "ingress/app-canary.yml holds the Deployment and the Service.",
    ],
    proves: &["service-internal-address"],
};

pub(super) const RULES: Step = Step {
    id: "rules",
    title: "add the rules for both hosts, while stable has traffic",
    shows: "Applying rules to the Ingress gives the canary a host name. Stable's requests are not affected while that happens.",
    article: &[
        "For us to be able to access the Canary release on a separate subdomain, we need to add some Ingress routes that point to the Canary Service.",
        "This technique is very useful for testing a Canary release in production environments without affecting the Stable version being consumed by your users.",
    ],
    commands: &[
        Apply("ingress/app-ingress-canary.yml"),
        Look("kubectl --namespace describe ingress/app-ingress"),
    ],
    look: "two hosts, each with the Service of one version",
    hints: [
        "The Ingress is the same object, with rules added.",
        "Apply ingress/app-ingress-canary.yml.",
    ],
    proves: &["stable-unaffected"],
};

pub(super) const HOSTS: Step = Step {
    id: "hosts",
    title: "send requests to each host",
    shows: "The version depends on the host name, not on chance. A request for any other host gets the default backend.",
    article: &[
        "The approach we’re using here is name-based virtual hosting, where the Ingress resource will check the host header and judge which service it should send the traffic to.",
        "Sets a default backend. This will match any requests that lands on the IP address of the Ingress with no host headers set, directing it to the production Service that containers the production Pods.",
        "Matches the domain canary.foo.bar and directs the traffic to the k8s Service named kubeapp-canary-service on port 80.",
        "Does the same for the main domain we’re using for our Service foo.bar.",
    ],
    commands: &[ASK],
    look: "1.0 from foo.bar, 2.0 from canary.foo.bar, every time",
    hints: [
        "Send requests to both hosts and to one that does not exist.",
        "curl --connect-to \"::$INGRESS\" http://<host>/version",
    ],
    proves: &["vhost-canary", "vhost-stable", "vhost-default"],
};

pub(super) const SESSIONS: Step = Step {
    id: "sessions",
    title: "stay on each host as one client",
    shows: "One client on one host never changes version. With the load balancer alone it did.",
    article: &[
        "This will make it way easier to test the Canary release separately from the Stable copy.",
    ],
    commands: &[Look(
        "for i in $(seq 50); do curl -s --connect-to \"::$INGRESS\" http://canary.foo.bar/version; done | uniq -c",
    )],
    look: "one line: 50 times 2.0",
    hints: [
        "Send many requests to one host.",
        "`uniq -c` counts how often the version stays the same.",
    ],
    proves: &["sessions-hold"],
};

pub(super) const FANOUT: Step = Step {
    id: "fanout",
    title: "fan out over paths of one host",
    shows: "Rules may differ by path instead of host. Both versions are then on one host.",
    article: &[
        "The same Ingress routes can be modified to work on different URL paths on the same domain instead of using vhosts (a.k.a fanout).",
    ],
    commands: &[
        Apply("ingress/app-ingress-fanout.yml"),
        Look(
            "curl --connect-to \"::$INGRESS\" http://foo.bar/stable/version http://foo.bar/canary/version",
        ),
    ],
    look: "1.0 and 2.0 from one host",
    hints: ["Two paths under one host.", "Apply ingress/app-ingress-fanout.yml."],
    proves: &["fanout-paths"],
};

pub(super) const TLS: Step = Step {
    id: "tls",
    title: "end TLS at the Ingress",
    shows: "The Ingress presents a certificate from a Secret and forwards plain HTTP. The load balancer could not, as it does not read what it forwards.",
    article: &[
        "It can be configured to give services externally-reachable URLs, load balance traffic, terminate SSL, offer name based virtual hosting, and more.",
        "Implementing operational requirements like SSL termination or routing rules isn’t really feasible with the LBs that k8s offers.",
    ],
    commands: &[
        Look(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout key.pem -out cert.pem -subj /CN=foo.bar -addext subjectAltName=DNS:foo.bar,DNS:canary.foo.bar",
        ),
        Kubectl("create secret tls app-tls --cert=cert.pem --key=key.pem"),
        Apply("ingress/app-ingress-tls.yml"),
        Look(
            "eval \"$(cargo xtask env)\" && curl --cacert cert.pem --connect-to \"::$INGRESS_TLS\" https://canary.foo.bar/version",
        ),
    ],
    look: "2.0 over https, with your certificate",
    hints: [
        "A certificate is a Secret of type kubernetes.io/tls.",
        "Make one for both hosts, create the Secret app-tls of it, and apply ingress/app-ingress-tls.yml.",
    ],
    proves: &["tls-terminates"],
};

pub(super) const PROMOTE: Step = Step {
    id: "promote",
    title: "set production's image to the canary's, both hosts under load",
    shows: "Promotion is the same as behind a load balancer. No request fails on either host.",
    article: &[
        "Promoting the Canary version to production can be executed using the same flow discussed earlier: Either use set image or modify the Docker image to use in the production config.",
    ],
    commands: &[
        Apply("ingress/app-ingress-canary.yml"),
        Kubectl("set image deployment/kubeapp-production kubeapp={canary}"),
        Look("kubectl --namespace rollout status deployment/kubeapp-production"),
    ],
    look: "2.0 from both hosts",
    hints: [
        "As in phase 4: the image is in production's pod template.",
        "`kubectl set image`, with the image of 2.0.",
    ],
    proves: &["ingress-promotes"],
};
