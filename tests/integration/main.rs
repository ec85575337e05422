//! The built program against real PostgreSQL servers and real clients: pooling, session state, prepared statements, COPY,
//! cancelling, authentication, TLS, faults and drivers. One binary, so that it is linked once.
//!
//! Every test starts what it needs and shares nothing, so they run in any order and at the same time. Each has a deadline:
//! the client's reads fail after [`support::DEADLINE`].

mod accounting;
mod auth;
mod auth_query;
mod cancel;
mod commands;
mod compare;
mod console;
mod copy;
mod dns;
mod drivers;
mod dump;
mod faults;
mod hba;
mod ldap;
mod leaks;
mod limits;
mod listen;
mod log;
mod messages;
mod model;
mod modes;
mod peers;
mod pins;
mod pipelines;
mod prepared;
mod process;
mod proxy;
mod quotas;
mod regress;
mod reload;
mod replan;
mod replication;
mod restart;
mod security;
mod settings;
mod sql_prepared;
mod state;
mod support;
mod suspend;
mod timeouts;
mod tls;
mod upkeep;
