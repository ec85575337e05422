//! What a client's next request holds, and where it may run.
//!
//! Hot path: decides each simple query and each batch of extended-protocol messages from their bytes, by template lookup.
//! No allocation for an ordinary statement.

use sluice_router::map::ShardMap;
use sluice_router::plan::{NoParameters, Parameters, plan, tenant};
use sluice_router::template::{Access, Action, Refusal, Residue, Route, Statement, Template};
use sluice_router::{Router, SearchPath, ShardId, Target};
use sluice_wire::frame::{
    Bind, Frame, FrameError, Frames, Header, Named, Parse, check_client_header, execute, query_text,
};

use super::batch::{BindParameters, Bound, Parses, taken_in_batch};
use super::encoding;
use super::prepared::ClientStatements;
use super::transaction::Effect;

/// Where a request may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Where {
    /// Any shard gives the right answer.
    #[default]
    Anywhere,
    Shard(ShardId),
    /// All shards, atomically.
    Everywhere,
    /// By the key in this column of the COPY data that follows.
    CopyRows(u16),
}

/// What a request asks for, as far as the session has to know.
#[derive(Debug, Default)]
pub struct Request {
    pub place: Where,
    /// The hash of its first sharding key, where tenants are limited.
    pub tenant: Option<u64>,
    pub writes: bool,
    pub residue: Residue,
    /// Per statement in order, if any of them does something to the session; empty otherwise.
    pub effects: Vec<Effect>,
    /// There is a statement that controls the session or the transaction.
    pub controls: bool,
    /// The only statement begins a transaction.
    pub begins: bool,
    /// Statements that PostgreSQL runs only outside a transaction block.
    pub outside_transaction: bool,
    /// A prepared statement is named, made or closed: names and responses have to be edited.
    pub edits: bool,
    /// A named statement is made: by which settings it is read has to be known.
    pub parses: bool,
    /// A cursor is declared or used: (name, declared).
    pub cursor: Option<(Box<str>, bool)>,
    /// Tables that it creates, drops or alters.
    pub ddl: bool,
    /// COPY … FROM STDIN.
    pub copies_in: bool,
    pub statements: usize,
}

/// Why a request is answered with an error instead of being run.
#[derive(Debug)]
pub enum Deny {
    Refused(Box<Refusal>),
    /// The message is broken, or out of place: the session ends.
    Protocol(&'static str),
    /// No such prepared statement; the name that it would have.
    UnknownStatement(String),
    /// Parse with a name that is taken.
    NameTaken(String),
}

/// The session's state that a decision depends on.
pub struct Context<'a> {
    pub router: &'a Router,
    pub map: &'a ShardMap,
    pub schema: &'a std::sync::Arc<sluice_router::Schema>,
    pub path: SearchPath,
    pub standard_strings: bool,
    pub statements: Option<&'a ClientStatements>,
    /// Named statements are translated (transaction and statement pooling).
    pub tracks_statements: bool,
    /// How much one tenant may do is limited.
    pub limits_tenants: bool,
    /// An earlier part of this pipeline is on its way.
    pub open: bool,
}

