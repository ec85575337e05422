//! CREATE TABLE and ALTER TABLE in a sharded database: the class of a new table, and what a sharded table must not have
//! because no single shard could hold it true (sequences, uniqueness and references without the sharding key).

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AlterTableCmd, AlterTableStmt, AlterTableType, ColumnDef, ConstrType, Constraint, CreateStmt, Node, ObjectType,
    RangeVar, TypeName,
};

use super::census::Census;
use super::constants::{Constants, family};
use super::ddl::{class_of, concurrently, ddl, route_of};
use super::decide::lookup;
use super::functions::Reach;
use super::names::{Found, Names, display};
use super::nodes::{inner, inner_of, list, string, strings};
use super::pins::Family;
use super::refuse::{Checked, at, not_sharded, temporary, unproven, unsupported};
use super::utility::Placed;
use crate::key::KeyType;
use crate::map::{Table, TableClass};
use crate::template::{Refusal, Route, SchemaChange};

/// LIKE … INCLUDING DEFAULTS and INCLUDING IDENTITY (parsenodes.h, CREATE_TABLE_LIKE_DEFAULTS and _IDENTITY).
const LIKE_FILLS_IN: u32 = 0x08 | 0x20;

/// The table that a constraint is on.
struct Owner<'a> {
    name: String,
    class: TableClass,
    names: Names<'a>,
    range: &'a RangeVar,
    constants: Constants<'a>,
}

/// A table that gives a new one columns.
struct Parent<'a> {
    table: &'a Table,
    /// PARTITION OF, INHERITS: rows of the new table count as the parent's.
    inherits: bool,
    /// LIKE that copies what fills in values.
    copies_defaults: bool,
}

pub fn create(create: &CreateStmt, names: Names<'_>, constants: Constants<'_>) -> Checked<Placed> {
    let Some(range) = &create.relation else { return Err(unproven("CREATE TABLE")) };
    if range.relpersistence == "t" || range.schemaname == "pg_temp" {
        return Err(at(temporary(&range.relname), range.location));
    }
    if create.of_typename.is_some() {
        return Err(not_sharded("CREATE TABLE … OF", "The type's columns are not known.", "List the columns."));
    }
    let known = match names.lookup(&range.schemaname, &range.relname) {
        Some(Found::Table(table)) => Some(table),
        _ => None,
    };
    let parents = parents(create, names)?;
    let own = column_definitions(&create.table_elts);
    let inherited = parents.iter().flat_map(|parent| parent.table.columns.iter().cloned());
    let columns: Box<[Box<str>]> = inherited.chain(own.iter().map(|column| column.colname.as_str().into())).collect();
    let class = class_of_new(create, known, &columns, names);
    check_parents(&parents, class)?;
    let owner = Owner { name: display(range), class, names, range, constants };
    for column in own {
        owner.column(column)?;
    }
    for constraint in create.table_elts.iter().chain(&create.constraints).filter_map(constraint) {
        owner.constraint(constraint, None)?;
    }
    let change = SchemaChange::Create {
        schema: (!range.schemaname.is_empty()).then(|| range.schemaname.as_str().into()),
        name: range.relname.as_str().into(),
        columns,
        class,
        if_not_exists: create.if_not_exists,
    };
    // IF NOT EXISTS of a table that is there changes nothing.
    let exists = known.is_some_and(|table| !table.is_declared());
    let changes = if exists && create.if_not_exists { Vec::new() } else { vec![change] };
    Ok(ddl(route_of(class), changes))
}

/// What the console has declared, or what is there already; otherwise the columns decide.
fn class_of_new(create: &CreateStmt, known: Option<&Table>, columns: &[Box<str>], names: Names<'_>) -> TableClass {
    match known {
        Some(table) if table.is_declared() || create.if_not_exists => table.class,
        _ if columns.iter().any(|column| **column == *names.key()) => TableClass::Sharded,
        _ => TableClass::Home,
    }
}

/// The tables of PARTITION OF, INHERITS and LIKE.
fn parents<'a>(create: &CreateStmt, names: Names<'a>) -> Checked<Vec<Parent<'a>>> {
    let inherited = create.inh_relations.iter().filter_map(inner).map(|node| match node {
        NodeEnum::RangeVar(range) => Some((range, true, 0)),
        _ => None,
    });
    let copied = create.table_elts.iter().filter_map(inner).filter_map(|node| match node {
        NodeEnum::TableLikeClause(like) => Some(like.relation.as_ref().map(|range| (range, false, like.options))),
        _ => None,
    });
    let mut parents = Vec::new();
    for parent in inherited.chain(copied) {
        let Some((range, inherits, options)) = parent else { return Err(unproven("this CREATE TABLE")) };
        let Found::Table(table) = names.relation(range)? else { return Err(unproven("a table like a system catalog")) };
        parents.push(Parent { table, inherits, copies_defaults: options & LIKE_FILLS_IN != 0 });
    }
    Ok(parents)
}

