//! The rows and keys that the router finds in COPY data are those that PostgreSQL finds.
//!
//! Each input is loaded by a real server and cut by the router, in chunks of several sizes. Then the rows are
//! dealt to two "shards" and loaded once more: together they must hold what the one server did.

mod copy_inputs;

use bytes::Bytes;
use copy_inputs::{Input, fixed, many, random, structured};
use futures_util::SinkExt as _;
use sluice_router::copy::{CopyFormat, RowCutter, RowKey};
use sluice_test_harness::Cluster;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls};

/// `None` is NULL.
type Keys = Vec<Option<Vec<u8>>>;

/// SQLSTATE, message, and the line of the data.
type Failure = (String, String, u64);

/// What the router makes of an input: the keys, and each row's bytes.
#[derive(Debug, Default, PartialEq)]
struct Cut {
    keys: Keys,
    header: Vec<u8>,
    raw: Vec<Vec<u8>>,
}

fn cutter(input: &Input) -> RowCutter {
    let format = CopyFormat::parse(&input.sql()).expect("options of the test");
    let key_column = input.columns.split(',').position(|column| column == "k").expect("column k");
    RowCutter::new(format, key_column, "k")
}

fn cut(input: &Input, size: usize) -> Result<Cut, Failure> {
    let mut cutter = cutter(input);
    let mut cut = Cut::default();
    for chunk in input.data.chunks(size) {
        cutter.push(chunk);
        take_rows(&mut cutter, false, &mut cut)?;
    }
    take_rows(&mut cutter, true, &mut cut)?;
    Ok(cut)
}

fn take_rows(cutter: &mut RowCutter, last: bool, cut: &mut Cut) -> Result<(), Failure> {
    loop {
        let row = if last { cutter.finish() } else { cutter.next_row() };
        let row = row.map_err(|error| (error.fault.sqlstate().to_owned(), error.to_string(), error.line))?;
        let Some(row) = row else { return Ok(()) };
        match row.key {
            RowKey::Header => {
                cut.header = row.raw.to_vec();
                continue;
            }
            RowKey::Null => cut.keys.push(None),
            RowKey::Value(value) => cut.keys.push(Some(value.into_owned())),
        }
        cut.raw.push(row.raw.to_vec());
    }
}

/// A server that loads each input into an empty table.
struct Server {
    runtime: Runtime,
    client: Client,
    _cluster: Cluster,
}

impl Server {
    fn start() -> Self {
        let cluster = Cluster::start();
        cluster.psql("postgres", "CREATE TABLE t (n bigint GENERATED ALWAYS AS IDENTITY, a text, k text, z text)");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&cluster.conninfo("postgres"), NoTls).await.expect("the cluster accepts");
            tokio::spawn(connection);
            client
        });
        Self { runtime, client, _cluster: cluster }
    }

    fn load(&self, inputs: &[Input]) -> Vec<Result<Keys, Failure>> {
        inputs.iter().map(|input| self.runtime.block_on(self.load_one(input))).collect()
    }

    async fn load_one(&self, input: &Input) -> Result<Keys, Failure> {
        self.client.batch_execute("BEGIN").await.expect("BEGIN");
        let outcome = match self.copy(input).await {
            Ok(()) => Ok(self.keys().await),
            Err(error) => {
                let error = error.as_db_error().expect("an error of the server's");
                Err((error.code().code().to_owned(), error.message().to_owned(), line(error)))
            }
        };
        self.client.batch_execute("ROLLBACK").await.expect("ROLLBACK");
        outcome
    }

    async fn copy(&self, input: &Input) -> Result<(), tokio_postgres::Error> {
        let sink = self.client.copy_in::<_, Bytes>(&input.sql()).await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(Bytes::copy_from_slice(&input.data)).await?;
        sink.finish().await.map(drop)
    }

    async fn keys(&self) -> Keys {
        let rows = self.client.query("SELECT convert_to(k, 'UTF8') FROM t ORDER BY n", &[]).await.expect("the keys");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// Of the error's context, "COPY t, line 2, column k: …".
fn line(error: &DbError) -> u64 {
    let context = error.where_().and_then(|context| context.split_once("line ")).expect("a line of COPY").1;
    let digits: String = context.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("the line's number")
}

/// Errors that the router leaves to the shard: columns after the key, and the encoding.
fn is_for_the_shard(input: &Input, message: &str) -> bool {
    // Columns too many count as well.
    let other_columns = input.columns.ends_with('z') || input.data.contains(&b',');
    message.starts_with("extra data after last expected column")
        || message.starts_with("invalid byte sequence")
        || message.starts_with("missing data for column \"z\"")
        || other_columns && message.starts_with("unterminated CSV quoted field")
        || message.starts_with("wrong number of fields in header line")
        || message.starts_with("column name mismatch in header line")
}

/// Loads and cuts all inputs, and compares. Returns how many the server accepted.
fn compare(server: &Server, inputs: &[Input]) -> usize {
    let mut accepted = Vec::new();
    for (input, expected) in inputs.iter().zip(server.load(inputs)) {
        let whole = cut(input, usize::MAX);
        for size in [1, 2, 3, 7] {
            assert_eq!(cut(input, size), whole, "in chunks of {size}: {input}");
        }
        match (expected, whole) {
            (Ok(keys), Ok(cut)) => {
                assert_eq!(cut.keys, keys, "{input}");
                accepted.push((input, cut));
            }
            (Err((_, message, _)), _) if is_for_the_shard(input, &message) => {}
            (Err((_, theirs, line)), Err(ours)) if theirs.starts_with("missing data for column \"a\"") => {
                assert_eq!(ours, ("22P04".into(), "missing data for column \"k\"".into(), line), "{input}");
            }
            (expected, cut) => assert_eq!(cut.map(|cut| cut.keys), expected, "{input}"),
        }
    }
    compare_shards(server, &accepted);
    accepted.len()
}

/// Deals the rows to two shards, each of which gets the header.
fn compare_shards(server: &Server, accepted: &[(&Input, Cut)]) {
    let shard = |parity: usize| -> Vec<Input> {
        let rows = |cut: &Cut| cut.raw.iter().skip(parity).step_by(2).flatten().copied().collect();
        let data = |cut: &Cut| [cut.header.clone(), rows(cut)].concat();
        accepted.iter().map(|(input, cut)| Input { data: data(cut), ..(*input).clone() }).collect()
    };
    let shards = [server.load(&shard(0)), server.load(&shard(1))];
    for (number, (input, cut)) in accepted.iter().enumerate() {
        for (parity, shard) in shards.iter().enumerate() {
            let expected = Ok(cut.keys.iter().skip(parity).step_by(2).cloned().collect());
            assert_eq!(shard[number], expected, "shard {parity} of {input}");
        }
    }
}

#[test]
fn rows_and_keys_are_those_of_postgresql() {
    let server = Server::start();
    let inputs = fixed();
    let accepted = compare(&server, &inputs);
    assert!(accepted * 2 > inputs.len(), "only {accepted} of {} inputs were valid", inputs.len());
}

/// `SLUICE_COPY_INPUTS` sets how many inputs of each kind are tried.
#[test]
fn random_data_is_read_as_postgresql_reads_it() {
    let server = Server::start();
    let count = std::env::var("SLUICE_COPY_INPUTS").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000);
    let accepted = compare(&server, &many(&structured(), count));
    assert!(accepted * 4 > count, "only {accepted} of {count} structured inputs were valid");
    compare(&server, &many(&random(), count));
}
