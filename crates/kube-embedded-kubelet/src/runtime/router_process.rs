//! The router itself: a process that holds the network namespace between the pods of a cluster, links
//! pods to it and creates sockets in it. Forked from the zygote like a pause process.
//!
//! Each pod has a veth pair of which one end is here, with a route to the pod's address alone. The
//! kernel forwards between them, and discards what claims to come from an address of another pod.
//! Nothing else is here but `lo`, to which the addresses of Services are local.

use super::{
    netlink::{LOOPBACK, LinkSetting, Netlink, Prefix, Route, Veth},
    pause_process::{PARENT, SOCKET, keep_only, unshare_as},
    privileges,
    socket_request::{SocketKind, SocketRequest},
    socket_server,
    syscalls::{self, Done, Step, check},
    wire::wire,
};
use libc::c_int;
use std::{fs, net::Ipv4Addr};

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_SYS_ADMIN, in the user namespace of the router.
const CAPABILITIES: u64 = 1 << 10 | 1 << 12 | 1 << 21;
/// The index of a pod's own end of its link, after `lo`.
const ETH0: u32 = 2;
/// All other ends are numbered from here.
const FIRST_LINK: u32 = 10;

/// The network of a cluster that is wanted.
pub(super) struct RouterRequest {
    /// Set if the router has a user namespace of its own, of which those of the pods are children: who
    /// is not root can link only those. It has no other ids than those of the cluster process.
    pub(super) own_user_namespace: bool,
    /// The first address and prefix length of the addresses of Services and of those of pods.
    pub(super) services: (u32, u8),
    pub(super) pods: (u32, u8),
    /// Set if it is not known whether links of pods can be created here.
    pub(super) tries_link: bool,
}
wire!(RouterRequest { own_user_namespace, services, pods, tries_link });

/// Runs in a fork of the zygote.
pub(super) fn run(request: &RouterRequest, socket: c_int) -> ! {
    keep_only(socket);
    let mut router = match start(request) {
        Ok(router) => router,
        Err((step, error)) => {
            syscalls::report(SOCKET, step as u32, error);
            syscalls::exit_now(1)
        }
    };
    syscalls::die_with_parent(PARENT);
    syscalls::report(SOCKET, syscalls::READY, 0);
    socket_server::serve(SOCKET, move |request, namespace| router.link(request, namespace))
}

