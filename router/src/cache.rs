//! Template lookup: a map of this thread's own (no lock, no allocation on a hit) over one that all threads share.
//!
//! Hot path: runs once per query. What must not happen on a hit: allocation, a lock, a reference count shared by cores.
//!
//! Two texts share a template if their **keys** are equal: the lexer's text, and whatever else decides the analysis (the
//! schema's identity, the search_path, standard_conforming_strings). For the few templates that depend on the values of
//! constants ([`Template::fixed_literals`]), these values are appended to the key.
//!
//! - [`bounded`]: a map with a bound on entries and bytes, which both tiers are made of;
//! - [`familiar`]: texts that are recognised without lexing them;
//! - [`schemas`]: schemas as numbers that never alias;
//! - [`unparsed`]: what the grammar can't be asked about.

mod bounded;
mod familiar;
mod schemas;
mod unparsed;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::analyze;
use crate::lexer::{Literal, Normalized};
use crate::map::Schema;
use crate::template::Template;
use bounded::{Bounded, Slot};
use familiar::{Familiar, Scope};
use schemas::{LocalSchemas, SchemaId, SharedSchemas};

/// Longer keys are analysed every time: such statements hold many rows, and hardly two have the same number of them.
const LONGEST_CACHED: usize = 64 * 1024;

/// Bytes of keys allowed for each entry of the capacity, on average.
const BYTES_PER_ENTRY: usize = 2 * 1024;

/// A thread keeps no larger buffers than this from one statement to the next.
const LARGEST_BUFFER: usize = 256 * 1024;

/// Search paths that get a number. Beyond them, unqualified names are unknown rather than guessed.
const MOST_SEARCH_PATHS: usize = 100_000;

/// The session's search_path, as far as unqualified names need it: interned so that a lookup compares a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SearchPath {
    number: u32,
    /// Other schemas may stand before pg_catalog, so that functions of theirs hide PostgreSQL's own.
    names_pg_catalog: bool,
}

impl SearchPath {
    /// Names no schema.
    const EMPTY: Self = Self { number: u32::MAX, names_pg_catalog: true };
}

/// How a statement is analysed: [`analyze::analyze`], except in tests and benchmarks.
pub type Analyzer = fn(&Schema, &[String], SearchPath, &str, &Normalized) -> Template;

/// Templates of all databases of this process.
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    analyzer: Analyzer,
    capacity: usize,
    templates: Mutex<Tier>,
    schemas: Mutex<SharedSchemas>,
    search_paths: Mutex<SearchPaths>,
}

/// The lists behind [`SearchPath::number`].
struct SearchPaths {
    lists: Vec<Arc<[String]>>,
    numbers: HashMap<Arc<[String]>, u32>,
}

/// One tier of the cache.
struct Tier {
    templates: Bounded<Arc<Template>>,
    /// Key → the constants whose values have to be appended to find the template.
    dependencies: Bounded<Arc<[u16]>>,
}

/// What one thread keeps.
struct Local {
    /// Whose templates these are. A weak reference, which keeps the address from being used again.
    owner: Weak<Shared>,
    familiar: Familiar,
    tier: Tier,
    schemas: LocalSchemas,
    normalized: Normalized,
    key: Vec<u8>,
}

thread_local! {
    /// Taken out while in use, so that a lookup inside a lookup finds none and makes its own.
    static LOCAL: Cell<Option<Box<Local>>> = const { Cell::new(None) };
}

impl Router {
    /// `capacity`: templates kept, for all databases together.
    pub fn new(capacity: usize) -> Self {
        Self::with_analyzer(capacity, analyze::analyze)
    }

