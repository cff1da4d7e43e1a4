//! The canonical sampler: which token follows from logits, parameters, the tokens before, and a seed that the node did not
//! choose.
//!
//! Bit-specified, so that anyone can repeat it (reference: verification.md §2.4, after Token-DiFR):
//! 1. Biases and penalties, in single precision, on the logit `l` of each token that they concern: `l + bias`; if the token
//!    is in the prompt or the answer so far, `l / r` for `l > 0`, else `l · r`, with the repetition penalty `r`; if it is
//!    in the answer so far `n` times, `l - f · n - p` with frequency and presence penalty. A neutral value is no exception:
//!    it changes no bit.
//! 2. Where the text must have a form, only the tokens that can follow in it may be candidates ([`TokenMask`]). The mask
//!    changes no logit, so it is the same before step 1 or after it; it must be before step 3, because a candidate that is
//!    struck out later leaves fewer than there are, and none at all where the form allows only what the model finds unlikely.
//! 3. Candidates: the 64 highest logits (or `top_k` of them, if that is 1 to 63), equal logits in the order of token ids.
//! 4. Temperature 0: the first candidate. Otherwise all further steps are in double precision with the functions of the
//!    `libm` crate (musl's), which use only IEEE-754 basic operations and give the same bits everywhere.
//! 5. top-p: weights `exp((l - l_max) / T)` of the candidates in order; the shortest prefix whose sum reaches `top_p` of
//!    the sum of all candidates survives, at least one. min-p: of these, those whose weight is at least `min_p` (the first
//!    one's is 1).
//! 6. Noise: `g = -ln(-ln u)`, where `u = (k + ½) · 2^-53` and `k` is the top 53 bits of the first eight bytes (little
//!    endian) of BLAKE3 keyed with the seed over `position` (u32) and `token id` (u32), both little endian.
//! 7. The survivor with the largest `l / T + g`; equal sums in the order of candidates.
//!
//! `position` counts output tokens from 0, so a continuation on another worker draws the same noise. Nothing depends on
//! what else is computed, nor on when.

mod mask;
mod params;

pub use mask::TokenMask;
pub use params::{LogitBias, MAX_LOGIT_BIASES, MAX_SCHEMA_BYTES, SamplerParams, TextForm, TokenCounts, asked_hash};

/// The largest number of candidates.
pub const MAX_CANDIDATES: usize = 64;
/// Margins are cut here, so that one wild token cannot outweigh an answer.
pub const MARGIN_CAP: f32 = 5.0;

/// Logits that are looked at together: those of one word of a mask.
const RUN: usize = u32::BITS as usize;

const SEED_CONTEXT: &str = "xdc-grid 2026-11 sampler seed v1";

/// Why nothing can be sampled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplerError {
    #[error("temperature must be between 0 and 100, not {0}")]
    Temperature(f32),
    #[error("top_p must be above 0 and at most 1, not {0}")]
    TopP(f32),
    #[error("{field} must be between {low} and {high}, not {value}")]
    Range { field: &'static str, value: f32, low: f32, high: f32 },
    #[error("logit_bias may name at most {MAX_LOGIT_BIASES} tokens, not {0}")]
    TooManyBiases(usize),
    #[error("logit_bias must be in the order of token ids and name each once")]
    UnsortedBiases,
    #[error("a JSON schema may have at most {MAX_SCHEMA_BYTES} bytes, not {0}")]
    Schema(usize),
    #[error("the form {0} of the text is not known to this version, or its schema is missing; update this program")]
    Form(u32),
    #[error("the model's logits are not finite numbers")]
    NotFinite,
    #[error("token {0} is not in the vocabulary")]
    UnknownToken(u32),
}

/// The seed of one request. Every input is fixed before the node sees the request, so it has nothing to grind.
pub fn seed(request_id: &[u8; 32], client_nonce: &[u8; 32], beacon: &[u8; 32], model_digest: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(SEED_CONTEXT);
    hasher.update(request_id).update(client_nonce).update(beacon).update(model_digest);
    *hasher.finalize().as_bytes()
}

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub id: u32,
    pub logit: f32,
}

/// The `limit` highest logits, from high to low, equal ones in the order of ids.
pub fn highest(logits: &[f32], limit: usize) -> Result<Vec<Candidate>, SamplerError> {
    highest_allowed(logits, limit, None)
}