fn start(request: &RouterRequest) -> Result<Router, (Step, c_int)> {
    if request.own_user_namespace {
        // SAFETY: both take no arguments and cannot fail.
        let own = unsafe { (libc::geteuid(), libc::getegid()) };
        unshare_as(own, libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    } else {
        // SAFETY: unshare takes a plain value.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) }.into(), Step::Namespaces)?;
    }
    privileges::set_capabilities(CAPABILITIES)?;
    let router = Router { netlink: Netlink::open(Step::Router)?, next_link: FIRST_LINK };
    router.set_up(request).map_err(|error| (Step::Router, error))?;
    tune()?;
    Ok(router)
}

/// Changes settings that have no message. Only what security depends on has to work.
fn tune() -> Done {
    const PATH_FILTER: &str = "/proc/sys/net/ipv4/conf/all/rp_filter";
    // A stricter setting for all links would not harm, but a looser one would override ours.
    syscalls::write_file(c"/proc/sys/net/ipv4/conf/all/rp_filter", 0, b"0");
    if fs::read_to_string(PATH_FILTER).is_ok_and(|text| text.trim() == "2") {
        return Err((Step::Router, libc::EROFS));
    }
    // A client of an address that no pod has gets a refusal each time, not one a second.
    syscalls::write_file(c"/proc/sys/net/ipv4/icmp_ratelimit", 0, b"0");
    // The cluster connects to pods from few addresses, thousands of times a second.
    syscalls::write_file(c"/proc/sys/net/ipv4/ip_local_port_range", 0, b"10000 65535");
    syscalls::write_file(c"/proc/sys/net/ipv4/tcp_tw_reuse", 0, b"1");
    Ok(())
}

struct Router {
    netlink: Netlink,
    next_link: u32,
}

impl Router {
    fn set_up(&self, request: &RouterRequest) -> Result<(), c_int> {
        let prefix = |(first, length): (u32, u8)| (Ipv4Addr::from(first), length);
        self.netlink.bring_up(LOOPBACK)?;
        for (to, kind, table) in [
            // Listeners can have any of these addresses; where none listens, clients are refused.
            (prefix(request.services), libc::RTN_LOCAL, libc::RT_TABLE_LOCAL),
            // An address that no pod has.
            (prefix(request.pods), libc::RTN_UNREACHABLE, libc::RT_TABLE_MAIN),
        ] {
            self.netlink.add_route(&Route { to, kind, link: LOOPBACK, source: None, table })?;
        }
        if !request.tries_link {
            return Ok(());
        }
        // Where links cannot be created or set up, this is the time to find out. Both ends stay down: deleting them
        // would take the kernel 18 ms, in which it makes no other link.
        let ends = [Veth { name: "try0", index: 3 }, Veth { name: "try1", index: 4 }];
        let [here, there] = &ends;
        self.netlink.create_veth(here, there, None, link_address(Ipv4Addr::UNSPECIFIED))?;
        self.configure(here.index)
    }

    /// Has the kernel forward what comes in at a link, if it comes from an address that is routed there.
    fn configure(&self, link: u32) -> Result<(), c_int> {
        // The addresses of nodes are in the loopback range.
        self.netlink.set(
            link,
            &[
                (LinkSetting::Forwarding, 1),
                (LinkSetting::ReversePathFilter, 1),
                (LinkSetting::RouteLocalnet, 1),
            ],
        )
    }

    /// Links a pod's network namespace to this one.
    fn link(&mut self, request: SocketRequest, namespace: c_int) -> Done {
        if request.kind != SocketKind::Link {
            return Err((Step::Request, libc::EINVAL));
        }
        let index = self.next_link;
        self.next_link = self.next_link.checked_add(1).unwrap_or(FIRST_LINK);
        let there = in_network(namespace, || Netlink::open(Step::Link))?;
        self.connect(&there, request, namespace, index).map_err(|error| (Step::Link, error))
    }

    fn connect(
        &self,
        there: &Netlink,
        request: SocketRequest,
        namespace: c_int,
        index: u32,
    ) -> Result<(), c_int> {
        let pod = request.address;
        let address = link_address(pod);
        let here = Veth { name: &format!("pod{index}"), index };
        let eth0 = Veth { name: "eth0", index: ETH0 };
        self.netlink.create_veth(&here, &eth0, Some(namespace), address)?;
        self.configure(index)?;
        self.netlink.bring_up(index)?;
        // Connections of the cluster come from the first address of the node, as those of a kubelet do.
        let [a, b, c, _] = pod.octets();
        let gateway = Ipv4Addr::new(a, b, c, 1);
        self.netlink.add_address(LOOPBACK, (gateway, 32))?;
        self.netlink.add_route(&unicast((pod, 32), index, Some(gateway), libc::RT_TABLE_MAIN))?;

        there.bring_up(ETH0)?;
        there.set(ETH0, &[(LinkSetting::RouteLocalnet, 1)])?;
        there.add_address(ETH0, (pod, 32))?;
        there.add_route(&unicast((Ipv4Addr::UNSPECIFIED, 0), ETH0, None, libc::RT_TABLE_MAIN))?;
        // More specific than 127.0.0.0/8, in the table that is asked before all others.
        let nodes = (Ipv4Addr::new(127, request.port as u8, 0, 0), 16);
        there.add_route(&unicast(nodes, ETH0, Some(pod), libc::RT_TABLE_LOCAL))
    }
}

fn unicast(to: Prefix, link: u32, source: Option<Ipv4Addr>, table: u8) -> Route {
    Route { to, kind: libc::RTN_UNICAST, link, source, table }
}

/// Calls `work` in another network namespace.
fn in_network<T>(
    namespace: c_int,
    work: impl FnOnce() -> Result<T, (Step, c_int)>,
) -> Result<T, (Step, c_int)> {
    let enter = |fd| {
        // SAFETY: setns takes plain values; this process has one thread.
        check(unsafe { libc::setns(fd, libc::CLONE_NEWNET) }.into(), Step::Enter)
    };
    // SAFETY: the path is NUL-terminated; the descriptor is closed below.
    let own =
        unsafe { libc::open(c"/proc/self/ns/net".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    check(own.into(), Step::Enter)?;
    let result = enter(namespace).and_then(|_| work());
    let back = enter(own);
    // SAFETY: it was opened above and is used no more.
    unsafe { libc::close(own) };
    // Anywhere else this process would be of no use, and a danger.
    back.map_err(|_| syscalls::exit_now(1)).and(result)
}

/// Returns the link-layer address of a pod, which contains its address as those of other clusters do.
fn link_address(pod: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = pod.octets();
    [0x0a, 0x58, a, b, c, d]
}
