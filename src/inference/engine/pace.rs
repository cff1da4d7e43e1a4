//! How fast this engine is, and when it will have room: what a refused request is told to wait. Pure.

use std::time::Duration;

/// How much of an average the newest measurement makes.
const NEWEST: f64 = 0.1;

/// Running averages of what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pace {
    /// Seconds of a step in which somebody decodes.
    step: Option<f64>,
    /// Prefilled tokens a second, in the steps that prefill.
    prefill: Option<f64>,
    /// How much of their `max_tokens` answers use.
    used: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { step: None, prefill: None, used: 1.0 }
    }
}

/// What a sequence still has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    pub prefill: usize,
    /// Output tokens up to its limit.
    pub output: usize,
}

impl Pace {
    /// Notes a step of `decoded` single tokens and `prefilled` tokens of prompts.
    pub fn note_step(&mut self, decoded: usize, prefilled: usize, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64().max(1e-6);
        if decoded > 0 {
            average(&mut self.step, seconds);
        }
        // A last short chunk says more about the cost of a step than about speed.
        if prefilled >= 16 {
            average(&mut self.prefill, prefilled as f64 / seconds);
        }
    }

    /// Notes an answer that ended by itself after `output` of at most `most` tokens.
    pub fn note_answer(&mut self, output: usize, most: usize) {
        let used = output as f64 / most.max(1) as f64;
        self.used += (used - self.used) * NEWEST;
    }

    /// When the first of the running sequences will probably have ended. `None` while nothing was measured.
    pub fn until_room(&self, running: impl Iterator<Item = Rest>) -> Option<Duration> {
        let seconds = |rest: Rest| {
            let prefill = match rest.prefill {
                0 => 0.0,
                tokens => tokens as f64 / self.prefill.or(self.step.map(f64::recip))?,
            };
            let decode = match rest.output {
                0 => 0.0,
                tokens => tokens as f64 * self.used * self.step.or(self.prefill.map(f64::recip))?,
            };
            Some(prefill + decode)
        };
        let first = running.filter_map(seconds).min_by(f64::total_cmp)?;
        Duration::try_from_secs_f64(first).ok()
    }
}

fn average(kept: &mut Option<f64>, new: f64) {
    *kept = Some(kept.map_or(new, |old| old + (new - old) * NEWEST));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(pace: &Pace, rests: &[(usize, usize)]) -> Option<f64> {
        let rests = rests.iter().map(|(prefill, output)| Rest { prefill: *prefill, output: *output });
        pace.until_room(rests).map(|time| time.as_secs_f64())
    }

    #[test]
    fn the_sequence_that_ends_first_decides() {
        let mut pace = Pace::default();
        pace.note_step(0, 200, Duration::from_secs(1));
        pace.note_step(4, 0, Duration::from_millis(50));
        assert_eq!(until(&pace, &[(0, 100), (100, 10), (400, 10)]), Some(1.0));
        assert_eq!(until(&pace, &[(0, 100)]), Some(5.0));
        assert_eq!(until(&pace, &[(300, 0)]), Some(1.5));
    }

    #[test]
    fn answers_that_end_early_shorten_the_wait() {
        let mut pace = Pace::default();
        pace.note_step(1, 0, Duration::from_millis(100));
        let before = until(&pace, &[(0, 100)]).unwrap();
        (0..50).for_each(|_| pace.note_answer(25, 100));
        let after = until(&pace, &[(0, 100)]).unwrap();
        assert!(before == 10.0 && after > 2.4 && after < 2.6, "{before} {after}");
    }

    #[test]
    fn nothing_is_said_before_anything_is_measured() {
        let mut pace = Pace::default();
        assert_eq!(until(&pace, &[(10, 10)]), None);
        pace.note_step(1, 0, Duration::from_millis(100));
        assert_eq!(until(&pace, &[]), None);
        assert_eq!(until(&pace, &[(10, 10)]), Some(2.0), "a prefill is no slower than decoding");
    }

    #[test]
    fn a_slow_moment_is_soon_forgotten() {
        let mut pace = Pace::default();
        pace.note_step(1, 0, Duration::from_secs(5));
        (0..60).for_each(|_| pace.note_step(1, 0, Duration::from_millis(20)));
        assert!(until(&pace, &[(0, 10)]).unwrap() < 0.4);
    }
}
