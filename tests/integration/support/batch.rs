//! Extended-protocol messages, put together by hand.

use sluice_wire::message;

/// Messages that are sent together.
#[derive(Default, Clone)]
pub struct Batch(pub Vec<u8>);

/// What follows the name in a Parse message without declared types.
fn parse_tail(sql: &str) -> Vec<u8> {
    let mut tail = sql.as_bytes().to_vec();
    tail.extend_from_slice(&[0, 0, 0]);
    tail
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Parse, its parameters' types left to PostgreSQL.
    pub fn parse(mut self, name: &str, sql: &str) -> Self {
        message::parse(&mut self.0, name.as_bytes(), &parse_tail(sql));
        self
    }

    /// Bind with text parameters; results as text.
    pub fn bind(mut self, portal: &str, statement: &str, values: &[&str]) -> Self {
        let mut tail = vec![0, 0];
        tail.extend_from_slice(&(values.len() as u16).to_be_bytes());
        for value in values {
            tail.extend_from_slice(&(value.len() as u32).to_be_bytes());
            tail.extend_from_slice(value.as_bytes());
        }
        tail.extend_from_slice(&[0, 0]);
        message::bind(&mut self.0, portal.as_bytes(), statement.as_bytes(), &tail);
        self
    }

    pub fn describe_statement(self, name: &str) -> Self {
        self.named(b'D', b'S', name)
    }

    pub fn describe_portal(self, name: &str) -> Self {
        self.named(b'D', b'P', name)
    }

    pub fn close_statement(self, name: &str) -> Self {
        self.named(b'C', b'S', name)
    }

    pub fn close_portal(self, name: &str) -> Self {
        self.named(b'C', b'P', name)
    }

    fn named(mut self, tag: u8, kind: u8, name: &str) -> Self {
        message::frame(&mut self.0, tag, |body| {
            body.push(kind);
            body.extend_from_slice(name.as_bytes());
            body.push(0);
        });
        self
    }

    /// Execute; `rows` = 0 for all.
    pub fn execute(mut self, portal: &str, rows: u32) -> Self {
        message::frame(&mut self.0, b'E', |body| {
            body.extend_from_slice(portal.as_bytes());
            body.push(0);
            body.extend_from_slice(&rows.to_be_bytes());
        });
        self
    }

    /// Unnamed Parse, Bind and Execute of one statement.
    pub fn run(self, sql: &str, values: &[&str]) -> Self {
        self.parse("", sql).bind("", "", values).execute("", 0)
    }

    /// Bind and Execute of a statement that was prepared before.
    pub fn run_prepared(self, name: &str, values: &[&str]) -> Self {
        self.bind("", name, values).execute("", 0)
    }

    pub fn copy_data(self, data: &[u8]) -> Self {
        self.raw(b'd', data)
    }

    pub fn copy_done(self) -> Self {
        self.raw(b'c', b"")
    }

    pub fn copy_fail(self, why: &str) -> Self {
        self.raw(b'f', format!("{why}\0").as_bytes())
    }

    /// Any message.
    pub fn raw(mut self, tag: u8, body: &[u8]) -> Self {
        message::frame(&mut self.0, tag, |out| out.extend_from_slice(body));
        self
    }

    pub fn query(mut self, sql: &str) -> Self {
        message::query(&mut self.0, sql.as_bytes());
        self
    }

    pub fn flush(self) -> Self {
        self.raw(b'H', b"")
    }

    pub fn sync(self) -> Self {
        self.raw(b'S', b"")
    }
}
