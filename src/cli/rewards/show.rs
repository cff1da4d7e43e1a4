//! `kubectl grid rewards show [NODE]`.

use std::io::Write;

use kube::ResourceExt;
use serde::Serialize;

use super::{
    SourceOptions,
    entitlement::Entitlement,
    ledger::{self, NetworkLedger},
};
use crate::{
    api::{
        grid_node::GridNode,
        ids::{NodeAddress, Wei},
    },
    cli::{
        CliError, Exit,
        output::{self, Format, note},
        session::Session,
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid rewards show
  kubectl grid rewards show cpu-1 -o json
  # With an endpoint of your own instead of the network's
  kubectl grid rewards show --rpc-url https://erpc.apothem.network

Exit codes: 0 done, 1 error.")]
pub struct ShowArgs {
    /// GridNode, or the chain address of one (default: all).
    pub node: Option<String>,
    #[command(flatten)]
    pub source: SourceOptions,
    /// How to print it; amounts in `json` and `yaml` are in wei.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// One node on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RewardRow {
    /// Name of the GridNode; the address for a node that is not in this cluster.
    pub node: String,
    pub network: String,
    pub address: NodeAddress,
    pub earned_wei: Wei,
    pub pending_wei: Wei,
    pub claimed_wei: Wei,
    pub claimable_wei: Wei,
}

pub async fn run(session: &Session, args: &ShowArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let mut rows = Vec::new();
    for (ledger, nodes) in select(session, args.node.as_deref(), &args.source).await? {
        for (name, address) in nodes {
            let entitlement = ledger.entitlement(address).await?;
            rows.push(row(&ledger.name, name, address, entitlement));
        }
    }
    let names = || rows.iter().map(|row| row.node.clone()).collect();
    output::print(out, args.output, &rows, names, |out| {
        if rows.is_empty() {
            note(format_args!("nobody earned anything yet"));
            return Ok(());
        }
        let header = ["node", "network", "address", "earned", "pending", "claimed", "claimable"];
        output::table(out, &header, rows.iter().map(cells).collect())
    })?;
    Ok(Exit::Done)
}

fn row(network: &str, node: String, address: NodeAddress, found: Entitlement) -> RewardRow {
    RewardRow {
        node,
        network: network.into(),
        address,
        earned_wei: found.earned,
        pending_wei: found.pending,
        claimed_wei: found.claimed,
        claimable_wei: found.claimable(),
    }
}

fn cells(row: &RewardRow) -> Vec<String> {
    vec![
        row.node.clone(),
        row.network.clone(),
        row.address.to_string(),
        row.earned_wei.to_xdc(),
        row.pending_wei.to_xdc(),
        row.claimed_wei.to_xdc(),
        row.claimable_wei.to_xdc(),
    ]
}

/// Networks with the nodes on them that `wanted` means: a GridNode's name, an address, or everybody.
pub async fn select(
    session: &Session,
    wanted: Option<&str>,
    source: &SourceOptions,
) -> Result<Vec<(NetworkLedger, Vec<(String, NodeAddress)>)>, CliError> {
    let nodes = ledger::nodes(session).await?;
    let named = wanted.and_then(|name| nodes.iter().find(|node| node.name_any() == name));
    let address = match (wanted, named) {
        (Some(text), None) => Some(text.parse::<NodeAddress>().map_err(|_| {
            CliError::Other(format!(
                "there is no GridNode {text:?}, and it is no address (0x or xdc, then 40 hexadecimal digits)"
            ))
        })?),
        _ => None,
    };
    let network = named.map(|node| node.spec.network_ref.name.as_str()).or(source.network.as_deref());
    let mut selected = Vec::new();
    for network in ledger::networks(session, network).await? {
        let ledger = NetworkLedger::read(session, &network, source).await?;
        let wanted = match (named, address) {
            (Some(node), _) => vec![(node.name_any(), known_address(node)?)],
            (None, Some(address)) => vec![(name_of(&nodes, &ledger.name, address), address)],
            (None, None) => everybody(&nodes, &ledger),
        };
        selected.push((ledger, wanted));
    }
    if selected.is_empty() {
        return Err(CliError::Other("there is no GridNetwork: kubectl get gridnetworks".into()));
    }
    Ok(selected)
}

fn known_address(node: &GridNode) -> Result<NodeAddress, CliError> {
    ledger::address_of(node).ok_or_else(|| {
        CliError::Other(format!(
            "the GridNode {:?} has no key yet: kubectl describe gridnode {}",
            node.name_any(),
            node.name_any()
        ))
    })
}

/// The nodes of this cluster first, then earners from elsewhere.
fn everybody(nodes: &[GridNode], ledger: &NetworkLedger) -> Vec<(String, NodeAddress)> {
    let here = nodes.iter().filter(|node| node.spec.network_ref.name == ledger.name);
    let mut found: Vec<_> = here.filter_map(|node| Some((node.name_any(), ledger::address_of(node)?))).collect();
    let known: Vec<_> = found.iter().map(|(_, address)| *address).collect();
    found.extend(ledger.earners().into_iter().filter(|address| !known.contains(address)).map(|a| (a.to_string(), a)));
    found
}

fn name_of(nodes: &[GridNode], network: &str, address: NodeAddress) -> String {
    let found =
        nodes.iter().find(|node| node.spec.network_ref.name == network && ledger::address_of(node) == Some(address));
    found.map_or_else(|| address.to_string(), ResourceExt::name_any)
}
