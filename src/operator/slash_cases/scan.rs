//! Pure: which of a contract's cases are read next, so that a look reads few of them and none is forgotten.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

use crate::{
    api::ids::NodeAddress,
    chain::slashing::{CaseState, SlashCase},
};

/// Cases that one look reads.
pub const PAGE: u64 = 32;
/// More than contracts that networks of a cluster name; what is forgotten is read again.
const MAX_CURSORS: usize = 64;

/// What a final block says about a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Decided, or with the arbiter: never due again.
    Over,
    Due,
    /// The owner can still appeal.
    Appealable,
}

impl Standing {
    /// `time`: unix seconds of the block.
    pub fn of(case: &SlashCase, time: u64) -> Self {
        match case.state {
            CaseState::Proposed if case.is_due(time) => Standing::Due,
            CaseState::Proposed => Standing::Appealable,
            CaseState::Appealed | CaseState::Executed | CaseState::Cancelled => Standing::Over,
        }
    }
}

/// How far the cases of a contract were read. Ids count from 1, and the time for an appeal is the same for all: they become due in
/// the order of their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// No case up to this id will ever be due again.
    over: u64,
    /// Read up to this id in this round.
    read: u64,
}

impl Cursor {
    /// The ids to read now, of `count` cases that there are.
    pub fn page(&self, count: u64) -> RangeInclusive<u64> {
        self.read.saturating_add(1)..=count.min(self.read.saturating_add(PAGE))
    }

    /// Notes a case of the page, in the order of ids.
    pub fn saw(&mut self, id: u64, standing: Standing) {
        if standing == Standing::Appealable {
            // Whatever comes later can be appealed, too: the round ends here.
            self.read = u64::MAX;
            return;
        }
        self.read = id;
        if standing == Standing::Over && id == self.over.saturating_add(1) {
            self.over = id;
        }
    }

    /// After the last case of a page. Whether that was the last page of a round; the next one begins with what was not over.
    pub fn end_page(&mut self, count: u64) -> bool {
        let is_complete = self.read >= count;
        if is_complete {
            self.read = self.over;
        }
        is_complete
    }
}

/// Cursors by chain id and GridSlashing. Lost with the process: then all cases are read once more.
#[derive(Default)]
pub struct Cursors {
    kept: Mutex<HashMap<(u64, NodeAddress), Cursor>>,
}

impl Cursors {
    pub fn of(&self, contract: (u64, NodeAddress)) -> Cursor {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&contract).copied().unwrap_or_default()
    }

    pub fn keep(&self, contract: (u64, NodeAddress), cursor: Cursor) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_CURSORS && !kept.contains_key(&contract) {
            kept.clear();
        }
        kept.insert(contract, cursor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::ids::Wei;

    /// One look; returns the ids that are due in its page.
    fn look(cursor: &mut Cursor, cases: &[Standing]) -> (Vec<u64>, usize, bool) {
        let (mut due, mut reads) = (Vec::new(), 0);
        for id in cursor.page(cases.len() as u64) {
            let standing = cases[id as usize - 1];
            reads += 1;
            cursor.saw(id, standing);
            match standing {
                Standing::Due => due.push(id),
                Standing::Over => {}
                Standing::Appealable => break,
            }
        }
        (due, reads, cursor.end_page(cases.len() as u64))
    }

    #[test]
    fn a_case_stands_as_its_state_and_the_time_of_the_block_say() {
        let case = |state| SlashCase {
            node: NodeAddress([1; 20]),
            amount: Wei(1),
            appeal_until: 100,
            ruling_until: 200,
            state,
        };
        assert_eq!(Standing::of(&case(CaseState::Proposed), 99), Standing::Appealable);
        assert_eq!(Standing::of(&case(CaseState::Proposed), 100), Standing::Due);
        for state in [CaseState::Appealed, CaseState::Executed, CaseState::Cancelled] {
            assert_eq!(Standing::of(&case(state), 300), Standing::Over, "{state:?}");
        }
    }

    #[test]
    fn what_is_over_is_read_once_and_what_can_be_appealed_ends_the_round() {
        let mut cases = vec![Standing::Over; 40];
        cases.extend([Standing::Due, Standing::Over, Standing::Appealable, Standing::Appealable]);
        let mut cursor = Cursor::default();
        assert_eq!(look(&mut cursor, &cases), (vec![], 32, false));
        assert_eq!(look(&mut cursor, &cases), (vec![41], 11, true));
        assert_eq!(look(&mut cursor, &cases), (vec![41], 3, true), "it was not executed yet");
        cases[40] = Standing::Over;
        assert_eq!(look(&mut cursor, &cases), (vec![], 3, true));
        assert_eq!(look(&mut cursor, &cases), (vec![], 1, true), "one question is left");
        assert_eq!(look(&mut Cursor::default(), &[]), (vec![], 0, true));
    }

    #[test]
    fn an_endpoint_that_knows_fewer_cases_than_were_read_brings_nothing_to_a_stop() {
        let mut cursor = Cursor::default();
        look(&mut cursor, &[Standing::Over; 3]);
        assert_eq!(look(&mut cursor, &[Standing::Over]), (vec![], 0, true));
        assert_eq!(
            look(&mut cursor, &[Standing::Over, Standing::Over, Standing::Over, Standing::Due]),
            (vec![4], 1, true)
        );
    }

    proptest! {
        /// Whatever others do with their cases meanwhile, every case that is due is found within one round, and no look reads more
        /// than a page.
        #[test]
        fn every_due_case_is_found(
            decided in prop::collection::vec(any::<bool>(), 0..200),
            open in 0usize..3,
            looks_before in 0usize..10,
        ) {
            let of = |over: &bool| if *over { Standing::Over } else { Standing::Due };
            let cases: Vec<_> = decided.iter().map(of).chain(std::iter::repeat_n(Standing::Appealable, open)).collect();
            let mut cursor = Cursor::default();
            for _ in 0..looks_before {
                prop_assert!(look(&mut cursor, &cases).1 <= PAGE as usize);
            }
            while !look(&mut cursor, &cases).2 {}
            let mut found = Vec::new();
            loop {
                let (due, _, is_complete) = look(&mut cursor, &cases);
                found.extend(due);
                if is_complete {
                    break;
                }
            }
            let due = |(index, over): (usize, &bool)| (!over).then_some(index as u64 + 1);
            prop_assert_eq!(found, decided.iter().enumerate().filter_map(due).collect::<Vec<_>>());
        }
    }
}
