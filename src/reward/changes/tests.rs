use proptest::prelude::*;

use super::*;
use crate::reward::packed::{PackedReport, unpack_report};

fn recipe(budget: u128) -> Recipe {
    Recipe { statement: B256::repeat_byte(7), block: 98_802_000, split: RewardSplit::default(), budget: Wei(budget) }
}

fn changes(list: &[(u32, u128)]) -> PackedChanges {
    let changes = list.iter().map(|(index, wei)| LeafChange { index: *index, increase: Wei(*wei) }).collect();
    PackedChanges { recipe: recipe(Wei::XDC.0), changes }
}

/// What XDC charges for bytes of calldata.
fn gas(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| if *byte == 0 { 4 } else { 68 }).sum()
}

#[test]
fn changes_come_back_as_they_were_packed() {
    for list in [&[][..], &[(0, 1)], &[(u32::MAX, u128::MAX)], &[(3, 256), (4, 255), (900, 1)]] {
        let packed = pack_changes(&changes(list)).unwrap();
        assert_eq!(unpack_changes(&packed).unwrap(), changes(list));
        assert_eq!(unpack_report(&packed).unwrap(), PackedReport::Changes(changes(list)));
    }
}

#[test]
fn a_recipe_alone_is_the_head_of_the_form_and_comes_back() {
    for budget in [0, 1, Wei::XDC.0, u128::MAX] {
        let recipe = recipe(budget);
        let packed = pack_recipe(&recipe);
        assert_eq!(unpack_recipe(&packed), Ok(recipe));
        assert!(pack_changes(&PackedChanges { recipe, changes: vec![] }).unwrap().starts_with(&packed));
        assert_eq!(unpack_recipe(&[&packed[..], &[0]].concat()), Err(PackedError::Trailing { bytes: 1 }));
        assert!((0..packed.len()).all(|end| unpack_recipe(&packed[..end]).is_err()));
    }
}

#[test]
fn a_thousand_nodes_cost_less_than_550_gas_each() {
    // 10 XDC an epoch, unequal shares, every second node raised.
    let list: Vec<(u32, u128)> =
        (0..1_000).map(|at| (2 * at, Wei::XDC.0 / 200 + u128::from(at) * 10_000_000_000_019)).collect();
    let packed = pack_changes(&changes(&list)).unwrap();
    assert!(gas(&packed) < 550 * 1_000, "{} gas, {} bytes", gas(&packed), packed.len());
    // The transaction around it costs less than 100,000 (tests/it/chain_gas.rs).
    assert!(gas(&packed) + 100_000 <= 750 * 1_000);
}

#[test]
fn what_would_not_be_packed_is_refused() {
    let good = pack_changes(&changes(&[(3, 5), (7, 9)])).unwrap();
    assert_eq!(pack_changes(&changes(&[(3, 5), (3, 9)])), Err(PackedError::Order(1)));
    assert_eq!(pack_changes(&changes(&[(3, 0)])), Err(PackedError::Zero(0)));
    assert_eq!(unpack_changes(&[]), Err(PackedError::Short));
    assert_eq!(unpack_changes(&[2]), Err(PackedError::Version(2)));
    assert!(!(good.len()).is_multiple_of(LEAF));
    assert_eq!(unpack_changes(&[&good[..], &[0]].concat()), Err(PackedError::Trailing { bytes: 1 }));
    for end in 0..good.len() {
        assert!(unpack_changes(&good[..end]).is_err(), "{end} bytes");
    }
    let bomb = vec![0; MAX_PACKED + 1];
    assert_eq!(unpack_changes(&bomb), Err(PackedError::TooLong { bytes: MAX_PACKED + 1 }));
}

#[test]
fn a_length_is_not_believed() {
    // A recipe, then 2⁶³ changes of 128 bits each, of which none is there.
    let mut hostile = pack_changes(&changes(&[])).unwrap();
    hostile.truncate(hostile.len() - 2);
    put_varint(&mut hostile, 1 << 63);
    hostile.push(128);
    assert_eq!(unpack_changes(&hostile), Err(PackedError::Short));
}

