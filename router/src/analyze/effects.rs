//! What a statement does to the session, wherever it runs: the same in sharded and unsharded databases.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    CopyStmt, DeclareCursorStmt, DiscardMode, ReindexObjectType, ReindexStmt, TransactionStmt, TransactionStmtKind,
    VariableSetKind, VariableSetStmt,
};

use super::census::Census;
use super::constants::Constants;
use super::decide::lookup;
use super::functions::Reach;
use super::nodes::inner_of;
use super::setting::{self, Setting};
use crate::template::{Access, Action, Residue, SetAction, SetValue};

/// DECLARE … WITH HOLD (parsenodes.h, CURSOR_OPT_HOLD).
const CURSOR_OPT_HOLD: i32 = 0x0020;

/// What the session must know of a statement.
pub struct Effects {
    pub access: Access,
    pub action: Action,
    pub residue: Residue,
    pub outside_transaction: bool,
    /// The constant whose value the action depends on.
    pub fixed_literal: Option<u16>,
}

pub fn effects(node: &NodeEnum, census: &Census, constants: &Constants<'_>) -> Effects {
    let mut effects = Effects {
        access: access(node, census),
        action: action(node),
        residue: residue(node, constants.sql),
        outside_transaction: outside_transaction(node),
        fixed_literal: None,
    };
    match setting::set_config(node, census, constants) {
        Setting::None => {}
        Setting::Action(action, literal) => {
            effects.action = Action::Set(action);
            effects.fixed_literal = Some(literal);
        }
        Setting::Hidden => {
            effects.residue.opaque = true;
            effects.residue.pins = true;
        }
    }
    note_functions(census, &mut effects.residue);
    if let Action::Prepare { leaves, .. } = &mut effects.action
        && !effects.residue.pins
    {
        *leaves = std::mem::take(&mut effects.residue);
    }
    if effects.action == Action::None {
        effects.action = shown(census);
    }
    effects
}

/// What of the session a query lists, which the server it runs on would not know.
fn shown(census: &Census) -> Action {
    let calls = |name: &str| census.functions.iter().any(|function| function.name == name);
    if census.lists_prepared || calls("pg_prepared_statement") {
        Action::ShowPrepared
    } else if calls("pg_listening_channels") {
        Action::ShowChannels
    } else {
        Action::None
    }
}

/// Read only if nothing in the statement may change anything.
fn access(node: &NodeEnum, census: &Census) -> Access {
    let read = match node {
        NodeEnum::SelectStmt(select) => select.into_clause.is_none() && reads_only(census),
        NodeEnum::DeclareCursorStmt(_) => reads_only(census),
        NodeEnum::CopyStmt(copy) => !copy.is_from && to_client(copy) && reads_only(census),
        NodeEnum::ExplainStmt(explain) => !executes(explain) || reads_only(census) && explains_query(explain),
        NodeEnum::TransactionStmt(transaction) => !decides(transaction),
        NodeEnum::VariableSetStmt(_)
        | NodeEnum::VariableShowStmt(_)
        | NodeEnum::FetchStmt(_)
        | NodeEnum::ClosePortalStmt(_)
        | NodeEnum::DiscardStmt(_)
        | NodeEnum::ConstraintsSetStmt(_)
        | NodeEnum::ListenStmt(_)
        | NodeEnum::UnlistenStmt(_)
        | NodeEnum::PrepareStmt(_)
        | NodeEnum::DeallocateStmt(_) => true,
        _ => false,
    };
    if read { Access::Read } else { Access::Write }
}

fn reads_only(census: &Census) -> bool {
    let harmless = |name| lookup(name).is_some_and(|builtin| builtin.reads_only || builtin.reach == Reach::Setting);
    census.writes == 0 && census.locks == 0 && census.functions.iter().all(harmless)
}

/// EXPLAIN ANALYZE. `ANALYZE false` says that it doesn't; taking it for true is the safe side.
pub fn executes(explain: &pg_query::protobuf::ExplainStmt) -> bool {
    explain.options.iter().filter_map(super::nodes::inner).any(|option| match option {
        NodeEnum::DefElem(option) => option.defname == "analyze",
        _ => true,
    })
}

fn explains_query(explain: &pg_query::protobuf::ExplainStmt) -> bool {
    matches!(inner_of(&explain.query), Some(NodeEnum::SelectStmt(_)))
}

fn to_client(copy: &CopyStmt) -> bool {
    copy.filename.is_empty() && !copy.is_program
}

/// COMMIT and the statements of two-phase commit must not run twice.
fn decides(transaction: &TransactionStmt) -> bool {
    !matches!(
        TransactionStmtKind::try_from(transaction.kind),
        Ok(TransactionStmtKind::TransStmtBegin
            | TransactionStmtKind::TransStmtStart
            | TransactionStmtKind::TransStmtRollback
            | TransactionStmtKind::TransStmtSavepoint
            | TransactionStmtKind::TransStmtRelease
            | TransactionStmtKind::TransStmtRollbackTo)
    )
}

