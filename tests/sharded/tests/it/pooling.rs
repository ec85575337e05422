//! Pool modes in front of shards.

use crate::support::client::Client;
use crate::support::fleet::Fleet;

/// Every statement of such a client went to the home shard, where other shards' organizations have no rows.
#[test]
fn a_user_with_session_pooling_is_refused_at_login() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice_with("[users]\npostgres = pool_mode=session");
    let refused = Client::try_connect(&sluice.socket(), "epfo", &[]).err().expect("the login is refused");
    assert_eq!(refused.code(), "0A000");
    assert!(refused.errors[0].hint.contains("[users]"), "{refused:?}");
}

#[test]
fn nobody_replicates_from_all_shards_at_once() {
    let fleet = Fleet::start().filled();
    let refused = Client::try_connect(&fleet.sluice().socket(), "epfo", &[("replication", "database")]);
    let refused = refused.err().expect("the login is refused");
    assert_eq!(refused.code(), "0A000");
    assert!(refused.errors[0].hint.contains("each shard"), "{refused:?}");
}
