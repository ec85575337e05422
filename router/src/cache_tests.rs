//! Lookup with analyses that only record what they were asked.

use std::cell::{Cell, RefCell};

use super::*;
use crate::key::KeyType;
use crate::map::Sharding;
use crate::template::{Access, Action, Residue, Route, Statement};

thread_local! {
    static ANALYSES: Cell<u32> = const { Cell::new(0) };
    static ASKED: RefCell<Vec<(Vec<String>, String)>> = const { RefCell::new(Vec::new()) };
}

/// A template that names the text it was made from, as a cursor's name.
fn recorded(search_path: &[String], sql: &str, fixed_literals: &[u16]) -> Template {
    ANALYSES.set(ANALYSES.get() + 1);
    ASKED.with_borrow_mut(|asked| asked.push((search_path.to_vec(), sql.into())));
    let statement = Statement {
        route: Route::Cursor(sql.into()),
        access: Access::Read,
        action: Action::None,
        residue: Residue::default(),
        outside_transaction: false,
    };
    Template { statements: Box::new([statement]), spans_agree: true, fixed_literals: fixed_literals.into() }
}

fn plain(_: &Schema, search_path: &[String], _: SearchPath, sql: &str, _: &Normalized) -> Template {
    recorded(search_path, sql, &[])
}

/// Depends on the first constant, and on the second if the first is 'deep'.
fn dependent(_: &Schema, search_path: &[String], _: SearchPath, sql: &str, _: &Normalized) -> Template {
    recorded(search_path, sql, if sql.contains("'deep'") { &[0, 1] } else { &[0] })
}

fn sharded(version: u64) -> Arc<Schema> {
    let sharding = Sharding {
        key_column: "organization_id".into(),
        key_type: KeyType::Int,
        tables: HashMap::new(),
        functions: HashMap::new(),
    };
    Arc::new(Schema { version, sharding: Some(sharding) })
}

/// The text that the found template was made from.
fn origin(router: &Router, schema: &Arc<Schema>, path: SearchPath, sql: &str) -> String {
    router.template(schema, path, true, sql.as_bytes(), |template, _, _| match &template.statements[0].route {
        Route::Cursor(text) => text.to_string(),
        route => format!("{route:?}"),
    })
}

#[test]
fn texts_that_differ_in_constants_share_a_template() {
    let (router, schema) = (Router::with_analyzer(100, plain), sharded(1));
    let path = SearchPath::default();
    assert_eq!(origin(&router, &schema, path, "select 1"), "select 1");
    assert_eq!(origin(&router, &schema, path, "select   2 -- x"), "select 1");
    assert_eq!(origin(&router, &schema, path, "select 'x'"), "select 'x'");
    assert_eq!(ANALYSES.get(), 2);
    let constants = router.template(&schema, path, true, b"select 345; ", |_, literals, separators| {
        (literals.to_vec(), separators.to_vec())
    });
    assert_eq!((constants.0[0].start, constants.0[0].end, constants.1), (7, 10, vec![10]));
}

#[test]
fn templates_of_different_scopes_are_not_mixed() {
    let router = Router::with_analyzer(100, plain);
    let path = router.search_path(&["a".into(), "public".into()]);
    assert_ne!(path, SearchPath::default());
    assert_eq!(path, router.search_path(&["a".into(), "public".into()]));
    assert_eq!(router.search_path(&["public".into()]), SearchPath::default());
    for schema in [sharded(1), sharded(2)] {
        for path in [path, SearchPath::default()] {
            for standard_strings in [true, false] {
                router.template(&schema, path, standard_strings, b"select a", |_, _, _| ());
            }
        }
    }
    assert_eq!(ANALYSES.get(), 8);
    ASKED.with_borrow(|asked| assert_eq!(asked[0].0, ["a", "public"]));
}

#[test]
fn a_new_schema_at_an_old_address_is_another_schema() {
    let router = Router::with_analyzer(100, plain);
    for version in 0..50 {
        origin(&router, &sharded(version), SearchPath::default(), "select a");
    }
    assert_eq!(ANALYSES.get(), 50);
}

#[test]
fn unsharded_databases_share_templates_whatever_their_search_path() {
    let router = Router::with_analyzer(100, plain);
    let databases: Vec<_> = (0..10).map(|_| Schema::unsharded()).collect();
    for (tenant, schema) in databases.iter().enumerate() {
        let path = router.search_path(&[format!("tenant_{tenant}")]);
        origin(&router, schema, path, "select a");
    }
    assert_eq!(ANALYSES.get(), 1);
    let hides_functions = router.search_path(&["mine".into(), "pg_catalog".into()]);
    origin(&router, &databases[0], hides_functions, "select a");
    assert_eq!(ANALYSES.get(), 2);
}

