//! SELECT, and what all queries share: the walk over levels, CTEs and expressions that finds every table.
//!
//! The walk pins nothing itself. It tells [`Pins`] which sharded tables are scanned in which group, and which equalities
//! hold there; and [`Tables`] which other tables are touched.

use pg_query::NodeEnum;
use pg_query::protobuf::{CommonTableExpr, Node, RangeVar, SelectStmt, SetOperation, WithClause};

use super::constants::Constants;
use super::names::{Found, Names, display};
use super::nodes::{children, inner, inner_of, list, owned_strings, string};
use super::pins::{GroupId, Pins, Value};
use super::refuse::{Checked, at, unproven, unsupported};
use super::scope::{Column, Columns, Cte, CteColumns, Level, Relation, Scope};
use crate::map::TableClass;

/// The tables, other than scans of sharded ones, that a statement touches; the first of each kind, by name.
#[derive(Debug, Default)]
pub struct Tables {
    pub reference_read: Option<String>,
    pub reference_written: Option<String>,
    /// Home tables.
    pub home: Option<String>,
    pub catalog: Option<String>,
}

/// The analysis of one statement, under way.
pub struct Query<'a> {
    pub names: Names<'a>,
    pub constants: Constants<'a>,
    pub pins: Pins,
    pub tables: Tables,
    pub scope: Scope,
    /// CTEs in sight, innermost last.
    ctes: Vec<Cte>,
    /// Number of WITH RECURSIVE queries read.
    recursive_ctes: usize,
    /// What the walk has seen; must equal the census.
    pub relations_seen: usize,
    pub selects_seen: usize,
    /// LIMIT, DISTINCT ON or a window: which rows they pick may differ from shard to shard.
    pub order_matters: bool,
}

impl<'a> Query<'a> {
    pub fn new(names: Names<'a>, constants: Constants<'a>, parameters: Vec<(i32, i32)>) -> Self {
        Self {
            names,
            constants,
            pins: Pins::new(parameters),
            tables: Tables::default(),
            scope: Scope::default(),
            ctes: Vec::new(),
            recursive_ctes: 0,
            relations_seen: 0,
            selects_seen: 0,
            order_matters: false,
        }
    }

    /// Any statement that can stand in a CTE, with its output columns. Conditions of `parent` reach its tables; without
    /// one they don't.
    pub fn query(&mut self, node: &NodeEnum, parent: Option<GroupId>) -> Checked<Columns> {
        match node {
            NodeEnum::SelectStmt(select) => self.select(select, parent),
            NodeEnum::InsertStmt(insert) => self.insert(insert),
            NodeEnum::UpdateStmt(update) => self.update(update),
            NodeEnum::DeleteStmt(delete) => self.delete(delete),
            NodeEnum::MergeStmt(merge) => self.merge(merge),
            _ => Err(unproven("this kind of query")),
        }
    }

    pub fn select(&mut self, select: &SelectStmt, parent: Option<GroupId>) -> Checked<Columns> {
        self.selects_seen += 1;
        if select.into_clause.is_some() {
            return Err(unproven("SELECT INTO"));
        }
        let outer_ctes = self.with(select.with_clause.as_ref())?;
        let columns = match SetOperation::try_from(select.op) {
            _ if !select.values_lists.is_empty() => self.values(select)?,
            Ok(SetOperation::SetopNone) => self.plain_select(select, parent)?,
            Ok(SetOperation::SetopUnion | SetOperation::SetopIntersect | SetOperation::SetopExcept) => {
                self.set_operation(select)?
            }
            _ => return Err(unproven("this set operation")),
        };
        self.ctes.truncate(outer_ctes);
        Ok(columns)
    }

    fn plain_select(&mut self, select: &SelectStmt, parent: Option<GroupId>) -> Checked<Columns> {
        let group = self.pins.group(parent);
        self.scope.levels.push(Level::default());
        self.read_from(&select.from_clause, group)?;
        self.condition(select.where_clause.as_deref(), group)?;
        let columns = self.targets(&select.target_list)?;
        self.walk_list(&select.group_clause, "GROUP BY")?;
        self.walk_list(&select.distinct_clause, "DISTINCT")?;
        self.walk_list(&select.window_clause, "WINDOW")?;
        self.walk_option(&select.having_clause, "HAVING")?;
        self.tail(select)?;
        self.order_matters |=
            select.distinct_clause.iter().any(|node| node.node.is_some()) || !select.window_clause.is_empty();
        self.scope.levels.pop();
        Ok(columns)
    }

