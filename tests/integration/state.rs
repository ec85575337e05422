//! Session state in transaction pooling: what SET and its kin leave behind goes with the client, on whichever server its
//! next transaction runs.

use crate::support::{Batch, Client, Login, Stand};

/// One server for everybody: each client finds what another one has set.
fn one_server() -> Stand {
    Stand::start(&["default_pool_size = 1"])
}

/// Two servers, the idle ones handed out in turn: a client hops with every transaction.
fn hopping() -> (Stand, Client) {
    let stand = Stand::start(&["default_pool_size = 2", "server_round_robin = 1"]);
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("BEGIN");
    two.ok("BEGIN");
    assert_ne!(one.backend(), two.backend());
    one.ok("COMMIT");
    two.ok("COMMIT");
    assert_ne!(one.backend(), one.backend(), "the servers are not handed out in turn");
    (stand, one)
}

/// The setting must hold on both servers.
fn assert_everywhere(client: &mut Client, sql: &str, value: &str) {
    for _ in 0..3 {
        assert_eq!(client.value(sql), value, "{sql}");
    }
}

#[test]
fn a_setting_goes_with_its_client_to_another_server() {
    let (_stand, mut client) = hopping();
    client.ok("SET work_mem = '5MB'");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    client.ok("SET SESSION statement_timeout TO 12345");
    assert_everywhere(&mut client, "SHOW statement_timeout", "12345ms");
    client.ok("SET TIME ZONE 'Asia/Kolkata'");
    assert_everywhere(&mut client, "SHOW TimeZone", "Asia/Kolkata");
    client.ok("SET app.organization = 'it''s \\ 7'");
    assert_everywhere(&mut client, "SELECT current_setting('app.organization')", "it's \\ 7");
    client.ok("RESET work_mem");
    assert_everywhere(&mut client, "SHOW work_mem", "4MB");
    client.ok("SET statement_timeout TO DEFAULT");
    assert_everywhere(&mut client, "SHOW statement_timeout", "0");
    client.ok("SET NAMES 'LATIN1'");
    assert_everywhere(&mut client, "SHOW client_encoding", "LATIN1");
    client.ok("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE");
    assert_everywhere(&mut client, "SHOW transaction_isolation", "serializable");
    client.ok("RESET ALL");
    assert_everywhere(&mut client, "SHOW TimeZone", &client_time_zone(&_stand));
    assert_everywhere(&mut client, "SHOW client_encoding", "UTF8");
    assert_everywhere(&mut client, "SHOW transaction_isolation", "read committed");
}

fn client_time_zone(stand: &Stand) -> String {
    stand.direct("SHOW TimeZone")
}

#[test]
fn set_config_goes_with_its_client_too() {
    let (_stand, mut client) = hopping();
    client.ok("SELECT set_config('work_mem', '6MB', false)");
    assert_everywhere(&mut client, "SHOW work_mem", "6MB");
    let batch = Batch::new().run("SELECT set_config('work_mem', $1, false)", &["7MB"]).sync();
    assert_eq!(client.run(batch).column(), ["7MB"]);
    assert_everywhere(&mut client, "SHOW work_mem", "7MB");
    client.ok("SELECT set_config('work_mem', '9MB', true)");
    assert_everywhere(&mut client, "SHOW work_mem", "7MB");
}

#[test]
fn a_search_path_goes_with_its_client() {
    let (stand, mut client) = hopping();
    stand.direct("CREATE SCHEMA one; CREATE SCHEMA \"Two, really\"; CREATE TABLE one.t AS SELECT 1 AS a; CREATE TABLE \"Two, really\".t AS SELECT 2 AS a");
    client.ok("SET search_path = one, public");
    assert_everywhere(&mut client, "SELECT a FROM t", "1");
    client.ok("SET search_path = \"Two, really\"");
    assert_everywhere(&mut client, "SELECT a FROM t", "2");
    client.ok("SELECT set_config('search_path', 'one', false)");
    assert_everywhere(&mut client, "SELECT a FROM t", "1");
    client.ok("RESET search_path");
    assert_eq!(client.error("SELECT a FROM t").code, "42P01");
    assert_eq!(client.error("SELECT a FROM t").code, "42P01");
}

