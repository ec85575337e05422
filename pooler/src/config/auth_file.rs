//! The user list of `auth_file`: lines of `"user" "secret" anything`.
//!
//! PgBouncer stops at the first broken line and silently goes on with the users before it. Here a broken line is an
//! error: a user list that is half read locks people out.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use sluice_wire::auth::Secret;

use super::error::{ConfigError, Place};
use super::ini::read_text;
use super::users;

/// Longest secret that PgBouncer reads.
const MAX_SECRET: usize = 65_530;

/// Reads a user list.
pub(super) fn read(path: &Path) -> Result<HashMap<String, Secret>, ConfigError> {
    parse(&read_text(path)?, &path.display().to_string())
}

/// The iterations that most SCRAM verifiers have, if most secrets are SCRAM verifiers.
pub(super) fn usual_scram_iterations(secrets: &HashMap<String, Secret>) -> Option<u32> {
    let mut counts: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for secret in secrets.values() {
        let iterations = if let Secret::Scram(verifier) = secret { Some(verifier.iterations()) } else { None };
        *counts.entry(iterations).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count)?.0
}

/// Reads the lines of one; `file` is for mistakes.
pub fn parse(text: &str, file: &str) -> Result<HashMap<String, Secret>, ConfigError> {
    let mut secrets = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        let place = Place { file: file.to_owned(), line: index + 1 };
        let (user, secret) = parse_line(line).map_err(|error| error.at(&place))?;
        secrets.insert(user, secret);
    }
    Ok(secrets)
}

fn parse_line(line: &str) -> Result<(String, Secret), ConfigError> {
    let broken = || ConfigError::new("broken auth file").hint("a line is \"user\" \"secret\"");
    let (user, rest) = take_quoted(line).ok_or_else(broken)?;
    let (secret, _) = take_quoted(rest.trim_start()).ok_or_else(broken)?;
    users::check_name(&user)?;
    if secret.len() > MAX_SECRET {
        return Err(ConfigError::new(format!("secret of user \"{user}\" is too long")));
    }
    Ok((user, Secret::parse(&secret)))
}

/// Takes a double-quoted field off the front; `""` inside stands for one quote.
pub(super) fn take_quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut field = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_wire::auth::ScramVerifier;

    use super::*;

    fn plain(password: &str) -> Secret {
        Secret::Plain(password.into())
    }

    #[test]
    fn lines_hold_user_and_secret() {
        let text = "; users\n\n\"ann\" \"secret\"\n  \"b \"\"b\"\"\"\t\"p\"\"w\" \"ignored\" too\n\"c\" \"\"\r\n\
                    \"m\" \"md59d792a3a8853c2411afb9163d088c036\"\n\"ann\" \"newer\"\n";
        let secrets = parse(text, "users.txt").unwrap();
        assert_eq!(secrets.len(), 4);
        assert_eq!(secrets["ann"], plain("newer"));
        assert_eq!(secrets["b \"b\""], plain("p\"w"));
        assert_eq!(secrets["c"], plain(""));
        assert!(matches!(secrets["m"], Secret::Md5(_)));
    }

    #[test]
    fn broken_lines_are_errors_with_their_place() {
        for broken in ["ann \"x\"", "\"ann\"", "\"ann\" x", "\"ann\" \"x", "\"ann", "# no comment"] {
            let error = parse(&format!("\"a\" \"b\"\n{broken}"), "users.txt").unwrap_err();
            assert_eq!(error.to_string(), "users.txt:2: broken auth file (a line is \"user\" \"secret\")", "{broken}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let error = |line: String| parse(&line, "u").unwrap_err().to_string();
        assert_eq!(error("\"\" \"x\"".into()), "u:1: user name is empty");
        let long = format!("\"ann\" \"{}\"", "s".repeat(MAX_SECRET + 1));
        assert_eq!(error(long), "u:1: secret of user \"ann\" is too long");
    }

    #[test]
    fn the_usual_secret_is_what_most_users_have() {
        let verifier = |iterations| Secret::Scram(ScramVerifier::derive(b"x", b"salt", iterations));
        let usual = |secrets: Vec<Secret>| {
            let users = secrets.into_iter().enumerate().map(|(number, secret)| (number.to_string(), secret));
            usual_scram_iterations(&users.collect())
        };
        assert_eq!(usual(vec![]), None);
        assert_eq!(usual(vec![plain("a"), plain("b"), verifier(3)]), None);
        assert_eq!(usual(vec![verifier(3), verifier(3), verifier(2), plain("a")]), Some(3));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_lists_never_panic(text in "(.{0,10}|[\" a;\n]{0,30})") {
            let _ = parse(&text, "u");
        }
    }
}
