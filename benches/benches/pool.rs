//! What a checkout and a checkin cost in the pool's locked core: the part that all clients of a pool share.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::pool::{Slots, Waiter};
use tokio::sync::oneshot;

/// Stands for a server: a box, like the real one, so that moving it costs the same.
type Server = Box<u64>;

fn pool(servers: u64) -> Mutex<Slots<Server, Server>> {
    let mut slots = Slots::default();
    (0..servers).for_each(|number| slots.put_idle(Box::new(number)));
    Mutex::new(slots)
}

fn pools(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pool");
    // A server is free: taken, and put back.
    let idle = pool(20);
    group.bench_function("checkout and checkin", |bencher| {
        bencher.iter(|| {
            let server = idle.lock().expect("no panic").take(false).expect("a server is idle");
            let mut slots = idle.lock().expect("no panic");
            slots.leased -= 1;
            slots.put_idle(black_box(server));
        });
    });
    // All servers are taken: a client queues up, and gets the one that comes back.
    let empty = pool(0);
    group.bench_function("hand-off to a waiting client", |bencher| {
        let mut server = Some(Box::new(0));
        bencher.iter(|| {
            let (grant, ticket) = oneshot::channel();
            empty.lock().expect("no panic").push_waiter(Waiter { since: Instant::now(), grant, urgent: false });
            let waiter = empty.lock().expect("no panic").next_waiter().expect("somebody waits");
            waiter.grant.send(server.take().expect("given back")).expect("the client is there");
            server = Some(ticket.blocking_recv().expect("granted"));
        });
    });
    group.finish();
}

criterion_group!(benches, pools);
criterion_main!(benches);
