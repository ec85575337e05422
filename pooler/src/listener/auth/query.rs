//! `auth_query`: a user's secret from PostgreSQL itself.
//!
//! It runs on a server of our own pool for `auth_user`, and nothing of the client's reaches that server but the user's name,
//! as a bound parameter: no start-up parameter, no setting, no piece of SQL. If clients use the same pool, the server has
//! its own settings back before the query runs, search_path above all.

use sluice_wire::auth::Secret;
use sluice_wire::frame::{Frame, Frames};
use sluice_wire::message;

use super::super::handshake::{Handshake, Refusal, refuse};
use super::misconfigured;
use crate::config::{Database, PoolMode};
use crate::pool::{CheckoutError, Done, Lease, Pool};
use crate::session::make_ready;

/// Longest user name and secret that PgBouncer takes.
const LONGEST: (usize, usize) = (127, 65_530);
/// One row is right, and a second one is enough to know that it isn't.
const ROWS: i32 = 2;

/// A user and its secret, `None` for one that never matches; or no such user.
type Found = Option<(String, Option<Secret>)>;

impl Handshake {
    /// The entry that `auth_query` runs on. `None`: the client asks for a database that isn't there, and nobody says where
    /// else to look.
    pub(super) fn auth_database(
        &self,
        database: Option<&Database>,
        console: bool,
    ) -> Result<Option<Database>, Refusal> {
        let Some(name) = self.config.auth_dbname(database) else {
            if console {
                let name = crate::config::CONSOLE;
                tracing::error!("{} cannot use the reserved \"{name}\" database as an auth_dbname", self.log_prefix());
                return Err(misconfigured());
            }
            return Ok(None);
        };
        if self.app.is_disabled(name) {
            return Err(refuse("57P03", format!("authentication database \"{name}\" is disabled")));
        }
        let entry = self.config.database(name);
        if entry.is_none() {
            tracing::error!("{} authentication database \"{name}\" is not configured.", self.log_prefix());
            return Err(misconfigured());
        }
        Ok(entry)
    }

    pub(super) async fn query_secret(
        &self,
        entry: &Database,
        auth_user: &str,
        query: &str,
        user: &str,
    ) -> Result<Found, Refusal> {
        let upstream = self.app.upstream_as(&self.config, entry, auth_user).map_err(Some)?;
        let home = upstream.with_map(|map| map.home());
        let pool = upstream.pool(home).ok_or_else(misconfigured)?;
        let mut lease = self.checkout(pool).await.map_err(|error| {
            tracing::error!("{} no server for auth_query: {error}", self.log_prefix());
            misconfigured()
        })?;
        match self.ask(&mut lease, query, user).await {
            Ok(found) => {
                if upstream.mode == PoolMode::Session {
                    lease.reset()
                } else {
                    lease.checkin()
                }
                Ok(found)
            }
            Err(error) => {
                tracing::error!("S: error in auth_query: {error}");
                lease.close(&format!("error in auth_query: {error}"));
                Err(misconfigured())
            }
        }
    }

    async fn checkout(&self, pool: &std::sync::Arc<Pool>) -> Result<Lease, CheckoutError> {
        match pool.wait() {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(ticket)) => ticket.await.unwrap_or(Err(CheckoutError::Removed)),
            Err(error) => Err(error),
        }
    }

    async fn ask(&self, lease: &mut Lease, query: &str, user: &str) -> Result<Found, String> {
        let none = self.app.shared.vars.intern(Vec::new());
        make_ready(lease, self.id, &none, &none).await.map_err(|report| report.message)?;
        let lost = |error: std::io::Error| error.to_string();
        lease.start_batch(&batch(query, user)).map_err(lost)?;
        let done = lease.finish(true).await.map_err(lost)?;
        read(&done)
    }
}

