//! Peering: a cancel request reaches the process that has the client, whichever process it came to.

use std::fmt::Write;
use std::path::Path;

use sluice_test_harness::Cluster;
use sluice_wire::startup::{CancelKey, cancel_request};
use tempfile::TempDir;

use crate::support::{Client, Login, Sluice, cancel, databases, eventually, free_port};

/// Some processes on one port, each with a unix socket of its own, by which the others reach it.
struct Group {
    members: Vec<Sluice>,
    port: u16,
    directory: TempDir,
}

impl Group {
    /// `peers` tells each member (from 1) which member it takes for which peer.
    fn start(cluster: &Cluster, count: usize, peers: impl Fn(usize) -> Vec<(u16, usize)>) -> Self {
        let (port, directory) = (free_port(), TempDir::new().expect("a directory"));
        let start = |member: usize| {
            let own = socket_dir(directory.path(), member);
            std::fs::create_dir(&own).expect("a directory");
            let mut sections = format!("{}\n[peers]\n", databases(cluster, ""));
            for (id, member) in peers(member) {
                let host = socket_dir(directory.path(), member);
                writeln!(sections, "{id} = host={host} port={port} pool_size=3").expect("a line");
            }
            let (id, directory) = (format!("peer_id = {member}"), format!("unix_socket_dir = {own}"));
            let port = format!("listen_port = {port}");
            Sluice::start(&sections, &[&id, &directory, &port, "so_reuseport = 1"])
        };
        Self { members: (1..=count).map(start).collect(), port, directory }
    }

    /// For member 0: whichever the kernel takes.
    fn address(&self, member: usize) -> String {
        match member {
            0 => format!("127.0.0.1:{}", self.port),
            _ => format!("{}/.s.PGSQL.{}", socket_dir(self.directory.path(), member), self.port),
        }
    }

    fn client(&self, member: usize, login: &Login) -> Client {
        Client::log_in(&self.address(member), login).expect("a login")
    }
}

fn socket_dir(directory: &Path, member: usize) -> String {
    directory.join(member.to_string()).display().to_string()
}

fn begin_to_sleep(cluster: &Cluster, client: &mut Client) {
    client.send_query("SELECT pg_sleep(600)");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
    eventually("it sleeps", || cluster.psql("postgres", sleeping) == "1");
}

#[test]
fn three_processes_on_one_port_cancel_each_others_queries() {
    let cluster = Cluster::start();
    let group = Group::start(&cluster, 3, |_| (1..=3).map(|id| (id as u16, id)).collect());
    for owner in 1..=3 {
        for minor in [0, 2] {
            let mut client = group.client(owner, &Login { minor, ..Login::default() });
            // The last one comes to the common port, where the kernel chooses.
            for asked in [1, 2, 3, 0] {
                begin_to_sleep(&cluster, &mut client);
                cancel(&group.address(asked), &client.cancel_packet());
                let error = client.answer().error();
                assert_eq!(error.map(|error| error.code).as_deref(), Some("57014"), "{owner} asked by {asked}");
            }
        }
    }
    let mut console = group.client(1, &Login { user: "pgbouncer".into(), ..Login::to("pgbouncer") });
    let rows = |answer: Vec<Vec<Option<String>>>| -> Vec<String> {
        answer.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("|")).collect()
    };
    let socket = |member| format!("{member}|{}|{}|3", socket_dir(group.directory.path(), member), group.port);
    assert_eq!(rows(console.ok("SHOW PEERS").rows()), [1, 2, 3].map(socket));
    assert_eq!(rows(console.ok("SHOW PEER_POOLS").rows())[..2], ["2|0|0|0|0", "3|0|0|0|0"]);
    assert!(rows(console.ok("SHOW LISTS").rows()).contains(&"peer_pools|2".to_owned()));
}

#[test]
fn a_key_that_goes_round_in_circles_is_dropped_in_the_end() {
    let cluster = Cluster::start();
    // Each of them takes the other one for number 9.
    let group = Group::start(&cluster, 2, |member| vec![(9, 3 - member)]);
    let key = |peer: u8, last| CancelKey { pid: i32::from_be_bytes([1, peer, 0, 4]), secret: vec![5, 6, 7, last] };
    cancel(&group.address(1), &cancel_request(&key(9, 0xff)));
    let forwarded = |member: &Sluice| member.log().matches("forwarded to its peer").count();
    let dropped = |member: &Sluice| member.log().matches("was forwarded too often").count();
    eventually("three hops", || group.members.iter().map(forwarded).sum::<usize>() == 3);
    assert_eq!(group.members.iter().map(dropped).collect::<Vec<_>>(), [0, 1]);
    cancel(&group.address(1), &cancel_request(&key(8, 0xff)));
    eventually("no such peer", || group.members[0].log().contains("could not find peer"));
    cancel(&group.address(1), &cancel_request(&key(1, 0xff)));
    eventually("no such client", || group.members[0].log().contains("failed cancel request"));
}

#[test]
fn the_request_is_open_until_the_peer_has_closed_it_and_ends_by_its_timeout() {
    let cluster = Cluster::start();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let sections = format!("{}\n[peers]\n2 = host=127.0.0.1 port={port}\n", databases(&cluster, ""));
    let sluice = Sluice::start(&sections, &["peer_id = 1", "cancel_wait_timeout = 1"]);
    let began = std::time::Instant::now();
    let key = CancelKey { pid: 0x0102_0004, secret: vec![5, 6, 7, 0xff] };
    cancel(&sluice.address(), &cancel_request(&key));
    assert!(began.elapsed().as_secs_f32() >= 1.0);
    eventually("it is logged", || sluice.log().contains("closing because: cancel_wait_timeout"));
}
