//! `grid-worker register`: the owner of a machine stakes for its node, from the machine itself. The only part of the worker
//! that talks to the chain; it needs the owner's key once and keeps nothing.

use std::{path::PathBuf, time::Instant};

use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        At, ChainClient, ChainError, ChainKey, FeePolicy, KeyError as ChainKeyError, NoncePool, Outbox, OutboxRecord,
        outbox::{Pace, run_to_end},
        registration::{NodeCapability, NodeConsent},
    },
    protocol::identity::{KeyError, NodeKey},
    verify::gemm::{self, GemmParams},
};

use super::challenges::product;

/// Seconds that the node's consent is good for: long enough for a slow chain.
const CONSENT_SECONDS: u64 = 3600;

/// `grid-worker register`.
#[derive(Debug, Clone, clap::Args)]
pub struct RegisterOptions {
    /// JSON-RPC endpoint of the chain. Repeatable: more than one guards against one that lies or lags.
    #[arg(long = "rpc-url", env = "GRID_RPC_URL", value_delimiter = ',', required = true)]
    pub rpc_urls: Vec<String>,
    /// Chain id of the network's chain: 50 is XDC, 51 is Apothem.
    #[arg(long, env = "GRID_CHAIN_ID")]
    pub chain_id: u64,
    /// Address of the network's GridComputingRewards contract.
    #[arg(long, env = "GRID_CONTRACT")]
    pub contract: NodeAddress,
    /// File with the owner's private key. It pays the stake and the fee, and gets the stake back.
    #[arg(long, env = "GRID_OWNER_KEY_FILE")]
    pub owner_key_file: PathBuf,
    /// File with the node's key, which signs its consent.
    #[arg(long, env = "GRID_KEY_FILE")]
    pub key_file: PathBuf,
    /// Stake in XDC: 1, or 2.5.
    #[arg(long, value_name = "XDC", value_parser = parse_xdc)]
    pub stake_xdc: Wei,
    /// Where rewards are paid.
    #[arg(long)]
    pub payout: NodeAddress,
    /// Computing power, in multiply-adds per millisecond of the compute challenge. Default: measured now.
    #[arg(long)]
    pub power: Option<u64>,
    /// Storage that this node offers, in GiB.
    #[arg(long, default_value_t = 1)]
    pub storage_gib: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    NodeKey(#[from] KeyError),
    #[error(transparent)]
    OwnerKey(#[from] ChainKeyError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("a stake of {} XDC is too small: this network asks for {} XDC", stake.to_xdc(), least.to_xdc())]
    Stake { stake: Wei, least: Wei },
    #[error("cannot measure this machine: {0}")]
    Measure(String),
}

/// Registers the node, waits until that is final, and returns a sentence for the person who asked. A node that is registered
/// already is left as it is.
pub async fn register(options: RegisterOptions) -> Result<String, RegisterError> {
    let node_key = NodeKey::read(&options.key_file)?;
    let owner_key = ChainKey::from_file(&options.owner_key_file)?;
    let node = node_key.address();
    let client = ChainClient::connect(&options.rpc_urls, options.chain_id, options.contract).await?;
    if let Some(known) = client.node(node, At::Latest).await? {
        let stake = known.stake.to_xdc();
        return Ok(format!(
            "node {node} is registered already by {} with {stake} XDC ({:?})",
            known.owner, known.status
        ));
    }
    let least = client.parameters().await?.min_stake;
    if options.stake_xdc < least {
        return Err(RegisterError::Stake { stake: options.stake_xdc, least });
    }
    let computing_power = options.power.map_or_else(measure, Ok)?;
    let capability = NodeCapability { computing_power, storage_gib: options.storage_gib };
    let consent = NodeConsent {
        node,
        payout: options.payout,
        owner: owner_key.address(),
        nonce: client.binding_nonce(node).await?,
        deadline: client.head().await?.timestamp.saturating_add(CONSENT_SECONDS),
    };
    let signer = ChainKey::from_bytes(&node_key.secret_bytes())?;
    let signature = consent.sign(&signer, options.chain_id, options.contract)?;
    let intent = client.register_intent(&consent, signature, capability, options.stake_xdc);
    let record = OutboxRecord::plan(intent, owner_key.address(), options.chain_id);
    let nonces = NoncePool::new(owner_key.address());
    let outbox = Outbox { rpc: client.rpc(), key: &owner_key, nonces: &nonces, fees: FeePolicy::default() };
    let included = run_to_end(outbox, record, Pace::default(), |_| {}).await?;
    Ok(format!(
        "node {node} registered with {} XDC, {computing_power} units, {} GiB in block {} (transaction {}, {} gas, fee {} XDC)",
        options.stake_xdc.to_xdc(),
        options.storage_gib,
        included.block_number,
        included.hash,
        included.gas_used,
        included.fee.to_xdc(),
    ))
}

/// Multiply-adds per millisecond in one compute challenge, answered for nobody.
fn measure() -> Result<u64, RegisterError> {
    let params = GemmParams::CPU;
    let started = Instant::now();
    gemm::prove(params, &[1; 32], &[2; 32], &product).map_err(|error| RegisterError::Measure(error.to_string()))?;
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok((params.ops() / milliseconds.max(1)).max(1))
}

/// XDC with up to 18 decimals.
fn parse_xdc(text: &str) -> Result<Wei, String> {
    let wrong = || format!("{text:?} is not an amount of XDC: write 1, or 2.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 18 {
        return Err(wrong());
    }
    format!("{whole}{fraction:0<18}").parse::<u128>().map(Wei).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_xdc_are_exact() {
        assert_eq!(parse_xdc("1"), Ok(Wei::XDC));
        assert_eq!(parse_xdc("2.5"), Ok(Wei(2_500_000_000_000_000_000)));
        assert_eq!(parse_xdc("0.000000000000000001"), Ok(Wei(1)));
        for bad in ["", ".5", "-1", "1e3", "1.0000000000000000001", "1 XDC", "99999999999999999999999999"] {
            assert!(parse_xdc(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_can_be_measured() {
        assert!(measure().unwrap() > 0);
    }
}
