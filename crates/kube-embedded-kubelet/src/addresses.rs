//! Addresses of the pods of one node.

use std::{collections::HashSet, net::Ipv4Addr};

/// Hands out the addresses of a range in turn, so that one is used again as late as possible: a
/// client that still talks to a pod that is gone should not reach another.
pub(crate) struct Range {
    first: u32,
    size: u32,
    next: u32,
    used: HashSet<u32>,
}

impl Range {
    pub(crate) fn new((first, prefix): (Ipv4Addr, u8)) -> Self {
        let size = 1_u32.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(u32::MAX);
        // Without the network's own address, the node's and the broadcast address.
        Self {
            first: u32::from(first) + 2,
            size: size.saturating_sub(3),
            next: 0,
            used: HashSet::new(),
        }
    }

    /// The next free address; `None` when all are taken.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        for _ in 0..self.size {
            let offset = self.next;
            self.next = (self.next + 1) % self.size;
            if self.used.insert(offset) {
                return Some(Ipv4Addr::from(self.first + offset));
            }
        }
        None
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&u32::from(address).wrapping_sub(self.first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_and_not_used_again_at_once() {
        let mut range = Range::new((Ipv4Addr::new(10, 244, 1, 0), 29));
        let a = range.take().unwrap();
        assert_eq!(a, Ipv4Addr::new(10, 244, 1, 2));
        range.give_back(a);
        let others: Vec<_> = (0..4).map(|_| range.take().unwrap()).collect();
        assert!(!others.contains(&a));
        assert_eq!(others.last(), Some(&Ipv4Addr::new(10, 244, 1, 6)));
        assert_eq!(range.take(), Some(a));
        assert_eq!(range.take(), None);
    }
}
