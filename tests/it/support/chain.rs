//! The contract on a chain in memory: every transaction is mined at once, every look at the head makes a block.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy::{
    consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable},
    eips::eip2718::Decodable2718,
    primitives::{Address, B256, Bytes, U256},
    sol_types::{SolCall, SolInterface},
};
use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    chain::{
        At, BlockRef, CallRequest, ChainError, ChainRpc, LogEntry, LogFilter, Refusal, RpcFuture, SendOutcome,
        SentCall, TxReceipt,
        bindings::{
            GridComputingRewards::{self as contract, GridComputingRewardsCalls as Calls},
            GridJobEscrow::{self as escrow, GridJobEscrowCalls as EscrowCalls},
            IGridComputingRewards::{EpochState, Node, Parameters},
            IGridJobEscrow::Job,
        },
    },
};

pub const CHAIN_ID: u64 = 51;
pub const EPOCH_SECONDS: u64 = 3;

/// Blocks behind the head that are final.
const FINALITY: u64 = 2;

#[derive(Clone)]
pub struct FakeChain(Arc<Mutex<State>>);

struct State {
    chain_id: u64,
    has_code: bool,
    reporter_has_role: bool,
    genesis: u64,
    head: u64,
    nonces: BTreeMap<Address, u64>,
    receipts: BTreeMap<B256, TxReceipt>,
    /// Sent before those with a lower nonce, and waiting for them.
    pool_of_transactions: BTreeMap<(Address, u64), TxEnvelope>,
    nodes: BTreeMap<Address, Node>,
    next_epoch: u64,
    pending: Option<(B256, u128)>,
    live: (B256, u128),
    pool: u128,
    submitted: Vec<u64>,
    escrows: BTreeMap<B256, Job>,
    /// Payout addresses that were asked for, and from when on they apply.
    payouts: BTreeMap<Address, (Address, u64)>,
}

/// Of every fake escrow.
const FEE_BPS: u16 = 500;
/// The contract's two days.
const PAYOUT_SECONDS: u64 = 2;

impl FakeChain {
    pub fn new() -> Self {
        FakeChain(Arc::new(Mutex::new(State {
            chain_id: CHAIN_ID,
            has_code: true,
            reporter_has_role: true,
            genesis: now(),
            head: 10,
            nonces: BTreeMap::new(),
            receipts: BTreeMap::new(),
            pool_of_transactions: BTreeMap::new(),
            nodes: BTreeMap::new(),
            next_epoch: 0,
            pending: None,
            live: (B256::ZERO, 0),
            pool: 1_000 * Wei::XDC.0,
            submitted: Vec::new(),
            escrows: BTreeMap::new(),
            payouts: BTreeMap::new(),
        })))
    }

    /// Another chain that began when this one did.
    pub fn beside(&self) -> Self {
        let other = FakeChain::new();
        other.lock().genesis = self.lock().genesis;
        other
    }

    pub fn with_chain_id(self, chain_id: u64) -> Self {
        self.lock().chain_id = chain_id;
        self
    }

    pub fn without_code(self) -> Self {
        self.lock().has_code = false;
        self
    }

    pub fn without_role(self) -> Self {
        self.lock().reporter_has_role = false;
        self
    }

    pub fn node(&self, address: NodeAddress) -> Option<Node> {
        self.lock().nodes.get(&alloy::primitives::Address::from(address)).cloned()
    }

    /// Epoch numbers in the order in which they were reported.
    pub fn submitted(&self) -> Vec<u64> {
        self.lock().submitted.clone()
    }

    /// Money that somebody put down for a job.
    pub fn open_escrow(&self, id: [u8; 32], payer: NodeAddress, wei: u128, deadline: u64) {
        let job = Job {
            payer: payer.into(),
            escrow: alloy::primitives::Uint::from(wei),
            deadline: alloy::primitives::Uint::from(deadline),
            feeBps: FEE_BPS,
            state: 1,
            spent: alloy::primitives::Uint::ZERO,
        };
        self.lock().escrows.insert(id.into(), job);
    }

    /// What was taken from an escrow that is settled.
    pub fn settled(&self, id: [u8; 32]) -> Option<u128> {
        let state = self.lock();
        let job = state.escrows.get(&B256::from(id))?;
        (job.state == 2).then(|| job.spent.to())
    }

