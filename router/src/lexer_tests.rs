//! The lexer against examples, against PostgreSQL's own scanner (`pg_query::scan`), and against random text.

use pg_query::protobuf::Token;
use proptest::prelude::*;

use super::*;

fn lex_with(sql: &[u8], standard_strings: bool) -> Normalized {
    let mut normalized = Normalized::default();
    normalized.run(sql, standard_strings);
    normalized
}

fn lex(sql: &str) -> Normalized {
    lex_with(sql.as_bytes(), true)
}

/// The key with its marks made visible.
fn key(sql: &str) -> String {
    let text = lex(sql).text.into_iter().flat_map(|byte| match byte {
        0x01 => b"<I>".to_vec(),
        0x02 => b"<N>".to_vec(),
        0x03 => b"<S>".to_vec(),
        0x04 => b"<E>".to_vec(),
        0x05 => b"<U>".to_vec(),
        0x06 => b"<D>".to_vec(),
        0x07 => b"<B>".to_vec(),
        byte => vec![byte],
    });
    String::from_utf8(text.collect()).unwrap()
}

fn constants(sql: &str) -> Vec<&str> {
    let normalized = lex(sql);
    normalized.literals.iter().map(|literal| std::str::from_utf8(literal.raw(sql.as_bytes())).unwrap()).collect()
}

#[test]
fn constants_become_marks_of_their_kind() {
    for (sql, expected) in [
        ("select 1", "select <I>"),
        ("select 2147483647, 2147483648, 00002147483647", "select <I>, <N>, <I>"),
        ("select 1.5, .5, 1., 1e5, 1.e-5, .5E+3", "select <N>, <N>, <N>, <N>, <N>, <N>"),
        ("select 'a', 'it''s', ''", "select <S>, <S>, <S>"),
        (r"select E'a\'b', e'\\'", "select <E>, <E>"),
        (r"select 'a\', 1", "select <S>, <I>"),
        ("select U&'d!0061' uescape '!', U&'x'", "select <U> uescape '!', <U>"),
        ("select B'1', x'1F', n'a'", "select <B>, <B>, n<S>"),
        ("select $$a$$, $t$ $$ $t$, $1", "select <D>, <D>, $1"),
        ("select -1, +1, a-1, a -1", "select -<I>, +<I>, a-<I>, a -<I>"),
        ("select '1'::int, a[1:2]", "select <S>::int, a[<I>:<I>]"),
        ("select 'a'\n 'b', 'c' -- d\n'e'", "select <S>, <S>"),
        ("select 'a' 'b'", "select <S> <S>"),
        ("select 'a' /* \n */ 'b'", "select <S> <S>"),
        ("select E'a'\n'\\''", "select <E>"),
        ("select 1..10", "select <I>..<I>"),
        ("select 1.5.3", "select <N><N>"),
        ("select 1$1$$x$$", "select <I>$1<D>"),
    ] {
        assert_eq!(key(sql), expected, "{sql}");
    }
}

#[test]
fn what_servers_read_differently_stays_in_the_key() {
    for sql in [
        "select 0x1F",
        "select 1_000",
        "select 12abc",
        "select 1e",
        "select 1.5e",
        "select 1.a",
        "select 0b11",
        "select 1_0.5_0e1",
        "select 1é",
    ] {
        assert_eq!(key(sql), sql);
        assert!(lex(sql).literals.is_empty(), "{sql}");
    }
}

#[test]
fn names_and_parameters_stay_in_the_key() {
    for sql in [
        r#"select "a", "it""s", "1 'x' -- y", U&"d\0061""#,
        r#"select U&"d!0061" UESCAPE '!', u&x"#,
        "select a$1, a1, _x9, é1, $1::int, $12",
        "select e, b, x, u, n from t",
        "select a$$b$$ from t",
        "select $ from t",
        "select $1abc",
    ] {
        assert_eq!(key(sql), sql);
        assert!(lex(sql).literals.is_empty(), "{sql}");
    }
}

