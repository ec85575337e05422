//! Rules as they are written, and whom they are for.

use std::fs;

use proptest::prelude::*;

use super::super::ldap::LdapBind;
use super::*;

fn hba(text: &str) -> Hba {
    Hba { rules: parse::rules(text, Path::new("hba")).unwrap() }
}

fn error(line: &str) -> String {
    parse::rules(&format!("# first\n{line}"), Path::new("hba")).unwrap_err().to_string()
}

fn applicant(address: Option<&str>) -> Applicant<'static> {
    Applicant {
        database: "sales",
        user: "ann",
        physical_replication: false,
        address: address.map(|address| address.parse().unwrap()),
        tls: false,
    }
}

fn method(hba: &Hba, applicant: &Applicant<'_>) -> Option<HbaMethod> {
    hba.find(applicant).map(|rule| rule.method.clone())
}

#[test]
fn the_first_rule_that_matches_decides() {
    let hba = hba("local all all peer\n\n# inside\nhost all bob 10.0.0.0/8 reject # not him\n\
                   host all all 10.0.0.0 255.0.0.0 md5\nhost sales ann all scram-sha-256\n");
    let bob = Applicant { user: "bob", ..applicant(Some("10.1.1.1")) };
    assert_eq!(method(&hba, &applicant(None)), Some(HbaMethod::Peer { map: None }));
    assert_eq!(method(&hba, &bob), Some(HbaMethod::Reject));
    assert_eq!(method(&hba, &applicant(Some("10.1.1.1"))), Some(HbaMethod::Md5));
    assert_eq!(method(&hba, &applicant(Some("11.1.1.1"))), Some(HbaMethod::ScramSha256));
    assert_eq!(method(&hba, &applicant(Some("::1"))), Some(HbaMethod::ScramSha256));
    assert_eq!(method(&hba, &Applicant { user: "bob", ..applicant(Some("::1")) }), None);
    assert_eq!(hba.find(&bob).unwrap().place.to_string(), "hba:4");
}

#[test]
fn encryption_may_be_asked_for() {
    let hba = hba("hostssl all all all cert map=m\nhostnossl all ann all trust\n");
    let plain = applicant(Some("::1"));
    assert_eq!(method(&hba, &plain), Some(HbaMethod::Trust));
    assert_eq!(method(&hba, &Applicant { tls: true, ..plain }), Some(HbaMethod::Cert { map: Some("m".into()) }));
    assert_eq!(method(&hba, &applicant(None)), None, "a unix socket is neither");
}

#[test]
fn names_match_as_they_say() {
    for (databases, users, expected) in [
        ("all", "all", true),
        ("sales", "ann", true),
        ("x,sales", "bob, ann", true),
        ("sameuser", "all", false),
        ("replication", "all", false),
        ("\"all\"", "all", false),
        ("all", "\"all\"", false),
        ("all", "Ann", false),
        ("Sales", "all", false),
        ("\"sales\"", "\"ann\"", true),
    ] {
        let hba = hba(&format!("local {databases} {users} trust"));
        assert_eq!(hba.find(&applicant(None)).is_some(), expected, "{databases} {users}");
    }
    let same = Applicant { database: "ann", ..applicant(None) };
    assert!(hba("local sameuser all trust").find(&same).is_some());
    let named = Applicant { database: "sameuser", ..applicant(None) };
    assert!(hba("local \"sameuser\" all trust").find(&named).is_some());
}

#[test]
fn only_replication_covers_physical_replication() {
    let physical = Applicant { physical_replication: true, ..applicant(None) };
    assert!(hba("local all,sales all trust").find(&physical).is_none());
    assert!(hba("local \"replication\" all trust").find(&physical).is_none());
    assert!(hba("local replication all trust").find(&physical).is_some());
}

#[test]
fn files_hold_long_lists() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hba");
    fs::write(directory.path().join("users"), "ann # comment\n\"bob b\", carl\n@more\n").unwrap();
    fs::write(directory.path().join("more"), "dora").unwrap();
    let rules = Hba { rules: parse::rules("local all @users,eve trust", &path).unwrap() };
    for (user, expected) in
        [("ann", true), ("bob b", true), ("carl", true), ("dora", true), ("eve", true), ("b", false)]
    {
        assert_eq!(rules.find(&Applicant { user, ..applicant(None) }).is_some(), expected, "{user}");
    }
    fs::write(directory.path().join("more"), "x\n@users").unwrap();
    let nested = parse::rules("\nlocal all @users trust", &path).unwrap_err();
    assert!(nested.to_string().contains("nested too deeply"), "{nested}");
    let missing = parse::rules("\nlocal @missing all trust", &path).unwrap_err().to_string();
    assert!(missing.contains("hba:2: cannot read file") && missing.contains("missing"), "{missing}");
}