impl Context<'_> {
    /// Decides a simple query.
    pub fn query(&self, body: &[u8]) -> Result<Request, Deny> {
        let sql = query_text(body).ok_or(Deny::Protocol("failed to parse packet"))?;
        let mut request = Request::default();
        self.add(&mut request, sql, &NoParameters)?;
        Ok(request)
    }

    /// Decides a batch of extended-protocol messages, `frames` of them complete.
    pub fn batch(&self, bytes: &[u8]) -> Result<Request, Deny> {
        let mut request = Request::default();
        let mut parses = Parses { bytes, last: None };
        let mut bound = Bound::default();
        for frame in Frames::new(bytes) {
            let frame = frame.map_err(|_| Deny::Protocol("failed to parse packet"))?;
            match frame.tag {
                b'P' => {
                    let parse = Parse::read(frame.body).ok_or(Deny::Protocol("failed to parse packet"))?;
                    let before = frame.raw.as_ptr() as usize - bytes.as_ptr() as usize;
                    self.check_parse(&mut request, &parse, &bytes[..before])?;
                    parses.last = Some(parse);
                }
                b'B' => {
                    let before = request.effects.len();
                    self.bind(&mut request, frame, &parses)?;
                    bound.add(frame, &request.effects[before..])?;
                }
                b'D' | b'C' => self.name(&mut request, frame, &parses)?,
                b'E' => {
                    let (portal, _) = execute(frame.body).ok_or(Deny::Protocol("failed to parse packet"))?;
                    bound.execute(portal);
                }
                _ => {}
            }
        }
        bound.check()?;
        Ok(request)
    }

    /// A Parse alone can be answered anywhere, but not for a statement that would be refused whatever its parameters are.
    fn check_parse(&self, request: &mut Request, parse: &Parse<'_>, earlier: &[u8]) -> Result<(), Deny> {
        if !parse.name.is_empty() && self.tracks_statements {
            request.edits = true;
            request.parses = true;
            let before = self.statements.is_some_and(|known| known.has(parse.name));
            let taken = taken_in_batch(earlier, parse.name).unwrap_or(before);
            if taken && self.is_first(earlier.len()) {
                return Err(Deny::NameTaken(String::from_utf8_lossy(parse.name).into_owned()));
            }
            if taken {
                // What stands before it is run, then the server says so.
                self.names_sql_statement(request, parse.name);
                return Ok(());
            }
        }
        self.with_template(parse.sql, |template, _, _| {
            for statement in &template.statements {
                if let Route::Refused(refusal) = &statement.route {
                    return Err(Deny::Refused(refusal.clone()));
                }
            }
            Ok(())
        })
    }

    fn bind(&self, request: &mut Request, frame: Frame<'_>, parses: &Parses<'_>) -> Result<(), Deny> {
        let bind = Bind::read(frame.body).ok_or(Deny::Protocol("failed to parse packet"))?;
        if let Some(parse) = parses.find(bind.statement) {
            request.edits |= !bind.statement.is_empty() && self.tracks_statements;
            return self.add(request, parse.sql, &BindParameters { bind, types: parse.types });
        }
        match self.statements.and_then(|known| known.tail(bind.statement)) {
            Some(tail) => {
                request.edits = true;
                let (sql, types) = split_tail(tail);
                self.add(request, sql, &BindParameters { bind, types })
            }
            None if !bind.statement.is_empty() && !self.tracks_statements => Ok(()),
            None if self.names_sql_statement(request, bind.statement) => Ok(()),
            None => self.lacks(request, bind.statement, parses.offset(frame)),
        }
    }

    fn name(&self, request: &mut Request, frame: Frame<'_>, parses: &Parses<'_>) -> Result<(), Deny> {
        let named = Named::read(frame.body).ok_or(Deny::Protocol("failed to parse packet"))?;
        let Named::Statement(name) = named else { return Ok(()) };
        if !name.is_empty() && !self.tracks_statements {
            return Ok(());
        }
        // The unnamed statement of an earlier batch may have to be put in again.
        let is_parsed = parses.find(name).is_some();
        request.edits |= !name.is_empty() || !is_parsed;
        if is_parsed || frame.tag == b'C' || self.statements.is_some_and(|known| known.tail(name).is_some()) {
            return Ok(());
        }
        if self.names_sql_statement(request, name) {
            return Ok(());
        }
        self.lacks(request, name, parses.offset(frame))
    }

    /// The client has no such statement. At the head of a request it hears so at once. Otherwise the server says so, in its
    /// turn: what stands before it is run, as PostgreSQL would.
    fn lacks(&self, request: &mut Request, name: &[u8], offset: usize) -> Result<(), Deny> {
        let text = String::from_utf8_lossy(name).into_owned();
        if self.is_first(offset) {
            return Err(Deny::UnknownStatement(text));
        }
        request.edits = true;
        request.statements += 1;
        request.push_effect(Effect::Execute(text.into()));
        Ok(())
    }

    /// Nothing of the pipeline stands before this message.
    fn is_first(&self, offset: usize) -> bool {
        offset == 0 && !self.open
    }

    fn with_template<R>(
        &self,
        sql: &[u8],
        with: impl FnOnce(&std::sync::Arc<Template>, &[sluice_router::lexer::Literal], &[u32]) -> R,
    ) -> R {
        self.router.template(self.schema, self.path, self.standard_strings, sql, with)
    }

    /// Adds the statements of one text to the request.
    fn add(&self, request: &mut Request, sql: &[u8], parameters: &dyn Parameters) -> Result<(), Deny> {
        self.with_template(sql, |template, literals, separators| {
            let note_tenant = |request: &mut Request, statement: &Statement| {
                if self.limits_tenants && request.tenant.is_none() {
                    request.tenant = tenant(self.map, statement, sql, literals, parameters);
                }
            };
            if let [statement] = &*template.statements
                && request.effects.is_empty()
                && is_ordinary(statement)
            {
                let target = plan(self.map, statement, sql, literals, parameters).map_err(Deny::Refused)?;
                request.place = combine(request, self.map, target)?;
                note_tenant(request, statement);
                request.statements += 1;
                request.writes |= statement.access == Access::Write;
                request.begins = false;
                return Ok(());
            }
            for (index, statement) in template.statements.iter().enumerate() {
                let target = match &statement.route {
                    Route::Cursor(name) => {
                        request.cursor = Some((name.clone(), false));
                        Target::Cursor
                    }
                    _ => plan(self.map, statement, sql, literals, parameters).map_err(Deny::Refused)?,
                };
                request.place = combine(request, self.map, target)?;
                note_tenant(request, statement);
                request.statements += 1;
                note(request, statement);
                if let Action::Execute(name) = &statement.action {
                    self.note_execute(request, name)?;
                }
                if !is_remembered(&statement.action) && request.effects.is_empty() {
                    continue;
                }
                let text = || piece(sql, separators, index, template);
                let value = |value: &sluice_router::template::SetValue| set_value(value, sql, literals, parameters);
                let mut effect = Effect::of(statement, &text(), value).ok_or_else(unknown_setting)?;
                self.check_encoding(&effect)?;
                if let Effect::Prepare { text, .. } = &mut effect
                    && (!self.tracks_statements || !(template.spans_agree || template.statements.len() == 1))
                {
                    *text = None;
                    request.residue.pins = true;
                }
                request.push_effect(effect);
            }
            Ok(())
        })
    }

    /// What the statement leaves that it executes. One of the protocol's can't be told from what was said when it was parsed.
    fn note_execute(&self, request: &mut Request, name: &str) -> Result<(), Deny> {
        let Some(statements) = self.statements else { return Ok(()) };
        if let Some(prepared) = statements.sql.get(name) {
            request.leave(prepared.leaves);
        } else if statements.named.contains_key(name.as_bytes()) {
            return Err(Deny::Refused(Box::new(of_the_protocol(name))));
        }
        Ok(())
    }

    /// A message of the extended protocol names a statement that was prepared with SQL. False: there is none.
    fn names_sql_statement(&self, request: &mut Request, name: &[u8]) -> bool {
        let Ok(name) = str::from_utf8(name) else { return false };
        let Some(prepared) = self.statements.and_then(|statements| statements.sql.get(name)) else { return false };
        request.place = Where::Shard(self.map.home());
        request.writes = true;
        request.statements += 1;
        request.leave(prepared.leaves);
        request.push_effect(Effect::Execute(name.into()));
        true
    }
}