    /// ORDER BY, LIMIT and OFFSET.
    fn tail(&mut self, select: &SelectStmt) -> Checked<()> {
        self.order_matters |= select.limit_count.is_some() || select.limit_offset.is_some();
        self.walk_list(&select.sort_clause, "ORDER BY")?;
        self.walk_option(&select.limit_count, "LIMIT")?;
        self.walk_option(&select.limit_offset, "OFFSET")?;
        self.locked_relations(select);
        Ok(())
    }

    /// FOR UPDATE OF names relations of the FROM clause again.
    fn locked_relations(&mut self, select: &SelectStmt) {
        for clause in select.locking_clause.iter().filter_map(inner) {
            if let NodeEnum::LockingClause(clause) = clause {
                self.relations_seen += clause.locked_rels.len();
            }
        }
    }

    fn set_operation(&mut self, select: &SelectStmt) -> Checked<Columns> {
        let (Some(left), Some(right)) = (select.larg.as_deref(), select.rarg.as_deref()) else {
            return Err(unproven("this set operation"));
        };
        let mut columns = self.select(left, None)?;
        let right = self.select(right, None)?;
        columns = either(columns, &right);
        self.scope.levels.push(Level::default());
        self.tail(select)?;
        self.scope.levels.pop();
        Ok(columns)
    }

    fn values(&mut self, select: &SelectStmt) -> Checked<Columns> {
        let mut columns: Option<Columns> = None;
        for row in select.values_lists.iter().filter_map(inner).filter_map(list) {
            let row = self.row(row)?;
            columns = Some(match columns {
                None => row,
                Some(before) => either(before, &row),
            });
        }
        self.tail(select)?;
        Ok(columns.unwrap_or_default())
    }

    fn row(&mut self, items: &[Node]) -> Checked<Columns> {
        let mut columns = Columns::default();
        for (number, item) in items.iter().filter_map(inner).enumerate() {
            let value = self.operand(item, "VALUES")?;
            columns.push(format!("column{}", number + 1), value);
        }
        Ok(columns)
    }

    /// A select list or RETURNING.
    pub fn targets(&mut self, targets: &[Node]) -> Checked<Columns> {
        let mut columns = Columns::default();
        for target in targets.iter().filter_map(inner) {
            let NodeEnum::ResTarget(target) = target else { return Err(unproven("this select list")) };
            let Some(value) = inner_of(&target.val) else { continue };
            if let Some(star) = self.star(value) {
                columns.extend(&star);
                continue;
            }
            let known = self.operand(value, "the select list")?;
            if let Some(key) = &known {
                self.pins.saw(key, "the select list");
            }
            let name = if target.name.is_empty() { implied_name(value) } else { &target.name };
            columns.push(name, known);
        }
        Ok(columns)
    }

    /// The columns that `*`, `relation.*` or `schema.relation.*` stands for.
    fn star(&self, value: &NodeEnum) -> Option<Columns> {
        let NodeEnum::ColumnRef(column) = value else { return None };
        let (last, before) = column.fields.split_last()?;
        if !matches!(inner(last)?, NodeEnum::AStar(_)) {
            return None;
        }
        let level = self.scope.levels.last()?;
        Some(match before.last().and_then(string) {
            None => level.star(),
            Some(relation) => level.star_of(relation).unwrap_or_else(Columns::open),
        })
    }

    /// Reads a WITH clause; gives the number of CTEs that were in sight before.
    pub fn with(&mut self, clause: Option<&WithClause>) -> Checked<usize> {
        let outer = self.ctes.len();
        let Some(clause) = clause else { return Ok(outer) };
        let queries: Vec<_> = clause.ctes.iter().filter_map(inner).filter_map(common_table).collect();
        if clause.recursive {
            // All names are in sight at once, so none may be taken for a table.
            self.ctes.extend(queries.iter().map(|cte| Cte { name: cte.ctename.clone(), columns: CteColumns::Pending }));
        }
        for (number, cte) in queries.into_iter().enumerate() {
            let slot = clause.recursive.then_some(outer + number);
            let columns = self.common_table(cte, slot)?;
            let read = Cte { name: cte.ctename.clone(), columns: CteColumns::Known(columns) };
            match slot {
                Some(slot) => self.ctes[slot] = read,
                None => self.ctes.push(read),
            }
        }
        Ok(outer)
    }

