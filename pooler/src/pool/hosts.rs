//! The hosts of an entry, and which of them the next connection goes to.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::LoadBalanceHosts;
use crate::net::Address;

/// At least one address. With `load_balance_hosts = round-robin`, each new connection goes to the next; with `disable`, to
/// the same one until it fails.
#[derive(Debug)]
pub struct Hosts {
    addresses: Box<[Address]>,
    balance: LoadBalanceHosts,
    next: AtomicUsize,
}

impl Hosts {
    pub fn new(first: Address, others: impl IntoIterator<Item = Address>, balance: LoadBalanceHosts) -> Self {
        let addresses = std::iter::once(first).chain(others).collect();
        Self { addresses, balance, next: AtomicUsize::new(0) }
    }

    /// Where the next connection goes.
    pub fn pick(&self) -> &Address {
        let at = match self.balance {
            LoadBalanceHosts::RoundRobin => self.next.fetch_add(1, Ordering::Relaxed),
            LoadBalanceHosts::Disable => self.next.load(Ordering::Relaxed),
        };
        &self.addresses[at % self.addresses.len()]
    }

    /// No connection came about at `failed`: the next attempt goes elsewhere.
    pub fn skip(&self, failed: &Address) {
        let at = self.next.load(Ordering::Relaxed);
        if self.balance == LoadBalanceHosts::Disable && self.addresses[at % self.addresses.len()] == *failed {
            // If several attempts fail at once, one of them moves on for all.
            let _ = self.next.compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// The same hosts, used in the same way.
impl PartialEq for Hosts {
    fn eq(&self, other: &Self) -> bool {
        self.addresses == other.addresses && self.balance == other.balance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(balance: LoadBalanceHosts) -> (Hosts, [Address; 3]) {
        let all = ["a", "b", "/run"].map(|host| Address::new(host, 5432));
        let [first, others @ ..] = all.clone();
        (Hosts::new(first, others, balance), all)
    }

    #[test]
    fn round_robin_takes_turns() {
        let (hosts, [a, b, c]) = hosts(LoadBalanceHosts::RoundRobin);
        assert_eq!([0; 4].map(|_| hosts.pick().clone()), [a.clone(), b, c, a]);
    }

    #[test]
    fn without_balancing_the_next_host_comes_after_a_failure() {
        let (hosts, [a, b, c]) = hosts(LoadBalanceHosts::Disable);
        assert_eq!([0; 2].map(|_| hosts.pick().clone()), [a.clone(), a.clone()]);
        hosts.skip(&a);
        hosts.skip(&a);
        assert_eq!(hosts.pick(), &b);
        hosts.skip(&b);
        assert_eq!(hosts.pick(), &c);
        hosts.skip(&c);
        assert_eq!(hosts.pick(), &a);
    }
}
