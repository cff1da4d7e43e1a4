use super::*;
use crate::reward::{RewardTree, decompress_leaves, verify_proof};
use crate::{
    api::ids::EscrowId,
    protocol::internal::{PaidJobTotals, ServedUnits},
};
use std::collections::BTreeMap;

const TOTALS: &str = r#"
epoch: 7
auditSecret: "00ff"
nodes:
  - {address: "0x0100000000000000000000000000000000000000", nodeName: a, requests: 3, promptTokens: 30, outputTokens: 9,
     units: "600", capacityUnits: 10, provenBytes: 5, eligible: true}
  - {address: "0x0200000000000000000000000000000000000000", nodeName: b, requests: 1, promptTokens: 10, outputTokens: 3,
     units: "200", capacityUnits: 10, provenBytes: 0, eligible: true}
  - {address: "0x0300000000000000000000000000000000000000", nodeName: cheat, requests: 9, promptTokens: 9, outputTokens: 9,
     units: "900", capacityUnits: 99, provenBytes: 99, eligible: false, reason: EvidenceAgainstNode}
  - {address: "0x0400000000000000000000000000000000000000", nodeName: stranger, requests: 9, promptTokens: 9, outputTokens: 9,
     units: "900", capacityUnits: 99, provenBytes: 99, eligible: true}
"#;

fn address(first: u8) -> NodeAddress {
    let mut bytes = [0; 20];
    bytes[0] = first;
    NodeAddress(bytes)
}

fn domain() -> TreeDomain {
    TreeDomain { chain_id: 51, contract: NodeAddress([9; 20]) }
}

fn totals() -> EpochTotals {
    serde_yaml::from_str(TOTALS).unwrap()
}

fn planned(totals: &EpochTotals, previous: &[RewardLeaf], budget: u128) -> Result<Planned, PlanError> {
    // The stranger has no stake in the contract.
    let registered = [address(1), address(2), address(3)].into();
    plan(&Inputs {
        network: "demo",
        epoch: EpochNumber(7),
        domain: domain(),
        reporter: NodeAddress([8; 20]),
        totals,
        statement: B256::repeat_byte(7),
        registered: &registered,
        block: 98_802_000,
        previous,
        paid: PaidWork::default(),
        budget: Wei(budget),
        split: RewardSplit::default(),
        dry_run: false,
    })
}

fn leaves(planned: &Planned) -> BTreeMap<NodeAddress, u128> {
    let hash = planned.spec.leaves.data_hash.parse().unwrap();
    let leaves = decompress_leaves(&planned.leaves, hash).unwrap();
    leaves.into_iter().map(|leaf| (leaf.node, leaf.cumulative.0)).collect()
}

#[test]
fn only_eligible_nodes_with_a_stake_are_paid_and_exactly_the_budget() {
    let planned = planned(&totals(), &[], 1_000).unwrap();
    // 600 : work 3:1; 250: capacity 1:1; 150: storage, all to the first.
    assert_eq!(leaves(&planned), [(address(1), 450 + 125 + 150), (address(2), 150 + 125)].into());
    assert_eq!((planned.name.as_str(), planned.spec.allocated_wei.as_str()), ("demo-7", "1000"));
    assert_eq!(planned.spec.cumulative_wei, "1000");
    assert_eq!((planned.spec.totals.nodes, planned.spec.totals.requests), (2, 22));
    assert_eq!(planned.spec.totals.units, "800");
    assert_eq!(planned.spec.statement, Some(B256::repeat_byte(7).to_string()));
    let recipe = planned.spec.recipe.unwrap();
    assert_eq!((recipe.block, recipe.budget_wei.as_str()), (98_802_000, "1000"));
    assert_eq!((recipe.work_bps, recipe.capacity_bps), (6_000, 2_500));
}

#[test]
fn earnings_are_added_to_what_was_earned_before_and_nobody_is_forgotten() {
    let gone = RewardLeaf { node: address(77), cumulative: Wei(5) };
    let before = [RewardLeaf { node: address(1), cumulative: Wei(10) }, gone];
    let planned = planned(&totals(), &before, 1_000).unwrap();
    assert_eq!(leaves(&planned), [(address(1), 735), (address(2), 275), (address(77), 5)].into());
    assert_eq!((planned.spec.cumulative_wei.as_str(), planned.spec.allocated_wei.as_str()), ("1015", "1000"));
    let tree = RewardTree::build(
        domain(),
        leaves(&planned).into_iter().map(|(node, sum)| RewardLeaf { node, cumulative: Wei(sum) }),
    )
    .unwrap();
    assert!(verify_proof(domain(), planned.spec.root.parse().unwrap(), &tree.proof(address(77)).unwrap()));
}

