//! Evidence against a node: a likelihood ratio that may be looked at after every audit.
//!
//! Null hypothesis: the node is honest, and one answer in [`NULL_MISMATCH`] is wrong for hardware's sake. Alternative: one in
//! [`CHEAT_RATE`] is. Each audit multiplies e by the ratio of the two, so under the null the expected factor is exactly 1.
//! e never falls below 1: good behaviour cannot be saved up to pay for later cheating (a sleeper starts from the same place
//! as a stranger). With that floor it is an e-detector (Shin, Ramdas, Rinaldo 2022): an honest node crosses a threshold of E
//! after E audits on average at the earliest, that is with a probability of at most n/E in n audits.

use serde::{Deserialize, Serialize};

use super::audit::Verdict;

/// Share of an honest node's audits that may fail: memory and compute errors, far above what hardware shows.
pub const NULL_MISMATCH: f64 = 1e-4;
/// Share of wrong answers that the alternative assumes: low, so that rare cheating adds up too.
pub const CHEAT_RATE: f64 = 1e-2;

/// Three mismatches on end give 10⁶ up to rounding; rounding must not decide.
const ROUNDING: f64 = 1e-9;

/// The e-value against a node, as its natural logarithm: 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    pub log_e: f64,
}

/// What the evidence calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    Good,
    /// e ≥ 10.
    AuditEverything,
    /// e ≥ 10³: no leases, pay held.
    Quarantined,
    /// e ≥ 10⁶: together with a confirmed dispute the stake is lost.
    Slashable,
}

impl Evidence {
    /// After one more audit. An inconclusive one says nothing.
    pub fn observe(&self, verdict: &Verdict) -> Evidence {
        let factor = match verdict {
            Verdict::Mismatch(_) => CHEAT_RATE / NULL_MISMATCH,
            Verdict::Pass => (1.0 - CHEAT_RATE) / (1.0 - NULL_MISMATCH),
            Verdict::Inconclusive(_) => 1.0,
        };
        Evidence { log_e: (self.log_e + factor.ln()).max(0.0) }
    }

    pub fn log10_e(&self) -> f64 {
        self.log_e / std::f64::consts::LN_10
    }

    pub fn standing(&self) -> Standing {
        match self.log10_e() + ROUNDING {
            e if e >= 6.0 => Standing::Slashable,
            e if e >= 3.0 => Standing::Quarantined,
            e if e >= 1.0 => Standing::AuditEverything,
            _ => Standing::Good,
        }
    }
}
