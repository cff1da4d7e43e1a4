//! A chain of one account in memory: pool, blocks, finality two blocks behind, and everything that can go wrong with them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use alloy::{
    consensus::{Transaction, TxEnvelope},
    eips::eip2718::Decodable2718,
    primitives::{B256, Bytes, keccak256},
};

use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        error::ChainError,
        refusal::Refusal,
        rpc::{At, BlockRef, CallRequest, ChainRpc, LogEntry, LogFilter, RpcFuture, SendOutcome, SentCall, TxReceipt},
    },
};

pub(super) const CHAIN_ID: u64 = 51;

#[derive(Clone)]
struct Mined {
    hash: B256,
    data: Bytes,
    price: u128,
}

impl Mined {
    fn is_foreign(&self) -> bool {
        self.data.is_empty()
    }
}

#[derive(Default)]
struct State {
    /// Block n holds the transactions of `blocks[n]`; each occupies the account's next nonce.
    blocks: Vec<Vec<Mined>>,
    /// The newest final block. A reorganisation shortens the chain, but nothing that was final stops being so.
    committed: u64,
    /// Grows with every reorganisation, so that hashes of the new blocks differ.
    fork: u64,
    pool: BTreeMap<u64, Mined>,
    unreachable: bool,
    answer_lost: bool,
    mined_transactions_fail: bool,
    receipts_lag: bool,
    refusal: Option<Refusal>,
}

#[derive(Default)]
pub(super) struct SimulatedChain(Mutex<State>);

impl State {
    fn nonce_at(&self, number: u64) -> u64 {
        self.blocks.iter().take(number as usize + 1).map(|block| block.len() as u64).sum()
    }

    fn head(&self) -> u64 {
        (self.blocks.len() as u64).saturating_sub(1)
    }

    fn append(&mut self, block: Vec<Mined>) {
        self.blocks.push(block);
        self.committed = self.committed.max(self.head().saturating_sub(2));
    }

    fn block_hash(&self, number: u64) -> B256 {
        keccak256([number.to_be_bytes(), self.fork.to_be_bytes()].concat())
    }

    fn number(&self, at: At) -> u64 {
        match at {
            At::Latest => self.head(),
            At::Finalized => self.committed,
            At::Number(number) => number,
            At::Hash(hash) => (0..=self.head()).find(|number| self.block_hash(*number) == hash).unwrap_or(0),
        }
    }
}

impl SimulatedChain {
    pub(super) fn new() -> Self {
        let chain = SimulatedChain::default();
        chain.state().blocks.push(Vec::new());
        chain
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The next block takes everything from the pool that is next in line.
    pub(super) fn mine(&self) {
        let mut state = self.state();
        let mut nonce = state.nonce_at(state.head());
        let mut block = Vec::new();
        state.pool.retain(|key, _| *key >= nonce);
        while let Some(next) = state.pool.remove(&nonce) {
            block.push(next);
            nonce += 1;
        }
        state.append(block);
    }

    /// Somebody else uses the account's next nonce in a block of its own.
    pub(super) fn mine_foreign(&self) {
        let mut state = self.state();
        let nonce = state.nonce_at(state.head());
        state.pool.remove(&nonce);
        let hash = keccak256([b"foreign".as_slice(), &nonce.to_be_bytes(), &state.fork.to_be_bytes()].concat());
        state.append(vec![Mined { hash, data: Bytes::new(), price: u64::MAX.into() }]);
    }

    /// Drops the newest block, never a final one. Our transactions in it are forgotten; others find their way back into the
    /// pool, or a gap in the nonces would stay open for good.
    pub(super) fn reorganise(&self) {
        let mut state = self.state();
        if state.head() > state.number(At::Finalized) {
            let dropped = state.blocks.pop().unwrap_or_default();
            let first = state.nonce_at(state.head());
            for (nonce, mined) in (first..).zip(dropped).filter(|(_, mined)| mined.is_foreign()) {
                state.pool.insert(nonce, mined);
            }
            state.fork += 1;
        }
    }

    pub(super) fn forget_pool(&self) {
        self.state().pool.retain(|_, pooled| pooled.is_foreign());
    }

    pub(super) fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    /// The next transaction is taken but the answer never arrives.
    pub(super) fn lose_next_answer(&self) {
        self.state().answer_lost = true;
    }

    pub(super) fn refuse(&self, refusal: Option<Refusal>) {
        self.state().refusal = refusal;
    }

    /// Blocks and transactions are there and their receipts are not.
    pub(super) fn set_receipts_lag(&self, lag: bool) {
        self.state().receipts_lag = lag;
    }

    pub(super) fn fail_mined_transactions(&self) {
        self.state().mined_transactions_fail = true;
    }

    /// How many transactions of the canonical chain carry this calldata.
    pub(super) fn times_mined(&self, data: &Bytes) -> usize {
        self.state().blocks.iter().flatten().filter(|mined| mined.data == *data).count()
    }

    pub(super) fn pool_prices(&self) -> Vec<u128> {
        self.state().pool.values().map(|pooled| pooled.price).collect()
    }

    fn answer<'a, T: Send + 'a>(&'a self, of: impl FnOnce(&mut State) -> Result<T, ChainError>) -> RpcFuture<'a, T> {
        let mut state = self.state();
        let result = if state.unreachable { Err(unreachable()) } else { of(&mut state) };
        Box::pin(async move { result })
    }
}

fn unreachable() -> ChainError {
    ChainError::Unreachable { endpoint: "simulated".to_owned(), detail: "cut".to_owned() }
}

impl ChainRpc for SimulatedChain {
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
        self.answer(|_| Ok(CHAIN_ID))
    }

    fn code(&self, _: NodeAddress) -> RpcFuture<'_, Bytes> {
        self.answer(|_| Ok(Bytes::from_static(&[1])))
    }

