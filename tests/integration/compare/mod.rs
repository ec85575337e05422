//! The same script against PgBouncer and against Sluice, side by side: what differs is printed, and has to stand in
//! [`expected`] with its reason, which [docs/pgbouncer.md](../../../docs/pgbouncer.md) gives to users.
//!
//! - [`poolers`]: both programs, in front of the same PostgreSQL with the same settings;
//! - [`record`]: what a client sees, as text;
//! - [`logins`], [`sessions`], [`timeouts`], [`commands`]: the script;
//! - [`expected`]: the differences that are meant.
//!
//! `make compare` runs it, with Debian's PgBouncer (1.18) or with `PGBOUNCER=PATH`. Unexpected differences fail it, and so do, with
//! Debian's, expected ones that are gone.

mod commands;
mod expected;
mod logins;
mod poolers;
mod record;
mod sessions;
mod timeouts;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use sluice_test_harness::Cluster;

use self::expected::{EXPECTED, Expected, When};
use self::poolers::{Kind, Pooler};
use self::record::{NOTHING, Record};

/// The newest that the list is made for.
const DEBIAN: &str = "/usr/sbin/pgbouncer";

#[test]
#[ignore = "needs PgBouncer: make compare"]
fn with_pgbouncer() {
    let program = std::env::var("PGBOUNCER").unwrap_or_else(|_| DEBIAN.to_owned());
    let cluster = Cluster::start();
    poolers::prepare(&cluster);
    let of = |kind| {
        let mut record = Record::default();
        run(&|settings| Pooler::start(kind, &program, &cluster, settings), &mut record);
        record
    };
    let (theirs, ours) = (of(Kind::PgBouncer), of(Kind::Sluice));
    let differences = differences(&theirs, &ours);
    println!("{}", table(&differences));
    println!("{} of {} outcomes differ.", differences.len(), theirs.outcomes().len());
    assert_documented();
    assert_eq!(unexpected(&differences), Vec::<&str>::new(), "differences that nobody meant");
    if program == DEBIAN {
        assert_eq!(gone(&differences), Vec::<&str>::new(), "differences that are gone; take them off the list");
    }
}

fn run(start: &dyn Fn(&str) -> Pooler, record: &mut Record) {
    logins::run(start, record);
    let pooler = start("auth_type = trust\nmin_pool_size = 0");
    sessions::run(&pooler, record);
    commands::run(&pooler, record);
    timeouts::run(start, record);
}

/// Each error has a SQLSTATE of its own in Sluice, nearly all have the same in PgBouncer: that alone is no difference.
fn without_codes(outcome: &str) -> String {
    let is_code = |word: &&str| word.len() == 6 && word.ends_with(':') && !word.contains(char::is_lowercase);
    let line = |line: &str| line.split(' ').filter(|word| !is_code(word)).collect::<Vec<_>>().join(" ");
    outcome.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// One outcome that isn't the same.
struct Difference<'a> {
    name: &'a str,
    theirs: &'a str,
    ours: &'a str,
}

fn differences<'a>(theirs: &'a Record, ours: &'a Record) -> Vec<Difference<'a>> {
    let names: Vec<&str> = theirs.outcomes().iter().chain(ours.outcomes()).map(|(name, _)| name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut differences = Vec::new();
    for name in names.into_iter().filter(|name| seen.insert(*name)) {
        let (theirs, ours) = (theirs.get(name), ours.get(name));
        if without_codes(theirs) != without_codes(ours) {
            differences.push(Difference { name, theirs, ours });
        }
    }
    differences
}

impl Difference<'_> {
    fn is(&self, expected: &Expected) -> bool {
        expected.covers(self.name, self.theirs == NOTHING)
    }

    fn reason(&self) -> Option<&'static str> {
        EXPECTED.iter().find(|expected| self.is(expected)).map(|expected| expected.reason)
    }
}

fn unexpected<'a>(differences: &[Difference<'a>]) -> Vec<&'a str> {
    let unexpected = differences.iter().filter(|difference| difference.reason().is_none());
    unexpected.map(|difference| difference.name).collect()
}

fn gone(differences: &[Difference<'_>]) -> Vec<&'static str> {
    let is_gone = |expected: &&Expected| !differences.iter().any(|difference| difference.is(expected));
    EXPECTED
        .iter()
        .filter(|expected| expected.when == When::Always)
        .filter(is_gone)
        .map(|expected| expected.name)
        .collect()
}

fn table(differences: &[Difference<'_>]) -> String {
    let mut text = String::new();
    for difference in differences {
        let Difference { name, theirs, ours } = difference;
        let reason = difference.reason().unwrap_or("NOT EXPECTED");
        let indented = |outcome: &str| outcome.replace('\n', "\n             ");
        writeln!(text, "{name}\n  PgBouncer: {}\n  Sluice:    {}\n  {reason}\n", indented(theirs), indented(ours))
            .expect("writing to a string");
    }
    text
}

/// Users find each difference where the list says that it is told.
fn assert_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let page = std::fs::read_to_string(root.join("docs/pgbouncer.md")).expect("docs/pgbouncer.md");
    let untold: Vec<_> = EXPECTED.iter().map(|expected| expected.told).filter(|told| !page.contains(told)).collect();
    assert_eq!(untold, Vec::<&str>::new(), "docs/pgbouncer.md does not say");
}
