//! Where each kind of statement belongs in a sharded database.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    DeclareCursorStmt, ExplainStmt, FetchStmt, TransactionStmt, TransactionStmtKind, VariableSetStmt,
};

use super::census::Census;
use super::constants::Constants;
use super::decide::decide;
use super::effects::executes;
use super::names::Names;
use super::nodes::inner_of;
use super::refuse::{Checked, not_sharded, unproven};
use super::{copy, ddl};
use crate::template::{Action, Route, SetAction, SetValue};

/// A statement's place.
pub struct Placed {
    pub route: Route,
    /// What the session has to do, where it is more than the statement's kind says.
    pub action: Option<Action>,
    /// The decision depends on the values of the text's constants.
    pub fixes_literals: bool,
}

impl Placed {
    pub fn at(route: Route) -> Self {
        Self { route, action: None, fixes_literals: false }
    }
}

const OWN_SERVER: &str = "Run it on each shard directly.";

pub fn place(node: &NodeEnum, names: Names<'_>, constants: Constants<'_>, census: &Census) -> Checked<Placed> {
    match node {
        NodeEnum::SelectStmt(select) if select.into_clause.is_some() => Err(create_table_as("SELECT INTO")),
        NodeEnum::SelectStmt(_)
        | NodeEnum::InsertStmt(_)
        | NodeEnum::UpdateStmt(_)
        | NodeEnum::DeleteStmt(_)
        | NodeEnum::MergeStmt(_) => query(node, names, constants, census),
        NodeEnum::TransactionStmt(transaction) => transaction_control(transaction),
        NodeEnum::VariableSetStmt(set) => setting(set),
        NodeEnum::VariableShowStmt(_)
        | NodeEnum::DiscardStmt(_)
        | NodeEnum::UnlistenStmt(_)
        | NodeEnum::DeallocateStmt(_) => Ok(Placed::at(Route::Any)),
        NodeEnum::ConstraintsSetStmt(_) => Ok(set_constraints()),
        NodeEnum::DeclareCursorStmt(declare) => declare_cursor(declare, names, constants, census),
        NodeEnum::FetchStmt(FetchStmt { portalname, .. }) => Ok(Placed::at(Route::Cursor(portalname.as_str().into()))),
        NodeEnum::ClosePortalStmt(close) if close.portalname.is_empty() => Ok(Placed::at(Route::Any)),
        NodeEnum::ClosePortalStmt(close) => Ok(Placed::at(Route::Cursor(close.portalname.as_str().into()))),
        NodeEnum::CopyStmt(copy) => copy::place(copy, names, constants, census),
        NodeEnum::ExplainStmt(explain) => self::explain(explain, names, constants, census),
        NodeEnum::CreateTableAsStmt(_) => Err(create_table_as("CREATE TABLE AS")),
        _ => match session_bound(node) {
            Some(refusal) => Err(refusal),
            None => ddl::place(node, names, constants),
        },
    }
}

fn query(node: &NodeEnum, names: Names<'_>, constants: Constants<'_>, census: &Census) -> Checked<Placed> {
    let decided = decide(names, constants, node, census)?;
    Ok(Placed { route: decided.route, action: None, fixes_literals: decided.fixes_literals })
}

fn transaction_control(transaction: &TransactionStmt) -> Checked<Placed> {
    match TransactionStmtKind::try_from(transaction.kind) {
        Ok(
            TransactionStmtKind::TransStmtPrepare
            | TransactionStmtKind::TransStmtCommitPrepared
            | TransactionStmtKind::TransStmtRollbackPrepared,
        ) => Err(not_sharded(
            "PREPARE TRANSACTION",
            "Two-phase commit over the shards is Sluice's own business.",
            "Use COMMIT: a transaction that wrote on several shards is committed atomically.",
        )),
        _ => Ok(Placed::at(Route::Any)),
    }
}

fn setting(set: &VariableSetStmt) -> Checked<Placed> {
    if set.name == "TRANSACTION SNAPSHOT" {
        return Err(not_sharded(
            "SET TRANSACTION SNAPSHOT",
            "A snapshot belongs to one shard.",
            "Use a transaction that is restricted to one key.",
        ));
    }
    Ok(Placed::at(Route::Any))
}

/// SET CONSTRAINTS lasts as long as the transaction, on every shard that it enlists: the session repeats the text there,
/// as it does with SET LOCAL.
fn set_constraints() -> Placed {
    let action = Action::Set(SetAction { name: "constraints".into(), local: true, value: SetValue::Text });
    Placed { action: Some(action), ..Placed::at(Route::Any) }
}

