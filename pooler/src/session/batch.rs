//! What a batch of extended-protocol messages says about the statements that it parses, binds and executes.
//!
//! Hot path: nothing is collected, because nearly always the last message of a kind is the one that is meant.

use sluice_router::plan::{Format, Parameter, Parameters};
use sluice_router::template::Refusal;
use sluice_wire::frame::{Bind, Frame, Frames, Named, Parse};

use super::request::Deny;
use super::transaction::Effect;

/// The Parse messages of a batch. Nearly always the last one is meant, so nothing is collected.
pub(super) struct Parses<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) last: Option<Parse<'a>>,
}

impl<'a> Parses<'a> {
    /// Where in the batch a message begins.
    pub(super) fn offset(&self, frame: Frame<'_>) -> usize {
        frame.raw.as_ptr() as usize - self.bytes.as_ptr() as usize
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<Parse<'a>> {
        let last = self.last?;
        if last.name == name {
            return Some(last);
        }
        let end = last.name.as_ptr() as usize - self.bytes.as_ptr() as usize;
        find_parse(&self.bytes[..end], name)
    }
}

/// The last complete Parse of `name` in `bytes`.
pub(super) fn find_parse<'a>(bytes: &'a [u8], name: &[u8]) -> Option<Parse<'a>> {
    let frames = Frames::new(bytes).map_while(Result::ok).filter(|frame| frame.tag == b'P');
    frames.filter_map(|frame| Parse::read(frame.body)).filter(|parse| parse.name == name).last()
}

/// Whether the last of the messages in `bytes` that makes or frees `name` made it; `None` if there is none.
pub(super) fn taken_in_batch(bytes: &[u8], name: &[u8]) -> Option<bool> {
    let frames = Frames::new(bytes).map_while(Result::ok);
    let made = frames.filter_map(|frame| match frame.tag {
        b'P' => (Parse::read(frame.body)?.name == name).then_some(true),
        b'C' => (Named::read(frame.body)? == Named::Statement(name)).then_some(false),
        _ => None,
    });
    made.last()
}

/// A statement with an effect on the session that is bound and not executed yet. What a request does is told from its Bind
/// messages, so an Execute has to follow in the same request.
#[derive(Default)]
pub(super) struct Bound<'a> {
    portal: Option<&'a [u8]>,
}

impl<'a> Bound<'a> {
    pub(super) fn add(&mut self, bind: Frame<'a>, effects: &[Effect]) -> Result<(), Deny> {
        let harmless = |effect: &Effect| matches!(effect, Effect::None | Effect::Execute(_) | Effect::ShowPrepared);
        if effects.iter().all(harmless) {
            return Ok(());
        }
        self.check()?;
        self.portal = Bind::read(bind.body).map(|bind| bind.portal);
        Ok(())
    }

    pub(super) fn execute(&mut self, portal: &[u8]) {
        if self.portal == Some(portal) {
            self.portal = None;
        }
    }

    pub(super) fn check(&self) -> Result<(), Deny> {
        match self.portal {
            None => Ok(()),
            Some(_) => Err(Deny::Refused(Box::new(not_executed()))),
        }
    }
}

/// Parameters of a Bind message, with the types that Parse declared.
pub(super) struct BindParameters<'a> {
    pub(super) bind: Bind<'a>,
    pub(super) types: &'a [u8],
}

impl Parameters for BindParameters<'_> {
    fn parameter(&self, number: u16) -> Option<Parameter<'_>> {
        let (binary, value) = self.bind.value(number)?;
        let format = if binary { Format::Binary } else { Format::Text };
        Some(Parameter { oid: Parse::declared_type(self.types, number), format, value })
    }
}

fn not_executed() -> Refusal {
    Refusal {
        sqlstate: "0A000".into(),
        message: "this statement cannot be bound without being executed".to_owned(),
        detail: "It changes what the session has to remember, which is told from its Bind message.".to_owned(),
        hint: "Send Execute behind Bind, before Sync.".to_owned(),
        position: 0,
    }
}
