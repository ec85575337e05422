//! What looking at relayed bytes costs: cutting messages, and scanning a stream.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice_wire::frame::{Frame, Frames, Header, check_client_header};
use sluice_wire::message::{self, Column};
use sluice_wire::scan::{Class, Scanner, Sink, Verdict};

const INT4: u32 = 23;

/// A result of `rows` rows, as a server sends it.
fn result(rows: usize) -> Vec<u8> {
    let mut out = Vec::new();
    message::row_description(&mut out, [(Column { name: "abalance", oid: INT4 }, 0)]);
    for _ in 0..rows {
        message::data_row(&mut out, [Some(&b"-4321"[..])].into_iter());
    }
    message::command_complete(&mut out, "SELECT 1");
    out.extend_from_slice(&message::READY_IDLE);
    out
}

/// As a client's request is judged, one message, complete in the buffer; and a server's response.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let mut request = Vec::new();
    message::query(&mut request, b"SELECT abalance FROM pgbench_accounts WHERE organization_id = 1234567");
    group.bench_function("query", |bencher| {
        bencher.iter(|| {
            let bytes = black_box(&request[..]);
            let header = Header::read(bytes).and_then(Result::ok);
            (header.map(|header| check_client_header(header, u32::MAX)), Frame::first(bytes).is_ok())
        });
    });
    for rows in [1, 100] {
        let response = result(rows);
        group.throughput(Throughput::Bytes(response.len() as u64));
        group.bench_function(format!("{rows} rows"), |bencher| {
            bencher.iter(|| Frames::new(black_box(&response)).filter(Result::is_ok).count());
        });
    }
    group.finish();
}

/// Holds what a relay holds: ReadyForQuery, and nothing else of a plain result.
struct Relay {
    passed: usize,
    ready: usize,
}

impl Sink for Relay {
    fn classify(&mut self, header: Header) -> Class {
        if header.tag == b'Z' { Class::Hold } else { Class::Pass }
    }

    fn message(&mut self, _: Frame<'_>) -> Verdict {
        self.ready += 1;
        Verdict::Pass
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.passed += bytes.len();
    }
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for rows in [1, 100] {
        let response = result(rows);
        group.throughput(Throughput::Bytes(response.len() as u64));
        group.bench_function(format!("{rows} rows"), |bencher| {
            let (mut scanner, mut relay) = (Scanner::default(), Relay { passed: 0, ready: 0 });
            bencher.iter(|| scanner.scan(black_box(&response), &mut relay));
            assert!(scanner.is_at_boundary() && relay.ready > 0 && relay.passed > 0);
        });
    }
    group.finish();
}

criterion_group!(benches, frames, scan);
criterion_main!(benches);