#[test]
fn role_and_session_authorization_go_with_their_client() {
    let (stand, mut client) = hopping();
    stand.direct("CREATE ROLE auditor; CREATE ROLE clerk; GRANT auditor TO clerk");
    client.ok("SET ROLE auditor");
    assert_everywhere(&mut client, "SELECT current_user", "auditor");
    client.ok("RESET ROLE");
    assert_everywhere(&mut client, "SELECT current_user", "postgres");
    client.ok("SET SESSION AUTHORIZATION clerk");
    assert_everywhere(&mut client, "SELECT session_user", "clerk");
    client.ok("SET ROLE auditor");
    assert_everywhere(&mut client, "SELECT session_user || current_user", "clerkauditor");
    // A setting that needs rights which the role lacks was made before it, and is kept.
    client.ok("RESET SESSION AUTHORIZATION");
    assert_everywhere(&mut client, "SELECT session_user || current_user", "postgrespostgres");
    client.ok("SET log_min_duration_statement = 1000");
    client.ok("SET ROLE auditor");
    assert_everywhere(&mut client, "SELECT current_user || current_setting('log_min_duration_statement')", "auditor1s");
}

#[test]
fn a_rollback_takes_back_what_was_set() {
    let (_stand, mut client) = hopping();
    client.ok("SET work_mem = '5MB'");
    client.ok("BEGIN");
    client.ok("SET work_mem = '6MB'");
    client.ok("SET LOCAL maintenance_work_mem = '7MB'");
    assert_eq!(client.value("SHOW work_mem"), "6MB");
    client.ok("ROLLBACK");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    assert_everywhere(&mut client, "SHOW maintenance_work_mem", "64MB");
    client.ok("BEGIN");
    client.ok("SET work_mem = '6MB'");
    client.error("SELECT 1/0");
    client.ok("COMMIT");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
}

#[test]
fn set_local_ends_with_its_transaction() {
    let (_stand, mut client) = hopping();
    client.ok("BEGIN");
    client.ok("SET LOCAL work_mem = '6MB'");
    assert_eq!(client.value("SHOW work_mem"), "6MB");
    client.ok("COMMIT");
    assert_everywhere(&mut client, "SHOW work_mem", "4MB");
}

#[test]
fn savepoints_take_settings_back() {
    let (_stand, mut client) = hopping();
    client.ok("BEGIN");
    client.ok("SET work_mem = '5MB'");
    client.ok("SAVEPOINT a");
    client.ok("SET work_mem = '6MB'");
    client.ok("SAVEPOINT b");
    client.ok("SET work_mem = '7MB'");
    client.ok("RELEASE b");
    assert_eq!(client.value("SHOW work_mem"), "7MB");
    client.ok("ROLLBACK TO a");
    assert_eq!(client.value("SHOW work_mem"), "5MB");
    client.ok("SET TimeZone = 'Asia/Tokyo'");
    client.error("SELECT 1/0");
    client.ok("ROLLBACK TO SAVEPOINT a");
    client.ok("COMMIT");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    assert_everywhere(&mut client, "SHOW TimeZone", &client_time_zone(&_stand));
}

#[test]
fn commit_and_chain_keeps_settings_and_goes_on() {
    let (_stand, mut client) = hopping();
    client.ok("BEGIN");
    client.ok("SET work_mem = '5MB'");
    let answer = client.ok("COMMIT AND CHAIN");
    assert_eq!(answer.status(), Some('T'));
    client.ok("SET work_mem = '6MB'");
    client.ok("ROLLBACK AND CHAIN");
    assert_eq!(client.value("SHOW work_mem"), "5MB");
    client.ok("COMMIT");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
}

