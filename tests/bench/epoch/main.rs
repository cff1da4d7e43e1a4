//! How long it takes to settle an epoch on one core, and what the bytes of its report cost. `tests/bench/run.py epoch` builds and runs it.

use std::time::Instant;

use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    reward::{
        ComputeUnits, EpochInputs, LeafChange, NodeContribution, PackedChanges, PaidWork, Recipe, RewardLeaf,
        RewardSplit, RewardTree, TreeDomain, pack_changes, settle, verify_proof,
    },
};

const SIZES: [(u32, usize); 4] = [(1_000, 7), (10_000, 7), (100_000, 5), (1_000_000, 3)];

fn nodes(count: u32) -> Vec<NodeContribution> {
    (0..count)
        .map(|at| {
            let hash = blake3::hash(&at.to_be_bytes());
            NodeContribution {
                node: NodeAddress(hash.as_bytes()[..20].try_into().unwrap()),
                work: ComputeUnits(u128::from(at) * 7_919 + 1),
                capacity: u128::from(at % 97) + 1,
                storage: u128::from(at % 31) << 30,
            }
        })
        .collect()
}

/// Median, least and most, in milliseconds.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:9.1} ({:.1} – {:.1})", values[values.len() / 2], values[0], values[values.len() - 1])
}

/// By the clock on the wall, and by what this thread had of a core: on a busy machine only the latter says what the work costs.
fn times<T>(runs: usize, work: impl Fn() -> T) -> (String, T) {
    let mut last = None;
    let (mut taken, mut worked) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        drop(last.take());
        let (begun, had) = (Instant::now(), core_ms());
        let made = work();
        taken.push(begun.elapsed().as_secs_f64() * 1_000.0);
        worked.push(core_ms() - had);
        last = Some(made);
    }
    (format!("{} | {}", spread(taken), spread(worked)), last.unwrap())
}

/// Milliseconds that this thread ran so far.
fn core_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e6
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn main() {
    let domain = TreeDomain { chain_id: 50, contract: NodeAddress([9; 20]) };
    println!(
        "| leaves | n | tree, ms | of a core | whole epoch, ms | of a core | a proof, µs | peak resident, MiB |\n|---|---|---|---|---|---|---|---|"
    );
    for (count, runs) in SIZES {
        let nodes = nodes(count);
        let previous: Vec<_> =
            nodes.iter().map(|node| RewardLeaf { node: node.node, cumulative: Wei(Wei::XDC.0 + 1) }).collect();
        let (tree_time, tree) = times(runs, || RewardTree::build(domain, previous.iter().copied()).unwrap());
        let begun = Instant::now();
        let proof = tree.proof(previous[0].node).unwrap();
        let proof_time = begun.elapsed().as_secs_f64() * 1e6;
        assert!(verify_proof(domain, tree.root(), &proof));
        drop(tree);
        let inputs = EpochInputs {
            domain,
            previous: &previous,
            nodes: &nodes,
            paid: PaidWork::default(),
            budget: Wei(u128::from(count) * Wei::XDC.0 / 100),
            split: RewardSplit::default(),
        };
        let (epoch_time, settled) = times(runs, || settle(inputs).unwrap());
        assert_eq!(settled.increase, inputs.budget);
        println!("| {count} | {runs} | {tree_time} | {epoch_time} | {proof_time:.1} | {} |", peak_mib());
    }
    packed_gas();
}

/// Gas of the compact form on XDC's schedule, by size of an epoch's budget.
fn packed_gas() {
    println!("\n| raised leaves | wei of a raise, about | bytes | gas of the bytes a leaf |\n|---|---|---|---|");
    for (count, each) in [(100u32, 16), (1_000, 16), (1_000, 19), (5_000, 16)] {
        let change =
            |at: u32| LeafChange { index: at + 1, increase: Wei(10u128.pow(each) + u128::from(at) * 12_345_678_901) };
        let recipe = Recipe {
            statement: alloy::primitives::B256::repeat_byte(7),
            block: 98_802_000,
            split: RewardSplit::default(),
            budget: Wei(10 * Wei::XDC.0),
        };
        let packed = pack_changes(&PackedChanges { recipe, changes: (0..count).map(change).collect() }).unwrap();
        let gas: u64 = packed.iter().map(|byte| if *byte == 0 { 4 } else { 68 }).sum();
        println!("| {count} | 10^{each} | {} | {} |", packed.len(), gas / u64::from(count));
    }
}
