//! Deploy, report, wait for the window, show, claim: on a real chain, with the commands that a person types.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;
use xdc_grid::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{At, ChainClient, ChainKey, deploy::execute, outbox::Pace, rewards::EpochReport},
    cli::{Cli, CliError, Exit, command::Command, contract, rewards},
    reward::{RewardLeaf, RewardTree},
};

use super::{
    anvil::{ADMIN_KEY, ANYONE_KEY, Anvil, CHAIN_ID},
    fake::FakeApi,
};
use crate::support::signer::SigningServer;

const EPOCH_SECONDS: u64 = 8;
const WINDOW_SECONDS: u64 = 6;
const NODE: NodeAddress = NodeAddress([0x11; 20]);
const NETWORKS: &str = "/apis/xdcgrid.io/v1alpha1/gridnetworks";
const NODES: &str = "/apis/xdcgrid.io/v1alpha1/gridnodes";
const REPORTS: &str = "/apis/xdcgrid.io/v1alpha1/contributionreports";
const LEAVES: &str = "/api/v1/namespaces/xdc-grid/configmaps/main-0-leaves";

fn pace() -> Pace {
    Pace { poll: Duration::from_millis(300), timeout: Duration::from_secs(180) }
}

fn key_file(folder: &TempDir, name: &str, key: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, key).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn deploy(anvil: &Anvil, admin_key: &str) -> Value {
    let words = [
        "kubectl-grid",
        "contract",
        "deploy",
        "--rpc-url",
        &anvil.url,
        "--chain-id",
        &CHAIN_ID.to_string(),
        "--admin-key-file",
        admin_key,
        "--epoch-seconds",
        &EPOCH_SECONDS.to_string(),
        "--window-seconds",
        &WINDOW_SECONDS.to_string(),
        "--fund-xdc",
        "100",
        "-o",
        "json",
    ];
    let Command::Contract(command) = Cli::parse_from(words).command else { panic!("not a contract command") };
    let mut out = Vec::new();
    assert_eq!(contract::run(command, &mut out).await.unwrap(), Exit::Done);
    serde_json::from_slice(&out).unwrap()
}

fn cluster(anvil: &Anvil, contract: &str, tree: &RewardTree) -> FakeApi {
    let packed = zstd::bulk::compress(&tree.packed(), 3).unwrap();
    let packed = serde_json::to_value(k8s_openapi::ByteString(packed)).unwrap();
    let leaves = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "main-0-leaves"}, "binaryData": {"leaves.zst": packed}});
    cluster_without_leaves(anvil, contract, tree).with(LEAVES, leaves)
}

fn cluster_without_leaves(anvil: &Anvil, contract: &str, tree: &RewardTree) -> FakeApi {
    let network = json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridNetwork", "metadata": {"name": "main"},
        "spec": {
            "chain": {"chainID": CHAIN_ID, "rpcEndpoints": [anvil.url], "contract": contract, "reporterSecretRef": {"name": "r"}},
            "rewards": {"budgetPerEpochWei": "1"}
        }
    });
    let node = json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridNode", "metadata": {"name": "cpu-1"},
        "spec": {"networkRef": {"name": "main"}, "mode": "Managed", "accelerators": {"cpuOnly": {}}},
        "status": {"nodeAddress": NODE, "conditions": []}
    });
    let report = json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "ContributionReport", "metadata": {"name": "main-0"},
        "spec": {
            "networkRef": {"name": "main"}, "epoch": 0, "root": tree.root().to_string(), "cumulativeWei": tree.total(),
            "allocatedWei": tree.total(), "allocated": "5.0000",
            "leaves": {"configMap": "main-0-leaves", "dataHash": alloy::primitives::keccak256(tree.packed()).to_string()},
            "totals": {"nodes": 1, "requests": 1, "promptTokens": 1, "outputTokens": 1, "units": "1"},
            "reporter": NODE, "auditSecret": ""
        }
    });
    FakeApi::default()
        .with(&format!("{NETWORKS}/main"), network.clone())
        .with_list(NETWORKS, vec![network])
        .with_list(NODES, vec![node])
        .with_list(REPORTS, vec![report])
}

async fn grid(api: &FakeApi, words: &[&str]) -> (Result<Exit, CliError>, Value) {
    let words = ["kubectl-grid", "rewards"].iter().chain(words).chain(&["-o", "json"]);
    let Command::Rewards(command) = Cli::parse_from(words).command else { panic!("not a rewards command") };
    let mut out = Vec::new();
    let exit = rewards::run(&api.session("default"), command, &mut out).await;
    (exit, serde_json::from_slice(&out).unwrap_or(Value::Null))
}

