//! What is known of a statement's template, whatever its constants are.
//!
//! A **template** is a statement's text with its constants taken out (`lexer`). It is analysed once and then looked up;
//! everything that a request needs to know afterwards is in [`Template`], without a parse tree.

use std::borrow::Cow;

use crate::map::TableClass;

/// What one text (a simple query, or the text of a Parse message) holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// The statements in order. Empty for the empty query.
    pub statements: Box<[Statement]>,
    /// The byte spans of the statements can be taken from the lexer's separators: the grammar saw as many statements as
    /// the lexer did (`CREATE FUNCTION … BEGIN ATOMIC` holds semicolons of its own).
    pub spans_agree: bool,
    /// Constants (numbers from 0, in text order) whose *value* this analysis depends on, such as the name in
    /// `set_config('name', …)`: the cache hands the template only to texts that agree in them. All constants, where the
    /// text did not parse: the fault may be in a constant (`E'\uD800'`, `float(99)`), and others are innocent of it.
    /// Empty for nearly all statements. (The lexer already keeps the constants of utility statements in the template's
    /// key, so that options of COPY, EXPLAIN, SET or CREATE need no mention here.)
    pub fixed_literals: Box<[u16]>,
}

/// One statement of a template.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub route: Route,
    pub access: Access,
    pub action: Action,
    /// What executing it may leave behind on the server, beyond the transaction.
    pub residue: Residue,
    /// The statement cannot run inside a transaction block (VACUUM, CREATE INDEX CONCURRENTLY, CREATE DATABASE …).
    pub outside_transaction: bool,
}

/// Where a statement may run so that its answer equals what one PostgreSQL holding all rows would give.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// Any shard gives the right answer: no table at all, or only reference tables that are read.
    Any,
    /// The home shard: home tables, system catalogs, session-wide advisory locks; everything in an unsharded database.
    Home,
    /// Every sharded table is restricted to the keys listed; right on one shard if all these keys live there.
    Keyed(Box<[KeySource]>),
    /// Runs on every shard in one atomic commit: writes to reference tables, DDL.
    AllShards,
    /// Follows the shard on which the named cursor was declared.
    Cursor(Box<str>),
    /// Not provably right on one shard. Never broadcast.
    Refused(Box<Refusal>),
}

/// Where a value of the sharding key stands in the text or in the parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// Constant number `index` (from 0, in text order) of the lexer; `negated` if a minus sign belongs to it.
    Literal { index: u16, negated: bool, usage: KeyUsage },
    /// `$number` (from 1).
    Parameter { number: u16, usage: KeyUsage },
    /// `key = ANY ('{1,2}')`: an array constant.
    LiteralArray { index: u16 },
    /// `key = ANY ($number)`.
    ParameterArray { number: u16 },
    /// COPY … FROM STDIN: the key is column `column` (from 0) of the data stream.
    CopyColumn { column: u16 },
}

/// A NULL key filters every row away (any shard is right), but can't be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyUsage {
    Filter,
    Insert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Provably changes nothing: may be retried, needs no two-phase commit, may go to a replica.
    Read,
    Write,
}

/// What a statement may leave on the server's session that outlives its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Residue {
    /// Leaves something that can't be carried to another server: a temporary table, a WITH HOLD cursor, LISTEN, a session
    /// advisory lock, some SQL-level PREPAREs. The session keeps the server until it is gone.
    pub pins: bool,
    /// May remove such a thing (DROP, unlock, CLOSE, UNLISTEN, DEALLOCATE, DISCARD): worth asking the server again.
    pub may_unpin: bool,
    /// Runs code that we can't see into (DO, CALL, functions that are not PostgreSQL's own): may have changed settings or
    /// left anything. The server is reset before another session gets it.
    pub opaque: bool,
}

/// What the session has to do beyond sending the statement to where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// An ordinary statement.
    None,
    /// BEGIN or START TRANSACTION, with any modes. The text is replayed on each server that is enlisted.
    Begin,
    /// COMMIT or END. `chain`: AND CHAIN.
    Commit {
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        chain: bool,
    },
    Savepoint(Box<str>),
    Release(Box<str>),
    RollbackTo(Box<str>),
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED by the client.
    TwoPhase,
    /// SET, RESET, SET ROLE, SET SESSION AUTHORIZATION, SET TIME ZONE, SET TRANSACTION …: a session setting.
    Set(SetAction),
    /// DISCARD ALL.
    DiscardAll,
    /// DISCARD PLANS | SEQUENCES | TEMP.
    DiscardOther,
    /// LISTEN channel.
    Listen(Box<str>),
    /// UNLISTEN channel, or all (None).
    Unlisten(Option<Box<str>>),
    Notify,
    /// SQL-level PREPARE name. `leaves`: what each EXECUTE leaves. The statement's own residue says whether it pins: if not,
    /// its text prepares the same on any server.
    Prepare {
        name: Box<str>,
        leaves: Residue,
    },
    /// SQL-level EXECUTE name, also inside EXPLAIN and CREATE TABLE AS.
    Execute(Box<str>),
    /// Reads pg_prepared_statements.
    ShowPrepared,
    /// Calls pg_listening_channels().
    ShowChannels,
    /// DEALLOCATE name, or of all (None).
    Deallocate(Option<Box<str>>),
    /// DECLARE name CURSOR. `hold`: WITH HOLD.
    DeclareCursor {
        name: Box<str>,
        hold: bool,
    },
    /// CLOSE name, or of all (None).
    CloseCursor(Option<Box<str>>),
    CopyIn,
    CopyOut,
    /// DDL, and what it changes in the schema snapshot.
    Ddl(Box<[SchemaChange]>),
}

/// A session setting, as PostgreSQL's GUC name in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAction {
    /// `search_path`, `timezone`, `role`, `session_authorization`, …; `all` for RESET ALL;
    /// `transaction` for SET TRANSACTION (dies with the transaction).
    pub name: Box<str>,
    /// SET LOCAL, or `set_config(…, true)`: ends with the transaction.
    pub local: bool,
    pub value: SetValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetValue {
    /// The statement's own text sets it again on another server: SET name …
    Text,
    /// Back to the default: RESET name, SET name TO DEFAULT, RESET ALL.
    Default,
    /// `SELECT set_config('name', 'value', …)`: the value is constant number `index`.
    Literal { index: u16 },
    /// `SELECT set_config('name', $number, …)`.
    Parameter { number: u16 },
}

/// A change of the tables that the schema snapshot knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaChange {
    Create {
        schema: Option<Box<str>>,
        name: Box<str>,
        columns: Box<[Box<str>]>,
        class: TableClass,
        if_not_exists: bool,
    },
    Drop {
        schema: Option<Box<str>>,
        name: Box<str>,
    },
    /// Columns were added, dropped or renamed: read them again from a shard.
    Alter {
        schema: Option<Box<str>>,
        name: Box<str>,
    },
    Rename {
        schema: Option<Box<str>>,
        name: Box<str>,
        to: Box<str>,
    },
}

/// Why a statement can't be answered, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub sqlstate: Cow<'static, str>,
    pub message: String,
    pub detail: String,
    pub hint: String,
    /// Byte offset into the text, from 1 (PostgreSQL's field P counts characters: the sender converts); 0 = none.
    pub position: u32,
}
