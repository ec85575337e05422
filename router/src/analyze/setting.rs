//! `SELECT set_config('name', 'value', is_local)`: a session setting in a query's clothes.

use pg_query::NodeEnum;
use pg_query::protobuf::{AConst, FuncCall, Node, SelectStmt, SetOperation, a_const};

use super::census::{Census, Name};
use super::constants::{Constants, family};
use super::nodes::{inner, inner_of, string_constant, strings};
use super::pins::Family;
use crate::lexer::LiteralKind;
use crate::template::{SetAction, SetValue};

/// What set_config does in a statement.
pub enum Setting {
    /// It isn't called.
    None,
    /// One setting is set, exactly once; its name is that constant.
    Action(SetAction, u16),
    /// It is called where we can't follow.
    Hidden,
}

/// Recognises set_config in the select list of a SELECT that has nothing else to it.
pub fn set_config(node: &NodeEnum, census: &Census, constants: &Constants<'_>) -> Setting {
    match census.functions.iter().filter(|function| is_set_config(function)).count() {
        0 => Setting::None,
        1 => match node {
            NodeEnum::SelectStmt(select) if runs_once(select) => select
                .target_list
                .iter()
                .filter_map(call)
                .find_map(|call| action(call, constants))
                .map_or(Setting::Hidden, |(action, literal)| Setting::Action(action, literal)),
            _ => Setting::Hidden,
        },
        _ => Setting::Hidden,
    }
}

fn is_set_config(function: &Name) -> bool {
    function.name == "set_config" && matches!(function.schema.as_deref(), None | Some("pg_catalog"))
}

/// One row, for certain.
fn runs_once(select: &SelectStmt) -> bool {
    select.op == SetOperation::SetopNone as i32
        && select.from_clause.is_empty()
        && select.where_clause.is_none()
        && select.having_clause.is_none()
        && select.group_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.with_clause.is_none()
        && select.into_clause.is_none()
}

/// The select list's item, if it is a call of set_config.
fn call(target: &Node) -> Option<&FuncCall> {
    let NodeEnum::ResTarget(target) = inner(target)? else { return None };
    let NodeEnum::FuncCall(call) = inner_of(&target.val)? else { return None };
    matches!(strings(&call.funcname).as_slice(), ["set_config"] | ["pg_catalog", "set_config"]).then_some(&**call)
}

fn action(call: &FuncCall, constants: &Constants<'_>) -> Option<(SetAction, u16)> {
    let [name, value, local] = call.args.as_slice() else { return None };
    let name = uncast(inner(name)?)?;
    let NodeEnum::AConst(constant) = name else { return None };
    let (literal, _) = constants.literal(constant.location)?;
    plain(constants, literal)?;
    let name = string_constant(name)?.to_ascii_lowercase();
    let value = set_value(uncast(inner(value)?)?, constants)?;
    let local = boolean(inner(local)?)?;
    Some((SetAction { name: name.into(), local, value }, literal))
}

/// The text between the quotes is the value.
fn plain(constants: &Constants<'_>, literal: u16) -> Option<()> {
    let literal = constants.literals.get(usize::from(literal))?;
    let raw = constants.sql.get(literal.start as usize..literal.end as usize)?;
    let simple = matches!(literal.kind, LiteralKind::String | LiteralKind::EscapeString) && raw.starts_with('\'');
    (simple && !raw.contains('\\')).then_some(())
}

fn set_value(node: &NodeEnum, constants: &Constants<'_>) -> Option<SetValue> {
    match node {
        NodeEnum::AConst(AConst { isnull: true, .. }) => Some(SetValue::Default),
        NodeEnum::AConst(constant) => {
            string_constant(node)?;
            let (index, _) = constants.literal(constant.location)?;
            Some(SetValue::Literal { index })
        }
        NodeEnum::ParamRef(parameter) => Some(SetValue::Parameter { number: u16::try_from(parameter.number).ok()? }),
        _ => None,
    }
}

/// Looks through a cast to text.
fn uncast(node: &NodeEnum) -> Option<&NodeEnum> {
    match node {
        NodeEnum::TypeCast(cast) => {
            (family(cast.type_name.as_ref()?, false)? == Family::Text).then(|| inner_of(&cast.arg))?
        }
        other => Some(other),
    }
}

fn boolean(node: &NodeEnum) -> Option<bool> {
    match node {
        NodeEnum::AConst(AConst { val: Some(a_const::Val::Boolval(value)), .. }) => Some(value.boolval),
        _ => None,
    }
}
