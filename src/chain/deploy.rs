//! Puts the contract on a chain: create, name the reporter and the guardian, fund. For tools that a person runs.

use std::sync::Arc;

use alloy::{
    primitives::{Address, Bytes, keccak256},
    sol_types::SolConstructor,
};

use super::{
    bindings::GridComputingRewards as contract,
    client::ChainClient,
    error::ChainError,
    fees::FeePolicy,
    nonces::NoncePool,
    outbox::{Inclusion, Intent, IntentKind, Outbox, OutboxRecord, Pace, TxCall, run_to_end},
    quote::Quote,
    rpc::ChainRpc,
    signer::Signer,
};
use crate::api::ids::{NodeAddress, Wei};

/// What the contract is created with; it checks the bounds itself (window ≤ epoch, unbonding ≥ window).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeployParameters {
    pub epoch_seconds: u64,
    pub challenge_window: u64,
    pub unbonding: u64,
    pub max_epoch_increase: Wei,
    /// The account that reports epochs.
    pub reporter: NodeAddress,
    /// The account that may drop a pending epoch, if any.
    pub guardian: Option<NodeAddress>,
    /// Put into the reward pool at once; zero for nothing.
    pub funding: Wei,
}

/// The result; every transaction in it is final.
#[derive(Clone)]
pub struct Deployment {
    pub client: ChainClient,
    /// The account that deployed, which is the admin.
    pub admin: NodeAddress,
    pub created: Inclusion,
}

/// The creation intent; `admin` manages the roles.
pub fn create_intent(admin: NodeAddress, parameters: &DeployParameters) -> Intent {
    let arguments = contract::constructorCall {
        admin_: admin.into(),
        epochSeconds_: parameters.epoch_seconds,
        window_: parameters.challenge_window,
        unbonding_: parameters.unbonding,
        maxEpochIncrease_: parameters.max_epoch_increase.0,
    };
    let data = Bytes::from([&contract::BYTECODE[..], &arguments.abi_encode()].concat());
    Intent { kind: IntentKind::Deploy, key: format!("deploy/{admin}"), call: TxCall { to: None, value: Wei(0), data } }
}

impl ChainClient {
    /// Lets an account submit epochs. The admin signs.
    pub fn grant_reporter_intent(&self, account: NodeAddress) -> Intent {
        self.grant_intent("REPORTER_ROLE", account)
    }

    /// Lets an account drop pending epochs. The admin signs.
    pub fn grant_guardian_intent(&self, account: NodeAddress) -> Intent {
        self.grant_intent("GUARDIAN_ROLE", account)
    }

    fn grant_intent(&self, role: &str, account: NodeAddress) -> Intent {
        let call = contract::grantRoleCall { role: keccak256(role), account: Address::from(account) };
        self.intent(IntentKind::GrantRole, format!("grant/{}/{role}/{account}", self.contract()), Wei(0), call)
    }
}

/// Runs one intent to finality with a key that nobody else uses meanwhile; a mined revert is [`ChainError::Refused`].
pub async fn execute(
    rpc: &dyn ChainRpc,
    chain_id: u64,
    key: &dyn Signer,
    intent: Intent,
    pace: Pace,
) -> Result<Inclusion, ChainError> {
    let nonces = NoncePool::new(key.address());
    let outbox = Outbox { rpc, key, nonces: &nonces, fees: FeePolicy::default() };
    let record = OutboxRecord::plan(intent, key.address(), chain_id);
    // Nothing survives a tool that a person stops; what it did is on chain.
    run_to_end(outbox, record, pace, |_| ()).await
}

/// Gas of one setup transaction, above what any of them takes on XDC.
const SETUP_GAS: u64 = 60_000;

/// What [`deploy`] would cost. The creation is estimated by the node; the transactions after it need its contract and are counted
/// with what they take at most.
pub async fn quote_deployment(
    rpc: &dyn ChainRpc,
    admin: NodeAddress,
    parameters: &DeployParameters,
) -> Result<Quote, ChainError> {
    let created = Quote::of(rpc, admin, &create_intent(admin, parameters)).await?;
    let roles = 1 + u64::from(parameters.guardian.is_some());
    let funding = u64::from(parameters.funding.0 > 0);
    Ok(created.and_later((roles + funding) * SETUP_GAS, parameters.funding))
}

/// Deploys with `key`, which becomes the admin, and sets up what `parameters` names.
pub async fn deploy(
    rpc: Arc<dyn ChainRpc>,
    chain_id: u64,
    key: &dyn Signer,
    parameters: DeployParameters,
    pace: Pace,
) -> Result<Deployment, ChainError> {
    let admin = key.address();
    let created = execute(rpc.as_ref(), chain_id, key, create_intent(admin, &parameters), pace).await?;
    let contract = created.contract.ok_or(ChainError::NoContractCode { contract: NodeAddress([0; 20]), chain_id })?;
    let client = ChainClient::checked(rpc, chain_id, contract).await?;
    let mut setup = vec![client.grant_reporter_intent(parameters.reporter)];
    setup.extend(parameters.guardian.map(|guardian| client.grant_guardian_intent(guardian)));
    if parameters.funding.0 > 0 {
        setup.push(client.fund_intent(parameters.funding, "deployment"));
    }
    for intent in setup {
        execute(client.rpc(), chain_id, key, intent, pace).await?;
    }
    Ok(Deployment { client, admin, created })
}
