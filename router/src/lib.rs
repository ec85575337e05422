//! Routing: SQL text and a snapshot of the shard map in, a [`Plan`] out. Pure: no I/O, no clock, no sibling crate.
//!
//! Read in this order:
//! 1. [`map`]: the shard map (slots, overrides, placements) and the schema (table classes), as one immutable snapshot;
//! 2. [`key`]: values of the sharding key, how they are read from text and binary, and PostgreSQL's own hash of them;
//! 3. [`lexer`]: one pass over a statement's text that takes its constants out; what is left is the *template*'s key;
//! 4. [`template`]: what is known of a template: where its sharding key stands, what it does to the session, or why it is refused;
//! 5. [`analyze`]: PostgreSQL's grammar (once per template) to a [`Template`];
//! 6. [`cache`]: template lookup without locks on a hit;
//! 7. [`plan`]: a template plus this execution's constants and parameters to a [`Plan`];
//! 8. [`explain`]: the same decision in words;
//! 9. [`copy`]: the rows of COPY … FROM STDIN, and each one's shard.

pub mod analyze;
pub mod cache;
pub mod copy;
pub mod explain;
pub mod key;
pub mod lexer;
pub mod map;
pub mod plan;
pub mod template;

pub use cache::{Router, SearchPath};
pub use key::{Key, KeyType};
pub use map::{Schema, ShardId, ShardMap};
pub use plan::{Format, Parameter, Parameters, Plan, Target};
pub use template::{Action, Refusal, Route, Statement, Template};