#[test]
fn ldap_takes_the_rest_of_the_line() {
    let hba = hba("host all all all ldap ldapserver=a ldapprefix=\"cn=\"  ldapsuffix=\", dc=net\"\n");
    let Some(HbaMethod::Ldap(options)) = method(&hba, &applicant(Some("::1"))) else { panic!("no LDAP") };
    assert_eq!(options.bind, LdapBind::Simple { prefix: "cn=".into(), suffix: ", dc=net".into() });
    assert_eq!(
        error("local all all ldap ldapserver=a ldapserv=b"),
        "hba:2: unknown LDAP option \"ldapserv\" (did you mean \"ldapserver\"?)"
    );
}

#[test]
fn mistakes_are_explained_with_their_line() {
    const SHAPE: &str = "(a rule is TYPE DATABASE USER [ADDRESS [MASK]] METHOD, without ADDRESS for type local)";
    const ADDRESS: &str =
        "(use all, ADDRESS/BITS, or an address and a mask; host names, samehost and samenet are not supported)";
    const ROLES: &str =
        "(who is a member of which role only the server knows; list the users, or put them into an @file)";
    for (line, expected) in [
        ("local", format!("rule ends before its databases {SHAPE}")),
        ("local all all", format!("rule ends before its method {SHAPE}")),
        ("host all all 10.0.0.1 md5", format!("bad address \"10.0.0.1 md5\" {ADDRESS}")),
        ("host all all 10.0.0.1", format!("rule ends before its mask {SHAPE}")),
        ("host all all samenet md5", format!("bad address \"samenet\" {ADDRESS}")),
        ("host all all db.example.com md5", format!("bad address \"db.example.com\" {ADDRESS}")),
        ("hosts all all all md5", "unknown connection type \"hosts\" (did you mean \"host\"?)".into()),
        ("hostgssenc all all all md5", "unknown connection type \"hostgssenc\"".into()),
        ("local all +staff md5", format!("\"+staff\" is not supported {ROLES}")),
        ("local samerole all md5", format!("\"samerole\" is not supported {ROLES}")),
        (
            "local /^a all md5",
            "regular expression \"/^a\" is not supported for a database (quote it if it is a name)".into(),
        ),
        ("local all all ident", "method \"ident\" is not supported in a rule".into()),
        ("local all all pam", "method \"pam\" is not supported in a rule".into()),
        ("local all all scram", "unknown method \"scram\"".into()),
        ("local all all md5 map=x", "method \"md5\" has no options".into()),
        ("local all all peer mop=x", "unknown option \"mop=x\" (the only one is map=NAME)".into()),
        ("local all all md5,trust", "method is a list (one is allowed here)".into()),
        ("local \"all all md5", "quoted name has no end".into()),
    ] {
        assert_eq!(error(line), format!("hba:2: {expected}"), "{line}");
    }
}

/// Lines that are nearly rules.
fn nearly_a_rule() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "local",
        "host",
        "hostssl",
        "all",
        "sameuser",
        "\"all\"",
        "+x",
        "@nofile",
        "a,b",
        "10.0.0.0/8",
        "10.0.0.1",
        "255.0.0.0",
        "::1/128",
        "::/x",
        "md5",
        "trust",
        "peer",
        "map=m",
        "ldap",
        "#",
        "\"",
        ",",
        "é",
        "\u{a0}",
        "",
    ]);
    prop::collection::vec(word, 0..9).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic_and_errors_name_their_line(lines in prop::collection::vec(prop_oneof![nearly_a_rule(), ".{0,30}"], 0..5)) {
        let text = lines.join("\n");
        match parse::rules(&text, Path::new("hba")) {
            Ok(rules) => {
                // What is read is no more than what is there, and can be asked.
                prop_assert!(rules.len() <= text.lines().count());
                let _ = Hba { rules }.find(&applicant(Some("10.0.0.1")));
            }
            Err(error) => {
                let place = error.place.clone().expect("a place");
                let line = text.lines().nth(place.line - 1).expect("an existing line");
                // That line is to blame by itself.
                prop_assert!(parse::rules(line, Path::new("hba")).is_err(), "{error}: {line}");
            }
        }
    }
}