#[test]
fn two_clients_on_one_server_see_only_their_own_settings() {
    let stand = one_server();
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("SET work_mem = '5MB'");
    two.ok("SET work_mem = '6MB'");
    for _ in 0..3 {
        assert_eq!(one.value("SHOW work_mem"), "5MB");
        assert_eq!(two.value("SHOW work_mem"), "6MB");
    }
    one.ok("RESET ALL");
    assert_eq!(two.value("SHOW work_mem"), "6MB");
    assert_eq!(one.value("SHOW work_mem"), "4MB");
    assert_eq!(stand.client().value("SHOW work_mem"), "4MB");
}

#[test]
fn statements_sent_together_set_what_completed() {
    let (_stand, mut client) = hopping();
    client.ok("SELECT 1; SET work_mem = '5MB'; SELECT 2");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    // One implicit transaction: the failure takes the SET back.
    assert_eq!(client.error("SET work_mem = '6MB'; SELECT 1/0").code, "22012");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    // An explicit COMMIT inside ends the first part.
    assert_eq!(client.error("BEGIN; SET work_mem = '7MB'; COMMIT; SET work_mem = '8MB'; SELECT 1/0").code, "22012");
    assert_everywhere(&mut client, "SHOW work_mem", "7MB");
    let answer = client.query("BEGIN; SET work_mem = '8MB'; SELECT 1/0; COMMIT");
    assert_eq!(answer.status(), Some('E'));
    client.ok("ROLLBACK");
    assert_everywhere(&mut client, "SHOW work_mem", "7MB");
    let answer = client.ok("BEGIN; SET work_mem = '9MB'");
    assert_eq!(answer.status(), Some('T'));
    client.ok("COMMIT");
    assert_everywhere(&mut client, "SHOW work_mem", "9MB");
}

#[test]
fn a_set_that_fails_changes_nothing() {
    let (_stand, mut client) = hopping();
    client.ok("SET work_mem = '5MB'");
    assert_eq!(client.error("SET work_mem = 'plenty'").code, "22023");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    assert_eq!(client.error("SET no_such_setting = 1").code, "42704");
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
}

#[test]
fn a_set_that_fails_behind_a_flush_changes_nothing() {
    let (_stand, mut client) = hopping();
    client.send(&Batch::new().run("SET TimeZone = 'Asia/Tokyo'", &[]).flush().0);
    client.until(b'C');
    client.send(&Batch::new().run("SELECT 1", &[]).flush().0);
    client.until(b'C');
    let answer = client.run(Batch::new().run("SET work_mem = 'plenty'", &[]).sync());
    assert_eq!(answer.error().expect("an error").code, "22023");
    assert_everywhere(&mut client, "SHOW work_mem", "4MB");
    assert_everywhere(&mut client, "SHOW TimeZone", &client_time_zone(&_stand));
}

#[test]
fn set_works_in_the_extended_protocol_and_prepared() {
    let (_stand, mut client) = hopping();
    client.run(Batch::new().run("SET work_mem = '5MB'", &[]).sync());
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    client.run(Batch::new().parse("six", "SET work_mem = '6MB'").sync());
    assert_everywhere(&mut client, "SHOW work_mem", "5MB");
    client.run(Batch::new().run_prepared("six", &[]).sync());
    assert_everywhere(&mut client, "SHOW work_mem", "6MB");
    client.run(Batch::new().run("BEGIN", &[]).run("SET work_mem = '7MB'", &[]).run("ROLLBACK", &[]).sync());
    assert_everywhere(&mut client, "SHOW work_mem", "6MB");
    client.run(Batch::new().run("BEGIN", &[]).run("SET work_mem = '8MB'", &[]).run("COMMIT", &[]).sync());
    assert_everywhere(&mut client, "SHOW work_mem", "8MB");
}

