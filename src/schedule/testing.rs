//! Workers and requests for tests.