fn declare_cursor(
    declare: &DeclareCursorStmt,
    names: Names<'_>,
    constants: Constants<'_>,
    census: &Census,
) -> Checked<Placed> {
    if super::effects::holds(declare) {
        return Err(not_sharded(
            "DECLARE … WITH HOLD",
            "The cursor would live on one shard's session beyond the transaction.",
            "Declare it without HOLD, inside a transaction.",
        ));
    }
    match inner_of(&declare.query) {
        Some(node) => query(node, names, constants, census),
        None => Err(unproven("DECLARE")),
    }
}

fn explain(explain: &ExplainStmt, names: Names<'_>, constants: Constants<'_>, census: &Census) -> Checked<Placed> {
    let Some(node) = inner_of(&explain.query) else { return Err(unproven("EXPLAIN")) };
    let placed = match node {
        NodeEnum::SelectStmt(_)
        | NodeEnum::InsertStmt(_)
        | NodeEnum::UpdateStmt(_)
        | NodeEnum::DeleteStmt(_)
        | NodeEnum::MergeStmt(_)
        | NodeEnum::DeclareCursorStmt(_) => place(node, names, constants, census)?,
        _ => return Err(not_sharded("EXPLAIN of this kind of statement", "It is not a query.", "Explain a query.")),
    };
    match placed.route {
        Route::AllShards if executes(explain) => Err(not_sharded(
            "EXPLAIN ANALYZE of a write to a reference table",
            "It would have to run on every shard, and has one plan to show.",
            "Use EXPLAIN without ANALYZE.",
        )),
        Route::AllShards => Ok(Placed { route: Route::Home, ..placed }),
        _ => Ok(placed),
    }
}

fn create_table_as(what: &str) -> Box<crate::template::Refusal> {
    not_sharded(
        what,
        "Whether the new table's rows belong on one shard can't be seen from the query.",
        "Use CREATE TABLE, and INSERT … SELECT for each key.",
    )
}

/// Statements whose effect stays with one server or one session.
fn session_bound(node: &NodeEnum) -> Option<Box<crate::template::Refusal>> {
    let refusal = match node {
        NodeEnum::ListenStmt(_) | NodeEnum::NotifyStmt(_) => not_sharded(
            "LISTEN and NOTIFY",
            "A notification reaches only the sessions of one shard.",
            "Use them on a database of its own, which is not sharded.",
        ),
        NodeEnum::PrepareStmt(_) | NodeEnum::ExecuteStmt(_) => not_sharded(
            "SQL-level PREPARE and EXECUTE",
            "The prepared statement lives on one shard's session.",
            "Use the protocol's prepared statements, as drivers do by themselves.",
        ),
        NodeEnum::DoStmt(_) | NodeEnum::CallStmt(_) => not_sharded(
            "DO and CALL",
            "What the procedure reads and writes can't be seen.",
            "Send its statements one by one, or run it on a shard directly.",
        ),
        NodeEnum::LockStmt(_) => not_sharded(
            "LOCK TABLE",
            "The lock would be held on one shard only.",
            "Use SELECT … FOR UPDATE with the sharding key, or pg_advisory_xact_lock().",
        ),
        NodeEnum::VacuumStmt(_)
        | NodeEnum::ReindexStmt(_)
        | NodeEnum::ClusterStmt(_)
        | NodeEnum::RefreshMatViewStmt(_)
        | NodeEnum::CheckPointStmt(_)
        | NodeEnum::LoadStmt(_)
        | NodeEnum::AlterSystemStmt(_) => not_sharded(
            "maintenance of a server (VACUUM, ANALYZE, REINDEX, CLUSTER …)",
            "It acts on one server.",
            OWN_SERVER,
        ),
        NodeEnum::CreatedbStmt(_)
        | NodeEnum::DropdbStmt(_)
        | NodeEnum::AlterDatabaseStmt(_)
        | NodeEnum::AlterDatabaseSetStmt(_)
        | NodeEnum::AlterDatabaseRefreshCollStmt(_)
        | NodeEnum::CreateTableSpaceStmt(_)
        | NodeEnum::DropTableSpaceStmt(_)
        | NodeEnum::AlterTableSpaceOptionsStmt(_)
        | NodeEnum::CreateSubscriptionStmt(_)
        | NodeEnum::AlterSubscriptionStmt(_)
        | NodeEnum::DropSubscriptionStmt(_) => not_sharded(
            "administration of databases, tablespaces and subscriptions",
            "It acts on one server.",
            OWN_SERVER,
        ),
        _ => return None,
    };
    Some(refusal)
}
