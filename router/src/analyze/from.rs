//! FROM clauses: joins and their groups, sub-selects, LATERAL.

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, JoinExpr, JoinType, Node, RangeFunction, RangeSubselect, SelectStmt, SetOperation};

use super::nodes::{inner, inner_of, owned_strings};
use super::pins::GroupId;
use super::query::Query;
use super::refuse::{Checked, unproven, unsupported};
use super::scope::{Column, Columns, Item, Level, Lookup, Relation};

impl Query<'_> {
    /// Reads the items of a FROM clause into the innermost level, where LATERAL items see those before them.
    pub fn read_from(&mut self, items: &[Node], group: GroupId) -> Checked<()> {
        for item in items.iter().filter_map(inner) {
            let item = self.read_item(item, group)?;
            self.add_item(item);
        }
        Ok(())
    }

    pub fn add_item(&mut self, item: Item) {
        if let Some(level) = self.scope.levels.last_mut() {
            level.items.push(item);
        }
    }

    pub fn read_item(&mut self, item: &NodeEnum, group: GroupId) -> Checked<Item> {
        match item {
            NodeEnum::RangeVar(range) => Ok(Item::relation(self.range(range, group)?)),
            NodeEnum::RangeSubselect(sub) => Ok(Item::relation(self.subselect(sub, group)?)),
            NodeEnum::JoinExpr(join) => self.join(join, group),
            NodeEnum::RangeFunction(function) => self.range_function(function),
            NodeEnum::RangeTableSample(sample) => {
                self.walk_list(&sample.args, "TABLESAMPLE")?;
                self.walk_option(&sample.repeatable, "TABLESAMPLE")?;
                match inner_of(&sample.relation) {
                    Some(relation) => self.sampled(relation, group),
                    None => Err(unproven("TABLESAMPLE")),
                }
            }
            NodeEnum::RangeTableFunc(function) => {
                self.walk(item, "a function's arguments")?;
                Ok(Item::relation(aliased(Columns::open(), function.alias.as_ref())))
            }
            _ => Err(unproven("this item of a FROM clause")),
        }
    }

    fn sampled(&mut self, relation: &NodeEnum, group: GroupId) -> Checked<Item> {
        let before = self.pins.scans();
        let item = self.read_item(relation, group)?;
        if self.pins.scans() == before {
            return Ok(item);
        }
        Err(unsupported(
            "TABLESAMPLE of a sharded table is not supported",
            "A sample is taken of a whole table, and one shard holds only a part of it.",
            "Sample in the condition instead: WHERE … AND random() < 0.01.",
        ))
    }

    fn subselect(&mut self, sub: &RangeSubselect, group: GroupId) -> Checked<Relation> {
        let Some(query) = inner_of(&sub.subquery) else { return Err(unproven("this sub-select")) };
        let hidden = if sub.lateral { None } else { self.scope.hide() };
        let parent = transparent(query).then_some(group);
        let columns = self.query(query, parent)?;
        self.scope.unhide(hidden);
        Ok(aliased(columns, sub.alias.as_ref()))
    }

    /// A function in FROM sees the items before it, with or without LATERAL.
    fn range_function(&mut self, function: &RangeFunction) -> Checked<Item> {
        self.walk_list(&function.functions, "a function's arguments")?;
        Ok(Item::relation(aliased(Columns::open(), function.alias.as_ref())))
    }

    fn join(&mut self, join: &JoinExpr, group: GroupId) -> Checked<Item> {
        let kind = JoinType::try_from(join.jointype).unwrap_or(JoinType::Undefined);
        let (left_group, right_group, condition_group) = match kind {
            JoinType::JoinInner => (group, group, Some(group)),
            JoinType::JoinLeft => {
                let nullable = self.pins.group(Some(group));
                (group, nullable, Some(nullable))
            }
            JoinType::JoinRight => {
                let nullable = self.pins.group(Some(group));
                (nullable, group, Some(nullable))
            }
            JoinType::JoinFull => (self.pins.group(Some(group)), self.pins.group(Some(group)), None),
            _ => return Err(unproven("this kind of join")),
        };
        let (Some(left), Some(right)) = (inner_of(&join.larg), inner_of(&join.rarg)) else {
            return Err(unproven("this join"));
        };
        let left = self.read_item(left, left_group)?;
        let right = self.right_side(right, right_group, &left)?;
        if join.is_natural && (left.star.open || right.star.open) {
            return Err(unproven("a NATURAL JOIN with a relation whose columns are not known"));
        }
        let merged = self.merged(join, kind, &left, &right, condition_group);
        let item = joined(left, right, merged);
        self.join_condition(join, &item, condition_group)?;
        Ok(renamed(item, join))
    }

    /// The right side of a join sees the left one if it is LATERAL.
    fn right_side(&mut self, right: &NodeEnum, group: GroupId, left: &Item) -> Checked<Item> {
        self.add_item(left.clone());
        let right = self.read_item(right, group);
        if let Some(level) = self.scope.levels.last_mut() {
            level.items.pop();
        }
        right
    }

    /// The columns that USING or NATURAL merges. Each is an equality of the two sides.
    fn merged(
        &mut self,
        join: &JoinExpr,
        kind: JoinType,
        left: &Item,
        right: &Item,
        group: Option<GroupId>,
    ) -> Vec<Column> {
        let names = if join.is_natural { common_names(left, right) } else { owned_strings(&join.using_clause) };
        let mut merged = Vec::new();
        for name in names {
            let (left, right) = (value_of(left, &name), value_of(right, &name));
            let value = match kind {
                JoinType::JoinInner | JoinType::JoinLeft => left.clone(),
                JoinType::JoinRight => right.clone(),
                _ => None,
            };
            if let (Some(left), Some(right), Some(group)) = (left, right, group) {
                self.equal(left, right, group);
            }
            merged.push(Column { name, value });
        }
        merged
    }

    /// ON sees the two sides and the outer levels, but not the items before the join.
    fn join_condition(&mut self, join: &JoinExpr, item: &Item, group: Option<GroupId>) -> Checked<()> {
        let Some(condition) = &join.quals else { return Ok(()) };
        let hidden = self.scope.hide();
        self.scope.levels.push(Level { items: vec![item.clone()], hidden: false });
        match (group, inner(condition)) {
            (Some(group), _) => self.condition(Some(condition), group)?,
            (None, Some(condition)) => self.walk(condition, "ON of a FULL JOIN")?,
            (None, None) => {}
        }
        self.scope.levels.pop();
        self.scope.unhide(hidden);
        Ok(())
    }
}

