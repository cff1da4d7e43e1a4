//! How long a request would take on a worker.

use super::{Locality, Needs, Rates, Worker};

/// Bytes per second at which a model is read from disk and made ready, and at which it is fetched. Guesses that only order
/// workers that cannot start yet, and say about when they will.
const LOAD_BYTES_PER_SECOND: u64 = 200 << 20;
const FETCH_BYTES_PER_SECOND: u64 = 20 << 20;
/// Self-test and measurement.
const MEASURE_MS: u64 = 5_000;
/// What a worker is assumed to do before it has measured itself.
const UNMEASURED: Rates = Rates { prefill_milli: 50_000, decode_milli: 5_000, context_length: 0 };

/// Milliseconds until a model can serve.
pub fn ready_in_ms(locality: Locality, model_bytes: u64) -> u64 {
    let load = model_bytes.saturating_mul(1000) / LOAD_BYTES_PER_SECOND + MEASURE_MS;
    match locality {
        Locality::Loaded => 0,
        Locality::OnDisk => load,
        Locality::MustFetch => load.saturating_add(model_bytes.saturating_mul(1000) / FETCH_BYTES_PER_SECOND + 1),
    }
}

/// Milliseconds until the answer is complete: until the model is loaded, then what the worker has already, the prompt, and the
/// answer at its full length, at the measured rates. `u64::MAX` when it does not serve the model or measured nothing.
pub fn expected_wait_ms(worker: &Worker, needs: &Needs, prompt_tokens: u32, max_tokens: u32) -> u64 {
    let Some(serving) = worker.models.get(&needs.model) else { return u64::MAX };
    let rates = if serving.locality == Locality::Loaded { serving.rates } else { UNMEASURED };
    let ready = ready_in_ms(serving.locality, needs.model_bytes);
    let prompt = milliseconds(u64::from(prompt_tokens), rates.prefill_milli);
    let answer = milliseconds(worker.queued_tokens.saturating_add(u64::from(max_tokens)), rates.decode_milli);
    ready.saturating_add(prompt).saturating_add(answer)
}

pub(super) fn milliseconds(tokens: u64, rate_milli: u64) -> u64 {
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
            Serving,
            testing::{loading, model, needs, worker},
        },
        *,
    };

    #[test]
    fn the_wait_is_queue_plus_prompt_plus_answer() {
        let idle = worker(1, 1);
        // 10 prompt tokens at 100/s and 20 answer tokens at 10/s.
        assert_eq!(expected_wait_ms(&idle, &needs(), 10, 20), 100 + 2000);
        assert_eq!(expected_wait_ms(&Worker { queued_tokens: 50, ..idle }, &needs(), 10, 20), 100 + 7000);
    }

    #[test]
    fn a_loaded_model_comes_before_one_on_disk_and_that_before_one_to_fetch() {
        for model_bytes in [0, 1 << 30] {
            let needs = Needs { model_bytes, ..needs() };
            let of = |locality| {
                let worker = Worker { models: [(model(1), loading(locality))].into(), ..worker(1, 1) };
                expected_wait_ms(&worker, &needs, 10, 20)
            };
            let loaded = expected_wait_ms(&worker(1, 1), &needs, 10, 20);
            assert!(loaded < of(Locality::OnDisk) && of(Locality::OnDisk) < of(Locality::MustFetch));
        }
    }

    #[test]
    fn a_worker_without_measurement_or_model_is_the_last_choice() {
        let blank = Serving { locality: Locality::Loaded, rates: Rates::default() };
        let unmeasured = Worker { models: [(model(1), blank)].into(), ..worker(1, 1) };
        assert_eq!(expected_wait_ms(&unmeasured, &needs(), 10, 20), u64::MAX);
        let other = Needs { model: model(2), ..needs() };
        assert_eq!(expected_wait_ms(&worker(1, 1), &other, 10, 20), u64::MAX);
        let endless = Worker { queued_tokens: u64::MAX, ..worker(1, 1) };
        assert_eq!(expected_wait_ms(&endless, &needs(), 10, 20), 100 + u64::MAX / 10_000);
    }
}