impl Request {
    fn leave(&mut self, residue: Residue) {
        self.residue.pins |= residue.pins;
        self.residue.may_unpin |= residue.may_unpin;
        self.residue.opaque |= residue.opaque;
    }

    /// The effect of the last statement; those before it that have none get an empty one.
    fn push_effect(&mut self, effect: Effect) {
        while self.effects.len() + 1 < self.statements {
            self.effects.push(Effect::None);
        }
        self.effects.push(effect);
    }
}

impl Context<'_> {
    /// In a sharded database, text has to be read byte by byte as the server reads it.
    fn check_encoding(&self, effect: &Effect) -> Result<(), Deny> {
        match effect {
            Effect::Set(set) if &*set.name == "client_encoding" && self.schema.sharding.is_some() => {
                if set.resets || encoding::is_safe(&set.statement) {
                    Ok(())
                } else {
                    Err(Deny::Refused(Box::new(encoding::refusal())))
                }
            }
            _ => Ok(()),
        }
    }
}

/// Nothing about it has to be remembered: nearly all statements.
#[inline]
fn is_ordinary(statement: &Statement) -> bool {
    let residue = statement.residue;
    matches!(statement.action, Action::None)
        && !matches!(statement.route, Route::Cursor(_))
        && !(residue.pins | residue.may_unpin | residue.opaque | statement.outside_transaction)
}

