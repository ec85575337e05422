//! Which sharded tables are restricted to which keys.
//!
//! The rule that everything here serves: a statement may run on one shard if every sharded table that it scans is
//! *pinned*, that is, if no row whose key is outside a known set K can change the statement's result, and all keys of K
//! live on that shard.
//!
//! Each query level's FROM clause is a tree of *groups*: the tables that are joined by inner joins share a group, the
//! nullable side of an outer join is a child of it. A condition belongs to the group that it filters (WHERE to the root,
//! ON of an outer join to the nullable side). An equality that belongs to a group discards every combination of that
//! group's rows for which it isn't true, and, being strict, every combination in which a child group was filled with
//! NULLs; so it pins tables of its own group and of the groups below, but never a table beside or above. The *value* that
//! a table is compared with may come from anywhere, as long as it is itself constant or the key of a pinned table.
//!
//! An equality of a table on a nullable side that belongs to a group above turns the outer join into an inner one (the
//! rows that were filled with NULLs fail it), so that the conditions of that side reach as far as its own.

use std::collections::{HashMap, HashSet};

use crate::template::{KeySource, KeyUsage};

/// A scan of a sharded table, by its number in [`Pins`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScanId(usize);

/// A group of joined tables, by its number in [`Pins`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupId(usize);

/// How a parameter's type is written where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Not at all: it takes the key column's type.
    Plain,
    Int,
    Text,
    Uuid,
}

/// A constant or parameter that can be a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    pub source: KeySource,
    /// Byte position of the constant; identifies this mention of a parameter.
    pub location: i32,
    pub family: Family,
}

/// What is known of an expression's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The key column of a scan (or NULL, where an outer join found no row).
    Key(ScanId),
    /// One of these. Empty: NULL.
    Constants(Vec<Constant>),
    /// One of these.
    OneOf(Vec<Value>),
    /// Column `column` of the recursive CTE number `cte`, inside itself.
    Recursive { cte: usize, column: usize },
}

struct Scan {
    /// As the client wrote it, for messages.
    table: String,
    location: i32,
    group: GroupId,
    /// Where the key was mentioned without pinning the table.
    seen: Option<&'static str>,
}

/// `scan.key = value` in `group`.
struct Fact {
    group: GroupId,
    scan: ScanId,
    value: Value,
}

/// A scan that isn't pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpinned {
    pub table: String,
    pub location: i32,
    pub seen: Option<&'static str>,
    /// The parameter whose type is not certain, if that is what stands in the way.
    pub parameter: Option<u16>,
}

/// The scans of a statement, and what restricts them.
#[derive(Default)]
pub struct Pins {
    scans: Vec<Scan>,
    /// The parent of each group.
    groups: Vec<Option<GroupId>>,
    facts: Vec<Fact>,
    /// Keys that must live on the shard too: those that are written.
    demands: Vec<Value>,
    /// For each recursive CTE and column: the value that both arms give.
    recursive: HashMap<(usize, usize), Value>,
    /// Mentions of parameters whose type the place implies.
    typed: HashMap<i32, Family>,
    /// All mentions of parameters.
    mentions: Vec<(i32, i32)>,
}

impl Pins {
    pub fn new(mentions: Vec<(i32, i32)>) -> Self {
        Self { mentions, ..Self::default() }
    }

    /// A new group below `parent`; without a parent it is out of reach of all conditions but its own.
    pub fn group(&mut self, parent: Option<GroupId>) -> GroupId {
        self.groups.push(parent);
        GroupId(self.groups.len() - 1)
    }

    pub fn scan(&mut self, table: String, location: i32, group: GroupId) -> ScanId {
        self.scans.push(Scan { table, location, group, seen: None });
        ScanId(self.scans.len() - 1)
    }

    /// Number of scans.
    pub fn scans(&self) -> usize {
        self.scans.len()
    }

    /// The name of the first sharded table.
    pub fn first_table(&self) -> Option<&str> {
        self.scans.first().map(|scan| scan.table.as_str())
    }

    /// Remembers that the key of `scan` was mentioned in `place`, where it pins nothing.
    pub fn saw(&mut self, value: &Value, place: &'static str) {
        if let Value::Key(scan) = value {
            self.scans[scan.0].seen.get_or_insert(place);
        }
    }

