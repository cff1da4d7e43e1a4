//! How long a request would take on a worker.

use super::{Work, Worker};

/// Milliseconds until the answer is complete: what the worker has already, the prompt, and the answer at its full length, at
/// the measured rates. `u64::MAX` when it does not serve the model or measured nothing.
pub fn expected_wait_ms(worker: &Worker, work: &Work) -> u64 {
    let Some(rates) = worker.models.get(&work.model) else { return u64::MAX };
    let prompt = milliseconds(u64::from(work.prompt_tokens_estimate), rates.prefill_milli);
    let answer = milliseconds(worker.queued_tokens.saturating_add(u64::from(work.max_tokens)), rates.decode_milli);
    prompt.saturating_add(answer)
}

fn milliseconds(tokens: u64, rate_milli: u64) -> u64 {
    match tokens {
        0 => 0,
        // tokens / (rate / 1000 per second) · 1000 ms
        _ => tokens.saturating_mul(1_000_000).checked_div(rate_milli).unwrap_or(u64::MAX),
    }
}
