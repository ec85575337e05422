//! The files that the demo writes for the pooler and for whoever tries it out.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use super::DemoError;
use super::directory::DemoDirectory;
use super::fleet::{ADMIN, Fleet};
use super::load::{APP, CATALOG, PLAIN};
use super::sharding::DATABASE;

/// How many ports after the wanted one are tried.
const PORTS_TRIED: u16 = 200;

/// What clients need to connect.
#[derive(Debug)]
pub struct Endpoints {
    pub port: u16,
    pub database_url: String,
    pub console_url: String,
    pub plain_url: String,
}

impl Endpoints {
    pub fn new(port: u16, directory: &DemoDirectory) -> Self {
        let url = |role: &str, password: &str, database: &str| {
            format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}")
        };
        let state = directory.state();
        Self {
            port,
            database_url: url(APP, &state.app_password, DATABASE),
            console_url: url(ADMIN, &state.admin_password, "pgbouncer"),
            plain_url: url(APP, &state.app_password, PLAIN),
        }
    }
}

/// The wanted port of 127.0.0.1, or the next that is free.
pub fn choose_port(wanted: u16) -> Result<u16, DemoError> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (wanted..=wanted.saturating_add(PORTS_TRIED)).find(is_free).ok_or(DemoError::NoPort(wanted))
}

/// Writes `sluice.ini` and what it refers to, and returns its path.
pub fn write(directory: &DemoDirectory, fleet: &Fleet, endpoints: &Endpoints) -> Result<PathBuf, DemoError> {
    directory.write_private("userlist.txt", &userlist(directory))?;
    directory.write_private("env", &environment(endpoints))?;
    directory.write_private("one-member.sql", ONE_MEMBER)?;
    directory.write_private("sluice.ini", &ini(directory, fleet, endpoints.port))
}

/// A pgbench script: one member by primary key, of a random organization.
const ONE_MEMBER: &str = "\\set organization random(1, :organizations)\n\
    SELECT uan, monthly_wages FROM members WHERE organization_id = :organization AND member_id = 1;\n";

fn userlist(directory: &DemoDirectory) -> String {
    let state = directory.state();
    format!("\"{APP}\" \"{}\"\n\"{ADMIN}\" \"{}\"\n", state.app_password, state.admin_password)
}

/// For `. DIR/env` in a shell.
fn environment(endpoints: &Endpoints) -> String {
    format!(
        "export EPFO='{}'\nexport CONSOLE='{}'\nexport PLAIN='{}'\n",
        endpoints.database_url, endpoints.console_url, endpoints.plain_url
    )
}

fn ini(directory: &DemoDirectory, fleet: &Fleet, port: u16) -> String {
    let path = directory.path().display();
    let mut ini = String::from(
        "; Written by `sluice demo` at every start: changes are lost then, but RELOAD takes them until.\n\n",
    );
    let mut section = |text: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = ini.write_fmt(text);
    };
    section(format_args!(
        "[databases]\n\
         ; A sharded database: its shards, slots and tables are in the catalog.\n\
         {DATABASE} = catalog='{catalog}'\n\
         ; An ordinary one, as PgBouncer knows it.\n\
         {PLAIN} = host={sockets} port={server_port} dbname={PLAIN}\n\n",
        catalog = fleet.admin_url(CATALOG),
        sockets = connection_value(&fleet.sockets().display().to_string()),
        server_port = fleet.port(),
    ));
    section(format_args!(
        "[pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         ; The socket is {path}/.s.PGSQL.{port}\n\
         unix_socket_dir = {path}\n\n\
         ; Clients prove their password, which is never sent.\n\
         auth_type = scram-sha-256\n\
         auth_file = {path}/userlist.txt\n\
         ; May use the console: database \"pgbouncer\".\n\
         admin_users = {ADMIN}\n\n\
         ; A server is the client's for one transaction.\n\
         pool_mode = transaction\n\
         max_client_conn = 1000\n\
         ; Servers for each user and shard.\n\
         default_pool_size = 20\n\
         ; Prepared statements of the protocol work although servers change.\n\
         max_prepared_statements = 200\n\n\
         logfile = {path}/sluice.log\n\
         ; The last shard map is kept here, for starts without the catalog.\n\
         state_dir = {path}/state\n",
    ));
    ini
}

/// A value of a connection string, in single quotes.
fn connection_value(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_port_gives_way_to_the_next() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(choose_port(port).is_ok_and(|chosen| chosen > port));
    }

    #[test]
    fn quotes_in_a_directory_name_are_doubled() {
        assert_eq!(connection_value("/tmp/it's"), "'/tmp/it''s'");
    }
}
