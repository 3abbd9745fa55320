//! Links, addresses and routes of network namespaces, by messages of rtnetlink(7). Each socket speaks
//! for the namespace that it was opened in. Used in forks of the zygote, which may allocate.

use super::syscalls::{Step, check, errno};
use libc::{c_int, nlmsghdr};
use std::net::Ipv4Addr;

/// The index of `lo` in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Attributes that libc does not name (`linux/veth.h`, `linux/if_link.h`).
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;

/// Settings of a link (`linux/ip.h`), as below `/proc/sys/net/ipv4/conf`.
#[derive(Clone, Copy)]
#[repr(u16)]
pub(super) enum LinkSetting {
    Forwarding = 1,
    ReversePathFilter = 8,
    RouteLocalnet = 26,
}

/// An IPv4 network: its first address and the length of its prefix.
pub(super) type Prefix = (Ipv4Addr, u8);

/// One end of a veth pair.
pub(super) struct Veth<'a> {
    pub(super) name: &'a str,
    pub(super) index: u32,
}

/// A route to `to` over a link.
pub(super) struct Route {
    pub(super) to: Prefix,
    /// `RTN_*`.
    pub(super) kind: u8,
    pub(super) link: u32,
    /// The address that packets to there are sent from, if several are possible.
    pub(super) source: Option<Ipv4Addr>,
    /// `RT_TABLE_*`.
    pub(super) table: u8,
}

/// A socket that changes the network namespace that it was opened in.
pub(super) struct Netlink(c_int);