#[test]
fn start_up_parameters_are_the_clients_own_settings() {
    let stand = one_server();
    let login = Login::default()
        .with("application_name", "billing")
        .with("TimeZone", "Asia/Tokyo")
        .with("options", "-c IntervalStyle=iso_8601");
    let mut one = stand.sluice.log_in(&login);
    let mut two = stand.client();
    assert_eq!(one.parameter("TimeZone"), Some("Asia/Tokyo"));
    for _ in 0..2 {
        assert_eq!(one.value("SHOW application_name"), "billing");
        assert_eq!(one.value("SELECT interval '1 day'"), "P1D");
        assert_eq!(two.value("SHOW application_name"), "");
        assert_eq!(two.value("SELECT interval '1 day'"), "1 day");
    }
    one.ok("SET TimeZone = 'UTC'");
    one.ok("RESET TimeZone");
    two.ok("SELECT 1");
    assert_eq!(one.value("SHOW TimeZone"), "Asia/Tokyo", "RESET goes back to what the client came with");
    one.ok("DISCARD ALL");
    assert_eq!(one.value("SHOW application_name"), "billing");
    assert_eq!(one.value("SHOW TimeZone"), "Asia/Tokyo");
}

#[test]
fn unknown_start_up_parameters_are_refused_or_ignored_as_configured() {
    let stand = Stand::start(&["ignore_startup_parameters = extra_float_digits"]);
    stand.sluice.log_in(&Login::default().with("extra_float_digits", "3")).ok("SELECT 1");
    let refused = Client::log_in(&stand.sluice.address(), &Login::default().with("geqo", "off"));
    let error = refused.err().expect("a refusal");
    assert_eq!((error.code.as_str(), error.message.as_str()), ("08P01", "unsupported startup parameter: geqo"));
}

#[test]
fn transaction_modes_are_kept_although_begin_is_sent_late() {
    let (_stand, mut client) = hopping();
    for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION ISOLATION LEVEL REPEATABLE READ"] {
        client.ok(begin);
        assert_eq!(client.value("SHOW transaction_isolation"), "repeatable read");
        client.ok("COMMIT");
    }
    client.ok("BEGIN READ ONLY");
    assert_eq!(client.error("CREATE TABLE never (a int)").code, "25006");
    client.ok("ROLLBACK");
    client.ok("BEGIN");
    client.ok("SET TRANSACTION READ ONLY");
    assert_eq!(client.error("CREATE TABLE never (a int)").code, "25006");
    client.ok("ROLLBACK");
    client.ok("CREATE TABLE now_it_goes (a int)");
}

#[test]
fn begin_and_its_kin_warn_and_fail_as_postgresql_does() {
    let (_stand, mut client) = hopping();
    let commit = client.ok("COMMIT");
    assert_eq!((commit.completed(), commit.status()), (vec!["COMMIT".to_owned()], Some('I')));
    assert_eq!(commit.notices()[0].code, "25P01");
    assert_eq!(client.error("SAVEPOINT s").code, "25P01");
    assert_eq!(client.error("ROLLBACK TO s").code, "25P01");
    client.ok("BEGIN");
    let again = client.ok("BEGIN");
    assert_eq!(again.notices().first().map(|notice| notice.code.clone()).as_deref(), Some("25001"));
    assert_eq!(client.error("ROLLBACK TO nowhere").code, "3B001");
    assert_eq!(client.query("SELECT 1").status(), Some('E'));
    client.ok("ROLLBACK");
    client.ok("BEGIN");
    assert_eq!(client.error("VACUUM").code, "25001");
    let end = client.ok("END");
    assert_eq!(end.completed(), ["ROLLBACK"]);
}

/// A client that came with settings of its own, and two servers that other clients use as well.
fn client_with_a_start(stand: &Stand) -> Client {
    let login = Login::to("postgres").with("TimeZone", "Asia/Kolkata").with("DateStyle", "German, DMY");
    stand.sluice.log_in(&login)
}

