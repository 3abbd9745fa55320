//! The pool of external addresses and their owners.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

/// Addresses tried before a port in use is published on another port: a program that listens on
/// 0.0.0.0 occupies it on all of them.
const ADDRESSES_TRIED: usize = 4;

/// The external addresses of a cluster and their owners: Services by uid, or namespaces with
/// Ingresses by name.
#[derive(Debug)]
pub(crate) struct AddressPool {
    all: Vec<Ipv4Addr>,
    owners: BTreeMap<Ipv4Addr, String>,
}

/// Addresses that an owner may be given, best first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidates {
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// Why `spec.loadBalancerIP` is not among them.
    pub(crate) refused: Option<String>,
}

impl AddressPool {
    pub(crate) fn new(all: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self { all: all.into_iter().collect(), owners: BTreeMap::new() }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if self.all.contains(&v4))
    }

    /// Returns whether the address is in the pool and has no other owner.
    pub(crate) fn is_available(&self, address: Ipv4Addr, owner: &str) -> bool {
        self.all.contains(&address) && self.owners.get(&address).is_none_or(|other| other == owner)
    }

    /// Assigns the address unless it has another owner. An owner has one address at most.
    pub(crate) fn assign(&mut self, address: Ipv4Addr, owner: &str) -> bool {
        let previous = self.owners.get(&address);
        if previous.is_some_and(|previous| previous == owner) {
            return true;
        }
        if previous.is_some() || !self.all.contains(&address) {
            return false;
        }
        self.release(owner);
        tracing::info!(%address, owner, "external address assigned");
        self.owners.insert(address, owner.to_owned());
        true
    }

    /// Takes the owner's address back.
    pub(crate) fn release(&mut self, owner: &str) {
        self.owners.retain(|address, other| {
            let keep = other != owner;
            if !keep {
                tracing::info!(%address, owner, "external address released");
            }
            keep
        });
    }

    /// Returns the owner's address if it has one, or free ones. A free address that
    /// `spec.loadBalancerIP` requests comes first.
    pub(crate) fn candidates(&self, owner: &str, requested: Option<&str>) -> Candidates {
        let is_free = |a: &Ipv4Addr| self.owners.get(a).is_none_or(|other| other == owner);
        let mut refused = None;
        match requested.filter(|text| !text.is_empty()).map(|text| (text, text.parse())) {
            Some((_, Ok(address))) if self.all.contains(&address) && is_free(&address) => {
                return Candidates { addresses: vec![address], refused };
            }
            Some((text, Ok(address))) if self.all.contains(&address) => {
                refused = Some(format!("spec.loadBalancerIP {text} is in use by another Service"));
            }
            Some((text, _)) => {
                let pool = match (self.all.first(), self.all.last()) {
                    (Some(first), Some(last)) => format!("{first} to {last}"),
                    _ => "empty".to_owned(),
                };
                refused = Some(format!("spec.loadBalancerIP {text} is not in the pool, {pool}"));
            }
            None => {}
        }
        let own = self.owners.iter().find(|(_, other)| *other == owner).map(|(a, _)| *a);
        let addresses = match own {
            Some(own) => vec![own],
            None => self.all.iter().copied().filter(is_free).take(ADDRESSES_TRIED).collect(),
        };
        Candidates { addresses, refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 1);
    const B: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 2);
    const C: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 3);

    #[test]
    fn assigned_address_is_kept_until_released() {
        let mut pool = AddressPool::new([A, B, C]);
        assert!(pool.assign(B, "one"));
        assert!(!pool.assign(B, "two"), "it has another owner");
        assert_eq!(pool.candidates("one", None).addresses, [B]);
        assert_eq!(pool.candidates("two", None).addresses, [A, C]);
        pool.release("one");
        assert_eq!(pool.candidates("two", None).addresses, [A, B, C]);
    }

    #[test]
    fn requested_address_is_given_only_if_free_and_in_the_pool() {
        let mut pool = AddressPool::new([A, B, C]);
        assert!(pool.assign(A, "one"));
        let cases = [
            ("one", "127.9.1.3", vec![C], None),
            ("two", "127.9.1.2", vec![B], None),
            ("two", "127.9.1.1", vec![B, C], Some("in use by another")),
            ("two", "192.0.2.1", vec![B, C], Some("not in the pool, 127.9.1.1 to 127.9.1.3")),
            ("two", "nonsense", vec![B, C], Some("not in the pool")),
            ("two", "", vec![B, C], None),
        ];
        for (owner, requested, addresses, refused) in cases {
            let got = pool.candidates(owner, Some(requested));
            assert_eq!(got.addresses, addresses, "{requested}");
            match refused {
                Some(part) => assert!(got.refused.unwrap().contains(part), "{requested}"),
                None => assert_eq!(got.refused, None, "{requested}"),
            }
        }
        assert!(pool.assign(C, "one"), "an owner may move");
        assert_eq!(pool.candidates("two", None).addresses, [A, B], "and releases the old address");
    }
}
