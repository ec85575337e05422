//! Certificates, keys and authorities on disk.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::setup::TlsError;

/// Where Debian and its kin keep the authorities of the web, for settings that name none.
pub const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A file's name, as errors show it, and its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    name: String,
    bytes: Vec<u8>,
}

/// Certificates that vouch for others, or for themselves.
#[derive(Debug)]
pub struct Authorities {
    pub roots: RootCertStore,
    /// The same, to recognise a peer that is in the list itself.
    pub listed: Vec<CertificateDer<'static>>,
}

impl Contents {
    /// Reads the file that `setting` names; `None` if it names none.
    pub fn read(setting: &str, path: &Path) -> Result<Option<Self>, TlsError> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let name = format!("{setting} {}", path.display());
        match fs::read(path) {
            Ok(bytes) => Ok(Some(Self { name, bytes })),
            Err(error) => Err(TlsError(format!("failed to load {name}: {error}"))),
        }
    }

    /// As [`Self::read`], for a private key: refused if others than its owner may read it.
    pub fn read_key(setting: &str, path: &Path) -> Result<Option<Self>, TlsError> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let name = format!("{setting} {}", path.display());
        let failed = |error: std::io::Error| TlsError(format!("failed to load {name}: {error}"));
        // Opened first, so that what is checked is what is read.
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if is_exposed(metadata.mode(), metadata.uid(), rustix::process::geteuid().as_raw()) {
            return Err(TlsError(format!(
                "private key file {name} has group or world access: permissions must be u=rw (0600) or less if it belongs to \
                 the pooler's user, or u=rw,g=r (0640) or less if it belongs to root"
            )));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(Self { name, bytes }))
    }

    /// The certificates in the file, in its order.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(self.unusable("no certificate in PEM format found")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// The first private key in the file.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|error| self.unusable(format_args!("{error} (an encrypted key cannot be used)")))
    }

    /// The certificates in the file, as authorities.
    pub fn authorities(&self) -> Result<Authorities, TlsError> {
        let listed = self.certificates()?;
        let mut roots = RootCertStore::empty();
        let (usable, unusable) = roots.add_parsable_certificates(listed.iter().cloned());
        if usable == 0 {
            return Err(self.unusable("no certificate in it can be used"));
        }
        if unusable > 0 {
            tracing::warn!("{}: {unusable} certificates cannot be used and are left out", self.name);
        }
        Ok(Authorities { roots, listed })
    }

    fn unusable(&self, why: impl Display) -> TlsError {
        TlsError(format!("failed to load {}: {why}", self.name))
    }
}

/// PostgreSQL's rule for key files.
fn is_exposed(mode: u32, owner: u32, user: u32) -> bool {
    (owner == user && mode & 0o077 != 0) || (owner != user && mode & 0o037 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_read_a_key_and_roots_group() {
        for (mode, owner, exposed) in [
            (0o600, 7, false),
            (0o400, 7, false),
            (0o640, 7, true),
            (0o604, 7, true),
            (0o620, 7, true),
            (0o640, 0, false),
            (0o660, 0, true),
            (0o644, 0, true),
            (0o644, 8, true),
        ] {
            assert_eq!(is_exposed(mode, owner, 7), exposed, "{mode:o} {owner}");
        }
        assert!(is_exposed(0o640, 0, 0));
    }
}
