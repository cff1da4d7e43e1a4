//! Which answers are audited, and what a replay says about one.
//!
//! Selection is a PRF under a secret of the epoch over the receipt, so a worker cannot know at generation time, and anybody
//! can check it once the secret is published. A comparison ends in one of three ways; whatever is unknown or broken on our
//! side is `Inconclusive` and never counts against a worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{merkle::Hash, profile::is_exact};
use crate::protocol::{
    fields::{RequestField, RequestFields},
    receipt::Receipt,
    wire::Replay,
};

/// Audits that a new node must pass before it is audited less than always.
pub const PROBATION_AUDITS: u64 = 20;
/// Audits after probation in which the excess over the floor falls to 1/e.
const DECAY_AUDITS: f64 = 20.0;
/// log₁₀ of the e-value at which everything is audited again.
const SUSPICION_LOG10: f64 = 1.0;

/// Whether this receipt is audited, at `percent` (100 and more: always).
pub fn selected(epoch_secret: &Hash, receipt_hash: &Hash, percent: u8) -> bool {
    let mut draw = [0; 8];
    let mut output = blake3::Hasher::new_derive_key("xdc-grid audit selection v1");
    output.update(epoch_secret).update(receipt_hash).finalize_xof().fill(&mut draw);
    (u128::from(u64::from_le_bytes(draw)) * 100) >> 64 < u128::from(percent)
}

/// Share of a node's answers to audit, in percent: all during probation and under suspicion, then falling to `floor`.
pub fn sample_percent(audits_passed: u64, log10_e: f64, floor: u8) -> u8 {
    let floor = floor.min(100);
    // Written so that a NaN counts as suspicion.
    let trusted = log10_e < SUSPICION_LOG10;
    let Some(since) = audits_passed.checked_sub(PROBATION_AUDITS).filter(|_| trusted) else { return 100 };
    let excess = f64::from(100 - floor) * (-(since as f64) / DECAY_AUDITS).exp();
    (f64::from(floor) + excess).round() as u8
}

/// What a replay says about an answer. The strings are sentences for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "message")]
pub enum Verdict {
    Pass,
    /// What differs: this answer did not come from that model on that input.
    Mismatch(String),
    /// Why the replay proves nothing either way.
    Inconclusive(String),
}

/// The part of a kernel profile that the answer to a request with these fields depends on. Behind a plus sign a profile names how the tokens
/// are found that may come next in a form (`response_format`): engines that differ in nothing else judge one another's answers without one.
pub fn relevant(profile: &str, fields: RequestFields) -> &str {
    match profile.split_once('+') {
        Some((arithmetic, _)) if !fields.contains(RequestField::ResponseFormat) => arithmetic,
        _ => profile,
    }
}

/// Whether a replay under one profile, or the [`relevant`] part of it, can convict or clear an answer made under the other. A worker that no verifier can
/// judge must not be paid as if it had been judged: otherwise a made-up profile would be a way out of every audit.
pub fn decidable(worker_profile: &str, verifier_profile: &str) -> bool {
    is_exact(worker_profile) && worker_profile == verifier_profile
}

/// Compares a receipt with what a verifier found, with no tolerance known: another kernel profile is inconclusive beyond
/// structure. `worker_profile` is the profile that the worker advertised for this model.
pub fn compare(receipt: &Receipt, worker_profile: &str, replay: &Replay) -> Verdict {
    compare_within(receipt, worker_profile, replay, &Tolerances::default())
}

/// As [`compare`], judging answers of other kernel profiles, and of inexact ones, by measured tolerances.
pub fn compare_within(receipt: &Receipt, worker_profile: &str, replay: &Replay, tolerances: &Tolerances) -> Verdict {
    let checks = [check_replay(receipt, replay), check_structure(receipt, replay)];
    if let Some(verdict) = checks.into_iter().flatten().next() {
        return verdict;
    }
    if worker_profile.is_empty() || replay.kernel_profile.is_empty() {
        return Verdict::Inconclusive("the kernel profile of the worker or of the verifier is not known".into());
    }
    if decidable(worker_profile, &replay.kernel_profile) {
        return check_exact(receipt, replay);
    }
    if receipt.outputTokens == 0 {
        // The margins are those of tokens: an embedding has none to be within.
        let message = "an embedding is compared on equal exact kernel profiles only";
        return Verdict::Inconclusive(format!("{message}; these are {worker_profile} and {}", replay.kernel_profile));
    }
    match tolerances.find(worker_profile, &replay.kernel_profile) {
        Some(tolerance) => check_margins(replay, tolerance),
        None => Verdict::Inconclusive(format!(
            "no tolerance is known between the kernel profiles {worker_profile} and {}",
            replay.kernel_profile
        )),
    }
}