#[test]
fn white_space_and_comments_fold_to_one_space() {
    for (sql, expected) in [
        ("  select\t\n 1 \r\n", "select <I>"),
        ("select/* a /* b */ c */1", "select <I>"),
        ("select -- a\n1 -- b", "select <I>"),
        ("select/**/a", "select a"),
        ("select/***/a/****/b", "select a b"),
        ("select a:/**/:b", "select a: :b"),
        ("select 1--1\n+2", "select <I> +<I>"),
        ("select 1+--1\n2", "select <I>+ <I>"),
        ("select 1*/*x*/2, 3/ *4, a- -1", "select <I>* <I>, <I>/ *<I>, a- -<I>"),
        ("select a @-/* x */ 1", "select a @- <I>"),
        ("select 'a--b', '/* c', \"--d\", $$ -- e $$", "select <S>, <S>, \"--d\", <D>"),
        ("/* only */", ""),
        ("-- only", ""),
        ("", ""),
        (" ", ""),
    ] {
        assert_eq!(key(sql), expected, "{sql}");
    }
}

#[test]
fn constants_of_utility_statements_stay_in_the_key_but_are_reported() {
    for sql in [
        "set x = 'a'",
        "copy t from stdin (format 'csv')",
        "explain (analyze 0) select 1",
        "create table t (a int default 1)",
        "show x",
    ] {
        assert_eq!(key(sql), sql);
    }
    assert_eq!(constants("explain (analyze 0) select 'x'"), ["0", "'x'"]);
    assert_eq!(key("set x = 1; select 2; SET y = 3; (SELECT 4)"), "set x = 1; select <I>; SET y = 3; (SELECT <I>)");
    assert_eq!(key("WITH a AS (SELECT 1) SELECT 2"), "WITH a AS (SELECT <I>) SELECT <I>");
    assert_eq!(key("selects 1"), "selects 1");
    assert_eq!(key("insert_or_update 1"), "insert_or_update 1");
}

#[test]
fn separators_are_the_semicolons_outside_parentheses() {
    let sql = "select ';' ; create rule r do (a; b); select $$;$$ -- ;\n;)select \";\";";
    let found: Vec<_> = lex(sql).separators;
    let expected: Vec<u32> = [11, 36, 56, 68].to_vec();
    assert!(found.iter().all(|&at| sql.as_bytes()[at as usize] == b';'));
    assert_eq!(found, expected);
}

#[test]
fn statements_are_what_separators_leave() {
    let statements = |sql: &'static str| {
        let separators = lex(sql).separators;
        let spans: Vec<_> = statement_spans(sql.as_bytes(), &separators).collect();
        spans.into_iter().map(|span| &sql[span]).collect::<Vec<_>>()
    };
    assert_eq!(statements("select 1"), ["select 1"]);
    assert_eq!(statements(" /* a */ select 1; ;-- b\n; select ';' ;"), ["select 1", "select ';' "]);
    assert_eq!(statements(";; -- x"), [""; 0]);
    assert_eq!(statements("select 1; /* open"), ["select 1", " /* open"]);
}

#[test]
fn control_bytes_of_the_text_cannot_pass_for_marks() {
    assert_ne!(lex("select 1").text, lex("select \u{1}").text);
    assert_ne!(lex("select \u{e}1").text, lex("select \u{e}\u{1}").text);
    assert_eq!(lex("select \u{b}1").text, lex("select 1").text);
}

#[test]
fn what_never_ends_is_kept_to_the_end() {
    for rest in [
        "'a",
        "'a\n 1",
        "E'a\\'",
        "E'a\\",
        "\"a 1",
        "$$a",
        "$t$a$$",
        "/* 1",
        "/* /* */ 1",
        "B'1",
        "U&'a",
        "U&\"a",
        "U&'a' uescape '!",
    ] {
        let sql = format!("select 1, {rest}");
        let found = key(&sql);
        let expected =
            if rest.contains("uescape") { "select <I>, <U> uescape '!".into() } else { format!("select <I>, {rest}") };
        assert_eq!(found, expected, "{sql}");
    }
}

