//! Where DDL belongs in a sharded database, and what it changes in the schema snapshot.
//!
//! What concerns a sharded or a reference table, or no table at all, runs on every shard in one atomic commit; what
//! concerns a home table runs on the home shard. Kinds of statements that aren't listed are refused.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AlterObjectSchemaStmt, CommentStmt, CreateSchemaStmt, CreateTrigStmt, DropBehavior, DropStmt, GrantStmt,
    GrantTargetType, IndexStmt, Node, ObjectType, RangeVar, RenameStmt, TruncateStmt,
};

use super::constants::Constants;
use super::names::{Found, Names, display};
use super::nodes::{inner, inner_of, list, string, strings};
use super::refuse::{Checked, at, not_sharded, unproven, unsupported};
use super::table;
use super::utility::Placed;
use crate::map::TableClass;
use crate::template::{Action, Refusal, Route, SchemaChange};

pub fn place(node: &NodeEnum, names: Names<'_>, constants: Constants<'_>) -> Checked<Placed> {
    match node {
        NodeEnum::CreateStmt(create) => table::create(create, names, constants),
        NodeEnum::AlterTableStmt(alter) => table::alter(alter, names, constants),
        NodeEnum::DropStmt(drop) => self::drop(drop, names),
        NodeEnum::RenameStmt(rename) => self::rename(rename, names),
        NodeEnum::IndexStmt(index) => self::index(index, names),
        NodeEnum::TruncateStmt(truncate) => self::truncate(truncate, names),
        NodeEnum::GrantStmt(grant) => self::grant(grant, names),
        NodeEnum::CommentStmt(comment) => self::comment(comment, names),
        NodeEnum::CreateTrigStmt(trigger) => create_trigger(trigger, names),
        NodeEnum::CreatePolicyStmt(policy) => of_table(policy.table.as_ref(), names),
        NodeEnum::AlterPolicyStmt(policy) => of_table(policy.table.as_ref(), names),
        NodeEnum::CreateStatsStmt(statistics) => of_tables(&statistics.relations, names),
        NodeEnum::CreateSchemaStmt(schema) => create_schema(schema),
        NodeEnum::AlterObjectSchemaStmt(alter) => alter_schema(alter),
        NodeEnum::AlterOwnerStmt(alter) if alter.object_type == ObjectType::ObjectDatabase as i32 => Err(database()),
        _ if everywhere(node) => Ok(ddl(Route::AllShards, [])),
        _ => Err(refused_kind(node)),
    }
}

/// DDL that concerns no table: the same on every shard.
fn everywhere(node: &NodeEnum) -> bool {
    matches!(
        node,
        NodeEnum::CreateExtensionStmt(_)
            | NodeEnum::AlterExtensionStmt(_)
            | NodeEnum::AlterExtensionContentsStmt(_)
            | NodeEnum::CreateFunctionStmt(_)
            | NodeEnum::AlterFunctionStmt(_)
            | NodeEnum::CreateDomainStmt(_)
            | NodeEnum::AlterDomainStmt(_)
            | NodeEnum::CreateEnumStmt(_)
            | NodeEnum::AlterEnumStmt(_)
            | NodeEnum::CompositeTypeStmt(_)
            | NodeEnum::CreateRangeStmt(_)
            | NodeEnum::AlterTypeStmt(_)
            | NodeEnum::DefineStmt(_)
            | NodeEnum::CreateCastStmt(_)
            | NodeEnum::CreateConversionStmt(_)
            | NodeEnum::CreateOpClassStmt(_)
            | NodeEnum::CreateOpFamilyStmt(_)
            | NodeEnum::AlterOpFamilyStmt(_)
            | NodeEnum::AlterOperatorStmt(_)
            | NodeEnum::AlterCollationStmt(_)
            | NodeEnum::AlterTsdictionaryStmt(_)
            | NodeEnum::AlterTsconfigurationStmt(_)
            | NodeEnum::AlterDefaultPrivilegesStmt(_)
            | NodeEnum::AlterOwnerStmt(_)
            | NodeEnum::CreateSeqStmt(_)
            | NodeEnum::AlterSeqStmt(_)
    )
}

