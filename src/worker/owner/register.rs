//! `grid-worker register`: stakes for a node.

use std::{path::PathBuf, time::Instant};

use super::{NOTHING_SENT, Owner, OwnerError, OwnerOptions, receipt};
use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        At, ChainKey, Intent,
        registration::{NodeCapability, NodeConsent},
    },
    protocol::identity::NodeKey,
    verify::gemm::{self, GemmParams},
    worker::challenges::product,
};

/// Seconds that the node's consent is good for: long enough for a slow chain.
const CONSENT_SECONDS: u64 = 3600;

/// `grid-worker register`.
#[derive(Debug, Clone, clap::Args)]
pub struct RegisterOptions {
    #[command(flatten)]
    pub owner: OwnerOptions,
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

/// Registers the node, waits until that is final, and returns a sentence for the person who asked. A node that is registered
/// already is left as it is.
pub async fn register(options: RegisterOptions) -> Result<String, OwnerError> {
    let node_key = NodeKey::read(&options.key_file)?;
    let owner = Owner::open(&options.owner).await?;
    let node = node_key.address();
    if let Some(known) = owner.client.node(node, At::Latest).await? {
        let stake = known.stake.to_xdc();
        return Ok(format!(
            "node {node} is registered already by {} with {stake} XDC ({:?})",
            known.owner, known.status
        ));
    }
    let least = owner.client.parameters().await?.min_stake;
    if options.stake_xdc < least {
        return Err(OwnerError::Stake { stake: options.stake_xdc, least });
    }
    let computing_power = options.power.map_or_else(measure, Ok)?;
    let capability = NodeCapability { computing_power, storage_gib: options.storage_gib };
    let intent = intent(&options, &owner, &node_key, capability).await?;
    let stake = options.stake_xdc.to_xdc();
    let what = format!("registers node {node} with {computing_power} units and {} GiB", options.storage_gib);
    let Some(included) = owner.carry_out(&what, intent).await? else { return Ok(NOTHING_SENT.to_owned()) };
    Ok(format!(
        "node {node} registered with {stake} XDC, {computing_power} units, {} GiB {}",
        options.storage_gib,
        receipt(&included)
    ))
}

async fn intent(
    options: &RegisterOptions,
    owner: &Owner,
    node_key: &NodeKey,
    capability: NodeCapability,
) -> Result<Intent, OwnerError> {
    let (client, node) = (&owner.client, node_key.address());
    let consent = NodeConsent {
        node,
        payout: options.payout,
        owner: owner.key.address(),
        nonce: client.binding_nonce(node).await?,
        deadline: client.head().await?.timestamp.saturating_add(CONSENT_SECONDS),
    };
    let signer = ChainKey::from_bytes(&node_key.secret_bytes())?;
    let signature = consent.sign(&signer, client.chain_id(), client.contract())?;
    Ok(client.register_intent(&consent, signature, capability, options.stake_xdc))
}

/// Multiply-adds per millisecond in one compute challenge, answered for nobody.
fn measure() -> Result<u64, OwnerError> {
    let params = GemmParams::CPU;
    let started = Instant::now();
    gemm::prove(params, &[1; 32], &[2; 32], &product).map_err(|error| OwnerError::Measure(error.to_string()))?;
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
