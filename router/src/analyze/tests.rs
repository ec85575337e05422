//! Statements and where they belong: table-driven.

mod ddl;
mod fixture;
mod peers;
mod queries;
mod random;
mod session;
mod writes;