/// As [`highest`], among the tokens of the mask, if there is one. The others' logits must be finite, too.
pub fn highest_allowed(logits: &[f32], limit: usize, mask: Option<&TokenMask>) -> Result<Vec<Candidate>, SamplerError> {
    let mut best: Vec<Candidate> = Vec::with_capacity(limit + 1);
    let mut threshold = f32::NEG_INFINITY;
    for (run, logits) in logits.chunks(RUN).enumerate() {
        let allowed = mask.map_or(u32::MAX, |mask| mask.word(run));
        // Without branches, so that both are vectorized; nearly all runs hold nothing above the threshold.
        if !logits.iter().fold(true, |finite, logit| finite & (logit.abs() <= f32::MAX)) {
            return Err(SamplerError::NotFinite);
        }
        let passed_over = logits.iter().fold(true, |over, logit| over & (*logit <= threshold));
        if allowed == 0 || (passed_over && best.len() == limit) {
            continue;
        }
        for (offset, logit) in logits.iter().copied().enumerate() {
            if (logit > threshold || best.len() < limit) && (allowed >> offset) & 1 == 1 {
                let id = (run * RUN + offset) as u32;
                let place = best.partition_point(|candidate| candidate.logit >= logit);
                best.insert(place, Candidate { id, logit });
                best.truncate(limit);
                if best.len() == limit {
                    threshold = best.last().map_or(threshold, |last| last.logit);
                }
            }
        }
    }
    Ok(best)
}

/// What the sampler makes of one row of logits.
#[derive(Debug, Clone)]
pub struct Draw {
    /// `logit / T + noise` of the survivors (the logit itself when greedy), in the order of candidates.
    scores: Vec<(u32, f64)>,
    /// Turns differences of scores into differences of logits.
    temperature: f64,
}

impl Draw {
    /// Draws from the candidates of a row, which [`highest`] has put in order (at least as many as the parameters use).
    pub fn new(
        candidates: &[Candidate],
        params: &SamplerParams,
        seed: &[u8; 32],
        position: u32,
    ) -> Result<Self, SamplerError> {
        params.validate()?;
        if params.temperature == 0.0 {
            let scores = candidates.iter().map(|c| (c.id, f64::from(c.logit))).collect();
            return Ok(Self { scores, temperature: 1.0 });
        }
        let temperature = f64::from(params.temperature);
        let kept = survivors(&candidates[..candidates.len().min(params.candidates())], params);
        let score = |c: &Candidate| (c.id, f64::from(c.logit) / temperature + noise(seed, position, c.id));
        Ok(Self { scores: kept.iter().map(score).collect(), temperature })
    }

    /// The token that must follow, or `None` for an empty vocabulary.
    pub fn token(&self) -> Option<u32> {
        self.best().map(|(id, _)| id)
    }

    /// How far, in logits, the claimed token is behind the one that must follow: 0 for the right one, at most
    /// [`MARGIN_CAP`], which is also the margin of a token that did not survive.
    pub fn margin(&self, claimed: u32) -> f32 {
        let Some((_, best)) = self.best() else { return MARGIN_CAP };
        match self.scores.iter().find(|(id, _)| *id == claimed) {
            Some((_, score)) => ((self.temperature * (best - score)) as f32).min(MARGIN_CAP),
            None => MARGIN_CAP,
        }
    }

    fn best(&self) -> Option<(u32, f64)> {
        let mut scores = self.scores.iter().copied();
        let first = scores.next()?;
        Some(scores.fold(first, |best, next| if next.1 > best.1 { next } else { best }))
    }
}

/// The token that follows `logits`, to which biases and penalties are applied already, at output position `position`.
pub fn sample(logits: &[f32], params: &SamplerParams, seed: &[u8; 32], position: u32) -> Result<u32, SamplerError> {
    let candidates = highest(logits, MAX_CANDIDATES)?;
    Draw::new(&candidates, params, seed, position)?.token().ok_or(SamplerError::NotFinite)
}

/// The candidates that top-p and min-p keep: both keep a beginning.
fn survivors<'a>(candidates: &'a [Candidate], params: &SamplerParams) -> &'a [Candidate] {
    let Some(first) = candidates.first() else { return candidates };
    let scaled = |c: &Candidate| (f64::from(c.logit) - f64::from(first.logit)) / f64::from(params.temperature);
    let mut weights = [0.0; MAX_CANDIDATES];
    weights.iter_mut().zip(candidates).for_each(|(weight, candidate)| *weight = libm::exp(scaled(candidate)));
    let weights = &weights[..candidates.len().min(MAX_CANDIDATES)];
    let wanted = weights.iter().sum::<f64>() * f64::from(params.top_p);
    let mut sum = 0.0;
    let reaches = |weight: &f64| {
        sum += weight;
        sum >= wanted
    };
    let kept = weights.iter().position(reaches).map_or(weights.len(), |last| last + 1);
    let likely = weights.iter().take_while(|weight| **weight >= f64::from(params.min_p)).count();
    &candidates[..kept.min(likely.max(1))]
}

