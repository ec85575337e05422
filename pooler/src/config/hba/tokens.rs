//! Lines of an HBA or ident file into fields: white space separates fields, commas the items of one, double quotes take away
//! the special meaning of all that and of the words inside, `#` begins a comment.

use std::path::Path;

use super::super::error::{ConfigError, Place};
use super::read_text;

/// How deep `@file` may nest.
const MAX_DEPTH: usize = 10;

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub text: String,
    /// A quoted word means itself only.
    pub quoted: bool,
}

impl Token {
    /// Whether this is the keyword `word`.
    pub fn is(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// One field: a list of one item or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub items: Vec<Token>,
    /// Where the field ends in its line.
    pub end: usize,
}

impl Field {
    /// The only item of a field that must not be a list.
    pub fn single(&self, what: &str) -> Result<&Token, ConfigError> {
        match self.items.as_slice() {
            [token] => Ok(token),
            _ => Err(ConfigError::new(format!("{what} is a list")).hint("one is allowed here")),
        }
    }
}

/// The fields of a line; none for a blank one or a comment.
pub(super) fn fields(line: &str) -> Result<Vec<Field>, ConfigError> {
    let mut scanner = Scanner { line, at: 0 };
    let mut fields = Vec::new();
    while let Some(field) = scanner.field()? {
        fields.push(field);
    }
    Ok(fields)
}

struct Scanner<'a> {
    line: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.line[self.at..].chars().next()
    }

    fn skip_blanks(&mut self) {
        let rest = &self.line[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Blanks behind a comma don't end a field.
    fn field(&mut self) -> Result<Option<Field>, ConfigError> {
        let mut items = Vec::new();
        loop {
            self.skip_blanks();
            if matches!(self.peek(), None | Some('#')) {
                break;
            }
            let token = self.token()?;
            if !token.text.is_empty() || token.quoted {
                items.push(token);
            }
            if self.peek() != Some(',') {
                break;
            }
            self.at += 1;
        }
        Ok((!items.is_empty()).then_some(Field { items, end: self.at }))
    }

    fn token(&mut self) -> Result<Token, ConfigError> {
        let mut token = Token { text: String::new(), quoted: false };
        let mut in_quotes = false;
        while let Some(next) = self.peek() {
            if !in_quotes && (next.is_whitespace() || matches!(next, ',' | '#')) {
                break;
            }
            self.at += next.len_utf8();
            if next != '"' {
                token.text.push(next);
            } else if in_quotes && self.peek() == Some('"') {
                self.at += 1;
                token.text.push('"');
            } else {
                in_quotes = !in_quotes;
                token.quoted = true;
            }
        }
        if in_quotes {
            return Err(ConfigError::new("quoted name has no end"));
        }
        Ok(token)
    }
}

/// Puts the items of included files (`@file`, relative to the including one) in place of their names.
pub(super) fn expand(items: Vec<Token>, including: &Path) -> Result<Vec<Token>, ConfigError> {
    expand_nested(items, including, 0)
}

fn expand_nested(items: Vec<Token>, including: &Path, depth: usize) -> Result<Vec<Token>, ConfigError> {
    let mut expanded = Vec::new();
    for item in items {
        match item.text.strip_prefix('@').filter(|name| !item.quoted && !name.is_empty()) {
            Some(name) => expanded.extend(include(name, including, depth)?),
            None => expanded.push(item),
        }
    }
    Ok(expanded)
}

fn include(name: &str, including: &Path, depth: usize) -> Result<Vec<Token>, ConfigError> {
    if depth == MAX_DEPTH {
        return Err(ConfigError::new(format!("\"@{name}\" is nested too deeply")).hint("does it include itself?"));
    }
    let path = including.parent().unwrap_or(Path::new("")).join(name);
    let mut items = Vec::new();
    for (index, line) in read_text(&path)?.lines().enumerate() {
        let place = Place { file: path.display().to_string(), line: index + 1 };
        let fields = fields(line).map_err(|error| error.at(&place))?;
        let tokens = fields.into_iter().flat_map(|field| field.items).collect();
        items.extend(expand_nested(tokens, &path, depth + 1).map_err(|error| error.at(&place))?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<Vec<String>> {
        let shown = |token: Token| if token.quoted { format!("'{}'", token.text) } else { token.text };
        let fields = fields(line).unwrap();
        fields.into_iter().map(|field| field.items.into_iter().map(shown).collect()).collect()
    }

    #[test]
    fn lines_become_fields_of_items() {
        for (line, expected) in [
            ("", &[][..]),
            ("  # all", &[]),
            ("a b\tc # d", &[&["a"][..], &["b"], &["c"]]),
            ("a,b , c d", &[&["a", "b"], &["c"], &["d"]]),
            ("a, b,c,", &[&["a", "b", "c"]]),
            ("\"all\" \"a \"\"b\"\",#\" x\"y z\"", &[&["'all'"], &["'a \"b\",#'"], &["'xy z'"]]),
            ("\"\" x", &[&["''"], &["x"]]),
            ("a#b", &[&["a"]]),
        ] {
            assert_eq!(texts(line), expected, "{line}");
        }
        assert_eq!(fields("a \"b").unwrap_err().to_string(), "quoted name has no end");
    }
}