fn refused_kind(node: &NodeEnum) -> Box<Refusal> {
    match node {
        NodeEnum::ViewStmt(_) => not_sharded(
            "CREATE VIEW",
            "A view hides the tables that decide where a statement belongs.",
            "Write the view's query where it is used, as a CTE or sub-select.",
        ),
        NodeEnum::RuleStmt(_) => {
            not_sharded("CREATE RULE", "A rule turns a statement into others that can't be seen.", "Use a trigger.")
        }
        NodeEnum::CreateRoleStmt(_)
        | NodeEnum::AlterRoleStmt(_)
        | NodeEnum::AlterRoleSetStmt(_)
        | NodeEnum::DropRoleStmt(_)
        | NodeEnum::GrantRoleStmt(_)
        | NodeEnum::DropOwnedStmt(_)
        | NodeEnum::ReassignOwnedStmt(_) => not_sharded(
            "administration of roles",
            "Roles belong to a server, and several shards may share one.",
            "Run it once on each server directly.",
        ),
        _ => {
            not_sharded("this kind of statement", "It is not known where it belongs.", "Run it on each shard directly.")
        }
    }
}

/// A DDL statement's place.
pub fn ddl(route: Route, changes: impl Into<Box<[SchemaChange]>>) -> Placed {
    Placed { route, action: Some(Action::Ddl(changes.into())), fixes_literals: false }
}

pub fn route_of(class: TableClass) -> Route {
    match class {
        TableClass::Sharded | TableClass::Reference => Route::AllShards,
        TableClass::Home => Route::Home,
    }
}

/// The class of a table that DDL names.
pub fn class_of(range: &RangeVar, names: Names<'_>) -> Checked<TableClass> {
    match names.relation(range)? {
        Found::Table(table) => Ok(table.class),
        Found::Catalog => Err(at(unproven("DDL on a system catalog"), range.location)),
    }
}

fn of_table(range: Option<&RangeVar>, names: Names<'_>) -> Checked<Placed> {
    let Some(range) = range else { return Err(unproven("this statement")) };
    Ok(ddl(route_of(class_of(range, names)?), []))
}

/// A trigger on a reference table would run once on each shard, and nobody sees into what it does there.
fn create_trigger(trigger: &CreateTrigStmt, names: Names<'_>) -> Checked<Placed> {
    let Some(range) = &trigger.relation else { return Err(unproven("this statement")) };
    match class_of(range, names)? {
        TableClass::Reference => Err(unsupported(
            format!("reference table \"{}\" cannot have a trigger", display(range)),
            "It may do something else on each shard.",
            "Let the application do what the trigger would.",
        )),
        class => Ok(ddl(route_of(class), [])),
    }
}

/// All tables must belong together.
fn of_tables(tables: &[Node], names: Names<'_>) -> Checked<Placed> {
    let mut route = None;
    for table in tables.iter().filter_map(inner) {
        let NodeEnum::RangeVar(range) = table else { return Err(unproven("this list of tables")) };
        join_route(&mut route, route_of(class_of(range, names)?))?;
    }
    route.map(|route| ddl(route, [])).ok_or_else(|| unproven("a statement without tables"))
}

fn join_route(route: &mut Option<Route>, next: Route) -> Checked<()> {
    match route {
        Some(route) if *route != next => Err(unsupported(
            "cannot combine home tables with sharded or reference tables here",
            "Home tables live on the home shard only, the others on every shard.",
            "Use one statement for each kind.",
        )),
        _ => {
            *route = Some(next);
            Ok(())
        }
    }
}

fn truncate(truncate: &TruncateStmt, names: Names<'_>) -> Checked<Placed> {
    let placed = of_tables(&truncate.relations, names)?;
    Ok(Placed { action: None, ..placed })
}

fn index(index: &IndexStmt, names: Names<'_>) -> Checked<Placed> {
    let Some(range) = &index.relation else { return Err(unproven("CREATE INDEX")) };
    let class = class_of(range, names)?;
    if index.concurrent && class != TableClass::Home {
        return Err(concurrently("CREATE INDEX CONCURRENTLY"));
    }
    if class == TableClass::Sharded && index.unique {
        let columns = index.index_params.iter().filter_map(index_column);
        table::unique_includes_key(columns, &display(range), names)?;
    }
    Ok(ddl(route_of(class), []))
}

/// The plain column of an index's element.
fn index_column(element: &Node) -> Option<&str> {
    match inner(element)? {
        NodeEnum::IndexElem(element) if !element.name.is_empty() => Some(&element.name),
        _ => None,
    }
}

pub fn concurrently(what: &str) -> Box<Refusal> {
    not_sharded(
        what,
        "It can't run inside a transaction, so that the shards can't commit it together.",
        "Run it on each shard directly, or leave out CONCURRENTLY.",
    )
}