async fn wait_until(what: &str, unix_seconds: u64) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(180);
    while SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() <= unix_seconds {
        assert!(tokio::time::Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn wait_until_final(chain: &ChainClient, root: alloy::primitives::B256) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(180);
    while chain.epoch_state(At::Finalized).await.unwrap().live_root != root {
        assert!(tokio::time::Instant::now() < limit, "the live root is not final");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn report(chain: &ChainClient, key: &ChainKey, tree: &RewardTree) {
    let parameters = chain.parameters().await.unwrap();
    wait_until("epoch 0 is over", parameters.epoch_end(EpochNumber(0)) + 1).await;
    let state = chain.epoch_state(At::Latest).await.unwrap();
    let report = EpochReport::new(EpochNumber(0), tree, &state);
    execute(chain.rpc(), CHAIN_ID, key, chain.report_intent(&report), pace()).await.unwrap();
}

async fn activate(chain: &ChainClient, key: &ChainKey) {
    let pending = chain.epoch_state(At::Latest).await.unwrap().pending.unwrap();
    wait_until("the window is over", pending.active_at + 1).await;
    execute(chain.rpc(), CHAIN_ID, key, chain.activate_intent(&pending), pace()).await.unwrap();
}

#[tokio::test]
async fn earnings_are_shown_claimed_once_and_paid_to_the_payout_address() {
    xdc_grid::telemetry::install_crypto_provider();
    let (anvil, folder) = (Anvil::start(), tempfile::tempdir().unwrap());
    let admin_key = key_file(&folder, "admin", ADMIN_KEY);
    let sender = key_file(&folder, "anyone", ANYONE_KEY);
    let deployed = deploy(&anvil, &admin_key).await;
    assert_eq!(deployed["epochSeconds"], EPOCH_SECONDS);
    let contract = deployed["contract"].as_str().unwrap();
    let chain = ChainClient::connect(&[&anvil.url], CHAIN_ID, contract.parse().unwrap()).await.unwrap();
    let earned = Wei(5 * Wei::XDC.0);
    let tree = RewardTree::build(chain.tree_domain(), [RewardLeaf { node: NODE, cumulative: earned }]).unwrap();
    let api = cluster(&anvil, contract, &tree);
    let key = ChainKey::from_file(admin_key.as_ref()).unwrap();

    // In its window: seen, not payable.
    report(&chain, &key, &tree).await;
    let (_, rows) = grid(&api, &["show"]).await;
    assert_eq!(
        (&rows[0]["node"], &rows[0]["pendingWei"], &rows[0]["claimableWei"]),
        (&json!("cpu-1"), &json!(earned), &json!("0"))
    );
    let (exit, _) = grid(&api, &["claim", "cpu-1", "--key-file", &sender]).await;
    assert_eq!(exit.unwrap(), Exit::NotYet);

    // Live: paid to the payout address, whoever sends.
    activate(&chain, &key).await;
    let (_, rows) = grid(&api, &["show", "cpu-1"]).await;
    assert_eq!((&rows[0]["earnedWei"], &rows[0]["claimableWei"]), (&json!(earned), &json!(earned)));
    // A dry run sends nothing.
    let account = ChainKey::from_file(sender.as_ref()).unwrap().address();
    let (exit, _) = grid(&api, &["claim", "cpu-1", "--key-file", &sender, "--dry-run"]).await;
    assert_eq!((exit.unwrap(), chain.rpc().nonce(account, At::Latest).await.unwrap()), (Exit::Done, 0));
    assert_eq!(chain.claimed(NODE, At::Latest).await.unwrap(), Wei(0));

    // Whoever may not read the operator's ConfigMaps, or comes when they are gone, has the leaves from the chain.
    let bare = cluster_without_leaves(&anvil, contract, &tree);
    wait_until_final(&chain, tree.root()).await;
    let (exit, rows) = grid(&bare, &["show", "cpu-1"]).await;
    assert_eq!((exit.unwrap(), &rows[0]["claimableWei"]), (Exit::Done, &json!(earned)));
    // A key that is in no file signs as well.
    let (signer, signer_url) = SigningServer::start(&[&ChainKey::from_file(sender.as_ref()).unwrap()]).await;
    let (url, address) = (["--remote-signer-url", &signer_url], account.to_string());
    let words = ["claim", "cpu-1", "--rpc-url", &anvil.url, "--remote-signer-address", &address];
    let (exit, result) = grid(&bare, &[&words[..], &url].concat()).await;
    assert_eq!((exit.unwrap(), signer.signed()), (Exit::Done, 1));
    assert_eq!(result["amountWei"], json!(earned));
    let payout: NodeAddress = result["payout"].as_str().unwrap().parse().unwrap();
    assert_eq!(chain.rpc().balance(payout).await.unwrap(), earned);
    assert!(result["gasUsed"].as_u64().unwrap() > 21_000, "{result}");

    // Nothing is left to claim.
    let (exit, _) = grid(&api, &["claim", &NODE.to_string(), "--key-file", &sender]).await;
    assert_eq!(exit.unwrap(), Exit::Failed);
    let (_, rows) = grid(&api, &["show"]).await;
    assert_eq!((&rows[0]["claimedWei"], &rows[0]["claimableWei"]), (&json!(earned), &json!("0")));
}

#[tokio::test]
async fn a_node_nobody_knows_is_refused_with_what_it_could_have_been() {
    let api = FakeApi::default().with_list(NODES, vec![]);
    let (exit, _) = grid(&api, &["show", "nobody"]).await;
    let message = exit.unwrap_err().to_string();
    assert!(message.contains("no GridNode \"nobody\"") && message.contains("no address"), "{message}");
}
