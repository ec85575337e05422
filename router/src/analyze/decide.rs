//! From what a query touches to where it may run.

use pg_query::NodeEnum;

use super::census::{Census, Name};
use super::constants::Constants;
use super::functions::{Builtin, Reach, builtin};
use super::names::Names;
use super::pins::Unpinned;
use super::query::{Query, Tables};
use super::refuse::{Checked, at, unproven, unsupported};
use crate::map::FunctionClass;
use crate::template::{Refusal, Route};

/// Where a query belongs.
pub struct Decided {
    pub route: Route,
    /// The decision depends on the values of all constants of the text.
    pub fixes_literals: bool,
}

/// Decides a SELECT, VALUES, INSERT, UPDATE, DELETE or MERGE.
pub fn decide(names: Names<'_>, constants: Constants<'_>, node: &NodeEnum, census: &Census) -> Checked<Decided> {
    let mut query = Query::new(names, constants, census.parameters.clone());
    query.query(node, None)?;
    if query.relations_seen != census.relations || query.selects_seen != census.selects {
        return Err(unproven("a table or sub-select"));
    }
    let called = functions(names, census)?;
    if let Some(written) = &query.tables.reference_written {
        reference_write(written, &query, census, &called)?;
        return Ok(Decided { route: Route::AllShards, fixes_literals: true });
    }
    if query.pins.scans() == 0 {
        let route = if needs_home(&query.tables, &called, census) { Route::Home } else { Route::Any };
        return unpinned_functions(&called).map(|()| Decided { route, fixes_literals: false });
    }
    alone_on_shard(&query.tables, &called, census)?;
    match query.pins.resolve() {
        // Every key is NULL: no row counts, wherever it is looked for.
        Ok(sources) if sources.is_empty() => Ok(Decided { route: Route::Any, fixes_literals: false }),
        Ok(sources) => Ok(Decided { route: Route::Keyed(sources.into()), fixes_literals: false }),
        Err(unpinned) => Err(not_pinned(names.key(), unpinned)),
    }
}

fn needs_home(tables: &Tables, called: &Called, census: &Census) -> bool {
    // Row locks on a reference table must all be taken in one place to exclude each other.
    let locks = census.locks > 0 && tables.reference_read.is_some();
    let home = called.home.is_some() || tables.home.is_some() || tables.catalog.is_some();
    locks || home || census.types.iter().any(|name| is_registry(name))
}

/// What the functions of a statement reach; the first of each kind, by name.
#[derive(Default)]
pub struct Called {
    home: Option<String>,
    shard_local: Option<String>,
    unrepeatable: Option<String>,
}

/// Checks that every function is known and may run on one shard.
fn functions(names: Names<'_>, census: &Census) -> Checked<Called> {
    let mut called = Called::default();
    for function in &census.functions {
        match lookup(function) {
            Some(builtin) => note_builtin(&mut called, function, builtin)?,
            None => note_declared(&mut called, names, function)?,
        }
    }
    if census.sql_functions > 0 {
        called.unrepeatable.get_or_insert_with(|| "CURRENT_TIMESTAMP".into());
    }
    Ok(called)
}

fn note_builtin(called: &mut Called, function: &Name, builtin: Builtin) -> Checked<()> {
    if !builtin.repeatable {
        called.unrepeatable.get_or_insert_with(|| function.name.clone());
    }
    match builtin.reach {
        Reach::Arguments => {}
        Reach::Home | Reach::SessionLock | Reach::SessionUnlock => {
            called.home.get_or_insert_with(|| function.name.clone());
        }
        Reach::Setting => {
            return Err(unsupported(
                "set_config() is only supported in the select list of a SELECT without FROM",
                "Sluice carries settings from server to server, and must see which one is set.",
                "Use SET, or SELECT set_config('name', 'value', false) on its own.",
            ));
        }
        Reach::Refused(reason) => {
            return Err(unsupported(
                format!("function {}() is not supported in a sharded database", function.name),
                format!("Its answer would be wrong: {reason}."),
                hint_for(&function.name),
            ));
        }
    }
    Ok(())
}

fn hint_for(function: &str) -> &'static str {
    match function {
        "nextval" | "setval" | "currval" | "lastval" => "Use gen_random_uuid(), or ids from the application.",
        "pg_notify" => "Use a home table as a queue, or LISTEN and NOTIFY on a database of its own.",
        _ => "Run it on a shard directly.",
    }
}

fn note_declared(called: &mut Called, names: Names<'_>, function: &Name) -> Checked<()> {
    match names.function(function.schema.as_deref(), &function.name) {
        Some(FunctionClass::Pure) => Ok(()),
        Some(FunctionClass::ShardLocal) => {
            called.shard_local.get_or_insert_with(|| function.name.clone());
            Ok(())
        }
        None => Err(undeclared(function)),
    }
}

