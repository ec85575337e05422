//! The other processes of a peering group, and the cancel requests on their way to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sluice_wire::startup::{CancelKey, cancel_request};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Peer;
use crate::dns::{ConnectFailure, Dns};
use crate::lock::lock;
use crate::net::Address;
use crate::stats::Counted;

/// A pool for each peer that a request went to.
#[derive(Debug, Default)]
pub struct Peers {
    pools: Mutex<BTreeMap<u16, Arc<PeerPool>>>,
}

/// The requests to one peer: so many connections at once, others wait.
#[derive(Debug)]
struct PeerPool {
    /// 0 is no limit.
    size: u32,
    connections: Semaphore,
    requests: AtomicU32,
    connecting: AtomicU32,
    active: AtomicU32,
}

/// What SHOW PEER_POOLS tells of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    pub id: u16,
    /// Requests that have no connection yet.
    pub waiting: u32,
    pub connecting: u32,
    /// Requests that were sent, until the peer closes their connection.
    pub active: u32,
}

impl Peers {
    /// Sends `key` to a peer, and returns when that has closed its side: the request has arrived then, as far as the peer
    /// can tell. The peer's port is asked in the clear, as by PgBouncer. The result is how it ended.
    pub async fn forward(
        &self,
        peer: &Peer,
        size: u32,
        key: &CancelKey,
        (dns, deadline): (&Dns, Duration),
    ) -> &'static str {
        let pool = self.pool(peer.id, size);
        let _request = Counted::new(&pool.requests);
        let address = Address::new(&peer.host, peer.port);
        match tokio::time::timeout(deadline, pool.send(&address, key, dns)).await {
            Ok(Ok(())) => "cancel request forwarded to its peer",
            Ok(Err(error)) => {
                tracing::warn!("peer-{}@{address} cancel request failed: {error}", peer.id);
                "cancel request could not be forwarded to its peer"
            }
            Err(_) => "cancel_wait_timeout",
        }
    }

    /// Forgets all peers that are no longer configured.
    pub fn keep(&self, configured: &BTreeMap<u16, Peer>) {
        self.lock().retain(|id, _| configured.contains_key(id));
    }

    pub fn views(&self) -> Vec<PeerView> {
        self.lock().iter().map(|(&id, pool)| pool.view(id)).collect()
    }

    fn pool(&self, id: u16, size: u32) -> Arc<PeerPool> {
        let mut pools = self.lock();
        match pools.get(&id) {
            Some(pool) if pool.size == size => pool.clone(),
            // Of another size: those that are under way finish in the old one.
            _ => {
                let pool = Arc::new(PeerPool::new(size));
                pools.insert(id, pool.clone());
                pool
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<PeerPool>>> {
        lock(&self.pools)
    }
}

impl PeerPool {
    fn new(size: u32) -> Self {
        let connections = if size == 0 { Semaphore::MAX_PERMITS } else { size as usize };
        Self {
            size,
            connections: Semaphore::new(connections),
            requests: AtomicU32::new(0),
            connecting: AtomicU32::new(0),
            active: AtomicU32::new(0),
        }
    }

    async fn send(&self, address: &Address, key: &CancelKey, dns: &Dns) -> Result<(), ConnectFailure> {
        let _connection: SemaphorePermit<'_> = self.connections.acquire().await.map_err(std::io::Error::other)?;
        let connecting = Counted::new(&self.connecting);
        let (mut io, _) = dns.connect(address, &Default::default()).await?;
        drop(connecting);
        let _active = Counted::new(&self.active);
        io.write_all(&cancel_request(key)).await?;
        while io.read_some(&mut Vec::new()).await? > 0 {}
        Ok(())
    }

    fn view(&self, id: u16) -> PeerView {
        let of = |count: &AtomicU32| count.load(Ordering::SeqCst);
        let active = of(&self.active);
        PeerView { id, waiting: of(&self.requests).saturating_sub(active), connecting: of(&self.connecting), active }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::Settings;

    /// A peer that takes a request and holds its connection.
    async fn accept(listener: &TcpListener) -> (TcpStream, [u8; 16]) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut packet = [0; 16];
        stream.read_exact(&mut packet).await.expect("a request");
        (stream, packet)
    }

    #[tokio::test]
    async fn a_full_pool_lets_requests_wait_and_a_deadline_ends_that() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let peer = Peer { id: 7, host: "127.0.0.1".into(), port, pool_size: Some(1) };
        let peers = Arc::new(Peers::default());
        let dns = Arc::new(Dns::new(&Settings::default(), Arc::default()).expect("no file is read"));
        let key = CancelKey { pid: 0x0107_0004, secret: vec![5, 6, 7, 2] };
        let forward = |seconds| {
            let (peers, peer, key, dns) = (peers.clone(), peer.clone(), key.clone(), dns.clone());
            tokio::spawn(async move { peers.forward(&peer, 1, &key, (&dns, Duration::from_secs(seconds))).await })
        };
        let first = forward(20);
        let (mut held, packet) = accept(&listener).await;
        assert_eq!(packet, cancel_request(&key)[..]);
        assert_eq!(forward(0).await.expect("it ends"), "cancel_wait_timeout");
        let second = forward(20);
        while peers.views()[0].waiting == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(peers.views(), [PeerView { id: 7, waiting: 1, connecting: 0, active: 1 }]);
        held.shutdown().await.expect("the peer closes its side");
        assert_eq!(first.await.expect("it ends"), "cancel request forwarded to its peer");
        drop(accept(&listener).await);
        assert_eq!(second.await.expect("it ends"), "cancel request forwarded to its peer");
        peers.keep(&BTreeMap::new());
        assert_eq!(peers.views(), []);
    }
}
