//! `grid-operator audit-epoch` as a stranger runs it: the program, a real chain, and a file with the published statement.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio};

use alloy::primitives::B256;
use serde_json::Value;
use xdc_grid::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{
        At, Intent,
        registration::{NodeCapability, NodeConsent},
        rewards::EpochReport,
    },
    protocol::{
        identity::NodeKey,
        internal::{EpochTotals, NodeTotals},
        names::NetworkId,
        statement::CountedReceipt,
    },
    reward::{
        ComputeUnits, EpochInputs, NodeContribution, PackedChanges, PaidWork, Recipe, RewardLeaf, RewardSplit,
        RewardTree, changes_between, pack_changes, settle,
    },
};

use crate::{
    chain_anvil::{CHAIN_ID, EPOCH_SECONDS, Grid, key},
    support::statement::Publisher,
};

const BUDGET: Wei = Wei(10 * Wei::XDC.0);
/// Secret keys of the two nodes; the contract counts their registrations from 1.
const NODES: [u8; 2] = [4, 5];

struct Stranger {
    grid: Grid,
    publisher: Publisher,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }
}

fn node(at: usize) -> NodeKey {
    NodeKey::from_bytes(&[NODES[at]; 32]).unwrap()
}

impl Stranger {
    async fn new() -> Self {
        let grid = Grid::deploy().await;
        for seed in NODES {
            let node = key(seed);
            let deadline = grid.client.head().await.unwrap().timestamp + 1_000;
            let consent = NodeConsent {
                node: node.address(),
                payout: grid.payout,
                owner: grid.owner.address(),
                nonce: 0,
                deadline,
            };
            let signature = consent.sign(&node, CHAIN_ID, grid.client.contract()).unwrap();
            let capability = NodeCapability { computing_power: 1, storage_gib: 1 };
            let intent = grid.client.register_intent(&consent, signature, capability, Wei::XDC);
            grid.anvil.execute(&grid.owner, intent).await.unwrap();
        }
        let (chain_id, contract) = (CHAIN_ID, grid.client.contract());
        let publisher = Publisher::new(NetworkId { chain_id, contract, salt: String::new() });
        Stranger { grid, publisher }
    }

    /// Publishes an epoch in which the nodes answered prompts of these lengths. Returns its totals and its digest.
    fn publish(&self, epoch: u64, prompts: [&[u32]; 2]) -> (EpochTotals, B256) {
        let published = self.publisher.publish(epoch, &[(NODES[0], prompts[0]), (NODES[1], prompts[1])]);
        (published.totals, published.digest)
    }

    fn file(&self, epoch: u64) -> PathBuf {
        self.publisher.file(epoch)
    }

    /// What an honest reporter reports on top of `previous`.
    fn honest(&self, totals: &EpochTotals, previous: &[RewardLeaf]) -> RewardTree {
        let contribution = |node: &NodeTotals| NodeContribution {
            node: node.address,
            work: ComputeUnits(node.units.parse().unwrap()),
            capacity: node.capacity_units.into(),
            storage: node.proven_bytes.into(),
        };
        let nodes: Vec<_> = totals.nodes.iter().map(contribution).collect();
        let domain = self.grid.client.tree_domain();
        let (split, paid) = (RewardSplit::default(), PaidWork::default());
        settle(EpochInputs { domain, previous, nodes: &nodes, paid, budget: BUDGET, split }).unwrap().tree
    }

    async fn report(&self, epoch: u64, tree: &RewardTree, leaves: Option<Vec<u8>>) {
        self.grid.anvil.pass(EPOCH_SECONDS).await;
        let state = self.grid.client.epoch_state(At::Latest).await.unwrap();
        let report = EpochReport::new(EpochNumber(epoch), tree, &state);
        let report = EpochReport { leaves: leaves.unwrap_or_else(|| report.leaves.clone()), ..report };
        let intent: Intent = self.grid.client.report_intent(&report);
        self.grid.anvil.execute(&self.grid.reporter, intent).await.unwrap();
    }

