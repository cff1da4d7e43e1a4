//! What owners of machines and people who run a contract type, as programs on a real chain: with `--dry-run` they are told what it
//! costs and nothing leaves; without it the sentence at the end is what the chain says.

use std::process::Stdio;

use tempfile::TempDir;
use xdc_grid::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::{
        At, ChainKey,
        registration::{NodeCapability, NodeConsent},
        rewards::EpochReport,
    },
    reward::{LeafChange, PackedChanges, Recipe, RewardLeaf, RewardSplit, RewardTree, pack_changes},
};

use crate::{
    chain_anvil::{CHAIN_ID, EPOCH_SECONDS, Grid, WINDOW_SECONDS},
    support::signer::SigningServer,
};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// A contract, and key files of everybody who types something.
struct Desk {
    grid: Grid,
    folder: TempDir,
}

/// Secrets of the keys that [`Grid`] gives to its admin, owner and node.
const ADMIN: u8 = 1;
const OWNER: u8 = 3;
const NODE: u8 = 4;

impl Desk {
    async fn new() -> Self {
        let desk = Desk { grid: Grid::deploy().await, folder: tempfile::tempdir().unwrap() };
        for seed in [ADMIN, OWNER, NODE] {
            std::fs::write(desk.key(seed), hex::encode([seed; 32])).unwrap();
        }
        desk
    }

    fn key(&self, seed: u8) -> String {
        self.folder.path().join(format!("{seed}.key")).to_str().unwrap().to_owned()
    }

