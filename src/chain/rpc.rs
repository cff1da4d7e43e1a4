//! What the client needs from a chain node, as a trait: HTTP endpoints in production, a simulated chain in tests.

use alloy::primitives::{B256, Bytes};
use futures::future::BoxFuture;

use super::error::ChainError;
use crate::api::ids::{NodeAddress, Wei};

pub type RpcFuture<'a, T> = BoxFuture<'a, Result<T, ChainError>>;

/// The state that a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Latest,
    /// What consensus will not take back.
    Finalized,
    Number(u64),
    /// The block with this hash, and no other of its number (EIP-1898).
    Hash(B256),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    pub number: u64,
    /// As the node says; XDC headers carry fields that other hashers do not know.
    pub hash: B256,
    /// Unix seconds.
    pub timestamp: u64,
    /// Wei per gas.
    pub base_fee: Option<Wei>,
}

/// A message call, or the creation of a contract when `to` is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRequest {
    pub from: NodeAddress,
    pub to: Option<NodeAddress>,
    pub value: Wei,
    pub data: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxReceipt {
    pub hash: B256,
    pub block_number: u64,
    pub block_hash: B256,
    pub succeeded: bool,
    pub gas_used: u64,
    /// The contract that the transaction created.
    pub contract: Option<NodeAddress>,
}

/// What a node did with raw bytes. All but the first say that the same was or cannot be sent; the receipt decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    Accepted,
    AlreadyKnown,
    /// The account's nonce is used: by this very transaction, or by another.
    NonceTooLow,
    /// The pool holds another transaction with this nonce and no lower price.
    Underpriced,
}

/// A transaction that is in a pool or in a block, as far as a reader of its calldata needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentCall {
    pub from: NodeAddress,
    pub to: Option<NodeAddress>,
    pub data: Bytes,
}

/// Logs of one event of one contract. Nodes refuse ranges of more than some thousand blocks: see [`super::logs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFilter {
    pub address: NodeAddress,
    /// Hash of the event's signature.
    pub topic: B256,
    pub from_block: u64,
    /// Inclusive.
    pub to_block: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub transaction: B256,
    pub block_number: u64,
    /// Position among the logs of its block.
    pub index: u64,
    pub topics: Vec<B256>,
    pub data: Bytes,
}

/// Every method fails with [`ChainError`]; a revert is [`ChainError::Refused`].
pub trait ChainRpc: Send + Sync {
    /// The same chain for questions that decide about money: of several endpoints two must give the same answer. Ask it about final
    /// blocks only, since heads differ between honest nodes.
    fn agreed(&self) -> &dyn ChainRpc;
    fn chain_id(&self) -> RpcFuture<'_, u64>;
    fn code(&self, account: NodeAddress) -> RpcFuture<'_, Bytes>;
    fn balance(&self, account: NodeAddress) -> RpcFuture<'_, Wei>;
    /// How many transactions of the account are mined at that state: its next nonce.
    fn nonce(&self, account: NodeAddress, at: At) -> RpcFuture<'_, u64>;
    fn block(&self, at: At) -> RpcFuture<'_, BlockRef>;
    fn call<'a>(&'a self, request: &'a CallRequest, at: At) -> RpcFuture<'a, Bytes>;
    fn estimate_gas<'a>(&'a self, request: &'a CallRequest) -> RpcFuture<'a, u64>;
    fn send_raw<'a>(&'a self, raw: &'a [u8]) -> RpcFuture<'a, SendOutcome>;
    /// Whether the node holds the transaction, in its pool or in a block.
    fn knows(&self, hash: B256) -> RpcFuture<'_, bool> {
        Box::pin(async move { Ok(self.transaction(hash).await?.is_some()) })
    }
    fn receipt(&self, hash: B256) -> RpcFuture<'_, Option<TxReceipt>>;
    /// A transaction's sender and calldata; `None` when no node knows it.
    fn transaction(&self, hash: B256) -> RpcFuture<'_, Option<SentCall>>;
    fn logs<'a>(&'a self, filter: &'a LogFilter) -> RpcFuture<'a, Vec<LogEntry>>;
}