fn action(node: &NodeEnum) -> Action {
    match node {
        NodeEnum::TransactionStmt(transaction) => transaction_action(transaction),
        NodeEnum::VariableSetStmt(set) => Action::Set(set_action(set)),
        NodeEnum::DiscardStmt(discard) if discard.target == DiscardMode::DiscardAll as i32 => Action::DiscardAll,
        NodeEnum::DiscardStmt(_) => Action::DiscardOther,
        NodeEnum::ListenStmt(listen) => Action::Listen(listen.conditionname.as_str().into()),
        NodeEnum::UnlistenStmt(unlisten) => Action::Unlisten(named(&unlisten.conditionname)),
        NodeEnum::NotifyStmt(_) => Action::Notify,
        NodeEnum::PrepareStmt(prepare) => {
            Action::Prepare { name: prepare.name.as_str().into(), leaves: Residue::default() }
        }
        NodeEnum::ExecuteStmt(execute) => Action::Execute(execute.name.as_str().into()),
        NodeEnum::ExplainStmt(explain) => executed(&explain.query),
        NodeEnum::CreateTableAsStmt(create) => executed(&create.query),
        NodeEnum::DeallocateStmt(deallocate) => Action::Deallocate(named(&deallocate.name)),
        NodeEnum::DeclareCursorStmt(declare) => {
            Action::DeclareCursor { name: declare.portalname.as_str().into(), hold: holds(declare) }
        }
        NodeEnum::ClosePortalStmt(close) => Action::CloseCursor(named(&close.portalname)),
        NodeEnum::CopyStmt(copy) if to_client(copy) && copy.is_from => Action::CopyIn,
        NodeEnum::CopyStmt(copy) if to_client(copy) => Action::CopyOut,
        _ => Action::None,
    }
}

/// EXECUTE as a part of another statement.
fn executed(query: &Option<Box<pg_query::protobuf::Node>>) -> Action {
    match inner_of(query) {
        Some(NodeEnum::ExecuteStmt(execute)) => Action::Execute(execute.name.as_str().into()),
        Some(NodeEnum::CreateTableAsStmt(create)) => executed(&create.query),
        _ => Action::None,
    }
}

/// No name stands for ALL.
fn named(name: &str) -> Option<Box<str>> {
    (!name.is_empty()).then(|| name.into())
}

fn transaction_action(transaction: &TransactionStmt) -> Action {
    let chain = transaction.chain;
    let name = || transaction.savepoint_name.as_str().into();
    match TransactionStmtKind::try_from(transaction.kind) {
        Ok(TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart) => Action::Begin,
        Ok(TransactionStmtKind::TransStmtCommit) => Action::Commit { chain },
        Ok(TransactionStmtKind::TransStmtRollback) => Action::Rollback { chain },
        Ok(TransactionStmtKind::TransStmtSavepoint) => Action::Savepoint(name()),
        Ok(TransactionStmtKind::TransStmtRelease) => Action::Release(name()),
        Ok(TransactionStmtKind::TransStmtRollbackTo) => Action::RollbackTo(name()),
        _ => Action::TwoPhase,
    }
}

fn set_action(set: &VariableSetStmt) -> SetAction {
    let kind = VariableSetKind::try_from(set.kind).unwrap_or(VariableSetKind::Undefined);
    let value = match kind {
        VariableSetKind::VarSetDefault | VariableSetKind::VarReset | VariableSetKind::VarResetAll => SetValue::Default,
        _ => SetValue::Text,
    };
    let name = match (kind, set.name.as_str()) {
        (VariableSetKind::VarResetAll, _) => "all".into(),
        (VariableSetKind::VarSetMulti, "SESSION CHARACTERISTICS") => "session_characteristics".into(),
        (VariableSetKind::VarSetMulti, _) => "transaction".into(),
        (_, name) => name.to_ascii_lowercase(),
    };
    SetAction { local: set.is_local || name == "transaction", name: name.into(), value }
}

fn residue(node: &NodeEnum, sql: &str) -> Residue {
    let mut residue = Residue::default();
    match node {
        NodeEnum::ListenStmt(_) | NodeEnum::LoadStmt(_) => residue.pins = true,
        NodeEnum::PrepareStmt(prepare) => residue.pins = !super::prepare::means_the_same_anywhere(prepare, sql),
        NodeEnum::DeclareCursorStmt(declare) => residue.pins = holds(declare),
        NodeEnum::DropStmt(_)
        | NodeEnum::UnlistenStmt(_)
        | NodeEnum::DeallocateStmt(_)
        | NodeEnum::DiscardStmt(_)
        | NodeEnum::ClosePortalStmt(_) => residue.may_unpin = true,
        NodeEnum::DoStmt(_) | NodeEnum::CallStmt(_) => residue.opaque = true,
        NodeEnum::ExplainStmt(explain) => {
            if let Some(query) = inner_of(&explain.query) {
                residue = self::residue(query, sql);
            }
        }
        _ => residue.pins = creates_temporary(node, sql),
    }
    residue
}

