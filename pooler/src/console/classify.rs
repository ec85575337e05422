//! CREATE REFERENCE TABLE and its kin: tells the catalog of what class a table or function is that the shards have already.
//! CREATE REFERENCE TABLE of a table that no shard has *declares* it: CREATE TABLE through Sluice, which would make it a
//! home table for want of the sharding key, then makes it on every shard.
//!
//! A class that doesn't fit is a wrong answer in waiting, so the shards are asked first: is the table fit for the class
//! ([`sluice_catalog::introspect`]), and are its rows where the class says? The latter holds for the moment of asking. For
//! a table that had no class, that is enough: nobody writes to it through Sluice yet. Before the class of a table in use is
//! changed, its writers have to rest.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::try_join_all;
use sluice_catalog::introspect::{columns, unfit_for_reference, unfit_for_sharding};
use sluice_catalog::{CatalogError, Change, PooledClient, TableName};
use sluice_router::key::KeyType;
use sluice_router::map::{FunctionClass, TableClass};
use sluice_router::{ShardId, ShardMap};
use sluice_wire::message::Report;

use super::answer::Answer;
use super::grant::AdminGrant;
use super::route::sharded_database;
use crate::app::App;
use crate::catalogs::ShardedDatabase;
use crate::vars::quote_identifier;

/// Most reasons that an error lists.
const MOST_REASONS: usize = 8;

/// A class to be given; `None` takes it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Table(Option<TableClass>),
    Function(Option<FunctionClass>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classify {
    pub subject: Subject,
    /// The table's or the function's name.
    pub table: TableName,
    pub database: Option<String>,
}

impl Classify {
    fn tag(&self) -> &'static str {
        match self.subject {
            Subject::Table(Some(TableClass::Sharded)) => "CREATE SHARDED TABLE",
            Subject::Table(Some(TableClass::Reference)) => "CREATE REFERENCE TABLE",
            Subject::Table(Some(TableClass::Home)) => "CREATE HOME TABLE",
            Subject::Table(None) => "DROP TABLE CLASS",
            Subject::Function(Some(FunctionClass::Pure)) => "CREATE PURE FUNCTION",
            Subject::Function(Some(FunctionClass::ShardLocal)) => "CREATE SHARD LOCAL FUNCTION",
            Subject::Function(None) => "DROP FUNCTION CLASS",
        }
    }
}

/// Checks, changes the catalog, and answers when this instance routes by the change.
pub async fn run(app: &App, _: &AdminGrant, classify: &Classify) -> Result<Answer, Report> {
    let usage = format!("{} {} IN <db>", classify.tag(), classify.table);
    let (_, database) = sharded_database(app, classify.database.as_deref(), &usage)?;
    let check = Check { database: &database, map: database.watcher.map(), table: &classify.table };
    let change = match classify.subject {
        Subject::Table(Some(class)) => check.table_change(class).await?,
        Subject::Table(None) => check.known_table().map(|()| Change::DropTable(classify.table.clone()))?,
        Subject::Function(Some(class)) => {
            check.function_exists().await?;
            Change::DeclareFunction { function: classify.table.clone(), class }
        }
        Subject::Function(None) => check.known_function().map(|()| Change::ForgetFunction(classify.table.clone()))?,
    };
    tracing::info!("{} {} in database \"{}\"", classify.tag(), classify.table, database.name);
    database.store.apply(&database.name, &[change]).await.map_err(|error| failed(&error))?;
    database.watcher.refresh().await.map_err(|error| failed(&error))?;
    Ok(Answer::done(classify.tag()))
}

fn failed(error: &CatalogError) -> Report {
    Report::error("58000", error.to_string())
        .hint("the catalog may not have changed; SHOW TABLES and SHOW FUNCTIONS tell")
}

struct Check<'a> {
    database: &'a ShardedDatabase,
    map: Arc<ShardMap>,
    table: &'a TableName,
}

/// What a class's check finds wrong with one shard.
type Reasons = Result<Vec<String>, CatalogError>;

