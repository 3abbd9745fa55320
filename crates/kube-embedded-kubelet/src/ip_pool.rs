//! The addresses of the pods of one node.

use std::{collections::HashSet, net::Ipv4Addr};

/// Allocates the addresses of a range in turn, so that each is reused as late as possible: a client
/// that still talks to a deleted pod should not reach another.
pub(crate) struct IpPool {
    first: u32,
    size: u32,
    next: u32,
    used: HashSet<u32>,
}

impl IpPool {
    /// A pool of the addresses of a network, given by its first address and prefix length.
    pub(crate) fn new((first, prefix): (Ipv4Addr, u8)) -> Self {
        let size = 1_u32.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(u32::MAX);
        // Without the network address, the node's and the broadcast address.
        Self {
            first: u32::from(first) + 2,
            size: size.saturating_sub(3),
            next: 0,
            used: HashSet::new(),
        }
    }

    /// Returns the next free address, or `None` when all are in use.
    pub(crate) fn allocate(&mut self) -> Option<Ipv4Addr> {
        for _ in 0..self.size {
            let offset = self.next;
            self.next = (self.next + 1) % self.size;
            if self.used.insert(offset) {
                return Some(Ipv4Addr::from(self.first + offset));
            }
        }
        None
    }

    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&u32::from(address).wrapping_sub(self.first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_address_is_reused_last() {
        let mut pool = IpPool::new((Ipv4Addr::new(10, 244, 1, 0), 29));
        let a = pool.allocate().unwrap();
        assert_eq!(a, Ipv4Addr::new(10, 244, 1, 2));
        pool.release(a);
        let others: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
        assert!(!others.contains(&a));
        assert_eq!(others.last(), Some(&Ipv4Addr::new(10, 244, 1, 6)));
        assert_eq!(pool.allocate(), Some(a));
        assert_eq!(pool.allocate(), None);
    }
}
