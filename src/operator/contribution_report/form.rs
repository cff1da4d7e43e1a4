//! Pure: in which form a report carries its leaves.
//!
//! What the epoch raised, by each node's index on the contract, whenever it can: that costs a third of all leaves, and says what they
//! were made from. All leaves at least once in [`WHOLE_EVERY`] reports, so that whoever has nothing but the chain need not read further
//! back, and whenever raises cannot say it.

use std::collections::BTreeMap;

use alloy::sol_types::SolCall;

use super::report::Report;
use crate::{
    api::ids::NodeAddress,
    chain::bindings::GridComputingRewards::submitEpochCall,
    reward::{
        MAX_LEAVES, PackedChanges, PackedForm, Recipe, RewardLeaf, changes_between, form_of, pack_changes, pack_leaves,
    },
};

/// Of so many reports in a row one carries all leaves: with an epoch an hour, one a day.
pub const WHOLE_EVERY: usize = 24;

/// What a report is made from.
pub struct Inputs<'a> {
    /// None in reports of older versions.
    pub recipe: Option<Recipe>,
    /// Leaves of the report before, where they are known.
    pub before: Option<&'a [RewardLeaf]>,
    pub after: &'a [RewardLeaf],
    /// Of the nodes that earned something, where they are registered.
    pub indexes: &'a BTreeMap<NodeAddress, u32>,
}

/// Why raises do not do, and all leaves are too many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{leaves} leaves are more than the {MAX_LEAVES} that a report carries whole, and it must carry them whole: {why}"
)]
pub struct TooLarge {
    pub leaves: usize,
    pub why: String,
}

/// Whether it is time for all leaves, so many as there are now. `earlier`: the reports before, by ascending epoch, as many as are kept.
pub fn is_whole_due(earlier: &[&Report], leaves: usize) -> bool {
    if leaves > MAX_LEAVES {
        return false;
    }
    let mut in_a_row = 0;
    for form in earlier.iter().rev().filter_map(|report| carried(report)) {
        match form {
            PackedForm::Whole => return in_a_row + 1 >= WHOLE_EVERY,
            PackedForm::Changes => in_a_row += 1,
            PackedForm::Unchanged => {}
        }
    }
    // Nobody knows how far back the last one is, unless these are all that there ever were.
    in_a_row + 1 >= WHOLE_EVERY || earlier.first().is_some_and(|first| first.epoch.0 > 0)
}

/// The form that a report was sent in; none for one that was not, or not by us.
fn carried(report: &Report) -> Option<PackedForm> {
    let record = report.submit.as_ref()?;
    Some(form_of(&submitEpochCall::abi_decode(&record.intent.call.data).ok()?.leaves))
}

/// Nodes whose leaf is not what it was before.
pub fn raised(before: &[RewardLeaf], after: &[RewardLeaf]) -> Vec<NodeAddress> {
    let known: BTreeMap<_, _> = before.iter().map(|leaf| (leaf.node, leaf.cumulative)).collect();
    after.iter().filter(|leaf| known.get(&leaf.node) != Some(&leaf.cumulative)).map(|leaf| leaf.node).collect()
}

/// What the contract is sent.
pub fn pack(inputs: &Inputs<'_>) -> Result<Vec<u8>, TooLarge> {
    match changes(inputs) {
        Ok(packed) => Ok(packed),
        Err(why) if inputs.after.len() > MAX_LEAVES => Err(TooLarge { leaves: inputs.after.len(), why }),
        Err(_) => Ok(pack_leaves(inputs.after)),
    }
}