#[test]
fn search_paths_beyond_the_limit_name_no_schema() {
    let mut paths = SearchPaths::new();
    while paths.lists.len() < MOST_SEARCH_PATHS {
        let next = format!("s{}", paths.lists.len());
        assert!(paths.number(&[next]).is_some());
    }
    assert_eq!(paths.number(&["one more".into()]), None);
    assert_eq!(paths.number(&["public".into()]), Some(0));
    assert!(paths.list(SearchPath::EMPTY).is_empty());
}

#[test]
fn a_template_that_depends_on_constants_is_found_only_by_their_values() {
    let (router, schema) = (Router::with_analyzer(100, dependent), sharded(1));
    let ask = |sql: &str| origin(&router, &schema, SearchPath::default(), sql);
    assert_eq!(ask("select f('a', 1, 1)"), "select f('a', 1, 1)");
    assert_eq!(ask("select f('a', 2, 2)"), "select f('a', 1, 1)");
    assert_eq!(ask("select f('b', 1, 1)"), "select f('b', 1, 1)");
    assert_eq!(ask("select f('deep', 1, 1)"), "select f('deep', 1, 1)");
    assert_eq!(ask("select f('deep', 2, 1)"), "select f('deep', 2, 1)");
    assert_eq!(ask("select f('deep', 2, 9)"), "select f('deep', 2, 1)");
    assert_eq!(ask("select f('a', 3, 3)"), "select f('a', 1, 1)");
    assert_eq!(ANALYSES.get(), 4);
    // Another thread learns all of it from the shared tier.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert_eq!(ask("select f('deep', 2, 7)"), "select f('deep', 2, 1)");
            assert_eq!(ask("select f('b', 7, 7)"), "select f('b', 1, 1)");
            ANALYSES.get()
        });
        assert_eq!(other.join().unwrap(), 0);
    });
}

#[test]
fn a_lookup_inside_a_lookup_works() {
    let (router, schema) = (Router::with_analyzer(100, plain), sharded(1));
    let ask = |sql: &str| origin(&router, &schema, SearchPath::default(), sql);
    ask("select 1");
    let inner = router.template(&schema, SearchPath::default(), true, b"select a", |_, _, _| ask("select 2"));
    assert_eq!(inner, "select 1");
    assert_eq!(ask("select a"), "select a");
    assert_eq!(ANALYSES.get(), 2);
}

#[test]
fn routers_do_not_share_templates() {
    let schema = sharded(1);
    for _ in 0..5 {
        let router = Router::with_analyzer(100, plain);
        origin(&router, &schema, SearchPath::default(), "select a");
    }
    assert_eq!(ANALYSES.get(), 5);
}

#[test]
fn text_that_is_not_utf8_spoils_no_template() {
    let (router, schema) = (Router::with_analyzer(100, plain), sharded(1));
    let refused =
        router.template(&schema, SearchPath::default(), true, b"select '\xff'", |template, _, _| template.clone());
    assert!(matches!(&refused.statements[0].route, Route::Refused(refusal) if refusal.sqlstate == "22021"));
    assert_eq!(origin(&router, &schema, SearchPath::default(), "select 'a'"), "select 'a'");
}

#[test]
fn very_long_texts_are_not_kept() {
    let (router, schema) = (Router::with_analyzer(100, plain), sharded(1));
    let long = format!("select a{}", ", a".repeat(LONGEST_CACHED / 3));
    for _ in 0..3 {
        assert_eq!(origin(&router, &schema, SearchPath::default(), &long), long);
    }
    assert_eq!(ANALYSES.get(), 3);
}

#[test]
fn a_storm_of_templates_leaves_those_in_use() {
    let (router, schema) = (Router::with_analyzer(64, plain), sharded(1));
    let ask = |sql: &str| origin(&router, &schema, SearchPath::default(), sql);
    ask("select used");
    for number in 0..1000 {
        ask(&format!("select c{number}"));
        ask("select used");
    }
    assert_eq!(ANALYSES.get(), 1001);
}

#[test]
fn a_panic_in_the_caller_leaves_the_router_usable() {
    let (router, schema) = (Router::with_analyzer(64, plain), sharded(1));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        router.template(&schema, SearchPath::default(), true, b"select a", |_, _, _| panic!("the caller's"))
    }));
    assert!(result.is_err());
    assert_eq!(origin(&router, &schema, SearchPath::default(), "select a"), "select a");
}
