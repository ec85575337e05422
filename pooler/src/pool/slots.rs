//! The locked core of a pool: idle servers, waiters in the order in which they came, and counts.
//!
//! Generic over what it holds, so that its rules are tested without sockets. Every method is short, does not wait and
//! takes the time as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// A client in the queue. What it waits for arrives through the channel.
pub struct Waiter<T> {
    pub since: Instant,
    pub grant: oneshot::Sender<T>,
    /// It is in the middle of a transaction, which a PAUSE lets finish: it gets its server all the same.
    pub urgent: bool,
}

/// Sizes of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// 0 = no limit.
    pub size: u32,
    pub min: u32,
    pub reserve: u32,
    /// Zero = the reserve is never used.
    pub reserve_timeout: Duration,
    pub round_robin: bool,
}

impl Sizes {
    /// The reserve included.
    pub fn most(&self) -> usize {
        if self.size == 0 { usize::MAX } else { self.size.saturating_add(self.reserve) as usize }
    }
}

/// A queue that was longer than this is given back when it is empty: all clients may have been in it once.
const KEPT_PLACES: usize = 256;

/// Idle servers (`S`) and waiters for a grant (`G`).
pub struct Slots<S, G> {
    idle: VecDeque<S>,
    waiters: VecDeque<Waiter<G>>,
    pub leased: usize,
    pub connecting: usize,
    /// Servers that each belong to one replication client, from before they are opened until they are closed.
    pub replicating: usize,
    pub paused: bool,
}

impl<S, G> Default for Slots<S, G> {
    fn default() -> Self {
        Self {
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
            leased: 0,
            connecting: 0,
            replicating: 0,
            paused: false,
        }
    }
}

impl<S, G> Slots<S, G> {
    /// All servers, those being opened included.
    pub fn total(&self) -> usize {
        self.idle.len() + self.leased + self.connecting + self.replicating
    }

    /// Those that are open and that a waiter may get some time.
    pub fn usable(&self) -> usize {
        self.idle.len() + self.leased
    }

    pub fn idle(&self) -> impl ExactSizeIterator<Item = &S> {
        self.idle.iter()
    }

    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub fn oldest_wait(&self, now: Instant) -> Option<Duration> {
        self.waiters.front().map(|waiter| now.saturating_duration_since(waiter.since))
    }

    /// An idle server for a newcomer: none while others wait, so that nobody overtakes.
    #[inline]
    pub fn take(&mut self, round_robin: bool) -> Option<S> {
        if self.paused || !self.waiters.is_empty() {
            return None;
        }
        let server = if round_robin { self.idle.pop_front() } else { self.idle.pop_back() }?;
        self.leased += 1;
        Some(server)
    }

    /// Puts a free server into the idle list. The caller has given it to no waiter.
    #[inline]
    pub fn put_idle(&mut self, server: S) {
        self.idle.push_back(server);
    }

    pub fn push_waiter(&mut self, waiter: Waiter<G>) {
        self.waiters.push_back(waiter);
    }

    /// The waiter whose turn it is; while paused, only one that is urgent. Those that gave up are skipped.
    #[inline]
    pub fn next_waiter(&mut self) -> Option<Waiter<G>> {
        if self.paused {
            let urgent = self.waiters.iter().position(|waiter| waiter.urgent && !waiter.grant.is_closed())?;
            return self.waiters.remove(urgent);
        }
        while let Some(waiter) = self.waiters.pop_front() {
            if self.waiters.is_empty() && self.waiters.capacity() > KEPT_PLACES {
                self.waiters = VecDeque::new();
            }
            if !waiter.grant.is_closed() {
                return Some(waiter);
            }
        }
        None
    }

    /// A waiter that a PAUSE does not hold up.
    pub fn has_urgent(&self) -> bool {
        self.waiters.iter().any(|waiter| waiter.urgent && !waiter.grant.is_closed())
    }

    /// All waiters, to be told that they wait in vain.
    pub fn drain_waiters(&mut self) -> Vec<Waiter<G>> {
        self.waiters.drain(..).collect()
    }

    /// Forgets waiters that gave up: they'd make the queue look longer than it is.
    pub fn prune_waiters(&mut self) {
        self.waiters.retain(|waiter| !waiter.grant.is_closed());
    }

    /// It has no server for anybody, none is on its way, and there is room for one.
    pub fn is_void(&self, sizes: &Sizes) -> bool {
        self.usable() + self.connecting == 0 && (sizes.size == 0 || self.total() < sizes.size as usize)
    }

    /// Room for a replication client's server: within the pool's size, or in the place of the idle server that is returned.
    /// None while others wait, so that nobody overtakes.
    pub fn make_room(&mut self, sizes: &Sizes) -> Option<Option<S>> {
        if self.paused || self.waiters.iter().any(|waiter| !waiter.grant.is_closed()) {
            return None;
        }
        if sizes.size == 0 || self.total() < sizes.size as usize {
            return Some(None);
        }
        self.idle.pop_front().map(Some)
    }

    /// Takes out the idle servers that `gone` picks, oldest first.
    pub fn take_idle_where(&mut self, mut gone: impl FnMut(&S) -> bool) -> Vec<S> {
        let mut taken = Vec::new();
        let mut kept = VecDeque::with_capacity(self.idle.len());
        for server in self.idle.drain(..) {
            if gone(&server) {
                taken.push(server);
            } else {
                kept.push_back(server);
            }
        }
        self.idle = kept;
        taken
    }

