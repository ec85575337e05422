//! Login, from both sides.
