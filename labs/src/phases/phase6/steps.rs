//! The steps of phase 6.

use crate::phases::gateway::ADDRESS;
use crate::step::{Command, Step};
use Command::{Apply, ApplyEdited, Look};

pub(super) const ALL: &[Step] = &[
    EMPTY, GATEWAY, ZERO, HUNDREDTH, TENTH, HALF, CHANGES, HEADER, COOKIE, MIRROR, PAGES, ONE_WAY,
    STICKY,
];

const COUNT: Command =
    Look("for i in $(seq 200); do curl -s http://$GATEWAY/version; done | sort | uniq -c");

pub(super) const EMPTY: Step = Step {
    id: "empty",
    title: "empty the namespace",
    shows: "This phase starts without Ingress and load balancer. A Gateway takes their place.",
    article: &[],
    commands: &[Look("kubectl --namespace delete all,ingresses --all")],
    look: "no resources found",
    hints: ["Everything was created in one namespace.", "Delete what is in it, Ingresses too."],
    proves: &[],
};

pub(super) const GATEWAY: Step = Step {
    id: "gateway",
    title: "apply one pod of each version, the Gateway and its route",
    shows: "A Gateway is the address that traffic enters by, and routes attach to it by name. Weights are between Services, so that one pod of each version is enough.",
    article: &[],
    commands: &[
        ApplyEdited("ingress/app-production.yml", "s/replicas: 3/replicas: 1/"),
        Apply("ingress/app-canary.yml"),
        Apply("gateway/gateway.yml"),
        Apply("gateway/route-0.yml"),
        Look("kubectl --namespace get gateways,httproutes"),
        ADDRESS,
    ],
    look: "PROGRAMMED is True, and the response says x-route: weight-0",
    hints: [
        "Two Deployments with their Services, a Gateway, and a route between.",
        "The Deployments are those of ingress/; gateway/gateway.yml and gateway/route-0.yml are new.",
    ],
    proves: &["gateway-gets-address"],
};

pub(super) const ZERO: Step = Step {
    id: "zero",
    title: "send requests at weight 0",
    shows: "The canary is ready and in the route, with weight 0. It gets nothing, which is how a canary waits for its first share.",
    article: &[],
    commands: &[COUNT],
    look: "200 times 1.0",
    hints: ["Nothing has to be changed.", "Send requests and count the versions."],
    proves: &["weight-zero-gets-nothing"],
};

pub(super) const HUNDREDTH: Step = Step {
    id: "hundredth",
    title: "set the weights 99:1",
    shows: "One request of a hundred reaches the canary, with one pod of each version. By replicas, that would take a hundred pods.",
    article: &[],
    commands: &[Apply("gateway/route-1.yml"), COUNT],
    look: "about 2 of 200 responses are 2.0",
    hints: ["The share is a number in the route.", "Apply gateway/route-1.yml."],
    proves: &[],
};

pub(super) const TENTH: Step = Step {
    id: "tenth",
    title: "set the weights 90:10",
    shows: "The route is the same object with another number. No pod is started or ended for it.",
    article: &[],
    commands: &[Apply("gateway/route-10.yml"), COUNT],
    look: "about 20 of 200 responses are 2.0",
    hints: ["Only the weights change.", "Apply gateway/route-10.yml."],
    proves: &[],
};

pub(super) const HALF: Step = Step {
    id: "half",
    title: "set the weights 50:50",
    shows: "Half of the requests reach each version. The share follows the weights and nothing else.",
    article: &[
        "Things can even be further developed with Multi-stage Canary deployments and more refined control of traffic weight.",
    ],
    commands: &[Apply("gateway/route-50.yml"), COUNT],
    look: "about 100 of 200 responses are 2.0",
    hints: ["Only the weights change.", "Apply gateway/route-50.yml."],
    proves: &["weights-set-share"],
};

pub(super) const CHANGES: Step = Step {
    id: "changes",
    title: "change the weights four times under load",
    shows: "Requests are sent all the time while the weights go up and down. None is lost, so a share can be changed at any time.",
    article: &[],
    commands: &[
        Apply("gateway/route-1.yml"),
        Apply("gateway/route-50.yml"),
        Apply("gateway/route-10.yml"),
        Apply("gateway/route-0.yml"),
        COUNT,
    ],
    look: "no error between the changes, and 1.0 alone after the last",
    hints: [
        "Let a loop of curl run in another terminal.",
        "Apply route-1.yml, route-50.yml, route-10.yml and route-0.yml of gateway/.",
    ],
    proves: &["weight-change-loses-nothing"],
};