/// As [`compare`] for an answer that came with log-probabilities; `told`: [`super::told::hash`] over them. They are compared on equal kernel
/// profiles only: elsewhere nothing says how far apart honest ones may be.
pub fn compare_told(receipt: &Receipt, worker_profile: &str, told: &Hash, replay: &Replay) -> Verdict {
    let verdict = compare(receipt, worker_profile, replay);
    if verdict != Verdict::Pass || !decidable(worker_profile, &replay.kernel_profile) {
        return verdict;
    }
    match <&Hash>::try_from(replay.logprobs_hash.as_slice()) {
        Ok(found) if found == told => Verdict::Pass,
        Ok(_) => Verdict::Mismatch("the answer came with other log-probabilities than those of the model".into()),
        Err(_) => Verdict::Inconclusive("the verifier's replay is not usable: it lacks the log-probabilities".into()),
    }
}

/// Honest noise between two kernel profiles, in logits. An honest answer exceeds either limit with a probability of at most
/// [`super::evidence::NULL_MISMATCH`]: that is what the fit must show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tolerance {
    pub max_margin: f32,
    pub mean_margin: f32,
}

/// Measured tolerances by (profile of the worker, profile of the verifier): data, never guessed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tolerances(BTreeMap<(String, String), Tolerance>);

impl Tolerances {
    pub fn insert(&mut self, worker_profile: &str, verifier_profile: &str, tolerance: Tolerance) {
        self.0.insert((worker_profile.to_owned(), verifier_profile.to_owned()), tolerance);
    }

    pub fn find(&self, worker_profile: &str, verifier_profile: &str) -> Option<Tolerance> {
        self.0.get(&(worker_profile.to_owned(), verifier_profile.to_owned())).copied()
    }
}

/// A replay that cannot be right is the verifier's fault.
fn check_replay(receipt: &Receipt, replay: &Replay) -> Option<Verdict> {
    let hashes = [&replay.prompt_hash, &replay.trace_root, &replay.sampler, &replay.seed];
    let margins = [replay.max_margin, replay.mean_margin];
    let broken = if hashes.iter().any(|hash| hash.len() != 32) {
        "a hash in it is not 32 bytes long"
    } else if replay.first_mismatch > receipt.outputTokens {
        "it names a token beyond the end of the answer"
    } else if margins.iter().any(|margin| !margin.is_finite() || *margin < 0.0) {
        "its margins are no numbers of zero or more"
    } else {
        return None;
    };
    Some(Verdict::Inconclusive(format!("the verifier's replay is not usable: {broken}")))
}

/// What does not depend on arithmetic: equal on every machine.
fn check_structure(receipt: &Receipt, replay: &Replay) -> Option<Verdict> {
    let sentence = if receipt.promptHash.as_slice() != replay.prompt_hash {
        "the receipt names another prompt than the one that was sent".to_owned()
    } else if receipt.promptTokens != replay.prompt_tokens {
        format!("the receipt counts {} prompt tokens, the replay {}", receipt.promptTokens, replay.prompt_tokens)
    } else if receipt.sampler.as_slice() != replay.sampler {
        "the receipt names other sampling parameters than those that were asked for".to_owned()
    } else if receipt.seed.as_slice() != replay.seed {
        "the receipt names another seed than the request implies".to_owned()
    } else {
        return None;
    };
    Some(Verdict::Mismatch(sentence))
}