fn check_parents(parents: &[Parent<'_>], class: TableClass) -> Checked<()> {
    for parent in parents {
        let together = match (parent.table.class, class) {
            (parent, class) if parent == class => true,
            // What is on every shard can be copied anywhere, but for defaults that a reference table must not have.
            (TableClass::Sharded, TableClass::Reference) => !parent.inherits && !parent.copies_defaults,
            (TableClass::Reference | TableClass::Sharded, _) => !parent.inherits,
            (TableClass::Home, _) => false,
        };
        if !together {
            return Err(not_sharded(
                "a table with the columns of a table of another class",
                "The two would not live on the same shards.",
                "List the columns instead.",
            ));
        }
    }
    Ok(())
}

fn column_definitions(elements: &[Node]) -> Vec<&ColumnDef> {
    elements.iter().filter_map(column_definition).collect()
}

fn column_definition(node: &Node) -> Option<&ColumnDef> {
    match inner(node)? {
        NodeEnum::ColumnDef(column) => Some(column),
        _ => None,
    }
}

fn constraint(node: &Node) -> Option<&Constraint> {
    match inner(node)? {
        NodeEnum::Constraint(constraint) => Some(constraint),
        _ => None,
    }
}

pub fn alter(alter: &AlterTableStmt, names: Names<'_>, constants: Constants<'_>) -> Checked<Placed> {
    let Some(range) = &alter.relation else { return Err(unproven("ALTER TABLE")) };
    if alter.objtype != ObjectType::ObjectTable as i32 {
        return alter_other(alter);
    }
    let class = match names.lookup(&range.schemaname, &range.relname) {
        None if alter.missing_ok => return Ok(ddl(Route::AllShards, [])),
        _ => class_of(range, names)?,
    };
    let owner = Owner { name: display(range), class, names, range, constants };
    let mut columns_change = false;
    for command in alter.cmds.iter().filter_map(inner) {
        let NodeEnum::AlterTableCmd(command) = command else { return Err(unproven("ALTER TABLE")) };
        columns_change |= owner.command(command)?;
    }
    let change = SchemaChange::Alter {
        schema: (!range.schemaname.is_empty()).then(|| range.schemaname.as_str().into()),
        name: range.relname.as_str().into(),
    };
    let changes = if columns_change { vec![change] } else { Vec::new() };
    Ok(ddl(route_of(class), changes))
}

/// ALTER INDEX, SEQUENCE, TYPE: the same on every shard.
fn alter_other(alter: &AlterTableStmt) -> Checked<Placed> {
    match ObjectType::try_from(alter.objtype) {
        Ok(ObjectType::ObjectIndex | ObjectType::ObjectSequence | ObjectType::ObjectType) => {
            Ok(ddl(Route::AllShards, []))
        }
        _ => Err(not_sharded(
            "ALTER of this kind of object",
            "It belongs to one server.",
            "Run it on each shard directly.",
        )),
    }
}

impl Owner<'_> {
    /// One action of ALTER TABLE; true if the columns change.
    fn command(&self, command: &AlterTableCmd) -> Checked<bool> {
        let key = self.names.key();
        let of_key = command.name == key && self.class == TableClass::Sharded;
        match AlterTableType::try_from(command.subtype) {
            Ok(AlterTableType::AtAddColumn) => self.add_column(command).map(|()| true),
            Ok(AlterTableType::AtDropColumn) if of_key => Err(key_is_fixed("drop", key)),
            Ok(AlterTableType::AtAlterColumnType) if of_key => Err(key_is_fixed("change the type of", key)),
            Ok(AlterTableType::AtDropColumn | AlterTableType::AtAlterColumnType) => Ok(true),
            Ok(AlterTableType::AtAddIdentity) => self.sequence("an identity column").map(|()| false),
            Ok(AlterTableType::AtColumnDefault) => self.default(command.def.as_deref()).map(|()| false),
            Ok(AlterTableType::AtAddConstraint) => {
                let added = command.def.as_deref().and_then(constraint);
                added.map_or(Ok(()), |added| self.constraint(added, None)).map(|()| false)
            }
            Ok(AlterTableType::AtAttachPartition | AlterTableType::AtDetachPartition) => {
                self.partition(command).map(|()| false)
            }
            Ok(AlterTableType::AtAddInherit | AlterTableType::AtDropInherit) => self.parent(command).map(|()| false),
            Ok(AlterTableType::AtAddOf | AlterTableType::Undefined) | Err(_) => {
                Err(unproven("this form of ALTER TABLE"))
            }
            Ok(_) => Ok(false),
        }
    }

    fn add_column(&self, command: &AlterTableCmd) -> Checked<()> {
        let Some(NodeEnum::ColumnDef(column)) = inner_of(&command.def) else { return Err(unproven("ADD COLUMN")) };
        let key = self.names.key();
        if column.colname == key && self.class != TableClass::Sharded {
            return Err(unsupported(
                format!("cannot add the sharding key \"{key}\" to \"{}\"", self.name),
                "The column would make the table a sharded one, and its rows would have to move.",
                "Create a table with the column, and insert the rows there.",
            ));
        }
        self.column(column)
    }

    fn partition(&self, command: &AlterTableCmd) -> Checked<()> {
        let Some(NodeEnum::PartitionCmd(partition)) = inner_of(&command.def) else {
            return Err(unproven("this form of ALTER TABLE"));
        };
        if partition.concurrent && self.class != TableClass::Home {
            return Err(concurrently("DETACH PARTITION … CONCURRENTLY"));
        }
        self.same_class(partition.name.as_ref())
    }

    fn parent(&self, command: &AlterTableCmd) -> Checked<()> {
        match inner_of(&command.def) {
            Some(NodeEnum::RangeVar(range)) => self.same_class(Some(range)),
            _ => Err(unproven("this form of ALTER TABLE")),
        }
    }

    fn same_class(&self, other: Option<&RangeVar>) -> Checked<()> {
        let Some(other) = other else { return Err(unproven("this form of ALTER TABLE")) };
        if class_of(other, self.names)? == self.class {
            return Ok(());
        }
        Err(not_sharded(
            "a partition of another class than its parent",
            "The two would not live on the same shards.",
            "Create the partition through Sluice with PARTITION OF.",
        ))
    }

    /// A column of a new table, or a new column.
    fn column(&self, column: &ColumnDef) -> Checked<()> {
        let names = column.type_name.as_ref().map(|name| strings(&name.names)).unwrap_or_default();
        if names.last().is_some_and(|name| is_serial(name)) {
            self.sequence("a serial column")?;
        }
        let is_key = self.class == TableClass::Sharded && column.colname == self.names.key();
        if is_key {
            self.key_type(column.type_name.as_ref())?;
        }
        for constraint in column.constraints.iter().filter_map(constraint) {
            if is_key && constraint.contype == ConstrType::ConstrGenerated as i32 {
                return Err(key_is_fixed("generate", self.names.key()));
            }
            self.constraint(constraint, Some(&column.colname))?;
        }
        Ok(())
    }

    /// Keys of another type would be hashed by another function.
    fn key_type(&self, name: Option<&TypeName>) -> Checked<()> {
        let bare = name.map(|name| TypeName { typmods: Vec::new(), ..name.clone() });
        let found = bare.and_then(|name| family(&name, false));
        let (wanted, types) = match self.names.sharding.key_type {
            KeyType::Int => (Family::Int, "smallint, integer or bigint"),
            KeyType::Uuid => (Family::Uuid, "uuid"),
            KeyType::Text => (Family::Text, "text or varchar"),
        };
        if found == Some(wanted) {
            return Ok(());
        }
        let key = self.names.key();
        Err(unsupported(
            format!("column \"{key}\" of \"{}\" has another type than the sharding key", self.name),
            format!("The database is sharded by keys of type {types}."),
            "Give the column that type, or another name.",
        ))
    }

    /// `column`: of a constraint that stands in a column's definition.
    fn constraint(&self, constraint: &Constraint, column: Option<&str>) -> Checked<()> {
        match ConstrType::try_from(constraint.contype) {
            Ok(ConstrType::ConstrIdentity) => self.sequence("an identity column"),
            Ok(ConstrType::ConstrDefault) => self.default(constraint.raw_expr.as_deref()),
            Ok(ConstrType::ConstrPrimary | ConstrType::ConstrUnique) => self.unique(constraint, column),
            Ok(ConstrType::ConstrExclusion) => self.exclusion(constraint),
            Ok(ConstrType::ConstrForeign) => self.foreign_key(constraint, column),
            _ => Ok(()),
        }
    }

    fn unique(&self, constraint: &Constraint, column: Option<&str>) -> Checked<()> {
        // USING INDEX: the index was checked when it was made.
        if self.class != TableClass::Sharded || !constraint.indexname.is_empty() {
            return Ok(());
        }
        let columns = constraint.keys.iter().filter_map(string).chain(column);
        unique_includes_key(columns, &self.name, self.names)
    }

    fn exclusion(&self, constraint: &Constraint) -> Checked<()> {
        if self.class != TableClass::Sharded {
            return Ok(());
        }
        let equal_columns = constraint.exclusions.iter().filter_map(inner).filter_map(list).filter_map(|pair| {
            let [element, operator] = pair else { return None };
            let NodeEnum::IndexElem(element) = inner(element)? else { return None };
            let operator = strings(list(inner(operator)?)?);
            (operator == ["="]).then_some(element.name.as_str())
        });
        unique_includes_key(equal_columns, &self.name, self.names)
    }

    fn foreign_key(&self, constraint: &Constraint, column: Option<&str>) -> Checked<()> {
        let Some(target) = &constraint.pktable else { return Err(unproven("this foreign key")) };
        let itself = target.relname == self.range.relname && target.schemaname == self.range.schemaname;
        let class = if itself { self.class } else { class_of(target, self.names)? };
        let own: Vec<_> = constraint.fk_attrs.iter().filter_map(string).chain(column).collect();
        let theirs: Vec<_> = constraint.pk_attrs.iter().filter_map(string).collect();
        let key = self.names.key();
        match (self.class, class) {
            (TableClass::Sharded, TableClass::Sharded) => {
                let paired = own.iter().zip(&theirs).any(|(own, theirs)| *own == key && *theirs == key);
                if paired { Ok(()) } else { Err(self.foreign_key_without_key(target)) }
            }
            (_, TableClass::Reference) | (TableClass::Home, TableClass::Home) => Ok(()),
            _ => Err(unsupported(
                format!("\"{}\" cannot reference \"{}\"", self.name, display(target)),
                "The rows of the two tables are not on the same shard.",
                "Make the referenced table a reference table, or leave the foreign key out.",
            )),
        }
    }

    fn foreign_key_without_key(&self, target: &RangeVar) -> Box<Refusal> {
        let key = self.names.key();
        let target = display(target);
        unsupported(
            format!("a foreign key from \"{}\" to \"{target}\" must include the sharding key on both sides", self.name),
            "A shard can only see the rows of its own keys.",
            format!("FOREIGN KEY ({key}, …) REFERENCES {target} ({key}, …), with the columns named on both sides."),
        )
    }

    /// A default that takes its value from a sequence, or, in a reference table, one that differs from shard to shard.
    fn default(&self, expression: Option<&Node>) -> Checked<()> {
        let Some(expression) = expression else { return Ok(()) };
        let census = Census::of(expression);
        for function in &census.functions {
            if function.name == "nextval" {
                self.sequence("a default from a sequence")?;
            }
            let repeatable =
                lookup(function).is_some_and(|builtin| builtin.repeatable && builtin.reach == Reach::Arguments);
            if self.class == TableClass::Reference && !repeatable {
                return Err(self.differing_default(&function.name));
            }
        }
        if self.class == TableClass::Reference && census.sql_functions > 0 {
            return Err(self.differing_default("CURRENT_TIMESTAMP"));
        }
        match self.constants.clock() {
            Some(text) if self.class == TableClass::Reference => Err(self.differing_default(text)),
            _ => Ok(()),
        }
    }

    fn differing_default(&self, what: &str) -> Box<Refusal> {
        unsupported(
            format!("reference table \"{}\" cannot have a default with {what}", self.name),
            "It may give another value on each shard.",
            "Let the application give the value.",
        )
    }

    fn sequence(&self, what: &str) -> Checked<()> {
        if self.class == TableClass::Home {
            return Ok(());
        }
        Err(unsupported(
            format!("\"{}\" cannot have {what}", self.name),
            "A sequence lives in one shard: two shards would hand out the same number.",
            "Use uuid with DEFAULT gen_random_uuid(), or ids from the application.",
        ))
    }
}

fn is_serial(name: &str) -> bool {
    matches!(name, "serial" | "serial2" | "serial4" | "serial8" | "smallserial" | "bigserial")
}

/// A shard can only see the rows of its own keys, so that uniqueness must include the key.
pub fn unique_includes_key<'a>(
    columns: impl IntoIterator<Item = &'a str>,
    table: &str,
    names: Names<'_>,
) -> Checked<()> {
    let key = names.key();
    let columns: Vec<_> = columns.into_iter().collect();
    if columns.contains(&key) {
        return Ok(());
    }
    let listed = columns.join(", ");
    Err(unsupported(
        format!("uniqueness in the sharded table \"{table}\" must include \"{key}\""),
        "A shard can only see the rows of its own keys.",
        format!("Put the sharding key in front: ({key}, {listed})."),
    ))
}

/// The key column is what makes a table sharded.
pub fn key_is_fixed(what: &str, key: &str) -> Box<Refusal> {
    unsupported(
        format!("cannot {what} the sharding key \"{key}\""),
        "It decides on which shard a row lives.",
        "Create another table, and insert the rows there.",
    )
}