    fn balance(&self, _: NodeAddress) -> RpcFuture<'_, Wei> {
        self.answer(|_| Ok(Wei(100 * Wei::XDC.0)))
    }

    fn nonce(&self, _: NodeAddress, at: At) -> RpcFuture<'_, u64> {
        self.answer(|state| Ok(state.nonce_at(state.number(at))))
    }

    fn block(&self, at: At) -> RpcFuture<'_, BlockRef> {
        self.answer(|state| {
            let number = state.number(at);
            Ok(BlockRef { number, hash: state.block_hash(number), timestamp: number * 2, base_fee: None })
        })
    }

    fn call<'a>(&'a self, _: &'a CallRequest, _: At) -> RpcFuture<'a, Bytes> {
        self.answer(|state| state.refusal.clone().map_or_else(|| Ok(Bytes::new()), |why| Err(ChainError::Refused(why))))
    }

    fn estimate_gas<'a>(&'a self, _: &'a CallRequest) -> RpcFuture<'a, u64> {
        self.answer(|state| state.refusal.clone().map_or(Ok(100_000), |why| Err(ChainError::Refused(why))))
    }

    fn send_raw<'a>(&'a self, raw: &'a [u8]) -> RpcFuture<'a, SendOutcome> {
        let envelope = TxEnvelope::decode_2718(&mut &raw[..]).unwrap();
        let (nonce, price) = (envelope.nonce(), envelope.gas_price().unwrap());
        let sent = Mined { hash: *envelope.tx_hash(), data: envelope.input().clone(), price };
        self.answer(move |state| {
            let outcome = match state.pool.get(&nonce) {
                _ if nonce < state.nonce_at(state.head()) => SendOutcome::NonceTooLow,
                Some(pooled) if pooled.hash == sent.hash => SendOutcome::AlreadyKnown,
                Some(pooled) if sent.price * 10 < pooled.price * 11 => SendOutcome::Underpriced,
                _ => {
                    state.pool.insert(nonce, sent);
                    SendOutcome::Accepted
                }
            };
            if std::mem::take(&mut state.answer_lost) { Err(unreachable()) } else { Ok(outcome) }
        })
    }

    fn knows(&self, hash: B256) -> RpcFuture<'_, bool> {
        self.answer(|state| {
            let known = state.pool.values().chain(state.blocks.iter().flatten()).any(|tx| tx.hash == hash);
            Ok(known)
        })
    }

    fn receipt(&self, hash: B256) -> RpcFuture<'_, Option<TxReceipt>> {
        self.answer(|state| {
            let number = state.blocks.iter().position(|block| block.iter().any(|tx| tx.hash == hash));
            let number = number.filter(|_| !state.receipts_lag);
            Ok(number.map(|number| TxReceipt {
                hash,
                block_number: number as u64,
                block_hash: state.block_hash(number as u64),
                succeeded: !state.mined_transactions_fail,
                gas_used: 60_000,
                contract: None,
            }))
        })
    }
}
