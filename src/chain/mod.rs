//! The XDC client: contract bindings, the outbox (explicit nonces, same bytes re-sent), finality, fees. Talks JSON-RPC and
//! nothing else; what must survive a crash is handed back to the caller, who keeps it. It may read `api` and `reward` and never
//! knows who stores its records or why something is paid.

pub mod bindings;
pub mod client;
pub mod code;
pub mod deploy;
pub mod error;
pub mod escrow;
pub mod fees;
pub mod history;
pub mod http;
pub mod logs;
mod member;
pub mod multicall;
pub mod nonces;
pub mod outbox;
pub mod quote;
pub mod refusal;
pub mod registration;
pub mod reports;
pub mod rewards;
pub mod rpc;
pub mod signer;
pub mod slashing;
pub mod votes;

pub use client::{ChainClient, ContractParameters};
pub use error::ChainError;
pub use fees::FeePolicy;
pub use nonces::NoncePool;
pub use outbox::{Inclusion, Intent, IntentKind, Outbox, OutboxRecord, OutboxState, TxCall};
pub use refusal::Refusal;
pub use rpc::{At, BlockRef, CallRequest, ChainRpc, LogEntry, LogFilter, RpcFuture, SendOutcome, SentCall, TxReceipt};
pub use signer::{ChainKey, KeyError, Signer};
