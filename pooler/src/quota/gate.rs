//! One gate: how many transactions may be under way behind it, and how many may begin in a second.
//!
//! Whoever comes too early waits in a queue of the gate's own, so that one that is busy holds nobody else up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::lock::lock;

/// 0 = no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Transactions at the same time.
    pub transactions: u32,
    /// Transactions that begin in a second.
    pub rate: u32,
}

impl Limits {
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    running: u32,
    /// Transactions that may begin at once: up to a second's worth.
    tokens: f64,
    filled: Option<Instant>,
    queue: VecDeque<oneshot::Sender<Pass>>,
    /// A task waits for the next token.
    is_paced: bool,
}

/// A transaction behind the gate; it leaves when this is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    /// It has begun. Otherwise its token is given back.
    pub used: bool,
}

impl State {
    fn fill(&mut self, now: Instant) {
        let rate = f64::from(self.limits.rate);
        self.tokens = match self.filled {
            Some(filled) => (self.tokens + rate * now.duration_since(filled).as_secs_f64()).min(rate),
            None => rate,
        };
        self.filled = Some(now);
    }

    fn has_room(&self) -> bool {
        self.limits.transactions == 0 || self.running < self.limits.transactions
    }

    /// Lets one through, if it may go now.
    fn admit(&mut self, now: Instant) -> bool {
        if !self.has_room() {
            return false;
        }
        if self.limits.rate > 0 {
            self.fill(now);
            if self.tokens < 1.0 {
                return false;
            }
            self.tokens -= 1.0;
        }
        self.running += 1;
        true
    }

    fn dismiss(&mut self, used: bool) {
        self.running = self.running.saturating_sub(1);
        if !used && self.limits.rate > 0 {
            self.tokens += 1.0;
        }
    }

    /// How long the first in the queue has to wait for a token, if that is what it waits for.
    fn pace(&self) -> Option<Duration> {
        let waits = !self.queue.is_empty() && self.limits.rate > 0 && self.has_room();
        waits.then(|| Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / f64::from(self.limits.rate)))
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn set_limits(self: &Arc<Self>, limits: Limits) {
        let mut state = self.lock();
        if state.limits != limits {
            state.limits = limits;
            state.filled = None;
            drop(state);
            self.let_in();
        }
    }

    /// Through at once, or a place in the queue.
    pub fn enter(self: &Arc<Self>) -> Result<Pass, oneshot::Receiver<Pass>> {
        let mut state = self.lock();
        if state.queue.is_empty() && state.admit(Instant::now()) {
            return Ok(Pass { gate: self.clone(), used: false });
        }
        let (grant, place) = oneshot::channel();
        state.queue.push_back(grant);
        drop(state);
        self.let_in();
        Err(place)
    }

    /// Nobody is behind the gate or in front of it, and nothing would be forgotten with it.
    pub fn is_unused(&self) -> bool {
        let mut state = self.lock();
        state.fill(Instant::now());
        state.running == 0 && state.queue.is_empty() && state.tokens >= f64::from(state.limits.rate)
    }

    /// Lets in whoever may go now, in order.
    fn let_in(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            // Those that have gone away take no token.
            while state.queue.front().is_some_and(oneshot::Sender::is_closed) {
                state.queue.pop_front();
            }
            if state.queue.is_empty() || !state.admit(Instant::now()) {
                break;
            }
            let Some(next) = state.queue.pop_front() else { break };
            drop(state);
            // One that goes away in this moment drops its pass, which lets in the next.
            let _ = next.send(Pass { gate: self.clone(), used: false });
            state = self.lock();
        }
        if let Some(pace) = state.pace()
            && !state.is_paced
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            state.is_paced = true;
            let gate = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep(pace).await;
                gate.lock().is_paced = false;
                gate.let_in();
            });
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.lock().dismiss(self.used);
        self.gate.let_in();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(transactions: u32, rate: u32) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        gate.set_limits(Limits { transactions, rate });
        gate
    }

    #[test]
    fn the_next_in_the_queue_goes_when_one_leaves() {
        let gate = gate(2, 0);
        let first = gate.enter().expect("room");
        let _second = gate.enter().expect("room");
        let gone = gate.enter().expect_err("no room");
        let mut third = gate.enter().expect_err("no room");
        drop(gone);
        assert!(third.try_recv().is_err());
        drop(first);
        let _pass = third.try_recv().expect("its turn");
        assert!(!gate.is_unused());
    }

    #[test]
    fn no_limit_holds_nobody_up() {
        let gate = gate(0, 0);
        let passes: Vec<_> = (0..100).map(|_| gate.enter().expect("no limit")).collect();
        drop(passes);
        assert!(gate.is_unused());
    }

    #[test]
    fn a_raised_limit_lets_in_those_who_wait() {
        let gate = gate(1, 0);
        let _first = gate.enter().expect("room");
        let mut second = gate.enter().expect_err("no room");
        gate.set_limits(Limits { transactions: 2, rate: 0 });
        assert!(second.try_recv().is_ok());
    }

    #[test]
    fn what_never_began_gives_its_token_back() {
        let gate = gate(0, 1);
        for _ in 0..5 {
            drop(gate.enter().expect("a token"));
        }
        let mut pass = gate.enter().expect("a token");
        pass.used = true;
        drop(pass);
        assert!(gate.enter().is_err(), "the token is used");
    }

    #[tokio::test]
    async fn tokens_come_at_the_rate() {
        let gate = gate(0, 50);
        let mut passes: Vec<_> = (0..50).map(|_| gate.enter().expect("a second's worth")).collect();
        passes.iter_mut().for_each(|pass| pass.used = true);
        let began = Instant::now();
        let places: Vec<_> = (0..5).map(|_| gate.enter().expect_err("no token left")).collect();
        for place in places {
            place.await.expect("a pass").used = true;
        }
        assert!(began.elapsed() >= Duration::from_millis(80), "five tokens came within {:?}", began.elapsed());
    }
}