    /// May one more server be opened now, by this pool's own sizes? One at a time.
    pub fn wants_connection(&self, sizes: &Sizes, has_clients: bool, now: Instant) -> bool {
        if self.connecting > 0 || (self.paused && !self.has_urgent()) {
            return false;
        }
        let total = self.total() as u32;
        let below = |limit: u32| sizes.size == 0 || total < limit;
        if self.waiters.is_empty() {
            return has_clients && total < sizes.min && below(sizes.size);
        }
        if !self.idle.is_empty() {
            return false;
        }
        let reserve_due = !sizes.reserve_timeout.is_zero()
            && self.oldest_wait(now).is_some_and(|waited| waited >= sizes.reserve_timeout);
        below(sizes.size) || (reserve_due && below(sizes.size.saturating_add(sizes.reserve)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        Sizes { size: 2, min: 0, reserve: 1, reserve_timeout: Duration::from_secs(5), round_robin: false }
    }

    fn waiter(since: Instant) -> (Waiter<u32>, oneshot::Receiver<u32>) {
        let (grant, receiver) = oneshot::channel();
        (Waiter { since, grant, urgent: false }, receiver)
    }

    #[test]
    fn idle_servers_are_reused_last_in_first_out_or_in_turn() {
        let mut slots = Slots::<u32, u32>::default();
        slots.put_idle(1);
        slots.put_idle(2);
        assert_eq!(slots.take(false), Some(2));
        slots.put_idle(2);
        assert_eq!(slots.take(true), Some(1));
    }

    #[test]
    fn nobody_overtakes_the_queue() {
        let now = Instant::now();
        let mut slots = Slots::<u32, u32>::default();
        let (first, _first_gets) = waiter(now);
        let (second, second_gets) = waiter(now);
        slots.push_waiter(first);
        slots.push_waiter(second);
        slots.put_idle(1);
        assert_eq!(slots.take(false), None, "a newcomer has to wait behind the others");
        drop(_first_gets);
        assert!(slots.next_waiter().expect("the second").grant.send(7).is_ok());
        assert_eq!(second_gets.blocking_recv(), Ok(7));
    }

    #[test]
    fn a_pause_grants_nothing() {
        let mut slots = Slots::<u32, u32> { paused: true, ..Slots::default() };
        let (waiting, _gets) = waiter(Instant::now());
        slots.put_idle(1);
        slots.push_waiter(waiting);
        assert_eq!(slots.take(false), None);
        assert!(slots.next_waiter().is_none());
        assert!(!slots.wants_connection(&sizes(), true, Instant::now()));
        slots.paused = false;
        assert!(slots.next_waiter().is_some());
    }

    #[test]
    fn a_pause_lets_transactions_finish() {
        let mut slots = Slots::<u32, u32> { paused: true, ..Slots::default() };
        let (ordinary, _waits) = waiter(Instant::now());
        let (mut urgent, gets) = waiter(Instant::now());
        urgent.urgent = true;
        slots.push_waiter(ordinary);
        slots.push_waiter(urgent);
        assert!(slots.wants_connection(&sizes(), true, Instant::now()));
        assert!(slots.next_waiter().expect("the urgent one").grant.send(3).is_ok());
        assert_eq!(gets.blocking_recv(), Ok(3));
        assert!(slots.next_waiter().is_none());
    }

    #[test]
    fn the_reserve_opens_after_its_timeout() {
        let start = Instant::now();
        let mut slots = Slots::<u32, u32> { leased: 2, ..Slots::default() };
        let (waiting, _gets) = waiter(start);
        slots.push_waiter(waiting);
        assert!(!slots.wants_connection(&sizes(), true, start + Duration::from_secs(4)));
        assert!(slots.wants_connection(&sizes(), true, start + Duration::from_secs(5)));
        slots.leased = 3;
        assert!(!slots.wants_connection(&sizes(), true, start + Duration::from_secs(5)));
        let without = Sizes { reserve_timeout: Duration::ZERO, ..sizes() };
        slots.leased = 2;
        assert!(!slots.wants_connection(&without, true, start + Duration::from_secs(50)));
    }

    #[test]
    fn a_replication_client_takes_the_place_of_an_idle_server_but_of_nobody_who_waits() {
        let mut slots = Slots::<u32, u32> { leased: 1, ..Slots::default() };
        assert_eq!(slots.make_room(&sizes()), Some(None), "there is room for two");
        slots.put_idle(7);
        assert_eq!(slots.make_room(&sizes()), Some(Some(7)));
        slots.replicating = 1;
        assert_eq!(slots.make_room(&sizes()), None, "all are in use");
        assert!(!slots.is_void(&sizes()));
        assert_eq!((slots.total(), slots.usable()), (2, 1));
        slots.leased = 0;
        assert!(slots.is_void(&sizes()), "nobody else can use a replication client's server");
        slots.replicating = 0;
        slots.leased = 2;
        let (waiting, gets) = waiter(Instant::now());
        slots.push_waiter(waiting);
        assert_eq!(slots.make_room(&sizes()), None, "somebody waits");
        drop(gets);
        slots.leased = 1;
        assert_eq!(slots.make_room(&sizes()), Some(None), "and has given up");
    }

    #[test]
    fn the_minimum_needs_a_client() {
        let slots = Slots::<u32, u32>::default();
        let sizes = Sizes { min: 1, ..sizes() };
        assert!(!slots.wants_connection(&sizes, false, Instant::now()));
        assert!(slots.wants_connection(&sizes, true, Instant::now()));
    }

    #[test]
    fn size_zero_is_no_limit() {
        let mut slots = Slots::<u32, u32> { leased: 1000, ..Slots::default() };
        let (waiting, _gets) = waiter(Instant::now());
        slots.push_waiter(waiting);
        assert!(slots.wants_connection(&Sizes { size: 0, ..sizes() }, true, Instant::now()));
    }
}
