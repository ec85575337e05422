//! Becoming another Unix user (`user`, `-u`).

use nix::unistd::{User, getuid, initgroups, setgid, setuid};

/// Becomes `user` (a name, or a number) with all its groups, for good.
pub fn become_user(user: &str) -> Result<(), String> {
    let found = match user.parse::<u32>() {
        Ok(uid) => User::from_uid(uid.into()),
        Err(_) => User::from_name(user),
    };
    let account = found
        .map_err(|error| format!("cannot look up user \"{user}\": {error}"))?
        .ok_or_else(|| format!("user \"{user}\" does not exist\nHINT: see settings user and -u"))?;
    if account.uid == getuid() && !account.uid.is_root() {
        return Ok(());
    }
    let name = std::ffi::CString::new(account.name).map_err(|error| error.to_string())?;
    // The user last: without it, there would be no right to change the groups.
    initgroups(&name, account.gid)
        .and_then(|()| setgid(account.gid))
        .and_then(|()| setuid(account.uid))
        .map_err(|error| format!("cannot become user \"{user}\": {error}\nHINT: only root may become another user"))
}

pub fn is_root() -> bool {
    getuid().is_root()
}
