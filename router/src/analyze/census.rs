//! What a parse tree holds, counted without knowing its shape.
//!
//! The typed analysis follows the clauses that it knows. This walk sees every node of the tree, whatever it hangs on, so
//! that a relation or a sub-select in a clause that the analysis has never heard of is noticed (and the statement
//! refused) instead of missed. It rides on the tree's serde implementation: a serializer that writes nothing.

use std::fmt::Display;

use serde::ser::{self, Serialize, Serializer};

/// A possibly qualified name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub schema: Option<String>,
    pub name: String,
}

/// What [`Census::of`] found.
#[derive(Debug, Default)]
pub struct Census {
    /// Mentions of relations (RangeVar nodes).
    pub relations: usize,
    /// SELECTs and VALUES lists, arms of set operations included.
    pub selects: usize,
    /// INSERT, UPDATE, DELETE and MERGE, those inside CTEs included.
    pub writes: usize,
    /// FOR UPDATE and its kin.
    pub locks: usize,
    /// DEFAULT where a value stands.
    pub defaults: usize,
    /// CURRENT_TIMESTAMP, CURRENT_USER and the other functions that have grammar of their own.
    pub sql_functions: usize,
    /// pg_prepared_statements is read.
    pub lists_prepared: bool,
    /// Functions that are called, in tree order.
    pub functions: Vec<Name>,
    /// Types that are named: casts, column definitions.
    pub types: Vec<String>,
    /// Parameters: number and byte position, in tree order.
    pub parameters: Vec<(i32, i32)>,
    collecting: Option<Vec<String>>,
    last_number: i64,
}

impl Census {
    pub fn of(tree: &impl Serialize) -> Self {
        let mut census = Self::default();
        // The serializer itself never fails, and the tree's implementations are derived.
        let walked = tree.serialize(&mut census);
        debug_assert!(walked.is_ok());
        census
    }

    fn enter(&mut self, node: &'static str) {
        match node {
            "RangeVar" => self.relations += 1,
            "SelectStmt" => self.selects += 1,
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => self.writes += 1,
            "LockingClause" => self.locks += 1,
            "SetToDefault" => self.defaults += 1,
            "SqlValueFunction" => self.sql_functions += 1,
            _ => {}
        }
    }

    fn strings_of<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<Vec<String>, Never> {
        let outer = self.collecting.replace(Vec::new());
        value.serialize(&mut *self)?;
        let strings = self.collecting.take().unwrap_or_default();
        self.collecting = outer;
        Ok(strings)
    }

    fn number_of<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<i32, Never> {
        self.last_number = 0;
        value.serialize(&mut *self)?;
        Ok(i32::try_from(self.last_number).unwrap_or(0))
    }

    fn field<T: ?Sized + Serialize>(&mut self, node: &str, key: &str, value: &T) -> Result<(), Never> {
        match (node, key) {
            ("FuncCall", "funcname") => {
                let mut names = self.strings_of(value)?;
                let name = names.pop().unwrap_or_default();
                self.functions.push(Name { schema: names.pop(), name });
            }
            ("RangeVar", "relname") => {
                let name = self.strings_of(value)?.pop().unwrap_or_default();
                self.lists_prepared |= name == "pg_prepared_statements";
            }
            ("TypeName", "names") => {
                let name = self.strings_of(value)?.pop().unwrap_or_default();
                self.types.push(name);
            }
            ("ParamRef", "number") => {
                let number = self.number_of(value)?;
                self.parameters.push((number, 0));
            }
            ("ParamRef", "location") => {
                let location = self.number_of(value)?;
                if let Some(parameter) = self.parameters.last_mut() {
                    parameter.1 = location;
                }
            }
            _ => value.serialize(&mut *self)?,
        }
        Ok(())
    }
}

/// The error that never happens.
#[derive(Debug)]
pub struct Never;

impl Display for Never {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the parse tree could not be walked")
    }
}

impl std::error::Error for Never {}

impl ser::Error for Never {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

/// A node whose fields are being walked.
pub struct Fields<'a> {
    census: &'a mut Census,
    node: &'static str,
}

