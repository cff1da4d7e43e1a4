//! The operator under faults: every controller's reconcile with one call of it lost, repeated, refused, or the last one of its
//! process, with several of that at once, a cache that is behind and changes that nobody sees; what the operator's account may do
//! against what it does.

mod life;
mod random;
mod roles;
mod scene;
pub mod storms;
mod sweep;
mod unseen;
