//! How much of the servers one user, one database or one tenant may take: transactions at the same time, and transactions in a
//! second. The counts are those of the whole process, whichever thread serves the client.
//!
//! A transaction passes up to three gates ([`gate`]) before it takes a server, and carries its passes with that server. Where no
//! limit is set, all that this costs is a look at one flag.

mod gate;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::oneshot;

use self::gate::Gate;
pub use self::gate::{Limits, Pass};
use crate::lock::lock;

/// Gates of tenants are swept when there are twice as many as were left the last time, and not before there are so many.
const SWEEP: usize = 1024;

/// What a database entry limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatabaseLimits {
    pub database: Limits,
    /// Of each value of the sharding key.
    pub tenant: Limits,
}

/// By name, for as long as somebody counts there.
type Shared<T> = HashMap<String, Weak<T>>;

/// All gates of the process.
#[derive(Debug, Default)]
pub struct Quotas {
    databases: Mutex<Shared<DatabaseQuota>>,
    users: Mutex<Shared<Gate>>,
}

impl Quotas {
    /// What counts for one user of a database.
    pub fn of(&self, database: &str, user: &str) -> Quota {
        let (database, user) = (shared(&self.databases, database), shared(&self.users, user));
        Quota { is_limited: AtomicBool::new(false), limits_tenants: AtomicBool::new(false), database, user }
    }
}

/// The one of this name. Those that nobody has any more are forgotten: names of databases may be anybody's.
fn shared<T: Default>(all: &Mutex<Shared<T>>, name: &str) -> Arc<T> {
    let mut all = lock(all);
    if let Some(known) = all.get(name).and_then(Weak::upgrade) {
        return known;
    }
    all.retain(|_, it| it.strong_count() > 0);
    let new = Arc::default();
    all.insert(name.to_owned(), Arc::downgrade(&new));
    new
}

/// See [`Quotas::of`].
#[derive(Debug)]
pub struct Quota {
    is_limited: AtomicBool,
    limits_tenants: AtomicBool,
    database: Arc<DatabaseQuota>,
    user: Arc<Gate>,
}

#[derive(Debug, Default)]
struct DatabaseQuota {
    gate: Arc<Gate>,
    tenants: Mutex<Tenants>,
}

#[derive(Debug, Default)]
struct Tenants {
    limits: Limits,
    /// By the hash of the key.
    gates: HashMap<u64, Arc<Gate>>,
    sweep_at: usize,
}

/// What a transaction has passed.
#[derive(Debug, Default)]
pub struct Passes {
    user: Option<Pass>,
    database: Option<Pass>,
    tenant: Option<Pass>,
}

impl Passes {
    /// The transaction begins.
    pub fn begin(&mut self) {
        [&mut self.user, &mut self.database, &mut self.tenant].into_iter().flatten().for_each(|pass| pass.used = true);
    }
}

/// A place in the queue of one gate.
#[derive(Debug)]
pub struct Place {
    pub grant: oneshot::Receiver<Pass>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Database,
    Tenant,
}

impl Place {
    /// Whose limit it is, in words.
    pub fn limit(&self) -> &'static str {
        match self.kind {
            Kind::User => "max_user_transaction_rate",
            Kind::Database => "max_db_transaction_rate",
            Kind::Tenant => "max_tenant_transactions or max_tenant_transaction_rate",
        }
    }

    /// Adds the pass that was waited for.
    pub fn passed(&self, pass: Pass, passes: &mut Passes) {
        let slot = match self.kind {
            Kind::User => &mut passes.user,
            Kind::Database => &mut passes.database,
            Kind::Tenant => &mut passes.tenant,
        };
        *slot = Some(pass);
    }
}

impl Quota {
    /// Any limit at all.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }

    pub fn limits_tenants(&self) -> bool {
        self.limits_tenants.load(Ordering::Relaxed)
    }

    pub fn set_limits(&self, user: Limits, database: DatabaseLimits) {
        self.user.set_limits(user);
        self.database.gate.set_limits(database.database);
        let mut tenants = lock(&self.database.tenants);
        tenants.limits = database.tenant;
        for gate in tenants.gates.values() {
            gate.set_limits(database.tenant);
        }
        self.limits_tenants.store(!database.tenant.is_none(), Ordering::Relaxed);
        let is_limited = !user.is_none() || database != DatabaseLimits::default();
        self.is_limited.store(is_limited, Ordering::Relaxed);
    }

    /// Passes the gates that `passes` lacks, or returns where to wait. `tenant`: the hash of the sharding key.
    pub fn enter(&self, tenant: Option<u64>, passes: &mut Passes) -> Result<(), Place> {
        if passes.user.is_none() {
            passes.user = Some(through(&self.user, Kind::User)?);
        }
        if passes.database.is_none() {
            passes.database = Some(through(&self.database.gate, Kind::Database)?);
        }
        if let Some(tenant) = tenant
            && passes.tenant.is_none()
            && self.limits_tenants()
        {
            passes.tenant = Some(through(&self.tenant(tenant), Kind::Tenant)?);
        }
        Ok(())
    }

    fn tenant(&self, key: u64) -> Arc<Gate> {
        let mut tenants = lock(&self.database.tenants);
        if tenants.gates.len() >= tenants.sweep_at.max(SWEEP) {
            tenants.gates.retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.is_unused());
            tenants.sweep_at = tenants.gates.len() * 2;
        }
        let limits = tenants.limits;
        let new = || {
            let gate = Arc::new(Gate::default());
            gate.set_limits(limits);
            gate
        };
        tenants.gates.entry(key).or_insert_with(new).clone()
    }
}

fn through(gate: &Arc<Gate>, kind: Kind) -> Result<Pass, Place> {
    gate.enter().map_err(|grant| Place { grant, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_do_not_wait_for_each_other() {
        let quotas = Quotas::default();
        let quota = quotas.of("db", "user");
        assert!(!quota.is_limited());
        let tenant = Limits { transactions: 1, rate: 0 };
        let another = quotas.of("db", "another user");
        for quota in [&quota, &another] {
            quota.set_limits(Limits::default(), DatabaseLimits { tenant, ..DatabaseLimits::default() });
            assert!(quota.is_limited());
        }
        let enter = |key| {
            let mut passes = Passes::default();
            another.enter(Some(key), &mut passes).map(|()| passes)
        };
        let mut first = Passes::default();
        assert!(quota.enter(Some(7), &mut first).is_ok());
        assert_eq!(enter(7).expect_err("no room").kind, Kind::Tenant);
        let _other = enter(8).expect("another tenant");
        drop(first);
        assert!(enter(7).is_ok());
    }

    #[test]
    fn gates_that_nobody_needs_are_forgotten() {
        let quota = Quotas::default().of("db", "user");
        let tenant = Limits { transactions: 1, rate: 0 };
        quota.set_limits(Limits::default(), DatabaseLimits { tenant, ..DatabaseLimits::default() });
        for key in 0..3 * SWEEP as u64 {
            assert!(quota.enter(Some(key), &mut Passes::default()).is_ok());
        }
        assert!(lock(&quota.database.tenants).gates.len() <= SWEEP + 1);
    }
}
