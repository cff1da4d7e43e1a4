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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Rates,
            testing::{model, work, worker},
        },
        *,
    };

    #[test]
    fn the_wait_is_queue_plus_prompt_plus_answer() {
        let idle = worker(1, 1);
        // 10 prompt tokens at 100/s and 20 answer tokens at 10/s.
        assert_eq!(expected_wait_ms(&idle, &work(1, "a")), 100 + 2000);
        assert_eq!(expected_wait_ms(&Worker { queued_tokens: 50, ..idle }, &work(1, "a")), 100 + 7000);
    }

    #[test]
    fn a_worker_without_measurement_or_model_is_the_last_choice() {
        let blank = Rates { prefill_milli: 0, decode_milli: 0, context_length: 0 };
        let unmeasured = Worker { models: [(model(1), blank)].into(), ..worker(1, 1) };
        assert_eq!(expected_wait_ms(&unmeasured, &work(1, "a")), u64::MAX);
        assert_eq!(expected_wait_ms(&worker(1, 1), &Work { model: model(2), ..work(1, "a") }), u64::MAX);
        assert_eq!(
            expected_wait_ms(&Worker { queued_tokens: u64::MAX, ..worker(1, 1) }, &work(1, "a")),
            100 + u64::MAX / 10_000
        );
    }
}
