//! The grammar of `pgbouncer.ini`: lines into section headers and raw entries, each with its file and line. What the
//! entries mean is none of this file's business.
//!
//! Deliberately like PgBouncer: keys may be quoted with single quotes only; `;` and `#` begin a comment only as the
//! first character of a line and behind a section header; included files go on in the section of the including one, and the section that they end
//! in stays open. A file name in `%include` is relative to the process's working directory.

use std::io::Read;
use std::path::Path;

use super::error::{ConfigError, Place};

/// How deep included files may nest.
const MAX_DEPTH: usize = 10;
/// How many bytes a file may have: room for a user list of some 400,000 SCRAM verifiers.
const MAX_FILE: u64 = 64 << 20;

/// The sections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Pgbouncer,
    Databases,
    Users,
    Peers,
}

impl Section {
    const ALL: [(&'static str, Section); 4] = [
        ("pgbouncer", Self::Pgbouncer),
        ("databases", Self::Databases),
        ("users", Self::Users),
        ("peers", Self::Peers),
    ];

    fn parse(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, section)| section)
            .ok_or_else(|| ConfigError::unknown("section", name, Self::ALL.iter().map(|(known, _)| *known)))
    }
}

/// What a line of a configuration file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub section: Section,
    pub place: Place,
    /// `None` for the header of the section itself.
    pub entry: Option<(String, String)>,
}

/// Reads a file and what it includes.
pub(super) fn read(path: &Path) -> Result<Vec<Item>, ConfigError> {
    let name = path.display().to_string();
    parse(&read_text(path)?, &name)
}

/// Parses a text under the name of a file; included files are read from disk.
pub(super) fn parse(text: &str, name: &str) -> Result<Vec<Item>, ConfigError> {
    let mut reader = Reader::default();
    reader.text(text, name, 0)?;
    Ok(reader.items)
}

/// Reads a text file whole, with errors that name it.
pub(super) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let shown = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::new(format!("cannot read file \"{shown}\": {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(
            ConfigError::new(format!("file \"{shown}\" is too large")).hint(format!("at most {MAX_FILE} bytes"))
        );
    }
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::new(format!("file \"{shown}\" is not UTF-8")))?;
    if text.contains('\0') {
        return Err(ConfigError::new(format!("file \"{shown}\" contains a NUL byte")));
    }
    Ok(text)
}

#[derive(Default)]
struct Reader {
    items: Vec<Item>,
    section: Option<Section>,
}

