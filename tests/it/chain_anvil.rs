//! A real chain for a test: anvil with XDC's chain id, hard fork, base fee and finality. Blocks are mined when the test says so,
//! two seconds of chain time each. Anvil would add the time that passes here to that of its blocks; each block is told its time
//! instead, so that a slow machine does not bring the next epoch to its end in the middle of a test.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    chain::{ChainClient, ChainKey, ChainRpc, Inclusion, Intent, deploy, http::HttpEndpoints},
};

use crate::support::devnet::anvil;
pub use crate::support::devnet::{CHAIN_ID, pace};

pub const EPOCH_SECONDS: u64 = 600;
pub const WINDOW_SECONDS: u64 = 100;
pub const UNBONDING_SECONDS: u64 = 1_000;

/// Killed when dropped.
pub struct Anvil {
    process: Child,
    pub url: String,
    http: reqwest::Client,
}

impl Anvil {
    pub async fn start() -> Self {
        let program = anvil();
        let mut process = Command::new(&program)
            .args(["--host", "127.0.0.1", "--port", "0", "--no-mining", "--hardfork", "cancun"])
            .args([
                "--chain-id",
                "51",
                "--slots-in-an-epoch",
                "1",
                "--gas-limit",
                "420000000",
                "--prune-history",
                "500",
            ])
            .args(["--block-base-fee-per-gas", "12500000000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address =
            lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.split_once("Listening on ")?.1.to_owned()));
        // It logs every request; an unread pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let url = format!("http://{}", address.expect("anvil ended before it listened"));
        Anvil { process, url, http: reqwest::Client::new() }
    }

    pub async fn request(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer: Value = self.http.post(&self.url).json(&body).send().await.unwrap().json().await.unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    pub async fn mine(&self, blocks: u64) {
        for _ in 0..blocks {
            self.mine_at(self.time().await + 2).await;
        }
    }

    /// Unix seconds of the newest block.
    pub async fn time(&self) -> u64 {
        let head = self.request("eth_getBlockByNumber", json!(["latest", false])).await;
        let digits = head["timestamp"].as_str().unwrap().trim_start_matches("0x").to_owned();
        u64::from_str_radix(&digits, 16).unwrap()
    }

    /// A block with that time (unix seconds), not before that of the newest.
    pub async fn mine_at(&self, time: u64) {
        // Anvil lets the base fee decay; XDC's is a constant.
        self.request("anvil_setNextBlockBaseFeePerGas", json!([12_500_000_000u64])).await;
        self.request("evm_setNextBlockTimestamp", json!([time])).await;
        self.request("anvil_mine", json!([1])).await;
    }

    /// The next block is `seconds` later than the one before.
    pub async fn pass(&self, seconds: u64) {
        self.mine_at(self.time().await + seconds.max(1)).await;
    }

    pub async fn give(&self, account: NodeAddress, amount: Wei) {
        self.request("anvil_setBalance", json!([account.to_string(), format!("{:#x}", amount.0)])).await;
    }

    pub fn rpc(&self) -> Arc<dyn ChainRpc> {
        Arc::new(HttpEndpoints::new(&[&self.url], CHAIN_ID).unwrap())
    }

    /// Mines while `work` waits for blocks, however many. No time passes on the chain by them: a slow machine must not bring a window or
    /// an epoch to its end.
    pub async fn mining<T>(&self, work: impl Future<Output = T>) -> T {
        let miner = async {
            loop {
                self.mine_at(self.time().await).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = miner => unreachable!(),
        }
    }

    /// One transaction to finality.
    pub async fn execute(&self, key: &ChainKey, intent: Intent) -> Result<Inclusion, xdc_grid::chain::ChainError> {
        let rpc = self.rpc();
        self.mining(deploy::execute(rpc.as_ref(), CHAIN_ID, key, intent, pace())).await
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A deployed and funded contract with everybody who acts on it.
pub struct Grid {
    pub anvil: Anvil,
    pub client: ChainClient,
    pub admin: ChainKey,
    pub reporter: ChainKey,
    pub owner: ChainKey,
    pub node: ChainKey,
    pub slasher: ChainKey,
    /// Its GridJobEscrow; the reporter settles.
    pub escrow: NodeAddress,
    /// Has no money and no key here.
    pub payout: NodeAddress,
}

pub fn key(seed: u8) -> ChainKey {
    ChainKey::from_bytes(&[seed; 32]).unwrap()
}

impl Grid {
    pub async fn deploy() -> Self {
        Grid::deploy_for(key(2)).await
    }

    /// With a reporter of the caller's choice.
    pub async fn deploy_for(reporter: ChainKey) -> Self {
        let anvil = Anvil::start().await;
        let [admin, owner, node, slasher, arbiter] = [1, 3, 4, 5, 6].map(key);
        for account in [&admin, &reporter, &owner, &slasher, &arbiter] {
            anvil.give(account.address(), Wei(2_000 * Wei::XDC.0)).await;
        }
        let parameters = deploy::DeployParameters {
            epoch_seconds: EPOCH_SECONDS,
            challenge_window: WINDOW_SECONDS,
            unbonding: UNBONDING_SECONDS,
            max_epoch_increase: Wei(500 * Wei::XDC.0),
            roles: deploy::Roles {
                reporter: reporter.address(),
                guardian: Some(admin.address()),
                slasher: Some(slasher.address()),
                arbiter: Some(arbiter.address()),
                treasurer: None,
                settler: Some(reporter.address()),
            },
            members: deploy::MemberParameters { appeal_seconds: 50, ruling_seconds: 50, ..Default::default() },
            funding: Wei(1_000 * Wei::XDC.0),
        };
        let deployed = anvil.mining(deploy::deploy(anvil.rpc(), CHAIN_ID, &admin, parameters, pace())).await.unwrap();
        Grid {
            anvil,
            client: deployed.client,
            escrow: deployed.escrow,
            admin,
            reporter,
            owner,
            node,
            slasher,
            payout: NodeAddress([0xaa; 20]),
        }
    }

    pub async fn balance(&self, account: NodeAddress) -> Wei {
        self.client.rpc().balance(account).await.unwrap()
    }
}
