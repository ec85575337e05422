//! Refusals: what the client reads when a statement can't be answered rightly.

use std::borrow::Cow;

use crate::template::Refusal;

/// The result of a step of the analysis.
pub type Checked<T> = Result<T, Box<Refusal>>;

/// 0A000, feature_not_supported.
pub fn unsupported(message: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Box<Refusal> {
    refusal("0A000", message, detail, hint)
}

pub fn refusal(
    sqlstate: &'static str,
    message: impl Into<String>,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> Box<Refusal> {
    Box::new(Refusal {
        sqlstate: Cow::Borrowed(sqlstate),
        message: message.into(),
        detail: detail.into(),
        hint: hint.into(),
        position: 0,
    })
}

/// Points at the byte `location` (from 0, negative: unknown) of the text.
pub fn at(mut refusal: Box<Refusal>, location: i32) -> Box<Refusal> {
    if let Ok(location) = u32::try_from(location) {
        refusal.position = location + 1;
    }
    refusal
}

/// A kind of statement that a sharded database doesn't have.
pub fn not_sharded(what: &str, why: &str, hint: &str) -> Box<Refusal> {
    unsupported(format!("{what} is not supported in a sharded database"), why, hint)
}

/// A clause that the analysis does not know.
pub fn unproven(what: &str) -> Box<Refusal> {
    unsupported(
        "cannot prove where this statement belongs",
        format!("{what} is not analysed in this place."),
        "Write the statement in a simpler form, or run it on a shard directly.",
    )
}

/// A temporary table lives on one server's session; the statements that follow may need another.
pub fn temporary(table: &str) -> Box<Refusal> {
    unsupported(
        format!("temporary table \"{table}\" is not supported in a sharded database"),
        "A temporary table lives on one shard's session, and the session's next statement may need another shard.",
        "Use a CTE (WITH …), or an ordinary table that has the sharding key.",
    )
}
