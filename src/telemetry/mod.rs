//! Tracing, metrics and the admin endpoints that every binary has.
