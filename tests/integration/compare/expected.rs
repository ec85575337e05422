//! The differences that are meant.

/// One of them, or several with the same beginning.
pub struct Expected {
    /// The outcome's name; with `*` at its end, all that begin so.
    pub name: &'static str,
    /// Words of docs/pgbouncer.md that tell users of it.
    pub told: &'static str,
    pub reason: &'static str,
    pub when: When,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A run without it says that the list is out of date.
    Always,
    Sometimes,
    /// Only if PgBouncer has no such outcome.
    Added,
}

impl Expected {
    pub fn covers(&self, name: &str, is_added: bool) -> bool {
        if self.when == When::Added && !is_added {
            return false;
        }
        match self.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.name,
        }
    }
}

const fn expected(name: &'static str, told: &'static str, reason: &'static str) -> Expected {
    Expected { name, told, reason, when: When::Always }
}

/// Depends on timing, or on PgBouncer's version.
const fn sometimes(name: &'static str, told: &'static str, reason: &'static str) -> Expected {
    Expected { name, told, reason, when: When::Sometimes }
}

/// Outcomes that PgBouncer doesn't have at all.
const fn added(name: &'static str, told: &'static str, reason: &'static str) -> Expected {
    Expected { name, told, reason, when: When::Added }
}

/// Where the page says what Debian's release does not have yet.
const NEWER: &str = "Debian's PgBouncer is 1.18";
const OWN_COLUMNS: &str = "columns of Sluice's own stand behind PgBouncer's last";

pub const EXPECTED: &[Expected] = &[
    expected("login hba: verified*", NEWER, "newer than Debian's 1.18: a text of its own if there is no rule"),
    expected("login hba: nobody*", NEWER, "newer than Debian's 1.18: a text of its own if there is no rule"),
    expected("start-up parameter options=*", NEWER, "newer than Debian's 1.18: options are read"),
    expected(
        "start-up parameter _pq_.feature=1",
        NEWER,
        "newer than Debian's 1.18: declined by NegotiateProtocolVersion",
    ),
    expected("protocol 3.9", NEWER, "newer than Debian's 1.18: negotiated"),
    expected("start-up parameter replication=database", NEWER, "newer than Debian's 1.18"),
    expected(
        "start-up parameter replication=nonsense",
        "`replication` with a value that makes no sense",
        "refused, as PostgreSQL does it, instead of ignored",
    ),
    expected("no end", NEWER, "newer than Debian's 1.18: the end of the packet is checked"),
    expected(
        "no start-up packet",
        "a start-up packet that makes no sense",
        "refused at once, instead of waiting for more of it",
    ),
    expected(
        "session: statement pooling",
        "`BEGIN` in statement pooling",
        "BEGIN is answered before a server is taken; the next statement is refused",
    ),
    sometimes("copy: rows that fail", NEWER, "newer than Debian's 1.18: what comes behind a COPY that failed"),
    sometimes("copy: given up by the client", NEWER, "newer than Debian's 1.18: what comes behind a COPY that failed"),
    sometimes(
        "batch: a statement that is not there, shared",
        "unknown or doubly prepared statement",
        "the session goes on, as with PostgreSQL",
    ),
    expected("a setting of another client", "otherwise `statement_timeout` or a role leaks", "PgBouncer leaks it"),
    expected("a role of another client", "otherwise `statement_timeout` or a role leaks", "PgBouncer leaks it"),
    expected("SQL-level PREPARE of another client", "what can't travel", "PgBouncer leaks it"),
    sometimes(
        "message: a length that is too short",
        "`bad packet header: '…'` shows",
        "the header alone, not what happens to have come behind it",
    ),
    expected(
        "message: a query without its end",
        "a message without its terminating zero",
        "read before it is passed on",
    ),
    expected("SHOW ACTIVE_SOCKETS", NEWER, "newer than Debian's 1.18"),
    expected("SHOW SOCKETS", NEWER, "newer than Debian's 1.18"),
    expected("SHOW STATE", NEWER, "newer than Debian's 1.18"),
    expected("SHOW PEERS", NEWER, "newer than Debian's 1.18"),
    expected("SHOW PEER_POOLS", NEWER, "newer than Debian's 1.18"),
    expected("SHOW USERS", NEWER, "newer than Debian's 1.18"),
    expected("SHOW CLIENTS", OWN_COLUMNS, "columns of Sluice's own stand behind PgBouncer's last"),
    expected("SHOW SERVERS", OWN_COLUMNS, "columns of Sluice's own stand behind PgBouncer's last"),
    expected("SHOW DATABASES", OWN_COLUMNS, "columns of Sluice's own stand behind PgBouncer's last"),
    expected("SHOW POOLS", OWN_COLUMNS, "columns of Sluice's own stand behind PgBouncer's last"),
    expected("SHOW STATS", NEWER, "newer than Debian's 1.18"),
    expected("SHOW STATS_TOTALS", NEWER, "newer than Debian's 1.18"),
    expected("SHOW STATS_AVERAGES", NEWER, "newer than Debian's 1.18"),
    expected("SHOW FDS", "`SHOW FDS`", "only where the sockets can be passed, and the listening ones only"),
    expected("SHOW STATE: *", NEWER, "newer than Debian's 1.18"),
    expected("SHOW LISTS: peer*", NEWER, "newer than Debian's 1.18"),
    expected("SHOW CONFIG: client_tls_ciphers", NEWER, "newer than Debian's 1.18: another default"),
    expected("SHOW CONFIG: server_check_query", NEWER, "newer than Debian's 1.18: another default"),
    expected("SHOW CONFIG: server_tls_ciphers", NEWER, "newer than Debian's 1.18: another default"),
    expected("SHOW CONFIG: server_tls_sslmode", NEWER, "newer than Debian's 1.18: another default"),
    expected("SHOW CONFIG: verbose", "`verbose` has a default", "0, not NULL"),
    added("SHOW CONFIG: *", "## Settings of Sluice's own", "of Sluice's own, or newer than PgBouncer's release"),
    expected("console: \"ENABLE pgbouncer\"", "`cannot enable admin db`", "it says what was asked for"),
    expected("console: \"KILL_CLIENT*", NEWER, "newer than Debian's 1.18"),
    expected("console: extended protocol", "| the console | extended protocol as well", "some drivers have no other"),
];