fn undeclared(function: &Name) -> Box<Refusal> {
    let schema = function.schema.as_deref().unwrap_or("public");
    let name = &function.name;
    unsupported(
        format!("cannot tell what function {name}() reads"),
        "It is not one of PostgreSQL's own, and it is not declared.",
        format!(
            "If it reads no table, declare it in the console: CREATE PURE FUNCTION {schema}.{name}; if it touches only rows of its caller's key: CREATE SHARD LOCAL FUNCTION {schema}.{name}."
        ),
    )
}

/// A function of pg_catalog by the name that a statement calls it by.
pub fn lookup(function: &Name) -> Option<Builtin> {
    match function.schema.as_deref() {
        None | Some("pg_catalog") => builtin(&function.name),
        Some(_) => None,
    }
}

/// A shard-local function needs a key to say on which shard.
fn unpinned_functions(called: &Called) -> Checked<()> {
    match &called.shard_local {
        None => Ok(()),
        Some(name) => Err(unsupported(
            format!("cannot tell on which shard function {name}() belongs"),
            "It is declared shard local, and the statement names no sharded table with its key.",
            "Call it in a statement that is restricted to one key.",
        )),
    }
}

/// Types whose constants are names of catalog objects.
fn is_registry(name: &str) -> bool {
    matches!(
        name,
        "regclass"
            | "regcollation"
            | "regconfig"
            | "regdictionary"
            | "regnamespace"
            | "regoper"
            | "regoperator"
            | "regproc"
            | "regprocedure"
            | "regrole"
            | "regtype"
    )
}

/// A statement that is pinned to a shard may not need anything that only the home shard has.
fn alone_on_shard(tables: &Tables, called: &Called, census: &Census) -> Checked<()> {
    let other = if let Some(table) = &tables.home {
        format!("\"{table}\" lives on the home shard only")
    } else if let Some(table) = &tables.catalog {
        format!("\"{table}\" is a system catalog, which each shard has of its own")
    } else if let Some(function) = &called.home {
        format!("function {function}() is answered by the home shard")
    } else if let Some(name) =
        census.types.iter().find(|name| matches!(name.as_str(), "regclass" | "regproc" | "regprocedure"))
    {
        format!("a constant of type {name} names an object that has another oid on each shard")
    } else {
        return Ok(());
    };
    Err(unsupported(
        "cannot combine sharded tables with what only one server has",
        format!("The statement reads a sharded table, and {other}."),
        "Use two statements, or make the other table a reference table.",
    ))
}

/// A write to a reference table runs on every shard, and must do the same on each.
fn reference_write(written: &str, query: &Query<'_>, census: &Census, called: &Called) -> Checked<()> {
    let reason = if let Some(table) = query.pins.first_table() {
        format!("It reads the sharded table \"{table}\", which holds other rows on each shard.")
    } else if let Some(table) = query.tables.home.as_ref().or(query.tables.catalog.as_ref()) {
        format!("It also touches \"{table}\", which is not the same on each shard.")
    } else if let Some(function) = called.unrepeatable.as_ref().or(called.home.as_ref()).or(called.shard_local.as_ref())
    {
        format!("{function} may give another result on each shard.")
    } else if let Some(text) = query.constants.clock() {
        format!("The constant {text} means another time on each shard.")
    } else if query.order_matters && census.relations > 1 {
        "Which rows it picks may differ from shard to shard.".to_owned()
    } else if census.defaults > 0 {
        "A DEFAULT may give another value on each shard.".to_owned()
    } else {
        return Ok(());
    };
    Err(unsupported(
        format!("this write to the reference table \"{written}\" may have another result on each shard"),
        reason,
        "Give the values as constants or parameters.",
    ))
}

fn not_pinned(key: &str, unpinned: Unpinned) -> Box<Refusal> {
    let Unpinned { table, location, seen, parameter } = unpinned;
    let (detail, hint) = match (parameter, seen) {
        (Some(number), _) => (
            format!("Parameter ${number} is compared with \"{key}\", but its other uses may give it another type."),
            format!(
                "Write the type at each of its uses, for example ${number}::bigint, or use a parameter of its own."
            ),
        ),
        (None, Some(place)) => (
            format!(
                "\"{key}\" of \"{table}\" is mentioned only in {place}, which does not restrict the rows that count."
            ),
            restrict_hint(key),
        ),
        (None, None) => {
            (format!("No condition that every row must fulfil restricts \"{key}\" of \"{table}\"."), restrict_hint(key))
        }
    };
    at(unsupported(format!("sharded table \"{table}\" is not restricted to one sharding key"), detail, hint), location)
}

fn restrict_hint(key: &str) -> String {
    format!(
        "Add {key} = … to WHERE or ON for each sharded table (a constant, a parameter, or the key of another restricted table). Statements over several shards are not supported yet."
    )
}
