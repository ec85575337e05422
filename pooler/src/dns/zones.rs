//! `dns_zone_check_period`: a zone whose serial number has changed has its names looked up anew.
//!
//! The zone of a name is what follows its first dot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Dns, lock};

#[derive(Debug, Default)]
pub(super) struct Zones {
    /// Serial numbers, as far as they are known.
    serials: Mutex<BTreeMap<String, u32>>,
    checked: Mutex<Option<Instant>>,
    checking: AtomicBool,
}

/// A row of SHOW DNS_ZONES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneView {
    pub name: String,
    /// 0 if nobody has told.
    pub serial: u32,
    /// Names in it.
    pub count: usize,
}

fn zone_of(host: &str) -> Option<&str> {
    let (_, zone) = host.trim_end_matches('.').split_once('.')?;
    Some(zone).filter(|zone| !zone.is_empty())
}

impl Dns {
    /// All zones, whether they are checked or not.
    pub fn zones(&self) -> Vec<ZoneView> {
        let mut counts = BTreeMap::<String, usize>::new();
        for host in lock(&self.names).keys() {
            if let Some(zone) = zone_of(host) {
                *counts.entry(zone.to_owned()).or_default() += 1;
            }
        }
        let serials = lock(&self.zones.serials);
        let view = |(name, count)| ZoneView { serial: serials.get(&name).copied().unwrap_or(0), name, count };
        counts.into_iter().map(view).collect()
    }

    /// Checks all zones if it is time to.
    pub(super) fn tend_zones(self: &Arc<Self>, now: Instant) {
        let period = lock(&self.times).zone_check_period;
        let mut checked = lock(&self.zones.checked);
        let due = !period.is_zero() && checked.is_none_or(|checked| now.duration_since(checked) >= period);
        if due && !self.zones.checking.swap(true, Ordering::AcqRel) {
            *checked = Some(now);
            let dns = self.clone();
            tokio::spawn(async move {
                dns.check_zones().await;
                dns.zones.checking.store(false, Ordering::Release);
            });
        }
    }

    async fn check_zones(&self) {
        let zones = self.zones();
        lock(&self.zones.serials).retain(|name, _| zones.iter().any(|zone| zone.name == *name));
        for zone in zones {
            let Some(serial) = self.resolver.serial(&zone.name).await else { continue };
            let before = lock(&self.zones.serials).insert(zone.name.clone(), serial);
            if before.is_some_and(|before| before != serial) {
                tracing::info!("zone {} has changed: its names are looked up again", zone.name);
                self.look_up_zone(&zone.name).await;
            }
        }
    }

    async fn look_up_zone(&self, zone: &str) {
        let names = lock(&self.names).clone();
        for (host, name) in names.iter().filter(|(host, _)| zone_of(host) == Some(zone)) {
            *lock(&name.answer) = None;
            self.look_up(host, name).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_what_follows_the_first_dot() {
        for (host, zone) in [
            ("db.example.com", Some("example.com")),
            ("db.example.com.", Some("example.com")),
            ("localhost", None),
            ("db.", None),
        ] {
            assert_eq!(zone_of(host), zone, "{host}");
        }
    }
}