#[test]
fn backslashes_count_in_plain_strings_without_standard_strings() {
    let sql = br"select 'a\', 1, 'b'";
    assert_eq!(lex_with(sql, false).literals.len(), 1, "one string up to 'b, then b, then an open quote");
    assert_eq!(lex_with(sql, true).literals.len(), 3);
    let escaped = lex_with(br"select 'a\' b', 1", false);
    assert_eq!(escaped.text, b"select \x04, \x01");
}

/// The constants that PostgreSQL's scanner sees: kind and span.
fn scanned(sql: &str) -> Option<Vec<(LiteralKind, usize, usize)>> {
    let result = pg_query::scan(sql).ok()?;
    let mut constants = Vec::new();
    for token in &result.tokens {
        let (start, end) = (token.start as usize, token.end as usize);
        let first = sql.as_bytes()[start];
        let kind = match token.token() {
            Token::Iconst => LiteralKind::Integer,
            Token::Fconst => LiteralKind::Number,
            Token::Sconst if first == b'$' => LiteralKind::DollarString,
            Token::Sconst if first == b'e' || first == b'E' => LiteralKind::EscapeString,
            Token::Sconst => LiteralKind::String,
            Token::Usconst => LiteralKind::UnicodeString,
            Token::Bconst | Token::Xconst => LiteralKind::BitString,
            _ => continue,
        };
        constants.push((kind, start, end));
    }
    Some(constants)
}

