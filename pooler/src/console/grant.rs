//! The right to change something, as a type: a control command can't be called without one, and only the login makes it.

/// Proof that this console connection belongs to an administrator.
#[derive(Debug)]
pub struct AdminGrant(());

impl AdminGrant {
    /// What the login found out: `admin` is true for names in `admin_users` and for the process's own Unix user.
    pub(super) fn of_login(admin: bool) -> Option<Self> {
        admin.then_some(Self(()))
    }
}