fn value_of(item: &Item, name: &str) -> Option<super::pins::Value> {
    match item.bare(name) {
        Lookup::Value(value) => Some(value),
        _ => None,
    }
}

fn common_names(left: &Item, right: &Item) -> Vec<String> {
    let in_right = |name: &String| right.star.list.iter().any(|column| column.name == *name);
    left.star.list.iter().map(|column| column.name.clone()).filter(in_right).collect()
}

/// Both sides as one item; `*` gives the merged columns first.
fn joined(left: Item, right: Item, merged: Vec<Column>) -> Item {
    let mut star = Columns { list: merged.clone(), open: false };
    for side in [&left.star, &right.star] {
        let rest = side.list.iter().filter(|column| merged.iter().all(|merged| merged.name != column.name));
        star.list.extend(rest.cloned());
        star.open |= side.open;
    }
    let mut names = merged;
    for column in left.merged.into_iter().chain(right.merged) {
        if names.iter().all(|merged| merged.name != column.name) {
            names.push(column);
        }
    }
    let relations = left.relations.into_iter().chain(right.relations).collect();
    Item { relations, merged: names, star }
}

/// `(a JOIN b …) AS alias` hides a and b; `USING (…) AS alias` adds a name for the merged columns.
fn renamed(mut item: Item, join: &JoinExpr) -> Item {
    if let Some(alias) = &join.join_using_alias {
        let count = join.using_clause.len();
        let columns = Columns { list: item.star.list.iter().take(count).cloned().collect(), open: false };
        item.relations.push(Relation { name: alias.aliasname.clone(), schema: None, columns });
    }
    match &join.alias {
        Some(alias) => Item::relation(aliased(item.star, Some(alias))),
        None => item,
    }
}

fn aliased(mut columns: Columns, alias: Option<&Alias>) -> Relation {
    let Some(alias) = alias else { return Relation { columns, ..Relation::default() } };
    columns.rename(&owned_strings(&alias.colnames));
    Relation { name: alias.aliasname.clone(), schema: None, columns }
}

/// Whether conditions on the sub-select's output may be moved inside it: it filters and joins, and nothing else. Then
/// the outer query's conditions pin its tables too.
pub fn transparent(query: &NodeEnum) -> bool {
    let NodeEnum::SelectStmt(select) = query else { return false };
    transparent_clauses(select) && select.target_list.iter().filter_map(inner).all(transparent_target)
}

fn transparent_clauses(select: &SelectStmt) -> bool {
    select.op == SetOperation::SetopNone as i32
        && select.values_lists.is_empty()
        && select.with_clause.is_none()
        && select.distinct_clause.is_empty()
        && select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.window_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.locking_clause.is_empty()
}

/// An aggregate, a window function or a set-returning function would see the rows before the outer condition.
fn transparent_target(target: &NodeEnum) -> bool {
    let NodeEnum::ResTarget(target) = target else { return false };
    match inner_of(&target.val) {
        Some(NodeEnum::TypeCast(cast)) => {
            matches!(inner_of(&cast.arg), Some(NodeEnum::ColumnRef(_) | NodeEnum::AConst(_)))
        }
        Some(value) => matches!(value, NodeEnum::ColumnRef(_) | NodeEnum::AConst(_) | NodeEnum::ParamRef(_)),
        None => false,
    }
}
