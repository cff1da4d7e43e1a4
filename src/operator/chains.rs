//! The chain as the controllers use it: one checked client and one nonce pool per network, the reporter's key from its Secret,
//! and transactions that are written down in a status between any two steps.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::ByteString;
use kube::{Api, Client, api::ListParams};

use super::{error::Error, runner::Guarded, signers::Signers};
use crate::{
    api::{
        conditions::Finding,
        contribution_report::ContributionReport,
        grid_network::{ChainSpec, GridNetwork},
        grid_node::GridNode,
        ids::NodeAddress,
        reasons::Reason,
        refs::{SecretKeyRef, TransactionState, TransactionStatus},
    },
    chain::{
        BlockRef, ChainClient, ChainError, ChainRpc, FeePolicy, KeyError, NoncePool, Outbox, OutboxRecord, OutboxState,
        Signer, http::HttpEndpoints,
    },
};

/// Makes the RPC of a network; tests hand in a simulated chain.
pub type Connect = Arc<dyn Fn(&[String], u64) -> Result<Arc<dyn ChainRpc>, ChainError> + Send + Sync>;

/// What can be said about the chain when it is not as it should be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", finding.message)]
pub struct ChainProblem {
    pub finding: Finding,
}

impl ChainProblem {
    pub(super) fn no(reason: Reason, message: impl Into<String>) -> Self {
        ChainProblem { finding: Finding::no(reason, message) }
    }
}

impl From<&ChainError> for ChainProblem {
    fn from(error: &ChainError) -> Self {
        ChainProblem { finding: finding(error) }
    }
}

/// A chain error as a condition: what a person must correct is False, what only time can tell is Unknown.
pub fn finding(error: &ChainError) -> Finding {
    let reason = match error {
        ChainError::WrongChainId { .. } | ChainError::WrongSigner { .. } => Reason::WrongChainId,
        ChainError::NoContractCode { .. } => Reason::ContractWithoutCode,
        ChainError::NotTheContract { .. } => Reason::ContractUnreadable,
        ChainError::InsufficientFunds { .. } => Reason::ReporterWithoutFunds,
        ChainError::Key(KeyError::PasswordMissing { .. } | KeyError::Locked { .. }) => Reason::ReporterKeyLocked,
        ChainError::Key(_) => Reason::ReporterKeyInvalid,
        ChainError::WrongCode { .. } => Reason::ContractCodeDiffers,
        ChainError::InvalidSigner { .. } => Reason::SignerInvalid,
        ChainError::Refused(_) => Reason::TransactionReverted,
        ChainError::SignerUnavailable { .. } => return Finding::unknown(Reason::SignerUnavailable, error.to_string()),
        ChainError::Disagreement { .. } => return Finding::unknown(Reason::EndpointsDisagree, error.to_string()),
        // No numbers in the message: they would be others every time.
        ChainError::Behind { endpoint, .. } => {
            let message = format!("{endpoint} has not seen the newest blocks; its word alone is not enough");
            return Finding::unknown(Reason::RpcBehind, message);
        }
        _ => return Finding::unknown(Reason::RpcUnreachable, error.to_string()),
    };
    Finding::no(reason, error.to_string())
}

/// Clients, read-only, by what they connect to; nonce pools by account.
pub struct Chains {
    connect: Connect,
    clients: Mutex<HashMap<String, (ChainClient, Instant)>>,
    pools: tokio::sync::Mutex<HashMap<NodeAddress, Arc<NoncePool>>>,
    signers: Signers,
}

/// XDC makes a block every two seconds: an endpoint whose newest is older than this is being restored or cut off, and its "there
/// is no such registration" says nothing.
const BEHIND: Duration = Duration::from_secs(180);

/// Chain id, code and head are checked again after this: a contract can only appear, but an endpoint may be another one tomorrow.
const CHECKED_FOR: Duration = Duration::from_secs(60);

impl Default for Chains {
    fn default() -> Self {
        Chains::new(Arc::new(|endpoints, chain_id| {
            Ok(Arc::new(HttpEndpoints::new(endpoints, chain_id)?) as Arc<dyn ChainRpc>)
        }))
    }
}