    /// A router with another analysis: for tests and benchmarks.
    pub fn with_analyzer(capacity: usize, analyzer: Analyzer) -> Self {
        let shared = Shared {
            analyzer,
            capacity,
            templates: Mutex::new(Tier::new(capacity)),
            schemas: Mutex::default(),
            search_paths: Mutex::new(SearchPaths::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Interns the list of schemas of a `search_path` (`"$user"` already replaced). The default path (`public`) is
    /// `SearchPath::default()`.
    pub fn search_path(&self, schemas: &[String]) -> SearchPath {
        match lock(&self.shared.search_paths).number(schemas) {
            Some(number) => {
                SearchPath { number, names_pg_catalog: schemas.iter().any(|schema| schema == "pg_catalog") }
            }
            None => SearchPath::EMPTY,
        }
    }

    /// The template of `sql`, and this text's constants and separators, lent for the length of `with`.
    /// `standard_strings`: the session's standard_conforming_strings.
    pub fn template<R>(
        &self,
        schema: &Arc<Schema>,
        path: SearchPath,
        standard_strings: bool,
        sql: &[u8],
        with: impl FnOnce(&Arc<Template>, &[Literal], &[u32]) -> R,
    ) -> R {
        let mut local = self.take_local();
        let request =
            Request { shared: &self.shared, schema, path: relevant_path(schema, path), standard_strings, sql };
        let result = local.template(&request, with);
        LOCAL.set(Some(local));
        result
    }

    fn take_local(&self) -> Box<Local> {
        match LOCAL.take() {
            Some(local) if Weak::as_ptr(&local.owner) == Arc::as_ptr(&self.shared) => local,
            _ => Box::new(Local::new(&self.shared)),
        }
    }
}

/// One lookup's question.
struct Request<'a> {
    shared: &'a Arc<Shared>,
    schema: &'a Arc<Schema>,
    path: SearchPath,
    standard_strings: bool,
    sql: &'a [u8],
}

/// Without table classes, the path matters only if it can hide PostgreSQL's own functions: an unsharded database with a
/// schema for each tenant has one set of templates, not thousands.
#[inline]
fn relevant_path(schema: &Schema, path: SearchPath) -> SearchPath {
    if schema.sharding.is_none() && !path.names_pg_catalog { SearchPath::default() } else { path }
}

impl Local {
    fn new(owner: &Arc<Shared>) -> Self {
        Self {
            owner: Arc::downgrade(owner),
            familiar: Familiar::default(),
            tier: Tier::new(owner.capacity),
            schemas: LocalSchemas::default(),
            normalized: Normalized::default(),
            key: Vec::new(),
        }
    }

    #[inline]
    fn template<R>(&mut self, request: &Request<'_>, with: impl FnOnce(&Arc<Template>, &[Literal], &[u32]) -> R) -> R {
        let scope = Scope { schema: self.schemas.id(request.schema, &request.shared.schemas), path: request.path };
        if request.standard_strings
            && let Some(template) = self.familiar.find(scope, request.sql, &mut self.normalized)
        {
            return with(template, &self.normalized.literals, &self.normalized.separators);
        }
        self.look_up(request, scope, with)
    }

    fn look_up<R>(
        &mut self,
        request: &Request<'_>,
        scope: Scope,
        with: impl FnOnce(&Arc<Template>, &[Literal], &[u32]) -> R,
    ) -> R {
        self.normalized.run(request.sql, request.standard_strings);
        let result = match self.find(request, scope.schema) {
            Some(slot) => {
                let template = self.tier.templates.get(slot);
                if request.standard_strings {
                    self.familiar.keep(scope, request.sql, &self.normalized, template);
                }
                with(template, &self.normalized.literals, &self.normalized.separators)
            }
            None => {
                let template = self.miss(request, scope.schema);
                with(&template, &self.normalized.literals, &self.normalized.separators)
            }
        };
        self.limit_buffers();
        result
    }

    /// Looks in this thread's tier; leaves the key of the template in `self.key`.
    #[inline]
    fn find(&mut self, request: &Request<'_>, schema: SchemaId) -> Option<Slot> {
        self.begin_key(schema, request);
        loop {
            if let Some(slot) = self.tier.templates.find(&self.key) {
                return Some(slot);
            }
            let dependencies = self.tier.dependencies.find(&self.key)?;
            append_values(
                &mut self.key,
                self.tier.dependencies.get(dependencies),
                &self.normalized.literals,
                request.sql,
            );
        }
    }

    /// The text's length comes first, so that no part of the key can be taken for another.
    #[inline]
    fn begin_key(&mut self, schema: SchemaId, request: &Request<'_>) {
        self.key.clear();
        self.key.extend_from_slice(&(self.normalized.text.len() as u32).to_ne_bytes());
        self.key.extend_from_slice(&schema.to_ne_bytes());
        self.key.extend_from_slice(&request.path.number.to_ne_bytes());
        self.key.push(u8::from(request.standard_strings));
        self.key.extend_from_slice(&self.normalized.text);
    }

    /// Finds the template in the shared tier, or makes it.
    #[cold]
    fn miss(&mut self, request: &Request<'_>, schema: SchemaId) -> Arc<Template> {
        let Ok(text) = std::str::from_utf8(request.sql) else {
            // Not cached: the fault may be in a constant, and the template belongs to texts without it, too.
            return Arc::new(unparsed::not_utf8(request.schema));
        };
        if self.key.len() > LONGEST_CACHED {
            return Arc::new(self.analyze(request, text));
        }
        self.begin_key(schema, request);
        let mut appended = Vec::new();
        if let Some(template) = self.find_shared(request, &mut appended) {
            return template;
        }
        let template = Arc::new(self.analyze(request, text));
        self.keep(request, &template, &appended);
        template
    }

    /// Looks in the shared tier and copies what it finds to this thread's. `appended`: the constants in the key.
    fn find_shared(&mut self, request: &Request<'_>, appended: &mut Vec<u16>) -> Option<Arc<Template>> {
        let mut shared = lock(&request.shared.templates);
        loop {
            if let Some(slot) = shared.templates.find(&self.key) {
                let (key, template) = shared.templates.entry(slot);
                self.tier.templates.insert(key.clone(), template.clone());
                return Some(template.clone());
            }
            let slot = shared.dependencies.find(&self.key)?;
            let (key, constants) = shared.dependencies.entry(slot);
            self.tier.dependencies.insert(key.clone(), constants.clone());
            append_values(&mut self.key, constants, &self.normalized.literals, request.sql);
            appended.extend_from_slice(constants);
        }
    }

    fn analyze(&self, request: &Request<'_>, text: &str) -> Template {
        let search_path = lock(&request.shared.search_paths).list(request.path);
        let readable = unparsed::with_standard_strings(text, &self.normalized.literals, request.standard_strings);
        (request.shared.analyzer)(request.schema, &search_path, request.path, &readable, &self.normalized)
    }

    /// Puts a new template into both tiers, under a key with all constants that it depends on.
    fn keep(&mut self, request: &Request<'_>, template: &Arc<Template>, appended: &[u16]) {
        let mut shared = lock(&request.shared.templates);
        let missing = template.fixed_literals.iter().filter(|constant| !appended.contains(constant));
        let missing: Arc<[u16]> = missing.copied().collect();
        if !missing.is_empty() {
            let key: Arc<[u8]> = self.key.as_slice().into();
            shared.dependencies.insert(key.clone(), missing.clone());
            self.tier.dependencies.insert(key, missing.clone());
            append_values(&mut self.key, &missing, &self.normalized.literals, request.sql);
        }
        let key: Arc<[u8]> = self.key.as_slice().into();
        shared.templates.insert(key.clone(), template.clone());
        self.tier.templates.insert(key, template.clone());
    }

    fn limit_buffers(&mut self) {
        if self.normalized.text.capacity() > LARGEST_BUFFER || self.normalized.literals.capacity() > LARGEST_BUFFER / 16
        {
            self.normalized = Normalized::default();
        }
        if self.key.capacity() > LARGEST_BUFFER {
            self.key = Vec::new();
        }
    }
}

/// Appends the constants' values, each after its length.
fn append_values(key: &mut Vec<u8>, constants: &[u16], literals: &[Literal], sql: &[u8]) {
    for &constant in constants {
        let value = literals.get(usize::from(constant)).map_or(&[][..], |literal| literal.raw(sql));
        key.extend_from_slice(&(value.len() as u32).to_ne_bytes());
        key.extend_from_slice(value);
    }
}

impl Tier {
    fn new(capacity: usize) -> Self {
        let bytes = capacity.saturating_mul(BYTES_PER_ENTRY);
        Self { templates: Bounded::new(capacity, bytes), dependencies: Bounded::new(capacity, bytes) }
    }
}

impl SearchPaths {
    fn new() -> Self {
        let public: Arc<[String]> = Arc::new([String::from("public")]);
        Self { lists: vec![public.clone()], numbers: HashMap::from([(public, 0)]) }
    }

    /// None: there are too many.
    fn number(&mut self, schemas: &[String]) -> Option<u32> {
        if let Some(&number) = self.numbers.get(schemas) {
            return Some(number);
        }
        if self.lists.len() == MOST_SEARCH_PATHS {
            return None;
        }
        let number = self.lists.len() as u32;
        let list: Arc<[String]> = schemas.into();
        self.lists.push(list.clone());
        self.numbers.insert(list, number);
        Some(number)
    }

    fn list(&self, path: SearchPath) -> Arc<[String]> {
        self.lists.get(path.number as usize).cloned().unwrap_or_default()
    }
}

/// What these locks guard is whole after every step: a panic elsewhere in its holder is no reason to fail.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
