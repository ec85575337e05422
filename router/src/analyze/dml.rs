//! INSERT, UPDATE, DELETE and MERGE.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    CmdType, DeleteStmt, InsertStmt, MergeMatchKind, MergeStmt, MergeWhenClause, Node, OnConflictClause, RangeVar,
    ReturningClause, UpdateStmt,
};

use super::names::{Found, display};
use super::nodes::{inner, inner_of, owned_strings, target};
use super::pins::{GroupId, ScanId, Value};
use super::query::Query;
use super::refuse::{Checked, at, refusal, unproven, unsupported};
use super::scope::{Columns, Item, Level, Relation};
use crate::map::{Table, TableClass};
use crate::template::Refusal;

/// The table that a statement writes to.
#[derive(Clone, Copy)]
struct Target<'a> {
    table: &'a Table,
    /// None unless it is sharded.
    scan: Option<ScanId>,
}

impl<'a> Query<'a> {
    pub(super) fn insert(&mut self, insert: &InsertStmt) -> Checked<Columns> {
        let outer = self.with(insert.with_clause.as_ref())?;
        let group = self.pins.group(None);
        let (target, relation) = self.target_table(insert.relation.as_ref(), group)?;
        let source = self.insert_source(insert)?;
        match target.scan {
            Some(scan) => self.insert_key(insert, target, scan, group, source)?,
            None if target.table.class == TableClass::Reference => self.complete(insert, target.table, &source)?,
            None => {}
        }
        self.scope.levels.push(Level { items: vec![Item::relation(relation)], hidden: false });
        if let Some(conflict) = &insert.on_conflict_clause {
            self.on_conflict(conflict, target)?;
        }
        let columns = self.returning(insert.returning_clause.as_ref())?;
        self.scope.levels.pop();
        self.forget_ctes(outer);
        Ok(columns)
    }

    /// The columns that VALUES or the SELECT gives.
    fn insert_source(&mut self, insert: &InsertStmt) -> Checked<Columns> {
        match inner_of(&insert.select_stmt) {
            Some(query) => self.query(query, None),
            None => Ok(Columns::default()),
        }
    }

    /// Every inserted row's key must be one of the known keys.
    fn insert_key(
        &mut self,
        insert: &InsertStmt,
        target: Target<'_>,
        scan: ScanId,
        group: GroupId,
        source: Columns,
    ) -> Checked<()> {
        let key = self.names.key();
        let name = insert.relation.as_ref().map(display).unwrap_or_default();
        let position = if insert.cols.is_empty() {
            target.table.column(key)
        } else {
            insert.cols.iter().position(|column| whole_column(column) == Some(key))
        };
        let value = position.and_then(|position| source.at(position)).cloned();
        let Some(value) = value else {
            let location = insert.relation.as_ref().map_or(-1, |relation| relation.location);
            return Err(at(self.no_inserted_key(&name, position, insert), location));
        };
        self.pins.typed(&value);
        if holds_null(&value) {
            return Err(self.null_key(&name));
        }
        self.pins.fact(group, scan, value.stored());
        Ok(())
    }

    fn no_inserted_key(&self, table: &str, position: Option<usize>, insert: &InsertStmt) -> Box<Refusal> {
        let key = self.names.key();
        let detail = match position {
            _ if insert.select_stmt.is_none() => format!("DEFAULT VALUES gives no value for \"{key}\"."),
            None => format!("Column \"{key}\" is not among the columns that are given."),
            Some(_) => format!(
                "The value for \"{key}\" is neither a constant, nor a parameter, nor the key of a table that is restricted to one."
            ),
        };
        unsupported(
            format!("cannot tell on which shard a new row of \"{table}\" belongs"),
            detail,
            format!("Give \"{key}\" as a constant or a parameter in each row."),
        )
    }

    fn null_key(&self, table: &str) -> Box<Refusal> {
        let key = self.names.key();
        refusal(
            "23502",
            format!("null value in column \"{key}\" of relation \"{table}\" violates not-null constraint"),
            format!("\"{key}\" is the sharding key: it decides where the row lives."),
            format!("Give \"{key}\" a value."),
        )
    }

    /// A column that is left to its default may get another value on each shard (`now()`, a sequence).
    fn complete(&self, insert: &InsertStmt, table: &Table, source: &Columns) -> Checked<()> {
        if table.columns.is_empty() {
            return Err(unproven("a reference table whose columns are not known yet"));
        }
        let given = |column: &str| insert.cols.iter().any(|given| whole_column(given) == Some(column));
        let missing = if insert.select_stmt.is_none() {
            table.columns.first()
        } else if insert.cols.is_empty() {
            table.columns.get(source.list.len())
        } else {
            table.columns.iter().find(|column| !given(column))
        };
        match missing {
            None if !source.open || !insert.cols.is_empty() => Ok(()),
            None => Err(unproven("the number of columns inserted into a reference table")),
            Some(column) => Err(unsupported(
                "an INSERT into a reference table must give every column",
                format!("Column \"{column}\" is left to its default, which may differ from shard to shard."),
                format!("Give \"{column}\" a value."),
            )),
        }
    }

