//! Why something on the chain did not work, in words a person can act on.

use alloy::primitives::B256;

use super::{fees::FeeError, refusal::Refusal, signer::KeyError};
use crate::api::ids::{NodeAddress, Wei};

/// Endpoints are named by host and port only: their paths often hold an access token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error(
        "{endpoint} serves chain {found}, but this network is on chain {expected}: correct chainID or the endpoint"
    )]
    WrongChainId { endpoint: String, expected: u64, found: u64 },
    #[error("there is no contract at {contract} on chain {chain_id}: correct the address or deploy it first")]
    NoContractCode { contract: NodeAddress, chain_id: u64 },
    #[error("{contract} is not a GridComputingRewards contract: it does not answer {method} as one")]
    NotTheContract { contract: NodeAddress, method: &'static str },
    #[error(
        "the code at {contract} has the hash {found}, but spec.chain.codeHash is {expected}: it is another contract or another release of it"
    )]
    WrongCode { contract: NodeAddress, expected: B256, found: B256 },
    #[error("the contract at {contract} belongs to the grid of {grid}, not to this one")]
    OfAnotherGrid { contract: NodeAddress, grid: NodeAddress },
    #[error("an RPC endpoint must be an http:// or https:// URL, at most five of them")]
    InvalidEndpoint,
    #[error("cannot reach {endpoint}: {detail}")]
    Unreachable { endpoint: String, detail: String },
    #[error("{endpoint} answered {method} with an error: {message}")]
    Rpc { endpoint: String, method: &'static str, message: String },
    #[error(
        "the RPC endpoints give different answers to {method}: nothing is decided until two of them agree; take the one that lags or lies out of rpcEndpoints"
    )]
    Disagreement { method: &'static str },
    #[error(
        "{endpoint} says no to {method}, but it is at block {head} while block {newest} was seen: it is not believed until it has caught up"
    )]
    Behind { endpoint: String, method: &'static str, head: u64, newest: u64 },
    #[error(
        "no report on chain carries the leaves of the live root {root}: the endpoint may not serve old logs, name another one"
    )]
    HistoryMissing { root: B256 },
    #[error(
        "more than {reports} reports lie between the root {root} and one that carries all leaves: take the leaves from the operator's cluster (kubectl grid rewards)"
    )]
    HistoryTooLong { root: B256, reports: usize },
    #[error("the report in transaction {transaction} cannot be read: {what}")]
    ReportUnreadable { transaction: B256, what: String },
    #[error("the contract refuses: {0}")]
    Refused(Refusal),
    #[error("account {account} holds {} XDC and needs {} for this transaction: send it XDC", balance.to_xdc(), needed.to_xdc())]
    InsufficientFunds { account: NodeAddress, balance: Wei, needed: Wei },
    #[error("account {account} has {limit} transactions on their way already; the next one waits")]
    TooManyInFlight { account: NodeAddress, limit: u64 },
    #[error(
        "this record belongs to account {expected} on chain {expected_chain}, but the key is {found} on chain {found_chain}"
    )]
    WrongSigner { expected: NodeAddress, expected_chain: u64, found: NodeAddress, found_chain: u64 },
    #[error("the remote signer cannot be used: {detail}")]
    InvalidSigner { detail: String },
    #[error("the remote signer at {host} does not answer as it should: {detail}")]
    SignerUnavailable { host: String, detail: String },
    #[error("signing failed: {0}")]
    Signing(String),
    #[error(transparent)]
    Fee(#[from] FeeError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{what} was not done within {seconds} seconds; it is still {state}")]
    TimedOut { what: String, seconds: u64, state: &'static str },
}

impl ChainError {
    /// True when doing the same again later can work without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            ChainError::Unreachable { .. }
            | ChainError::Rpc { .. }
            | ChainError::Disagreement { .. }
            | ChainError::Behind { .. }
            | ChainError::SignerUnavailable { .. }
            | ChainError::TooManyInFlight { .. }
            | ChainError::TimedOut { .. } => true,
            ChainError::Refused(refusal) => refusal.passes_with_time,
            _ => false,
        }
    }

    /// A stable name for metrics and condition reasons.
    pub fn label(&self) -> &'static str {
        match self {
            ChainError::WrongChainId { .. } => "WrongChainId",
            ChainError::NoContractCode { .. } => "NoContractCode",
            ChainError::NotTheContract { .. } => "NotTheContract",
            ChainError::WrongCode { .. } => "WrongCode",
            ChainError::OfAnotherGrid { .. } => "OfAnotherGrid",
            ChainError::InvalidEndpoint => "InvalidEndpoint",
            ChainError::Unreachable { .. } => "ChainUnreachable",
            ChainError::Rpc { .. } => "ChainRpcError",
            ChainError::Disagreement { .. } => "EndpointsDisagree",
            ChainError::Behind { .. } => "EndpointBehind",
            ChainError::HistoryMissing { .. } => "HistoryMissing",
            ChainError::HistoryTooLong { .. } => "HistoryTooLong",
            ChainError::ReportUnreadable { .. } => "ReportUnreadable",
            ChainError::Refused(_) => "ContractRefused",
            ChainError::InsufficientFunds { .. } => "InsufficientFunds",
            ChainError::TooManyInFlight { .. } => "TooManyInFlight",
            ChainError::WrongSigner { .. } => "WrongSigner",
            ChainError::InvalidSigner { .. } => "SignerInvalid",
            ChainError::SignerUnavailable { .. } => "SignerUnavailable",
            ChainError::Signing(_) => "SigningFailed",
            ChainError::Fee(_) => "FeeTooHigh",
            ChainError::Key(_) => "InvalidKey",
            ChainError::TimedOut { .. } => "ChainTimeout",
        }
    }
}
