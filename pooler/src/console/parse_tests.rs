//! Tests of the console's grammar.

use proptest::prelude::*;

use super::*;

fn control_of(statement: &str) -> Control {
    match parse(statement) {
        Ok(Command::Control(control)) => control,
        other => panic!("{statement}: {other:?}"),
    }
}

fn refused(statement: &str) -> String {
    let report = parse(statement).expect_err(statement);
    assert_eq!(report.sqlstate, "08P01");
    report.message
}

#[test]
fn show_and_select_are_one() {
    let pools = parse("SHOW POOLS").expect("a command");
    for statement in ["show pools;", " \t\r\nShow\n\"pools\" ; ", "SELECT pools"] {
        assert_eq!(parse(statement).as_ref(), Ok(&pools), "{statement}");
    }
    assert_eq!(parse("SHOW TimeZone").expect("faked").columns().map(|columns| columns[0].name), Some("timezone"));
}

#[test]
fn set_takes_a_word_or_a_text() {
    let set = |value: &str| Control::Set { key: "query_timeout".to_owned(), value: value.to_owned() };
    assert_eq!(control_of("SET query_timeout=15"), set("15"));
    assert_eq!(control_of("set query_timeout TO 15;"), set("15"));
    assert_eq!(control_of("SET query_timeout = '1.5'"), set("1.5"));
    assert_eq!(control_of("SET query_timeout='it''s'"), set("it's"));
    assert_eq!(control_of("SET query_timeout = ''"), set(""));
    assert_eq!(parse("SET client_encoding TO 'latin1'"), Ok(Command::SetFaked));
}

#[test]
fn what_is_no_word_is_no_command() {
    for statement in [
        "",
        ";",
        "SHOW",
        "SHOW nothing",
        "SHOW POOLS extra",
        "SHOW POOLS;;",
        "SHOW POOLS; SHOW POOLS",
        "BEGIN",
        "SELECT 1",
        "SET query_timeout=1.5",
        "SET query_timeout=-1",
        "SET query_timeout",
        "SET a 'b'",
        "PAUSE my-db",
        "PAUSE \"\"",
        "PAUSE \"open",
        "RELOAD now",
        "SHUTDOWN later",
        "SHOW\"POOLS\"",
        "EXPLAIN ROUTE",
        "EXPLAIN ROUTE FOR epfo",
        "CREATE TABLE t",
        "CREATE REFERENCE TABLE",
        "CREATE REFERENCE TABLE a.b.c",
        "DROP TABLE t",
        "SHOW FDS2",
    ] {
        assert_eq!(refused(statement), format!("invalid command '{statement}', use SHOW HELP;"), "{statement}");
    }
}

#[test]
fn long_words_are_bad_arguments() {
    assert_eq!(refused(&"x".repeat(16)), "bad arguments");
    assert!(refused(&"x".repeat(15)).starts_with("invalid command"));
    assert_eq!(refused(&format!("PAUSE {}", "x".repeat(64))), "bad arguments");
    assert_eq!(control_of(&format!("PAUSE {}", "x".repeat(63))), Control::Pause(Some("x".repeat(63))));
    assert_eq!(refused(&format!("SET a = '{}'", "x".repeat(256))), "bad arguments");
    assert!(parse(&format!("SET a = '{}'", "x".repeat(255))).is_ok());
}

#[test]
fn error_texts_end_at_the_limit() {
    let text = refused(&"é ".repeat(1000));
    assert!(text.len() <= MAX_ERROR && text.ends_with("', use SHOW HELP;"), "{text}");
}

#[test]
fn control_commands_take_a_database() {
    assert_eq!(control_of("pause"), Control::Pause(None));
    assert_eq!(control_of("RESUME \"My Db\""), Control::Resume(Some("My Db".to_owned())));
    assert_eq!(control_of("KILL_CLIENT 12"), Control::KillClient("12".to_owned()));
    assert_eq!(control_of("SHUTDOWN wait_for_servers"), Control::Shutdown(ShutdownMode::WaitForServers));
}