/// Whether something is created in the session's temporary schema.
pub fn creates_temporary(node: &NodeEnum, sql: &str) -> bool {
    let created = match node {
        NodeEnum::CreateStmt(create) => create.relation.as_ref(),
        NodeEnum::ViewStmt(create) => create.view.as_ref(),
        NodeEnum::CreateSeqStmt(create) => create.sequence.as_ref(),
        NodeEnum::CreateTableAsStmt(create) => create.into.as_ref().and_then(|into| into.rel.as_ref()),
        NodeEnum::SelectStmt(select) => select.into_clause.as_ref().and_then(|into| into.rel.as_ref()),
        NodeEnum::CreateFunctionStmt(_)
        | NodeEnum::CompositeTypeStmt(_)
        | NodeEnum::CreateEnumStmt(_)
        | NodeEnum::CreateRangeStmt(_)
        | NodeEnum::CreateDomainStmt(_)
        | NodeEnum::DefineStmt(_) => return mentions_temporary_schema(sql),
        _ => return false,
    };
    created.is_some_and(|relation| relation.relpersistence == "t" || relation.schemaname == "pg_temp")
}

fn mentions_temporary_schema(sql: &str) -> bool {
    sql.as_bytes().windows(7).any(|window| window.eq_ignore_ascii_case(b"pg_temp"))
}

fn note_functions(census: &Census, residue: &mut Residue) {
    for function in &census.functions {
        match lookup(function).map(|builtin| builtin.reach) {
            None => residue.opaque = true,
            Some(Reach::SessionLock) => residue.pins = true,
            Some(Reach::SessionUnlock) => residue.may_unpin = true,
            Some(Reach::Arguments | Reach::Home | Reach::Setting | Reach::Refused(_)) => {}
        }
    }
}

/// Statements that PostgreSQL refuses inside a transaction block (PreventInTransactionBlock).
fn outside_transaction(node: &NodeEnum) -> bool {
    match node {
        NodeEnum::VacuumStmt(vacuum) => vacuum.is_vacuumcmd,
        NodeEnum::IndexStmt(index) => index.concurrent,
        NodeEnum::DropStmt(drop) => drop.concurrent,
        NodeEnum::ReindexStmt(reindex) => reindexes_alone(reindex),
        NodeEnum::ClusterStmt(cluster) => cluster.relation.is_none(),
        NodeEnum::DiscardStmt(discard) => discard.target == DiscardMode::DiscardAll as i32,
        NodeEnum::AlterTableStmt(alter) => alter.cmds.iter().filter_map(super::nodes::inner).any(detaches_concurrently),
        NodeEnum::TransactionStmt(transaction) => matches!(
            TransactionStmtKind::try_from(transaction.kind),
            Ok(TransactionStmtKind::TransStmtCommitPrepared | TransactionStmtKind::TransStmtRollbackPrepared)
        ),
        NodeEnum::CreatedbStmt(_)
        | NodeEnum::DropdbStmt(_)
        | NodeEnum::AlterDatabaseStmt(_)
        | NodeEnum::CreateTableSpaceStmt(_)
        | NodeEnum::DropTableSpaceStmt(_)
        | NodeEnum::AlterSystemStmt(_)
        | NodeEnum::CreateSubscriptionStmt(_)
        | NodeEnum::AlterSubscriptionStmt(_)
        | NodeEnum::DropSubscriptionStmt(_) => true,
        _ => false,
    }
}

fn reindexes_alone(reindex: &ReindexStmt) -> bool {
    let one = matches!(
        ReindexObjectType::try_from(reindex.kind),
        Ok(ReindexObjectType::ReindexObjectIndex | ReindexObjectType::ReindexObjectTable)
    );
    let concurrently = reindex.params.iter().filter_map(super::nodes::inner).any(|option| match option {
        NodeEnum::DefElem(option) => option.defname == "concurrently",
        _ => false,
    });
    !one || concurrently
}

fn detaches_concurrently(command: &NodeEnum) -> bool {
    let NodeEnum::AlterTableCmd(command) = command else { return false };
    matches!(inner_of(&command.def), Some(NodeEnum::PartitionCmd(partition)) if partition.concurrent)
}

/// DECLARE … WITH HOLD.
pub fn holds(declare: &DeclareCursorStmt) -> bool {
    declare.options & CURSOR_OPT_HOLD != 0
}
