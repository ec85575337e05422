//! Statements and where they belong: table-driven.

mod ddl;
mod fixture;
mod queries;
mod session;
mod writes;