#[test]
fn the_same_number_in_more_bytes_is_refused() {
    // The block as 0x80 0x00 instead of 0x00.
    let packed = pack_changes(&PackedChanges { recipe: Recipe { block: 0, ..recipe(1) }, changes: vec![] }).unwrap();
    let long = [&packed[..33], &[0x80], &packed[33..]].concat();
    assert_eq!(unpack_changes(&long), Err(PackedError::NotShortest));
    // A bit after the last number: 3 changes of 3 bits leave 7 free.
    let mut packed = pack_changes(&changes(&[(1, 5), (2, 1), (3, 7)])).unwrap();
    *packed.last_mut().unwrap() |= 1;
    assert_eq!(unpack_changes(&packed), Err(PackedError::NotShortest));
}

#[test]
fn applied_changes_give_the_leaves_they_were_made_from() {
    let leaf = |id: u8, wei| RewardLeaf { node: NodeAddress([id; 20]), cumulative: Wei(wei) };
    let before = [leaf(1, 5), leaf(2, 6)];
    let after = vec![leaf(0, 1), leaf(1, 5), leaf(2, 9)];
    // Indexes are in the order of registration, not of addresses.
    let index_of = |node: NodeAddress| Some(10 - u32::from(node.0[0]));
    let found = changes_between(&before, &after, index_of).unwrap();
    assert_eq!(found, [LeafChange { index: 8, increase: Wei(3) }, LeafChange { index: 10, increase: Wei(1) }]);
    let node_of = |index: u32| u8::try_from(10 - index).ok().map(|id| NodeAddress([id; 20]));
    assert_eq!(apply_changes(&before, &found, node_of), Ok(after));
    assert_eq!(apply_changes(&before, &found, |_| None), Err(PackedError::UnknownIndex(8)));
    let huge = [LeafChange { index: 9, increase: Wei(u128::MAX) }];
    assert_eq!(apply_changes(&before, &huge, node_of), Err(PackedError::Overflow(NodeAddress([1; 20]))));
    assert_eq!(changes_between(&before, &[leaf(1, 4), leaf(2, 6)], index_of), None, "a leaf fell");
    assert_eq!(changes_between(&before, &[leaf(1, 5)], index_of), None, "a leaf is gone");
}

prop_compose! {
    fn contents()(block in any::<u64>(), budget in prop_oneof![Just(0), any::<u128>()], work in 0..=10_000u16,
                  list in prop::collection::btree_map(prop_oneof![0..300u32, any::<u32>()], prop_oneof![1..1_000u128, 1..u128::MAX], 0..60))
                  -> PackedChanges {
        let split = RewardSplit::new(work, 10_000 - work, 0).unwrap();
        let changes = list.into_iter().map(|(index, wei)| LeafChange { index, increase: Wei(wei) }).collect();
        PackedChanges { recipe: Recipe { block, budget: Wei(budget), split, ..recipe(0) }, changes }
    }
}

proptest! {
    #[test]
    fn every_content_comes_back_and_is_never_taken_for_the_whole_form(content in contents()) {
        let packed = pack_changes(&content).unwrap();
        prop_assert!(!packed.len().is_multiple_of(LEAF));
        prop_assert_eq!(unpack_report(&packed), Ok(PackedReport::Changes(content)));
    }

    /// Whatever is accepted has one form: no two byte strings say the same.
    #[test]
    fn bytes_that_were_tampered_with_are_refused_or_packed_back_as_they_are(
        content in contents(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = pack_changes(&content).unwrap();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(found) = unpack_changes(&bytes) {
            prop_assert_eq!(pack_changes(&found).unwrap(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        if let Ok(found) = unpack_changes(&bytes) {
            prop_assert_eq!(pack_changes(&found).unwrap(), bytes);
        }
    }
}
