//! `kubectl grid`: the commands of a person at a shell, a room each; the self-test that `helm test` runs; the audit of an epoch
//! that a stranger runs, and the vote on one by a second reporter. Reads resources with the person's own rights and signs with a key file or a remote signer that the person names; keeps
//! neither. Writes only what the person asked for by name: a job, its cancellation, a cordon.

#[cfg(feature = "operator")]
pub mod audit_epoch;
#[cfg(feature = "cli")]
pub mod cancel;
#[cfg(feature = "cli")]
pub mod command;
#[cfg(feature = "cli")]
pub mod completion;
#[cfg(feature = "chain")]
pub mod contract;
pub mod error;
#[cfg(feature = "cli")]
pub mod logs;
#[cfg(feature = "cli")]
pub mod lookup;
#[cfg(feature = "cli")]
pub mod nodes;
#[cfg(feature = "chain")]
pub mod output;
#[cfg(feature = "cli")]
pub mod results;
#[cfg(feature = "cli")]
pub mod rewards;
pub mod selftest;
#[cfg(feature = "cli")]
pub mod session;
#[cfg(feature = "cli")]
pub mod submit;
#[cfg(feature = "cli")]
pub mod top;
#[cfg(feature = "cli")]
pub mod version;
#[cfg(feature = "operator")]
pub mod vote_epoch;
#[cfg(feature = "cli")]
pub mod why;

#[cfg(feature = "cli")]
pub use command::{Cli, run};
pub use error::CliError;

/// Who writes, in the managed fields of what it writes.
#[cfg(feature = "cli")]
const FIELD_MANAGER: &str = "kubectl-grid";

/// How a command ended, as its exit code says it to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is there.
    Done,
    /// It failed for good; standard error says why.
    Failed,
    /// It is not there yet: ask again later.
    NotYet,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::NotYet => 2,
        })
    }
}
