//! Which block of threads looks at which positions for which queries: a forward's work, cut into items.

/// Positions that one item looks at where a sequence has few queries. Cuts are at multiples of it, so that a row's sums are taken in the same
/// order whatever its window.
const SPLIT: usize = 256;

/// The rows of one sequence in a forward.
pub(in super::super) struct Sequence {
    /// The address of its keys and values.
    pub(in super::super) kv: u64,
    /// Tokens that there is room for.
    pub(in super::super) room: usize,
    /// The position of its first row.
    pub(in super::super) start: usize,
    pub(in super::super) rows: usize,
}

/// The work of a forward in layers with the same window. Numbers as `attention.cu` has them: `Row`, `Item`, `Merge`, whose fields it explains.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) rows: Vec<[i64; 3]>,
    pub(super) items: Vec<[i64; 7]>,
    pub(super) merges: Vec<[i64; 5]>,
    /// Results that wait to be merged.
    pub(super) parts: usize,
}

impl Plan {
    /// `window`: tokens that a row sees, itself included. `group`: query heads that share keys. An item has at most `queries` queries.
    pub(super) fn of(sequences: &[Sequence], window: Option<usize>, group: usize, queries: usize) -> Self {
        let mut plan = Self::default();
        for sequence in sequences {
            plan.add(sequence, window, group, queries);
        }
        plan
    }

    fn add(&mut self, sequence: &Sequence, window: Option<usize>, group: usize, queries: usize) {
        let Sequence { kv, room, start, rows } = *sequence;
        let row = self.rows.len();
        self.rows.extend((start..start + rows).map(|position| numbers([kv as usize, room, position])));
        let all = rows * group;
        for first in (0..all).step_by(queries) {
            let count = queries.min(all - first);
            let begin = window.map_or(0, |window| (start + first / group + 1).saturating_sub(window));
            let end = start + (first + count - 1) / group + 1;
            let splits = begin / SPLIT..(end - 1) / SPLIT + 1;
            let mut item = |begin, end, part: Option<usize>| {
                let [row, first, count, begin, end, window] =
                    numbers([row, first, count, begin, end, window.unwrap_or(0)]);
                self.items.push([row, first, count, begin, end, window, part.map_or(-1, |part| part as i64)]);
            };
            // Where there are many queries, their items keep the device busy without being split.
            if all > queries || splits.len() == 1 {
                item(begin, end, None);
                continue;
            }
            for (index, split) in splits.clone().enumerate() {
                let (begin, end) = (begin.max(split * SPLIT), end.min((split + 1) * SPLIT));
                item(begin, end, Some(self.parts + index));
            }
            self.merges.push(numbers([row, first, count, self.parts, splits.len()]));
            self.parts += splits.len();
        }
    }
}

/// Positions, counts and addresses of a device are below 2⁶³.
fn numbers<const N: usize>(numbers: [usize; N]) -> [i64; N] {
    numbers.map(|number| number as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(start: usize, rows: usize) -> Sequence {
        Sequence { kv: 4096, room: 4096, start, rows }
    }

    #[test]
    fn one_token_far_into_its_sequence_is_split_at_multiples() {
        let plan = Plan::of(&[sequence(600, 1)], None, 4, 16);
        let spans: Vec<_> = plan.items.iter().map(|item| (item[3], item[4], item[6])).collect();
        assert_eq!(spans, [(0, 256, 0), (256, 512, 1), (512, 601, 2)]);
        assert_eq!(plan.merges, [[0, 0, 4, 0, 3]]);
        let windowed = Plan::of(&[sequence(600, 1)], Some(100), 4, 16);
        assert_eq!(windowed.items, [[0, 0, 4, 501, 512, 100, 0], [0, 0, 4, 512, 601, 100, 1]]);
    }

    #[test]
    fn a_prefill_is_not_split_and_its_last_item_is_what_is_left() {
        let plan = Plan::of(&[sequence(0, 7), sequence(9, 0), sequence(3, 1)], None, 3, 16);
        assert_eq!(plan.rows.len(), 8);
        assert_eq!(plan.items, [[0, 0, 16, 0, 6, 0, -1], [0, 16, 5, 0, 7, 0, -1], [7, 0, 3, 0, 4, 0, -1]]);
        assert!(plan.merges.is_empty() && plan.parts == 0);
    }

    proptest! {
        /// Every query looks at every position that it sees, once, and its result is written once.
        #[test]
        fn every_query_sees_every_position_once(
            shapes in proptest::collection::vec((0usize..900, 0usize..40), 1..5),
            window in proptest::option::of(1usize..700), group in 1usize..9, queries in prop_oneof![Just(8usize), Just(16)],
        ) {
            let sequences: Vec<_> = shapes.iter().map(|(start, rows)| sequence(*start, *rows)).collect();
            let plan = Plan::of(&sequences, window, group, queries);
            prop_assert_eq!(plan.rows.len(), shapes.iter().map(|(_, rows)| rows).sum::<usize>());
            let mut written = vec![0; plan.rows.len() * group];
            let mut seen = vec![Vec::new(); plan.rows.len() * group];
            let mut filled = vec![0; plan.parts];
            for [row, first, count, begin, end, _, part] in &plan.items {
                prop_assert!(*count >= 1 && *count <= queries as i64 && begin < end);
                for query in *first..first + count {
                    let index = *row as usize * group + query as usize;
                    let position = plan.rows[*row as usize][2] + query / group as i64;
                    let sees = window.map_or(0, |window| (position + 1 - window as i64).max(0))..position + 1;
                    seen[index].extend((*begin..*end).filter(|other| sees.contains(other)));
                    written[index] += usize::from(*part < 0);
                }
                if let Ok(part) = usize::try_from(*part) {
                    filled[part] += 1;
                }
            }
            for [row, first, count, part, parts] in &plan.merges {
                (*part..part + parts).for_each(|part| filled[part as usize] += 1);
                (*first..first + count).for_each(|query| written[*row as usize * group + query as usize] += 1);
            }
            // A part is filled by one item and taken by one merge.
            prop_assert!(filled.iter().all(|times| *times == 2) && written.iter().all(|times| *times == 1));
            for (index, seen) in seen.iter().enumerate() {
                let position = plan.rows[index / group][2];
                let first = window.map_or(0, |window| (position + 1 - window as i64).max(0));
                prop_assert!(seen.iter().copied().eq(first..position + 1));
            }
        }
    }
}
