//! Message headers.