/// Standard Gumbel noise of one token at one position.
fn noise(seed: &[u8; 32], position: u32, id: u32) -> f64 {
    let mut message = [0; 8];
    message[..4].copy_from_slice(&position.to_le_bytes());
    message[4..].copy_from_slice(&id.to_le_bytes());
    let hash = blake3::keyed_hash(seed, &message);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    let uniform = ((u64::from_le_bytes(first) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -libm::log(-libm::log(uniform))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7919 % 1013) as f32 / 100.0).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        let logits = [1.0, 3.0, 3.0, 2.0];
        assert_eq!(sample(&logits, &SamplerParams::GREEDY, &[0; 32], 0), Ok(1));
    }

    #[test]
    fn a_known_draw_never_changes() {
        // Computed with another implementation, in Python. Only its noise differs, by one in the last place: that is glibc's
        // logarithm and shows why the functions are part of the definition. Any change here is a change of protocol.
        let params = SamplerParams { temperature: 0.8, top_p: 0.95, top_k: 40, ..SamplerParams::GREEDY };
        let seed = seed(&[1; 32], &[2; 32], &[3; 32], &[4; 32]);
        assert_eq!(blake3::Hash::from(seed).to_hex()[..16], *"5a203404dd0ece60");
        assert_eq!(noise(&seed, 7, 42).to_bits(), 0x3ff8_6edf_b24d_5eac);
        let drawn: Vec<u32> = (0..8).map(|t| sample(&wave(1_000), &params, &seed, t).unwrap()).collect();
        assert_eq!(drawn, [252, 148, 44, 586, 712, 263, 827, 805]);
        assert_eq!(blake3::Hash::from(params.hash()).to_hex()[..16], *"30fd30cdf9f70760");
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0, (2f32).ln(), (5f32).ln()];
        let params = SamplerParams { temperature: 1.0, ..SamplerParams::GREEDY };
        let mut counts = [0u32; 3];
        for position in 0..16_000 {
            counts[sample(&logits, &params, &[9; 32], position).unwrap() as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([2_000.0, 4_000.0, 10_000.0]) {
            assert!((f64::from(count) - expected).abs() < 250.0, "{counts:?}");
        }
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused_wherever_they_are() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 70, 199] {
                let mut logits = wave(200);
                logits[place] = bad;
                assert_eq!(sample(&logits, &SamplerParams::GREEDY, &[0; 32], 0), Err(SamplerError::NotFinite));
            }
        }
    }

    #[test]
    fn a_mask_keeps_what_it_allows_however_unlikely_and_hides_no_broken_logit() {
        let mut logits = wave(500);
        let mask: TokenMask = [3, 40, 499].into_iter().collect();
        assert!(mask.allows(40) && !mask.allows(41) && !mask.allows(u32::MAX));
        logits[499] = -1e30;
        let ids: Vec<u32> = highest_allowed(&logits, 64, Some(&mask)).unwrap().iter().map(|c| c.id).collect();
        assert_eq!(ids, [40, 3, 499]);
        assert_eq!(highest_allowed(&logits, 64, Some(&TokenMask::default())), Ok(Vec::new()));
        logits[200] = f32::NAN;
        assert_eq!(highest_allowed(&logits, 64, Some(&mask)), Err(SamplerError::NotFinite));
    }

    #[test]
    fn min_p_drops_what_is_too_unlikely() {
        let logits = [0.0, (2f32).ln(), (5f32).ln()];
        let drawn = |min_p: f32| -> std::collections::BTreeSet<u32> {
            let params = SamplerParams { temperature: 1.0, min_p, ..SamplerParams::GREEDY };
            (0..400).map(|position| sample(&logits, &params, &[3; 32], position).unwrap()).collect()
        };
        assert_eq!(drawn(0.0), [0, 1, 2].into());
        assert_eq!(drawn(0.3), [1, 2].into());
        assert_eq!(drawn(1.0), [2].into());
    }

    proptest! {
        #[test]
        fn highest_is_what_a_stable_sort_gives(logits in prop::collection::vec((-40i32..40).prop_map(|x| x as f32 / 4.0), 0..300), limit in 1usize..80) {
            let mut all: Vec<Candidate> = logits.iter().enumerate().map(|(i, l)| Candidate { id: i as u32, logit: *l }).collect();
            all.sort_by(|a, b| b.logit.total_cmp(&a.logit));
            let mut odd: Vec<Candidate> = all.iter().copied().filter(|c| c.id % 2 == 1).collect();
            all.truncate(limit);
            odd.truncate(limit);
            prop_assert_eq!(highest(&logits, limit).unwrap(), all);
            let mask: TokenMask = (0..300).filter(|id| id % 2 == 1).collect();
            prop_assert_eq!(highest_allowed(&logits, limit, Some(&mask)).unwrap(), odd);
        }

        #[test]
        fn only_the_drawn_token_has_no_margin(seed: [u8; 32], position: u32, temperature in 0.01f32..3.0, top_p in 0.05f32..1.0, top_k in 0u32..70, min_p in 0f32..0.5) {
            let params = SamplerParams { temperature, top_p, top_k, min_p, ..SamplerParams::GREEDY };
            let candidates = highest(&wave(200), MAX_CANDIDATES).unwrap();
            let draw = Draw::new(&candidates, &params, &seed, position).unwrap();
            let token = draw.token().unwrap();
            prop_assert_eq!(draw.margin(token), 0.0);
            for other in (0..200).filter(|id| *id != token) {
                let margin = draw.margin(other);
                prop_assert!(margin > 0.0 && margin <= MARGIN_CAP);
            }
            if top_k == 1 {
                prop_assert_eq!(token, candidates[0].id);
            }
        }
    }
}
