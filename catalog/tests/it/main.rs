//! The control plane against real PostgreSQL. One binary, so that it's linked once.

mod introspect;
mod recovery;
mod setup;
mod slots;
mod store;
mod watch;