/// Parse, Bind, Describe, Execute, Sync of a query with one text parameter.
fn batch(query: &str, user: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(query.len() + user.len() + 64);
    // No parameter types: PostgreSQL finds them.
    message::parse(&mut out, b"", &[query.as_bytes(), &[0, 0, 0]].concat());
    // No formats (all text), one value, no formats of results (all text).
    let length = (user.len() as u32).to_be_bytes();
    message::bind(&mut out, b"", b"", &[&[0, 0, 0, 1], &length[..], user.as_bytes(), &[0, 0]].concat());
    message::frame(&mut out, b'D', |out| out.extend_from_slice(b"P\0"));
    message::frame(&mut out, b'E', |out| {
        out.push(0);
        out.extend_from_slice(&ROWS.to_be_bytes());
    });
    message::frame(&mut out, b'S', |_| {});
    out
}

fn read(done: &Done) -> Result<Found, String> {
    if let Some(error) = done.error_field(b'M') {
        return Err(format!("ERROR: {error}"));
    }
    if done.kept_too_long {
        return Err("the result is too long".to_owned());
    }
    let mut frames = Frames::new(done.kept.as_deref().unwrap_or_default());
    let rows: Vec<Frame<'_>> = frames.by_ref().filter_map(Result::ok).filter(|frame| frame.tag == b'D').collect();
    match rows.as_slice() {
        [] => Ok(None),
        [row] => read_row(row.body).map(Some),
        _ => Err("more than one row for a user".to_owned()),
    }
}

fn read_row(row: &[u8]) -> Result<(String, Option<Secret>), String> {
    let columns = columns(row).ok_or("malformed row")?;
    let [user, secret] = columns.as_slice() else {
        return Err(format!("expected 2 columns, user name and secret, but got {}", columns.len()));
    };
    let text = |value: &[u8]| str::from_utf8(value).map(str::to_owned).map_err(|_| "not UTF-8".to_owned());
    let user = text(user.ok_or("null user name")?)?;
    if user.is_empty() || user.len() > LONGEST.0 {
        return Err(format!("a user name of {} bytes", user.len()));
    }
    match secret {
        None => Ok((user, None)),
        Some(secret) if secret.len() > LONGEST.1 => Err(format!("a secret of {} bytes", secret.len())),
        Some(secret) => Ok((user, Some(Secret::parse(&text(secret)?)))),
    }
}

/// The values of a DataRow's body.
fn columns(row: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = row.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            columns.push(None);
            rest = behind;
            continue;
        };
        let (value, behind) = behind.split_at_checked(length)?;
        columns.push(Some(value));
        rest = behind;
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut out = Vec::new();
        message::data_row(&mut out, values.iter().copied());
        out
    }

    fn answer(rows: &[&[Option<&[u8]>]]) -> Result<Found, String> {
        let kept = rows.iter().flat_map(|values| row(values)).collect();
        read(&Done { kept: Some(kept), ..Done::default() })
    }

    #[test]
    fn one_row_is_a_user() {
        let plain = Secret::Plain("pw".into());
        assert_eq!(answer(&[&[Some(b"ann"), Some(b"pw")]]), Ok(Some(("ann".into(), Some(plain)))));
        assert_eq!(answer(&[&[Some(b"ann"), None]]), Ok(Some(("ann".into(), None))));
        assert_eq!(answer(&[]), Ok(None));
    }

    #[test]
    fn everything_else_is_an_error() {
        let long = vec![b'x'; LONGEST.1 + 1];
        for (rows, expected) in [
            (&[&[None, Some(&b"pw"[..])][..]][..], "null user name"),
            (&[&[Some(b"ann")]], "expected 2 columns, user name and secret, but got 1"),
            (&[&[Some(b"ann"), None, None]], "expected 2 columns, user name and secret, but got 3"),
            (&[&[]], "expected 2 columns, user name and secret, but got 0"),
            (&[&[Some(b""), None]], "a user name of 0 bytes"),
            (&[&[Some(&long[..128]), None]], "a user name of 128 bytes"),
            (&[&[Some(b"ann"), Some(&long)]], "a secret of 65531 bytes"),
            (&[&[Some(b"\xff"), None]], "not UTF-8"),
            (&[&[Some(b"a"), None], &[Some(b"b"), None]], "more than one row for a user"),
        ] {
            assert_eq!(answer(rows), Err(expected.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_rows_never_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = read_row(&body);
        }
    }
}