impl Reader {
    fn text(&mut self, text: &str, name: &str, depth: usize) -> Result<(), ConfigError> {
        for (index, line) in text.split('\n').enumerate() {
            let place = Place { file: name.to_owned(), line: index + 1 };
            self.line(line.trim_matches(is_blank), &place, depth).map_err(|error| error.at(&place))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, place: &Place, depth: usize) -> Result<(), ConfigError> {
        match line.chars().next() {
            None | Some(';' | '#') => Ok(()),
            Some('[') => self.header(line, place),
            Some('%') => self.include(line, depth),
            Some(_) => self.entry(line, place),
        }
    }

    fn header(&mut self, line: &str, place: &Place) -> Result<(), ConfigError> {
        let name = line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .filter(|(_, behind)| is_comment(behind.trim_start_matches(is_blank)))
            .map(|(name, _)| name)
            .ok_or_else(|| {
                ConfigError::new("syntax error in section header").hint("a header is [name] on a line of its own")
            })?;
        let section = Section::parse(name)?;
        self.section = Some(section);
        self.items.push(Item { section, place: place.clone(), entry: None });
        Ok(())
    }

    fn include(&mut self, line: &str, depth: usize) -> Result<(), ConfigError> {
        let file = line
            .strip_prefix("%include")
            .filter(|rest| rest.starts_with(is_blank))
            .map(|rest| rest.trim_matches(is_blank))
            .ok_or_else(|| ConfigError::new("unknown directive").hint("the only one is %include FILE"))?;
        if depth == MAX_DEPTH {
            return Err(ConfigError::new(format!("files include each other more than {MAX_DEPTH} deep")));
        }
        let text = read_text(Path::new(file))?;
        self.text(&text, file, depth + 1)
    }

    fn entry(&mut self, line: &str, place: &Place) -> Result<(), ConfigError> {
        let (key, rest) = split_key(line)?;
        let value = rest.trim_start_matches(is_blank).strip_prefix('=').ok_or_else(|| {
            ConfigError::new("syntax error: no \"=\" after the key")
                .hint("write key = value; quote unusual keys with single quotes")
        })?;
        let section = self.section.ok_or_else(|| {
            ConfigError::new(format!("\"{key}\" stands before any section")).hint("begin the file with [pgbouncer]")
        })?;
        self.items.push(Item {
            section,
            place: place.clone(),
            entry: Some((key.to_owned(), value.trim_start_matches(is_blank).to_owned())),
        });
        Ok(())
    }
}

/// Splits the key off a line. Quotes inside a quoted key cannot be had: there is no escape.
fn split_key(line: &str) -> Result<(&str, &str), ConfigError> {
    if let Some(quoted) = line.strip_prefix('\'') {
        return quoted
            .split_once('\'')
            .ok_or_else(|| ConfigError::new("syntax error: unterminated quote around the key"));
    }
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-*".contains(c))).unwrap_or(line.len());
    if end == 0 {
        return Err(ConfigError::new("syntax error: no key").hint("quote unusual keys with single quotes"));
    }
    Ok(line.split_at(end))
}

/// Whether nothing or a comment is left of a line.
fn is_comment(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with([';', '#'])
}

/// The white space of C's `isspace`.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<(String, String)> {
        let items = parse(text, "t.ini").unwrap();
        items.into_iter().filter_map(|item| item.entry).collect()
    }

    fn one(line: &str) -> (String, String) {
        entries(&format!("[pgbouncer]\n{line}\n")).remove(0)
    }

    fn error(text: &str) -> String {
        parse(text, "t.ini").unwrap_err().to_string()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn keys_and_values() {
        assert_eq!(one("a = b"), pair("a", "b"));
        assert_eq!(one("  a=b  \t\r"), pair("a", "b"));
        assert_eq!(one("a.b-c_1*\t=  x y"), pair("a.b-c_1*", "x y"));
        assert_eq!(one("* = host=x"), pair("*", "host=x"));
        assert_eq!(one("'my \"db\"' = 1"), pair("my \"db\"", "1"));
        assert_eq!(one("a ="), pair("a", ""));
        assert_eq!(one("a = 5 ; x"), pair("a", "5 ; x"));
        assert_eq!(one("a = = #"), pair("a", "= #"));
        assert_eq!(one(r"a = b\"), pair("a", r"b\"));
    }

    #[test]
    fn comments_and_empty_lines_are_skipped() {
        let text = "; one\n# two\n\n  ; three\n[users] ; five\n\t# four\na=1";
        assert_eq!(entries(text), [pair("a", "1")]);
    }

    #[test]
    fn sections_may_come_in_any_order_and_again() {
        let items = parse("[users]\n[pgbouncer]\na=1\n[users]\nb=2", "t.ini").unwrap();
        let seen: Vec<_> = items.iter().map(|item| (item.section, item.place.line, item.entry.is_some())).collect();
        assert_eq!(
            seen,
            [
                (Section::Users, 1, false),
                (Section::Pgbouncer, 2, false),
                (Section::Pgbouncer, 3, true),
                (Section::Users, 4, false),
                (Section::Users, 5, true),
            ]
        );
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, expected) in [
            ("\na = 1", "t.ini:2: \"a\" stands before any section (begin the file with [pgbouncer])"),
            ("[pgbounce]", "t.ini:1: unknown section \"pgbounce\" (did you mean \"pgbouncer\"?)"),
            ("[odd]", "t.ini:1: unknown section \"odd\""),
            ("[users", "t.ini:1: syntax error in section header (a header is [name] on a line of its own)"),
            ("[users] x", "t.ini:1: syntax error in section header (a header is [name] on a line of its own)"),
            (
                "[users]\na",
                "t.ini:2: syntax error: no \"=\" after the key (write key = value; quote unusual keys with single quotes)",
            ),
            (
                "[users]\na b = 1",
                "t.ini:2: syntax error: no \"=\" after the key (write key = value; quote unusual keys with single quotes)",
            ),
            ("[users]\n\"a\" = 1", "t.ini:2: syntax error: no key (quote unusual keys with single quotes)"),
            ("[users]\n'a = 1", "t.ini:2: syntax error: unterminated quote around the key"),
            ("%includex", "t.ini:1: unknown directive (the only one is %include FILE)"),
        ] {
            assert_eq!(error(text), expected);
        }
    }

    #[test]
    fn included_files_share_the_section() {
        let folder = std::env::temp_dir().join(format!("sluice-ini-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        std::fs::write(file("inner"), "a = 1\n[databases]\nb = 2\n").unwrap();
        std::fs::write(file("outer"), format!("%include {}\nc = 3", file("inner"))).unwrap();
        let items = parse(&format!("[users]\n%include {}\nd = 4", file("outer")), "t.ini").unwrap();
        let seen: Vec<_> =
            items.iter().filter_map(|item| Some((item.section, item.entry.as_ref()?.0.as_str()))).collect();
        assert_eq!(
            seen,
            [(Section::Users, "a"), (Section::Databases, "b"), (Section::Databases, "c"), (Section::Databases, "d"),]
        );
        assert_eq!(items[1].place.file, file("inner"));

        std::fs::write(file("loop"), format!("%include {}", file("loop"))).unwrap();
        let looped = error(&format!("\n%include {}", file("loop")));
        let expected = format!("{}:1: files include each other more than 10 deep", file("loop"));
        assert_eq!(looped, expected);

        std::fs::write(file("bad"), "[users]\n\n=").unwrap();
        let bad = error(&format!("%include {}", file("bad")));
        assert!(bad.starts_with(&format!("{}:3: ", file("bad"))), "{bad}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_without_end_is_refused() {
        assert_eq!(error("%include /dev/zero"), "t.ini:1: file \"/dev/zero\" is too large (at most 67108864 bytes)");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_texts_never_panic(text in "([^%]|[\\[\\]'=;#\n a]){0,80}", close in "\\[users\\]\n[a'* ]{0,5}[= ]{0,3}[^%]{0,9}") {
            let _ = parse(&text, "t.ini");
            let _ = parse(&close, "t.ini");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_the_line_that_asks_for_it() {
        let error = error("\n%include /does/not/exist.ini");
        assert!(error.starts_with("t.ini:2: cannot read file \"/does/not/exist.ini\": No such file"), "{error}");
    }
}
