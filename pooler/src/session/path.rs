//! The session's search_path, which unqualified table names depend on.

use sluice_wire::message::Report;

use super::{Link, Session};

impl Session {
    /// Looks again at the settings that reading a statement depends on: after a SET, a rollback, a RESET, at the login.
    pub(super) fn update_path(&mut self) {
        let effective = match &self.link {
            Link::Transaction(transaction) => &transaction.log.vars,
            _ => &self.vars,
        };
        if let Some(statement) = effective.get("standard_conforming_strings") {
            let lower = statement.to_ascii_lowercase();
            self.flow.escape_strings =
                ["off", "false", "'0'", "'no'", "= 0", "to 0"].iter().any(|off| lower.contains(off));
        }
        if !self.upstream.is_sharded() {
            return;
        }
        let statement = match &self.link {
            Link::Transaction(transaction) => transaction.log.search_path(),
            _ => self.vars.get("search_path").map(str::to_owned),
        };
        self.path_unknown = false;
        match statement.as_deref().map(schemas_of) {
            None => self.path = Default::default(),
            Some(Some(schemas)) => {
                let user = &*self.upstream.user;
                let schemas: Vec<String> = schemas
                    .into_iter()
                    .map(|schema| if schema == "$user" { user.to_owned() } else { schema })
                    .collect();
                self.path = self.shared.router.search_path(&schemas);
            }
            Some(None) => self.path_unknown = true,
        }
    }
}

/// Refusal of a statement whose names could mean anything.
pub fn unknown_path() -> Report {
    Report::error(
        "0A000",
        "cannot tell which tables are meant: search_path was set to something that is not understood",
    )
    .hint("set search_path to a list of plain schema names")
}

/// The schemas that a statement puts on the path; `None` if that can't be told. An empty list means the default.
fn schemas_of(statement: &str) -> Option<Vec<String>> {
    let statement = statement.trim().trim_end_matches(';').trim_end();
    if let Some(arguments) = statement.strip_prefix("SELECT pg_catalog.set_config('search_path', '") {
        let value = arguments.rsplit_once("', ")?.0;
        return split_list(&value.replace("''", "'"));
    }
    let lower = statement.to_ascii_lowercase();
    if lower.starts_with("reset") {
        return Some(Vec::new());
    }
    let at = lower.find("search_path")? + "search_path".len();
    let rest = statement[at..].trim_start().trim_start_matches('"').trim_start();
    let value = match rest.strip_prefix('=') {
        Some(value) => value,
        None => rest.get(..2).filter(|to| to.eq_ignore_ascii_case("to")).map(|_| &rest[2..])?,
    };
    split_list(value.trim())
}

/// Splits `a, "B", 'c'` into names: bare ones folded to lower case.
fn split_list(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = list.trim();
    if rest.is_empty() || rest.eq_ignore_ascii_case("default") {
        return Some(names);
    }
    loop {
        let (name, after) = match rest.chars().next()? {
            quote @ ('"' | '\'') => quoted(&rest[1..], quote)?,
            _ => bare(rest)?,
        };
        // SET search_path = 'a, b' names one schema of that odd name; nobody means it.
        if name.contains(',') {
            return None;
        }
        names.push(name);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return rest.is_empty().then_some(names),
        }
    }
}

fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let end = text.find(quote)?;
    let after = &text[end + 1..];
    // A doubled quote or an escape: not worth guessing.
    if after.starts_with(quote) || text[..end].contains('\\') {
        return None;
    }
    Some((text[..end].to_owned(), after))
}

fn bare(text: &str) -> Option<(String, &str)> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_lowercase(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(statement: &str) -> Option<Vec<String>> {
        schemas_of(statement)
    }

    fn list(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn paths_are_read_from_every_form_of_set() {
        assert_eq!(names("SET search_path TO Tenant, public"), list(&["tenant", "public"]));
        assert_eq!(names("set session search_path = \"Tenant\", 'x' ;"), list(&["Tenant", "x"]));
        assert_eq!(names("SET LOCAL search_path=a"), list(&["a"]));
        assert_eq!(names("SET search_path TO DEFAULT"), list(&[]));
        assert_eq!(names("SELECT pg_catalog.set_config('search_path', 'a, \"B\"', false)"), list(&["a", "B"]));
        assert_eq!(names("SELECT pg_catalog.set_config('search_path', '', false)"), list(&[]));
        assert_eq!(names("RESET search_path"), list(&[]));
        assert_eq!(names("SET search_path = \"$user\", public"), list(&["$user", "public"]));
    }

    #[test]
    fn what_is_odd_is_not_guessed() {
        assert_eq!(names("SET search_path = 'a, b'"), None);
        assert_eq!(names("SET search_path = 'a''b'"), None);
        assert_eq!(names("SET search_path FROM CURRENT"), None);
        assert_eq!(names("SET search_path = E'a\\\\b'"), None);
    }
}