fn note(request: &mut Request, statement: &Statement) {
    request.writes |= statement.access == Access::Write;
    request.leave(statement.residue);
    request.controls |= controls(&statement.action);
    request.begins = request.statements == 1 && statement.action == Action::Begin;
    request.outside_transaction |= statement.outside_transaction;
    match &statement.action {
        Action::DeclareCursor { name, .. } => request.cursor = Some((name.clone(), true)),
        Action::CopyIn => request.copies_in = true,
        Action::Ddl(changes) => request.ddl |= !changes.is_empty(),
        _ => {}
    }
}

/// The action changes what the session has to remember.
fn controls(action: &Action) -> bool {
    matches!(
        action,
        Action::Begin
            | Action::Commit { .. }
            | Action::Rollback { .. }
            | Action::Savepoint(_)
            | Action::Release(_)
            | Action::RollbackTo(_)
            | Action::Set(_)
            | Action::DiscardAll
            | Action::Deallocate(None)
    )
}

/// The session has to know of the statement, if only of a name in it.
fn is_remembered(action: &Action) -> bool {
    let names_statement = matches!(
        action,
        Action::Prepare { .. } | Action::Execute(_) | Action::Deallocate(Some(_)) | Action::ShowPrepared
    );
    let listens = matches!(action, Action::Listen(_) | Action::Unlisten(_) | Action::ShowChannels);
    names_statement || listens || controls(action)
}

/// Text and types of a remembered Parse.
pub fn split_tail(tail: &[u8]) -> (&[u8], &[u8]) {
    let end = tail.iter().position(|&byte| byte == 0).unwrap_or(tail.len());
    (&tail[..end], tail.get(end + 3..).unwrap_or_default())
}

/// The text of statement `index`.
fn piece(sql: &[u8], separators: &[u32], index: usize, template: &Template) -> String {
    if template.statements.len() == 1 || !template.spans_agree {
        return String::from_utf8_lossy(sql).into_owned();
    }
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in separators.iter().map(|&at| at as usize).chain([sql.len()]) {
        let text = sql[start.min(end)..end].trim_ascii();
        if !text.is_empty() {
            pieces.push(text);
        }
        start = end + 1;
    }
    pieces.get(index).map_or(String::new(), |text| String::from_utf8_lossy(text).into_owned())
}

fn set_value(
    value: &sluice_router::template::SetValue,
    sql: &[u8],
    literals: &[sluice_router::lexer::Literal],
    parameters: &dyn Parameters,
) -> Option<String> {
    use sluice_router::template::SetValue;
    match value {
        SetValue::Text | SetValue::Default => Some(String::new()),
        SetValue::Literal { index } => plain_string(literals.get(usize::from(*index))?.raw(sql)),
        SetValue::Parameter { number } => {
            let parameter = parameters.parameter(*number)?;
            Some(str::from_utf8(parameter.value?).ok()?.to_owned())
        }
    }
}

/// The value of a string constant without escapes; `None` for any other.
fn plain_string(raw: &[u8]) -> Option<String> {
    let inner = raw.strip_prefix(b"'")?.strip_suffix(b"'")?;
    let text = str::from_utf8(inner).ok()?.replace("''", "'");
    (!text.contains('\\')).then_some(text)
}

fn of_the_protocol(name: &str) -> Refusal {
    Refusal {
        sqlstate: "0A000".into(),
        message: format!("prepared statement \"{name}\" cannot be run by EXECUTE"),
        detail: "It was prepared by the protocol, and has another name on the server.".to_owned(),
        hint: "Bind it, or prepare it with PREPARE.".to_owned(),
        position: 0,
    }
}

fn unknown_setting() -> Deny {
    Deny::Refused(Box::new(Refusal {
        sqlstate: "0A000".into(),
        message: "cannot tell what this statement sets".to_owned(),
        detail: "The setting's value is neither a plain string constant nor a text parameter, so it could not be carried to another server.".to_owned(),
        hint: "Use SET, or set_config with a plain string.".to_owned(),
        position: 0,
    }))
}

/// Both must hold on one server.
fn combine(request: &Request, map: &ShardMap, target: Target) -> Result<Where, Deny> {
    let next = match target {
        Target::Any | Target::Cursor => Where::Anywhere,
        Target::Home => Where::Shard(map.home()),
        Target::Shard(shard) => Where::Shard(shard),
        Target::AllShards => Where::Everywhere,
        Target::CopyRows(column) => Where::CopyRows(column),
    };
    match (request.place, next) {
        (place, Where::Anywhere) => Ok(place),
        (Where::Anywhere, next) if request.statements == 0 || !matches!(next, Where::CopyRows(_)) => Ok(next),
        (place, next) if place == next => Ok(place),
        (place, next) => Err(Deny::Refused(Box::new(mixed(place, next)))),
    }
}