pub(super) const HEADER: Step = Step {
    id: "header",
    title: "send testers to the canary by a header",
    shows: "A rule with a header match comes before the rule without. Testers see the canary in production, and nobody else does.",
    article: &[],
    commands: &[
        Apply("gateway/route-header.yml"),
        Look(
            "curl -s -H 'x-canary: always' http://$GATEWAY/version; curl -s http://$GATEWAY/version",
        ),
    ],
    look: "2.0 with the header, 1.0 without",
    hints: ["Rules may match headers.", "Apply gateway/route-header.yml."],
    proves: &["header-selects-testers"],
};

pub(super) const COOKIE: Step = Step {
    id: "cookie",
    title: "send testers to the canary by a cookie",
    shows: "A cookie is one of several in a header, so the match is a regular expression. A browser keeps the cookie, which makes it a better mark for testers.",
    article: &[],
    commands: &[
        Apply("gateway/route-cookie.yml"),
        Look("curl -s -b 'theme=dark; canary=always' http://$GATEWAY/version"),
    ],
    look: "2.0 with the cookie, 1.0 without it or with another value",
    hints: ["`Cookie` is a header, too.", "Apply gateway/route-cookie.yml."],
    proves: &["cookie-selects-testers"],
};

pub(super) const MIRROR: Step = Step {
    id: "mirror",
    title: "mirror all requests to the canary",
    shows: "The canary gets a copy of each request, and its responses are thrown away. So it is tried with real traffic before the first user sees it.",
    article: &[],
    commands: &[
        Apply("gateway/route-mirror.yml"),
        COUNT,
        Look(
            "kubectl get --raw /api/v1/namespaces/production/pods/$(kubectl --namespace get pods -l env=canary -o jsonpath='{.items[0].metadata.name}'):8080/proxy/served",
        ),
    ],
    look: "every response is 1.0, and /served of the canary's pod grows by 200",
    hints: [
        "A filter of the rule copies requests.",
        "Apply gateway/route-mirror.yml; the canary's pod counts its requests at /served.",
    ],
    proves: &["mirror-is-silent"],
};

pub(super) const PAGES: Step = Step {
    id: "pages",
    title: "load pages of three requests at 25%",
    shows: "Each request draws a version, so the requests of one page may get two. A page of one version and its script of another is how a canary breaks what works in either.",
    article: &[],
    commands: &[
        Apply("gateway/route-25.yml"),
        Look(
            "for i in $(seq 100); do for j in 1 2 3; do curl -s http://$GATEWAY/version; done | sort -u | wc -l; done | sort | uniq -c",
        ),
    ],
    look: "about 44 of 100 pages are of one version, the others of two",
    hints: [
        "Three requests a page, each with its own draw.",
        "Apply gateway/route-25.yml; all three are the same with probability 0.75³ + 0.25³.",
    ],
    proves: &["pages-mix-versions"],
};

pub(super) const ONE_WAY: Step = Step {
    id: "one-way",
    title: "follow users that only the canary keeps",
    shows: "The canary sets a cookie that leads back to it, and stable sets none. A user of stable draws again with every request, so nearly all end up with the canary at a weight of 10%.",
    article: &[],
    commands: &[
        Apply("gateway/route-one-way.yml"),
        Look(
            "for user in $(seq 20); do for i in $(seq 20); do curl -s -b /tmp/jar$user -c /tmp/jar$user http://$GATEWAY/version; done | tail -1; done | sort | uniq -c",
        ),
    ],
    look: "about 17 of 20 users are on 2.0 after 20 requests",
    hints: [
        "Which responses set a cookie?",
        "Apply gateway/route-one-way.yml and let users with a cookie jar send 20 requests each.",
    ],
    proves: &["one-way-sessions-drift"],
};

pub(super) const STICKY: Step = Step {
    id: "sticky",
    title: "follow users that both versions keep",
    shows: "Both versions set a cookie that leads back to them. A user stays with the version of the first response, and a page is never mixed.",
    article: &[],
    commands: &[
        Apply("gateway/route-sticky.yml"),
        Look(
            "rm -f /tmp/jar; for i in $(seq 50); do curl -s -b /tmp/jar -c /tmp/jar http://$GATEWAY/version; done | uniq -c",
        ),
    ],
    look: "one line: 50 times the same version",
    hints: [
        "A cookie for stable as well.",
        "Apply gateway/route-sticky.yml; `uniq -c` counts how often the version stays the same.",
    ],
    proves: &["sessions-stick"],
};
