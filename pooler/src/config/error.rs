//! One error for everything that can be wrong with a configuration: where, what, and what to do about it.

use std::fmt;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named on the command line, in `%include` or in a setting.
    pub file: String,
    /// Line number, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a configuration was refused. Displays as `FILE:LINE: text (hint)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where; `None` if the error belongs to no line, as with a value set on the console.
    pub place: Option<Place>,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ConfigError {
    /// An error without a place.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { place: None, text: text.into(), hint: None }
    }

    /// Says where, unless that is known already.
    pub(super) fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    /// Says in which setting, where there is no line to name.
    pub(super) fn within(mut self, setting: &str) -> Self {
        self.text = format!("{setting}: {}", self.text);
        self
    }

    /// Says what to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An unknown name, with the nearest known one as the hint if one is near.
    pub(super) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let error = Self::new(format!("unknown {what} \"{name}\""));
        match nearest(name, known) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.text)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The known name with the fewest edits to `name`, if no more than a third of it has to change.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .min()
        .filter(|(distance, _)| distance * 3 <= name.len())
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, one row at a time.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (left, right, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("pool_mod", "pool_mode", 1)]
        {
            assert_eq!(edit_distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["pool_mode", "pool_size"];
        assert_eq!(nearest("pool_mood", known.into_iter()), Some("pool_mode"));
        assert_eq!(nearest("xyz", known.into_iter()), None);
    }

    #[test]
    fn errors_show_place_text_and_hint() {
        let place = Place { file: "a.ini".into(), line: 3 };
        let error = ConfigError::new("bad").hint("do good").at(&place);
        assert_eq!(error.to_string(), "a.ini:3: bad (do good)");
        assert_eq!(ConfigError::new("bad").to_string(), "bad");
    }
}