#[test]
fn explain_route_keeps_the_statement_as_it_is() {
    let explain = |database: Option<&str>, sql: &str| {
        Ok(Command::ExplainRoute { database: database.map(str::to_owned), sql: sql.to_owned() })
    };
    assert_eq!(parse("EXPLAIN ROUTE SELECT 1.5 ; -- x"), explain(None, "SELECT 1.5 ; -- x"));
    assert_eq!(parse("explain route for epfo select 'a''b'"), explain(Some("epfo"), "select 'a''b'"));
    assert_eq!(parse("EXPLAIN ROUTE FOR \"my db\" FETCH c"), explain(Some("my db"), "FETCH c"));
}

#[test]
fn classes_are_given_and_taken() {
    let classify = |statement: &str| match parse(statement) {
        Ok(Command::Classify(classify)) => classify,
        other => panic!("{statement}: {other:?}"),
    };
    let expected = |subject, schema: &str, name: &str, database: Option<&str>| Classify {
        subject,
        table: TableName::new(schema, name),
        database: database.map(str::to_owned),
    };
    let table = |class| Subject::Table(class);
    assert_eq!(
        classify("CREATE REFERENCE TABLE States"),
        expected(table(Some(TableClass::Reference)), "public", "states", None)
    );
    assert_eq!(
        classify("create sharded table \"S\".\"T\" in Epfo;"),
        expected(table(Some(TableClass::Sharded)), "S", "T", Some("Epfo"))
    );
    assert_eq!(
        classify("CREATE SHARD LOCAL FUNCTION app.balance"),
        expected(Subject::Function(Some(FunctionClass::ShardLocal)), "app", "balance", None)
    );
    assert_eq!(classify("DROP TABLE CLASS t"), expected(table(None), "public", "t", None));
    assert_eq!(classify("DROP FUNCTION CLASS f"), expected(Subject::Function(None), "public", "f", None));
}

proptest! {
    #[test]
    fn no_text_panics(statement in ".{0,80}") {
        let _ = parse(&statement);
    }

    #[test]
    fn command_shaped_text_does_not_panic(statement in "(show|SET|EXPLAIN ROUTE|create|drop|pause)[ \\t\"'=;.a-z0-9é]{0,40}") {
        if let Err(report) = parse(&statement) {
            prop_assert_eq!(report.sqlstate, "08P01");
        }
    }

    #[test]
    fn white_space_case_and_a_semicolon_change_nothing(
        space in "[ \\t\\r\\n]{1,5}", end in "[ \\t\\r\\n]{0,3};?[ \\t\\r\\n]{0,3}", upper in any::<bool>(), name in "[a-z0-9_]{1,20}",
    ) {
        let word = if upper { "PAUSE" } else { "pause" };
        let command = parse(&format!("{word}{space}{name}{end}"));
        prop_assert_eq!(command, Ok(Command::Control(Control::Pause(Some(name)))));
    }

    #[test]
    fn any_value_survives_its_quotes(value in "[^\\x00]{0,60}") {
        let statement = format!("SET logfile = '{}'", value.replace('\'', "''"));
        prop_assert_eq!(parse(&statement), Ok(Command::Control(Control::Set { key: "logfile".to_owned(), value })));
    }

    #[test]
    fn any_name_survives_its_quotes(name in "[^\\x00]{1,15}") {
        let statement = format!("KILL \"{}\"", name.replace('"', "\"\""));
        prop_assert_eq!(parse(&statement), Ok(Command::Control(Control::Kill(Some(name)))));
    }
}

/// What a test of the whole program takes from SHOW HELP is then every command that there is.
#[test]
fn help_names_every_command() {
    let (_, control) = include_str!("parse.rs").split_once("\nfn control(").expect("the grammar of control commands");
    let (control, _) = control.split_once("\n}\n").expect("its end");
    let commands = control.split("(\"").skip(1).filter_map(|text| text.split_once('"'));
    let shown = include_str!("show/mod.rs").split(" name: \"").skip(1).filter_map(|text| text.split_once('"'));
    let words: Vec<_> = commands.chain(shown).map(|(word, _)| word.to_ascii_uppercase()).collect();
    assert!(words.len() > 30, "{words:?}");
    let help: Vec<_> = super::super::help::TEXT.split(['\n', '\t', ' ', '|']).collect();
    for word in &words {
        assert!(help.contains(&word.as_str()), "{word} is not in SHOW HELP");
    }
}
