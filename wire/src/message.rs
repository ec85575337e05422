//! Messages that we originate.
