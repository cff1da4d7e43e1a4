//! The worked example of docs/rewards.md, computed from the numbers that stand there.

use std::collections::BTreeMap;

use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    reward::{
        ComputeUnits, EpochInputs, FeeBps, NodeContribution, PaidJob, PaidWork, RewardSplit, TokenCost, TreeDomain,
        settle,
    },
};

/// Rows of the table under a heading: the first cell, and the numbers after it.
fn table(heading: &str) -> BTreeMap<char, Vec<u128>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rewards.md")).unwrap();
    let (_, section) = text.split_once(heading).unwrap_or_else(|| panic!("{heading:?} is not in docs/rewards.md"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace(',', ""));
            let name = cells.next().unwrap().chars().next().unwrap();
            (name, cells.map(|cell| cell.parse().unwrap_or_else(|_| panic!("{cell:?} in {row}"))).collect())
        })
        .collect()
}

fn address(name: char) -> NodeAddress {
    NodeAddress([name as u8; 20])
}

#[test]
fn the_worked_example_of_the_documentation_is_what_the_engine_computes() {
    let given = table("What was done:");
    let cost = TokenCost::of_parameters(135_000_000);
    let units = |prompt: u128, output: u128| ComputeUnits::of_response(cost, prompt as u32, output as u32);
    let mut nodes = Vec::new();
    let mut served = Vec::new();
    for (name, row) in &given {
        let [prompt, output, paid_prompt, paid_output, capacity, gib] = row[..] else { panic!("{row:?}") };
        let node = address(*name);
        nodes.push(NodeContribution { node, work: units(prompt, output), capacity, storage: gib << 30 });
        served.push((node, units(paid_prompt, paid_output)));
    }
    let jobs = [PaidJob { job: [1; 32], spent: Wei(2 * Wei::XDC.0), fee: FeeBps::new(500).unwrap(), served }];
    let settled = settle(EpochInputs {
        domain: TreeDomain { chain_id: 50, contract: NodeAddress([9; 20]) },
        previous: &[],
        nodes: &nodes,
        paid: PaidWork { jobs: &jobs },
        budget: Wei(10 * Wei::XDC.0),
        split: RewardSplit::default(),
    })
    .unwrap();
    let expected = table("What it comes to, in wei:");
    assert_eq!(expected.keys().collect::<Vec<_>>(), given.keys().collect::<Vec<_>>());
    for (name, row) in expected {
        let node = address(name);
        let amounts = settled.allocation.amounts[&node];
        let fee = settled.fees.get(&node).copied().unwrap_or_default();
        let found =
            [amounts.work, amounts.capacity, amounts.storage, fee, settled.tree.cumulative(node)].map(|wei| wei.0);
        assert_eq!(found[..], row[..], "{name}");
    }
    assert_eq!(settled.increase, Wei(119 * Wei::XDC.0 / 10));
}
