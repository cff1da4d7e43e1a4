//! The node that clients see: reads a body, lets the faults decide, asks anvil, and answers as XDC would.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::Bytes;
use serde_json::{Value, json};
use tokio::sync::RwLock;

use super::{
    blocks::{Blocks, mining_params},
    rules::{
        FINALITY_DEPTH,
        account::Account,
        admission::{self, MAX_BYTES},
        answers::{self, AddressForm},
        faults::{Fault, FaultSpec, Faults, Loses, Plan, Reorg, is_control},
        jsonrpc::{self, Body, Call, Rejected, RpcError},
        questions,
        transaction::Offered,
        view::View,
    },
    upstream::Upstream,
};

/// What goes back over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Answer(Value),
    /// To notifications.
    Nothing,
    TooManyRequests,
    /// Silence for that long, then a closed connection.
    Lost(Duration),
}

/// One for all connections.
#[derive(Debug)]
pub struct Node {
    upstream: Upstream,
    blocks: Blocks,
    chain_id: u64,
    form: AddressForm,
    faults: Mutex<Faults>,
    /// Readers look at the chain, the writer changes it: nobody sees half of a reorganisation, and the pool is asked and filled in one turn.
    turn: RwLock<()>,
}

impl Node {
    pub fn new(upstream: Upstream, blocks: Blocks, chain_id: u64, form: AddressForm) -> Self {
        Node { upstream, blocks, chain_id, form, faults: Mutex::default(), turn: RwLock::default() }
    }

    /// Answers the body of a request.
    pub async fn serve(&self, body: &[u8]) -> Reply {
        match jsonrpc::parse(body) {
            Err(error) => Reply::Answer(jsonrpc::answer(Value::Null, Err(error))),
            Ok(Body::One(call)) => match self.exchange(vec![call]).await {
                Ok(mut answers) => answers.pop().map_or(Reply::Nothing, Reply::Answer),
                Err(reply) => reply,
            },
            Ok(Body::Many(calls)) => match self.exchange(calls).await {
                Ok(answers) if answers.is_empty() => Reply::Nothing,
                Ok(answers) => Reply::Answer(Value::Array(answers)),
                Err(reply) => reply,
            },
        }
    }

    /// All calls of one request, which share its connection and so the faults of it. An error is what goes back in place of answers.
    async fn exchange(&self, calls: Vec<Result<Call, Box<Rejected>>>) -> Result<Vec<Value>, Reply> {
        let plans = self.plan(&calls).await;
        let delay = plans.iter().map(|plan| plan.delay_millis).max().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if plans.iter().any(|plan| plan.too_many_requests) {
            return Err(Reply::TooManyRequests);
        }
        let lost = |half: Loses| {
            let silences = plans.iter().filter_map(|plan| plan.lost).filter(|(loses, _)| *loses == half);
            silences.map(|(_, millis)| Reply::Lost(Duration::from_millis(millis))).next()
        };
        if let Some(reply) = lost(Loses::Request) {
            return Err(reply);
        }
        let mut answers = Vec::new();
        for (call, plan) in calls.into_iter().zip(&plans) {
            answers.extend(self.answer(call, plan).await);
        }
        lost(Loses::Answer).map_or(Ok(answers), Err)
    }

    async fn plan(&self, calls: &[Result<Call, Box<Rejected>>]) -> Vec<Plan> {
        let head = if self.faults().need_head() { self.upstream.head().await.unwrap_or(0) } else { 0 };
        let mut faults = self.faults();
        let plan = |call: &Result<Call, Box<Rejected>>| {
            call.as_ref().map_or_else(|_| Plan::default(), |call| faults.plan(&call.method, head))
        };
        calls.iter().map(plan).collect()
    }

    /// None for a notification.
    async fn answer(&self, call: Result<Call, Box<Rejected>>, plan: &Plan) -> Option<Value> {
        let call = match call {
            Ok(call) => call,
            Err(rejected) => return Some(jsonrpc::answer(rejected.id, Err(rejected.error))),
        };
        let id = call.id.clone()?;
        let outcome = self.dispatch(call, plan).await;
        if let Some(reorg) = plan.reorg
            && let Err(error) = self.reorganise(reorg).await
        {
            tracing::warn!(%error, "a reorganisation that was asked for did not happen");
        }
        Some(jsonrpc::answer(id, outcome))
    }

    async fn dispatch(&self, call: Call, plan: &Plan) -> Result<Value, RpcError> {
        let space = call.method.split('_').next().unwrap_or_default();
        match call.method.as_str() {
            method if is_control(method) => self.control(call).await,
            "eth_sendRawTransaction" => {
                let first = self.send(&call).await;
                if plan.twice { self.send(&call).await } else { first }
            }
            "eth_sendTransaction" | "eth_sign" | "eth_signTransaction" | "eth_signTypedData_v4" => {
                Err(RpcError::refused(
                    "unknown account: a node signs for nobody; sign yourself and use eth_sendRawTransaction",
                ))
            }
            "web3_clientVersion" => Ok(json!(concat!("xdc-devnet/", env!("CARGO_PKG_VERSION")))),
            method if !["eth", "net", "web3", "txpool", "debug", "trace"].contains(&space) => {
                Err(RpcError::unknown_method(method))
            }
            _ => self.read(call, plan).await,
        }
    }