#[test]
fn reset_goes_back_to_what_the_client_came_with() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut client, mut other) = (client_with_a_start(&stand), stand.client());
    let others = other.value("SHOW TimeZone");
    for reset in ["RESET TimeZone", "SET TimeZone TO DEFAULT", "RESET ALL", "DISCARD ALL"] {
        client.ok("SET TimeZone = 'UTC'");
        client.ok(reset);
        assert_eq!(client.value("SHOW TimeZone"), "Asia/Kolkata", "{reset}");
        assert_eq!(client.value("SHOW DateStyle"), "German, DMY", "{reset}");
        assert_eq!(other.value("SHOW TimeZone"), others, "{reset}");
    }
    client.ok("SET TimeZone = 'UTC'; RESET TimeZone; SELECT 1");
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Kolkata");
    client.ok("RESET TimeZone; SET TimeZone = 'UTC'");
    assert_eq!(client.value("SHOW TimeZone"), "UTC");
}

#[test]
fn reset_in_a_transaction_does_so_at_once_and_follows_its_end() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut client = client_with_a_start(&stand);
    for reset in ["RESET TimeZone", "RESET ALL", "SET LOCAL TimeZone TO DEFAULT"] {
        client.ok("SET TimeZone = 'UTC'");
        client.ok("BEGIN");
        assert_eq!(client.value("SHOW TimeZone"), "UTC");
        client.ok(reset);
        assert_eq!(client.value("SHOW TimeZone"), "Asia/Kolkata", "{reset}");
        assert_eq!(client.value("SHOW DateStyle"), "German, DMY", "{reset}");
        client.ok("ROLLBACK");
        assert_eq!(client.value("SHOW TimeZone"), "UTC", "{reset}");
    }
    client.ok("BEGIN");
    client.ok("RESET TimeZone");
    client.ok("COMMIT");
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Kolkata");
    client.ok("SET TimeZone = 'UTC'");
    client.ok("BEGIN");
    client.ok("SET LOCAL TimeZone TO DEFAULT");
    client.ok("COMMIT");
    assert_eq!(client.value("SHOW TimeZone"), "UTC");
}

#[test]
fn what_may_not_run_in_a_transaction_is_postgresqls_to_say() {
    let stand = Stand::start(&[]);
    let mut client = stand.client();
    client.ok("BEGIN");
    let error = client.error("VACUUM");
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("25001", "VACUUM cannot run inside a transaction block")
    );
    client.ok("ROLLBACK");
    client.ok("BEGIN");
    client.ok("CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)");
    client.ok("ROLLBACK");
}

/// What the client was last told of a parameter by these messages.
fn told(answer: &crate::support::Answer, name: &str) -> Option<String> {
    let statuses = answer.messages.iter().filter(|message| message.tag == b'S');
    let mut told = statuses.filter_map(|message| {
        let mut parts = message.body.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        (parts.next()? == name).then(|| parts.next().map(std::borrow::Cow::into_owned))?
    });
    told.next_back()
}

#[test]
fn a_client_hears_what_became_of_its_parameters() {
    let stand = one_server();
    let mut client = stand.client();
    // A block that Sluice ends by itself, because it has failed it.
    client.ok("BEGIN");
    client.ok("SET IntervalStyle = 'iso_8601'");
    assert!(client.run(Batch::new().bind("", "unknown", &[]).sync()).error().is_some());
    let answer = client.ok("ROLLBACK");
    assert_eq!(told(&answer, "IntervalStyle").as_deref(), Some("postgres"));
    assert_eq!(client.value("SHOW IntervalStyle"), "postgres");
}

#[test]
fn reset_tells_the_client_its_own_start_up_value() {
    let stand = one_server();
    let mut client = stand.sluice.log_in(&Login::default().with("datestyle", "German"));
    client.ok("SET DateStyle = 'SQL'");
    client.send_query("RESET DateStyle");
    let mut told_last = told(&client.answer(), "DateStyle");
    // The answer was on its way when the start-up value was put back.
    while told_last.as_deref() != Some("German, DMY") {
        let message = client.read();
        told_last = told(&crate::support::Answer { messages: vec![message] }, "DateStyle");
    }
    assert_eq!(client.value("SHOW DateStyle"), "German, DMY");
}