fn changes(inputs: &Inputs<'_>) -> Result<Vec<u8>, String> {
    let recipe = inputs.recipe.ok_or("the report does not say what its leaves were made from")?;
    let before = inputs.before.ok_or("the leaves of the report before are not to be had")?;
    let changes = changes_between(before, inputs.after, |node| inputs.indexes.get(&node).copied());
    let changes = changes.ok_or("a node that earned something is not registered any more")?;
    pack_changes(&PackedChanges { recipe, changes }).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};

    use super::*;
    use crate::{
        api::ids::{EpochNumber, Wei},
        chain::{Intent, IntentKind, OutboxRecord, TxCall},
        operator::contribution_report::decide,
        reward::{PackedReport, RewardSplit, unpack_report},
    };

    fn leaf(id: u8, wei: u128) -> RewardLeaf {
        RewardLeaf { node: NodeAddress([id; 20]), cumulative: Wei(wei) }
    }

    fn recipe() -> Recipe {
        Recipe { statement: B256::repeat_byte(5), block: 9, split: RewardSplit::default(), budget: Wei(10) }
    }

    /// A report that was sent with these leaves.
    fn sent(epoch: u64, leaves: &[u8]) -> Report {
        let call = submitEpochCall {
            epoch,
            root: B256::ZERO,
            cumulativeTotal: 0,
            dataHash: B256::ZERO,
            leaves: Bytes::copy_from_slice(leaves),
        };
        let call = TxCall { to: None, value: Wei(0), data: call.abi_encode().into() };
        let intent = Intent { kind: IntentKind::SubmitEpoch, key: String::new(), call };
        let record = OutboxRecord::plan(intent, NodeAddress([1; 20]), 51);
        Report { submit: Some(record), ..decide::tests::report(epoch) }
    }

    fn is_due(reports: &[Report]) -> bool {
        is_whole_due(&reports.iter().collect::<Vec<_>>(), MAX_LEAVES)
    }

    #[test]
    fn raises_are_sent_and_can_be_read_by_index() {
        let (before, after) = ([leaf(1, 5), leaf(2, 5)], [leaf(1, 5), leaf(2, 7), leaf(3, 1)]);
        assert_eq!(raised(&before, &after), [NodeAddress([2; 20]), NodeAddress([3; 20])]);
        let indexes = BTreeMap::from([(NodeAddress([2; 20]), 8), (NodeAddress([3; 20]), 4)]);
        let inputs = Inputs { recipe: Some(recipe()), before: Some(&before), after: &after, indexes: &indexes };
        let PackedReport::Changes(found) = unpack_report(&pack(&inputs).unwrap()).unwrap() else { panic!("whole") };
        assert_eq!(found.recipe, recipe());
        assert_eq!(found.changes.iter().map(|c| (c.index, c.increase.0)).collect::<Vec<_>>(), [(4, 1), (8, 2)]);
    }

    #[test]
    fn all_leaves_are_sent_where_raises_cannot_say_it_and_too_many_are_refused_with_the_cause() {
        let (before, after) = ([leaf(1, 5)], [leaf(1, 6)]);
        let (known, nobody) = (BTreeMap::from([(NodeAddress([1; 20]), 1)]), BTreeMap::new());
        let good = Inputs { recipe: Some(recipe()), before: Some(&before), after: &after, indexes: &known };
        assert_ne!(pack(&good), Ok(pack_leaves(&after)));
        for bad in [
            Inputs { recipe: None, ..good },
            Inputs { before: None, ..good },
            Inputs { indexes: &nobody, ..good },
            Inputs { before: Some(&[leaf(1, 7)]), ..good },
        ] {
            assert_eq!(pack(&bad), Ok(pack_leaves(&after)));
        }
        let many: Vec<_> = (0..=MAX_LEAVES as u16)
            .map(|id| {
                let mut node = [7; 20];
                node[..2].copy_from_slice(&id.to_be_bytes());
                RewardLeaf { node: NodeAddress(node), cumulative: Wei(1) }
            })
            .collect();
        let refused = pack(&Inputs { after: &many, indexes: &nobody, ..good }).unwrap_err().to_string();
        assert!(refused.contains("1801 leaves") && refused.contains("not registered"), "{refused}");
    }

    #[test]
    fn the_first_report_needs_no_leaves_of_others_and_one_in_a_day_has_all() {
        assert!(!is_due(&[]), "the first of all");
        let changes = [1, 2, 3];
        let mut reports: Vec<_> = (0..22).map(|epoch| sent(epoch, &changes)).collect();
        assert!(!is_due(&reports));
        reports.push(sent(22, &[]));
        assert!(!is_due(&reports), "an epoch without increase does not count");
        reports.push(sent(23, &changes));
        assert!(is_due(&reports), "the 24th in a row");
        assert!(!is_whole_due(&reports.iter().collect::<Vec<_>>(), MAX_LEAVES + 1), "more than fit are never due");
        reports.push(sent(24, &pack_leaves(&[leaf(1, 1)])));
        assert!(!is_due(&reports));
        reports.extend((25..48).map(|epoch| sent(epoch, &changes)));
        assert!(is_due(&reports));
    }

    #[test]
    fn who_keeps_too_few_reports_to_know_sends_all_leaves() {
        assert!(is_due(&[sent(7, &[1, 2, 3]), sent(8, &[1])]));
        let whole = pack_leaves(&[leaf(1, 1)]);
        assert!(!is_due(&[sent(7, &whole), sent(8, &[1])]));
        let unsent = Report { epoch: EpochNumber(9), ..decide::tests::report(9) };
        assert!(is_due(&[unsent]), "somebody else may have sent it");
    }
}
