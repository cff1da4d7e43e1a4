//! The operator under faults: every controller's reconcile with one call of it lost, repeated, refused, or the last one of its
//! process; what the operator's account may do against what it does.

mod roles;
mod scene;
pub mod storms;
mod sweep;