    pub fn forget_ctes(&mut self, outer: usize) {
        self.ctes.truncate(outer);
    }

    fn common_table(&mut self, cte: &CommonTableExpr, slot: Option<usize>) -> Checked<Columns> {
        let Some(query) = inner_of(&cte.ctequery) else { return Err(unproven("this WITH query")) };
        let names = owned_strings(&cte.aliascolnames);
        let mut columns = match (slot, query) {
            (Some(slot), NodeEnum::SelectStmt(select)) if select.larg.is_some() => {
                self.recursive_table(select, slot, &names)?
            }
            _ => self.query(query, None)?,
        };
        columns.rename(&names);
        // SEARCH and CYCLE add columns at the end.
        columns.open |= cte.search_clause.is_some() || cte.cycle_clause.is_some();
        Ok(columns)
    }

    /// A UNION in WITH RECURSIVE: the second arm sees the CTE itself, with the first arm's columns. A key column is taken
    /// for settled there, and [`Pins`] checks by induction that both arms give settled values.
    fn recursive_table(&mut self, select: &SelectStmt, slot: usize, names: &[String]) -> Checked<Columns> {
        let (Some(first), Some(second)) = (select.larg.as_deref(), select.rarg.as_deref()) else {
            return Err(unproven("this recursive query"));
        };
        self.selects_seen += 1;
        let outer = self.with(select.with_clause.as_ref())?;
        let number = self.recursive_ctes;
        self.recursive_ctes += 1;
        let start = self.select(first, None)?;
        let mut itself = start.clone();
        for (column, slot) in itself.list.iter_mut().enumerate() {
            slot.value = slot.value.take().map(|_| Value::Recursive { cte: number, column });
        }
        itself.rename(names);
        self.ctes[slot].columns = CteColumns::Known(itself);
        let step = self.select(second, None)?;
        self.scope.levels.push(Level::default());
        self.tail(select)?;
        self.scope.levels.pop();
        self.forget_ctes(outer);
        Ok(self.settle_recursive(number, start, &step))
    }

    fn settle_recursive(&mut self, number: usize, start: Columns, step: &Columns) -> Columns {
        let columns = either(start.clone(), step);
        for (column, slot) in start.list.iter().enumerate() {
            if slot.value.is_none() {
                continue;
            }
            // Without a known value in the step the assumption must fail: an unsettled value makes it.
            let value = columns.at(column).cloned().unwrap_or(Value::Recursive { cte: usize::MAX, column });
            self.pins.recursive(number, column, value);
        }
        columns
    }

    /// A relation in FROM: a CTE or a table.
    pub fn range(&mut self, range: &RangeVar, group: GroupId) -> Checked<Relation> {
        self.relations_seen += 1;
        let (mut columns, schema) = match self.cte(range)? {
            Some(columns) => (columns, None),
            None => (self.table(range, group)?, Some(range.schemaname.clone())),
        };
        let Some(alias) = &range.alias else {
            let schema = schema.filter(|schema| !schema.is_empty());
            return Ok(Relation { name: range.relname.clone(), schema, columns });
        };
        columns.rename(&owned_strings(&alias.colnames));
        Ok(Relation { name: alias.aliasname.clone(), schema: None, columns })
    }

    fn cte(&self, range: &RangeVar) -> Checked<Option<Columns>> {
        if !range.schemaname.is_empty() {
            return Ok(None);
        }
        match self.ctes.iter().rev().find(|cte| cte.name == range.relname) {
            None => Ok(None),
            Some(Cte { columns: CteColumns::Known(columns), .. }) => Ok(Some(columns.clone())),
            Some(Cte { columns: CteColumns::Pending, name }) => Err(unsupported(
                format!("cannot prove what \"{name}\" holds"),
                "A WITH RECURSIVE query mentions itself outside the second arm of a UNION, or a query that comes later.",
                "Put the WITH queries in the order of their use.",
            )),
        }
    }

    /// A table that is read.
    fn table(&mut self, range: &RangeVar, group: GroupId) -> Checked<Columns> {
        let name = display(range);
        match self.names.relation(range)? {
            Found::Catalog => {
                self.tables.catalog.get_or_insert(name);
                Ok(Columns::open())
            }
            Found::Table(table) => {
                let scan = match table.class {
                    TableClass::Sharded => Some(self.pins.scan(name, range.location, group)),
                    TableClass::Reference => {
                        self.tables.reference_read.get_or_insert(name);
                        None
                    }
                    TableClass::Home => {
                        self.tables.home.get_or_insert(name);
                        None
                    }
                };
                Ok(self.columns_of(table, scan))
            }
        }
    }

