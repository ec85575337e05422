//! Conditions: which equalities of the sharding key must hold for a row to count.

use pg_query::NodeEnum;
use pg_query::protobuf::{AExpr, AExprKind, BoolExpr, BoolExprType, Node, SubLink, SubLinkType};

use super::from::transparent;
use super::nodes::{inner, inner_of, is_equals, list};
use super::pins::{GroupId, ScanId, Value};
use super::query::Query;
use super::refuse::Checked;

/// `scan.key = value`.
type Equality = (ScanId, Value);

const COMPARED: &str = "a comparison with an expression";

impl Query<'_> {
    /// WHERE, or ON of the joins whose rows `group` holds.
    pub fn condition(&mut self, condition: Option<&Node>, group: GroupId) -> Checked<()> {
        let Some(condition) = condition.and_then(inner) else { return Ok(()) };
        for (scan, value) in self.equalities(condition, Some(group))? {
            self.pins.fact(group, scan, value);
        }
        Ok(())
    }

    /// `left = right` holds in `group`.
    pub fn equal(&mut self, left: Value, right: Value, group: GroupId) {
        for (scan, value) in both_ways(left, right) {
            self.pins.fact(group, scan, value);
        }
    }

    /// The equalities that hold wherever `node` is true. `group`: the condition is one of those that a row of the group
    /// must fulfil, so that it reaches into the sub-select of an IN.
    fn equalities(&mut self, node: &NodeEnum, group: Option<GroupId>) -> Checked<Vec<Equality>> {
        match node {
            NodeEnum::BoolExpr(bool) => self.bool_equalities(bool, node, group),
            NodeEnum::AExpr(expr) if is_equals(&expr.name) => self.comparison(expr, node),
            NodeEnum::SubLink(link) => self.in_sub_select(link, node, group),
            _ => {
                self.walk(node, "a condition")?;
                Ok(Vec::new())
            }
        }
    }

    fn bool_equalities(&mut self, bool: &BoolExpr, node: &NodeEnum, group: Option<GroupId>) -> Checked<Vec<Equality>> {
        let mut arms = bool.args.iter().filter_map(inner);
        match BoolExprType::try_from(bool.boolop) {
            Ok(BoolExprType::AndExpr) => {
                let mut all = Vec::new();
                for arm in arms {
                    all.extend(self.equalities(arm, group)?);
                }
                Ok(all)
            }
            Ok(BoolExprType::OrExpr) => {
                let Some(first) = arms.next() else { return Ok(Vec::new()) };
                let mut common = self.equalities(first, None)?;
                for arm in arms {
                    let next = self.equalities(arm, None)?;
                    common = self.in_both(common, &next);
                }
                Ok(common)
            }
            _ => {
                self.walk(node, "a condition")?;
                Ok(Vec::new())
            }
        }
    }

    /// After OR, a key is one of the values that the arms give it, if each arm gives one.
    fn in_both(&mut self, left: Vec<Equality>, right: &[Equality]) -> Vec<Equality> {
        let mut common = Vec::new();
        for (scan, value) in left {
            match right.iter().find(|(other, _)| *other == scan) {
                Some((_, other)) => common.push((scan, value.or(other.clone()))),
                None => self.pins.saw(&Value::Key(scan), "one arm of an OR"),
            }
        }
        for (scan, _) in right {
            if common.iter().all(|(other, _)| other != scan) {
                self.pins.saw(&Value::Key(*scan), "one arm of an OR");
            }
        }
        common
    }

    /// `a = b`, `(a, b) = (c, d)`, `a IN (…)`, `a = ANY (…)`.
    fn comparison(&mut self, expr: &AExpr, node: &NodeEnum) -> Checked<Vec<Equality>> {
        let (Some(left), Some(right)) = (inner_of(&expr.lexpr), inner_of(&expr.rexpr)) else {
            self.walk(node, COMPARED)?;
            return Ok(Vec::new());
        };
        match AExprKind::try_from(expr.kind) {
            Ok(AExprKind::AexprOp) => self.equals(left, right),
            Ok(AExprKind::AexprIn) => self.in_list(left, right),
            Ok(AExprKind::AexprOpAny) => self.any_of(left, right),
            _ => {
                self.walk(node, "a comparison other than equality")?;
                Ok(Vec::new())
            }
        }
    }

    fn equals(&mut self, left: &NodeEnum, right: &NodeEnum) -> Checked<Vec<Equality>> {
        let (left, right) = (self.operands(left)?, self.operands(right)?);
        Ok(self.pairs(&left, &right))
    }

    /// Equalities column by column.
    fn pairs(&mut self, left: &[Option<Value>], right: &[Option<Value>]) -> Vec<Equality> {
        let mut equalities = Vec::new();
        for (left, right) in left.iter().zip(right) {
            match (left, right) {
                (Some(left), Some(right)) => {
                    self.type_parameters(left, right);
                    equalities.extend(both_ways(left.clone(), right.clone()));
                }
                (Some(key), None) | (None, Some(key)) => self.pins.saw(key, COMPARED),
                (None, None) => {}
            }
        }
        equalities
    }

    /// A bare parameter beside a key column is of the key's type.
    fn type_parameters(&mut self, left: &Value, right: &Value) {
        if of_key_type(left) {
            self.pins.typed(right);
        }
        if of_key_type(right) {
            self.pins.typed(left);
        }
    }

    fn in_list(&mut self, left: &NodeEnum, right: &NodeEnum) -> Checked<Vec<Equality>> {
        let left = self.operands(left)?;
        let mut columns: Vec<Option<Vec<Value>>> = vec![Some(Vec::new()); left.len()];
        for item in list(right).unwrap_or_default().iter().filter_map(inner) {
            let mut values = self.operands(item)?.into_iter();
            for column in &mut columns {
                *column = column.take().zip(values.next().flatten()).map(|(mut values, value)| {
                    values.push(value);
                    values
                });
            }
        }
        let right: Vec<_> = columns.into_iter().map(|column| column.map(Value::OneOf)).collect();
        Ok(self.pairs(&left, &right))
    }

    fn any_of(&mut self, left: &NodeEnum, right: &NodeEnum) -> Checked<Vec<Equality>> {
        let left = self.operand(left, COMPARED)?;
        let array = self.constants.array(right);
        // Also where the array is constant: it may hold casts of parameters.
        self.walk(right, COMPARED)?;
        Ok(self.pairs(&[left], &[array]))
    }

    /// `a IN (SELECT …)`, `(a, b) IN (SELECT …)`, `a = ANY (SELECT …)`.
    fn in_sub_select(&mut self, link: &SubLink, node: &NodeEnum, group: Option<GroupId>) -> Checked<Vec<Equality>> {
        let is_in = link.sub_link_type == SubLinkType::AnySublink as i32
            && (link.oper_name.is_empty() || is_equals(&link.oper_name));
        let (true, Some(test), Some(query)) = (is_in, inner_of(&link.testexpr), inner_of(&link.subselect)) else {
            self.walk(node, "a condition")?;
            return Ok(Vec::new());
        };
        let left = self.operands(test)?;
        let parent = group.filter(|_| transparent(query));
        let columns = self.query(query, parent)?;
        let right: Vec<_> = (0..left.len()).map(|at| columns.at(at).cloned()).collect();
        Ok(self.pairs(&left, &right))
    }

    /// The values of an operand: of each item, if it is a row.
    fn operands(&mut self, node: &NodeEnum) -> Checked<Vec<Option<Value>>> {
        match node {
            NodeEnum::RowExpr(row) => {
                row.args.iter().filter_map(inner).map(|item| self.operand(item, COMPARED)).collect()
            }
            _ => Ok(vec![self.operand(node, COMPARED)?]),
        }
    }

    /// What an expression's value is known to be: a column, a constant, a parameter, or a sub-select's only column.
    pub fn operand(&mut self, node: &NodeEnum, place: &'static str) -> Checked<Option<Value>> {
        if let NodeEnum::ColumnRef(_) = node {
            return Ok(self.column(node));
        }
        if let NodeEnum::SubLink(link) = node
            && link.sub_link_type == SubLinkType::ExprSublink as i32
            && let Some(query) = inner_of(&link.subselect)
        {
            return Ok(self.query(query, None)?.at(0).cloned());
        }
        let constant = self.constants.scalar(node);
        self.walk(node, place)?;
        Ok(constant)
    }
}

/// `scan.key = value` for each side that is a key.
fn both_ways(left: Value, right: Value) -> Vec<Equality> {
    let mut equalities = Vec::new();
    if let Value::Key(scan) = left {
        equalities.push((scan, right.clone()));
    }
    if let Value::Key(scan) = right {
        equalities.push((scan, left));
    }
    equalities
}

/// Whether the value comes from a key column, so that it has the key's type.
fn of_key_type(value: &Value) -> bool {
    match value {
        Value::Key(_) | Value::Recursive { .. } => true,
        Value::Constants(_) => false,
        Value::OneOf(values) => values.iter().any(of_key_type),
    }
}