    /// Runs a program to its end, while blocks come.
    async fn run(&self, program: &str, words: &[&str]) -> Ran {
        let mut command = tokio::process::Command::new(program);
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = self.grid.anvil.mining(command.output()).await.unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn worker(&self, words: &[&str]) -> Ran {
        let owner = self.key(OWNER);
        self.worker_of_nobody(&[words, &["--owner-key-file", &owner]].concat()).await
    }

    /// Without an owner's key.
    async fn worker_of_nobody(&self, words: &[&str]) -> Ran {
        let (chain_id, contract) = (CHAIN_ID.to_string(), self.grid.client.contract().to_string());
        let chain = ["--rpc-url", &self.grid.anvil.url, "--chain-id", &chain_id, "--contract", &contract];
        self.run(env!("CARGO_BIN_EXE_grid-worker"), &[words, &chain].concat()).await
    }

    async fn operator(&self, words: &[&str]) -> Ran {
        let chain_id = CHAIN_ID.to_string();
        let chain = ["--rpc-url", &self.grid.anvil.url, "--chain-id", &chain_id];
        self.run(env!("CARGO_BIN_EXE_grid-operator"), &[words, &chain].concat()).await
    }

    /// Transactions that an account ever sent: mined, and those that a node holds.
    async fn sent(&self, key: &ChainKey) -> (u64, serde_json::Value) {
        let account = key.address();
        let pending = serde_json::json!([account.to_string(), "pending"]);
        let held = self.grid.anvil.request("eth_getTransactionCount", pending).await;
        (self.grid.client.rpc().nonce(account, At::Latest).await.unwrap(), held)
    }

    async fn register(&self) {
        let (grid, node) = (&self.grid, &self.grid.node);
        let deadline = grid.client.head().await.unwrap().timestamp + 1_000;
        let consent =
            NodeConsent { node: node.address(), payout: grid.payout, owner: grid.owner.address(), nonce: 0, deadline };
        let signature = consent.sign(node, CHAIN_ID, grid.client.contract()).unwrap();
        let capability = NodeCapability { computing_power: 1, storage_gib: 1 };
        let intent = grid.client.register_intent(&consent, signature, capability, Wei::XDC);
        grid.anvil.execute(&grid.owner, intent).await.unwrap();
    }

    /// Epoch 0, in which the node earned so much, reported in the compact form and live.
    async fn earn(&self, earned: Wei) {
        let (grid, node) = (&self.grid, self.grid.node.address());
        let leaf = RewardLeaf { node, cumulative: earned };
        let tree = RewardTree::build(grid.client.tree_domain(), [leaf]).unwrap();
        let recipe = Recipe { statement: Default::default(), block: 1, split: RewardSplit::default(), budget: earned };
        let changes = vec![LeafChange { index: 1, increase: earned }];
        let report = EpochReport {
            epoch: EpochNumber(0),
            root: tree.root(),
            cumulative_total: earned,
            leaves: pack_changes(&PackedChanges { recipe, changes }).unwrap(),
        };
        grid.anvil.pass(EPOCH_SECONDS).await;
        grid.anvil.execute(&grid.reporter, grid.client.report_intent(&report)).await.unwrap();
        let pending = grid.client.epoch_state(At::Latest).await.unwrap().pending.unwrap();
        grid.anvil.pass(WINDOW_SECONDS).await;
        grid.anvil.execute(&grid.reporter, grid.client.activate_intent(&pending)).await.unwrap();
    }
}

/// It said what it will cost, and that nothing was sent.
fn assert_dry(ran: &Ran, what: &str) {
    let said = format!("{}{}", ran.out, ran.err);
    assert_eq!(ran.code, 0, "{what}: {said}");
    assert!(said.contains("nothing was sent (--dry-run)"), "{what}: {said}");
    assert!(said.contains("gas at 12.5 gwei") && said.contains("XDC"), "{what} says what it costs: {said}");
}

#[tokio::test]
async fn a_dry_run_of_the_owners_commands_says_the_cost_and_sends_nothing() {
    let desk = Desk::new().await;
    let (key, payout) = (desk.key(NODE), desk.grid.payout.to_string());
    let words = ["--key-file", &key];
    let before = desk.sent(&desk.grid.owner).await;
    let register = desk
        .worker(
            &[&["register"][..], &words, &["--payout", &payout, "--stake-xdc", "2", "--power", "5", "--dry-run"]]
                .concat(),
        )
        .await;
    assert_dry(&register, "register");
    assert!(register.err.contains("and 2.0000 XDC sent along"), "{}", register.err);
    assert_eq!(desk.sent(&desk.grid.owner).await, before);
    assert_eq!(desk.grid.client.node(desk.grid.node.address(), At::Latest).await.unwrap(), None);

    desk.register().await;
    desk.earn(Wei::XDC).await;
    let before = desk.sent(&desk.grid.owner).await;
    for name in ["claim", "unregister"] {
        assert_dry(&desk.worker(&[&[name][..], &words, &["--dry-run"]].concat()).await, name);
        assert_eq!(desk.sent(&desk.grid.owner).await, before, "{name}");
    }
    let node = desk.grid.node.address();
    assert_eq!(desk.grid.client.claimed(node, At::Latest).await.unwrap(), Wei(0));
    assert_eq!(desk.grid.client.node(node, At::Latest).await.unwrap().unwrap().exit_at, None);
}

#[tokio::test]
async fn what_a_compact_report_gave_is_claimed_from_the_machine_itself() {
    let desk = Desk::new().await;
    desk.register().await;
    let earned = Wei(Wei::XDC.0 / 3 + 1);
    desk.earn(earned).await;
    let key = desk.key(NODE);
    let claim = desk.worker(&["claim", "--key-file", &key]).await;
    assert_eq!(claim.code, 0, "{} {}", claim.out, claim.err);
    assert!(claim.out.contains(&format!("were paid to {}", desk.grid.payout)), "{}", claim.out);
    assert_eq!(desk.grid.balance(desk.grid.payout).await, earned, "to the wei");
    let again = desk.worker(&["claim", "--key-file", &key]).await;
    assert!(again.code == 1 && again.err.contains("has nothing to claim"), "{}", again.err);
    let stranger = desk.worker(&["claim", "--node", &NodeAddress([9; 20]).to_string()]).await;
    assert!(stranger.code == 1 && stranger.err.contains("has nothing to claim"), "{}", stranger.err);
}

#[tokio::test]
async fn an_owner_and_an_admin_whose_keys_are_with_a_remote_signer_need_no_key_file() {
    let desk = Desk::new().await;
    let (owner, admin) = (desk.grid.owner.address(), desk.grid.admin.address().to_string());
    let (server, url) = SigningServer::start(&[&desk.grid.owner, &desk.grid.admin]).await;
    let (key, payout, address) = (desk.key(NODE), desk.grid.payout.to_string(), owner.to_string());
    let register = ["register", "--key-file", &key, "--payout", &payout, "--stake-xdc", "2", "--power", "5"];
    let remote = ["--remote-signer-url", &url, "--remote-signer-address", &address];
    let both = desk.worker(&[&register[..], &remote].concat()).await;
    assert!(both.code == 2 && both.err.contains("cannot be used with"), "{}", both.err);
    let neither = desk.worker_of_nobody(&register).await;
    assert!(neither.code == 2 && neither.err.contains("--owner-key-file"), "{}", neither.err);
    assert_eq!(server.signed(), 0);

    let registered = desk.worker_of_nobody(&[&register[..], &remote].concat()).await;
    assert_eq!(registered.code, 0, "{} {}", registered.out, registered.err);
    let found = desk.grid.client.node(desk.grid.node.address(), At::Latest).await.unwrap().unwrap();
    assert_eq!((found.owner, found.stake, server.signed()), (owner, Wei(2 * Wei::XDC.0), 1));

    let remote = ["--remote-signer-url", &url, "--remote-signer-address", &admin];
    let deploy = desk.operator(&[&["deploy", "--dry-run"][..], &remote].concat()).await;
    assert_dry(&deploy, "deploy");
    assert!(deploy.err.contains(&format!("deploying from {admin}")), "{}", deploy.err);
    assert_eq!(server.signed(), 1, "a dry run asks for no signature");
}

#[tokio::test]
async fn a_dry_run_of_a_deployment_says_the_cost_and_neither_it_nor_a_look_sends_anything() {
    let desk = Desk::new().await;
    let (admin, contract) = (desk.key(ADMIN), desk.grid.client.contract().to_string());
    let before = desk.sent(&desk.grid.admin).await;
    let deploy = desk.operator(&["deploy", "--admin-key-file", &admin, "--fund-xdc", "10", "--dry-run"]).await;
    assert_dry(&deploy, "deploy");
    assert!(deploy.err.contains("and 10.0000 XDC sent along"), "{}", deploy.err);
    let verify = desk.operator(&["verify-contract", "--contract", &contract]).await;
    assert!(verify.code == 0 && verify.out.contains("the contract of this release"), "{} {}", verify.out, verify.err);
    let reporter = desk.grid.reporter.address().to_string();
    let status = desk.operator(&["status", "--contract", &contract, "--reporter", &reporter]).await;
    assert!(status.code == 0 && status.out.contains("1000.0000 XDC"), "{} {}", status.out, status.err);
    assert_eq!(desk.sent(&desk.grid.admin).await, before);
    assert_eq!(desk.sent(&desk.grid.reporter).await.0, 0, "a look at the reporter sends nothing in its name");
}