#[test]
fn a_second_begin_is_postgresqls_business() {
    let stand = one_server();
    let mut client = stand.client();
    client.ok("BEGIN");
    let answer = client.ok("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY");
    assert_eq!(answer.notices()[0].code, "25001");
    assert_eq!(client.value("SHOW transaction_isolation"), "serializable");
    assert_eq!(client.error("CREATE TABLE t (a int)").code, "25006");
    client.ok("ROLLBACK");
}

#[test]
fn a_set_that_the_server_skipped_did_not_happen() {
    let (_stand, mut client) = hopping();
    client.send(&Batch::new().run("SELECT 1/0", &[]).flush().0);
    client.until(b'E');
    // Behind an error in an open pipeline.
    assert_eq!(client.run(Batch::new().run("SET work_mem = '7MB'", &[]).sync()).tags(), "Z");
    assert_everywhere(&mut client, "SHOW work_mem", "4MB");
}

#[test]
fn what_follows_the_end_of_a_block_in_one_message_is_not_part_of_it() {
    let (stand, mut client) = hopping();
    client.ok("BEGIN");
    client.ok("ROLLBACK; SET work_mem = '7MB'");
    assert_everywhere(&mut client, "SHOW work_mem", "7MB");
    assert_everywhere(&mut stand.client(), "SHOW work_mem", "4MB");
    // Without a block there is one all the same: that of the message.
    client.ok("SET work_mem = '8MB'; ROLLBACK; SELECT 1");
    assert_everywhere(&mut client, "SHOW work_mem", "7MB");
    client.ok("SET work_mem = '8MB'; COMMIT; SET work_mem = '9MB'; ROLLBACK; SELECT 1");
    assert_everywhere(&mut client, "SHOW work_mem", "8MB");
    client.ok("BEGIN; SELECT 1; COMMIT; BEGIN; SET work_mem = '5MB'");
    client.ok("ROLLBACK");
    assert_everywhere(&mut client, "SHOW work_mem", "8MB");
}

#[test]
fn a_rollback_takes_back_what_stood_before_begin_in_its_message() {
    let stand = one_server();
    let mut client = stand.client();
    for sql in ["SET work_mem = '7MB'; BEGIN", "SET work_mem = '7MB'; COMMIT; RESET ALL; BEGIN"] {
        client.ok(sql);
        client.ok("ROLLBACK");
        let expected = if sql.contains("COMMIT") { "7MB" } else { "4MB" };
        assert_eq!(client.value("SHOW work_mem"), expected, "{sql}");
        assert_eq!(stand.client().value("SHOW work_mem"), "4MB", "{sql}");
    }
    client.ok("RESET work_mem");
    client.ok("SET work_mem = '7MB'; BEGIN");
    client.ok("COMMIT");
    assert_eq!(client.value("SHOW work_mem"), "7MB");
    assert_eq!(stand.client().value("SHOW work_mem"), "4MB");
}

#[test]
fn a_block_goes_on_after_a_failure_inside_a_savepoint() {
    let stand = one_server();
    let mut client = stand.client();
    client.ok("CREATE TABLE unique_names (name text UNIQUE)");
    client.run(Batch::new().parse("put", "INSERT INTO unique_names VALUES ($1)").sync());
    let put = || Batch::new().run_prepared("put", &["a"]).sync();
    client.ok("BEGIN;");
    assert_eq!(client.run(put()).error(), None);
    client.ok("SAVEPOINT s;");
    assert_eq!(client.run(put()).error().expect("a duplicate").code, "23505");
    client.ok("ROLLBACK TO s;");
    assert_eq!(client.ok("COMMIT;").completed(), ["COMMIT"]);
    assert_eq!(client.ok("SELECT name FROM unique_names").column(), ["a"]);
}