/// Equal kernel profiles compute equal bits.
fn check_exact(receipt: &Receipt, replay: &Replay) -> Verdict {
    if let Some(index) = replay.first_mismatch.checked_sub(1) {
        return Verdict::Mismatch(format!(
            "output token {index} of {} is not the one that the model and the seed give (margin {:.3})",
            receipt.outputTokens, replay.max_margin
        ));
    }
    if receipt.traceRoot.as_slice() != replay.trace_root && receipt.outputTokens == 0 {
        return Verdict::Mismatch("the vectors are not those that the model gives for these texts".into());
    }
    if receipt.traceRoot.as_slice() != replay.trace_root {
        return Verdict::Mismatch("the hidden states behind the answer are not those of the model".into());
    }
    Verdict::Pass
}

/// Between different kernels tokens may differ by rounding, but only where two of them were nearly equal.
fn check_margins(replay: &Replay, tolerance: Tolerance) -> Verdict {
    if replay.max_margin > tolerance.max_margin {
        return Verdict::Mismatch(format!(
            "a token is {:.3} logits worse than the one that the model and the seed give; rounding explains {:.3}",
            replay.max_margin, tolerance.max_margin
        ));
    }
    if replay.mean_margin > tolerance.mean_margin {
        return Verdict::Mismatch(format!(
            "its tokens are on average {:.4} logits worse than those that the model and the seed give; rounding explains {:.4}",
            replay.mean_margin, tolerance.mean_margin
        ));
    }
    Verdict::Pass
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::receipt::hash_tokens;

    const PROFILE: &str = "cpu-q8_0-exact2";

    fn receipt() -> Receipt {
        Receipt {
            requestId: [1; 32].into(),
            attempt: 0,
            model: [2; 32].into(),
            promptHash: hash_tokens(&[1, 2, 3]).into(),
            outputHash: hash_tokens(&[4, 5]).into(),
            promptTokens: 3,
            outputTokens: 2,
            sampler: [3; 32].into(),
            seed: [4; 32].into(),
            traceRoot: [5; 32].into(),
            startedAt: 0,
            finishedAt: 0,
        }
    }

    fn replay() -> Replay {
        Replay {
            prompt_hash: hash_tokens(&[1, 2, 3]).into(),
            prompt_tokens: 3,
            trace_root: vec![5; 32],
            first_mismatch: 0,
            max_margin: 0.0,
            mean_margin: 0.0,
            kernel_profile: PROFILE.into(),
            sampler: vec![3; 32],
            seed: vec![4; 32],
            logprobs_hash: vec![],
        }
    }

    fn mismatch(verdict: Verdict) -> String {
        match verdict {
            Verdict::Mismatch(sentence) => sentence,
            other => panic!("{other:?}"),
        }
    }

    fn inconclusive(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Inconclusive(_))
    }

    #[test]
    fn an_honest_answer_passes_on_the_same_kernels() {
        assert_eq!(compare(&receipt(), PROFILE, &replay()), Verdict::Pass);
    }

    #[test]
    fn each_structural_lie_is_named_whatever_the_kernels() {
        let lies: [(Receipt, &str); 4] = [
            (Receipt { promptHash: [9; 32].into(), ..receipt() }, "another prompt"),
            (Receipt { promptTokens: 30, ..receipt() }, "30 prompt tokens, the replay 3"),
            (Receipt { sampler: [9; 32].into(), ..receipt() }, "sampling parameters"),
            (Receipt { seed: [9; 32].into(), ..receipt() }, "another seed"),
        ];
        for (lie, words) in lies {
            for profile in [PROFILE, "candle-cuda/bf16", ""] {
                assert!(mismatch(compare(&lie, profile, &replay())).contains(words), "{words}");
            }
        }
    }

    #[test]
    fn made_up_log_probabilities_are_caught_where_the_kernels_are_equal() {
        let with = |hash: Vec<u8>| Replay { logprobs_hash: hash, ..replay() };
        let told = [7; 32];
        assert_eq!(compare_told(&receipt(), PROFILE, &told, &with(vec![7; 32])), Verdict::Pass);
        assert!(mismatch(compare_told(&receipt(), PROFILE, &told, &with(vec![8; 32]))).contains("log-probabilities"));
        assert!(inconclusive(compare_told(&receipt(), PROFILE, &told, &with(vec![]))), "the verifier's fault");
        assert!(inconclusive(compare_told(&receipt(), "other/1", &told, &with(vec![8; 32]))));
        let other = Replay { trace_root: vec![8; 32], ..with(vec![7; 32]) };
        assert!(mismatch(compare_told(&receipt(), PROFILE, &told, &other)).contains("hidden states"));
    }

    #[test]
    fn a_smaller_model_is_caught_by_the_first_token_that_differs() {
        // A1, A2, A5.
        let replay = Replay { first_mismatch: 2, max_margin: 3.5, trace_root: vec![8; 32], ..replay() };
        assert!(mismatch(compare(&receipt(), PROFILE, &replay)).contains("output token 1 of 2"));
    }

    #[test]
    fn right_tokens_with_other_hidden_states_are_caught() {
        // A6, A12: a relay or a smaller model that happens to write the same words.
        let replay = Replay { trace_root: vec![8; 32], ..replay() };
        assert!(mismatch(compare(&receipt(), PROFILE, &replay)).contains("hidden states"));
    }

    #[test]
    fn a_small_model_with_an_honest_trace_on_top_is_caught_by_the_seed() {
        // A4: the trace root is that of the honest prefill; only the sampled tokens give it away.
        let replay = Replay { first_mismatch: 1, max_margin: 0.7, ..replay() };
        assert!(mismatch(compare(&receipt(), PROFILE, &replay)).contains("output token 0"));
    }

    #[test]
    fn unknown_kernels_are_inconclusive_never_cheating() {
        let differs = Replay { first_mismatch: 1, max_margin: 9.0, trace_root: vec![8; 32], ..replay() };
        assert!(inconclusive(compare(&receipt(), "candle-cuda/bf16", &differs)));
        assert!(inconclusive(compare(&receipt(), "", &differs)));
        assert!(inconclusive(compare(&receipt(), PROFILE, &Replay { kernel_profile: String::new(), ..differs })));
    }

    #[test]
    fn an_answer_is_decidable_only_where_a_comparison_decides() {
        const GPU: &str = "candle-cuda/qmatmul1";
        for (worker, verifier) in [(PROFILE, PROFILE), (GPU, PROFILE), (GPU, GPU), ("", PROFILE), ("", "")] {
            let verdict = compare(&receipt(), worker, &Replay { kernel_profile: verifier.into(), ..replay() });
            assert_eq!(decidable(worker, verifier), !inconclusive(verdict), "{worker} {verifier}");
        }
    }

    #[test]
    fn gpus_are_not_compared_to_the_bit_even_with_gpus() {
        const GPU: &str = "candle-cuda/qmatmul1";
        let other_bits = Replay { trace_root: vec![8; 32], kernel_profile: GPU.into(), ..replay() };
        assert!(inconclusive(compare(&receipt(), GPU, &other_bits)), "honest GPUs differ in the last bits");
        let mut known = Tolerances::default();
        known.insert(GPU, GPU, Tolerance { max_margin: 0.5, mean_margin: 0.01 });
        let with = |max_margin| Replay { first_mismatch: 1, max_margin, ..other_bits.clone() };
        assert_eq!(compare_within(&receipt(), GPU, &with(0.3), &known), Verdict::Pass);
        assert!(mismatch(compare_within(&receipt(), GPU, &with(0.6), &known)).contains("0.600 logits worse"));
    }

    #[test]
    fn how_forms_are_kept_to_matters_to_answers_in_a_form_only() {
        let formed = [RequestField::ResponseFormat].into_iter().collect();
        let (old, new, other) = ("cpu/1+form1", "cpu/1+form2", "cpu/2+form1");
        let judges = |a, b, fields| decidable(relevant(a, fields), relevant(b, fields));
        for (a, b, free, in_form) in [
            (old, old, true, true),
            (old, new, true, false),
            (old, other, false, false),
            // An engine of before there were forms.
            ("cpu/1", new, true, false),
            ("cpu/1", "cpu/1", true, true),
        ] {
            assert_eq!((judges(a, b, RequestFields::NONE), judges(a, b, formed)), (free, in_form), "{a} {b}");
        }
        assert!(!judges("+form1", "+form1", RequestFields::NONE), "a form without arithmetic is no profile");
    }

    #[test]
    fn between_known_kernels_small_margins_pass_and_large_ones_do_not() {
        // A16.
        let mut known = Tolerances::default();
        known.insert("candle-cuda/bf16", PROFILE, Tolerance { max_margin: 0.5, mean_margin: 0.01 });
        let with = |max_margin: f32, mean_margin: f32| {
            let replay = Replay { first_mismatch: 1, trace_root: vec![8; 32], max_margin, mean_margin, ..replay() };
            compare_within(&receipt(), "candle-cuda/bf16", &replay, &known)
        };
        assert_eq!(with(0.3, 0.005), Verdict::Pass);
        assert!(mismatch(with(0.6, 0.005)).contains("a token is 0.600 logits worse"));
        assert!(mismatch(with(0.3, 0.02)).contains("on average"));
    }

    #[test]
    fn an_embedding_is_judged_by_its_vectors_and_only_on_equal_kernels() {
        let embedding = Receipt { outputTokens: 0, ..receipt() };
        assert_eq!(compare(&embedding, PROFILE, &replay()), Verdict::Pass);
        let other = Replay { trace_root: vec![8; 32], ..replay() };
        assert!(mismatch(compare(&embedding, PROFILE, &other)).contains("vectors"));
        let mut known = Tolerances::default();
        known.insert("other/1", PROFILE, Tolerance { max_margin: 0.5, mean_margin: 0.01 });
        assert!(inconclusive(compare_within(&embedding, "other/1", &other, &known)));
    }

    #[test]
    fn a_broken_verifier_never_counts_against_a_worker() {
        // A17.
        let lie = Receipt { seed: [9; 32].into(), ..receipt() };
        let broken = [
            Replay { trace_root: vec![], ..replay() },
            Replay { prompt_hash: vec![0; 31], ..replay() },
            Replay { first_mismatch: 3, ..replay() },
            Replay { max_margin: f32::NAN, ..replay() },
            Replay { mean_margin: f32::INFINITY, ..replay() },
            Replay { max_margin: -1.0, ..replay() },
        ];
        for replay in broken {
            assert!(inconclusive(compare(&lie, PROFILE, &replay)), "{replay:?}");
        }
    }

    #[test]
    fn selection_follows_the_secret_and_hits_the_share() {
        let receipts: Vec<Hash> = (0..10_000u32).map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        let share = |secret: Hash, percent| receipts.iter().filter(|hash| selected(&secret, hash, percent)).count();
        assert_eq!(share([1; 32], 0), 0);
        assert_eq!(share([1; 32], 100), 10_000);
        // Standard deviation 22.
        assert!((400..600).contains(&share([1; 32], 5)), "{}", share([1; 32], 5));
        let both = receipts.iter().filter(|hash| selected(&[1; 32], hash, 5) && selected(&[2; 32], hash, 5)).count();
        assert!(both < 60, "the secret of another epoch tells nothing: {both}");
    }

    #[test]
    fn a_higher_share_only_adds_audits() {
        let hash = |i: u32| *blake3::hash(&i.to_le_bytes()).as_bytes();
        for i in 0..200 {
            let picked: Vec<bool> = (0..=100).map(|percent| selected(&[1; 32], &hash(i), percent)).collect();
            assert!(picked.windows(2).all(|pair| pair[0] <= pair[1]));
        }
    }

    #[test]
    fn new_and_suspicious_nodes_are_audited_always_and_others_ever_less() {
        assert_eq!(sample_percent(0, 0.0, 5), 100);
        assert_eq!(sample_percent(19, 0.0, 5), 100);
        assert_eq!(sample_percent(40, 0.0, 5), 40);
        assert_eq!(sample_percent(1_000_000, 0.0, 5), 5);
        assert_eq!(sample_percent(1_000_000, 1.0, 5), 100);
        assert_eq!(sample_percent(1_000_000, f64::NAN, 5), 100);
        assert_eq!(sample_percent(1_000_000, 0.0, 200), 100);
        let curve: Vec<u8> = (0..300).map(|audits| sample_percent(audits, 0.0, 5)).collect();
        assert!(curve.windows(2).all(|pair| pair[0] >= pair[1]));
    }
}
