//! `kubectl grid nodes`: the nodes of the grid, with what was measured and verified.

use std::io::Write;

use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use super::{
    CliError, Exit,
    output::{self, Format},
    session::Session,
};
use crate::api::{
    conditions,
    grid_node::{GridNode, NodeModeSpec, condition},
};

#[derive(Debug, clap::Args)]
pub struct NodesArgs {
    /// Only the nodes of this GridNetwork.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// How to print them; `json` has everything that is known.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub async fn run(session: &Session, args: &NodesArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let nodes: Api<GridNode> = Api::all(session.client.clone());
    let listed = nodes.list(&ListParams::default()).await;
    let listed = listed.map_err(|error| CliError::from_kube(error, "GridNode", "", None))?;
    let wanted = |node: &GridNode| args.network.as_ref().is_none_or(|name| node.spec.network_ref.name == *name);
    let nodes: Vec<GridNode> = listed.items.into_iter().filter(wanted).collect();
    match args.output {
        Format::Json => {
            let nodes: Vec<_> = nodes
                .iter()
                .map(|node| json!({"name": node.name_any(), "spec": node.spec, "status": node.status}))
                .collect();
            output::json(out, &nodes)?;
        }
        Format::Table if nodes.is_empty() => {
            eprintln!("there are no nodes; docs/examples/node-managed-cpu.yaml is a start")
        }
        Format::Table => {
            let header = [
                "name", "ready", "reason", "mode", "tok/s", "audits", "evidence", "epoch", "tokens", "earned",
                "hardware",
            ];
            output::table(out, &header, nodes.iter().map(row).collect())?;
        }
    }
    Ok(Exit::Done)
}

fn row(node: &GridNode) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let ready = conditions::find(&status.conditions, condition::READY);
    let columns = status.columns.unwrap_or_default();
    let epoch = status.last_epoch.unwrap_or_default();
    let evidence = status.evidence.map(|evidence| evidence.log10_e).unwrap_or_default();
    let mode = match node.spec.mode {
        NodeModeSpec::Managed => "Managed",
        NodeModeSpec::External => "External",
    };
    vec![
        node.name_any(),
        ready.map(|condition| format!("{:?}", condition.status)).unwrap_or_else(|| "Unknown".into()),
        ready.map(|condition| condition.reason.clone()).unwrap_or_default(),
        mode.into(),
        columns.tokens_per_second.unwrap_or_default(),
        columns.score.unwrap_or_default(),
        evidence,
        epoch.epoch.to_string(),
        (epoch.prompt_tokens + epoch.output_tokens).to_string(),
        columns.earned.unwrap_or_default(),
        status
            .hardware
            .map(|hardware| format!("{} × {}", hardware.threads, output::printable(&hardware.processor)))
            .unwrap_or_default(),
    ]
}
