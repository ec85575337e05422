//! Reads tables from a shard: their columns, and whether a table can be of a class.

use sluice_router::KeyType;
use tokio_postgres::{Client, Row};

use crate::error::CatalogError;
use crate::register::TableName;
use crate::snapshot::key_type_name;

/// A table's columns in its own order, without dropped ones. None if there is no such table.
pub async fn columns(client: &Client, table: &TableName) -> Result<Option<Vec<String>>, CatalogError> {
    let Some(oid) = table_oid(client, table).await? else {
        return Ok(None);
    };
    let sql = "SELECT attname::text FROM pg_catalog.pg_attribute
        WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client.query(sql, &[&oid]).await.map_err(CatalogError::query("read the table's columns"))?;
    Ok(Some(rows.iter().map(|row| row.get(0)).collect()))
}

/// Why a table can't be a reference table; empty if it can. A reference table gets each statement once on every shard, so
/// whatever fills in values by itself would fill in different ones.
pub async fn unfit_for_reference(client: &Client, table: &TableName) -> Result<Vec<String>, CatalogError> {
    let Some(oid) = table_oid(client, table).await? else {
        return Err(CatalogError::UnknownTable(table.to_string()));
    };
    // The text of a stored expression names each function that it calls by oid. Three nodes have none: CURRENT_TIMESTAMP
    // and its kin, an identity column's value, and casts through text, whose input functions may depend on settings.
    let defaults = r"
        SELECT attname::text, pg_catalog.pg_get_expr(adbin, adrelid)
        FROM pg_catalog.pg_attrdef JOIN pg_catalog.pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE adrelid = $1 AND attgenerated = ''
          AND (adbin::text ~ '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCEVIAIO)\M'
            OR EXISTS (
                SELECT FROM pg_catalog.regexp_matches(adbin::text, ':(?:funcid|opfuncid) (\d+)', 'g') AS called (id)
                JOIN pg_catalog.pg_proc ON pg_proc.oid = id[1]::oid
                WHERE provolatile <> 'i'))
        ORDER BY adnum";
    let identities = "SELECT attname::text FROM pg_catalog.pg_attribute
        WHERE attrelid = $1 AND attidentity <> '' AND NOT attisdropped ORDER BY attnum";
    let triggers =
        "SELECT tgname::text FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname";
    let read = async |sql| client.query(sql, &[&oid]).await.map_err(CatalogError::query("inspect the table"));
    let mut reasons = Vec::new();
    reasons.extend(read(defaults).await?.iter().map(|row: &Row| {
        let (column, default): (String, String) = (row.get(0), row.get(1));
        format!("the default of column \"{column}\", {default}, may differ from shard to shard")
    }));
    reasons.extend(read(identities).await?.iter().map(|row: &Row| {
        format!("column \"{}\" is an identity column, and each shard counts for itself", row.get::<_, String>(0))
    }));
    reasons.extend(
        read(triggers)
            .await?
            .iter()
            .map(|row: &Row| format!("trigger \"{}\" may do something else on each shard", row.get::<_, String>(0))),
    );
    Ok(reasons)
}

/// Why a table can't be a sharded table; empty if it can.
pub async fn unfit_for_sharding(
    client: &Client,
    table: &TableName,
    key_column: &str,
    key_type: KeyType,
) -> Result<Vec<String>, CatalogError> {
    let Some(oid) = table_oid(client, table).await? else {
        return Err(CatalogError::UnknownTable(table.to_string()));
    };
    // Under a nondeterministic collation, texts that are equal may have different bytes, and so different slots.
    let sql = "SELECT pg_catalog.format_type(atttypid, NULL), atttypid::integer, coalesce(collisdeterministic, true)
        FROM pg_catalog.pg_attribute LEFT JOIN pg_catalog.pg_collation ON pg_collation.oid = attcollation
        WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped";
    let row = client.query_opt(sql, &[&oid, &key_column]).await.map_err(CatalogError::query("inspect the table"))?;
    let Some(row) = row else {
        return Ok(vec![format!("it has no column \"{key_column}\"")]);
    };
    let (type_name, type_oid, deterministic): (String, i32, bool) = (row.get(0), row.get(1), row.get(2));
    let mut reasons = Vec::new();
    if !is_of(key_type, type_oid) {
        let wanted = key_type_name(key_type);
        reasons
            .push(format!("column \"{key_column}\" is of type {type_name}, and the sharding key is of type {wanted}"));
    }
    if !deterministic {
        reasons.push(format!("column \"{key_column}\" has a nondeterministic collation"));
    }
    Ok(reasons)
}

/// Types whose equal values hash alike. Not character(n): it ignores trailing blanks.
fn is_of(key_type: KeyType, oid: i32) -> bool {
    const INT8: i32 = 20;
    const INT2: i32 = 21;
    const INT4: i32 = 23;
    const TEXT: i32 = 25;
    const VARCHAR: i32 = 1043;
    const UUID: i32 = 2950;
    match key_type {
        KeyType::Int => matches!(oid, INT2 | INT4 | INT8),
        KeyType::Text => matches!(oid, TEXT | VARCHAR),
        KeyType::Uuid => oid == UUID,
    }
}

/// Ordinary and partitioned tables only: a view or a foreign table holds no rows of its own.
async fn table_oid(client: &Client, table: &TableName) -> Result<Option<u32>, CatalogError> {
    let sql = "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    let row =
        client.query_opt(sql, &[&table.schema, &table.name]).await.map_err(CatalogError::query("look up the table"))?;
    Ok(row.map(|row| row.get(0)))
}
