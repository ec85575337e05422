//! COPY in a sharded database.

use pg_query::NodeEnum;
use pg_query::protobuf::CopyStmt;

use super::census::Census;
use super::constants::Constants;
use super::decide::decide;
use super::names::{Found, Names, display};
use super::nodes::{inner, inner_of, string};
use super::refuse::{Checked, not_sharded, unproven, unsupported};
use super::utility::Placed;
use crate::map::{Table, TableClass};
use crate::template::{KeySource, Route};

pub fn place(copy: &CopyStmt, names: Names<'_>, constants: Constants<'_>, census: &Census) -> Checked<Placed> {
    if copy.is_program || !copy.filename.is_empty() {
        return Err(not_sharded(
            "COPY with a server's file or program",
            "The file is one server's own.",
            "Use COPY … FROM STDIN or TO STDOUT (psql: \\copy).",
        ));
    }
    if let Some(query) = inner_of(&copy.query) {
        let decided = decide(names, constants, query, census)?;
        return match decided.route {
            Route::AllShards => Err(unproven("COPY of a write to a reference table")),
            route => Ok(Placed { route, action: None, fixes_literals: decided.fixes_literals }),
        };
    }
    let Some(relation) = &copy.relation else { return Err(unproven("COPY")) };
    // A WHERE clause filters rows by themselves; anything that reads more is counted by the census.
    if census.relations > 1 || census.selects > 0 || !census.functions.is_empty() && copy.is_from {
        return Err(unproven("a function or sub-select in COPY … WHERE"));
    }
    let name = display(relation);
    let route = match (names.relation(relation)?, copy.is_from) {
        (Found::Catalog, false) => Route::Home,
        (Found::Catalog, true) => return Err(unproven("COPY into a system catalog")),
        (Found::Table(table), true) => copy_in(copy, table, &name, names)?,
        (Found::Table(table), false) => copy_out(table.class, &name, names)?,
    };
    Ok(Placed::at(route))
}

fn copy_out(class: TableClass, name: &str, names: Names<'_>) -> Checked<Route> {
    let key = names.key();
    match class {
        TableClass::Home => Ok(Route::Home),
        TableClass::Reference => Ok(Route::Any),
        TableClass::Sharded => Err(unsupported(
            format!("cannot copy all of the sharded table \"{name}\""),
            "Its rows live on several shards.",
            format!("Copy one key's rows: COPY (SELECT … FROM {name} WHERE {key} = …) TO STDOUT."),
        )),
    }
}

fn copy_in(copy: &CopyStmt, table: &Table, name: &str, names: Names<'_>) -> Checked<Route> {
    match table.class {
        TableClass::Home => Ok(Route::Home),
        TableClass::Reference => complete(copy, table, name).map(|()| Route::AllShards),
        TableClass::Sharded => {
            options(copy)?;
            Ok(Route::Keyed([KeySource::CopyColumn { column: key_column(copy, table, name, names)? }].into()))
        }
    }
}

/// A column that is left to its default may get another value on each shard.
fn complete(copy: &CopyStmt, table: &Table, name: &str) -> Checked<()> {
    let given = |column: &str| copy.attlist.iter().filter_map(string).any(|given| given == column);
    if table.columns.is_empty() {
        return Err(unproven("a reference table whose columns are not known yet"));
    }
    match table.columns.iter().find(|column| !copy.attlist.is_empty() && !given(column)) {
        None => Ok(()),
        Some(column) => Err(unsupported(
            format!("a COPY into the reference table \"{name}\" must give every column"),
            format!("Column \"{column}\" is left to its default, which may differ from shard to shard."),
            format!("Add \"{column}\" to the column list and the data."),
        )),
    }
}

fn key_column(copy: &CopyStmt, table: &Table, name: &str, names: Names<'_>) -> Checked<u16> {
    let key = names.key();
    let position = if copy.attlist.is_empty() {
        table.column(key)
    } else {
        copy.attlist.iter().position(|column| string(column) == Some(key))
    };
    position.and_then(|position| u16::try_from(position).ok()).ok_or_else(|| {
        unsupported(
            format!("cannot tell on which shard the rows of \"{name}\" belong"),
            format!("Column \"{key}\" is not among the columns that are copied."),
            format!("Add \"{key}\" to the column list and the data."),
        )
    })
}

/// The data of a sharded COPY is split row by row: text and CSV.
fn options(copy: &CopyStmt) -> Checked<()> {
    for option in copy.options.iter().filter_map(inner) {
        let NodeEnum::DefElem(option) = option else { return Err(unproven("this option of COPY")) };
        let value = option.arg.as_deref().and_then(string).unwrap_or_default();
        let unsupported_option = match option.defname.as_str() {
            "format" => !matches!(value, "text" | "csv"),
            "freeze" | "encoding" => true,
            _ => false,
        };
        if unsupported_option {
            return Err(not_sharded(
                "COPY in binary format, with FREEZE or with ENCODING",
                "The rows are told apart by Sluice, which reads text and CSV in the client's encoding.",
                "Use FORMAT text or FORMAT csv, and SET client_encoding.",
            ));
        }
    }
    Ok(())
}
