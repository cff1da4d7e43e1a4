//! `kubectl grid why`: the chain of causes behind a job that waits, a node that gets no work, a pool that lacks nodes, a model that
//! nobody serves, and what to do about each. `facts` reads what the person may read; everything else is pure: objects in, a tree of causes out.

mod cause;
mod conditions;
mod facts;
mod group;
mod job;
mod model;
mod network;
mod node;
mod operator;
mod pod;
mod pool;
mod show;
mod target;
#[cfg(test)]
mod tests;

use std::io::Write;

use kube::Api;

use self::target::{Kind, Target};
use super::{
    CliError, Exit, lookup,
    output::{self, Format},
    session::{GridNamespace, Session},
};
use crate::api::{grid_model::GridModel, grid_network::GridNetwork, grid_node_pool::GridNodePool};

pub use cause::{Cause, Explanation, Verdict};
pub(super) use facts::{NODE_LABEL, is_owned_by};
pub(super) use pod::when;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  # Why does the job hello not run?
  kubectl grid why hello
  # Why does the node cpu-1 get no work?
  kubectl grid why gn/cpu-1
  # Which nodes of the pool gpus are not ready, and why?
  kubectl grid why gnp/gpus
  # The code of the most useful cause, for a script
  kubectl grid why hello -o name | head -1

Exit codes: 0 complete or ready, 1 failed for good (or an error), 2 not yet.")]
pub struct WhyArgs {
    /// Job or node, by name; with its kind where both have that name, or for others: ij/JOB, gn/NODE, gnp/POOL, gm/MODEL,
    /// gnet/NETWORK.
    #[arg(value_name = "JOB|NODE")]
    target: Target,
    #[command(flatten)]
    system: GridNamespace,
    /// How to print it; `name` gives the reason codes, the most useful first.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub async fn run(session: &Session, args: &WhyArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let explanation = explain(session, &args.target, &args.system.grid_namespace).await?;
    let names = || explanation.causes.iter().map(|cause| cause.reason.clone()).collect();
    output::print(out, args.output, &explanation, names, |out| show::print(&explanation, out))?;
    Ok(match explanation.verdict {
        Verdict::Done => Exit::Done,
        Verdict::Failed => Exit::Failed,
        Verdict::NotYet => Exit::NotYet,
    })
}

async fn explain(session: &Session, target: &Target, system: &str) -> Result<Explanation, CliError> {
    let name = &target.name;
    match target.kind {
        Some(Kind::Job) => {
            let job = lookup::job(session, name).await?;
            Ok(job::explain(&job, &facts::of_job(session, system, &job).await?))
        }
        Some(Kind::Node) => {
            let node = lookup::node(session, name).await?;
            Ok(node::explain(&node, &facts::of_node(session, system, &node).await?))
        }
        Some(Kind::Pool) => {
            let pool = pool_of_that_name(session, name, system).await?;
            Ok(pool::explain(&pool, &facts::of_pool(session, system, &pool).await?))
        }
        Some(Kind::Model) => {
            let models: Api<GridModel> = Api::all(session.client.clone());
            let model = lookup::get(&models, "GridModel", name, None).await?;
            Ok(model::explain(&model, &facts::of_grid(session, system).await?))
        }
        Some(Kind::Network) => {
            let networks: Api<GridNetwork> = Api::all(session.client.clone());
            let network = lookup::get(&networks, "GridNetwork", name, None).await?;
            Ok(network::explain(&network, &facts::of_grid(session, system).await?))
        }
        None => {
            let kind = guessed(session, name).await?;
            Box::pin(explain(session, &Target { kind: Some(kind), name: name.clone() }, system)).await
        }
    }
}

/// Where pools work, or where somebody made one that cannot.
async fn pool_of_that_name(session: &Session, name: &str, system: &str) -> Result<GridNodePool, CliError> {
    let there = |namespace: &str| Api::<GridNodePool>::namespaced(session.client.clone(), namespace);
    match there(&session.namespace).get_opt(name).await {
        Ok(Some(pool)) => Ok(pool),
        Ok(None) | Err(_) => lookup::get(&there(system), "GridNodePool", name, Some(system)).await,
    }
}

/// A job of that name in the namespace, else a node.
async fn guessed(session: &Session, name: &str) -> Result<Kind, CliError> {
    let job = match lookup::job(session, name).await {
        Ok(_) => return Ok(Kind::Job),
        Err(error) => error,
    };
    match (lookup::nodes(session).get_opt(name).await, job) {
        (Ok(Some(_)), _) => Ok(Kind::Node),
        (_, CliError::NotFound { name, place, guess, .. }) => {
            Err(CliError::NotFound { kind: "InferenceJob or GridNode", name, place, guess })
        }
        (_, error) => Err(error),
    }
}
