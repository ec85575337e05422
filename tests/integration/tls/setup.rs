//! Files and settings: what is refused at start, what RELOAD takes over, and what it leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sluice_test_harness::Cluster;

use super::{psql, start};
use crate::support::{Certificates, Client, Login, Request, binary, databases};

/// What the program says when it doesn't start.
fn refusal(settings: &[String]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sluice.ini");
    let text = format!(
        "[pgbouncer]\nlisten_addr =\nunix_socket_dir = {}\nlisten_port = 6432\n{}\n",
        directory.path().display(),
        settings.join("\n")
    );
    fs::write(&path, text).expect("a file");
    let output = Command::new("timeout").arg("10").arg(binary()).arg("--quiet").arg(&path).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

#[test]
fn a_setup_that_cannot_work_is_refused_at_start() {
    let certificates = Certificates::new();
    let complete = certificates.for_clients("verify-full");
    let without = |name: &str| complete.iter().filter(|line| !line.starts_with(name)).cloned().collect::<Vec<_>>();
    let with = |line: String| [complete.clone(), vec![line]].concat();
    certificates.write("rubbish.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    certificates.write("empty.crt", b"");
    certificates.issue("other", &Request::local());
    for (settings, expected) in [
        (without("client_tls_key_file"), "requires client_tls_key_file and client_tls_cert_file".to_owned()),
        (without("client_tls_cert_file"), "requires client_tls_key_file and client_tls_cert_file".to_owned()),
        (without("client_tls_ca_file"), "require client_tls_ca_file".to_owned()),
        (with("client_tls_cert_file = /missing".to_owned()), "/missing: No such file or directory".to_owned()),
        (with(format!("client_tls_cert_file = {}", certificates.file("empty.crt"))), "no certificate".to_owned()),
        (with(format!("client_tls_cert_file = {}", certificates.file("rubbish.crt"))), "invalid".to_owned()),
        (with(format!("client_tls_key_file = {}", certificates.file("other.key"))), "KeyMismatch".to_owned()),
        (vec!["auth_type = cert".to_owned()], "auth_type=cert requires client_tls_sslmode=verify-full".to_owned()),
        (vec!["server_tls_cert_file = /missing".to_owned()], "/missing: No such file or directory".to_owned()),
    ] {
        let error = refusal(&settings);
        assert!(error.starts_with("FATAL TLS setup failed: "), "{error}");
        assert!(error.to_lowercase().contains(&expected.to_lowercase()), "{expected}: {error}");
    }
    for (line, expected) in [
        ("client_tls_protocols = tlsv1.0", "sluice.ini:5: bad value \"tlsv1.0\""),
        ("server_tls_ciphers = RC4", "sluice.ini:5: bad value \"RC4\""),
        ("client_tls13_ciphers = HIGH", "failed to set the TLSv1.3 cipher suites"),
        ("client_tls_ecdhcurve = none", "sluice.ini:5: bad value \"none\""),
        ("client_tls_dheparams = 512", "sluice.ini:5: bad value \"512\""),
    ] {
        let error = refusal(&[line.to_owned()]);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let certificates = Certificates::new();
    let key = certificates.path("server.key");
    for mode in [0o644, 0o640, 0o604, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("a mode");
        let error = refusal(&certificates.for_clients("require"));
        assert!(error.contains("has group or world access"), "{mode:o}: {error}");
    }
    let servers = ["crt", "key"].map(|kind| {
        format!(
            "server_tls_{}_file = {}",
            if kind == "crt" { "cert" } else { kind },
            certificates.file(&format!("server.{kind}"))
        )
    });
    assert!(refusal(&servers).contains("has group or world access"));
}

fn shown_name(certificates: &Certificates, address: &str) -> Result<Client, String> {
    Client::log_in_by_tls(address, certificates.client_config(None, None), &Login::default())
        .map_err(|error| error.to_string())
}

#[test]
fn reload_takes_new_certificates_and_keeps_the_old_if_they_are_broken() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let mut settings = certificates.for_clients("require");
    settings.push("admin_users = postgres".to_owned());
    let sluice = start(&databases(&cluster, ""), &settings);
    let mut old = shown_name(&certificates, &sluice.address()).expect("a login");
    let mut console = sluice.log_in_by_unix_socket(&Login::to("pgbouncer"));
    let roots = format!("sslmode=verify-full sslrootcert={}", certificates.file("ca.crt"));

    // Another name: who checks it notices.
    certificates.issue("server", &Request { alternative: &["elsewhere"], ..Request::local() });
    assert_eq!(psql(&sluice, &roots, "SELECT 1"), Ok("1".to_owned()), "not before RELOAD");
    console.ok("RELOAD");
    assert!(psql(&sluice, &roots, "SELECT 1").expect_err("another name").contains("does not match host name"));
    assert_eq!(old.value("SELECT 1"), "1", "old connections stay");

    certificates.issue("server", &Request::local());
    console.ok("RELOAD");
    assert_eq!(psql(&sluice, &roots, "SELECT 1"), Ok("1".to_owned()));

    certificates.write("server.crt", b"rubbish");
    let error = console.error("RELOAD");
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("F0000", "RELOAD failed, see logs for additional details")
    );
    assert!(sluice.log().contains("TLS setup failed: failed to load client_tls_cert_file"), "{}", sluice.log());
    assert_eq!(psql(&sluice, &roots, "SELECT 1"), Ok("1".to_owned()), "the old certificate still serves");

    let answer = console.ok("SET client_tls_sslmode = 'verify-ca'");
    let notice = answer.notices().pop().expect("a notice");
    assert_eq!(notice.message, "TLS settings could not be applied, still using old configuration");
    assert_eq!(psql(&sluice, &roots, "SELECT 1"), Ok("1".to_owned()), "nor is the mode another");
}

#[test]
fn versions_ciphers_and_curves_are_chosen() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    for (line, conninfo, shown) in [
        ("client_tls_protocols = tlsv1.2", "", Some("TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384")),
        ("client_tls_protocols = tlsv1.3", "ssl_max_protocol_version=TLSv1.2", None),
        (
            "client_tls_ciphers = AES128+ECDSA",
            "ssl_max_protocol_version=TLSv1.2",
            Some("ECDHE-ECDSA-AES128-GCM-SHA256"),
        ),
        ("client_tls13_ciphers = TLS_CHACHA20_POLY1305_SHA256", "", Some("TLSv1.3/TLS_CHACHA20_POLY1305_SHA256")),
        ("client_tls_ecdhcurve = secp384r1", "", Some("ECDH=secp384r1")),
        ("client_tls_dheparams = legacy", "", Some("TLSv1.3")),
    ] {
        let mut settings = certificates.for_clients("require");
        settings.push(line.to_owned());
        let sluice = start(&databases(&cluster, ""), &settings);
        let result = psql(&sluice, &format!("sslmode=require {conninfo}"), "SELECT 1");
        assert_eq!(result.is_ok(), shown.is_some(), "{line}: {result:?}");
        assert!(shown.is_none_or(|shown| sluice.log().contains(shown)), "{line}: {}", sluice.log());
    }
}