/// Compares with PostgreSQL's scanner; `false` if that raises an error.
fn agrees_with_postgresql(sql: &str) -> bool {
    let Some(expected) = scanned(sql) else { return false };
    let normalized = lex(sql);
    let is_kept = |text: &str| text.bytes().any(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    // What is kept on purpose (see the file's head): numbers of newer servers, the character of UESCAPE.
    let expected: Vec<_> = expected
        .into_iter()
        .filter(|&(kind, start, end)| {
            let number = matches!(kind, LiteralKind::Integer | LiteralKind::Number);
            let text = &sql[start..end];
            let plain_exponent = text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
            !(number && is_kept(text) && !plain_exponent)
        })
        .collect();
    let found: Vec<_> = normalized.literals.iter().map(|l| (l.kind, l.start as usize, l.end as usize)).collect();
    assert_eq!(found, expected, "{sql:?}");
    true
}

#[test]
fn postgresql_sees_the_same_constants() {
    let statements = [
        "select 1, -1, 1.5, .5, 1., 1e10, 1.5e-3, 2147483647, 2147483648, 99999999999999999999",
        "select 'a', 'it''s', '', 'a\nb', 'a' \n 'b', 'a' -- x\n 'b' -- y\n\n'c'",
        "select 'a' /* x */ , 'b'",
        r"select E'a\'b', e'a\\', E'a''b', E'a\\'
            '\'b'",
        "select B'101', b'', X'1F', x'ab', B'1'\n'0'",
        "select N'abc', n'x'",
        "select $$a$$, $t$a$$b$t$, $a$ $b$ $a$, $é$x$é$, $$$$",
        "select $1, $2::text, $1$2, a$1, 1$1",
        "select \"a\"\"b\", \"'\", \"--\", \"$$\" from \"T\"",
        "select U&'\\0441', U&\"d\\0061\" from t",
        "select a+-1, a - -1, a*-1, a@-1, a<>-1, a->'b', a->>1, a#>>'{b}', a?|array['x'], a||'y'",
        "select a +/* c */1, a /* c */ / 2, a*/**/3, a--c\n-1, 4 --",
        "select 1::int, '1'::text, cast('2' as int), a[1], a[1:2], 1..10, 1.5.3",
        "select x.y.z, t.*, 1.e5, (1).x",
        "select /* /* nested */ 'no' */ 'yes', /***/ 1, /**//**/ 2",
        "select é, naïve1, 日本 from \"größe\" where x = 'ü'",
        "select interval '1' day, date '2020-01-01', timestamp 'now'",
        "insert into t values (1, 'a', null, true), (2, $$b$$, default, false)",
        "update t set a = a + 1, b = 'x;y' where c in (1, 2, 3) and d = any ('{1,2}'); select 2",
        "select 'a';;select 'b'; ",
        "select 0x1F, 0o17, 0b11, 1_000, 1_0.5_0",
        "select e'', e, b, x, u, n, u&x, e1'a'",
        "select a=1,b>=-2,c:=3,d=>4",
        "select 1 from t where a ~ '^\\d+$' and b like 'x\\_%' escape '\\'",
        "select 'x'\r\n'y', 'x'\r'y', 'x'\t\x0c\n\t'y'",
        "select 1 as a1, 2 a2, 3\"a3\"",
        "select $a$'$a$'b', $$'$$",
        "select B'1''0', 0x11.E'a'",
    ];
    for sql in statements {
        assert!(agrees_with_postgresql(sql), "PostgreSQL's scanner refuses {sql:?}");
    }
}

/// Tokens of a query that may stand beside each other, with white space between, in any order.
fn token() -> impl Strategy<Value = String> {
    let fixed = [
        "select",
        "from",
        "where",
        "and",
        "e",
        "E",
        "b",
        "x",
        "u",
        "n",
        "t",
        "a1",
        "_x",
        "naïve",
        "日本",
        "\"a\"",
        "\"a\"\"b'\"",
        "\"--\"",
        "(",
        ")",
        ",",
        ".",
        "[",
        "]",
        "::",
        ":=",
        "=>",
        "..",
        "+",
        "-",
        "*",
        "/",
        "<",
        ">",
        "=",
        "~",
        "!",
        "@",
        "#",
        "%",
        "^",
        "&",
        "|",
        "`",
        "?",
        "<>",
        "->",
        "->>",
        "@-",
        "$1",
        "$23",
        "U&\"d\\0061\"",
        "a$b",
    ];
    prop_oneof![
        3 => proptest::sample::select(fixed.map(String::from).to_vec()),
        2 => constant(),
    ]
}

/// A constant of any kind.
fn constant() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,12}",
        "[0-9]{1,3}\\.[0-9]{0,3}(e[+-]?[0-9]{1,2})?",
        "'([a-z\\\\\" ;$/*-]|''){0,8}'",
        "E'([a-z\" ;$/*-]|''|\\\\'|\\\\\\\\|\\\\n){0,8}'",
        "\\$\\$[a-z' ;/*-]{0,8}\\$\\$",
        "\\$q\\$([a-z' ;/*-]|\\$\\$[a-p]|\\$[0-9]){0,8}\\$q\\$",
        "B'[01]{0,8}'",
        "U&'[a-z ;]{0,8}'",
    ]
}

/// White space or comments that separate tokens without continuing a string.
fn gap() -> impl Strategy<Value = String> {
    let gaps = [" ", "  ", "\t", "\x0c ", " /* a 'b' */ ", "/* /* */ */", "\t/*--*/"];
    proptest::sample::select(gaps.map(String::from).to_vec())
}

fn joined(tokens: &[String], gaps: &[String]) -> String {
    let mut sql = String::from("select");
    for (i, token) in tokens.iter().enumerate() {
        sql += &gaps[i % gaps.len()];
        sql += token;
    }
    sql
}