    fn on_conflict(&mut self, conflict: &OnConflictClause, target: Target<'_>) -> Checked<()> {
        if let Some(infer) = &conflict.infer {
            self.walk_list(&infer.index_elems, "ON CONFLICT")?;
            self.walk_option(&infer.where_clause, "ON CONFLICT")?;
        }
        let excluded =
            Relation { name: "excluded".into(), schema: None, columns: self.columns_of(target.table, target.scan) };
        self.add_item(Item::relation(excluded));
        self.assignments(&conflict.target_list, target)?;
        self.walk_option(&conflict.where_clause, "ON CONFLICT")?;
        if let Some(level) = self.scope.levels.last_mut() {
            level.items.pop();
        }
        Ok(())
    }

    pub(super) fn update(&mut self, update: &UpdateStmt) -> Checked<Columns> {
        let outer = self.with(update.with_clause.as_ref())?;
        let group = self.pins.group(None);
        let (target, relation) = self.target_table(update.relation.as_ref(), group)?;
        self.scope.levels.push(Level::default());
        // FROM doesn't see the target, not even with LATERAL.
        self.read_from(&update.from_clause, group)?;
        self.add_target(relation);
        self.condition(update.where_clause.as_deref(), group)?;
        self.assignments(&update.target_list, target)?;
        let columns = self.returning(update.returning_clause.as_ref())?;
        self.scope.levels.pop();
        self.forget_ctes(outer);
        Ok(columns)
    }

    pub(super) fn delete(&mut self, delete: &DeleteStmt) -> Checked<Columns> {
        let outer = self.with(delete.with_clause.as_ref())?;
        let group = self.pins.group(None);
        let (_, relation) = self.target_table(delete.relation.as_ref(), group)?;
        self.scope.levels.push(Level::default());
        self.read_from(&delete.using_clause, group)?;
        self.add_target(relation);
        self.condition(delete.where_clause.as_deref(), group)?;
        let columns = self.returning(delete.returning_clause.as_ref())?;
        self.scope.levels.pop();
        self.forget_ctes(outer);
        Ok(columns)
    }

    /// The target comes first in RETURNING *.
    fn add_target(&mut self, relation: Relation) {
        if let Some(level) = self.scope.levels.last_mut() {
            level.items.insert(0, Item::relation(relation));
        }
    }

    /// MERGE is the source LEFT JOINed to the target, with actions on the result.
    pub(super) fn merge(&mut self, merge: &MergeStmt) -> Checked<Columns> {
        let outer = self.with(merge.with_clause.as_ref())?;
        let source_group = self.pins.group(None);
        let target_group = self.pins.group(Some(source_group));
        let (target, relation) = self.target_table(merge.relation.as_ref(), target_group)?;
        self.scope.levels.push(Level::default());
        let Some(source) = inner_of(&merge.source_relation) else { return Err(unproven("this MERGE")) };
        let source = self.read_item(source, source_group)?;
        self.add_item(source);
        self.add_item(Item::relation(relation));
        self.condition(merge.join_condition.as_deref(), target_group)?;
        for clause in merge.merge_when_clauses.iter().filter_map(inner) {
            let NodeEnum::MergeWhenClause(clause) = clause else { return Err(unproven("this MERGE")) };
            self.merge_when(clause, target)?;
        }
        let columns = self.returning(merge.returning_clause.as_ref())?;
        self.scope.levels.pop();
        self.forget_ctes(outer);
        Ok(columns)
    }

    fn merge_when(&mut self, clause: &MergeWhenClause, target: Target<'_>) -> Checked<()> {
        self.walk_option(&clause.condition, "WHEN")?;
        if clause.match_kind == MergeMatchKind::MergeWhenNotMatchedBySource as i32 && target.scan.is_some() {
            return Err(unsupported(
                "MERGE … WHEN NOT MATCHED BY SOURCE is not supported on a sharded table",
                "It acts on all rows of the table that the source doesn't mention, on whichever shard.",
                "Use an UPDATE or DELETE that names the sharding key.",
            ));
        }
        match CmdType::try_from(clause.command_type) {
            Ok(CmdType::CmdUpdate) => self.assignments(&clause.target_list, target),
            Ok(CmdType::CmdInsert) => self.merge_insert(clause, target),
            Ok(CmdType::CmdDelete | CmdType::CmdNothing) => Ok(()),
            _ => Err(unproven("this action of a MERGE")),
        }
    }

