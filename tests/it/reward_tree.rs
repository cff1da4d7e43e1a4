//! Our reward tree against OpenZeppelin's own JavaScript library, over random trees of every small size.

use std::{
    collections::HashMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use alloy::primitives::B256;
use serde::Deserialize;
use serde_json::json;
use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    reward::{RewardLeaf, RewardTree, TreeDomain, verify_proof},
};

const TREES: u64 = 150;

#[derive(Deserialize)]
struct Oracle {
    root: B256,
    proofs: HashMap<NodeAddress, Vec<B256>>,
}

/// The same trees in every run.
fn random_tree(seed: u64) -> (TreeDomain, Vec<RewardLeaf>) {
    let mut stream =
        blake3::Hasher::new_derive_key("xdc-grid test reward trees").update(&seed.to_be_bytes()).finalize_xof();
    let mut bytes = |count: usize| {
        let mut buffer = vec![0; count];
        stream.fill(&mut buffer);
        buffer
    };
    let domain = TreeDomain {
        chain_id: u64::from_be_bytes(bytes(8).try_into().unwrap()) >> 12, // what a JavaScript number holds
        contract: NodeAddress(bytes(20).try_into().unwrap()),
    };
    let leaves = (0..=seed % 65)
        .map(|_| RewardLeaf {
            node: NodeAddress(bytes(20).try_into().unwrap()),
            // Never zero, and small enough that no sum overflows.
            cumulative: Wei((u128::from_be_bytes(bytes(16).try_into().unwrap()) >> 8) + 1),
        })
        .collect();
    (domain, leaves)
}

fn ask_oracle(trees: &[(TreeDomain, Vec<RewardLeaf>)]) -> Vec<Oracle> {
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts");
    assert!(
        contracts.join("node_modules/@openzeppelin/merkle-tree").is_dir(),
        "@openzeppelin/merkle-tree is not installed: run `make tools`, or `npm ci` in contracts/"
    );
    let mut node = Command::new("node")
        .arg(contracts.join("tools/tree.cjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node.js 20 or newer is needed on the PATH as `node`");
    let mut input = node.stdin.take().unwrap();
    let lines: String = trees
        .iter()
        .map(|(domain, leaves)| {
            let leaves: Vec<_> = leaves.iter().map(|leaf| json!([leaf.node, leaf.cumulative])).collect();
            json!({"chainId": domain.chain_id, "contract": domain.contract, "leaves": leaves}).to_string() + "\n"
        })
        .collect();
    // In a thread: the answers may fill the pipe before the questions are written.
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = node.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn roots_and_proofs_are_those_of_openzeppelins_library() {
    let trees: Vec<_> = (0..TREES).map(random_tree).collect();
    let oracle = ask_oracle(&trees);
    assert_eq!(oracle.len(), trees.len());
    for ((domain, leaves), theirs) in trees.into_iter().zip(oracle) {
        let ours = RewardTree::build(domain, leaves.iter().copied()).unwrap();
        assert_eq!(ours.root(), theirs.root, "{} leaves", leaves.len());
        for leaf in leaves {
            let proof = ours.proof(leaf.node).unwrap();
            assert_eq!(proof.siblings, theirs.proofs[&leaf.node]);
            assert!(verify_proof(domain, theirs.root, &proof));
        }
    }
}
