//! `kubectl grid nodes`.

use std::io::Write;

use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use super::full_name;
use crate::{
    api::{
        conditions,
        grid_node::{GridNode, NodeModeSpec, condition},
    },
    cli::{
        CliError, Exit, lookup,
        output::{self, Format, note},
        session::Session,
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid nodes
  kubectl grid nodes --network main -o json
  # Names alone, for a script
  kubectl grid nodes --network main -o name

Exit codes: 0 done, 1 error.")]
pub struct NodesArgs {
    /// Only the nodes of this GridNetwork.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// How to print them; `json` and `yaml` have everything that is known.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Columns of a node.
const HEADER: [&str; 11] =
    ["name", "ready", "reason", "mode", "tok/s", "audits", "evidence", "epoch", "tokens", "earned", "hardware"];

pub async fn run(session: &Session, args: &NodesArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let listed = lookup::nodes(session).list(&ListParams::default()).await;
    let listed = listed.map_err(|error| CliError::from_kube(error, "GridNode", "", None))?;
    let wanted = |node: &GridNode| args.network.as_ref().is_none_or(|name| node.spec.network_ref.name == *name);
    let nodes: Vec<GridNode> = listed.items.into_iter().filter(wanted).collect();
    let values: Vec<_> =
        nodes.iter().map(|node| json!({"name": node.name_any(), "spec": node.spec, "status": node.status})).collect();
    let names = || nodes.iter().map(|node| full_name(&node.name_any())).collect();
    output::print(out, args.output, &values, names, |out| {
        if nodes.is_empty() {
            note(format_args!("there are no nodes; docs/examples/node-managed-cpu.yaml is a start"));
            return Ok(());
        }
        output::table(out, &HEADER, nodes.iter().map(row).collect())
    })?;
    Ok(Exit::Done)
}

/// Name, whether it is ready, and why not: what every table of nodes begins with.
pub fn cells(node: &GridNode) -> Vec<String> {
    let conditions = node.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = conditions::find(conditions, condition::READY);
    vec![
        node.name_any(),
        ready.map(|condition| format!("{:?}", condition.status)).unwrap_or_else(|| "Unknown".into()),
        ready.map(|condition| condition.reason.clone()).unwrap_or_default(),
    ]
}

fn row(node: &GridNode) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let columns = status.columns.unwrap_or_default();
    let epoch = status.last_epoch.unwrap_or_default();
    let evidence = status.evidence.map(|evidence| evidence.log10_e).unwrap_or_default();
    let mode = match node.spec.mode {
        NodeModeSpec::Managed => "Managed",
        NodeModeSpec::External => "External",
    };
    let hardware = status.hardware.map(|hardware| format!("{} × {}", hardware.threads, hardware.processor));
    let mut row = cells(node);
    row.extend([
        mode.into(),
        columns.tokens_per_second.unwrap_or_default(),
        columns.score.unwrap_or_default(),
        evidence,
        epoch.epoch.to_string(),
        (epoch.prompt_tokens + epoch.output_tokens).to_string(),
        columns.earned.unwrap_or_default(),
        hardware.unwrap_or_default(),
    ]);
    row
}