fn drop(drop: &DropStmt, names: Names<'_>) -> Checked<Placed> {
    if drop.concurrent {
        return Err(concurrently("DROP INDEX CONCURRENTLY"));
    }
    match ObjectType::try_from(drop.remove_type) {
        Ok(ObjectType::ObjectTable) => drop_tables(drop, names),
        Ok(ObjectType::ObjectSchema) => Ok(ddl(Route::AllShards, schema_tables(drop, names))),
        Ok(ObjectType::ObjectTrigger | ObjectType::ObjectPolicy | ObjectType::ObjectRule) => {
            drop_from_table(drop, names)
        }
        Ok(
            ObjectType::ObjectForeignTable
            | ObjectType::ObjectForeignServer
            | ObjectType::ObjectFdw
            | ObjectType::ObjectPublication
            | ObjectType::ObjectSubscription,
        ) => Err(not_sharded(
            "DROP of this kind of object",
            "It belongs to one server.",
            "Run it on each shard directly.",
        )),
        Ok(_) => Ok(ddl(Route::AllShards, [])),
        Err(_) => Err(unproven("this kind of DROP")),
    }
}

fn drop_tables(drop: &DropStmt, names: Names<'_>) -> Checked<Placed> {
    let mut route = None;
    let mut changes = Vec::new();
    for object in drop.objects.iter().filter_map(inner).filter_map(list) {
        let (schema, name) = qualified(&strings(object))?;
        match names.lookup(schema.unwrap_or_default(), name) {
            Some(Found::Table(table)) => {
                join_route(&mut route, route_of(table.class))?;
                changes.push(SchemaChange::Drop { schema: schema.map(Into::into), name: name.into() });
            }
            Some(Found::Catalog) => return Err(unproven("DROP of a system catalog")),
            // Only a notice.
            None if drop.missing_ok => {}
            None => return Err(names.unknown(name)),
        }
    }
    Ok(ddl(route.unwrap_or(Route::AllShards), changes))
}

fn qualified<'a>(parts: &[&'a str]) -> Checked<(Option<&'a str>, &'a str)> {
    match *parts {
        [name] => Ok((None, name)),
        [schema, name] => Ok((Some(schema), name)),
        _ => Err(unproven("a name with a database in it")),
    }
}

/// DROP SCHEMA … CASCADE takes the schema's tables along.
fn schema_tables(drop: &DropStmt, names: Names<'_>) -> Vec<SchemaChange> {
    if drop.behavior != DropBehavior::DropCascade as i32 {
        return Vec::new();
    }
    let dropped: Vec<_> = drop.objects.iter().filter_map(string).collect();
    let mut tables: Vec<_> =
        names.sharding.tables.keys().filter(|(schema, _)| dropped.contains(&schema.as_str())).collect();
    tables.sort();
    let change = |(schema, name): &(String, String)| SchemaChange::Drop {
        schema: Some(schema.as_str().into()),
        name: name.as_str().into(),
    };
    tables.into_iter().map(change).collect()
}

/// DROP TRIGGER name ON table: the table is all of the name but its last part.
fn drop_from_table(drop: &DropStmt, names: Names<'_>) -> Checked<Placed> {
    let mut route = None;
    for object in drop.objects.iter().filter_map(inner).filter_map(list) {
        let parts = strings(object);
        let (_, table) = parts.split_last().ok_or_else(|| unproven("this DROP"))?;
        let (schema, name) = qualified(table)?;
        match names.lookup(schema.unwrap_or_default(), name) {
            Some(Found::Table(table)) => join_route(&mut route, route_of(table.class))?,
            _ if drop.missing_ok => {}
            _ => return Err(names.unknown(name)),
        }
    }
    Ok(ddl(route.unwrap_or(Route::AllShards), []))
}

