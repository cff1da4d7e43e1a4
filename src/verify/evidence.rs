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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(verdicts: &[Verdict]) -> Evidence {
        verdicts.iter().fold(Evidence::default(), |evidence, verdict| evidence.observe(verdict))
    }

    fn wrong() -> Verdict {
        Verdict::Mismatch("another token".into())
    }

    #[test]
    fn one_mismatch_brings_full_audits_two_quarantine_three_the_stake() {
        let standings = [0, 1, 2, 3].map(|n| after(&vec![wrong(); n]).standing());
        let expected = [Standing::Good, Standing::AuditEverything, Standing::Quarantined, Standing::Slashable];
        assert_eq!(standings, expected);
    }

    #[test]
    fn a_sleeper_gains_nothing_from_its_honest_past() {
        let mut verdicts = vec![Verdict::Pass; 10_000];
        assert_eq!(after(&verdicts).log_e, 0.0);
        verdicts.extend([wrong(), wrong()]);
        assert_eq!(after(&verdicts).standing(), Standing::Quarantined);
    }

    #[test]
    fn a_single_hardware_error_is_forgiven_after_a_while() {
        let mut evidence = after(&[wrong()]);
        let mut audits = 0;
        while evidence.standing() != Standing::Good {
            evidence = evidence.observe(&Verdict::Pass);
            audits += 1;
        }
        assert_eq!(audits, 232, "ln 10 / -ln(0.99 / 0.9999)");
    }

    #[test]
    fn under_the_null_the_expected_factor_is_one() {
        let factor = |verdict: &Verdict| Evidence { log_e: 50.0 }.observe(verdict).log_e - 50.0;
        let expected = NULL_MISMATCH * factor(&wrong()).exp() + (1.0 - NULL_MISMATCH) * factor(&Verdict::Pass).exp();
        assert!((expected - 1.0).abs() < 1e-9, "{expected}");
    }

    #[test]
    fn at_the_assumed_error_rate_honest_nodes_are_rarely_quarantined() {
        // 1000 nodes with 2000 audits each; the bound for one node is 2000/1000, what happens is far below.
        let mut stream = xdc_grid_exact::stream::Stream::new("xdc-grid evidence test", &[&[1; 32]]);
        let quarantined = |_: &u32| {
            let mut evidence = Evidence::default();
            (0..2000).any(|_| {
                let fails = stream.below((1.0 / NULL_MISMATCH) as u64) == 0;
                evidence = evidence.observe(&if fails { wrong() } else { Verdict::Pass });
                evidence.standing() >= Standing::Quarantined
            })
        };
        let count = (0..1000).filter(quarantined).count();
        assert!(count <= 20, "{count}");
    }

    #[test]
    fn a_damaged_record_counts_as_no_evidence() {
        assert_eq!(Evidence { log_e: f64::NAN }.observe(&Verdict::Pass).log_e, 0.0);
    }

    proptest! {
        #[test]
        fn evidence_never_falls_below_nothing_and_inconclusive_audits_say_nothing(draws in prop::collection::vec(0u8..3, 0..200)) {
            let verdict = |draw: &u8| match draw {
                0 => Verdict::Pass,
                1 => wrong(),
                _ => Verdict::Inconclusive("the verifier went away".into()),
            };
            let all: Vec<Verdict> = draws.iter().map(verdict).collect();
            let said: Vec<Verdict> = all.iter().filter(|v| !matches!(v, Verdict::Inconclusive(_))).cloned().collect();
            prop_assert!(after(&all).log_e >= 0.0);
            prop_assert_eq!(after(&all), after(&said));
        }
    }
}
