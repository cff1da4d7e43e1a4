//! A chain's RPC with faults at chosen calls.

use std::sync::Arc;

use alloy::primitives::{B256, Bytes};
use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    chain::{
        At, BlockRef, CallRequest, ChainError, ChainRpc, LogEntry, LogFilter, RpcFuture, SendOutcome, SentCall,
        TxReceipt,
    },
};

use crate::support::faults::Faults;

pub struct FaultyRpc {
    pub inner: Arc<dyn ChainRpc>,
    pub faults: Faults,
}

fn broken() -> ChainError {
    ChainError::Unreachable { endpoint: "anvil".to_owned(), detail: "the connection broke".to_owned() }
}

fn refused<T>(status: u16) -> Result<T, ChainError> {
    Err(ChainError::Rpc { endpoint: "anvil".to_owned(), method: "any", message: format!("injected {status}") })
}

impl FaultyRpc {
    fn around<'a, T: Send + 'a>(
        &'a self,
        method: &'static str,
        act: impl Fn() -> RpcFuture<'a, T> + Send + Sync + 'a,
    ) -> RpcFuture<'a, T> {
        let is_write = method == "eth_sendRawTransaction";
        Box::pin(
            async move { self.faults.around(method.to_owned(), String::new(), is_write, act, broken, refused).await },
        )
    }
}

impl ChainRpc for FaultyRpc {
    fn agreed(&self) -> &dyn ChainRpc {
        self
    }

    fn transaction(&self, hash: B256) -> RpcFuture<'_, Option<SentCall>> {
        self.around("eth_getTransactionByHash", move || self.inner.transaction(hash))
    }

    fn logs<'a>(&'a self, filter: &'a LogFilter) -> RpcFuture<'a, Vec<LogEntry>> {
        self.around("eth_getLogs", move || self.inner.logs(filter))
    }

    fn chain_id(&self) -> RpcFuture<'_, u64> {
        self.around("eth_chainId", || self.inner.chain_id())
    }

    fn code(&self, account: NodeAddress) -> RpcFuture<'_, Bytes> {
        self.around("eth_getCode", move || self.inner.code(account))
    }

    fn balance(&self, account: NodeAddress) -> RpcFuture<'_, Wei> {
        self.around("eth_getBalance", move || self.inner.balance(account))
    }

    fn nonce(&self, account: NodeAddress, at: At) -> RpcFuture<'_, u64> {
        self.around("eth_getTransactionCount", move || self.inner.nonce(account, at))
    }

    fn block(&self, at: At) -> RpcFuture<'_, BlockRef> {
        self.around("eth_getBlockByNumber", move || self.inner.block(at))
    }

    fn call<'a>(&'a self, request: &'a CallRequest, at: At) -> RpcFuture<'a, Bytes> {
        self.around("eth_call", move || self.inner.call(request, at))
    }

    fn estimate_gas<'a>(&'a self, request: &'a CallRequest) -> RpcFuture<'a, u64> {
        self.around("eth_estimateGas", move || self.inner.estimate_gas(request))
    }

    fn send_raw<'a>(&'a self, raw: &'a [u8]) -> RpcFuture<'a, SendOutcome> {
        self.around("eth_sendRawTransaction", move || self.inner.send_raw(raw))
    }

    fn knows(&self, hash: B256) -> RpcFuture<'_, bool> {
        self.around("eth_getTransactionByHash", move || self.inner.knows(hash))
    }

    fn receipt(&self, hash: B256) -> RpcFuture<'_, Option<TxReceipt>> {
        self.around("eth_getTransactionReceipt", move || self.inner.receipt(hash))
    }
}