fn rename(rename: &RenameStmt, names: Names<'_>) -> Checked<Placed> {
    let Some(range) = &rename.relation else { return rename_object(rename, names) };
    let kind = ObjectType::try_from(rename.rename_type).unwrap_or(ObjectType::Undefined);
    let found = names.lookup(&range.schemaname, &range.relname);
    let Some(Found::Table(table)) = found else {
        // An index, a sequence, a composite type: they are the same on every shard.
        let of_table = rename.relation_type == ObjectType::ObjectTable as i32;
        return match kind {
            ObjectType::ObjectTable if !rename.missing_ok => Err(at(names.unknown(&display(range)), range.location)),
            ObjectType::ObjectColumn if !rename.missing_ok && of_table => {
                Err(at(names.unknown(&display(range)), range.location))
            }
            _ => Ok(ddl(Route::AllShards, [])),
        };
    };
    let schema: Option<Box<str>> = (!range.schemaname.is_empty()).then(|| range.schemaname.as_str().into());
    let name: Box<str> = range.relname.as_str().into();
    let key = names.key();
    let changes = match kind {
        ObjectType::ObjectTable => vec![SchemaChange::Rename { schema, name, to: rename.newname.as_str().into() }],
        ObjectType::ObjectColumn if rename.subname == key || rename.newname == key => {
            return Err(table::key_is_fixed("rename", key));
        }
        ObjectType::ObjectColumn => vec![SchemaChange::Alter { schema, name }],
        _ => Vec::new(),
    };
    Ok(ddl(route_of(table.class), changes))
}

fn rename_object(rename: &RenameStmt, names: Names<'_>) -> Checked<Placed> {
    match ObjectType::try_from(rename.rename_type) {
        Ok(ObjectType::ObjectDatabase) => Err(database()),
        Ok(ObjectType::ObjectRole | ObjectType::ObjectTablespace) => Err(not_sharded(
            "renaming a role or a tablespace",
            "They belong to a server, and several shards may share one.",
            "Run it once on each server directly.",
        )),
        Ok(ObjectType::ObjectSchema) if names.sharding.tables.keys().any(|(schema, _)| *schema == rename.subname) => {
            Err(not_sharded(
                "renaming a schema that holds tables",
                "The classes of its tables are kept by their names.",
                "Create the tables anew in the other schema.",
            ))
        }
        _ => Ok(ddl(Route::AllShards, [])),
    }
}

fn create_schema(schema: &CreateSchemaStmt) -> Checked<Placed> {
    if schema.schema_elts.is_empty() {
        return Ok(ddl(Route::AllShards, []));
    }
    Err(not_sharded(
        "CREATE SCHEMA with objects in it",
        "Each object has a place of its own.",
        "Create them one by one.",
    ))
}

fn alter_schema(alter: &AlterObjectSchemaStmt) -> Checked<Placed> {
    if alter.relation.is_none() {
        return Ok(ddl(Route::AllShards, []));
    }
    Err(not_sharded(
        "ALTER TABLE … SET SCHEMA",
        "The classes of tables are kept by their names.",
        "Create the table anew in the other schema.",
    ))
}

fn grant(grant: &GrantStmt, names: Names<'_>) -> Checked<Placed> {
    let one_by_one = grant.targtype == GrantTargetType::AclTargetObject as i32;
    match ObjectType::try_from(grant.objtype) {
        Ok(ObjectType::ObjectTable) if one_by_one => of_tables(&grant.objects, names),
        Ok(ObjectType::ObjectDatabase) => Err(database()),
        Ok(_) => Ok(ddl(Route::AllShards, [])),
        Err(_) => Err(unproven("this GRANT")),
    }
}

fn comment(comment: &CommentStmt, names: Names<'_>) -> Checked<Placed> {
    let kind = ObjectType::try_from(comment.objtype).unwrap_or(ObjectType::Undefined);
    let on_part = matches!(
        kind,
        ObjectType::ObjectColumn
            | ObjectType::ObjectTabconstraint
            | ObjectType::ObjectTrigger
            | ObjectType::ObjectPolicy
            | ObjectType::ObjectRule
    );
    match kind {
        ObjectType::ObjectDatabase => return Err(database()),
        ObjectType::ObjectTable => {}
        _ if on_part => {}
        _ => return Ok(ddl(Route::AllShards, [])),
    }
    let parts = inner_of(&comment.object).and_then(list).map(strings).unwrap_or_default();
    let table = if on_part { parts.split_last().map(|(_, table)| table).unwrap_or_default() } else { &parts };
    let (schema, name) = qualified(table)?;
    match names.lookup(schema.unwrap_or_default(), name) {
        Some(Found::Table(table)) => Ok(ddl(route_of(table.class), [])),
        _ => Err(names.unknown(name)),
    }
}

fn database() -> Box<Refusal> {
    not_sharded(
        "DDL on the database itself",
        "Each shard is a database with a name of its own.",
        "Run it on each shard directly.",
    )
}
