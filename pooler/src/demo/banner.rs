//! What the demo prints when it is ready: where to connect, and what to try.

use std::fmt::{Display, Formatter, Result};
use std::path::Path;
use std::time::Duration;

use super::fleet::ADMIN;
use super::load::{APP, SHARDS, Summary};
use super::progress::grouped;
use super::settings::Endpoints;

#[derive(Debug)]
pub struct Banner<'a> {
    pub took: Duration,
    pub postgresql: &'a str,
    pub primary_port: u16,
    pub replica_port: Option<u16>,
    pub directory: &'a Path,
    pub endpoints: &'a Endpoints,
    pub summary: &'a Summary,
}

impl Display for Banner<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.addresses(f)?;
        self.things_to_try(f)?;
        writeln!(f, "Ctrl-C stops everything.\n")
    }
}

impl Banner<'_> {
    fn addresses(&self, f: &mut Formatter<'_>) -> Result {
        let Self { endpoints, directory, summary, .. } = self;
        let directory = directory.display();
        let totals = &summary.totals;
        writeln!(
            f,
            "\nSluice is ready after {:.1} s: one URL in front of {SHARDS} shards.\n",
            self.took.as_secs_f64()
        )?;
        writeln!(f, "  database  {}", endpoints.database_url)?;
        writeln!(f, "  console   {}", endpoints.console_url)?;
        writeln!(f, "  socket    host={directory} port={} (users {APP}, {ADMIN})", endpoints.port)?;
        writeln!(f, "  unsharded {}", endpoints.plain_url)?;
        writeln!(f, "  settings  {directory}/sluice.ini (log: sluice.log)")?;
        write!(f, "  servers   PostgreSQL {} on 127.0.0.1:{}", self.postgresql, self.primary_port)?;
        match self.replica_port {
            Some(port) => writeln!(f, ", streaming replica on 127.0.0.1:{port}")?,
            None => writeln!(f, ", no replica")?,
        }
        writeln!(
            f,
            "  data      {} organizations, {} members, {} contributions, {} claims\n",
            grouped(totals.organizations),
            grouped(totals.members),
            grouped(totals.contributions),
            grouped(totals.claims),
        )
    }

    fn things_to_try(&self, f: &mut Formatter<'_>) -> Result {
        let directory = self.directory.display();
        let largest = self.summary.largest.id;
        let organizations = self.summary.totals.organizations;
        writeln!(f, "Try, in another terminal, after\n\n  . {directory}/env\n")?;
        let mut number = 0;
        let mut command = |what: &str, line: &str| {
            number += 1;
            writeln!(f, "  {number}. {what}\n     {line}\n")
        };
        command(
            "The largest organization, joined with a table that is on every shard: one shard answers",
            &format!(
                "psql \"$EPFO\" -c \"SELECT o.name, s.name AS state, count(*) FROM organizations o JOIN states s USING (state_code) \
                 JOIN members m USING (organization_id) WHERE o.organization_id = {largest} GROUP BY 1, 2\""
            ),
        )?;
        command(
            "A new claim, with jsonb and an array",
            "psql \"$EPFO\" -c \"INSERT INTO claims (organization_id, member_id, amount, documents, details) \
             VALUES (42, 1, 25000, '{form 31}', '{\\\"reason\\\": \\\"housing\\\"}') RETURNING claim_id, status\"",
        )?;
        command(
            "Where a statement goes, and why",
            "psql \"$CONSOLE\" -c \"EXPLAIN ROUTE SELECT * FROM members WHERE organization_id = 42\"",
        )?;
        command("The shards, and the pools in front of them", "psql \"$CONSOLE\" -c 'SHOW SHARDS' -c 'SHOW POOLS'")?;
        command(
            "A new table, made on all shards in one atomic commit, and sharded because it has the key",
            "psql \"$EPFO\" -c \"CREATE TABLE notes (organization_id bigint, note_id bigint, body text, PRIMARY KEY (organization_id, note_id))\"",
        )?;
        command(
            "Speed: 20 clients with prepared statements, in transaction pooling",
            &format!(
                "pgbench -n -f {directory}/one-member.sql -D organizations={organizations} -M prepared -c 20 -j 2 -T 10 \"$EPFO\""
            ),
        )
    }
}