    fn merge_insert(&mut self, clause: &MergeWhenClause, target: Target<'_>) -> Checked<()> {
        let key = self.names.key();
        let position = if clause.target_list.is_empty() {
            target.table.column(key)
        } else {
            clause.target_list.iter().position(|column| whole_column(column) == Some(key))
        };
        let mut inserted = None;
        for (number, value) in clause.values.iter().filter_map(inner).enumerate() {
            let value = self.operand(value, "the values of an INSERT")?;
            if Some(number) == position {
                inserted = value;
            }
        }
        let all = target.table.columns.len();
        if target.table.class == TableClass::Reference && (all == 0 || clause.values.len() < all) {
            return Err(unproven("a default value in a reference table"));
        }
        if target.scan.is_none() {
            return Ok(());
        }
        let Some(value) = inserted else {
            return Err(unsupported(
                "cannot tell on which shard a row that MERGE inserts belongs",
                format!(
                    "The value for \"{key}\" is missing, or is neither a constant, nor a parameter, nor the key of a table that is restricted to one."
                ),
                format!("Give \"{key}\" as a constant, a parameter, or the source's own key."),
            ));
        };
        self.write_key(value)
    }

    /// SET: a new key must live on the same shard as everything else.
    fn assignments(&mut self, targets: &[Node], target: Target<'_>) -> Checked<()> {
        for assignment in targets.iter().filter_map(super::nodes::target) {
            let Some(value) = inner_of(&assignment.val) else { continue };
            let is_key = target.scan.is_some() && assignment.name == self.names.key();
            let value = self.assigned(value)?;
            match value {
                _ if !is_key => {}
                Some(value) => self.write_key(value)?,
                None => return Err(at(self.moved_row(), assignment.location)),
            }
        }
        Ok(())
    }

    /// The value of one assignment; one item of a row in `(a, b) = (1, 2)`.
    fn assigned(&mut self, value: &NodeEnum) -> Checked<Option<Value>> {
        let NodeEnum::MultiAssignRef(multi) = value else { return self.operand(value, "SET") };
        let column = usize::try_from(multi.colno).unwrap_or(0).wrapping_sub(1);
        match inner_of(&multi.source) {
            Some(NodeEnum::RowExpr(row)) => {
                let mut assigned = None;
                for (number, item) in row.args.iter().filter_map(inner).enumerate() {
                    let value = self.operand(item, "SET")?;
                    if number == column {
                        assigned = value;
                    }
                }
                Ok(assigned)
            }
            Some(source) => self.walk(source, "SET").map(|()| None),
            None => Ok(None),
        }
    }

    fn write_key(&mut self, value: Value) -> Checked<()> {
        self.pins.typed(&value);
        if holds_null(&value) {
            return Err(self.null_key("the table"));
        }
        self.pins.demand(value.stored());
        Ok(())
    }

    fn moved_row(&self) -> Box<Refusal> {
        let key = self.names.key();
        unsupported(
            format!("cannot set the sharding key \"{key}\" to an expression"),
            "The row might belong on another shard afterwards.",
            format!("Set \"{key}\" to a constant or a parameter, or insert the row anew and delete the old one."),
        )
    }

    fn returning(&mut self, clause: Option<&ReturningClause>) -> Checked<Columns> {
        match clause {
            Some(clause) => self.targets(&clause.exprs),
            None => Ok(Columns::default()),
        }
    }

    /// Resolves the written table. CTEs don't hide it.
    fn target_table(&mut self, range: Option<&RangeVar>, group: GroupId) -> Checked<(Target<'a>, Relation)> {
        let Some(range) = range else { return Err(unproven("this statement")) };
        self.relations_seen += 1;
        let name = display(range);
        let Found::Table(table) = self.names.relation(range)? else {
            return Err(at(system_catalog(&name), range.location));
        };
        let scan = match table.class {
            TableClass::Sharded => Some(self.pins.scan(name, range.location, group)),
            TableClass::Reference => {
                self.tables.reference_written.get_or_insert(name);
                None
            }
            TableClass::Home => {
                self.tables.home.get_or_insert(name);
                None
            }
        };
        let mut columns = self.columns_of(table, scan);
        let schema = Some(range.schemaname.clone()).filter(|schema| !schema.is_empty());
        let relation = match &range.alias {
            None => Relation { name: range.relname.clone(), schema, columns },
            Some(alias) => {
                columns.rename(&owned_strings(&alias.colnames));
                Relation { name: alias.aliasname.clone(), schema: None, columns }
            }
        };
        Ok((Target { table, scan }, relation))
    }
}

fn system_catalog(name: &str) -> Box<Refusal> {
    unsupported(
        format!("cannot write to the system catalog \"{name}\" in a sharded database"),
        "Each shard has catalogs of its own.",
        "Use DDL statements.",
    )
}

/// The column that an item of a column list names, unless it names a part of it.
fn whole_column(node: &Node) -> Option<&str> {
    target(node).filter(|target| target.indirection.is_empty()).map(|target| target.name.as_str())
}

/// NULL is the constant without a source.
fn holds_null(value: &Value) -> bool {
    match value {
        Value::Constants(constants) => constants.is_empty(),
        Value::OneOf(values) => values.iter().any(holds_null),
        Value::Key(_) | Value::Recursive { .. } => false,
    }
}