impl Check<'_> {
    async fn table_change(&self, class: TableClass) -> Result<Change, Report> {
        let home = self.client(self.map.home()).await.map_err(|error| failed(&error))?;
        let columns = columns(&home, self.table).await.map_err(|error| failed(&error))?;
        let columns = match columns {
            Some(columns) => columns,
            None if class == TableClass::Reference => return self.declaration().await,
            None => return Err(self.missing("table", "42P01")),
        };
        let reasons = match class {
            TableClass::Sharded => self.on_shards(|client, shard| self.unfit_as_sharded(client, shard, &columns)).await,
            TableClass::Reference => self.unfit_as_reference(&columns).await,
            TableClass::Home => self.on_shards(|client, shard| self.unfit_as_home(client, shard)).await,
        };
        self.refuse_for(reasons.map_err(|error| failed(&error))?, class)?;
        Ok(Change::CreateTable { table: self.table.clone(), class, columns })
    }

    /// The home shard does not have the table; a shard that has it would not be like the others.
    async fn declaration(&self) -> Result<Change, Report> {
        let reasons = self
            .on_shards(async |client, shard| {
                let there = columns(&client, self.table).await?.is_some();
                Ok(if there {
                    on_shard(shard, vec!["it exists, and on the home shard it does not".to_owned()])
                } else {
                    Vec::new()
                })
            })
            .await;
        self.refuse_for(reasons.map_err(|error| failed(&error))?, TableClass::Reference)?;
        Ok(Change::CreateTable { table: self.table.clone(), class: TableClass::Reference, columns: Vec::new() })
    }

    fn refuse_for(&self, mut reasons: Vec<String>, class: TableClass) -> Result<(), Report> {
        if reasons.is_empty() {
            return Ok(());
        }
        let more = reasons.len().saturating_sub(MOST_REASONS);
        reasons.truncate(MOST_REASONS);
        if more > 0 {
            reasons.push(format!("and {more} more"));
        }
        let class = sluice_catalog::snapshot::table_class_name(class);
        Err(Report::error("55000", format!("table \"{}\" cannot be a {class} table", self.table))
            .detail(reasons.join("\n"))
            .hint("nothing has changed; put that right on the shards and try again"))
    }

    async fn client(&self, shard: ShardId) -> Result<PooledClient, CatalogError> {
        self.database.shards.get(self.map.placement(shard)).await
    }

    /// Asks all shards at once; the first that can't be asked fails it all.
    async fn on_shards<Work>(&self, work: impl Fn(PooledClient, ShardId) -> Work) -> Reasons
    where
        Work: Future<Output = Reasons>,
    {
        let work = &work;
        let ask = |shard| async move { work(self.client(shard).await?, shard).await };
        let reasons = try_join_all(self.map.shard_ids().map(ask)).await?;
        Ok(reasons.into_iter().flatten().collect())
    }

    async fn unfit_as_sharded(&self, client: PooledClient, shard: ShardId, expected: &[String]) -> Reasons {
        let Some(reason) = self.differs(&client, shard, expected).await? else {
            let schema = self.map.schema();
            let Some(sharding) = &schema.sharding else { return Ok(Vec::new()) };
            let unfit = unfit_for_sharding(&client, self.table, &sharding.key_column, sharding.key_type).await?;
            if !unfit.is_empty() {
                return Ok(on_shard(shard, unfit));
            }
            return self.misplaced_rows(&client, shard, &sharding.key_column).await;
        };
        Ok(vec![reason])
    }

    /// Rows whose key belongs to another shard, by slots; overridden keys one by one.
    async fn misplaced_rows(&self, client: &PooledClient, shard: ShardId, key_column: &str) -> Reasons {
        let (table, key) = (self.quoted(), quote_identifier(key_column));
        let hash = match self.map.key_type() {
            KeyType::Int => format!("hashint8extended({key}, 0)"),
            KeyType::Text => format!("hashtextextended({key}, 0)"),
            KeyType::Uuid => format!("uuid_hash_extended({key}, 0)"),
        };
        let mut overridden = Vec::new();
        let mut elsewhere = Vec::new();
        for (key, place) in self.map.overrides() {
            overridden.push(key.to_string());
            if place != shard {
                elsewhere.push(key.to_string());
            }
        }
        let text = match self.map.key_type() {
            // The router writes a uuid without its dashes.
            KeyType::Uuid => format!("replace({key}::text, '-', '')"),
            KeyType::Int | KeyType::Text => format!("{key}::text"),
        };
        let slots = format!(
            "SELECT DISTINCT (pg_catalog.{hash} & 4095)::integer FROM {table} WHERE {key} IS NOT NULL AND NOT {text} = ANY ($1)"
        );
        let keys = format!("SELECT DISTINCT {text} FROM {table} WHERE {text} = ANY ($1) LIMIT 3");
        let nulls = format!("SELECT FROM {table} WHERE {key} IS NULL LIMIT 1");
        let inspect = CatalogError::query("look where the table's rows are");
        let rows = async {
            let slots = client.query(&slots, &[&overridden]).await?;
            let keys = client.query(&keys, &[&elsewhere]).await?;
            let nulls = client.query(&nulls, &[]).await?;
            Ok((slots, keys, nulls))
        };
        let (slots, keys, nulls) = rows.await.map_err(inspect)?;
        let mut reasons = Vec::new();
        let wrong: Vec<i32> = slots.iter().map(|row| row.get(0)).filter(|slot| !self.holds(shard, *slot)).collect();
        if let Some(slot) = wrong.first() {
            reasons.push(format!("it has rows of {} slots of other shards, such as slot {slot}", wrong.len()));
        }
        reasons
            .extend(keys.iter().map(|row| {
                format!("it has rows of key {}, which an override puts elsewhere", row.get::<_, String>(0))
            }));
        if !nulls.is_empty() {
            reasons.push(format!("it has rows whose \"{key_column}\" is NULL"));
        }
        Ok(on_shard(shard, reasons))
    }

    fn holds(&self, shard: ShardId, slot: i32) -> bool {
        usize::try_from(slot).ok().and_then(|slot| self.map.slots().get(slot)) == Some(&shard)
    }

    async fn unfit_as_reference(&self, columns: &[String]) -> Reasons {
        let reasons = self
            .on_shards(async |client, shard| match self.differs(&client, shard, columns).await? {
                Some(reason) => Ok(vec![reason]),
                None => Ok(on_shard(shard, unfit_for_reference(&client, self.table).await?)),
            })
            .await?;
        if !reasons.is_empty() {
            return Ok(reasons);
        }
        self.unequal_contents().await
    }

    /// The same rows everywhere? Compared by number and by a sum of their hashes, which no order changes.
    async fn unequal_contents(&self) -> Reasons {
        let sql = format!(
            "SELECT pg_catalog.concat(count(*), ' rows, hash ', coalesce(sum(pg_catalog.hashtextextended(t::text, 0)), 0)) FROM {} AS t",
            self.quoted()
        );
        let contents = self
            .on_shards(async |client, _| {
                let row = client.query_one(&sql, &[]).await.map_err(CatalogError::query("compare the table's rows"))?;
                Ok(vec![row.get(0)])
            })
            .await?;
        let mut shards = contents.iter().enumerate();
        let Some((_, first)) = shards.next() else { return Ok(Vec::new()) };
        let other = |(shard, content): (usize, &String)| {
            (content != first).then(|| format!("shard {shard} has {content}; shard 0 has {first}"))
        };
        Ok(shards.filter_map(other).collect())
    }

    async fn unfit_as_home(&self, client: PooledClient, shard: ShardId) -> Reasons {
        if shard == self.map.home() || columns(&client, self.table).await?.is_none() {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT FROM {} LIMIT 1", self.quoted());
        let rows = client.query(&sql, &[]).await.map_err(CatalogError::query("look for the table's rows"))?;
        Ok(if rows.is_empty() { Vec::new() } else { on_shard(shard, vec!["it has rows".to_owned()]) })
    }

    /// In what the table on this shard differs from the one on the home shard.
    async fn differs(
        &self,
        client: &PooledClient,
        shard: ShardId,
        expected: &[String],
    ) -> Result<Option<String>, CatalogError> {
        Ok(match columns(client, self.table).await? {
            None => Some(format!("on shard {shard}: it does not exist")),
            Some(columns) if columns != expected => Some(format!(
                "on shard {shard}: its columns are {}; on the home shard, {}",
                columns.join(", "),
                expected.join(", ")
            )),
            Some(_) => None,
        })
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.table.schema), quote_identifier(&self.table.name))
    }

    async fn function_exists(&self) -> Result<(), Report> {
        let sql = "SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = $1 AND p.proname = $2 LIMIT 1";
        let missing = self
            .on_shards(async |client, shard| {
                let rows = client.query(sql, &[&self.table.schema, &self.table.name]).await;
                let rows = rows.map_err(CatalogError::query("look up the function"))?;
                Ok(if rows.is_empty() { vec![shard.to_string()] } else { Vec::new() })
            })
            .await
            .map_err(|error| failed(&error))?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.missing("function", "42883").detail(format!("It is missing on shards {}.", missing.join(", "))))
    }

    fn missing(&self, what: &str, sqlstate: &str) -> Report {
        Report::error(sqlstate, format!("{what} \"{}\" does not exist on the shards", self.table))
            .hint("create it through Sluice first; the console only says of what class it is")
    }

    fn known_table(&self) -> Result<(), Report> {
        let schema = self.map.schema();
        let known = schema.sharding.as_ref().is_some_and(|sharding| sharding.tables.contains_key(&self.key()));
        if known { Ok(()) } else { Err(self.unclassified("table", "SHOW TABLES")) }
    }

    fn known_function(&self) -> Result<(), Report> {
        let schema = self.map.schema();
        let known = schema.sharding.as_ref().is_some_and(|sharding| sharding.functions.contains_key(&self.key()));
        if known { Ok(()) } else { Err(self.unclassified("function", "SHOW FUNCTIONS")) }
    }

    fn key(&self) -> (String, String) {
        (self.table.schema.clone(), self.table.name.clone())
    }

    fn unclassified(&self, what: &str, show: &str) -> Report {
        Report::error("42704", format!("{what} \"{}\" has no class", self.table))
            .hint(format!("{show} lists those that have"))
    }
}

fn on_shard(shard: ShardId, reasons: Vec<String>) -> Vec<String> {
    reasons.into_iter().map(|reason| format!("on shard {shard}: {reason}")).collect()
}
