//! A chain with XDC's rules for a test: `xdc-devnet` inside the test's process, in front of a real anvil. Blocks are made when the test says so.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    chain::{ChainError, ChainKey, ChainRpc, Inclusion, Intent, deploy, http::HttpEndpoints, outbox::Pace},
    devnet::{Devnet, DevnetOptions},
    telemetry::install_crypto_provider,
};

pub const CHAIN_ID: u64 = 51;

/// Ended when dropped, anvil too.
pub struct TestNet {
    pub url: String,
    devnet: Devnet,
    http: reqwest::Client,
}

impl TestNet {
    pub async fn start() -> Self {
        TestNet::start_with(|_| ()).await
    }

    /// With options of the caller's choice.
    pub async fn start_with(change: impl FnOnce(&mut DevnetOptions)) -> Self {
        install_crypto_provider();
        let mut options = DevnetOptions { anvil: anvil(), ..DevnetOptions::default() };
        change(&mut options);
        let devnet = Devnet::start(options).await.unwrap();
        TestNet { url: devnet.url(), devnet, http: reqwest::Client::new() }
    }

    /// One call: its result, or its error object.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let (status, answer) = self.post("", body).await;
        assert_eq!(status, 200, "{method}: {answer}");
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    /// One call that must succeed.
    pub async fn request(&self, method: &str, params: Value) -> Value {
        self.call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// HTTP status and body of a POST; the body is null where it is no JSON.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let answer = self.http.post(format!("{}{path}", self.url)).body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Asks for a fault; its id.
    pub async fn fault(&self, spec: Value) -> u64 {
        let (status, answer) = self.post("/devnet/faults", spec.to_string()).await;
        assert_eq!(status, 201, "{spec}: {answer}");
        answer["id"].as_u64().unwrap()
    }

    /// The faults at work, with their `hits`.
    pub async fn faults(&self) -> Value {
        self.http.get(format!("{}/devnet/faults", self.url)).send().await.unwrap().json().await.unwrap()
    }

    pub async fn clear_faults(&self) {
        self.http.delete(format!("{}/devnet/faults", self.url)).send().await.unwrap();
    }

    /// Replaces the newest two blocks. `transactions`: where theirs go, "pooled", "mined" or "lost".
    pub async fn reorganise(&self, transactions: &str) {
        let body = json!({"depth": 2, "transactions": transactions}).to_string();
        let (status, answer) = self.post("/devnet/reorg", body).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Two seconds of chain time each.
    pub async fn mine(&self, blocks: u64) {
        self.devnet.mine(blocks, Some(2)).await.unwrap();
    }

    /// The next block is at least `seconds` later than the one before.
    pub async fn pass(&self, seconds: u64) {
        self.request("evm_increaseTime", json!([seconds])).await;
        self.mine(1).await;
    }

    pub async fn give(&self, account: NodeAddress, amount: Wei) {
        self.request("anvil_setBalance", json!([account.to_string(), format!("{:#x}", amount.0)])).await;
    }

    pub async fn head(&self) -> u64 {
        number(&self.request("eth_blockNumber", json!([])).await)
    }

    pub fn rpc(&self) -> Arc<dyn ChainRpc> {
        Arc::new(HttpEndpoints::new(&[&self.url], CHAIN_ID).unwrap())
    }

    /// Mines while `work` waits for blocks.
    pub async fn mining<T>(&self, work: impl Future<Output = T>) -> T {
        let miner = async {
            loop {
                self.mine(1).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = miner => unreachable!(),
        }
    }

    /// One transaction to finality.
    pub async fn execute(&self, key: &ChainKey, intent: Intent) -> Result<Inclusion, ChainError> {
        let rpc = self.rpc();
        self.mining(deploy::execute(rpc.as_ref(), CHAIN_ID, key, intent, pace())).await
    }
}

/// For blocks that come as fast as a test makes them, however slow that is.
pub fn pace() -> Pace {
    Pace { poll: Duration::from_millis(20), timeout: Duration::from_secs(180) }
}

/// A number as JSON-RPC writes it.
pub fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// `$ANVIL`, then the PATH, then the tool cache.
pub fn anvil() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("XDC_GRID_CACHE").map_or_else(|| home.join(".cache/xdc-grid"), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("ANVIL").map(PathBuf::from).into_iter();
    named
        .chain(std::env::split_paths(&path).map(|folder| folder.join("anvil")))
        .chain([cache.join("bin/anvil")])
        .find(|candidate| candidate.is_file())
        .expect("anvil is neither on the PATH nor in the tool cache: run `make tools`, or set ANVIL to the program")
}