/// A piece of text that stresses borders between tokens.
fn fragment() -> impl Strategy<Value = String> {
    let pieces = [
        "'", "''", "\"", "\\", "$", "$$", "$a$", "$1", "E'", "e", "U&'", "u&\"", "B'", "x'", "n'", "--", "/*", "*/",
        "\n", "\r", "\t", "\x0b", "\x0c", " ", ";", "(", ")", "1", "0x1", "1_0", "1.", ".5", "1e", "e5", "..", ".",
        "a", "_", "é", "+", "-", "*", "/", "::", "@", "=", "\x01", "\x0e", "uescape", "select", "set",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    // More than the default: these run in microseconds. `PROPTEST_CASES` raises it further.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2000)))]

    #[test]
    fn never_panics_and_spans_are_in_order(sql in proptest::collection::vec(any::<u8>(), 0..80), standard in any::<bool>()) {
        let normalized = lex_with(&sql, standard);
        let mut last = 0;
        for literal in &normalized.literals {
            prop_assert!(last <= literal.start && literal.start < literal.end && literal.end as usize <= sql.len());
            last = literal.end;
        }
        prop_assert!(normalized.separators.iter().all(|&at| sql[at as usize] == b';'));
    }

    #[test]
    fn fragments_agree_with_postgresql(sql in fragment()) {
        // The character of UESCAPE is kept on purpose.
        if !sql.contains("uescape") {
            agrees_with_postgresql(&sql);
        }
    }

    #[test]
    fn tokens_agree_with_postgresql(tokens in proptest::collection::vec(token(), 0..12), gaps in proptest::collection::vec(gap(), 1..4)) {
        prop_assert!(agrees_with_postgresql(&joined(&tokens, &gaps)));
    }

    #[test]
    fn white_space_between_tokens_does_not_matter(
        tokens in proptest::collection::vec(token(), 0..12),
        one in proptest::collection::vec(gap(), 1..4),
        other in proptest::collection::vec(gap(), 1..4),
    ) {
        prop_assert_eq!(lex(&joined(&tokens, &one)).text, lex(&joined(&tokens, &other)).text);
    }

    #[test]
    fn another_value_keeps_the_template(before in "[1-9][0-9]{0,8}", after in "[1-9][0-9]{0,8}", a in "[a-z ;]{0,9}", b in "[a-z ;-]{0,9}") {
        let sql = |number: &str, text: &str| lex(&format!("select a, {number} from t where b = '{text}' and c = ${text}$ -- {text}$ \n")).text;
        let plain = |number: &str, text: &str| lex(&format!("update t set a = '{text}', b = {number} where c = $${text}$$")).text;
        prop_assert_eq!(plain(&before, &a), plain(&after, &b));
        prop_assert_eq!(sql(&before, "x") == sql(&after, "x"), true);
    }

    /// The key tells the token sequences apart, constants' values aside: equal keys mean equal tokens to PostgreSQL.
    #[test]
    fn equal_keys_mean_equal_tokens(one in fragment(), other in fragment()) {
        let (one, other) = (format!("select {one}"), format!("select {other}"));
        if lex(&one).text == lex(&other).text
            && let (Ok(one), Ok(other)) = (pg_query::scan(&one), pg_query::scan(&other))
        {
            let kinds = |tokens: &[pg_query::protobuf::ScanToken]| {
                // The grammar takes B'…' and X'…' in the same places.
                let token = |token: &pg_query::protobuf::ScanToken| match token.token() {
                    Token::SqlComment | Token::CComment => None,
                    Token::Xconst => Some(Token::Bconst),
                    token => Some(token),
                };
                tokens.iter().filter_map(token).collect::<Vec<_>>()
            };
            prop_assert_eq!(kinds(&one.tokens), kinds(&other.tokens));
        }
    }

    #[test]
    fn another_token_changes_the_template(tokens in proptest::collection::vec(token(), 1..12), at in any::<prop::sample::Index>(), word in "z[a-z]{1,6}") {
        let gaps = [String::from(" ")];
        let mut changed = tokens.clone();
        changed[at.index(tokens.len())] = word;
        prop_assert_ne!(lex(&joined(&tokens, &gaps)).text, lex(&joined(&changed, &gaps)).text);
    }
}