impl Chains {
    pub fn new(connect: Connect) -> Self {
        Chains { connect, clients: Mutex::default(), pools: tokio::sync::Mutex::default(), signers: Signers::default() }
    }

    /// A client of the network's contract, checked.
    pub async fn client(&self, network: &GridNetwork) -> Result<ChainClient, ChainProblem> {
        let ChainSpec { chain_id, rpc_endpoints, contract, code_hash, .. } = &network.spec.chain;
        let key = format!("{chain_id} {contract} {code_hash:?} {}", rpc_endpoints.join(" "));
        if let Some((client, checked)) = self.clients().get(&key)
            && checked.elapsed() < CHECKED_FOR
        {
            return Ok(client.clone());
        }
        let chain_id = u64::try_from(*chain_id).unwrap_or_default();
        let contract: NodeAddress =
            contract.parse().map_err(|error| ChainProblem::no(Reason::ContractUnreadable, format!("{error}")))?;
        let rpc = (self.connect)(rpc_endpoints, chain_id).map_err(|error| ChainProblem::from(&error))?;
        let client = ChainClient::checked(rpc, chain_id, contract).await.map_err(|error| ChainProblem::from(&error))?;
        if let Some(pinned) = code_hash {
            let pinned = pinned.parse().map_err(|error| {
                ChainProblem::no(Reason::ContractCodeDiffers, format!("spec.chain.codeHash: {error}"))
            })?;
            client.check_code(pinned).await.map_err(|error| ChainProblem::from(&error))?;
        }
        let head = client.head().await.map_err(|error| ChainProblem::from(&error))?;
        not_behind(&head, jiff::Timestamp::now())?;
        self.clients().insert(key, (client.clone(), Instant::now()));
        Ok(client)
    }

    /// The network's client and the reporter's key.
    pub async fn session(
        &self,
        network: &GridNetwork,
        client: &Client,
        namespace: &str,
    ) -> Result<Session, ChainProblem> {
        let chain = self.client(network).await?;
        let key = self.signers.of(&network.spec.chain, client, namespace).await?;
        let pool = self.pool(key.address(), client).await?;
        Ok(Session { chain, key, pool })
    }

    /// The network's client and the key that settles paid jobs: the reporter's, unless the network names another.
    pub async fn settler_session(
        &self,
        network: &GridNetwork,
        client: &Client,
        namespace: &str,
    ) -> Result<Session, ChainProblem> {
        match &network.spec.chain.settler_secret_ref {
            Some(settler) => self.session_of(settler, network, client, namespace).await,
            None => self.session(network, client, namespace).await,
        }
    }

    /// The network's client and the key that opens slash cases, which is never the reporter's: the contract excludes it.
    pub async fn slasher_session(
        &self,
        network: &GridNetwork,
        client: &Client,
        namespace: &str,
    ) -> Result<Session, ChainProblem> {
        match &network.spec.chain.slasher_secret_ref {
            Some(slasher) => self.session_of(slasher, network, client, namespace).await,
            None => Err(ChainProblem::no(Reason::ReporterSecretMissing, "spec.chain.slasherSecretRef is not set")),
        }
    }

    async fn session_of(
        &self,
        at: &SecretKeyRef,
        network: &GridNetwork,
        client: &Client,
        namespace: &str,
    ) -> Result<Session, ChainProblem> {
        let chain = self.client(network).await?;
        let key = self.signers.local(at, client, namespace).await?;
        let pool = self.pool(key.address(), client).await?;
        Ok(Session { chain, key, pool })
    }

    /// The nonces of an account, taken up from every record that a former process left.
    async fn pool(&self, account: NodeAddress, client: &Client) -> Result<Arc<NoncePool>, ChainProblem> {
        let mut pools = self.pools.lock().await;
        if let Some(pool) = pools.get(&account) {
            return Ok(pool.clone());
        }
        let records = all_records(client).await.map_err(|error| ChainProblem {
            finding: Finding::unknown(Reason::RpcUnreachable, format!("records cannot be listed: {error}")),
        })?;
        let pool = Arc::new(NoncePool::restore(account, &records));
        pools.insert(account, pool.clone());
        Ok(pool)
    }