    pub fn fact(&mut self, group: GroupId, scan: ScanId, value: Value) {
        self.facts.push(Fact { group, scan, value });
    }

    /// `value` is written to a key column.
    pub fn demand(&mut self, value: Value) {
        self.demands.push(value);
    }

    pub fn recursive(&mut self, cte: usize, column: usize, value: Value) {
        self.recursive.insert((cte, column), value);
    }

    /// The place of these parameters gives them the key's type.
    pub fn typed(&mut self, value: &Value) {
        match value {
            Value::Constants(constants) => {
                for constant in constants {
                    self.typed.entry(constant.location).or_insert(constant.family);
                }
            }
            Value::OneOf(values) => values.iter().for_each(|value| self.typed(value)),
            Value::Key(_) | Value::Recursive { .. } => {}
        }
    }

    /// A parameter at `location` is cast to a type of `family`.
    pub fn cast(&mut self, location: i32, family: Family) {
        self.typed.insert(location, family);
    }

    /// The keys that the statement needs to be on one shard, or a scan that isn't pinned.
    pub fn resolve(&self) -> Result<Vec<KeySource>, Unpinned> {
        let mut assumed: HashSet<(usize, usize)> = self.recursive.keys().copied().collect();
        loop {
            let solution = self.solve(&assumed);
            let broken: Vec<_> = assumed.iter().filter(|at| !solution.settled(&self.recursive[at])).copied().collect();
            if broken.is_empty() {
                return self.collect(&solution);
            }
            for at in broken {
                assumed.remove(&at);
            }
        }
    }

    /// Pins scan after scan until nothing more follows. `assumed`: columns of recursive CTEs that are taken for settled
    /// (by induction over the iterations; [`Pins::resolve`] checks the step).
    fn solve(&self, assumed: &HashSet<(usize, usize)>) -> Solution {
        let reach = self.reach();
        let mut solution = Solution {
            pinned: vec![None; self.scans.len()],
            assumed: assumed.clone(),
            uncertain: self.uncertain_parameters(),
        };
        loop {
            let mut changed = false;
            for (index, fact) in self.facts.iter().enumerate() {
                let scan = fact.scan.0;
                if solution.pinned[scan].is_none()
                    && self.contains(reach[fact.group.0], self.scans[scan].group)
                    && solution.settled(&fact.value)
                {
                    solution.pinned[scan] = Some(index);
                    changed = true;
                }
            }
            if !changed {
                return solution;
            }
        }
    }

    /// For each group, the group that its conditions filter: itself, or one above if the outer join between is an inner
    /// one in effect.
    fn reach(&self) -> Vec<GroupId> {
        let mut inner = vec![false; self.groups.len()];
        for fact in &self.facts {
            let below = self.scans[fact.scan.0].group;
            if self.contains(fact.group, below) {
                self.up_from(below).take_while(|group| *group != fact.group).for_each(|group| inner[group.0] = true);
            }
        }
        let reach = |group| self.up_from(group).find(|group| !inner[group.0] || self.groups[group.0].is_none());
        (0..self.groups.len()).map(|group| reach(GroupId(group)).unwrap_or(GroupId(group))).collect()
    }

    /// The group, its parent, and so on.
    fn up_from(&self, group: GroupId) -> impl Iterator<Item = GroupId> {
        std::iter::successors(Some(group), |group| self.groups[group.0])
    }

    fn collect(&self, solution: &Solution) -> Result<Vec<KeySource>, Unpinned> {
        let mut sources = Sources::default();
        for (scan, pin) in self.scans.iter().zip(&solution.pinned) {
            let Some(fact) = pin else { return Err(self.unpinned(scan, solution)) };
            add_sources(&self.facts[*fact].value, &mut sources);
        }
        for demand in &self.demands {
            if !solution.settled(demand) {
                return Err(self.unsettled(demand, solution));
            }
            add_sources(demand, &mut sources);
        }
        // A recursive column hides the constants that its arms give it.
        for at in &solution.assumed {
            add_sources(&self.recursive[at], &mut sources);
        }
        Ok(sources.list)
    }

    fn unpinned(&self, scan: &Scan, solution: &Solution) -> Unpinned {
        let parameter = self
            .facts
            .iter()
            .filter(|fact| std::ptr::eq(&self.scans[fact.scan.0], scan))
            .find_map(|fact| solution.uncertain_in(&fact.value));
        Unpinned { table: scan.table.clone(), location: scan.location, seen: scan.seen, parameter }
    }

