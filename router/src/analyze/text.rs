//! Several statements in one text: the later ones are read with what the earlier ones did.
//!
//! A migration creates a table and fills it in one text, when the schema snapshot doesn't know the table yet: the changes
//! are followed here. What can't be followed (another search_path) makes the statements that depend on it refused.

use std::borrow::Cow;

use super::names::Names;
use super::refuse::unsupported;
use crate::map::{Sharding, Table};
use crate::template::{Action, Route, SchemaChange, Statement};

/// The schema as the next statement of a text finds it.
pub struct Text<'a> {
    sharding: Option<Cow<'a, Sharding>>,
    search_path: &'a [String],
    /// An earlier statement may have changed the search_path.
    path_changed: bool,
}

impl<'a> Text<'a> {
    pub fn new(sharding: Option<&'a Sharding>, search_path: &'a [String]) -> Self {
        Self { sharding: sharding.map(Cow::Borrowed), search_path, path_changed: false }
    }

    /// None in an unsharded database.
    pub fn names(&self) -> Option<Names<'_>> {
        self.sharding.as_deref().map(|sharding| Names::new(sharding, self.search_path))
    }

    /// Takes note of what `statement` does to those after it; refuses it if it depends on what can't be known.
    pub fn follow(&mut self, statement: Statement) -> Statement {
        if self.sharding.is_none() {
            return statement;
        }
        if self.path_changed && depends_on_names(&statement) {
            return Statement { route: Route::Refused(path_changed()), ..statement };
        }
        match &statement.action {
            Action::DiscardAll => self.path_changed = true,
            Action::Set(set) => {
                self.path_changed |= matches!(&*set.name, "search_path" | "all" | "role" | "session_authorization")
            }
            Action::Ddl(changes) => changes.iter().for_each(|change| self.change(change)),
            _ => {}
        }
        statement
    }

    fn change(&mut self, change: &SchemaChange) {
        match change {
            SchemaChange::Create { schema, name, columns, class, if_not_exists } => {
                let place = self.creation_place(schema.as_deref(), name);
                let known = |place: &_| self.sharding.as_ref().and_then(|sharding| sharding.tables.get(place));
                let exists = |place: &_| known(place).is_some_and(|table| !table.is_declared());
                if let Some(place) = place.filter(|place| !(*if_not_exists && exists(place))) {
                    self.insert(place, Table { class: *class, columns: columns.clone() });
                }
            }
            SchemaChange::Drop { schema, name } => {
                self.remove(schema.as_deref(), name);
            }
            // No columns: they are not known until the snapshot has read them again.
            SchemaChange::Alter { schema, name } => {
                if let Some((place, table)) = self.remove(schema.as_deref(), name) {
                    self.insert(place, Table { columns: Box::default(), ..table });
                }
            }
            SchemaChange::Rename { schema, name, to } => {
                if let Some(((schema, _), table)) = self.remove(schema.as_deref(), name) {
                    self.insert((schema, to.to_string()), table);
                }
            }
        }
    }

    /// A new table goes to the first schema of the search_path.
    fn creation_place(&self, schema: Option<&str>, name: &str) -> Option<(String, String)> {
        let first = || self.search_path.iter().map(String::as_str).find(|schema| *schema != "pg_catalog");
        let schema = schema.or_else(first)?;
        Some((schema.to_owned(), name.to_owned()))
    }

    fn insert(&mut self, place: (String, String), table: Table) {
        if let Some(sharding) = &mut self.sharding {
            sharding.to_mut().tables.insert(place, table);
        }
    }

    fn remove(&mut self, schema: Option<&str>, name: &str) -> Option<((String, String), Table)> {
        let sharding = self.sharding.as_mut()?;
        let candidates =
            schema.into_iter().chain(self.search_path.iter().map(String::as_str).filter(|_| schema.is_none()));
        let place = candidates
            .map(|schema| (schema.to_owned(), name.to_owned()))
            .find(|place| sharding.tables.contains_key(place))?;
        sharding.to_mut().tables.remove_entry(&place)
    }
}

/// Whether the statement was placed by looking names up.
fn depends_on_names(statement: &Statement) -> bool {
    match statement.route {
        Route::Home | Route::Keyed(_) | Route::AllShards => true,
        Route::Any => statement.action == Action::None,
        Route::Cursor(_) | Route::Refused(_) => false,
    }
}

fn path_changed() -> Box<crate::template::Refusal> {
    unsupported(
        "cannot tell which tables are meant after a change of search_path in the same text",
        "An earlier statement of the text may have changed the search_path (SET, RESET ALL, SET ROLE or DISCARD ALL).",
        "Send the change and the statements that follow it as separate queries.",
    )
}
