//! Which table a name means, and of what class it is.

use pg_query::protobuf::RangeVar;

use super::refuse::{Checked, at, refusal};
use crate::map::{Sharding, Table};

/// What a relation's name stands for in a sharded database.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    Table(&'a Table),
    /// pg_catalog or information_schema.
    Catalog,
}

/// Resolves names along the session's search_path.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    pub sharding: &'a Sharding,
    search_path: &'a [String],
}

impl<'a> Names<'a> {
    pub fn new(sharding: &'a Sharding, search_path: &'a [String]) -> Self {
        Self { sharding, search_path }
    }

    /// The relation that `name` means, or why there is none.
    pub fn relation(&self, name: &RangeVar) -> Checked<Found<'a>> {
        if name.relpersistence == "t" || name.schemaname == "pg_temp" {
            return Err(at(super::refuse::temporary(&name.relname), name.location));
        }
        self.lookup(&name.schemaname, &name.relname).ok_or_else(|| at(self.unknown(&display(name)), name.location))
    }

    /// The class of a relation, None if there is no such table (DDL often names what doesn't exist).
    pub fn lookup(&self, schema: &str, table: &str) -> Option<Found<'a>> {
        if !schema.is_empty() {
            return self.in_schema(schema, table);
        }
        let explicit = self.search_path.iter().any(|schema| schema == "pg_catalog");
        let implicit = (!explicit).then_some("pg_catalog");
        implicit
            .into_iter()
            .chain(self.search_path.iter().map(String::as_str))
            .find_map(|schema| self.in_schema(schema, table))
    }

    fn in_schema(&self, schema: &str, table: &str) -> Option<Found<'a>> {
        match schema {
            // PostgreSQL reserves the prefix for its own relations.
            "pg_catalog" => table.starts_with("pg_").then_some(Found::Catalog),
            "information_schema" => Some(Found::Catalog),
            _ => self.sharding.tables.get(&(schema.to_owned(), table.to_owned())).map(Found::Table),
        }
    }

    /// Whether the catalog vouches for a function outside pg_catalog.
    pub fn function(&self, schema: Option<&str>, name: &str) -> Option<crate::map::FunctionClass> {
        let declared = |schema: &str| self.sharding.functions.get(&(schema.to_owned(), name.to_owned())).copied();
        match schema {
            Some(schema) => declared(schema),
            None => self.search_path.iter().find_map(|schema| declared(schema)),
        }
    }

    pub fn unknown(&self, table: &str) -> Box<crate::template::Refusal> {
        refusal(
            "42P01",
            format!("relation \"{table}\" does not exist, or is in no table class"),
            "Where a table's rows live is known for tables that were created through Sluice or classified in the console.",
            "Create it through Sluice, or classify it in the console: CREATE SHARDED TABLE, CREATE REFERENCE TABLE or CREATE HOME TABLE.",
        )
    }

    pub fn key(&self) -> &'a str {
        &self.sharding.key_column
    }
}

/// The name as a client would write it.
pub fn display(name: &RangeVar) -> String {
    if name.schemaname.is_empty() { name.relname.clone() } else { format!("{}.{}", name.schemaname, name.relname) }
}
