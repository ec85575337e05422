//! What a client is told that has waited, or done nothing, for too long; and settings that refuse what it asks for.

use super::poolers::Pooler;
use super::record::{self, Record};
use crate::support::{Batch, Client, Login};

pub fn run(start: &dyn Fn(&str) -> Pooler, record: &mut Record) {
    waiting(&start("auth_type = trust\nquery_wait_timeout = 1"), record);
    for (setting, sql) in [
        ("query_timeout", "SELECT pg_sleep(4)"),
        ("idle_transaction_timeout", "BEGIN; SELECT 1"),
        ("client_idle_timeout", "SELECT 1"),
    ] {
        let pooler = start(&format!("auth_type = trust\n{setting} = 1"));
        let mut client = pooler.log_in(&Login::default());
        client.send_query(sql);
        record.add(&format!("timeout: {setting}"), record::messages(&mut client, 2));
    }
    let pooler = start("auth_type = trust\nclient_login_timeout = 1");
    record.add("timeout: client_login_timeout", record::messages(&mut Client::open(&pooler.address()), 1));
    let pooler = start("auth_type = trust\ndisable_pqexec = 1");
    let mut client = pooler.log_in(&Login::default());
    record.add("disable_pqexec", record::query(&mut client, "SELECT 1"));
    let mut client = pooler.log_in(&Login::default());
    client.send(&Batch::new().run("SELECT 1", &[]).sync().0);
    record.add("disable_pqexec, extended protocol", record::messages(&mut client, 1));
    servers(&start("auth_type = trust"), record);
}

fn waiting(pooler: &Pooler, record: &mut Record) {
    let (mut first, mut second) = (pooler.log_in(&Login::to("one")), pooler.log_in(&Login::to("one")));
    first.ok("BEGIN; SELECT 1");
    record.add("timeout: query_wait_timeout", record::query(&mut second, "SELECT 1"));
}

/// A server that ends, and a client or a database that has to go.
fn servers(pooler: &Pooler, record: &mut Record) {
    let mut admin = pooler.log_in(&Login { user: "admin".to_owned(), ..Login::to("pgbouncer") });
    let mut session = pooler.log_in(&Login::to("session"));
    record
        .add("a server that ends itself", record::query(&mut session, "SELECT pg_terminate_backend(pg_backend_pid())"));
    let mut busy = pooler.log_in(&Login::default());
    busy.ok("BEGIN; SELECT 1");
    admin.ok("KILL postgres");
    record.add("KILL, in a transaction", record::messages(&mut busy, 1));
    admin.ok("RESUME postgres");
    let mut idle = pooler.log_in(&Login::default());
    admin.ok("KILL postgres");
    record.add("KILL, idle", record::messages(&mut idle, 1));
    admin.ok("RESUME postgres");
    let (mut idle, mut paused) = (pooler.log_in(&Login::default()), pooler.log_in(&Login::to("session")));
    paused.ok("SELECT 1");
    admin.send_query("SHUTDOWN");
    record.add("SHUTDOWN", record::messages(&mut admin, 1));
    record.add("SHUTDOWN, for others", record::messages(&mut idle, 1));
    record.add("SHUTDOWN, for a session", record::messages(&mut paused, 1));
}
