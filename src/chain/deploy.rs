//! Puts the contracts on a chain: create the three, bind the slashing, give the roles, fund. For tools that a person runs.

use std::sync::Arc;

use alloy::{
    primitives::{
        Address, Bytes,
        aliases::{U40, U96},
        keccak256,
    },
    sol_types::SolConstructor,
};
use futures::future::{try_join, try_join_all};

use super::{
    bindings::{GridComputingRewards as contract, GridJobEscrow, GridSlashing},
    client::ChainClient,
    error::ChainError,
    fees::{FeePolicy, intrinsic_gas},
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
    /// Who may do what.
    pub roles: Roles,
    /// The escrow and the slashing beside it.
    pub members: MemberParameters,
    /// Put into the reward pool at once; zero for nothing.
    pub funding: Wei,
}

/// Accounts by their roles. Reporter, slasher and arbiter must be three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Reports epochs.
    pub reporter: NodeAddress,
    /// May drop a pending epoch, and pause.
    pub guardian: Option<NodeAddress>,
    /// Proposes slashes.
    pub slasher: Option<NodeAddress>,
    /// Rules on challenges and appeals.
    pub arbiter: Option<NodeAddress>,
    /// Spends fees and slashed stakes.
    pub treasurer: Option<NodeAddress>,
    /// Settles paid jobs.
    pub settler: Option<NodeAddress>,
}

impl Roles {
    /// A reporter and nobody else.
    pub fn reporter(reporter: NodeAddress) -> Self {
        Roles { reporter, guardian: None, slasher: None, arbiter: None, treasurer: None, settler: None }
    }

    /// Names of the contract's roles with the accounts that get them.
    fn granted(&self) -> impl Iterator<Item = (&'static str, NodeAddress)> {
        [
            ("REPORTER_ROLE", Some(self.reporter)),
            ("GUARDIAN_ROLE", self.guardian),
            ("SLASHER_ROLE", self.slasher),
            ("ARBITER_ROLE", self.arbiter),
            ("TREASURER_ROLE", self.treasurer),
            ("SETTLER_ROLE", self.settler),
        ]
        .into_iter()
        .filter_map(|(role, account)| Some((role, account?)))
    }
}

/// What escrow and slashing are created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberParameters {
    /// Part of what jobs spend that the treasury keeps, in 1/10 000; at most 2 000.
    pub fee_bps: u16,
    /// Seconds in which an owner can appeal against a slash.
    pub appeal_seconds: u64,
    /// Seconds after that in which an arbiter can rule.
    pub ruling_seconds: u64,
    pub appeal_bond: Wei,
}

impl Default for MemberParameters {
    /// 5 %, three days to appeal, a week to rule, 10 XDC.
    fn default() -> Self {
        let day = 24 * 3600;
        let (appeal_seconds, ruling_seconds) = (3 * day, 7 * day);
        MemberParameters { fee_bps: 500, appeal_seconds, ruling_seconds, appeal_bond: Wei(10 * Wei::XDC.0) }
    }
}

/// The result; every transaction in it is final.
#[derive(Clone)]
pub struct Deployment {
    pub client: ChainClient,
    /// The account that deployed, which is the admin.
    pub admin: NodeAddress,
    pub created: Inclusion,
    /// Address of its GridJobEscrow.
    pub escrow: NodeAddress,
    /// Address of its GridSlashing.
    pub slashing: NodeAddress,
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
    creation("rewards", admin, data)
}

/// The intent that creates the escrow of the grid `grid`.
pub fn create_escrow_intent(admin: NodeAddress, grid: NodeAddress, parameters: &MemberParameters) -> Intent {
    let arguments = GridJobEscrow::constructorCall { rewards_: grid.into(), feeBps_: parameters.fee_bps };
    creation("escrow", admin, [&GridJobEscrow::BYTECODE[..], &arguments.abi_encode()].concat().into())
}