    async fn audit(&self, words: &[&str]) -> Ran {
        let contract = self.grid.client.contract().to_string();
        let receipts = self.publisher.files();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_grid-operator"));
        command.args(["audit-epoch", "--rpc-url", &self.grid.anvil.url, "--contract", &contract]).args(words);
        if !words.contains(&"--receipts") && !words.contains(&"--gateway-url") {
            command.arg("--receipts").arg(receipts);
        }
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A server of these files on the loopback; its URL.
async fn serve(files: Vec<(String, PathBuf)>) -> String {
    let mut router = axum::Router::new();
    for (path, file) in files {
        let bytes = std::fs::read(file).unwrap();
        router = router.route(&path, axum::routing::get(move || std::future::ready(bytes.clone())));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn differences(epoch: &Value) -> Vec<(String, String, String, String)> {
    let text = |difference: &Value, field: &str| difference[field].as_str().unwrap().to_owned();
    let list = epoch["differences"].as_array().unwrap();
    list.iter()
        .map(|found| (text(found, "what"), text(found, "subject"), text(found, "expected"), text(found, "found")))
        .collect()
}

#[tokio::test]
async fn a_stranger_tells_an_honest_report_from_a_false_one_and_says_which_leaves_are_wrong() {
    let stranger = Stranger::new().await;
    let (totals, _) = stranger.publish(0, [&[10, 11, 12], &[13]]);
    let first = stranger.honest(&totals, &[]);
    stranger.report(0, &first, None).await;

    let honest = stranger.audit(&["0", "-o", "json"]).await;
    let said = honest.json();
    assert_eq!(honest.code, 0, "{said} {}", honest.err);
    let epoch = &said["epochs"][0];
    assert_eq!((&said["equal"], &epoch["recomputed"], &epoch["form"]), (&true.into(), &true.into(), &"Whole".into()));
    assert_eq!(
        (epoch["receipts"].as_u64(), epoch["increaseWei"].as_str()),
        (Some(4), Some(BUDGET.to_string().as_str()))
    );
    assert_eq!(epoch["gateways"][stranger.publisher.gateway.address().to_string()].as_u64(), Some(4));

    // The reporter gives the second node five wei of the first one's.
    let (totals, _) = stranger.publish(1, [&[20], &[21, 22]]);
    let before: Vec<_> = first.leaves().collect();
    let right = stranger.honest(&totals, &before);
    let [a, b] = [0, 1].map(|at| node(at).address());
    let moved = |node: NodeAddress, wei: Wei| match node {
        node if node == a => Wei(wei.0 - 5),
        _ => Wei(wei.0 + 5),
    };
    let false_leaves = right.leaves().map(|leaf| RewardLeaf { cumulative: moved(leaf.node, leaf.cumulative), ..leaf });
    let wrong = RewardTree::build(stranger.grid.client.tree_domain(), false_leaves).unwrap();
    stranger.report(1, &wrong, None).await;

    let found = stranger.audit(&["0-1", "-o", "json"]).await;
    assert_eq!(found.code, 2, "{} {}", found.out, found.err);
    let said = found.json();
    assert_eq!((differences(&said["epochs"][0]), &said["equal"]), (vec![], &false.into()));
    let wrong_leaves = differences(&said["epochs"][1]);
    let leaf = |node| {
        ("Leaf".into(), format!("{node}"), right.cumulative(node).to_string(), wrong.cumulative(node).to_string())
    };
    let root = ("Root".to_owned(), String::new(), right.root().to_string(), wrong.root().to_string());
    let mut expected = vec![leaf(a), leaf(b)];
    expected.sort();
    assert_eq!(wrong_leaves, [expected, vec![root]].concat());
    let table = stranger.audit(&["1"]).await;
    assert!(
        table.code == 2 && table.out.contains("differs") && table.out.contains(&wrong.cumulative(b).to_string()),
        "{}",
        table.out
    );
    let without = stranger.audit(&["1", "--receipts", "/nonexistent/statement"]).await;
    assert!(without.code == 1 && without.err.contains("/nonexistent/statement"), "{}", without.err);
    let early = stranger.audit(&["2", "-o", "json"]).await;
    assert!(early.code == 1 && early.err.contains("epoch 2 is not reported"), "{}", early.err);
}

#[tokio::test]
async fn a_report_in_the_compact_form_is_read_by_the_index_of_each_registration() {
    let stranger = Stranger::new().await;
    let client = &stranger.grid.client;
    let (totals, _) = stranger.publish(0, [&[10], &[11]]);
    let first = stranger.honest(&totals, &[]);
    stranger.report(0, &first, None).await;
    let indexes: BTreeMap<NodeAddress, u32> = [0, 1].map(|at| (node(at).address(), at as u32 + 1)).into();
    let before: Vec<_> = first.leaves().collect();
    let (totals, statement) = stranger.publish(1, [&[12], &[13, 14]]);
    let second = stranger.honest(&totals, &before);
    let after: Vec<_> = second.leaves().collect();
    let changes = changes_between(&before, &after, |node| indexes.get(&node).copied()).unwrap();
    let block = client.head().await.unwrap().number;
    let recipe = Recipe { statement, block, split: RewardSplit::default(), budget: BUDGET };
    let packed = pack_changes(&PackedChanges { recipe, changes }).unwrap();
    stranger.report(1, &second, Some(packed)).await;

    let honest = stranger.audit(&["0-1", "-o", "json"]).await;
    let said = honest.json();
    assert_eq!(honest.code, 0, "{said} {}", honest.err);
    let epoch = &said["epochs"][1];
    assert_eq!(
        (epoch["form"].as_str(), epoch["budgetWei"].as_str()),
        (Some("Changes"), Some(BUDGET.to_string().as_str()))
    );

    // From a gateway that publishes: by the digest where the report names it, which one with all leaves does not.
    let digest = hex::encode(statement);
    let gateway = serve(vec![
        ("/grid/v1/statements/0".to_owned(), stranger.file(0)),
        (format!("/grid/v1/statements/1/{digest}"), stranger.file(1)),
    ])
    .await;
    let published = stranger.audit(&["0-1", "--gateway-url", &gateway]).await;
    assert_eq!((published.code, published.out.matches("equal").count()), (0, 2), "{} {}", published.out, published.err);
    let nowhere = stranger.audit(&["1", "--gateway-url", &format!("{gateway}/elsewhere")]).await;
    assert!(nowhere.code == 1 && nowhere.err.contains("HTTP 404") && nowhere.err.contains(&digest), "{}", nowhere.err);

    // Another statement than the one that the report names on chain, with better numbers for one of the nodes.
    stranger.publish(1, [&[12, 99], &[13, 14]]);
    let swapped = stranger.audit(&["1", "-o", "json"]).await;
    assert_eq!(swapped.code, 2, "{}", swapped.err);
    let kinds: Vec<_> = differences(&swapped.json()["epochs"][0]).into_iter().map(|found| found.0).collect();
    assert!(kinds.contains(&"Statement".to_owned()) && kinds.contains(&"Leaf".to_owned()), "{kinds:?}");
}

#[tokio::test]
async fn a_receipt_that_a_node_never_signed_is_named() {
    let stranger = Stranger::new().await;
    let (totals, _) = stranger.publish(0, [&[10], &[11]]);
    let tree = stranger.honest(&totals, &[]);
    stranger.report(0, &tree, None).await;
    let text = String::from_utf8(zstd::decode_all(&std::fs::read(stranger.file(0)).unwrap()[..]).unwrap()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut counted: CountedReceipt = serde_json::from_str(&lines[1]).unwrap();
    // The last byte of the countersignature's s.
    counted.countersignature[63] ^= 1;
    lines[1] = serde_json::to_string(&counted).unwrap();
    // Not compressed: that is read, too.
    std::fs::write(stranger.file(0), lines.join("\n")).unwrap();
    let gateway = stranger.publisher.gateway.address().to_string();
    let found = stranger.audit(&["0", "-o", "json", "--gateway", &gateway]).await;
    assert_eq!(found.code, 2, "{} {}", found.out, found.err);
    let kinds: Vec<_> = differences(&found.json()["epochs"][0]).into_iter().map(|found| found.0).collect();
    assert!(kinds.contains(&"Receipt".to_owned()) && kinds.contains(&"NodeTotals".to_owned()), "{kinds:?}");
    let misspelt = stranger.audit(&["0", "--no-such-flag"]).await;
    assert_eq!(misspelt.code, 1, "2 is for a report that differs");
}
