//! Client encodings that a sharded database can't take: a byte of one character may look like a quote, a backslash or a
//! letter, so that the router would read another statement, or another key, than the server does.

use sluice_router::Refusal;

/// PostgreSQL's client-only encodings and their other names, as [`normalized`].
const MISLEADING: &[&str] = &[
    "sjis",
    "mskanji",
    "shiftjis",
    "win932",
    "windows932",
    "big5",
    "win950",
    "windows950",
    "gbk",
    "win936",
    "windows936",
    "uhc",
    "win949",
    "windows949",
    "johab",
    "gb18030",
];

/// Whether `statement`, which sets client_encoding, names none of them. A name in escapes isn't looked into.
pub fn is_safe(statement: &str) -> bool {
    let name = normalized(statement);
    !statement.contains(['\\', '&']) && !MISLEADING.iter().any(|misleading| name.contains(misleading))
}

/// Whether `statement`, which sets client_encoding, names UTF8.
pub fn is_utf8(statement: &str) -> bool {
    let name = normalized(statement);
    name.contains("utf8") || name.contains("unicode")
}

/// PostgreSQL compares names of encodings without case and punctuation.
fn normalized(statement: &str) -> String {
    statement.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

pub fn refusal() -> Refusal {
    Refusal {
        sqlstate: "0A000".into(),
        message: "this client_encoding is not supported in a sharded database".to_owned(),
        detail: "Bytes of its characters may look like quotes or backslashes, which would mislead routing.".to_owned(),
        hint: "Use UTF8, and convert in the client.".to_owned(),
        position: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::is_safe;

    #[test]
    fn names_are_compared_as_postgresql_does() {
        for safe in ["SET client_encoding = 'UTF-8'", "SET NAMES 'latin1'", "SET client_encoding TO EUC_JP"] {
            assert!(is_safe(safe), "{safe}");
        }
        for misleading in ["SET NAMES 'Shift_JIS'", "SET client_encoding=big5", "SET client_encoding = E'\\x53JIS'"] {
            assert!(!is_safe(misleading), "{misleading}");
        }
    }
}
