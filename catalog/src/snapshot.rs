//! The catalog's rows of one database: as they are read (and kept on disk), and as the router's shard map means them.
//!
//! **Versions.** Both versions of a database come from one counter in the catalog, and each change takes the next number
//! for one of them. So the greater of the two rises with every change of either: it is the version of the whole map. The
//! schema keeps its own, because templates need to be analysed again only when tables or functions change.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluice_router::key::OwnedKey;
use sluice_router::map::{FunctionClass, Placement, Sharding, Table, TableClass};
use sluice_router::{KeyType, Schema, ShardMap};

use crate::error::CatalogError;

/// One version of one database's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub database: String,
    pub key_column: String,
    pub key_type: String,
    pub map_version: u64,
    pub schema_version: u64,
    /// In the order of their numbers, from 0.
    pub shards: Vec<ShardRow>,
    /// The shard of each slot, in the order of the slots.
    pub slots: Vec<u16>,
    pub overrides: Vec<OverrideRow>,
    pub tables: Vec<TableRow>,
    pub functions: Vec<FunctionRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRow {
    pub node: String,
    pub host: String,
    pub port: u16,
    pub dbname: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideRow {
    /// As PostgreSQL prints it.
    pub key: String,
    pub shard: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRow {
    pub schema: String,
    pub name: String,
    pub class: String,
    pub columns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionRow {
    pub schema: String,
    pub name: String,
    pub class: String,
}

impl Snapshot {
    /// The version of the map that these rows make.
    pub fn version(&self) -> u64 {
        self.map_version.max(self.schema_version)
    }

    /// The map that these rows mean; an error if they contradict each other.
    pub fn to_map(&self) -> Result<ShardMap, CatalogError> {
        let key_type = self.parse("the key type", &self.key_type, key_type_from)?;
        let overrides = self
            .overrides
            .iter()
            .map(|row| {
                let key = self.parse("an override's key", &row.key, |text| key_from(key_type, text))?;
                Ok((key, row.shard))
            })
            .collect::<Result<Vec<_>, CatalogError>>()?;
        let shards = self.shards.iter().map(ShardRow::placement).collect();
        ShardMap::new(self.version(), key_type, &self.slots, overrides, shards, Arc::new(self.schema(key_type)?))
            .map_err(|source| CatalogError::Map { database: self.database.clone(), source })
    }

    fn schema(&self, key_type: KeyType) -> Result<Schema, CatalogError> {
        let tables = self.tables.iter().map(|row| {
            let class = self.parse("a table's class", &row.class, table_class_from)?;
            let columns = row.columns.iter().map(|column| column.as_str().into()).collect();
            Ok(((row.schema.clone(), row.name.clone()), Table { class, columns }))
        });
        let functions = self.functions.iter().map(|row| {
            let class = self.parse("a function's class", &row.class, function_class_from)?;
            Ok(((row.schema.clone(), row.name.clone()), class))
        });
        let sharding = Sharding {
            key_column: self.key_column.clone(),
            key_type,
            tables: tables.collect::<Result<HashMap<_, _>, CatalogError>>()?,
            functions: functions.collect::<Result<HashMap<_, _>, CatalogError>>()?,
        };
        Ok(Schema { version: self.schema_version, sharding: Some(sharding) })
    }

    fn parse<T>(
        &self,
        what: &'static str,
        value: &str,
        parser: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, CatalogError> {
        let wrong = || CatalogError::Value { database: self.database.clone(), what, value: value.to_owned() };
        parser(value).ok_or_else(wrong)
    }
}

impl ShardRow {
    fn placement(&self) -> Placement {
        Placement { node: self.node.clone(), host: self.host.clone(), port: self.port, dbname: self.dbname.clone() }
    }
}

fn key_from(key_type: KeyType, text: &str) -> Option<OwnedKey> {
    match key_type {
        KeyType::Int => text.parse().ok().map(OwnedKey::Int),
        KeyType::Text => Some(OwnedKey::Text(text.as_bytes().into())),
        KeyType::Uuid => {
            let digits = text.replace('-', "");
            let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
            Some(OwnedKey::Uuid(number.to_be_bytes()))
        }
    }
}

fn key_type_from(text: &str) -> Option<KeyType> {
    [KeyType::Int, KeyType::Uuid, KeyType::Text].into_iter().find(|&key_type| key_type_name(key_type) == text)
}

fn table_class_from(text: &str) -> Option<TableClass> {
    [TableClass::Sharded, TableClass::Reference, TableClass::Home]
        .into_iter()
        .find(|&class| table_class_name(class) == text)
}

fn function_class_from(text: &str) -> Option<FunctionClass> {
    [FunctionClass::Pure, FunctionClass::ShardLocal].into_iter().find(|&class| function_class_name(class) == text)
}

/// The catalog's word for a key type.
pub fn key_type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Int => "int",
        KeyType::Uuid => "uuid",
        KeyType::Text => "text",
    }
}

/// The catalog's word for a table class.
pub fn table_class_name(class: TableClass) -> &'static str {
    match class {
        TableClass::Sharded => "sharded",
        TableClass::Reference => "reference",
        TableClass::Home => "home",
    }
}

/// The catalog's word for a function class.
pub fn function_class_name(class: FunctionClass) -> &'static str {
    match class {
        FunctionClass::Pure => "pure",
        FunctionClass::ShardLocal => "shard_local",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let shard =
            |dbname: &str| ShardRow { node: "n".into(), host: "/tmp".into(), port: 5432, dbname: dbname.into() };
        Snapshot {
            database: "epfo".into(),
            key_column: "organization_id".into(),
            key_type: "int".into(),
            map_version: 7,
            schema_version: 9,
            shards: vec![shard("s0"), shard("s1")],
            slots: (0..4096).map(|slot| slot / 2048).collect(),
            overrides: vec![OverrideRow { key: "42".into(), shard: 1 }],
            tables: vec![TableRow {
                schema: "public".into(),
                name: "members".into(),
                class: "sharded".into(),
                columns: vec!["organization_id".into(), "name".into()],
            }],
            functions: vec![FunctionRow { schema: "public".into(), name: "f".into(), class: "shard_local".into() }],
        }
    }

    #[test]
    fn the_map_says_what_the_rows_say() {
        let map = snapshot().to_map().unwrap();
        assert_eq!((map.version(), map.schema().version, map.key_type()), (9, 9, KeyType::Int));
        assert_eq!(map.slots().iter().filter(|shard| shard.index() == 1).count(), 2048);
        let overrides: Vec<_> = map.overrides().map(|(key, shard)| (key.clone(), shard.index())).collect();
        assert_eq!(overrides, [(OwnedKey::Int(42), 1)]);
        let sharding = map.schema().sharding.as_ref().unwrap();
        assert_eq!(sharding.tables[&("public".into(), "members".into())].class, TableClass::Sharded);
        assert_eq!(sharding.functions[&("public".into(), "f".into())], FunctionClass::ShardLocal);
    }

    #[test]
    fn rows_that_mean_nothing_make_no_map() {
        let damages: [fn(&mut Snapshot); 6] = [
            |rows| rows.key_type = "oid".into(),
            |rows| rows.slots[7] = 2,
            |rows| rows.slots.truncate(4095),
            |rows| rows.overrides[0].key = "x".into(),
            |rows| rows.tables[0].class = "global".into(),
            |rows| rows.functions[0].class = String::new(),
        ];
        for (number, damage) in damages.into_iter().enumerate() {
            let mut rows = snapshot();
            damage(&mut rows);
            assert!(rows.to_map().is_err(), "damage {number}");
        }
    }

    #[test]
    fn keys_are_read_as_postgresql_prints_them() {
        let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        let bytes = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128.to_be_bytes();
        assert_eq!(key_from(KeyType::Uuid, uuid), Some(OwnedKey::Uuid(bytes)));
        assert_eq!(key_from(KeyType::Uuid, "a0eebc99"), None);
        assert_eq!(key_from(KeyType::Int, "-9223372036854775808"), Some(OwnedKey::Int(i64::MIN)));
        assert_eq!(key_from(KeyType::Int, "9223372036854775808"), None);
        assert_eq!(key_from(KeyType::Text, "é"), Some(OwnedKey::Text("é".as_bytes().into())));
    }
}