    /// Gives the nonce back that may be set aside for a record of which nothing was signed, and that is written down no more.
    pub async fn forget(&self, unsigned: &OutboxRecord) {
        if let Some(pool) = self.pools.lock().await.get(&unsigned.from) {
            pool.release(&unsigned.intent.key);
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<String, (ChainClient, Instant)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_behind(head: &BlockRef, now: jiff::Timestamp) -> Result<(), ChainProblem> {
    let age = u64::try_from(now.as_second()).unwrap_or(0).saturating_sub(head.timestamp);
    if age <= BEHIND.as_secs() {
        return Ok(());
    }
    // No numbers in the message: they would be others every time.
    let message = "the newest block that the RPC endpoints know is minutes old";
    Err(ChainProblem { finding: Finding::unknown(Reason::RpcBehind, message) })
}

/// Every transaction that the operator has written down.
async fn all_records(client: &Client) -> Result<Vec<OutboxRecord>, kube::Error> {
    let nodes: Api<Guarded<GridNode>> = Api::all(client.clone());
    let reports: Api<Guarded<ContributionReport>> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await?.items.into_iter().filter_map(|node| node.0.ok()?.status);
    let of_nodes = nodes
        .flat_map(|status| [status.registration, status.exit, status.payout, status.slash, status.slash_execution]);
    let reports =
        reports.list(&ListParams::default()).await?.items.into_iter().filter_map(|report| report.0.ok()?.status);
    let of_reports = reports.flat_map(|status| [status.vote, status.submit, status.activate]);
    let networks: Api<Guarded<GridNetwork>> = Api::all(client.clone());
    let networks = networks.list(&ListParams::default()).await?.items;
    let networks = networks.into_iter().filter_map(|network| network.0.ok()?.status);
    let of_networks = networks.flat_map(|status| [status.settlement, status.slash_execution]);
    Ok(of_nodes.chain(of_reports).chain(of_networks).flatten().filter_map(|status| record_of(&status)).collect())
}

/// The GridJobEscrow of a network; `None` for one where jobs cannot be paid for.
pub fn escrow_of(network: &GridNetwork) -> Result<Option<NodeAddress>, ChainProblem> {
    let parsed = network.spec.chain.escrow.as_deref().map(str::parse::<NodeAddress>).transpose();
    parsed.map_err(|error| ChainProblem::no(Reason::EscrowContractMissing, format!("spec.chain.escrow: {error}")))
}

/// A network's chain with the key that may write to it.
pub struct Session {
    pub chain: ChainClient,
    pub key: Arc<dyn Signer>,
    pub pool: Arc<NoncePool>,
}

impl Session {
    /// Takes the next step of a record; what comes back must be written down before the one after it.
    pub async fn step(&self, record: &OutboxRecord, now: u64) -> Result<OutboxRecord, ChainError> {
        let outbox =
            Outbox { rpc: self.chain.rpc(), key: self.key.as_ref(), nonces: &self.pool, fees: FeePolicy::default() };
        outbox.step(record, now).await
    }
}

// ------------------------------------------------------------------------------------------------ records in a status

/// A record's JSON never exceeds this: six attempts with 64 KiB of calldata each, in hexadecimal.
const MAX_RECORD: usize = 2 << 20;

/// What a status shows of a record, and the record itself.
pub fn status_of(record: &OutboxRecord) -> Result<TransactionStatus, Error> {
    let json = serde_json::to_vec(record)?;
    // Attempts repeat the calldata, which zstd notices.
    let packed = zstd::bulk::compress(&json, 3).map_err(|_| Error::Incomplete("a record that can be packed"))?;
    let inclusion = record.inclusion();
    let hash = inclusion.map(|inclusion| inclusion.hash).or(record.attempts().last().map(|attempt| attempt.hash));
    Ok(TransactionStatus {
        state: match record.state {
            OutboxState::Planned => TransactionState::Planned,
            OutboxState::Signed { .. } => TransactionState::Signed,
            OutboxState::Sent { .. } => TransactionState::Sent,
            OutboxState::Included { .. } => TransactionState::Included,
            OutboxState::Finalized { .. } => TransactionState::Finalized,
            OutboxState::Failed { .. } => TransactionState::Failed,
        },
        nonce: record.nonce().and_then(|nonce| i64::try_from(nonce).ok()),
        transaction_hash: hash.map(|hash| hash.to_string()),
        block_number: inclusion.and_then(|inclusion| i64::try_from(inclusion.block_number).ok()),
        gas_used: inclusion.and_then(|inclusion| i64::try_from(inclusion.gas_used).ok()),
        fee_wei: inclusion.map(|inclusion| inclusion.fee.to_string()),
        message: match &record.state {
            OutboxState::Failed { refusal, .. } => Some(refusal.to_string().chars().take(500).collect()),
            _ => None,
        },
        record: ByteString(packed),
    })
}

/// The record in a status; `None` when it cannot be read.
pub fn record_of(status: &TransactionStatus) -> Option<OutboxRecord> {
    let json = zstd::bulk::decompress(&status.record.0, MAX_RECORD).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Bytes;

    use super::*;
    use crate::{
        api::ids::Wei,
        chain::{Intent, IntentKind, TxCall, outbox::Attempt},
    };

    #[test]
    fn a_record_with_all_its_attempts_survives_the_status_and_fits() {
        let data: Vec<u8> = (0..64_800_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let call = TxCall { to: Some(NodeAddress([1; 20])), value: Wei(0), data: Bytes::from(data.clone()) };
        let intent = Intent { kind: IntentKind::SubmitEpoch, key: "epoch/1".into(), call };
        let attempt = |n: u8| Attempt {
            nonce: 7,
            gas_limit: 1,
            gas_price: Wei(1),
            hash: [n; 32].into(),
            raw: Bytes::from([&[n][..], &data].concat()),
        };
        let state = OutboxState::Signed { attempts: (0..6).map(attempt).collect() };
        let record = OutboxRecord { state, ..OutboxRecord::plan(intent, NodeAddress([2; 20]), 51) };
        let status = status_of(&record).unwrap();
        assert_eq!(record_of(&status), Some(record));
        assert_eq!((status.nonce, status.state), (Some(7), TransactionState::Signed));
        let size = serde_json::to_string(&status.record).unwrap().len();
        assert!(size < 400_000, "{size}");
    }

    #[tokio::test]
    async fn a_plan_that_is_given_up_gives_its_nonce_back() {
        let (chains, account) = (Chains::default(), NodeAddress([2; 20]));
        let pool = Arc::new(NoncePool::new(account));
        chains.pools.lock().await.insert(account, pool.clone());
        let call = TxCall { to: Some(NodeAddress([1; 20])), value: Wei(0), data: Bytes::new() };
        let intent = Intent { kind: IntentKind::ProposeSlash, key: "slash".into(), call };
        let planned = OutboxRecord::plan(intent, account, 51);
        assert_eq!(pool.reserve("slash", 5), Ok(5));
        assert_eq!(pool.reserve("other", 5), Ok(6));
        chains.forget(&planned).await;
        assert_eq!(pool.reserve("third", 5), Ok(5), "the gap is filled");
    }

    #[test]
    fn an_endpoint_whose_newest_block_is_old_is_behind() {
        let head = BlockRef { number: 7, hash: [0; 32].into(), timestamp: 1_000, base_fee: None };
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        assert!(not_behind(&head, at(1_180)).is_ok());
        assert!(not_behind(&head, at(900)).is_ok(), "a clock that is behind itself proves nothing");
        assert_eq!(not_behind(&head, at(1_181)).unwrap_err().finding.reason, "RpcBehind");
    }

    #[test]
    fn damaged_bytes_are_no_record() {
        let status = TransactionStatus {
            state: TransactionState::Planned,
            nonce: None,
            transaction_hash: None,
            block_number: None,
            gas_used: None,
            fee_wei: None,
            message: None,
            record: ByteString(vec![1, 2, 3]),
        };
        assert_eq!(record_of(&status), None);
    }
}
