//! What is written into the catalog is what is loaded from it.

use sluice_catalog::{CatalogError, CatalogStore, Change, Deadlines, TableName};
use sluice_router::KeyType;
use sluice_router::map::{FunctionClass, TableClass};

use crate::setup::{CATALOG, DATABASE, Fleet};

fn create(name: &str, class: TableClass, columns: &[&str]) -> Change {
    let columns = columns.iter().map(|&column| column.to_owned()).collect();
    Change::CreateTable { table: TableName::new("public", name), class, columns }
}

#[tokio::test]
async fn a_new_database_has_its_shards_and_even_slots() {
    let fleet = Fleet::empty().await;
    let new = fleet.database(3);
    let version = fleet.store.create_database(&new).await.unwrap();
    let map = fleet.map().await;
    assert_eq!((map.version(), map.key_type(), map.shards()), (version, KeyType::Int, &new.shards[..]));
    assert!(map.slots().is_sorted(), "the slots of a shard are not one range");
    for shard in map.shard_ids() {
        let owned = map.slots().iter().filter(|&&owner| owner == shard).count();
        assert!((1365..=1366).contains(&owned), "shard {shard} has {owned} slots");
    }
    assert_eq!(map.schema().sharding.as_ref().unwrap().key_column, "organization_id");

    let again = fleet.store.create_database(&new).await.unwrap_err();
    assert_eq!(again.sqlstate().map(|code| code.code()), Some("23505"));
}

#[tokio::test]
async fn a_database_without_shards_or_with_a_moved_node_is_refused() {
    let fleet = Fleet::of(2).await;
    let mut none = fleet.database(0);
    none.name = "none".into();
    let error = fleet.store.create_database(&none).await.unwrap_err().to_string();
    assert!(error.contains("0 of 4096 slots"), "{error}");

    let mut moved = fleet.database(3);
    moved.name = "moved".into();
    moved.shards.iter_mut().for_each(|shard| shard.dbname.insert(0, 'm'));
    moved.shards[2].port = 5433;
    let error = fleet.store.create_database(&moved).await.unwrap_err();
    assert!(matches!(&error, CatalogError::NodeElsewhere(node) if node == "n1"), "{error}");
    assert_eq!(fleet.sql("SELECT string_agg(name, ' ') FROM sluice.databases"), DATABASE);
}

#[tokio::test]
async fn changes_of_tables_and_functions_are_in_the_next_map() {
    let fleet = Fleet::of(2).await;
    let before = fleet.map().await;
    let function = TableName::new("public", "f");
    let version = fleet
        .store
        .apply(
            DATABASE,
            &[
                create("members", TableClass::Sharded, &["organization_id", "name"]),
                create("states", TableClass::Home, &["code"]),
                create("gone", TableClass::Home, &["id"]),
                Change::DropTable(TableName::new("public", "gone")),
                Change::SetClass { table: TableName::new("public", "states"), class: TableClass::Reference },
                Change::RenameTable { table: TableName::new("public", "members"), to: "people".into() },
                Change::SetColumns {
                    table: TableName::new("public", "people"),
                    columns: vec!["organization_id".into(), "name".into(), "born".into()],
                },
                Change::DeclareFunction { function: function.clone(), class: FunctionClass::ShardLocal },
                Change::DeclareFunction { function, class: FunctionClass::Pure },
            ],
        )
        .await
        .unwrap();
    let map = fleet.map().await;
    assert!(map.version() == version && version > before.version());
    let sharding = map.schema().sharding.as_ref().unwrap();
    let class = |name: &str| sharding.tables.get(&("public".into(), name.into())).map(|table| table.class);
    assert_eq!(class("people"), Some(TableClass::Sharded));
    assert_eq!(class("states"), Some(TableClass::Reference));
    assert_eq!((class("members"), class("gone"), sharding.tables.len()), (None, None, 2));
    let people = &sharding.tables[&("public".into(), "people".into())];
    assert_eq!(people.column("born"), Some(2));
    assert_eq!(sharding.functions[&("public".into(), "f".into())], FunctionClass::Pure);
}

#[tokio::test]
async fn a_change_that_fails_takes_the_others_with_it() {
    let fleet = Fleet::of(2).await;
    let before = fleet.map().await;
    let good = create("members", TableClass::Sharded, &["organization_id"]);
    let unknown = Change::SetColumns { table: TableName::new("public", "none"), columns: vec!["a".into()] };
    let error = fleet.store.apply(DATABASE, &[good.clone(), unknown]).await.unwrap_err();
    assert!(matches!(&error, CatalogError::UnknownTable(table) if table == "public.none"), "{error}");
    let error = fleet.store.apply(DATABASE, &[good, create("t", TableClass::Sharded, &["id"])]).await.unwrap_err();
    assert!(error.to_string().contains("has no column \"organization_id\""), "{error}");
    let map = fleet.map().await;
    assert_eq!((map.version(), map.schema()), (before.version(), before.schema()));
}

#[tokio::test]
async fn overrides_beat_slots() {
    let fleet = Fleet::of(2).await;
    let key = sluice_router::Key::Int(42);
    let by_slot = fleet.map().await.shard_of(&key).index();
    fleet.sql(&format!("INSERT INTO sluice.overrides VALUES ('epfo', '42', {})", 1 - by_slot));
    assert_eq!(fleet.map().await.shard_of(&key).index(), 1 - by_slot);
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    let fleet = Fleet::empty().await;
    let error = fleet.store.load("none").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "database \"none\" is not in the catalog; create it with: sluice migrate --create (see sluice migrate --help)"
    );
    let change = create("t", TableClass::Home, &["id"]);
    assert!(fleet.store.apply("none", &[change]).await.is_err());

    let bare = CatalogStore::new(&fleet.cluster.conninfo("postgres"), Deadlines::default()).unwrap();
    assert!(matches!(bare.load(DATABASE).await, Err(CatalogError::NotMigrated { .. })));

    fleet.cluster.stop_immediate();
    let error = fleet.store.load(DATABASE).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot connect to database \"{CATALOG}\" at /tmp/")), "{error}");
}