    /// A written key that is not settled: it names a scan that isn't pinned, which [`Pins::collect`] met first, or a
    /// parameter of uncertain type.
    fn unsettled(&self, demand: &Value, solution: &Solution) -> Unpinned {
        let parameter = solution.uncertain_in(demand);
        let table = self.first_table().unwrap_or_default().to_owned();
        Unpinned { table, location: 0, seen: None, parameter }
    }

    /// Whether `inner` is `outer` or below it.
    fn contains(&self, outer: GroupId, inner: GroupId) -> bool {
        self.up_from(inner).any(|group| group == outer)
    }

    /// Parameters of which some mention doesn't say what type they have. The server takes the type from whichever mention
    /// it analyses first, and a binary value can only be read if the type is certain.
    fn uncertain_parameters(&self) -> HashSet<i32> {
        let mut families: HashMap<i32, Family> = HashMap::new();
        let mut uncertain = HashSet::new();
        for &(number, location) in &self.mentions {
            match self.typed.get(&location) {
                None => {
                    uncertain.insert(number);
                }
                Some(Family::Plain) => {}
                Some(&family) => {
                    if *families.entry(number).or_insert(family) != family {
                        uncertain.insert(number);
                    }
                }
            }
        }
        uncertain
    }
}

struct Solution {
    /// For each scan: the fact that pins it.
    pinned: Vec<Option<usize>>,
    assumed: HashSet<(usize, usize)>,
    uncertain: HashSet<i32>,
}

impl Solution {
    /// Whether `value` is one of the keys known, or NULL, wherever it matters.
    fn settled(&self, value: &Value) -> bool {
        match value {
            Value::Key(scan) => self.pinned[scan.0].is_some(),
            Value::Constants(_) => self.uncertain_in(value).is_none(),
            Value::OneOf(values) => values.iter().all(|value| self.settled(value)),
            Value::Recursive { cte, column } => self.assumed.contains(&(*cte, *column)),
        }
    }

    fn uncertain_in(&self, value: &Value) -> Option<u16> {
        match value {
            Value::Constants(constants) => constants.iter().find_map(|constant| match constant.source {
                KeySource::Parameter { number, .. } | KeySource::ParameterArray { number } => {
                    self.uncertain.contains(&i32::from(number)).then_some(number)
                }
                _ => None,
            }),
            Value::OneOf(values) => values.iter().find_map(|value| self.uncertain_in(value)),
            Value::Key(_) | Value::Recursive { .. } => None,
        }
    }
}

fn add_sources<'a>(value: &'a Value, sources: &mut Sources<'a>) {
    match value {
        Value::Constants(constants) => constants.iter().for_each(|constant| sources.add(&constant.source)),
        Value::OneOf(values) => values.iter().for_each(|value| add_sources(value, sources)),
        Value::Key(_) | Value::Recursive { .. } => {}
    }
}

/// Key sources in order, each once.
#[derive(Default)]
struct Sources<'a> {
    list: Vec<KeySource>,
    seen: HashSet<&'a KeySource>,
}

impl<'a> Sources<'a> {
    fn add(&mut self, source: &'a KeySource) {
        if self.seen.insert(source) {
            self.list.push(source.clone());
        }
    }
}

impl Value {
    /// One of the two. Stays flat, however many rows or arms there are.
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::OneOf(mut values) => {
                values.push(other);
                Self::OneOf(values)
            }
            first => Self::OneOf(vec![first, other]),
        }
    }

    /// The same value where it is stored instead of compared: a NULL is an error there.
    pub fn stored(self) -> Self {
        match self {
            Self::Constants(constants) => Self::Constants(
                constants
                    .into_iter()
                    .map(|constant| Constant { source: stored(constant.source), ..constant })
                    .collect(),
            ),
            Self::OneOf(values) => Self::OneOf(values.into_iter().map(Self::stored).collect()),
            other => other,
        }
    }
}

fn stored(source: KeySource) -> KeySource {
    match source {
        KeySource::Literal { index, negated, .. } => KeySource::Literal { index, negated, usage: KeyUsage::Insert },
        KeySource::Parameter { number, .. } => KeySource::Parameter { number, usage: KeyUsage::Insert },
        other => other,
    }
}
