//! What is computed in a step. Pure.

/// Tokens of a prefill that one sequence is given at a time, and all of them together while others decode: some 0.2 s of a
/// small model on one core, so that an answer never stands still for longer.
pub(super) const CHUNK: usize = 64;

/// A sequence's part in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Which sequence.
    pub index: usize,
    pub tokens: usize,
}

/// Fills `parts`, in the order of sequences: the next token of every sequence that decodes, and chunks of prefills up to
/// `budget` tokens in all, at least one chunk of one token. `waiting` has the tokens that each sequence could compute now.
/// Prefills are offered chunks by turns, beginning with the sequence at `turn`; returns whose turn is next.
pub(super) fn plan(waiting: &[usize], turn: usize, budget: usize, parts: &mut Vec<Part>) -> usize {
    parts.clear();
    parts.extend(waiting.iter().enumerate().map(|(index, tokens)| Part { index, tokens: usize::from(*tokens == 1) }));
    let decoding = parts.iter().filter(|part| part.tokens > 0).count();
    let mut left = budget.saturating_sub(decoding).max(1);
    if decoding > 0 {
        left = left.min(CHUNK);
    }
    let mut next = turn;
    let mut idle = 0;
    while left > 0 && idle < waiting.len() {
        let index = next % waiting.len();
        let part = parts.get_mut(index).zip(waiting.get(index).filter(|tokens| **tokens > 1));
        let chunk = part.map_or(0, |(part, tokens)| {
            let chunk = (tokens - part.tokens).min(CHUNK).min(left);
            part.tokens += chunk;
            chunk
        });
        left -= chunk;
        idle = if chunk == 0 { idle + 1 } else { 0 };
        next = index + 1;
    }
    parts.retain(|part| part.tokens > 0);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn planned(waiting: &[usize], turn: usize, budget: usize) -> (Vec<(usize, usize)>, usize) {
        let mut parts = Vec::new();
        let next = plan(waiting, turn, budget, &mut parts);
        (parts.into_iter().map(|part| (part.index, part.tokens)).collect(), next)
    }

    #[test]
    fn everybody_who_decodes_gets_a_token_and_one_prefill_a_chunk() {
        assert_eq!(planned(&[1, 500, 1, 300, 0], 0, 256).0, [(0, 1), (1, 64), (2, 1)]);
        assert_eq!(planned(&[1, 500, 1, 300, 0], 2, 256).0, [(0, 1), (2, 1), (3, 64)]);
    }

    #[test]
    fn prefills_share_the_budget_while_nobody_decodes() {
        assert_eq!(planned(&[500], 0, 256).0, [(0, 256)]);
        assert_eq!(planned(&[500, 400], 0, 256).0, [(0, 128), (1, 128)]);
        assert_eq!(planned(&[10, 20, 500], 0, 256).0, [(0, 10), (1, 20), (2, 226)]);
    }

    #[test]
    fn short_prompts_fill_what_a_longer_one_leaves() {
        assert_eq!(planned(&[1, 20, 30, 90], 1, 256).0, [(0, 1), (1, 20), (2, 30), (3, 14)]);
    }

    #[test]
    fn nothing_to_do_is_no_plan() {
        assert_eq!(planned(&[], 3, 256).0, []);
        assert_eq!(planned(&[0, 0], 3, 256).0, []);
    }

    proptest! {
        #[test]
        fn no_plan_is_too_large_and_none_that_could_be_is_empty(waiting in prop::collection::vec(0usize..400, 0..12), turn in 0usize..12, budget in 1usize..300) {
            let (parts, _) = planned(&waiting, turn, budget);
            prop_assert!(parts.is_sorted());
            prop_assert_eq!(parts.is_empty(), waiting.iter().all(|tokens| *tokens == 0));
            for (index, tokens) in &parts {
                prop_assert!(*tokens >= 1 && *tokens <= waiting[*index]);
            }
            let decoding = waiting.iter().filter(|tokens| **tokens == 1).count();
            let tokens: usize = parts.iter().map(|(_, tokens)| tokens).sum();
            prop_assert!(tokens <= budget.max(decoding + 1));
            prop_assert_eq!(parts.iter().filter(|(index, _)| waiting[*index] == 1).count(), decoding);
        }

        #[test]
        fn every_prefill_ends(mut waiting in prop::collection::vec(0usize..400, 1..8), budget in 1usize..300) {
            let (mut parts, mut turn, mut steps) = (Vec::new(), 0, 0);
            while waiting.iter().any(|tokens| *tokens > 0) {
                turn = plan(&waiting, turn, budget, &mut parts);
                parts.iter().for_each(|part| waiting[part.index] -= part.tokens);
                steps += 1;
                prop_assert!(steps <= 4_000);
            }
        }
    }
}
