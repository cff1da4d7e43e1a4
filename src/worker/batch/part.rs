//! Pure: the results of a shard as they come in, in input order, up to what one ConfigMap holds.

use std::collections::BTreeMap;

use super::mailbox::Found;
use crate::protocol::{
    internal::{InputLine, Outcome, ResultLine},
    shard::{self, Counts, MAX_RESULT_BYTES, Part, TOO_LARGE},
};

#[derive(Debug)]
pub(super) struct Gathered {
    input_sha256: String,
    total: usize,
    /// By line of the input: each a line of JSON without its line break.
    lines: BTreeMap<u32, String>,
    bytes: usize,
    counts: Counts,
    changed: bool,
}

impl Gathered {
    /// Takes over what an earlier try handed back for the same input.
    pub(super) fn resume(found: &Found, lines: &[InputLine]) -> Self {
        let mut gathered = Gathered {
            input_sha256: shard::sha256(&found.input),
            total: lines.len(),
            lines: BTreeMap::new(),
            bytes: 0,
            counts: Counts::default(),
            changed: false,
        };
        let asked: BTreeMap<u32, &str> = lines.iter().map(|line| (line.index, line.custom_id.as_str())).collect();
        let Some(part) = &found.part else { return gathered };
        for result in shard::read_results(&found.input, &found.results, part) {
            if asked.get(&result.index).is_some_and(|id| *id == result.custom_id) {
                gathered.push(result);
            }
        }
        gathered.changed = gathered.render().0 != *part;
        gathered
    }

    pub(super) fn has(&self, index: u32) -> bool {
        self.lines.contains_key(&index)
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether there is something that was not handed back.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn saved(&mut self) {
        self.changed = false;
    }

    /// Keeps a result; an answer that does not fit becomes a failure. The first result of a line stays.
    pub(super) fn push(&mut self, mut result: ResultLine) {
        if self.has(result.index) {
            return;
        }
        // Strings and integers always serialise.
        let Ok(mut line) = serde_json::to_string(&result) else { return };
        if self.bytes + line.len() > MAX_RESULT_BYTES && !matches!(result.outcome, Outcome::Failed { .. }) {
            result.outcome = Outcome::Failed { reason: "OutputTooLarge".into(), message: TOO_LARGE.into() };
            line = serde_json::to_string(&result).unwrap_or_default();
        } else {
            self.bytes += line.len() + 1;
        }
        self.counts.add(&result.outcome);
        self.lines.insert(result.index, line);
        self.changed = true;
    }

    /// The part and its results. Deterministic: the same results give the same bytes, in whatever order they came.
    pub(super) fn render(&self) -> (Part, String) {
        let mut results = String::with_capacity(self.bytes);
        for line in self.lines.values() {
            results.push_str(line);
            results.push('\n');
        }
        let part = Part {
            input_sha256: self.input_sha256.clone(),
            results_sha256: shard::sha256(&results),
            complete: self.lines.len() == self.total,
            counts: self.counts,
        };
        (part, results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ids::{NodeAddress, RequestId};

    const INPUT: &str = "the input";

    fn lines(n: u32) -> Vec<InputLine> {
        let line = |index: u32| {
            serde_json::from_value(
                serde_json::json!({"index": index, "customId": format!("line-{index}"), "prompt": "x",
                "maxTokens": 1, "temperature": 0.0, "topP": 1.0, "topK": 0, "seed": 0}),
            )
            .unwrap()
        };
        (0..n).map(line).collect()
    }

    fn answer(index: u32, text: &str) -> ResultLine {
        ResultLine {
            index,
            custom_id: format!("line-{index}"),
            request_id: RequestId([1; 32]),
            outcome: Outcome::Completed {
                text: text.into(),
                finish_reason: "stop".into(),
                logprobs: None,
                prompt_tokens: 2,
                output_tokens: 3,
                node_name: "n".into(),
                node_address: NodeAddress([0; 20]),
                created: 4,
            },
        }
    }

    fn empty(n: u32) -> Gathered {
        Gathered::resume(&Found { input: INPUT.into(), ..Found::default() }, &lines(n))
    }

    #[test]
    fn results_are_in_input_order_however_they_came() {
        let (mut forth, mut back) = (empty(2), empty(2));
        forth.push(answer(0, "a"));
        assert!(!forth.render().0.complete);
        forth.push(answer(1, "b"));
        back.push(answer(1, "b"));
        back.push(answer(0, "a"));
        assert_eq!(forth.render(), back.render());
        let (part, _) = forth.render();
        assert!(part.complete);
        assert_eq!(part.counts, Counts { completed: 2, failed: 0, prompt_tokens: 4, output_tokens: 6 });
    }

    #[test]
    fn a_second_try_goes_on_where_the_first_was_lost() {
        let mut first = empty(2);
        first.push(answer(0, "a"));
        let (part, results) = first.render();
        let found = Found { input: INPUT.into(), results, part: Some(part) };
        let second = Gathered::resume(&found, &lines(2));
        assert!(second.has(0) && !second.has(1) && !second.is_changed());
        let other = Found { input: "another input".into(), ..found };
        assert!(!Gathered::resume(&other, &lines(2)).has(0), "the input changed");
    }

    #[test]
    fn results_that_nobody_asked_for_are_not_taken_over() {
        let mut first = empty(9);
        first.push(answer(7, "a"));
        let (part, results) = first.render();
        let found = Found { input: INPUT.into(), results, part: Some(part) };
        let second = Gathered::resume(&found, &lines(2));
        assert!(!second.has(7));
        assert!(second.is_changed(), "the part must be written anew");
    }

    #[test]
    fn an_answer_that_does_not_fit_becomes_a_failure() {
        let mut gathered = empty(3);
        gathered.push(answer(0, &"x".repeat(MAX_RESULT_BYTES)));
        gathered.push(answer(1, "small"));
        assert_eq!(gathered.counts().failed, 1);
        assert_eq!(gathered.counts().completed, 1);
        assert!(gathered.render().1.contains("OutputTooLarge"));
    }
}