    /// The columns of a table, with the key of `scan`.
    pub fn columns_of(&self, table: &crate::map::Table, scan: Option<super::pins::ScanId>) -> Columns {
        let key = self.names.key();
        let mut columns = Columns::default();
        for name in &table.columns {
            columns.push(&**name, scan.filter(|_| **name == *key).map(Value::Key));
        }
        columns.open = table.columns.is_empty();
        if let Some(scan) = scan
            && table.column(key).is_none()
        {
            // The snapshot's list is behind; that the table has the key is what makes it sharded.
            columns.push(key, Some(Value::Key(scan)));
            columns.open = true;
        }
        columns
    }

    /// Finds what is inside an expression that pins nothing.
    pub fn walk(&mut self, node: &NodeEnum, place: &'static str) -> Checked<()> {
        match node {
            NodeEnum::SubLink(link) => {
                if let Some(test) = inner_of(&link.testexpr) {
                    self.walk(test, place)?;
                }
                match inner_of(&link.subselect) {
                    Some(query) => self.query(query, None).map(drop),
                    None => Ok(()),
                }
            }
            NodeEnum::SelectStmt(select) => self.select(select, None).map(drop),
            NodeEnum::ColumnRef(_) => {
                if let Some(value) = self.column(node) {
                    self.pins.saw(&value, place);
                }
                Ok(())
            }
            NodeEnum::RangeVar(range) => Err(at(unproven("a relation"), range.location)),
            _ => {
                self.note_cast(node);
                let place = self.place_inside(node, place);
                children(node).into_iter().try_for_each(|child| self.walk(child, place))
            }
        }
    }

    /// A parameter under a cast has the cast's type, wherever it stands.
    fn note_cast(&mut self, node: &NodeEnum) {
        if let NodeEnum::TypeCast(cast) = node
            && let (Some(NodeEnum::ParamRef(parameter)), Some(name)) = (inner_of(&cast.arg), &cast.type_name)
            && let Some(family) = super::constants::family(name, false).or_else(|| super::constants::family(name, true))
        {
            self.pins.cast(parameter.location, family);
        }
    }

    fn place_inside(&self, node: &NodeEnum, place: &'static str) -> &'static str {
        match node {
            NodeEnum::CaseExpr(_) => "CASE",
            NodeEnum::FuncCall(_) => "a function's arguments",
            NodeEnum::BoolExpr(_) if place == "a condition" => "OR or NOT",
            _ => place,
        }
    }

    pub fn walk_list(&mut self, nodes: &[Node], place: &'static str) -> Checked<()> {
        nodes.iter().filter_map(inner).try_for_each(|node| self.walk(node, place))
    }

    pub fn walk_option(&mut self, node: &Option<Box<Node>>, place: &'static str) -> Checked<()> {
        inner_of(node).map_or(Ok(()), |node| self.walk(node, place))
    }

    /// What a column reference's value is known to be.
    pub fn column(&self, node: &NodeEnum) -> Option<Value> {
        let NodeEnum::ColumnRef(column) = node else { return None };
        let fields: Option<Vec<_>> = column.fields.iter().map(string).collect();
        self.scope.column(&fields?)
    }
}

/// The columns of a set operation: each value may come from either arm.
fn either(left: Columns, right: &Columns) -> Columns {
    let open = left.open || right.open || left.list.len() != right.list.len();
    let list = left.list.into_iter().zip(&right.list).map(|(left, right)| Column {
        name: left.name,
        value: left.value.zip(right.value.clone()).map(|(left, right)| left.or(right)),
    });
    Columns { list: list.collect(), open }
}

fn common_table(node: &NodeEnum) -> Option<&CommonTableExpr> {
    match node {
        NodeEnum::CommonTableExpr(cte) => Some(cte),
        _ => None,
    }
}

/// The name of an output column without AS: that of the column it is. Any other expression's name is of no use here.
fn implied_name(value: &NodeEnum) -> &str {
    match value {
        NodeEnum::ColumnRef(column) => column.fields.last().and_then(string).unwrap_or_default(),
        NodeEnum::TypeCast(cast) => inner_of(&cast.arg).map_or("", implied_name),
        _ => "",
    }
}
