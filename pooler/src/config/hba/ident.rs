//! User name maps: `MAP SYSTEM-USER DATABASE-USER` on each line of `auth_ident_file`.
//!
//! As in PostgreSQL, and beyond PgBouncer, a system user that begins with `/` is a regular expression, and `\1` in the
//! database user stands for what its first group matched.

use std::collections::HashMap;
use std::path::Path;

use regex::Regex;

use super::super::error::{ConfigError, Place};
use super::read_text;
use super::tokens::{Token, fields};

/// All maps of a file, by name.
#[derive(Debug, Clone, Default)]
pub struct IdentMaps {
    maps: HashMap<String, Vec<Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    system_user: SystemUser,
    /// `None`: every user.
    database_user: Option<String>,
}

#[derive(Debug, Clone)]
enum SystemUser {
    Name(String),
    Pattern(Regex),
}

impl IdentMaps {
    /// Reads a file of maps.
    pub(in super::super) fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read_text(path)?, &path.display().to_string())
    }

    /// Whether the operating system's (or the certificate's) `system_user` may log in as `user`. Without a map, the two have
    /// to be equal; a map that isn't there lets nobody in.
    pub fn allows(&self, map: Option<&str>, system_user: &str, user: &str) -> bool {
        match map {
            None => system_user == user,
            Some(name) => {
                self.maps.get(name).is_some_and(|map| map.iter().any(|entry| entry.allows(system_user, user)))
            }
        }
    }

    /// Reads maps; `file` is for mistakes.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let mut maps = Self::default();
        for (index, line) in text.lines().enumerate() {
            let place = Place { file: file.to_owned(), line: index + 1 };
            maps.add(line).map_err(|error| error.at(&place))?;
        }
        Ok(maps)
    }

    fn add(&mut self, line: &str) -> Result<(), ConfigError> {
        let fields = fields(line)?;
        match fields.as_slice() {
            [] => Ok(()),
            [map, system_user, database_user] => {
                let map = map.single("map")?.text.clone();
                let entry = Entry::parse(system_user.single("system user")?, database_user.single("database user")?)?;
                self.maps.entry(map).or_default().push(entry);
                Ok(())
            }
            _ => Err(ConfigError::new("broken ident map").hint("a line is MAP SYSTEM-USER DATABASE-USER")),
        }
    }
}

impl Entry {
    fn parse(system_user: &Token, database_user: &Token) -> Result<Self, ConfigError> {
        let pattern = system_user.text.strip_prefix('/').filter(|_| !system_user.quoted);
        let system_user = match pattern {
            None => SystemUser::Name(system_user.text.clone()),
            Some(pattern) => SystemUser::Pattern(Regex::new(pattern).map_err(|error| {
                ConfigError::new(format!("bad regular expression \"{pattern}\": {}", one_line(&error)))
            })?),
        };
        let unsupported = ["+", "/", "@"].into_iter().find(|&sign| database_user.text.starts_with(sign));
        if let Some(sign) = unsupported.filter(|_| !database_user.quoted) {
            let text = format!("database user \"{}\" is not supported", database_user.text);
            return Err(ConfigError::new(text).hint(format!("quote it if \"{sign}\" belongs to the name")));
        }
        let entry = Self { system_user, database_user: (!database_user.is("all")).then(|| database_user.text.clone()) };
        entry.check_group()?;
        Ok(entry)
    }

    /// What `\1` stands for has to exist.
    fn check_group(&self) -> Result<(), ConfigError> {
        match (&self.system_user, &self.database_user) {
            (SystemUser::Pattern(pattern), Some(user)) if user.contains("\\1") && pattern.captures_len() < 2 => {
                Err(ConfigError::new(format!("regular expression \"{pattern}\" has no group for \"\\1\"")))
            }
            _ => Ok(()),
        }
    }

    fn allows(&self, system_user: &str, user: &str) -> bool {
        let group = match &self.system_user {
            SystemUser::Name(name) if name == system_user => None,
            SystemUser::Name(_) => return false,
            SystemUser::Pattern(pattern) => match pattern.captures(system_user) {
                Some(captures) => captures.get(1),
                None => return false,
            },
        };
        match (&self.database_user, group) {
            (None, _) => true,
            (Some(wanted), Some(group)) => wanted.replacen("\\1", group.as_str(), 1) == user,
            // A group that took no part in the match stands for nothing.
            (Some(wanted), None) => wanted == user,
        }
    }
}

fn one_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(text: &str) -> IdentMaps {
        IdentMaps::parse(text, "ident").unwrap()
    }

    #[test]
    fn without_a_map_names_have_to_be_equal() {
        let maps = maps("m root ann");
        assert!(maps.allows(None, "ann", "ann"));
        assert!(!maps.allows(None, "root", "ann"));
        assert!(!maps.allows(Some("other"), "root", "root"), "an unknown map lets nobody in");
    }

    #[test]
    fn maps_translate() {
        let maps = maps("# comment\nm root ann\nm root \"all\"\nany \"o s\" all\n");
        for (map, system_user, user, expected) in [
            ("m", "root", "ann", true),
            ("m", "root", "all", true),
            ("m", "root", "bob", false),
            ("m", "ann", "ann", false),
            ("any", "o s", "bob", true),
            ("any", "os", "bob", false),
        ] {
            assert_eq!(maps.allows(Some(map), system_user, user), expected, "{map} {system_user} {user}");
        }
    }

    #[test]
    fn regular_expressions_may_take_the_name_out_of_another() {
        let maps = maps("m /^(.*)@example\\.com$ \\1\nm /^guest guest\nq \"/^g\" guest\n");
        for (map, system_user, user, expected) in [
            ("m", "ann@example.com", "ann", true),
            ("m", "ann@example.com", "ann@example.com", false),
            ("m", "ann@exampleXcom", "ann", false),
            ("m", "guest7", "guest", true),
            ("m", "a guest", "guest", false),
            ("q", "guest", "guest", false),
            ("q", "/^g", "guest", true),
        ] {
            assert_eq!(maps.allows(Some(map), system_user, user), expected, "{map} {system_user} {user}");
        }
    }

    #[test]
    fn broken_maps_are_explained() {
        let error = |text| IdentMaps::parse(text, "ident").unwrap_err().to_string();
        assert_eq!(error("m root"), "ident:1: broken ident map (a line is MAP SYSTEM-USER DATABASE-USER)");
        assert_eq!(error("\nm a,b c"), "ident:2: system user is a list (one is allowed here)");
        assert_eq!(error("m /( x"), "ident:1: bad regular expression \"(\": error: unclosed group");
        assert_eq!(error("m /x \\1"), "ident:1: regular expression \"x\" has no group for \"\\1\"");
        assert_eq!(
            error("m x +g"),
            "ident:1: database user \"+g\" is not supported (quote it if \"+\" belongs to the name)"
        );
    }
}