impl Netlink {
    /// Opens a socket for the network namespace of this process.
    pub(super) fn open(step: Step) -> Result<Self, (Step, c_int)> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes plain values.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        check(fd.into(), step).map(Self)
    }

    pub(super) fn bring_up(&self, link: u32) -> Result<(), c_int> {
        let up = libc::IFF_UP as u32;
        self.request(Message::new(libc::RTM_NEWLINK, 0, &link_header(link, up)))
    }

    /// Creates a veth pair, whose ends can be brought up then: one here, the other in the network namespace `to`. Both have
    /// the same address, and no ARP: what leaves at one end is for the other.
    pub(super) fn create_veth(
        &self,
        here: &Veth<'_>,
        there: &Veth<'_>,
        to: Option<c_int>,
        address: [u8; 6],
    ) -> Result<(), c_int> {
        let flags = libc::IFF_NOARP as u32;
        let ends = |message: &mut Message, end: &Veth<'_>| {
            message.attribute(libc::IFLA_IFNAME, end.name.as_bytes());
            message.attribute(libc::IFLA_ADDRESS, &address);
        };
        let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut message = Message::new(libc::RTM_NEWLINK, create, &link_header(here.index, flags));
        ends(&mut message, here);
        message.nest(libc::IFLA_LINKINFO, |info| {
            info.attribute(libc::IFLA_INFO_KIND, b"veth");
            info.nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.bytes.extend(link_header(there.index, flags));
                    ends(peer, there);
                    if let Some(fd) = to {
                        peer.attribute(libc::IFLA_NET_NS_FD, &fd.to_ne_bytes());
                    }
                });
            });
        });
        self.request(message)
    }

    /// Changes settings of a link, which needs no access to `/proc/sys`.
    pub(super) fn set(&self, link: u32, settings: &[(LinkSetting, u32)]) -> Result<(), c_int> {
        let mut message = Message::new(libc::RTM_SETLINK, 0, &link_header(link, 0));
        message.nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(libc::AF_INET as u16, |inet| {
                inet.nest(IFLA_INET_CONF, |values| {
                    for (setting, value) in settings {
                        values.attribute(*setting as u16, &value.to_ne_bytes());
                    }
                });
            });
        });
        self.request(message)
    }

    /// Assigns an address to a link. It may have it already.
    pub(super) fn add_address(&self, link: u32, (address, prefix): Prefix) -> Result<(), c_int> {
        let [a, b, c, d] = link.to_ne_bytes();
        let header = [libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE, a, b, c, d];
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = Message::new(libc::RTM_NEWADDR, flags, &header);
        message.attribute(libc::IFA_LOCAL, &address.octets());
        message.attribute(libc::IFA_ADDRESS, &address.octets());
        self.request(message)
    }

    /// Adds a route, in place of one to the same network.
    pub(super) fn add_route(&self, route: &Route) -> Result<(), c_int> {
        let (network, prefix) = route.to;
        let scope = match route.kind {
            libc::RTN_LOCAL => libc::RT_SCOPE_HOST,
            libc::RTN_UNICAST => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let family = libc::AF_INET as u8;
        let boot = libc::RTPROT_BOOT;
        let header = [family, prefix, 0, 0, route.table, boot, scope, route.kind, 0, 0, 0, 0];
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = Message::new(libc::RTM_NEWROUTE, flags, &header);
        if prefix > 0 {
            message.attribute(libc::RTA_DST, &network.octets());
        }
        if route.kind != libc::RTN_UNREACHABLE {
            message.attribute(libc::RTA_OIF, &route.link.to_ne_bytes());
        }
        if let Some(source) = route.source {
            message.attribute(libc::RTA_PREFSRC, &source.octets());
        }
        self.request(message)
    }

    /// Sends a request and returns the `errno` that it is answered with.
    fn request(&self, message: Message) -> Result<(), c_int> {
        const HEADER: usize = size_of::<nlmsghdr>();
        let bytes = message.finish();
        let mut answer = [0_u8; 1024];
        // SAFETY: pointers and lengths are of `bytes` and `answer`; the socket is open until `self` is
        // dropped. The kernel answers each request before `send` returns.
        let read = unsafe {
            if libc::send(self.0, bytes.as_ptr().cast(), bytes.len(), 0) < 0 {
                return Err(errno());
            }
            libc::recv(self.0, answer.as_mut_ptr().cast(), answer.len(), 0)
        };
        if read < 0 {
            return Err(errno());
        }
        // The answer is an error message, whose error is 0 or negative.
        let code = answer.get(HEADER..).and_then(|rest| rest.first_chunk());
        match code.map_or(-libc::EBADMSG, |code| c_int::from_ne_bytes(*code)) {
            0 => Ok(()),
            code => Err(-code),
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        // SAFETY: the descriptor was opened by `open` and belongs to this value alone.
        unsafe { libc::close(self.0) };
    }
}

/// `struct ifinfomsg`. Flags that are not set are left as they are.
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    for (to, from) in
        header.iter_mut().skip(4).zip([index, flags, flags].map(u32::to_ne_bytes).as_flattened())
    {
        *to = *from;
    }
    header
}

/// A request that is being built: a header, and attributes that begin at multiples of four.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: c_int, body: &[u8]) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence number and port: one request at a time needs neither.
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.bytes.extend(value));
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        if let Some(field) = self.bytes.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.bytes.len() as u32).to_ne_bytes();
        if let Some(field) = self.bytes.first_chunk_mut() {
            *field = length;
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_nested_and_padded() {
        let mut message = Message::new(7, 0, b"body");
        message.nest(1, |outer| {
            outer.attribute(2, b"a");
            outer.attribute(3, b"four");
        });
        let bytes = message.finish();
        assert_eq!(bytes.len(), 16 + 4 + 4 + 8 + 8);
        assert_eq!(bytes[..4], 40_u32.to_ne_bytes());
        let length = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!((length(20), length(24), length(32)), (20, 5, 8));
        assert_eq!(&bytes[28..32], b"a\0\0\0");
    }

    #[test]
    fn link_is_named_by_index_and_only_its_given_flags_change() {
        assert_eq!(link_header(7, 1)[4..8], 7_u32.to_ne_bytes());
        assert_eq!(link_header(7, 1)[8..12], link_header(7, 1)[12..16]);
    }
}
