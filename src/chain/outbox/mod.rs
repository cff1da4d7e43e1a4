//! The write-ahead record of one transaction and its state machine. The caller persists a record between any two steps; a
//! crash anywhere repeats a step with the same bytes, and a second transaction under the same key is only ever signed after
//! proof that the first can no longer be mined. Owns no storage and no clock.

mod drive;
mod record;
mod step;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

pub use drive::{Pace, run_to_end};
pub use record::{Attempt, Inclusion, Intent, IntentKind, MAX_ATTEMPTS, OutboxRecord, OutboxState, TxCall};
pub use step::Outbox;
