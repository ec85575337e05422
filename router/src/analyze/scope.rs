//! What names mean at a place in a statement: the relations of each query level, and the CTEs in sight.

use super::pins::Value;

/// An output column of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// What is known of its value; None: nothing that can be used as a key.
    pub value: Option<Value>,
}

impl Column {
    fn lookup(&self) -> Lookup {
        self.value.clone().map_or(Lookup::Useless, Lookup::Value)
    }
}

/// The columns of a relation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    pub list: Vec<Column>,
    /// There may be others, at any position.
    pub open: bool,
}

impl Columns {
    /// Nothing is known.
    pub fn open() -> Self {
        Self { list: Vec::new(), open: true }
    }

    pub fn push(&mut self, name: impl Into<String>, value: Option<Value>) {
        self.list.push(Column { name: name.into(), value });
    }

    pub fn extend(&mut self, other: &Self) {
        self.list.extend(other.list.iter().cloned());
        self.open |= other.open;
    }

    /// The value of the column at `position`, if positions are known.
    pub fn at(&self, position: usize) -> Option<&Value> {
        if self.open { None } else { self.list.get(position)?.value.as_ref() }
    }

    pub fn named(&self, name: &str) -> Lookup {
        let mut found = self.list.iter().filter(|column| column.name == name);
        match (found.next(), found.next()) {
            (None, _) if self.open => Lookup::Maybe,
            (None, _) => Lookup::Absent,
            (Some(column), None) => column.lookup(),
            (Some(_), Some(_)) => Lookup::Useless,
        }
    }

    /// `AS alias (a, b, …)`: the first columns get other names.
    pub fn rename(&mut self, names: &[String]) {
        if self.open {
            // Positions are unknown, so that no name is safe.
            self.list.clear();
            return;
        }
        for (column, name) in self.list.iter_mut().zip(names) {
            column.name.clone_from(name);
        }
    }
}

/// The result of looking a column up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Value(Value),
    /// It is here, but nothing is known of its value.
    Useless,
    /// It may be here.
    Maybe,
    /// Not here: an outer level may have it.
    Absent,
}

/// A relation under the name that it has in its query.
#[derive(Debug, Clone, Default)]
pub struct Relation {
    pub name: String,
    /// The schema, if it can be mentioned with one (no alias).
    pub schema: Option<String>,
    pub columns: Columns,
}

/// An item of a FROM clause: a relation, or a tree of joins.
#[derive(Debug, Clone, Default)]
pub struct Item {
    pub relations: Vec<Relation>,
    /// The columns that USING and NATURAL merged: what their bare names mean.
    pub merged: Vec<Column>,
    /// What `*` stands for.
    pub star: Columns,
}

impl Item {
    pub fn relation(relation: Relation) -> Self {
        Self { star: relation.columns.clone(), relations: vec![relation], merged: Vec::new() }
    }

    /// A bare column name.
    pub fn bare(&self, name: &str) -> Lookup {
        if let Some(merged) = self.merged.iter().find(|column| column.name == name) {
            return merged.lookup();
        }
        self.relations.iter().fold(Lookup::Absent, |found, relation| found.or(relation.columns.named(name)))
    }
}

impl Lookup {
    /// Both places searched. A name that two relations have is ambiguous; one that a relation of unknown columns merely
    /// may have is not: the server would refuse the statement.
    fn or(self, next: Self) -> Self {
        match (self, next) {
            (Self::Absent, other) | (other, Self::Absent) | (Self::Maybe, other) | (other, Self::Maybe) => other,
            _ => Self::Useless,
        }
    }
}

/// One query level.
#[derive(Debug, Default)]
pub struct Level {
    pub items: Vec<Item>,
    /// Out of sight: a sub-select in FROM without LATERAL is being read.
    pub hidden: bool,
}

impl Level {
    fn bare(&self, name: &str) -> Lookup {
        self.items.iter().fold(Lookup::Absent, |found, item| found.or(item.bare(name)))
    }

    fn qualified(&self, schema: Option<&str>, relation: &str, column: &str) -> Lookup {
        let named = |candidate: &&Relation| {
            candidate.name == relation && schema.is_none_or(|schema| candidate.schema.as_deref() == Some(schema))
        };
        let mut found = self.items.iter().flat_map(|item| &item.relations).filter(named);
        match (found.next(), found.next()) {
            (None, _) => Lookup::Absent,
            // The name ends here, even if the column isn't there.
            (Some(relation), None) => match relation.columns.named(column) {
                Lookup::Absent => Lookup::Useless,
                other => other,
            },
            (Some(_), Some(_)) => Lookup::Useless,
        }
    }

    /// What `*` stands for at this level.
    pub fn star(&self) -> Columns {
        let mut columns = Columns::default();
        for item in &self.items {
            columns.extend(&item.star);
        }
        columns
    }

    /// What `relation.*` stands for.
    pub fn star_of(&self, relation: &str) -> Option<Columns> {
        let mut relations = self.items.iter().flat_map(|item| &item.relations);
        relations.find(|candidate| candidate.name == relation).map(|relation| relation.columns.clone())
    }
}

/// The query levels around a place, outermost first.
#[derive(Debug, Default)]
pub struct Scope {
    pub levels: Vec<Level>,
}

impl Scope {
    /// The value of a column reference: `[[schema.]relation.]column`.
    pub fn column(&self, fields: &[&str]) -> Option<Value> {
        for level in self.levels.iter().rev().filter(|level| !level.hidden) {
            let found = match *fields {
                [column] => level.bare(column),
                [relation, column] => level.qualified(None, relation, column),
                [schema, relation, column] => level.qualified(Some(schema), relation, column),
                _ => return None,
            };
            match found {
                Lookup::Value(value) => return Some(value),
                Lookup::Useless | Lookup::Maybe => return None,
                Lookup::Absent => {}
            }
        }
        None
    }

    /// Hides the innermost level, until [`Scope::unhide`] gets the result.
    pub fn hide(&mut self) -> Option<usize> {
        let level = self.levels.last_mut()?;
        let was_hidden = std::mem::replace(&mut level.hidden, true);
        (!was_hidden).then_some(self.levels.len() - 1)
    }

    pub fn unhide(&mut self, hidden: Option<usize>) {
        if let Some(level) = hidden.and_then(|at| self.levels.get_mut(at)) {
            level.hidden = false;
        }
    }
}

/// A CTE's name and what it gives.
#[derive(Debug, Clone)]
pub struct Cte {
    pub name: String,
    pub columns: CteColumns,
}

#[derive(Debug, Clone)]
pub enum CteColumns {
    Known(Columns),
    /// Not read yet: a forward or recursive reference in WITH RECURSIVE.
    Pending,
}
