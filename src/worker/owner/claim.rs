//! `grid-worker claim`: what the node has earned, to its payout address. The leaves come from the chain itself, so no cluster and no
//! gateway is needed, and none is trusted.

use super::{NOTHING_SENT, NodeOptions, Owner, OwnerError, OwnerOptions, receipt};
use crate::{api::ids::Wei, chain::At};

/// `grid-worker claim`.
#[derive(Debug, Clone, clap::Args)]
pub struct ClaimOptions {
    #[command(flatten)]
    pub node: NodeOptions,
    #[command(flatten)]
    pub owner: OwnerOptions,
}

/// Claims what the live root grants the node and was not paid yet. Returns a sentence for the person who asked.
pub async fn claim(options: ClaimOptions) -> Result<String, OwnerError> {
    let node = options.node.address()?;
    let owner = Owner::open(&options.owner).await?;
    let chain = &owner.client;
    let proof = chain.live_tree().await?.and_then(|tree| tree.proof(node)).ok_or(OwnerError::NothingToClaim(node))?;
    let claimed = chain.claimed(node, At::Latest).await?;
    let due = Wei(proof.cumulative.0.saturating_sub(claimed.0));
    if due == Wei(0) {
        return Err(OwnerError::NothingToClaim(node));
    }
    let payout = chain.payout_of(node).await?;
    let what = format!("claims {} XDC for node {node}, paid to {payout}", due.to_xdc());
    let Some(included) = owner.carry_out(&what, chain.claim_intent(&proof)).await? else {
        return Ok(NOTHING_SENT.to_owned());
    };
    Ok(format!("{} XDC were paid to {payout} {}", due.to_xdc(), receipt(&included)))
}
