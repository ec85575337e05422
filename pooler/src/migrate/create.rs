//! `sluice migrate --create`: the first row of a catalog. Without it there is no shard map, and nothing to route by.
//!
//! Shards are registered only after each of them has answered: a shard with a slip of the pen in its address would have to
//! be put right in the catalog by hand.

use sluice_catalog::snapshot::{ShardRow, key_type_name};
use sluice_catalog::{CatalogError, CatalogStore, ControlCredentials, NewDatabase, Snapshot, connect_shard};
use sluice_router::KeyType;
use sluice_router::map::{Placement, SLOTS};
use tokio_postgres::error::SqlState;

use super::MigrateError;
use crate::config::parse_conninfo;

/// What a new sharded database is made of.
#[derive(Debug, Clone, clap::Args)]
pub struct CreateArgs {
    /// Create the sharded database in the catalog first; what is there already is compared
    #[arg(long, requires = "key_column", requires = "places")]
    pub create: bool,
    /// The column that every sharded table has, such as organization_id
    #[arg(long, value_name = "COLUMN", requires = "create")]
    key_column: Option<String>,
    /// That column's type; int stands for smallint, integer and bigint
    #[arg(long, value_name = "TYPE", default_value = "int", requires = "create")]
    key_type: KeyTypeName,
    /// Where a shard is; repeated, in the order of the shards' numbers. The first is the home shard
    #[arg(long, value_name = "'host=… port=… dbname=…'", group = "places", requires = "create")]
    shard: Vec<String>,
    /// Number of shards that --shard-pattern stands for
    #[arg(long, value_name = "N", group = "places", requires = "shard_pattern", conflicts_with = "shard")]
    shards: Option<u16>,
    /// Where the shards are: %d becomes a shard's number from 0, %02d with two digits
    #[arg(long, value_name = "'… dbname=app_%02d'", requires = "shards", requires = "create")]
    shard_pattern: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KeyTypeName {
    Int,
    Uuid,
    Text,
}

impl From<KeyTypeName> for KeyType {
    fn from(name: KeyTypeName) -> Self {
        match name {
            KeyTypeName::Int => Self::Int,
            KeyTypeName::Uuid => Self::Uuid,
            KeyTypeName::Text => Self::Text,
        }
    }
}

impl CreateArgs {
    /// The database that the options describe.
    pub fn database(&self, name: &str) -> Result<NewDatabase, MigrateError> {
        let texts = match (&self.shard_pattern, self.shards) {
            (Some(pattern), Some(count)) => (0..count).map(|number| numbered(pattern, number)).collect(),
            _ => Ok(self.shard.clone()),
        };
        let shards = texts.and_then(|texts| texts.iter().map(|text| placement(text)).collect()).and_then(distinct);
        Ok(NewDatabase {
            name: name.to_owned(),
            key_column: self.key_column.clone().unwrap_or_default(),
            key_type: self.key_type.into(),
            shards: shards.map_err(MigrateError::Shards)?,
        })
    }
}

/// Puts a shard's number for each `%d` or `%0Nd`; `%%` is one percent sign.
fn numbered(pattern: &str, number: u16) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (width, after) = after.split_once('d').ok_or_else(|| wrong_pattern(pattern))?;
        let width = match width {
            "" => 0,
            _ => width
                .strip_prefix('0')
                .and_then(|width| width.parse::<usize>().ok())
                .filter(|width| *width < 10)
                .ok_or_else(|| wrong_pattern(pattern))?,
        };
        out.push_str(&format!("{number:0width$}"));
        rest = after;
    }
    Ok(out + rest)
}

fn wrong_pattern(pattern: &str) -> String {
    format!(
        "shard pattern \"{pattern}\" is not understood\nHINT: write %d or %02d where a shard's number belongs, %% for a percent sign"
    )
}

fn placement(text: &str) -> Result<Placement, String> {
    let (mut host, mut port, mut dbname, mut node) = (None, 5432, None, None);
    // Errors show the text only when it is known to hold no password.
    for (key, value) in parse_conninfo(text).map_err(|error| format!("a shard's place: {error}"))? {
        match key.as_str() {
            "host" => host = Some(value),
            "dbname" => dbname = Some(value),
            "node" => node = Some(value),
            "port" => {
                let parsed = value.parse().ok().filter(|port| *port > 0);
                port = parsed.ok_or_else(|| format!("\"{value}\" is no port of a shard"))?;
            }
            "user" | "password" => {
                return Err(format!(
                    "a shard cannot have \"{key}\"\nHINT: Sluice reaches the shards as the catalog's user; clients come with their own names and auth_file's secrets"
                ));
            }
            _ => return Err(format!("a shard cannot have \"{key}\"\nHINT: use host, port, dbname and node")),
        }
    }
    let missing = |key| format!("shard \"{text}\" has no {key}\nHINT: write 'host=… port=… dbname=…'");
    let (host, dbname) = (host.ok_or_else(|| missing("host"))?, dbname.ok_or_else(|| missing("dbname"))?);
    let node = node.unwrap_or_else(|| format!("{host}:{port}"));
    Ok(Placement { node, host, port, dbname })
}