#[test]
fn an_epoch_without_work_or_without_money_keeps_the_root() {
    let first = planned(&totals(), &[], 1_000).unwrap();
    let before: Vec<_> =
        leaves(&first).into_iter().map(|(node, sum)| RewardLeaf { node, cumulative: Wei(sum) }).collect();
    let empty = EpochTotals { nodes: Vec::new(), ..totals() };
    for again in [planned(&empty, &before, 1_000).unwrap(), planned(&totals(), &before, 0).unwrap()] {
        assert_eq!((&again.spec.root, again.spec.allocated_wei.as_str()), (&first.spec.root, "0"));
        assert_eq!(again.spec.leaves.data_hash, first.spec.leaves.data_hash);
    }
}

#[test]
fn planning_again_gives_the_same_bytes_whatever_the_order() {
    let mut shuffled = totals();
    shuffled.nodes.reverse();
    assert_eq!(planned(&shuffled, &[], 999).unwrap(), planned(&totals(), &[], 999).unwrap());
}

#[test]
fn nonsense_of_the_gateway_is_refused_with_a_sentence() {
    let mut totals = totals();
    totals.nodes[0].units = "many".into();
    assert!(planned(&totals, &[], 1).unwrap_err().to_string().contains("\"many\""));
    totals.nodes[0].units = "1".into();
    totals.nodes[1].address = totals.nodes[0].address;
    assert!(matches!(planned(&totals, &[], 1), Err(PlanError::Settle(_))));
    totals.epoch = EpochNumber(8);
    assert!(matches!(planned(&totals, &[], 1), Err(PlanError::OtherEpoch { .. })));
    let many: Vec<_> = (0..=MAX_STORED as u64)
        .map(|id| {
            let mut node = [5; 20];
            node[..8].copy_from_slice(&id.to_be_bytes());
            RewardLeaf { node: NodeAddress(node), cumulative: Wei(1) }
        })
        .collect();
    assert!(matches!(planned(&self::totals(), &many, 0), Err(PlanError::Packed(PackedError::TooMany { .. }))));
    let rich = RewardLeaf { node: address(1), cumulative: Wei(u128::MAX) };
    assert!(planned(&self::totals(), &[rich], 1_000).is_err());
}

#[test]
fn the_split_comes_in_percent() {
    assert_eq!(split(&SplitSpec::default()), Ok(RewardSplit::default()));
    assert!(split(&SplitSpec { work: 60, capacity: 25, storage: 16 }).is_err());
}

fn paid(id: u8, spent: u128, served: &[(NodeAddress, &str)]) -> PaidJobTotals {
    let served = served.iter().map(|(address, units)| ServedUnits { address: *address, units: (*units).into() });
    PaidJobTotals { escrow: EscrowId([id; 32]), spent: Wei(spent), fee_bps: 500, served: served.collect() }
}

#[test]
fn the_fee_of_a_paid_job_goes_to_registered_nodes_that_served_it_on_top_of_the_budget() {
    let stranger = address(99);
    let jobs = vec![paid(1, 1_000, &[(address(1), "30"), (address(2), "10"), (stranger, "5000")])];
    let totals = EpochTotals { jobs, ..totals() };
    let registered = [address(1), address(2)].into();
    let jobs = paid_jobs(&totals, &registered, Wei(10_000)).unwrap();
    assert_eq!(PaidWork { jobs: &jobs }.net(), Wei(950));
    let planned = plan(&Inputs {
        network: "demo",
        epoch: EpochNumber(7),
        domain: domain(),
        reporter: NodeAddress([8; 20]),
        totals: &totals,
        statement: B256::repeat_byte(7),
        registered: &registered,
        block: 98_802_000,
        previous: &[],
        paid: PaidWork { jobs: &jobs },
        budget: Wei(0),
        split: RewardSplit::default(),
        dry_run: false,
    })
    .unwrap();
    assert_eq!(leaves(&planned), [(address(1), 713), (address(2), 237)].into());
    assert_eq!(planned.spec.allocated_wei, "950");
}

#[test]
fn fees_beyond_what_an_epoch_can_pay_stay_in_the_pool() {
    let served = [(address(1), "1")];
    let jobs = [1, 2, 3].map(|id| paid(id, 100, &served)).to_vec();
    let totals = EpochTotals { jobs, ..totals() };
    let within = |most| paid_jobs(&totals, &[address(1)].into(), Wei(most)).unwrap().len();
    assert_eq!((within(285), within(284), within(94)), (3, 2, 0));
    let nonsense = EpochTotals { jobs: vec![paid(1, 100, &[(address(1), "many")])], ..totals.clone() };
    assert!(paid_jobs(&nonsense, &[address(1)].into(), Wei(1_000)).is_err());
}