fn mixed(place: Where, next: Where) -> Refusal {
    let name = |place| match place {
        Where::Anywhere => "any shard".to_owned(),
        Where::Shard(shard) => format!("shard {shard}"),
        Where::Everywhere => "all shards".to_owned(),
        Where::CopyRows(_) => "the shards of COPY data".to_owned(),
    };
    Refusal {
        sqlstate: "0A000".into(),
        message: "statements for different shards cannot be sent together".to_owned(),
        detail: format!(
            "One statement belongs to {}, another one to {}; sent together they would have to succeed or fail as one.",
            name(place),
            name(next)
        ),
        hint: "Send them one by one; put BEGIN and COMMIT around them, also sent on their own, to make them atomic."
            .to_owned(),
        position: 0,
    }
}

/// How far a client's input reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Not yet a whole request.
    Incomplete,
    /// One simple query (or another message that stands alone), so many bytes.
    Alone(usize),
    /// A batch up to Sync.
    Synced(usize),
    /// A batch up to Flush, or as much as is complete of one that outgrew its budget.
    Open(usize),
}

/// Bytes of a batch that are collected before it is sent on in parts.
const BATCH_BUDGET: usize = 256 * 1024;
/// Longest single message that is collected: it has to be read as a whole to be routed.
pub const MESSAGE_BUDGET: u64 = 256 << 20;

/// Finds the end of the first request.
#[inline]
pub fn cut(input: &[u8], max_packet: u32) -> Result<Cut, FrameError> {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let Some(header) = Header::read(rest) else { break };
        let header = header?;
        check_client_header(header, max_packet)?;
        if header.total > MESSAGE_BUDGET {
            return Err(FrameError::Length { tag: header.tag, len: (header.total - 1) as u32 });
        }
        let in_batch = matches!(header.tag, b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H');
        if !in_batch && at > 0 {
            return Ok(Cut::Open(at));
        }
        if (rest.len() as u64) < header.total {
            break;
        }
        at += header.total as usize;
        match header.tag {
            b'S' => return Ok(Cut::Synced(at)),
            b'H' => return Ok(Cut::Open(at)),
            _ if !in_batch => return Ok(Cut::Alone(at)),
            _ => {}
        }
    }
    Ok(if at > BATCH_BUDGET { Cut::Open(at) } else { Cut::Incomplete })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::message;

    #[test]
    fn a_request_ends_at_query_or_sync() {
        let mut bytes = Vec::new();
        message::query(&mut bytes, b"select 1");
        let query = bytes.len();
        message::parse(&mut bytes, b"", b"select 1\0\0\0");
        assert_eq!(cut(&bytes, i32::MAX as u32), Ok(Cut::Alone(query)));
        assert_eq!(cut(&bytes[query..], i32::MAX as u32), Ok(Cut::Incomplete));
        let batch = bytes.len() - query;
        bytes.extend_from_slice(&message::SYNC);
        assert_eq!(cut(&bytes[query..], i32::MAX as u32), Ok(Cut::Synced(batch + 5)));
        assert_eq!(cut(&bytes[..3], i32::MAX as u32), Ok(Cut::Incomplete));
    }

    #[test]
    fn a_batch_without_end_is_cut_where_a_query_begins() {
        let mut bytes = Vec::new();
        message::parse(&mut bytes, b"", b"select 1\0\0\0");
        let batch = bytes.len();
        message::query(&mut bytes, b"select 2");
        assert_eq!(cut(&bytes, i32::MAX as u32), Ok(Cut::Open(batch)));
    }

    #[test]
    fn a_huge_message_is_refused_before_it_is_collected() {
        let header = [b'B', 0x7f, 0xff, 0xff, 0xff];
        assert!(cut(&header, i32::MAX as u32).is_err());
    }

    #[test]
    fn a_remembered_parse_is_split_again() {
        let (sql, types) = split_tail(b"select $1\0\0\x01\0\0\0\x14");
        assert_eq!((sql, types), (&b"select $1"[..], &[0, 0, 0, 20][..]));
    }
}
