//! `grid-worker unregister`: the way out, in two steps, as the contract has it.

use super::{NOTHING_SENT, NodeOptions, Owner, OwnerError, OwnerOptions, is_leaving, receipt};

/// `grid-worker unregister`.
#[derive(Debug, Clone, clap::Args)]
pub struct UnregisterOptions {
    #[command(flatten)]
    pub node: NodeOptions,
    #[command(flatten)]
    pub owner: OwnerOptions,
}

/// Starts the node's exit, or takes the stake back once its time is over. Returns a sentence for the person who asked.
pub async fn unregister(options: UnregisterOptions) -> Result<String, OwnerError> {
    let node = options.node.address()?;
    let owner = Owner::open(&options.owner).await?;
    let registration = owner.own(node).await?;
    let stake = registration.stake.to_xdc();
    let what = if is_leaving(&registration) {
        format!("takes the {stake} XDC of node {node} back")
    } else {
        format!("starts the exit of node {node} with its {stake} XDC")
    };
    let intent = owner.client.unregister_intent(node, &registration);
    let Some(included) = owner.carry_out(&what, intent).await? else { return Ok(NOTHING_SENT.to_owned()) };
    if is_leaving(&registration) {
        return Ok(format!("{stake} XDC of node {node} went back to {} {}", registration.owner, receipt(&included)));
    }
    let unbonding = owner.client.parameters().await?.unbonding;
    Ok(format!(
        "node {node} is leaving since {}; run this again in {unbonding} seconds to have the {stake} XDC back",
        receipt(&included)
    ))
}
