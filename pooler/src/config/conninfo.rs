//! The connection strings of sections `[databases]`, `[users]` and `[peers]`: `key=value` pairs separated by blanks.

use super::error::ConfigError;
use super::values::Value;

/// Splits a connection string into its pairs. A value may stand in single quotes, with `''` inside for one quote.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .map(|(key, after)| (key.trim_end(), after.trim_start()))
            .filter(|(key, _)| is_key(key))
            .ok_or_else(|| syntax_error(rest))?;
        let (value, tail) = take_value(after).ok_or_else(|| syntax_error(rest))?;
        if value.is_empty() {
            return Err(ConfigError::new(format!("empty value for \"{key}\"")).hint("leave the key out instead"));
        }
        pairs.push((key.to_owned(), value));
        rest = tail.trim_start();
    }
    Ok(pairs)
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn syntax_error(rest: &str) -> ConfigError {
    // Only the word it stumbled over: what follows may hold a password.
    let word = rest.split(['=', ' ', '\t']).next().unwrap_or_default();
    ConfigError::new(format!("syntax error in connection string near \"{word}\""))
        .hint("write key=value pairs, with values that hold blanks in single quotes")
}

/// Takes a value off the front; a quoted one has to be followed by a blank or the end.
fn take_value(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None if after.is_empty() || after.starts_with(char::is_whitespace) => {
                return Some((value, after));
            }
            None => return None,
        }
    }
}

/// A pair that is being given its meaning; parses with errors that name the key.
pub(super) struct Pair<'a> {
    pub key: &'a str,
    pub value: &'a str,
}

impl Pair<'_> {
    /// The value as any setting's type.
    pub(super) fn parse<T: Value>(&self) -> Result<T, ConfigError> {
        T::parse(self.value).map_err(|problem| self.bad(&problem))
    }

    /// A size, where a negative number says "as elsewhere".
    ///
    /// PgBouncer takes leading digits and ignores the rest, so that `5O` is 5 and `x` is no limit at all. A typing
    /// error is an error here.
    pub(super) fn size(&self) -> Result<Option<u32>, ConfigError> {
        let number: i64 = self.value.parse().map_err(|_| self.bad("must be a whole number"))?;
        match u32::try_from(number) {
            Ok(size) => Ok(Some(size)),
            Err(_) if number < 0 => Ok(None),
            Err(_) => Err(self.bad("is too large")),
        }
    }

    /// A size, where zero says "as elsewhere", too.
    pub(super) fn positive_size(&self) -> Result<Option<u32>, ConfigError> {
        Ok(self.size()?.filter(|&size| size > 0))
    }

    /// Whole seconds.
    pub(super) fn seconds(&self) -> Result<std::time::Duration, ConfigError> {
        self.value
            .parse::<u32>()
            .map(|seconds| std::time::Duration::from_secs(seconds.into()))
            .map_err(|_| self.bad("must be a whole number of seconds"))
    }

    /// A TCP port.
    pub(super) fn port(&self) -> Result<u16, ConfigError> {
        self.value.parse().ok().filter(|&port| port > 0).ok_or_else(|| self.bad("must be a port from 1 to 65535"))
    }

    fn bad(&self, problem: &str) -> ConfigError {
        let Self { key, value } = self;
        ConfigError::new(format!("bad value \"{value}\" for \"{key}\": {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn pairs_are_split_at_blanks() {
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("  host=a  port = 5 \t user= b"), [pair("host", "a"), pair("port", "5"), pair("user", "b")]);
        assert_eq!(pairs("a=b=c;d"), [pair("a", "b=c;d")]);
    }

    #[test]
    fn quotes_hold_blanks_and_quotes() {
        assert_eq!(pairs("q='select ''x y''' r = 'z'"), [pair("q", "select 'x y'"), pair("r", "z")]);
        assert_eq!(pairs("a=it's"), [pair("a", "it's")]);
    }

    #[test]
    fn broken_strings_are_refused_without_showing_what_follows() {
        for (text, expected) in [
            ("host", "syntax error in connection string near \"host\""),
            ("=x", "syntax error in connection string near \"\""),
            ("my host=x", "syntax error in connection string near \"my\""),
            ("password='top secret", "syntax error in connection string near \"password\""),
            ("a='b'c", "syntax error in connection string near \"a\""),
            ("a=", "empty value for \"a\""),
            ("a='' b=1", "empty value for \"a\""),
        ] {
            assert_eq!(parse(text).unwrap_err().text, expected);
        }
    }

    #[test]
    fn sizes_ports_and_seconds() {
        let of = |value| Pair { key: "k", value };
        assert_eq!(of("0").size(), Ok(Some(0)));
        assert_eq!(of("-1").size(), Ok(None));
        assert_eq!(of("0").positive_size(), Ok(None));
        assert_eq!(of("3").positive_size(), Ok(Some(3)));
        assert_eq!(of("30").seconds(), Ok(Duration::from_secs(30)));
        assert_eq!(of("65535").port(), Ok(65535));
        let text = |result: Result<_, ConfigError>| result.unwrap_err().to_string();
        assert_eq!(text(of("5x").size().map(|_| ())), "bad value \"5x\" for \"k\": must be a whole number");
        assert_eq!(text(of("9999999999").size().map(|_| ())), "bad value \"9999999999\" for \"k\": is too large");
        assert_eq!(text(of("0").port().map(|_| ())), "bad value \"0\" for \"k\": must be a port from 1 to 65535");
        assert_eq!(
            text(of("1.5").seconds().map(|_| ())),
            "bad value \"1.5\" for \"k\": must be a whole number of seconds"
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_strings_never_panic(text in ".{0,60}", close in "[a-z]{1,3} ?= ?['a-z ]{0,20}") {
            let _ = parse(&text);
            let _ = parse(&close);
        }
    }
}