/// Scalars that say nothing.
macro_rules! skip {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method(self, _: $type) -> Result<(), Never> { Ok(()) })*
    };
}

impl<'a> Serializer for &'a mut Census {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = Fields<'a>;
    type SerializeTuple = Fields<'a>;
    type SerializeTupleStruct = Fields<'a>;
    type SerializeTupleVariant = Fields<'a>;
    type SerializeMap = Fields<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    skip! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64, serialize_f32: f32, serialize_f64: f64, serialize_char: char, serialize_bytes: &[u8],
        serialize_unit_struct: &'static str,
    }

    fn serialize_i32(self, value: i32) -> Result<(), Never> {
        self.last_number = i64::from(value);
        Ok(())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Never> {
        self.last_number = value;
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Never> {
        if let Some(strings) = &mut self.collecting {
            strings.push(value.to_owned());
        }
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), Never> {
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Never> {
        Ok(())
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Never> {
        value.serialize(self)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Never> {
        Ok(())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, value: &T) -> Result<(), Never> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Never> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Fields<'a>, Never> {
        Ok(Fields { census: self, node: "" })
    }

    fn serialize_tuple(self, _: usize) -> Result<Fields<'a>, Never> {
        Ok(Fields { census: self, node: "" })
    }

    fn serialize_tuple_struct(self, node: &'static str, _: usize) -> Result<Fields<'a>, Never> {
        Ok(Fields { census: self, node })
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        node: &'static str,
        _: usize,
    ) -> Result<Fields<'a>, Never> {
        Ok(Fields { census: self, node })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Fields<'a>, Never> {
        Ok(Fields { census: self, node: "" })
    }

    fn serialize_struct(self, node: &'static str, _: usize) -> Result<Fields<'a>, Never> {
        self.enter(node);
        Ok(Fields { census: self, node })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        node: &'static str,
        _: usize,
    ) -> Result<Fields<'a>, Never> {
        self.enter(node);
        Ok(Fields { census: self, node })
    }
}

/// A container without named fields: every element is walked.
macro_rules! walk_elements {
    ($($container:ident: $method:ident),* $(,)?) => {
        $(impl ser::$container for Fields<'_> {
            type Ok = ();
            type Error = Never;

            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Never> {
                value.serialize(&mut *self.census)
            }

            fn end(self) -> Result<(), Never> {
                Ok(())
            }
        })*
    };
}

/// A container with named fields.
macro_rules! walk_fields {
    ($($container:ident),* $(,)?) => {
        $(impl ser::$container for Fields<'_> {
            type Ok = ();
            type Error = Never;

            fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Never> {
                self.census.field(self.node, key, value)
            }

            fn end(self) -> Result<(), Never> {
                Ok(())
            }
        })*
    };
}

walk_elements! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

walk_fields! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Fields<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Never> {
        key.serialize(&mut *self.census)
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Never> {
        value.serialize(&mut *self.census)
    }

    fn end(self) -> Result<(), Never> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(sql: &str) -> Census {
        Census::of(&pg_query::parse(sql, 0).expect("parses").protobuf)
    }

    #[test]
    fn counts_what_hides_in_odd_places() {
        let found = census(
            "WITH c AS (DELETE FROM a RETURNING (SELECT max(x) FROM b)) \
             SELECT xmlelement(name e, (SELECT f($2) FROM d)), s.g($1) OVER (ORDER BY (SELECT 1)) FROM c FOR UPDATE",
        );
        assert_eq!(found.relations, 4);
        assert_eq!(found.selects, 4);
        assert_eq!(found.writes, 1);
        assert_eq!(found.locks, 1);
        let names: Vec<_> = found.functions.iter().map(|f| (f.schema.as_deref(), f.name.as_str())).collect();
        assert_eq!(names, [(None, "f"), (Some("s"), "g"), (None, "max")]);
        assert_eq!(found.parameters.iter().map(|p| p.0).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn names_types_and_grammar_functions() {
        let found = census("SELECT 'x'::regclass, CURRENT_TIMESTAMP, CAST(1 AS pg_catalog.int8)");
        assert_eq!(found.types, ["regclass", "int8"]);
        assert_eq!(found.sql_functions, 1);
    }
}