/// The intent that creates the slashing of the grid `grid`. The contract checks the bounds; what does not fit into its types is
/// cut to their greatest value, which it refuses.
pub fn create_slashing_intent(admin: NodeAddress, grid: NodeAddress, parameters: &MemberParameters) -> Intent {
    let arguments = GridSlashing::constructorCall {
        rewards_: grid.into(),
        appealTime_: U40::saturating_from(parameters.appeal_seconds),
        rulingTime_: U40::saturating_from(parameters.ruling_seconds),
        appealBond_: U96::saturating_from(parameters.appeal_bond.0),
    };
    creation("slashing", admin, [&GridSlashing::BYTECODE[..], &arguments.abi_encode()].concat().into())
}

fn creation(what: &str, admin: NodeAddress, data: Bytes) -> Intent {
    let call = TxCall { to: None, value: Wei(0), data };
    Intent { kind: IntentKind::Deploy, key: format!("deploy/{what}/{admin}"), call }
}

impl ChainClient {
    /// Gives an account a role, by its name. The admin signs.
    pub fn grant_intent(&self, role: &str, account: NodeAddress) -> Intent {
        let call = contract::grantRoleCall { role: keccak256(role), account: Address::from(account) };
        self.intent(IntentKind::GrantRole, format!("grant/{}/{role}/{account}", self.contract()), Wei(0), call)
    }

    /// Names the one GridSlashing that may freeze stakes. The admin signs, once.
    pub fn bind_slashing_intent(&self, slashing: NodeAddress) -> Intent {
        let call = contract::bindSlashingCall { slashing: slashing.into() };
        self.intent(IntentKind::BindSlashing, format!("bind/{}/{slashing}", self.contract()), Wei(0), call)
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
const SETUP_GAS: u64 = 80_000;
/// What a chain takes for each byte of code that stays there.
const CODE_BYTE_GAS: u64 = 200;

/// What [`deploy`] would cost. The first creation is estimated by the node; what comes after needs its contract and is counted with
/// what it takes at most.
pub async fn quote_deployment(
    rpc: &dyn ChainRpc,
    admin: NodeAddress,
    parameters: &DeployParameters,
) -> Result<Quote, ChainError> {
    let created = Quote::of(rpc, admin, &create_intent(admin, parameters)).await?;
    let member = |intent: &Intent| {
        let data = &intent.call.data;
        intrinsic_gas(data, true) + CODE_BYTE_GAS * data.len() as u64
    };
    let members = member(&create_escrow_intent(admin, admin, &parameters.members))
        + member(&create_slashing_intent(admin, admin, &parameters.members));
    let setup = 1 + parameters.roles.granted().count() as u64 + u64::from(parameters.funding.0 > 0);
    Ok(created.and_later(members + setup * SETUP_GAS, parameters.funding))
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
    let nonces = NoncePool::new(admin);
    let outbox = Outbox { rpc: rpc.as_ref(), key, nonces: &nonces, fees: FeePolicy::default() };
    let run = |intent| run_to_end(outbox, OutboxRecord::plan(intent, admin, chain_id), pace, |_| ());
    let created = run(create_intent(admin, &parameters)).await?;
    let contract = address_of(&created, chain_id)?;
    // What does not need one another is on its way at the same time, and waits for finality together.
    let (escrow, slashing) = try_join(
        run(create_escrow_intent(admin, contract, &parameters.members)),
        run(create_slashing_intent(admin, contract, &parameters.members)),
    )
    .await?;
    let (escrow, slashing) = (address_of(&escrow, chain_id)?, address_of(&slashing, chain_id)?);
    let client = ChainClient::checked(Arc::clone(&rpc), chain_id, contract).await?;
    let mut setup = vec![client.bind_slashing_intent(slashing)];
    setup.extend(parameters.roles.granted().map(|(role, account)| client.grant_intent(role, account)));
    if parameters.funding.0 > 0 {
        setup.push(client.fund_intent(parameters.funding, "deployment"));
    }
    try_join_all(setup.into_iter().map(run)).await?;
    Ok(Deployment { client, admin, created, escrow, slashing })
}

fn address_of(created: &Inclusion, chain_id: u64) -> Result<NodeAddress, ChainError> {
    created.contract.ok_or(ChainError::NoContractCode { contract: NodeAddress([0; 20]), chain_id })
}
