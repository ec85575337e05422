//! Constants and parameters that can be keys.

use pg_query::NodeEnum;
use pg_query::protobuf::{AArrayExpr, AConst, ParamRef, TypeName, a_const};

use super::nodes::{inner, inner_of, strings};
use super::pins::{Constant, Family, Value};
use crate::key::KeyType;
use crate::lexer::{Literal, LiteralKind};
use crate::template::{KeySource, KeyUsage};

/// Finds the lexer's constants at the positions that the grammar gives.
#[derive(Clone, Copy)]
pub struct Constants<'a> {
    pub sql: &'a str,
    pub literals: &'a [Literal],
    pub key_type: KeyType,
}

impl<'a> Constants<'a> {
    /// The first constant that may be date and time input for "when this runs": it means another time on each shard.
    pub fn clock(&self) -> Option<&'a str> {
        let others = self.literals.iter().filter(|literal| literal.kind != LiteralKind::Integer);
        let mut texts = others.map(|literal| &self.sql[literal.start as usize..literal.end as usize]);
        texts.find(|text| names_clock(text))
    }

    /// The key that `node` is: a constant or parameter, bare or under one cast to the key's family of types.
    pub fn scalar(&self, node: &NodeEnum) -> Option<Value> {
        match node {
            NodeEnum::AConst(constant) => self.constant(constant, None),
            NodeEnum::ParamRef(parameter) => self.parameter(parameter, Family::Plain),
            NodeEnum::TypeCast(cast) => {
                let family = family(cast.type_name.as_ref()?, false)?;
                match inner_of(&cast.arg)? {
                    NodeEnum::AConst(constant) if self.fits(family) => self.constant(constant, Some(family)),
                    NodeEnum::ParamRef(parameter) if self.fits(family) => self.parameter(parameter, family),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The keys in the array that `node` is: `'{1,2}'`, `$1`, `ARRAY[1, $2]`, each bare or under one cast.
    pub fn array(&self, node: &NodeEnum) -> Option<Value> {
        match node {
            NodeEnum::AConst(constant) => self.array_constant(constant),
            NodeEnum::ParamRef(parameter) => array_parameter(parameter, Family::Plain),
            NodeEnum::AArrayExpr(array) => self.elements(array),
            NodeEnum::TypeCast(cast) => {
                let family = family(cast.type_name.as_ref()?, true)?;
                if !self.fits(family) {
                    return None;
                }
                match inner_of(&cast.arg)? {
                    NodeEnum::AConst(constant) => self.array_constant(constant),
                    NodeEnum::ParamRef(parameter) => array_parameter(parameter, family),
                    NodeEnum::AArrayExpr(array) => self.elements(array),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn elements(&self, array: &AArrayExpr) -> Option<Value> {
        let values: Option<Vec<_>> = array.elements.iter().map(|element| self.scalar(inner(element)?)).collect();
        values.map(Value::OneOf)
    }

    fn fits(&self, family: Family) -> bool {
        match self.key_type {
            KeyType::Int => family == Family::Int,
            KeyType::Uuid => family == Family::Uuid,
            KeyType::Text => family == Family::Text,
        }
    }

    fn constant(&self, constant: &AConst, cast: Option<Family>) -> Option<Value> {
        if constant.isnull {
            return Some(Value::Constants(Vec::new()));
        }
        let number = matches!(constant.val, Some(a_const::Val::Ival(_) | a_const::Val::Fval(_)));
        let string = matches!(constant.val, Some(a_const::Val::Sval(_)));
        // A number is no text or uuid, and a cast of it to text would be spelled by PostgreSQL.
        if !(string || number && self.key_type == KeyType::Int) {
            return None;
        }
        let (index, negated) = self.literal(constant.location)?;
        let source = KeySource::Literal { index, negated, usage: KeyUsage::Filter };
        let family = cast.unwrap_or(Family::Plain);
        Some(Value::Constants(vec![Constant { source, location: constant.location, family }]))
    }

    fn parameter(&self, parameter: &ParamRef, family: Family) -> Option<Value> {
        let number = parameter_number(parameter)?;
        let source = KeySource::Parameter { number, usage: KeyUsage::Filter };
        Some(Value::Constants(vec![Constant { source, location: parameter.location, family }]))
    }

    fn array_constant(&self, constant: &AConst) -> Option<Value> {
        if !matches!(constant.val, Some(a_const::Val::Sval(_))) {
            return None;
        }
        let (index, _) = self.literal(constant.location)?;
        let source = KeySource::LiteralArray { index };
        Some(Value::Constants(vec![Constant { source, location: constant.location, family: Family::Plain }]))
    }

    /// The number of the constant that starts at byte `location`, and whether a minus sign there belongs to it (the
    /// grammar folds the sign into the constant, and gives the sign's position).
    pub fn literal(&self, location: i32) -> Option<(u16, bool)> {
        let location = u32::try_from(location).ok()?;
        let at = self.literals.partition_point(|literal| literal.start < location);
        let literal = self.literals.get(at)?;
        let index = u16::try_from(at).ok()?;
        if literal.start == location {
            return Some((index, false));
        }
        let before = self.sql.as_bytes().get(location as usize..literal.start as usize)?;
        let (sign, rest) = before.split_first()?;
        let number = matches!(literal.kind, LiteralKind::Integer | LiteralKind::Number);
        (number && *sign == b'-' && rest.iter().all(u8::is_ascii_whitespace)).then_some((index, true))
    }
}

fn array_parameter(parameter: &ParamRef, family: Family) -> Option<Value> {
    let source = KeySource::ParameterArray { number: parameter_number(parameter)? };
    Some(Value::Constants(vec![Constant { source, location: parameter.location, family }]))
}

fn parameter_number(parameter: &ParamRef) -> Option<u16> {
    u16::try_from(parameter.number).ok().filter(|&number| number > 0)
}

/// The family of types that a cast names, if a value keeps its meaning under it. A length limit may cut the value.
pub fn family(name: &TypeName, array: bool) -> Option<Family> {
    if name.array_bounds.len() != usize::from(array) || !name.typmods.is_empty() || name.setof || name.pct_type {
        return None;
    }
    let names = strings(&name.names);
    let bare = match names.as_slice() {
        [bare] | ["pg_catalog", bare] => *bare,
        _ => return None,
    };
    match bare {
        "int2" | "int4" | "int8" => Some(Family::Int),
        "text" | "varchar" => Some(Family::Text),
        "uuid" => Some(Family::Uuid),
        _ => None,
    }
}

/// Whether a text holds one of the words that PostgreSQL's date and time input takes from the clock.
fn names_clock(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_ascii_alphabetic());
    words.any(|word| ["now", "today", "tomorrow", "yesterday"].iter().any(|clock| word.eq_ignore_ascii_case(clock)))
}