    /// Transactions that all accounts together got into blocks.
    pub fn transactions(&self) -> u64 {
        self.lock().nonces.values().sum()
    }

    /// Nodes with a stake.
    pub fn nodes(&self) -> usize {
        self.lock().nodes.len()
    }

    pub fn live_total(&self) -> u128 {
        self.lock().live.1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn answer<'a, T: Send + 'a>(&'a self, of: impl FnOnce(&mut State) -> Result<T, ChainError>) -> RpcFuture<'a, T> {
        let result = of(&mut self.lock());
        Box::pin(async move { result })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn refused(name: &str) -> ChainError {
    ChainError::Refused(Refusal::new(name, name))
}

impl State {
    /// What a transaction or its estimate would do; `commit` does it.
    fn execute(&mut self, from: Address, value: u128, data: &[u8], commit: bool) -> Result<(), ChainError> {
        if let Ok(EscrowCalls::settleJobs(call)) = EscrowCalls::abi_decode(data) {
            for one in call.settlements.iter().filter(|_| commit) {
                let Some(job) = self.escrows.get_mut(&one.jobId) else { continue };
                if job.state == 1 && one.spent <= job.escrow {
                    (job.state, job.spent) = (2, one.spent);
                    let spent: u128 = one.spent.to();
                    self.pool += spent - spent * u128::from(FEE_BPS) / 10_000;
                }
            }
            return Ok(());
        }
        match Calls::abi_decode(data).map_err(|_| refused("Reverted"))? {
            Calls::submitEpoch(call) => {
                if call.epoch != self.next_epoch {
                    return Err(refused("WrongEpoch"));
                }
                if now() < self.genesis + (call.epoch + 1) * EPOCH_SECONDS {
                    return Err(ChainError::Refused(Refusal {
                        passes_with_time: true,
                        ..Refusal::new("EpochNotOver", "wait")
                    }));
                }
                let (_, total) = self.pending.unwrap_or(self.live);
                if call.cumulativeTotal - total > self.pool {
                    return Err(refused("PoolTooSmall"));
                }
                if commit {
                    self.live = self.pending.take().unwrap_or(self.live);
                    self.pool -= call.cumulativeTotal - total;
                    if call.cumulativeTotal > total {
                        self.pending = Some((call.root, call.cumulativeTotal));
                    }
                    self.next_epoch += 1;
                    self.submitted.push(call.epoch);
                }
            }
            Calls::distributeRewards(_) => {
                let Some(pending) = self.pending else { return Err(refused("NothingPending")) };
                if commit {
                    self.live = pending;
                    self.pending = None;
                }
            }
            Calls::registerNodeFor(call) => {
                if value < Wei::XDC.0 {
                    return Err(refused("StakeTooSmall"));
                }
                if self.nodes.contains_key(&call.node) {
                    return Err(refused("AlreadyRegistered"));
                }
                if commit {
                    let node = Node {
                        owner: from,
                        stake: alloy::primitives::Uint::from(value),
                        payout: call.payout,
                        computingPower: call.computingPower.to(),
                        storageCapacity: call.storageCapacity.to(),
                        registeredAt: alloy::primitives::Uint::from(now()),
                        exitAt: alloy::primitives::Uint::ZERO,
                        status: 1.try_into().unwrap(),
                        index: 1,
                        frozen: alloy::primitives::Uint::ZERO,
                        heldUntil: alloy::primitives::Uint::ZERO,
                    };
                    self.nodes.insert(call.node, node);
                }
            }
            Calls::requestPayout(call) => {
                if self.nodes.get(&call.node).is_none_or(|node| node.owner != from) {
                    return Err(refused("NotOwner"));
                }
                if commit {
                    self.payouts.insert(call.node, (call.payout, now() + PAYOUT_SECONDS));
                }
            }
            Calls::applyPayout(call) => {
                let Some((payout, _)) = self.payouts.get(&call.node).copied().filter(|(_, at)| now() >= *at) else {
                    return Err(refused("PayoutChangeTooEarly"));
                };
                if commit {
                    self.payouts.remove(&call.node);
                    if let Some(node) = self.nodes.get_mut(&call.node) {
                        node.payout = payout;
                    }
                }
            }
            Calls::unregisterNodeFor(call) => {
                if self.nodes.get(&call.node).is_none_or(|node| node.owner != from) {
                    return Err(refused("NotOwner"));
                }
                if commit {
                    self.nodes.remove(&call.node);
                }
            }
            _ => return Err(refused("Reverted")),
        }
        Ok(())
    }

    /// Takes into blocks whatever of an account is next in line.
    fn mine(&mut self, from: Address) {
        while let Some(envelope) =
            self.pool_of_transactions.remove(&(from, self.nonces.get(&from).copied().unwrap_or(0)))
        {
            *self.nonces.entry(from).or_default() += 1;
            let succeeded = self.execute(from, envelope.value().to(), envelope.input(), true).is_ok();
            self.head += 1;
            let (hash, block) = (*envelope.tx_hash(), self.block(self.head));
            let receipt = TxReceipt {
                hash,
                block_number: block.number,
                block_hash: block.hash,
                succeeded,
                gas_used: 90_000,
                contract: None,
            };
            self.receipts.insert(hash, receipt);
        }
    }

    fn view(&self, data: &[u8]) -> Result<Bytes, ChainError> {
        fn of<C: SolCall>(value: &C::Return) -> Result<Bytes, ChainError> {
            Ok(C::abi_encode_returns(value).into())
        }
        match EscrowCalls::abi_decode(data) {
            Ok(EscrowCalls::rewards(_)) => return of::<escrow::rewardsCall>(&Address::with_last_byte(0xaa)),
            Ok(EscrowCalls::jobs(call)) => {
                let none = Job {
                    payer: Address::ZERO,
                    escrow: alloy::primitives::Uint::ZERO,
                    deadline: alloy::primitives::Uint::ZERO,
                    feeBps: 0,
                    state: 0,
                    spent: alloy::primitives::Uint::ZERO,
                };
                return of::<escrow::jobsCall>(&self.escrows.get(&call.jobId).cloned().unwrap_or(none));
            }
            _ => {}
        }
        match Calls::abi_decode(data).map_err(|_| refused("Reverted"))? {
            Calls::genesis(_) => of::<contract::genesisCall>(&self.genesis),
            Calls::epochSeconds(_) => of::<contract::epochSecondsCall>(&EPOCH_SECONDS),
            Calls::challengeWindow(_) => of::<contract::challengeWindowCall>(&0),
            Calls::unbonding(_) => of::<contract::unbondingCall>(&0),
            Calls::minStake(_) => of::<contract::minStakeCall>(&U256::from(Wei::XDC.0)),
            Calls::parameters(_) => {
                // One reporter is enough here; nobody asks for anything else.
                let rules = || Parameters {
                    maxEpochIncrease: alloy::primitives::Uint::MAX,
                    challengeBond: alloy::primitives::Uint::ZERO,
                    challengeReward: alloy::primitives::Uint::ZERO,
                    challengeWindow: 0,
                    rulingTime: 0,
                    unbonding: 0,
                    quorum: 1,
                    maxSlashBps: 0,
                    epochSlashBps: 0,
                };
                of::<contract::parametersCall>(&contract::parametersReturn {
                    inForce: rules(),
                    announced: rules(),
                    announcedFrom: U256::ZERO,
                })
            }
            Calls::maxEpochIncrease(_) => of::<contract::maxEpochIncreaseCall>(&u128::MAX),
            Calls::epochState(_) => of::<contract::epochStateCall>(&self.epoch_state()),
            Calls::hasRole(_) => of::<contract::hasRoleCall>(&self.reporter_has_role),
            Calls::payoutRequest(call) => {
                let (payout, at) = self.payouts.get(&call.node).copied().unwrap_or_default();
                let applicable_at = U256::from(at);
                of::<contract::payoutRequestCall>(&contract::payoutRequestReturn {
                    payout,
                    applicableAt: applicable_at,
                })
            }
            Calls::bindingNonce(_) => of::<contract::bindingNonceCall>(&U256::ZERO),
            Calls::claimed(_) => of::<contract::claimedCall>(&U256::ZERO),
            Calls::nodes(call) => {
                let none = Node {
                    owner: Address::ZERO,
                    stake: alloy::primitives::Uint::ZERO,
                    payout: Address::ZERO,
                    computingPower: 0,
                    storageCapacity: 0,
                    registeredAt: alloy::primitives::Uint::ZERO,
                    exitAt: alloy::primitives::Uint::ZERO,
                    status: 0.try_into().unwrap(),
                    index: 0,
                    frozen: alloy::primitives::Uint::ZERO,
                    heldUntil: alloy::primitives::Uint::ZERO,
                };
                of::<contract::nodesCall>(&self.nodes.get(&call.node).cloned().unwrap_or(none))
            }
            _ => Err(refused("Reverted")),
        }
    }

    fn epoch_state(&self) -> EpochState {
        let (root, total) = self.pending.unwrap_or((B256::ZERO, self.live.1));
        EpochState {
            nextEpoch: self.next_epoch,
            pending: self.pending.is_some(),
            activeAt: 0,
            pendingRoot: root,
            pendingTotal: total,
            liveRoot: self.live.0,
            liveTotal: self.live.1,
            claimedTotal: 0,
            rewardPool: self.pool,
            stakeTotal: 0,
            creditTotal: U256::ZERO,
            challenged: false,
            round: 0,
            rulingDueAt: 0,
            bond: 0,
            treasury: 0,
        }
    }

    fn block(&self, number: u64) -> BlockRef {
        BlockRef { number, hash: B256::from(U256::from(number)), timestamp: now(), base_fee: None }
    }
}

impl ChainRpc for FakeChain {
    fn agreed(&self) -> &dyn ChainRpc {
        self
    }

    fn transaction(&self, _: B256) -> RpcFuture<'_, Option<SentCall>> {
        self.answer(|_| Ok(None))
    }

    fn logs<'a>(&'a self, _: &'a LogFilter) -> RpcFuture<'a, Vec<LogEntry>> {
        self.answer(|_| Ok(Vec::new()))
    }

    fn chain_id(&self) -> RpcFuture<'_, u64> {
        self.answer(|state| Ok(state.chain_id))
    }

    fn code(&self, _: NodeAddress) -> RpcFuture<'_, Bytes> {
        self.answer(|state| Ok(if state.has_code { Bytes::from_static(&[1]) } else { Bytes::new() }))
    }

    fn balance(&self, _: NodeAddress) -> RpcFuture<'_, Wei> {
        self.answer(|_| Ok(Wei(1_000 * Wei::XDC.0)))
    }