/// Two shards in one PostgreSQL database would count its rows twice.
fn distinct(shards: Vec<Placement>) -> Result<Vec<Placement>, String> {
    if shards.is_empty() || shards.len() > SLOTS {
        return Err(format!("a sharded database has 1 to {SLOTS} shards, not {}", shards.len()));
    }
    let address = |shard: &Placement| (shard.host.clone(), shard.port, shard.dbname.clone());
    for (number, shard) in shards.iter().enumerate() {
        if let Some(same) = shards[..number].iter().position(|other| address(other) == address(shard)) {
            return Err(format!(
                "shards {same} and {number} are the same PostgreSQL database, {}\nHINT: each shard needs one of its own; in a pattern, %d stands for the shard's number",
                shown(shard)
            ));
        }
    }
    Ok(shards)
}

fn shown(shard: &Placement) -> String {
    format!("host={} port={} dbname={}", shard.host, shard.port, shard.dbname)
}

/// Creates the database unless it is there. True: it was created now.
pub async fn create(
    store: &CatalogStore,
    new: &NewDatabase,
    credentials: &ControlCredentials,
) -> Result<bool, MigrateError> {
    let reach = |source| MigrateError::Reach { what: format!("database \"{}\"", new.name), source };
    match store.snapshot(&new.name).await {
        Ok(there) => return compare(&there, new).map(|()| false),
        Err(CatalogError::UnknownDatabase(_)) => {}
        Err(error) => return Err(reach(error)),
    }
    try_shards(new, credentials).await?;
    let error = match store.create_database(new).await {
        Ok(_) => return Ok(true),
        Err(error) if error.sqlstate() == Some(&SqlState::UNIQUE_VIOLATION) => error,
        Err(error) => return Err(reach(error)),
    };
    // Somebody has just created it, or has a shard of it in another database.
    match store.snapshot(&new.name).await {
        Ok(there) => compare(&there, new).map(|()| false),
        Err(_) => Err(MigrateError::ShardTaken { database: new.name.clone(), source: error }),
    }
}

async fn try_shards(new: &NewDatabase, credentials: &ControlCredentials) -> Result<(), MigrateError> {
    for (number, shard) in new.shards.iter().enumerate() {
        let connected = connect_shard(shard, credentials).await;
        connected.map(drop).map_err(|source| MigrateError::NoShard { number, source })?;
    }
    Ok(())
}

/// Slots and overrides may have moved since; what they are about may not differ.
fn compare(there: &Snapshot, new: &NewDatabase) -> Result<(), MigrateError> {
    let mut differences = Vec::new();
    let mut differ = |what: String, is: &str, wanted: &str| {
        if is != wanted {
            differences.push(format!("{what} is {is}, not {wanted}"));
        }
    };
    differ("the key column".to_owned(), &there.key_column, &new.key_column);
    differ("the key type".to_owned(), &there.key_type, key_type_name(new.key_type));
    differ("the number of shards".to_owned(), &there.shards.len().to_string(), &new.shards.len().to_string());
    for (number, (row, wanted)) in there.shards.iter().zip(&new.shards).enumerate() {
        let ShardRow { host, port, dbname, .. } = row;
        differ(format!("shard {number}"), &format!("host={host} port={port} dbname={dbname}"), &shown(wanted));
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(MigrateError::Differs { database: new.name.clone(), differences: differences.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_where_the_pattern_says() {
        assert_eq!(numbered("dbname=app_%02d", 7).unwrap(), "dbname=app_07");
        assert_eq!(numbered("host=pg%d dbname=app_%03d", 12).unwrap(), "host=pg12 dbname=app_012");
        assert_eq!(numbered("dbname=%%x", 1).unwrap(), "dbname=%x");
        for wrong in ["%", "%s", "%2d", "%0d", "%099d", "a%02"] {
            assert!(numbered(wrong, 1).unwrap_err().contains("not understood"), "{wrong}");
        }
    }

    #[test]
    fn a_shard_is_an_address_without_secrets() {
        let shard = placement("host=/tmp dbname=s").unwrap();
        assert_eq!((&*shard.node, shard.port, &*shard.dbname), ("/tmp:5432", 5432, "s"));
        assert_eq!(placement("host=a port=1 dbname=s node=left").unwrap().node, "left");
        for (text, expected) in [
            ("dbname=s", "has no host"),
            ("host=a", "has no dbname"),
            ("host=a dbname=s port=0", "no port"),
            ("host=a dbname=s hots=b", "cannot have \"hots\""),
            ("host=a dbname", "syntax error"),
        ] {
            assert!(placement(text).unwrap_err().contains(expected), "{text}");
        }
        let error = placement("host=a dbname=s password=hunter2").unwrap_err();
        assert!(error.contains("\"password\"") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn every_shard_has_a_database_of_its_own() {
        let shards = |texts: &[&str]| distinct(texts.iter().map(|text| placement(text).unwrap()).collect());
        assert!(shards(&["host=a dbname=s", "host=b dbname=s"]).is_ok());
        let error = shards(&["host=a dbname=s", "host=b dbname=s", "host=a dbname=s node=x"]).unwrap_err();
        assert!(error.starts_with("shards 0 and 2 are the same"), "{error}");
        assert!(shards(&[]).is_err());
    }
}
