//! Small functions over the parse tree's nodes.

use pg_query::protobuf::{List, Node, a_const};
use pg_query::{NodeEnum, protobuf};

/// The node inside, if any.
pub fn inner(node: &Node) -> Option<&NodeEnum> {
    node.node.as_ref()
}

pub fn inner_of(node: &Option<Box<Node>>) -> Option<&NodeEnum> {
    node.as_deref().and_then(inner)
}

/// The text of a String node.
pub fn string(node: &Node) -> Option<&str> {
    match inner(node)? {
        NodeEnum::String(string) => Some(&string.sval),
        _ => None,
    }
}

/// The texts of a list of String nodes.
pub fn strings(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().filter_map(string).collect()
}

pub fn owned_strings(nodes: &[Node]) -> Vec<String> {
    nodes.iter().filter_map(string).map(str::to_owned).collect()
}

/// The items of a List node.
pub fn list(node: &NodeEnum) -> Option<&[Node]> {
    match node {
        NodeEnum::List(List { items }) => Some(items),
        _ => None,
    }
}

/// The value of a string constant.
pub fn string_constant(node: &NodeEnum) -> Option<&str> {
    match node {
        NodeEnum::AConst(protobuf::AConst { val: Some(a_const::Val::Sval(string)), .. }) => Some(&string.sval),
        _ => None,
    }
}

/// Whether an operator's name is PostgreSQL's own `=`.
pub fn is_equals(name: &[Node]) -> bool {
    matches!(strings(name).as_slice(), ["="] | ["pg_catalog", "="])
}

/// The column that `name` in a list of targets assigns, if it is a whole column.
pub fn target(node: &Node) -> Option<&protobuf::ResTarget> {
    match inner(node)? {
        NodeEnum::ResTarget(target) => Some(target),
        _ => None,
    }
}

/// The sub-expressions of an expression. Kinds that aren't listed have none that could hold a sub-select; if that is
/// wrong, the census finds more relations than the analysis, and the statement is refused.
pub fn children(node: &NodeEnum) -> Vec<&NodeEnum> {
    let mut found = Vec::new();
    collect_children(node, &mut found);
    found
}

fn all<'a>(nodes: &'a [Node], found: &mut Vec<&'a NodeEnum>) {
    found.extend(nodes.iter().filter_map(inner));
}

fn one<'a>(node: &'a Option<Box<Node>>, found: &mut Vec<&'a NodeEnum>) {
    found.extend(inner_of(node));
}

fn collect_children<'a>(node: &'a NodeEnum, found: &mut Vec<&'a NodeEnum>) {
    match node {
        NodeEnum::AExpr(e) => {
            one(&e.lexpr, found);
            one(&e.rexpr, found);
        }
        NodeEnum::BoolExpr(e) => all(&e.args, found),
        NodeEnum::NullTest(e) => one(&e.arg, found),
        NodeEnum::BooleanTest(e) => one(&e.arg, found),
        NodeEnum::CaseExpr(e) => {
            one(&e.arg, found);
            all(&e.args, found);
            one(&e.defresult, found);
        }
        NodeEnum::CaseWhen(e) => {
            one(&e.expr, found);
            one(&e.result, found);
        }
        NodeEnum::CoalesceExpr(e) => all(&e.args, found),
        NodeEnum::MinMaxExpr(e) => all(&e.args, found),
        NodeEnum::FuncCall(e) => {
            all(&e.args, found);
            all(&e.agg_order, found);
            one(&e.agg_filter, found);
            if let Some(window) = &e.over {
                window_children(window, found);
            }
        }
        NodeEnum::WindowDef(e) => window_children(e, found),
        NodeEnum::AArrayExpr(e) => all(&e.elements, found),
        NodeEnum::RowExpr(e) => all(&e.args, found),
        NodeEnum::TypeCast(e) => one(&e.arg, found),
        NodeEnum::CollateClause(e) => one(&e.arg, found),
        NodeEnum::AIndirection(e) => {
            one(&e.arg, found);
            all(&e.indirection, found);
        }
        NodeEnum::AIndices(e) => {
            one(&e.lidx, found);
            one(&e.uidx, found);
        }
        NodeEnum::GroupingFunc(e) => all(&e.args, found),
        NodeEnum::GroupingSet(e) => all(&e.content, found),
        NodeEnum::MultiAssignRef(e) => one(&e.source, found),
        NodeEnum::NamedArgExpr(e) => one(&e.arg, found),
        NodeEnum::ResTarget(e) => {
            all(&e.indirection, found);
            one(&e.val, found);
        }
        NodeEnum::SortBy(e) => one(&e.node, found),
        NodeEnum::IndexElem(e) => one(&e.expr, found),
        NodeEnum::List(e) => all(&e.items, found),
        _ => special_children(node, found),
    }
}

/// XML and JSON syntax.
fn special_children<'a>(node: &'a NodeEnum, found: &mut Vec<&'a NodeEnum>) {
    match node {
        NodeEnum::XmlExpr(e) => {
            all(&e.named_args, found);
            all(&e.args, found);
        }
        NodeEnum::XmlSerialize(e) => one(&e.expr, found),
        NodeEnum::RangeTableFunc(e) => {
            one(&e.docexpr, found);
            one(&e.rowexpr, found);
            all(&e.namespaces, found);
            all(&e.columns, found);
        }
        NodeEnum::RangeTableFuncCol(e) => {
            one(&e.colexpr, found);
            one(&e.coldefexpr, found);
        }
        NodeEnum::JsonValueExpr(e) => one(&e.raw_expr, found),
        NodeEnum::JsonKeyValue(e) => {
            one(&e.key, found);
            found.extend(e.value.iter().filter_map(|value| inner_of(&value.raw_expr)));
        }
        NodeEnum::JsonObjectConstructor(e) => all(&e.exprs, found),
        NodeEnum::JsonArrayConstructor(e) => all(&e.exprs, found),
        NodeEnum::JsonIsPredicate(e) => one(&e.expr, found),
        NodeEnum::JsonArgument(e) => found.extend(e.val.iter().filter_map(|value| inner_of(&value.raw_expr))),
        NodeEnum::JsonFuncExpr(e) => {
            found.extend(e.context_item.iter().filter_map(|value| inner_of(&value.raw_expr)));
            one(&e.pathspec, found);
            all(&e.passing, found);
        }
        _ => {}
    }
}

fn window_children<'a>(window: &'a protobuf::WindowDef, found: &mut Vec<&'a NodeEnum>) {
    all(&window.partition_clause, found);
    all(&window.order_clause, found);
    one(&window.start_offset, found);
    one(&window.end_offset, found);
}