    fn nonce(&self, account: NodeAddress, _: At) -> RpcFuture<'_, u64> {
        self.answer(|state| Ok(state.nonces.get(&alloy::primitives::Address::from(account)).copied().unwrap_or(0)))
    }

    fn block(&self, at: At) -> RpcFuture<'_, BlockRef> {
        self.answer(|state| {
            state.head += 1;
            let number = match at {
                At::Latest => state.head,
                At::Finalized => state.head - FINALITY,
                At::Number(number) => number,
                At::Hash(hash) => U256::from_be_bytes(hash.0).to(),
            };
            Ok(state.block(number))
        })
    }

    fn call<'a>(&'a self, request: &'a CallRequest, _: At) -> RpcFuture<'a, Bytes> {
        self.answer(|state| state.view(&request.data))
    }

    fn estimate_gas<'a>(&'a self, request: &'a CallRequest) -> RpcFuture<'a, u64> {
        self.answer(|state| state.execute(request.from.into(), request.value.0, &request.data, false).map(|()| 100_000))
    }

    fn send_raw<'a>(&'a self, raw: &'a [u8]) -> RpcFuture<'a, SendOutcome> {
        let envelope = TxEnvelope::decode_2718(&mut &raw[..]).unwrap();
        let from = envelope.recover_signer().unwrap();
        self.answer(|state| {
            if envelope.nonce() < state.nonces.get(&from).copied().unwrap_or(0) {
                return Ok(SendOutcome::NonceTooLow);
            }
            state.pool_of_transactions.insert((from, envelope.nonce()), envelope);
            state.mine(from);
            Ok(SendOutcome::Accepted)
        })
    }

    fn knows(&self, hash: B256) -> RpcFuture<'_, bool> {
        self.answer(|state| {
            let pooled = state.pool_of_transactions.values().any(|envelope| *envelope.tx_hash() == hash);
            Ok(pooled || state.receipts.contains_key(&hash))
        })
    }

    fn receipt(&self, hash: B256) -> RpcFuture<'_, Option<TxReceipt>> {
        self.answer(|state| Ok(state.receipts.get(&hash).copied()))
    }
}
