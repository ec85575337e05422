//! Which sockets to listen on: those that the configuration names, with those among them that another process has bound
//! already and passed on; or those that the service manager opened.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};

use super::ListenError;
use crate::config::{Config, Settings};
use crate::net::{Bound, Listening, unix_address};

/// Sockets that this process did not bind.
#[derive(Debug, Default)]
pub enum Inherited {
    #[default]
    None,
    /// From the process that this one replaces: used where the configuration names them, closed otherwise.
    FromPredecessor(Vec<Listening>),
    /// From the service manager: these are all.
    FromManager(Vec<Listening>),
}

/// The sockets, and the file to remove at the end.
pub(super) fn bind(config: &Config, inherited: Inherited) -> Result<(Vec<Listening>, Option<PathBuf>), ListenError> {
    let settings = &config.settings;
    let mut inherited = match inherited {
        Inherited::FromManager(sockets) => return Ok((activated(settings, sockets), None)),
        Inherited::FromPredecessor(sockets) => sockets,
        Inherited::None => Vec::new(),
    };
    let mut sockets = bind_tcp(settings, &mut inherited)?;
    let unix = unix_path(settings);
    if let Some(path) = &unix {
        sockets.push(bind_unix(settings, path, &mut inherited)?);
    }
    if sockets.is_empty() {
        return Err(ListenError::Nowhere);
    }
    let file = unix.filter(|path| !is_abstract(path));
    Ok((sockets, file))
}

fn activated(settings: &Settings, sockets: Vec<Listening>) -> Vec<Listening> {
    let default = Settings::default();
    for (name, is_set) in [
        ("listen_addr", settings.listen_addr != default.listen_addr),
        ("unix_socket_dir", settings.unix_socket_dir != default.unix_socket_dir),
    ] {
        if is_set {
            tracing::warn!("sockets passed from service manager, {name} ignored");
        }
    }
    for socket in &sockets {
        tracing::info!("socket passed from service manager ({})", socket.bound);
    }
    sockets
}

fn bind_tcp(settings: &Settings, inherited: &mut Vec<Listening>) -> Result<Vec<Listening>, ListenError> {
    let mut sockets = Vec::new();
    let mut last = None;
    for address in settings.listen_addr.iter() {
        for host in if address == "*" { vec!["0.0.0.0", "::"] } else { vec![address.as_str()] } {
            match bind_host(host, settings, inherited) {
                Ok(bound) => {
                    tracing::info!("listening on {host}:{}", settings.listen_port);
                    sockets.extend(bound);
                }
                Err(error) => {
                    tracing::warn!("cannot listen on {host}:{}: {error}", settings.listen_port);
                    last = Some(error);
                }
            }
        }
    }
    match last {
        Some(source) if sockets.is_empty() => {
            Err(ListenError::Tcp { addresses: settings.listen_addr.join(", "), port: settings.listen_port, source })
        }
        _ => Ok(sockets),
    }
}

fn bind_host(host: &str, settings: &Settings, inherited: &mut Vec<Listening>) -> io::Result<Vec<Listening>> {
    let addresses = (host, settings.listen_port).to_socket_addrs()?;
    addresses
        .map(|address| match take(inherited, &Bound::Tcp(address)) {
            Some(socket) => Ok(socket),
            None => bind_address(address, settings),
        })
        .collect()
}

fn take(inherited: &mut Vec<Listening>, bound: &Bound) -> Option<Listening> {
    let at = inherited.iter().position(|socket| socket.bound == *bound)?;
    Some(inherited.swap_remove(at))
}

fn bind_address(address: SocketAddr, settings: &Settings) -> io::Result<Listening> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if settings.so_reuseport {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `*` binds both families; one socket for both would take the other's port.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    listen(socket, settings)
}

fn listen(socket: Socket, settings: &Settings) -> io::Result<Listening> {
    socket.listen(i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX))?;
    Listening::adopt(socket.into())
}

/// Where the unix socket is, if there is one: a path, or (behind a zero byte) a name in the abstract namespace.
pub fn unix_path(settings: &Settings) -> Option<PathBuf> {
    let directory = settings.unix_socket_dir.to_string_lossy();
    let name = format!(".s.PGSQL.{}", settings.listen_port);
    match directory.strip_prefix('@') {
        _ if directory.is_empty() => None,
        Some(in_abstract) => Some(PathBuf::from(format!("\0{in_abstract}/{name}"))),
        None => Some(settings.unix_socket_dir.join(name)),
    }
}

fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(b"\0")
}

fn bind_unix(settings: &Settings, path: &Path, inherited: &mut Vec<Listening>) -> Result<Listening, ListenError> {
    let bound = Bound::Unix(path.to_owned());
    let socket = match take(inherited, &bound) {
        Some(socket) => socket,
        None => bind_new_unix(settings, path, &shown(&bound))?,
    };
    tracing::info!("listening on {bound}");
    Ok(socket)
}

fn shown(bound: &Bound) -> String {
    bound.to_string().trim_start_matches("unix:").to_owned()
}

/// Whether another process answers on the unix socket; one that is left over from a process that is gone doesn't count.
pub fn check_unix_socket(settings: &Settings) -> Result<(), ListenError> {
    let Some(path) = unix_path(settings) else { return Ok(()) };
    if unix_address(&path).and_then(|address| UnixStream::connect_addr(&address)).is_ok() {
        return Err(ListenError::UnixInUse { path: shown(&Bound::Unix(path)) });
    }
    Ok(())
}

fn bind_new_unix(settings: &Settings, path: &Path, shown: &str) -> Result<Listening, ListenError> {
    check_unix_socket(settings)?;
    let failed = |source| ListenError::Unix { path: shown.to_owned(), source };
    if !is_abstract(path) {
        if Path::new(&format!("{shown}.lock")).exists() {
            return Err(ListenError::Locked { path: shown.to_owned(), port: settings.listen_port });
        }
        // Nobody answers there: a leftover.
        let _ = std::fs::remove_file(path);
    }
    let bind = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        if !is_abstract(path) {
            give_to_group(path, &settings.unix_socket_group)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.unix_socket_mode.0))?;
        }
        listen(socket, settings)
    };
    bind().map_err(failed)
}

/// A name or a number; empty for the process's own group.
fn give_to_group(path: &Path, group: &str) -> io::Result<()> {
    if group.is_empty() {
        return Ok(());
    }
    let number = group.parse().ok().or(Group::from_name(group)?.map(|group| group.gid.as_raw()));
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("unix_socket_group \"{group}\" does not exist"));
    std::os::unix::fs::chown(path, None, Some(number.ok_or_else(unknown)?))
}
