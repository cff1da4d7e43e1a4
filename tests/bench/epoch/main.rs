//! How long it takes to settle an epoch on one core, and what the bytes of its report cost. `tests/bench/run.py epoch` builds and runs it.

use std::{error::Error, fs::read_to_string, time::Instant};

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
                node: NodeAddress(*hash.as_bytes().first_chunk().unwrap_or(&[0; 20])),
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
fn times<T, E: Into<Box<dyn Error>>>(
    runs: usize,
    work: impl Fn() -> Result<T, E>,
) -> Result<(String, T), Box<dyn Error>> {
    let mut last = None;
    let (mut taken, mut worked) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        drop(last.take());
        let (begun, had) = (Instant::now(), core_ms()?);
        let made = work().map_err(Into::into)?;
        taken.push(begun.elapsed().as_secs_f64() * 1_000.0);
        worked.push(core_ms()? - had);
        last = Some(made);
    }
    Ok((format!("{} | {}", spread(taken), spread(worked)), last.ok_or("nothing was run")?))
}

/// Milliseconds that this thread ran so far.
fn core_ms() -> Result<f64, Box<dyn Error>> {
    let text = read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().ok_or("schedstat is empty")?.parse::<f64>()? / 1e6)
}

fn peak_mib() -> Result<u64, Box<dyn Error>> {
    let status = read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).ok_or("there is no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("VmHWM is empty")?.parse::<u64>()? / 1024)
}

fn main() -> Result<(), Box<dyn Error>> {
    let domain = TreeDomain { chain_id: 50, contract: NodeAddress([9; 20]) };
    println!(
        "| leaves | n | tree, ms | of a core | whole epoch, ms | of a core | a proof, µs | peak resident, MiB |\n|---|---|---|---|---|---|---|---|"
    );
    for (count, runs) in SIZES {
        let nodes = nodes(count);
        let previous: Vec<_> =
            nodes.iter().map(|node| RewardLeaf { node: node.node, cumulative: Wei(Wei::XDC.0 + 1) }).collect();
        let (tree_time, tree) = times(runs, || RewardTree::build(domain, previous.iter().copied()))?;
        let first = nodes.first().ok_or("no nodes")?.node;
        let begun = Instant::now();
        let proof = tree.proof(first).ok_or("a node of the tree has no proof")?;
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
        let (epoch_time, settled) = times(runs, || settle(inputs))?;
        assert_eq!(settled.increase, inputs.budget);
        println!("| {count} | {runs} | {tree_time} | {epoch_time} | {proof_time:.1} | {} |", peak_mib()?);
    }
    packed_gas()
}

/// Gas of the compact form on XDC's schedule, by size of an epoch's budget.
fn packed_gas() -> Result<(), Box<dyn Error>> {
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
        let packed = pack_changes(&PackedChanges { recipe, changes: (0..count).map(change).collect() })?;
        let gas: u64 = packed.iter().map(|byte| if *byte == 0 { 4 } else { 68 }).sum();
        println!("| {count} | 10^{each} | {} | {} |", packed.len(), gas / u64::from(count));
    }
    Ok(())
}
