//! The routing decision in words, for `EXPLAIN ROUTE`.