    async fn read(&self, call: Call, plan: &Plan) -> Result<Value, RpcError> {
        let _turn = self.turn.read().await;
        let head = if questions::needs_head(&call, plan.behind) { self.upstream.head().await? } else { 0 };
        let view = View { head, behind: plan.behind, finality: plan.finality };
        let call = questions::rewrite(call, &view)?;
        if questions::asks_for_the_future(&call, &view) {
            return Ok(json!([]));
        }
        let result = self.upstream.request(&call.method, Value::Array(call.params.clone())).await?;
        answers::rewrite(&call, result, &view, self.form)
    }

    /// Asks the pool's rules, then hands the bytes on.
    async fn send(&self, call: &Call) -> Result<Value, RpcError> {
        let raw = raw_transaction(call)?;
        let offered = Offered::decode(&raw)?;
        let _turn = self.turn.write().await;
        let sender = offered.sender;
        let [nonce, balance, pool] = self
            .upstream
            .all([
                ("eth_getTransactionCount", json!([sender, "latest"])),
                ("eth_getBalance", json!([sender, "latest"])),
                ("txpool_content", json!([])),
            ])
            .await?;
        let account = Account::read(sender, &nonce, &balance, &pool)?;
        admission::admit(&offered, &account, self.chain_id)?;
        self.upstream.request("eth_sendRawTransaction", json!([raw])).await
    }

    /// What drives the chain goes to anvil, but only we make blocks.
    async fn control(&self, call: Call) -> Result<Value, RpcError> {
        if matches!(
            call.method.as_str(),
            "evm_setAutomine" | "evm_setIntervalMining" | "anvil_setAutomine" | "anvil_setIntervalMining"
        ) {
            return Err(RpcError::refused(
                "xdc-devnet makes the blocks: start it with --block-time, or POST /devnet/mine",
            ));
        }
        let _turn = self.turn.write().await;
        if let Some((blocks, seconds)) = mining_params(&call.method, &call.params) {
            self.blocks.mine(blocks, seconds).await?;
            return Ok(if call.method == "evm_mine" { json!("0x0") } else { Value::Null });
        }
        let call = questions::rewrite(call, &View::default())?;
        self.blocks.steady_fee().await?;
        let result = self.upstream.request(&call.method, Value::Array(call.params)).await?;
        self.blocks.steady_fee().await?;
        Ok(result)
    }

    /// Makes blocks, with `seconds` of chain time between them where given; the number of the newest.
    pub async fn mine(&self, blocks: u64, seconds: Option<u64>) -> Result<u64, RpcError> {
        let _turn = self.turn.write().await;
        self.blocks.mine(blocks, seconds).await
    }

    /// Replaces the newest blocks; the number of the newest. XDC's nodes do not give up a block that is committed.
    pub async fn reorganise(&self, reorg: Reorg) -> Result<u64, RpcError> {
        let reorg = reorg.checked().map_err(RpcError::invalid_params)?;
        let _turn = self.turn.write().await;
        let head = self.upstream.head().await?;
        let view = View { head, behind: 0, finality: self.faults().finality(head) };
        let most = view.replaceable().min(head);
        if reorg.depth > most {
            return Err(RpcError::refused(format!(
                "{} blocks cannot be replaced, only the newest {most}: the one below is final. A fault of kind finalityFrozen or finalityError \
                 moves that",
                reorg.depth
            )));
        }
        self.blocks.reorganise(reorg).await
    }

    /// Takes up a fault.
    pub async fn add_fault(&self, spec: FaultSpec) -> Result<Fault, RpcError> {
        let head = self.upstream.head().await?;
        let added = self.faults().add(spec, head, head.saturating_sub(FINALITY_DEPTH));
        added.map_err(RpcError::invalid_params)
    }

    /// The faults at work and how often each struck; for a moment.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        // The list is whole after every operation, so a panic elsewhere does not spoil it.
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raw_transaction(call: &Call) -> Result<Bytes, RpcError> {
    let text = call.params.first().and_then(Value::as_str);
    let text = text.ok_or_else(|| RpcError::invalid_params("missing value for required argument 0"))?;
    // A transaction that could only be refused for its size is not read any further.
    if text.len() > 2 * MAX_BYTES + 1_024 {
        return Err(RpcError::refused(format!(
            "oversized data: transaction size {}, limit {MAX_BYTES}",
            text.len() / 2
        )));
    }
    let digits = text.strip_prefix("0x");
    let digits = digits.ok_or_else(|| RpcError::invalid_params("invalid argument 0: hex string without 0x prefix"))?;
    hex::decode(digits)
        .map(Bytes::from)
        .map_err(|error| RpcError::invalid_params(format!("invalid argument 0: {error}")))
}
