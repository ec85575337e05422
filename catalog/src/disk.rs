//! The copy of the last snapshot on disk, so that an instance can start while the catalog is down.
//!
//! The file is JSON that a person can read: `{"format": 1, "sha256": …, "map": {…}}`. It is replaced whole (temporary file,
//! fsync, rename, fsync of the directory), and used only if its checksum is right and its rows make a map.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::CatalogError;
use crate::snapshot::Snapshot;

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: u32,
    /// Of the compact JSON of `map`: the layout of the file doesn't matter, its content does.
    sha256: String,
    map: Snapshot,
}

/// Where the copies of one instance are.
#[derive(Debug, Clone)]
pub struct DiskCopy {
    path: PathBuf,
}

impl DiskCopy {
    /// `<state_dir>/<database>.map.json`; what can't be in a file name is written as `%` and two hex digits.
    pub fn new(state_dir: &Path, database: &str) -> Self {
        Self { path: state_dir.join(format!("{}.map.json", file_name(database))) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the copy. Blocks on the disk.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), CatalogError> {
        let envelope = Envelope { format: FORMAT, sha256: checksum(snapshot), map: snapshot.clone() };
        serde_json::to_vec_pretty(&envelope)
            .map_err(io::Error::from)
            .and_then(|text| replace(&self.path, &text))
            .map_err(|error| self.failed(error.to_string()))
    }

    /// Reads the copy of `database`. One that is damaged, of another database, or contradicts itself is an error.
    pub fn load(&self, database: &str) -> Result<Snapshot, CatalogError> {
        let text = fs::read(&self.path).map_err(|error| self.failed(error.to_string()))?;
        let envelope: Envelope =
            serde_json::from_slice(&text).map_err(|error| self.failed(format!("it is damaged: {error}")))?;
        let Envelope { format, sha256, map } = envelope;
        if format != FORMAT {
            return Err(self.failed(format!("it has format {format}, and this version reads format {FORMAT}")));
        }
        if sha256 != checksum(&map) {
            return Err(self.failed("it is damaged: the checksum is wrong".to_owned()));
        }
        if map.database != database {
            return Err(self.failed(format!("it is of database \"{}\"", map.database)));
        }
        Ok(map)
    }

    fn failed(&self, reason: String) -> CatalogError {
        CatalogError::DiskCopy { path: self.path.clone(), reason }
    }
}

fn checksum(snapshot: &Snapshot) -> String {
    let text = serde_json::to_vec(snapshot).unwrap_or_default();
    Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file_name(database: &str) -> String {
    database
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect()
}

/// Readers see the old content or the new one, also after a power failure.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    // The process's number keeps two instances with one state_dir from writing into each other's file.
    let temporary = path.with_extension(format!("json.{}.tmp", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        // It may be half a file, or not there at all.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(database: &str) -> Snapshot {
        Snapshot {
            database: database.into(),
            key_column: "k".into(),
            key_type: "int".into(),
            map_version: 1,
            schema_version: 2,
            shards: Vec::new(),
            slots: vec![0; 4096],
            overrides: Vec::new(),
            tables: Vec::new(),
            functions: Vec::new(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let copy = DiskCopy::new(directory.path(), "epfo");
        copy.save(&snapshot("epfo")).unwrap();
        let mut newer = snapshot("epfo");
        newer.slots[7] = 1;
        copy.save(&newer).unwrap();
        assert_eq!(copy.load("epfo").unwrap(), newer);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let copy = DiskCopy::new(Path::new("/state"), "../a b");
        assert_eq!(copy.path(), Path::new("/state/%2e%2e%2fa%20b.map.json"));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let copy = DiskCopy::new(directory.path(), "epfo");
        copy.save(&snapshot("epfo")).unwrap();
        let text = fs::read(copy.path()).unwrap();
        for position in (0..text.len()).step_by(97) {
            let mut damaged = text.clone();
            // Not whitespace: the layout carries nothing.
            if damaged[position].is_ascii_whitespace() {
                continue;
            }
            damaged[position] ^= 0x01;
            fs::write(copy.path(), &damaged).unwrap();
            assert!(copy.load("epfo").is_err(), "byte {position}");
        }
        fs::write(copy.path(), &text[..text.len() / 2]).unwrap();
        assert!(copy.load("epfo").is_err());
    }

    #[test]
    fn another_databases_copy_or_another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let copy = DiskCopy::new(directory.path(), "epfo");
        copy.save(&snapshot("other")).unwrap();
        assert!(copy.load("epfo").unwrap_err().to_string().ends_with("it is of database \"other\""));
        let text = fs::read_to_string(copy.path()).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(copy.path(), text).unwrap();
        assert!(copy.load("other").unwrap_err().to_string().contains("format 2"));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let copy = DiskCopy::new(Path::new("/proc/none"), "epfo");
        assert!(copy.save(&snapshot("epfo")).unwrap_err().to_string().contains("/proc/none/epfo.map.json"));
    }
}
